use crate::bad_disks::disk::{BadDisk, Fails};
use crate::bad_disks::skipped;
use crate::serving::{DMSNAP, Place, output};

/// Status 3 and one line that names the disk, from every command.
#[test]
fn every_command_names_the_disk_that_fails() {
    if skipped("commands") {
        return;
    }
    let place = Place::new(4, &["s"]);
    let (cow, origin) = (BadDisk::over(&place, "s"), BadDisk::over(&place, "origin"));
    let (s, o) = (cow.text(), origin.text());
    // Another program has the origin itself open.
    std::fs::copy(place.path("origin"), place.path("good")).expect("copied");
    let (image, good) = (place.text("image"), place.text("good"));
    let fails = |disk: &BadDisk, fails, args: &[&str]| {
        disk.breaks(fails);
        let done = output("timeout", &[&["30", DMSNAP], args].concat());
        disk.heals();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(3), "{args:?}, {fails:?}: {said}");
        let one = said.lines().count() == 1 && said.starts_with("dmsnap: ");
        assert!(one && said.contains(&disk.text()), "{args:?}, {fails:?}: {said}");
    };
    for args in [
        &["info", &s][..],
        &["check", &s],
        &["dump", &s],
        &["check", &s, &good],
        &["export", &s, &good, &image],
        &["merge", &s, &good],
        &["serve", &good, "--nbd", "unix:nowhere", "--snapshot", &format!("s={s}")],
        &["create", &s],
    ] {
        fails(&cow, Fails::Reads, args);
    }
    fails(&cow, Fails::Writes, &["create", "--force", &s]);
    let healthy = place.text("spare");
    assert!(output(DMSNAP, &["create", "--size", "8M", &healthy]).status.success());
    for args in
        [&["check", &healthy, &o][..], &["export", &healthy, &o, &image], &["merge", &healthy, &o]]
    {
        fails(&origin, Fails::Reads, args);
    }
    assert!(!std::path::Path::new("nowhere").exists());
}
