use std::thread;
use std::time::Duration;

use crate::bad_disks::client::Ask::{Find, Flush, Write};
use crate::bad_disks::client::{asked, fine, others_go_on};
use crate::bad_disks::disk::{BadDisk, Fails};
use crate::bad_disks::skipped;
use crate::controlled::{ctl, start};
use crate::serving::{MIB, Place};

/// A COW device that hangs holds up who needs it and nobody else, also while somebody drops its snapshot, which is the natural thing
/// to do, and while the origin is written.
#[test]
fn a_disk_that_hangs_stops_only_its_own_clients() {
    if skipped("a disk that hangs") {
        return;
    }
    for io in ["buffered", "direct"] {
        let place = Place::new(8, &["a", "b", "c"]);
        let disk = BadDisk::by_hand(&place, "a");
        let (a, b) = (format!("a={}", disk.text()), format!("b={}", place.text("b")));
        let serving = start(&place, &["--snapshot", &a, "--snapshot", &b, "--io", io]);
        fine(&place, "a", &[Write(1, 0, 8192), Flush]);
        thread::scope(|scope| {
            let hung = disk.breaks_for_now(Fails::Hangs);
            scope.spawn(|| fine(&place, "a", &[Write(2, 2 * MIB, 8192), Flush]));
            thread::sleep(Duration::from_millis(300));
            others_go_on(&place, 3);
            // Longer than an idle snapshot is left unpublished.
            thread::sleep(Duration::from_millis(4200));
            others_go_on(&place, 4);
            drop(hung);
        });
        fine(&place, "a", &[Find(1, 0, 8192), Find(2, 2 * MIB, 8192)]);
        thread::scope(|scope| {
            let hung = disk.breaks_for_now(Fails::Hangs);
            // More requests than the kernel has threads for files by default.
            for n in 0..16 {
                let (place, at) = (&place, 4 * MIB + n * 65_536);
                scope.spawn(move || asked(place, "a", &[Write(5, at, 8192), Flush]));
            }
            thread::sleep(Duration::from_millis(300));
            scope.spawn(|| ctl(&place, &["snapshot", "invalidate", "a"]));
            thread::sleep(Duration::from_millis(300));
            others_go_on(&place, 6);
            drop(hung);
        });
        others_go_on(&place, 7);
        drop(serving);
    }
}
