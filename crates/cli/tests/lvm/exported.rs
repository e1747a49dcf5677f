use std::fs;

use crate::lvm::samples::{sample, samples, sha256, text};

#[test]
fn every_snapshot_is_exported_as_the_kernel_shows_it() {
    let mut seen = 0;
    for sample in samples() {
        for (name, says) in sample.snapshots() {
            let Some(hash) = says["sha256"].as_str() else { continue };
            assert_eq!(sample.exported(&name), hash, "{}: {name}", sample.name);
            seen += 1;
        }
    }
    assert!(seen >= 16, "{seen} snapshots");
}

/// The other commands take the same volume by its address, with its origin named or not.
#[test]
fn an_address_stands_for_the_volume_in_every_command() {
    for sample in samples() {
        let (name, says) = sample.snapshots().swap_remove(0);
        let (cow, origin) = (sample.address(&name), sample.address(text(&says["origin"])));
        let status = says["status"].as_str().expect("a status");
        let info = dmsnap!("info", cow).ok();
        assert!(
            info.contains(&format!("status:            {status}\n")),
            "{}: {info}",
            sample.name
        );
        assert_eq!(dmsnap!("check", cow).ok(), "sound\n", "{}", sample.name);
        assert_eq!(dmsnap!("check", cow, origin).ok(), "sound\n", "{}", sample.name);
        assert!(dmsnap!("dump", cow).ok().contains("0:0  "), "{}", sample.name);
        let (both, short) = (sample.dir.path("both"), sample.dir.path("short"));
        dmsnap!("export", cow, origin, both).ok();
        dmsnap!("export", cow, short).ok();
        for output in [both, short] {
            let hash = sha256(&fs::read(output).expect("read"));
            assert_eq!(hash, text(&says["sha256"]), "{}", sample.name);
        }
        if sample.name != "exported" {
            assert!(dmsnap!("merge", "--dry-run", cow).ok().starts_with("would merge "));
        }
    }
}

/// What LVM asks a user to type is enough: the group may be left out where there is one.
#[test]
fn a_group_that_can_only_be_one_needs_no_name() {
    let sample = sample("gpt");
    let image = sample.images[0].display().to_string();
    let output = sample.dir.path("out");
    dmsnap!("export", format!("lvm:{image}:snap"), output).ok();
    dmsnap!("lvm", "export", "--force", image, "snap", output).ok();
    let says = &sample.says["content"]["snap"]["sha256"];
    assert_eq!(sha256(&fs::read(output).expect("read")), text(says));
}
