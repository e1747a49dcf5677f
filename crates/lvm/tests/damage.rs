//! Damaged and hostile disks: clear errors, no panic, nothing unbounded.

use crate::common::{
    apply, assemble, group, indices, sample, samples, scan, stamp, text, text_names,
};
use dmsnap_lvm::{
    DiskScan, Fault, FindError, GroupError, Groups, Label, LabelError, MapError, SyntaxFault,
    VolumeGroup,
};
use proptest::prelude::*;

/// Everything a reader does, on whatever it finds.
fn read(images: &[Vec<u8>]) -> Groups {
    let disks: Vec<_> = images.iter().map(|image| scan(image)).collect();
    let groups = Groups::assemble(&disks);
    for group in &groups.groups {
        exercise(&group.vg);
        for lv in &group.vg.lvs {
            let Ok(mapping) = group.mapping(&lv.name) else { continue };
            // Nothing leads out of a disk.
            for piece in mapping.pieces().take(100_000) {
                let place = group.places[piece.pv].expect("it is there");
                assert!(piece.start + piece.len <= place.place.len);
                let end = place.place.start + place.place.len;
                assert!(end <= images[place.disk].len() as u64);
            }
        }
        for snapshot in group.vg.snapshots() {
            let mut images = images.to_owned();
            if let Ok(rewrite) = group.finish_merge(&snapshot.name, &stamp()) {
                apply(&mut images, &rewrite.steps);
                let after = assemble(&images);
                assert!(after.groups.iter().any(|after| after.text == rewrite.text));
            }
        }
    }
    groups
}

fn exercise(vg: &VolumeGroup) {
    for lv in &vg.lvs {
        let told = (vg.lv_attr(lv, Default::default(), true), vg.lv_layout(lv), vg.lv_role(lv));
        assert_eq!(told.0.chars().count(), 10);
        let _ = (vg.size_bytes(lv), vg.is_visible(lv), vg.free_extents());
        if let Ok(mapping) = vg.mapping(&lv.name) {
            let sum = mapping.pieces().take(100_000).map(|piece| piece.len).sum::<u64>();
            assert!(sum <= mapping.len_bytes());
        }
    }
}

/// Where something lies on the disks of the samples, that is worth to be damaged.
fn front() -> impl Strategy<Value = usize> {
    prop_oneof![0..2048_usize, 4096..4608_usize, 4608..20_000_usize]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_to_a_disk_is_survived(
        name in prop::sample::select(vec!["one-pv", "gpt", "mbr", "two-areas", "wrapped"]),
        damage in prop::collection::vec((front(), any::<u8>()), 1..6),
    ) {
        let mut images = sample(name).images();
        for (at, byte) in damage {
            images[0][at] = byte;
        }
        read(&images);
    }

    /// The checksums fit: only sense is left to protect the reader.
    #[test]
    fn any_sound_looking_label_and_header_is_survived(
        damage in prop::collection::vec((0..600_usize, any::<u8>()), 1..8),
    ) {
        let mut images = sample("one-pv").images();
        for (at, byte) in damage {
            // Of the label after its checksum, or of the header after its.
            images[0][if at < 88 { 4100 + at } else { 520 + at - 88 }] = byte;
        }
        reseal(&mut images[0]);
        read(&images);
    }

    #[test]
    fn any_damage_to_a_text_is_survived(
        name in prop::sample::select(text_names()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut text = text(&name);
        for (at, byte) in damage {
            let at = at.index(text.len());
            text[at] = byte;
        }
        if let Ok(vg) = VolumeGroup::parse(&text) {
            exercise(&vg);
        }
    }

    /// Words of the language in any order.
    #[test]
    fn any_words_are_survived(words in prop::collection::vec(word(), 0..200)) {
        if let Ok(vg) = VolumeGroup::parse(words.concat().as_bytes()) {
            exercise(&vg);
        }
    }

    /// Numbers, names and types of a real text changed for others: it still parses.
    #[test]
    fn any_contradiction_is_survived(
        name in prop::sample::select(text_names()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let text = String::from_utf8(text(&name)).expect("it is text");
        let mut words: Vec<_> = text.split_inclusive([' ', '\n', '"']).map(str::to_owned).collect();
        for (at, choice) in changes {
            let at = at.index(words.len());
            let other = words[usize::from(choice) * 7 % words.len()].clone();
            words[at] = if choice % 3 == 0 { format!("{}\n", i64::MAX) } else { other };
        }
        if let Ok(vg) = VolumeGroup::parse(words.concat().as_bytes()) {
            exercise(&vg);
        }
    }
}

fn word() -> impl Strategy<Value = String> {
    const SIGNS: &[&str] =
        &["{", "}", "[", "]", "=", ",", "\"", "\\", "#", "\n", " ", "'", "-", ".", "\0"];
    const LINES: &[&str] = &[
        "contents = \"Text Format Volume Group\"\n",
        "version = 1\n",
        "vg {\n",
        "id = \"JQS3Zf-SsjM-oh5o-Z0Vb-AbwG-sv4F-Sc0sMw\"\n",
        "seqno = 1\n",
        "extent_size = 128\n",
        "logical_volumes {\n",
        "segment1 {\n",
        "start_extent = 0\n",
        "extent_count = 1\n",
        "type = \"striped\"\n",
        "stripes = [\"pv0\", 0]\n",
        "stripe_count = 1\n",
    ];
    prop_oneof![
        prop::sample::select(SIGNS).prop_map(str::to_owned),
        prop::sample::select(LINES).prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        "[a-z]{1,8}",
    ]
}

/// Makes the checksums of label and header fit again.
fn reseal(image: &mut [u8]) {
    let label = lvm_checksum(&image[532..1024]);
    image[528..532].copy_from_slice(&label.to_le_bytes());
    let header = lvm_checksum(&image[4100..4608]);
    image[4096..4100].copy_from_slice(&header.to_le_bytes());
}

/// Bit by bit, unlike the one that is tested.
fn lvm_checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xf597_a6cf_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 * (sum & 1)))
    })
}

