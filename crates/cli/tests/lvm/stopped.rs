use std::ffi::OsString;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{Ran, command};
use crate::lvm::merged::assert_like_lvms;
use crate::lvm::samples::{Sample, sample, text};

/// Begins a merge, asks it to stop when something is merged, and says what it said.
fn stopped(sample: &Sample, options: &[&str]) -> Ran {
    let mut args: Vec<OsString> = vec!["lvm".into(), "merge".into()];
    args.extend(sample.images.iter().map(|image| image.clone().into()));
    let slow = ["vg0/snap", "--rate", "64k", "--window", "4k"];
    args.extend(slow.iter().chain(options).map(OsString::from));
    let before = sample.extents("root");
    let child = command(&args).spawn().expect("the command starts");
    let begun = Instant::now();
    while sample.extents("root") == before {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing is merged");
        sleep(Duration::from_millis(10));
    }
    let id = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let id = id.expect("a process");
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it runs");
    child.wait_with_output().expect("it ends").into()
}

#[test]
fn a_merge_that_was_stopped_is_one_for_lvm_as_well() {
    let sample = sample("one-pv");
    let ran = stopped(&sample, &[]);
    assert_eq!(ran.status, 3);
    assert!(ran.stderr.contains("vg0/snap: stopped: "), "{}", ran.stderr);
    let said = "vg0 says that it merges: LVM goes on when it activates the origin; the same command \
                goes on";
    assert!(ran.stderr.trim_end().ends_with(said), "{}", ran.stderr);

    let listed = sample.listed(&[]);
    assert_eq!(listed["root"]["lv_attr"], "Owi---s---");
    assert_eq!(listed["snap"]["lv_attr"], "Swi---s---");
    assert_eq!(listed["snap"]["lv_name"], "[snap]");
    assert_eq!(listed["snap"]["lv_merging"], "merging");
    let checked = sample.lvm("check", &[]).ok();
    assert!(
        checked.starts_with("vg0/snap:\nnote: merges into vg0/root, which is neither"),
        "{checked}"
    );
    let checked = sample.lvm("check", &["--json"]).ok();
    assert!(
        checked.starts_with(r#"{"snapshot":"vg0/snap","merging_into":"vg0/root"}"#),
        "{checked}"
    );

    let content = &sample.says["content"]["snap"];
    assert_eq!(sample.exported("snap"), text(&content["sha256"]), "it shows the same");
    // One file of the text before, also where it is named.
    sample.lvm("merge", &["vg0/snap"]).ok();
    let kept: Vec<_> = sample.dir.names().into_iter().filter(|it| it.ends_with(".vg")).collect();
    assert_eq!(kept, ["a.img.vg0-4.vg"]);
    let (snapshot, says) = sample.merges().swap_remove(0);
    assert_like_lvms(&sample, &snapshot, &says);
}

#[test]
fn a_merge_with_a_backup_of_its_own_name_goes_on() {
    let sample = sample("one-pv");
    let backup = sample.dir.path("old.vg").display().to_string();
    assert_eq!(stopped(&sample, &["--backup", &backup]).status, 3);
    let kept = std::fs::read(&backup).expect("kept");
    sample.lvm("merge", &["vg0/snap", "--backup", &backup]).ok();
    assert!(std::fs::read(&backup).expect("kept") == kept);
}

#[test]
fn without_metadata_nobody_is_told_and_the_stop_says_so() {
    let sample = sample("one-pv");
    let ran = stopped(&sample, &["--no-metadata"]);
    assert_eq!(ran.status, 3);
    let said = "the volume group does not say so, and must not be activated as it is";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    assert_eq!(sample.listed(&[])["snap"]["lv_merging"], "");
    sample.lvm("merge", &["vg0/snap"]).ok();
}
