use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::common::{self, Dir};
use crate::lvm::samples::{Sample, sample};

fn overwrite(image: &Path, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(image).expect("open");
    file.write_all_at(bytes, at).expect("write");
}

/// Lists and exports, both of which must fail.
#[track_caller]
fn refusal(sample: &Sample) -> String {
    let listed = sample.lvm("list", &[]).failed();
    let out = sample.dir.path("out").display().to_string();
    let exported = sample.lvm("export", &["vg0/snap", &out]).failed();
    assert_eq!(listed, exported);
    let checked = sample.lvm("check", &[]);
    assert_eq!(checked.status, 3, "{}{}", checked.stdout, checked.stderr);
    listed
}

#[test]
fn what_is_no_physical_volume_says_so() {
    let dir = Dir::new();
    for (name, content) in [("empty", vec![]), ("zeroes", vec![0; 1 << 20]), ("text", b"no".into())]
    {
        let image = dir.file(name, &content);
        let refused = dmsnap!("lvm", "list", image).failed();
        assert!(refused.contains("no LVM physical volume, and no partition table"), "{refused}");
    }
    let refused = dmsnap!("lvm", "list", dir.path("missing")).failed();
    assert!(refused.contains("No such file"), "{refused}");
}

#[test]
fn a_damaged_label_area_or_text_is_told_by_its_place() {
    let damage = |at: u64, bytes: &[u8]| {
        let sample = sample("one-pv");
        overwrite(&sample.images[0], at, bytes);
        refusal(&sample)
    };
    let label = damage(512 + 40, b"x");
    assert!(label.contains("a.img: the label in sector 1 is damaged: checksum"), "{label}");
    let area = damage(4096 + 30, b"xx");
    assert!(area.contains("a.img: the metadata area's header is damaged: checksum"), "{area}");
    let vg = fs::read(crate::lvm::samples::folder().join("one-pv.vg")).expect("read");
    let image = fs::read(&sample("one-pv").images[0]).expect("read");
    let first = &vg[..64];
    let live = image.windows(64).rposition(|window| window == first).expect("the live text");
    let text = damage(live as u64 + 30, b"x");
    assert!(text.contains("a.img: the metadata text is damaged: checksum"), "{text}");
}