#[test]
fn a_damaged_label_is_told_and_another_one_counts() {
    let image = &sample("one-pv").images()[0];
    let mut front = image[..2048].to_owned();
    front[700] ^= 1;
    assert!(matches!(Label::find(&front), Err(LabelError::Checksum { sector: 1, .. })));
    // The sound one, in another sector, says that it lies elsewhere.
    front.copy_within(512..1024, 1024);
    front[1024 + 188] ^= 1;
    assert!(matches!(Label::find(&front), Err(LabelError::Checksum { sector: 1, .. })));
    front[700] ^= 1;
    assert_eq!(Label::find(&front).expect("sound").expect("there").sector, 1);
    front[512] = 0;
    assert!(matches!(Label::find(&front), Err(LabelError::Sector { sector: 2, found: 1 })));
    assert_eq!(Label::find(&front[..1024]), Ok(None));
}

#[test]
fn every_damaged_byte_of_a_text_is_noticed() {
    let images = sample("one-pv").images();
    let area = group(&images).copies[0].area.clone().expect("sound");
    let range = indices(area.live.expect("there").ranges()[0].clone());
    for at in range.step_by(37) {
        let mut images = images.clone();
        images[0][at] ^= 0x20;
        let found = assemble(&images);
        assert_eq!((found.groups.len(), found.unused.len()), (0, 1), "byte {at}");
    }
}

#[test]
fn the_newer_text_counts_and_the_older_is_told() {
    let mut images = sample("two-areas").images();
    let old = group(&images);
    let rewrite = old.finish_merge("snap", &stamp()).expect("whole");
    // The last write and its flush are missing: the second area's commit.
    apply(&mut images, &rewrite.steps[..rewrite.steps.len() - 2]);
    let mut found = assemble(&images);
    let found = found.groups.pop().expect("one");
    assert!(found.text == rewrite.text);
    let problems: Vec<_> = found.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["a metadata area of PV pv0 has an old text: seqno 4, the newest is 5"]);
}

#[test]
fn a_missing_pv_is_named_and_only_its_lvs_are_refused() {
    let images = sample("two-pvs").images();
    let found = assemble(&images[..1]);
    let found = &found.groups[0];
    assert!(found.is_partial());
    assert_eq!(
        found.mapping("home").expect_err("it is on both").to_string(),
        "home cannot be read: PV pv1 with uuid jpOcAL-kg9A-eGgO-s94H-Bcbi-o0kH-VvFMKX \
         (last seen as /dev/ubdb) is on none of the disks"
    );
    let others = sample("others").images();
    let found = assemble(&others[..1]);
    assert_eq!(found.groups[0].mapping("root").expect("it is on the first").len_bytes(), 2 << 20);
    // A PV without a metadata area alone belongs to nobody.
    let alone = assemble(&sample("no-area").images()[..1]);
    assert_eq!((alone.groups.len(), alone.unused.len()), (0, 1));
}

