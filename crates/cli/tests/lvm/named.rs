use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{self, one_line};
use crate::lvm::samples::{sample, sha256, text};

#[test]
fn a_name_that_stands_for_nothing_says_what_there_is() {
    let several = sample("several");
    let image = several.images[0].display().to_string();
    let refusal = |name: &str| dmsnap!("info", format!("lvm:{image}:{name}")).failed();
    assert!(refusal("vg1/root").contains("found no volume group vg1; there is vg0"));
    assert!(
        refusal("vg0/friday")
            .contains("found no volume vg0/friday; there is root, monday, tuesday, wednesday")
    );
    assert!(refusal("snapshot0").contains("found no volume snapshot0"), "hidden ones are none");
    let out = several.dir.path("out");
    let refused = several.lvm("export", &["vg0/root", &out.to_string_lossy()]).failed();
    assert!(
        refused.contains("is not a snapshot; name its origin as well, or a snapshot"),
        "{refused}"
    );
    let refused = several.lvm("merge", &["vg0/root"]).failed();
    assert!(refused.contains("vg0/root: is not a snapshot; there is monday, tuesday"), "{refused}");
}

#[test]
fn an_address_that_names_no_volume_is_a_wrong_command_line() {
    for wrong in ["lvm:", "lvm:disk.img", "lvm:disk.img:", "lvm:disk.img:vg/", "lvm::vg/lv"] {
        let ran = dmsnap!("info", wrong);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{wrong}");
        assert!(ran.stderr.contains("lvm:IMAGE[,IMAGE]...:VG/LV"), "{wrong}: {}", ran.stderr);
    }
}

/// Both have a vg0 with a root and a snap.
#[test]
fn a_name_that_may_be_two_volumes_says_which() {
    let (one, other) = (sample("one-pv"), sample("gpt"));
    let images = format!("{},{}", one.images[0].display(), other.images[0].display());
    let refused = dmsnap!("info", format!("lvm:{images}:vg0/snap")).failed();
    let advice = "name the group by its uuid, as here, or give only the images of one";
    assert!(refused.ends_with(advice), "{refused}");
    let listed = dmsnap!("lvm", "list", one.images[0], other.images[0]);
    assert_eq!(listed.status, 0);
    for sample in [&one, &other] {
        let id = text(&sample.says["vgs"][0]["vg_uuid"]);
        let image = sample.images[0].display();
        assert!(refused.contains(&format!("{id}/snap on {image}")), "{refused}");
        assert!(listed.stderr.contains(&format!("a volume of this one is {id}/LV")));
        let volume = format!("{id}/snap");
        assert!(dmsnap!("info", format!("lvm:{images}:{volume}")).ok().contains("valid"));
        let out = one.dir.path("out");
        dmsnap!("lvm", "export", one.images[0], other.images[0], volume, out).ok();
        let hash = sha256(&fs::read(&out).expect("read"));
        assert_eq!(hash, text(&sample.says["content"]["snap"]["sha256"]));
        fs::remove_file(out).expect("clean up");
    }
    let checked = dmsnap!("lvm", "check", one.images[0], other.images[0]).ok();
    assert_eq!(checked.matches("sound\n").count(), 2, "{checked}");
    let names = sample("names");
    let images = format!("{},{}", one.images[0].display(), names.images[0].display());
    let volume = format!("lvm:{images}:snap");
    assert!(dmsnap!("info", volume).ok().contains("valid"), "only one group has such a volume");
    let striped = sample("two-areas");
    let images = format!("{},{}", images, striped.images[0].display());
    let listed = dmsnap!("lvm", "list", one.images[0], names.images[0]).ok();
    assert!(listed.contains("vg0") && listed.contains("vg-1.old_+x"), "{listed}");
    dmsnap!("info", format!("lvm:{images}:vg0/snap")).failed();
}

