use crate::bad_disks::client::Ask::{Find, Flush, Read, Write};
use crate::bad_disks::client::{fine, refused};
use crate::bad_disks::disk::{BadDisk, Fails, until};
use crate::bad_disks::skipped;
use crate::serving::{DMSNAP, MIB, Place, Serving, output, tool};

/// A store with 2 MiB of the snapshot's own data, and what a merge must make of the origin.
fn written() -> (Place, Vec<u8>) {
    let place = Place::new(8, &["s"]);
    let mut expected = place.read("origin");
    let serving = Serving::start(&place, &["--snapshot", &format!("s={}", place.text("s"))]);
    fine(&place, "s", &[Write(1, MIB, MIB), Write(2, 4 * MIB, MIB), Flush]);
    serving.stop();
    expected[1 << 20..2 << 20].fill(1);
    expected[4 << 20..5 << 20].fill(2);
    (place, expected)
}

/// Whichever side fails, and at whatever: the merge says so in one line, and goes on once the disk is
/// well.
#[test]
fn a_merge_stops_on_a_failing_disk_and_goes_on_when_it_has_healed() {
    if skipped("merges") {
        return;
    }
    for (bad, fails) in [
        ("origin", Fails::Writes),
        ("origin", Fails::Reads),
        ("s", Fails::Writes),
        ("s", Fails::Reads),
    ] {
        let (place, expected) = written();
        let disk = BadDisk::over(&place, bad);
        let (mut cow, mut origin) = (place.text("s"), place.text("origin"));
        *(if bad == "s" { &mut cow } else { &mut origin }) = disk.text();
        disk.breaks(fails);
        let merge =
            || output("timeout", &["60", DMSNAP, "merge", "--window", "256k", &cow, &origin]);
        let done = merge();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(3), "{bad}, {fails:?}: {said}");
        assert!(said.contains(&disk.text()) && said.contains("error"), "{bad}, {fails:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        disk.heals();
        let done = merge();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{bad}, {fails:?}: {said}");
        assert!(place.read("origin") == expected, "{bad}, {fails:?}: the merged origin");
        assert!(tool(DMSNAP, &["info", "--json", &cow]).contains("\"exceptions\":0"));
    }
}

#[test]
fn a_served_merge_that_fails_is_told_and_clients_go_on() {
    if skipped("served merges") {
        return;
    }
    let (place, expected) = written();
    let origin = BadDisk::over(&place, "origin");
    let s = format!("s={}", place.text("s"));
    let args = [&origin.text(), "--snapshot", &s, "--merge", "s", "--window", "128k"];
    origin.breaks(Fails::Writes);
    let serving = Serving::exactly(&place, &args);
    fine(&place, "s", &[Find(1, MIB, MIB), Find(2, 4 * MIB, MIB), Read(0, MIB)]);
    fine(&place, "origin", &[Find(1, MIB, MIB)]);
    refused(&place, "origin", "EIO", &[Write(3, 0, 4096)]);
    // Its chunk is still in the COW device.
    fine(&place, "s", &[Write(1, MIB, 4096)]);
    let (status, said) = serving.end();
    let told = said.lines().find(|line| line.starts_with("dmsnap: s: the merge has stopped: "));
    assert!(told.is_some_and(|line| line.contains("error")), "{status}: {said}");

    origin.heals();
    let serving = Serving::exactly(&place, &args);
    until("all is merged", || {
        tool(DMSNAP, &["info", "--json", &place.text("s")]).contains("\"exceptions\":0")
    });
    fine(&place, "s", &[Find(1, MIB, MIB), Find(2, 4 * MIB, MIB)]);
    assert_eq!(serving.stop(), "dmsnap: s: merged\n");
    assert!(place.read("origin") == expected, "the merged origin");
}