#[test]
fn a_disk_that_was_cut_short_is_told() {
    let mut images = sample("one-pv").images();
    images[0].truncate(2 << 20);
    let found = assemble(&images);
    let error = found.groups[0].mapping("root").expect_err("half of it is missing").to_string();
    assert!(error.contains("has 2097152 bytes, and needs 6291456"), "{error}");
}

/// As LVM does: it activates what is there, and refuses what is not.
#[test]
fn what_lies_before_the_end_of_a_cut_off_disk_is_read_and_nothing_is_written() {
    let whole = sample("one-pv").images();
    let (root_ends, snap_ends) = ((1 << 20) + 32 * 65536, (1 << 20) + 56 * 65536);
    for (len, mapped) in
        [(snap_ends, [true, true]), (snap_ends - 1, [true, false]), (root_ends - 1, [false; 2])]
    {
        let found = read(&[whole[0][..len].to_owned()]).groups.pop().expect("one");
        assert_eq!(["root", "snap"].map(|lv| found.mapping(lv).is_ok()), mapped, "{len}");
        let told: Vec<_> = found.problems.iter().map(ToString::to_string).collect();
        assert!(matches!(&told[..], [told] if told.contains("and needs 6291456")), "{told:?}");
        assert!(found.short_pv("root").is_some() && found.check_writable().is_err());
        found.merge("snap", &stamp(), &stamp()).expect_err("nothing is written");
    }
    assert!(group(&whole).short_pv("root").is_none());
}

/// LVM refuses to resize an origin that is active, and says how: then its snapshots keep their size.
#[test]
fn a_snapshot_has_its_own_size() {
    for extents in ["17", "31", "47"] {
        let told = String::from_utf8(text("one-pv")).expect("it is text");
        let (front, holder) = told.split_once("snapshot0 {").expect("LVM's layout");
        let holder = holder.replacen("extent_count = 32", &format!("extent_count = {extents}"), 1);
        let vg = VolumeGroup::parse(format!("{front}snapshot0 {{{holder}").as_bytes());
        let vg = vg.expect("it is sound");
        assert_eq!(vg.faults(), []);
        let snapshot = vg.snapshot("snap").expect("there");
        assert_eq!(vg.snapshot_bytes(snapshot), extents.parse::<u64>().expect("a number") << 16);
    }
}

#[test]
fn groups_of_one_name_are_chosen_by_their_uuids() {
    let images = [sample("one-pv").images(), sample("gpt").images()].concat();
    let found = assemble(&images);
    let [a, b] = &found.groups[..] else { panic!("two groups") };
    assert!(matches!(found.find("vg0"), Err(FindError::Ambiguous { count: 2, .. })));
    for group in [a, b] {
        assert_eq!(found.find(&group.vg.id.to_string()).expect("there").vg.id, group.vg.id);
    }
}

/// As LVM: "Ignoring additional label".
#[test]
fn of_several_labels_the_first_sound_one_counts() {
    let plain = sample("one-pv").images().remove(0);
    let with = |sector: usize, uuid: u8, change: &dyn Fn(&mut [u8])| {
        let mut image = plain.clone();
        let mut label = image[512..1024].to_owned();
        label[8] = u8::try_from(sector).expect("one of four");
        label[32..64].fill(uuid);
        let sum = lvm_checksum(&label[20..]);
        label[16..20].copy_from_slice(&sum.to_le_bytes());
        change(&mut label);
        image[sector * 512..][..512].copy_from_slice(&label);
        scan(&image).pvs.remove(0).label
    };
    let own = scan(&plain).pvs.remove(0).label.uuid;
    assert_eq!(with(3, b'B', &|_| {}).uuid, own);
    assert_ne!(with(0, b'C', &|_| {}).uuid, own);
    assert_eq!(with(0, b'C', &|label| label[100] ^= 1).uuid, own, "a damaged one");
    assert_eq!(with(0, b'C', &|label| label[8] = 2).uuid, own, "one of another sector");
}

/// The sample `two-pvs` with one thing changed for another.
fn changed(from: &str, to: &str) -> VolumeGroup {
    let text = String::from_utf8(text("two-pvs")).expect("it is text");
    assert!(text.contains(from), "{from}");
    VolumeGroup::parse(text.replacen(from, to, 1).as_bytes()).expect("it parses")
}