#[test]
fn a_volume_of_two_groups_is_asked_for_by_its_group() {
    let (one, other) = (sample("one-pv"), sample("full"));
    rename_group(&other.images[0]);
    let images = format!("{},{}", one.images[0].display(), other.images[0].display());
    let info = |name: &str| dmsnap!("info", format!("lvm:{images}:{name}"));
    let refused = info("snap").failed();
    assert!(
        refused.ends_with("snap may be vg0/snap or vg1/snap; name the group as well"),
        "{refused}"
    );
    assert!(info("vg0/snap").ok().contains("yes"), "it is valid");
    assert!(info("vg1/snap").ok().contains("Invalid"), "it ran full");
    assert!(info("good").ok().contains("yes"), "only one group has it");
    let listed = dmsnap!("lvm", "list", one.images[0], other.images[0]).ok();
    assert_eq!(listed.lines().filter(|line| line.starts_with("snap ")).count(), 2, "{listed}");
}

/// Makes vg0 another one of the same length, in the only metadata area of a disk without partitions.
fn rename_group(image: &Path) {
    const AREA: usize = 4096;
    let mut bytes = fs::read(image).expect("read");
    let place = |bytes: &[u8], at: usize| {
        let number = bytes[AREA + at..AREA + at + 8].try_into().expect("eight bytes");
        usize::try_from(u64::from_le_bytes(number)).expect("small")
    };
    let begin = AREA + place(&bytes, 40);
    let text = begin..begin + place(&bytes, 48);
    let renamed: Vec<_> = (text.clone()).filter(|at| bytes[*at..].starts_with(b"vg0")).collect();
    renamed.into_iter().for_each(|at| bytes[at..at + 3].copy_from_slice(b"vg1"));
    let sum = checksum(&bytes[text]).to_le_bytes();
    bytes[AREA + 56..AREA + 60].copy_from_slice(&sum);
    let sum = checksum(&bytes[AREA + 4..AREA + 512]).to_le_bytes();
    bytes[AREA..AREA + 4].copy_from_slice(&sum);
    fs::write(image, bytes).expect("written");
}

/// As docs/lvm.md describes it.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let bit = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
    let byte = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), |sum, _| bit(sum));
    bytes.iter().fold(0xf597_a6cf, byte)
}

#[test]
fn what_would_write_to_what_is_read_is_refused() {
    let sample = sample("several");
    let image = sample.images[0].display().to_string();
    let (monday, root) = (sample.address("monday"), sample.address("root"));
    let before = fs::read(&image).expect("read");
    let refused = dmsnap!("export", "--force", monday, image).failed();
    assert!(refused.contains("lies in the same file or device as lvm:"), "{refused}");
    let refused = dmsnap!("export", monday, sample.address("tuesday"), "out").failed();
    assert!(refused.contains("is a snapshot of root; name its origin"), "{refused}");
    let refused = dmsnap!("export", monday, monday, "out").failed();
    assert!(refused.contains("the same volume as"), "{refused}");
    let refused = dmsnap!("export", monday, root, root).failed();
    assert!(refused.contains("an export does not write to volume groups"), "{refused}");
    let refused = dmsnap!("create", monday).failed();
    assert!(refused.contains("no store is made in a volume group"), "{refused}");
    let store = sample.dir.file("store", &common::store(&common::OLD, 64));
    let refused = dmsnap!("merge", store, root).failed();
    assert!(refused.contains("has the snapshot monday, which must not change"), "{refused}");
    let file = sample.dir.file("file", &[0; 1 << 20]);
    let refused = dmsnap!("merge", monday, file).failed();
    assert!(refused.contains("is a snapshot of lvm:"), "{refused}");
    let refused = dmsnap!("merge", store, file, "--no-metadata").failed();
    assert!(refused.contains("is not a snapshot in a volume group"), "{refused}");
    assert!(fs::read(&image).expect("read") == before, "something was written");
}

#[test]
fn an_image_that_somebody_has_locked_is_in_use() {
    let sample = sample("one-pv");
    let lock = fs::File::open(&sample.images[0]).expect("open");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("lock");
    for rest in [&["vg0/snap"][..], &["vg0/snap", "--no-metadata"]] {
        let refused = sample.lvm("merge", rest).failed();
        assert!(refused.contains("in use by another process"), "{refused}");
    }
    let listed = sample.lvm("list", &[]).ok();
    assert!(listed.contains("snap"), "a look is always free");
}

