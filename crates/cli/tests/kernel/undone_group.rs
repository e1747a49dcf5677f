//! A volume group of real LVM in which dmsnap merged with a way back: LVM restores the metadata, dmsnap takes the merge
//! back, and the kernel shows what was there before.

use crate::common::run;
use crate::kernel::guest::{Guest, Said, in_guest, repository, skipped};
use crate::kernel::merged_groups::LOOK;
use crate::lvm::samples::{Sample, sample, sha256, text};

#[test]
fn lvm_restores_the_group_and_the_kernel_shows_what_was_taken_back() {
    if skipped() {
        return;
    }
    let sample = sample("one-pv");
    let (snapshot, says) = sample.merges().swap_remove(0);
    let origin = text(&sample.says["content"][&snapshot]["origin"]).to_owned();
    let before = (sha256(&sample.extents(&origin)), sample.exported(&snapshot));
    let undo = sample.dir.path("undo").display().to_string();
    sample.lvm("merge", &[&sample.volume(&snapshot), "--undo", &undo]).ok();

    let backup = sample.dir.names().into_iter().find(|it| it.ends_with(".vg"));
    let backup = in_guest(&sample.dir.path(&backup.expect("the old text is kept")));
    let restore = format!("restore g '{}' '{origin}' '{snapshot}' '{backup}'", sample.group());
    let said = look(&sample, &origin, &restore);
    assert_eq!(said.get(&format!("g/{origin}"), "content"), text(&says["origin_sha256"]));

    let [cow, of] = [&snapshot, &origin].map(|it| sample.address(it));
    run(&["undo", &cow, &of, &undo]).ok();
    let said = look(&sample, &origin, "");
    let now = [&origin, &snapshot].map(|lv| said.get(&format!("g/{lv}"), "content"));
    assert_eq!(now, [before.0.as_str(), before.1.as_str()]);
}

/// What LVM and the kernel make of the group; then `more` is done.
fn look(sample: &Sample, origin: &str, more: &str) -> Said {
    let mut guest = Guest::new();
    let tests = in_guest(&repository().join("tests/kernel"));
    let disks: Vec<_> = sample.images.iter().map(|image| guest.disk(image)).collect();
    guest.line(format!("export KERNEL_TESTS={tests}\n. {tests}/lvm.sh\n{LOOK}"));
    guest.line(format!("look g '{}' '{origin}' {}\n{more}", sample.group(), disks.join(" ")));
    guest.run()
}