#[test]
fn contradictions_are_named_and_the_lv_is_refused() {
    let cases: [(&str, &str, &str, &str); 10] = [
        ("\"pv1\", 5\n", "\"pv1\", 1\n", "home", "both have extent"),
        ("\"pv1\", 5\n", "\"pv1\", 60\n", "home", "has extents 60 to 69 of pv1, which has 64"),
        ("\"pv1\", 5\n", "\"pv7\", 5\n", "home", "home lies on \"pv7\", which is nowhere"),
        ("\"pv1\", 5\n", "\"home\", 5\n", "home", "home lies on itself"),
        ("start_extent = 10\n", "start_extent = 11\n", "home", "begins at extent 11, where 10"),
        ("chunk_size = 16", "chunk_size = 17", "snapshot0", "chunks of 17 sectors"),
        ("origin = \"home\"", "origin = \"gone\"", "snapshot0", "needs gone"),
        ("origin = \"home\"", "origin = \"snapshot0\"", "snapshot0", "snapshot0 lies on itself"),
        ("cow_store = \"before\"", "cow_store = \"home\"", "home", "belongs to a snapshot itself"),
        ("pe_count = 64", "pe_count = 65", "home", "more than its disk holds"),
    ];
    for (from, to, lv, expected) in cases {
        let vg = changed(from, to);
        let faults: Vec<_> = vg.faults().iter().map(ToString::to_string).collect();
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{to}: {faults:?}");
        assert!(matches!(vg.mapping(lv), Err(MapError::Fault(_))), "{to}");
    }
    assert!(matches!(changed("seqno", "seqno").faults(), []));
    let merging = changed("cow_store", "merging_store");
    assert!(merging.snapshot("before").expect("there").merging);
    assert_eq!(merging.faults(), [] as [Fault; 0]);
}

#[test]
fn what_is_no_volume_group_is_told() {
    let parse = |text: &str| VolumeGroup::parse(text.as_bytes()).expect_err("it is none");
    let syntax = |text: &str| match parse(text) {
        GroupError::Syntax(error) => (error.line, error.column, error.fault),
        other => panic!("{other}"),
    };
    assert_eq!(syntax("a = 1\nb == 2\n"), (2, 4, SyntaxFault::Value));
    assert_eq!(syntax("a = \"x\n\n"), (3, 1, SyntaxFault::String));
    assert_eq!(syntax("a {\n b = [1, 2\n"), (3, 1, SyntaxFault::List));
    assert_eq!(syntax("a {\n b = 1\n"), (3, 1, SyntaxFault::Section));
    assert_eq!(syntax("a = 1 }"), (1, 7, SyntaxFault::Name));
    assert_eq!(syntax("a 1"), (1, 3, SyntaxFault::Item));
    assert_eq!(syntax(&"a{".repeat(100)), (1, 67, SyntaxFault::Depth));
    assert_eq!(syntax(&format!("a={}", "[".repeat(100_000))), (1, 36, SyntaxFault::Depth));
    assert_eq!(syntax("a = 99999999999999999999"), (1, 5, SyntaxFault::Value));
    assert_eq!(parse("").to_string(), "text: `contents` is missing");
    let head = "contents = \"Text Format Volume Group\" version = 1 ";
    assert!(matches!(parse(head), GroupError::Groups { found: 0 }));
    assert!(matches!(parse(&format!("{head} a {{}} b {{}}")), GroupError::Groups { found: 2 }));
    assert!(matches!(parse(&format!("{head} ../a {{}}")), GroupError::Name { .. }));
    assert!(matches!(
        VolumeGroup::parse(&vec![b' '; (16 << 20) + 1]),
        Err(GroupError::TooLong { .. })
    ));
}

#[test]
fn a_scan_reads_little_of_any_disk() {
    for sample in samples() {
        for image in sample.images() {
            let mut scan = DiskScan::new(image.len() as u64);
            let mut read = 0;
            while let Some(range) = scan.needs() {
                assert!(range.end <= image.len() as u64);
                read += range.end - range.start;
                scan.give(&image[indices(range)]);
            }
            assert!(read < 64 << 10, "{}: {read}", sample.name);
        }
    }
    // No disk at all, and readers that bring nothing.
    for len in [0, 1, 511, 512, 2048, u64::MAX] {
        let mut scan = DiskScan::new(len);
        while scan.needs().is_some() {
            scan.give(&[]);
        }
        assert!(scan.finish().pvs.is_empty());
    }
}