#[test]
fn a_damaged_copy_is_told_and_the_other_one_used() {
    let sample = sample("two-areas");
    overwrite(&sample.images[0], 4096 + 30, b"xx");
    let ran = sample.lvm("list", &[]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let told = common::one_line(&ran.stderr);
    assert!(told.starts_with("dmsnap: warning: volume group vg0: a metadata area of PV"), "{told}");
    assert!(ran.stdout.contains("snap"), "{}", ran.stdout);
    assert_eq!(sample.lvm("check", &[]).status, 1);
    // LVM would bring the damaged one up to date; here somebody has to look at it first.
    let refused = sample.lvm("merge", &["vg0/snap"]);
    assert_eq!(refused.status, 3);
    assert!(refused.stderr.contains("the volume group is not whole"), "{}", refused.stderr);
}

/// As a merge leaves it that is cut off between the headers of two areas. LVM says the same.
#[test]
fn an_area_with_an_old_text_is_told_and_whoever_brings_it_up_to_date() {
    let sample = sample("two-areas");
    let before = fs::read(&sample.images[0]).expect("read");
    sample.lvm("merge", &["vg0/snap"]).ok();
    let second_area = before.len() - (1 << 20);
    overwrite(&sample.images[0], second_area as u64, &before[second_area..]);
    let checked = sample.lvm("check", &[]);
    assert_eq!((checked.status, checked.stdout.as_str()), (1, ""));
    assert_eq!(
        common::one_line(&checked.stderr),
        "dmsnap: warning: volume group vg0: a metadata area of PV pv0 has an old text: seqno 4, the \
         newest is 6; `vgck --updatemetadata` brings it up to date"
    );
    let listed = sample.lvm("list", &[]);
    assert!(listed.status == 0 && !listed.stdout.contains("snap"), "{}", listed.stdout);
    let again = sample.lvm("merge", &["vg0/snap"]);
    assert!(again.stderr.contains("found no volume vg0/snap; there is root"), "{}", again.stderr);
}

#[test]
fn a_disk_that_was_not_given_is_missed_by_name() {
    let sample = sample("two-pvs");
    let ran = dmsnap!("lvm", "list", sample.images[0]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("(last seen as /dev/ubdb) is on none of the disks"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.contains("home") && ran.stdout.contains("unknown"), "{}", ran.stdout);
    let ran = dmsnap!("lvm", "export", sample.images[0], "data/before", sample.dir.path("out"));
    assert_eq!((ran.status, ran.stdout.as_str()), (3, ""));
    assert!(ran.stderr.contains("cannot be read: PV"), "{}", ran.stderr);
    assert!(!sample.dir.path("out").exists());
}

#[test]
fn an_image_that_was_cut_short_is_told_before_anything_is_made() {
    let sample = sample("one-pv");
    let image = OpenOptions::new().write(true).open(&sample.images[0]).expect("open");
    image.set_len(3 << 20).expect("cut");
    let out = sample.dir.path("out");
    let ran = sample.lvm("export", &["vg0/snap", &out.to_string_lossy()]);
    assert_eq!((ran.status, ran.stdout.as_str()), (3, ""));
    assert!(ran.stderr.contains("has 3145728 bytes, and needs"), "{}", ran.stderr);
    assert!(!out.exists());
}

#[test]
fn a_disk_that_is_there_twice_is_refused() {
    let sample = sample("one-pv");
    let image = &sample.images[0];
    let refused = dmsnap!("lvm", "list", image, image).failed();
    assert!(refused.contains("the same file or device as"), "{refused}");
    let copy = sample.dir.path("copy.img");
    fs::copy(image, &copy).expect("copy");
    let ran = dmsnap!("lvm", "export", image, copy, "vg0/snap", sample.dir.path("out"));
    assert_eq!((ran.status, ran.stdout.as_str()), (3, ""));
    assert!(ran.stderr.contains("is there 2 times"), "{}", ran.stderr);
}

#[test]
fn a_volume_of_a_type_that_is_only_named_is_refused() {
    let sample = sample("others");
    for (volume, kind) in [("safe", "raid1"), ("thin", "thin"), ("pool", "thin-pool")] {
        let refused = dmsnap!("info", sample.address(volume)).failed();
        assert!(
            refused.contains(&format!("is of type {kind}, which is not supported")),
            "{refused}"
        );
    }
}

#[test]
fn a_damaged_store_is_a_finding_of_the_groups_check() {
    let sample = sample("several");
    let sound = sample.lvm("check", &[]).ok();
    assert_eq!(sound.matches("sound\n").count(), 3, "{sound}");
    assert!(sound.contains("vg0/monday:\n"), "{sound}");
    // The first slot of the COW device, after its header of a chunk, leads nowhere.
    overwrite(&sample.images[0], (1 << 20) + 24 * 65536 + 4096 + 8, &[0xff; 7]);
    let ran = sample.lvm("check", &[]);
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
    assert!(ran.stdout.contains("vg0/monday:\ndamage: "), "{}", ran.stdout);
    assert_eq!(sample.lvm("check", &["vg0/monday"]).status, 1);
    assert_eq!(sample.lvm("check", &["vg0/tuesday"]).ok(), "sound\n");
}

#[test]
fn a_volume_that_cannot_be_read_keeps_no_other_from_being_checked() {
    let sample = sample("two-pvs");
    let ran = dmsnap!("lvm", "check", sample.images[0]);
    assert_eq!((ran.status, &*ran.stdout), (3, "data/before:\n"), "a disk is missing");
    assert!(ran.stderr.contains("data/before could not be checked"), "{}", ran.stderr);
    let several = crate::lvm::samples::sample("several");
    // The extents of wednesday are the last ones.
    let image = OpenOptions::new().write(true).open(&several.images[0]).expect("open");
    image.set_len(image.metadata().expect("stat").len() - (64 << 10)).expect("cut");
    let ran = several.lvm("check", &[]);
    assert!(ran.status != 0 && ran.stdout.matches("sound\n").count() >= 2, "{}", ran.stdout);
}

/// LVM warns, and activates what is there.
#[test]
fn what_is_there_of_a_disk_that_was_cut_short_is_read_and_never_written() {
    let sample = sample("one-pv");
    let image = OpenOptions::new().write(true).open(&sample.images[0]).expect("open");
    image.set_len((1 << 20) + 56 * 65536).expect("cut");
    drop(image);
    let out = sample.dir.path("out");
    let ran = sample.lvm("export", &["vg0/snap", &out.to_string_lossy()]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stderr.lines().all(|line| line.contains("and needs 6291456")), "{}", ran.stderr);
    let hash = crate::lvm::samples::sha256(&fs::read(out).expect("read"));
    assert_eq!(hash, sample.says["content"]["snap"]["sha256"]);
    let before = fs::read(&sample.images[0]).expect("read");
    for options in [&["--dry-run"][..], &[], &["--no-metadata"], &["--no-metadata", "--dry-run"]] {
        let refused = sample.lvm("merge", &[options, &["vg0/snap"]].concat());
        assert_eq!((refused.status, &*refused.stdout), (3, ""), "{options:?}");
        assert!(refused.stderr.contains("vg0/snap: cannot be written to"), "{}", refused.stderr);
        assert!(refused.stderr.contains("give the whole disk"), "{}", refused.stderr);
    }
    let refused = dmsnap!("merge", sample.address("snap"));
    assert_eq!(refused.status, 3);
    assert!(fs::read(&sample.images[0]).expect("read") == before, "something was written");
    assert!(sample.lvm("check", &[]).stdout.contains("sound"));
}