/// A lock would not tell: the kernel takes none.
#[test]
fn an_image_on_a_loop_device_is_in_use() {
    let sample = sample("one-pv");
    let losetup = |args: &[&str]| Command::new("losetup").args(args).output();
    let image = sample.images[0].display().to_string();
    let node = match losetup(&["--find", "--show", "--read-only", &image]) {
        Ok(made) if made.status.success() => String::from_utf8(made.stdout).expect("text"),
        _ => return eprintln!("SKIPPED: no loop devices here"),
    };
    let node = node.trim_end();
    let refused = sample.lvm("merge", &["vg0/snap"]);
    let dry = sample.lvm("merge", &["--dry-run", "vg0/snap"]);
    let read = sample.lvm("list", &[]);
    let on_loop = dmsnap!("lvm", "list", node);
    losetup(&["--detach", node]).expect("losetup runs");
    assert_eq!((refused.status, dry.status), (3, 3));
    let refused = one_line(&refused.stderr);
    assert_eq!(one_line(&dry.stderr), refused);
    assert!(refused.contains(&format!("in use: {node} is attached to it")), "{refused}");
    assert!(read.ok().contains("snap") && on_loop.ok().contains("snap"));
    sample.lvm("merge", &["vg0/snap"]).ok();
}

/// As every LVM command takes them.
#[test]
fn a_volume_may_be_named_by_the_node_that_it_would_have() {
    let one = sample("one-pv");
    let names = sample("names");
    let of_names = names.volume("snap-2026.11_01+a");
    let node = |volume: &str| {
        let (group, volume) = volume.split_once('/').expect("VG/LV");
        let double = |name: &str| name.replace('-', "--");
        format!("/dev/mapper/{}-{}", double(group), double(volume))
    };
    for (sample, volume) in [(&one, one.volume("snap")), (&names, of_names)] {
        for name in [node(&volume), format!("/dev/{volume}")] {
            let address = format!("lvm:{}:{name}", sample.images[0].display());
            assert!(dmsnap!("info", address).ok().contains("valid"), "{name}");
            assert_eq!(sample.lvm("check", &[&name]).ok(), "sound\n", "{name}");
        }
        sample.lvm("merge", &["--dry-run", &node(&volume)]).ok();
    }
}

#[test]
fn an_image_may_have_any_bytes_and_commas_in_its_name() {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let sample = sample("two-pvs");
    let copy = |name: &[u8], from: usize| {
        let to = sample.dir.path("").join(std::ffi::OsStr::from_bytes(name));
        fs::copy(&sample.images[from], &to).expect("copied");
        to.into_os_string().into_vec()
    };
    let images = [copy(b"d\xff.img", 0), copy(b"b, 2.img", 1)];
    let doubled = String::from_utf8(images[1].clone()).expect("text").replace(',', ",,");
    let address = [b"lvm:", &images[0][..], b",", doubled.as_bytes(), b":data/before"].concat();
    let address = std::ffi::OsString::from_vec(address);
    assert!(dmsnap!("info", address).ok().contains("valid"));
    let out = sample.dir.path("out");
    dmsnap!("export", address, out).ok();
    let hash = sha256(&fs::read(out).expect("read"));
    assert_eq!(hash, text(&sample.says["content"]["before"]["sha256"]));
}

/// Somebody gives all disks of a machine.
#[test]
fn an_image_without_a_physical_volume_is_told_and_passed_over() {
    let sample = sample("one-pv");
    let other = sample.dir.file("data.img", &[0; 1 << 20]);
    for images in [[&sample.images[0], &other], [&other, &sample.images[0]]] {
        for rest in [&["list"][..], &["check"]] {
            let ran = dmsnap!("lvm", rest[0], images[0], images[1]);
            assert_eq!(ran.status, 0, "{}", ran.stderr);
            let expected = "data.img: no LVM physical volume, and no partition table";
            let told =
                |line: &str| line.starts_with("dmsnap: warning: ") && line.ends_with(expected);
            assert!(ran.stderr.lines().all(told) && !ran.stderr.is_empty(), "{}", ran.stderr);
        }
    }
    let out = sample.dir.path("out");
    assert_eq!(dmsnap!("lvm", "export", sample.images[0], other, "vg0/snap", out).status, 0);
    let hash = sha256(&fs::read(out).expect("read"));
    assert_eq!(hash, text(&sample.says["content"]["snap"]["sha256"]));
}
