use std::panic::catch_unwind;
use std::thread;
use std::time::Duration;

use crate::bad_disks::client::Ask::{Find, Flush, Write};
use crate::bad_disks::client::{fine, others_go_on};
use crate::controlled::start;
use crate::loops::usable;
use crate::real_disks::disks::{KINDS, Small};
use crate::real_disks::rounds;
use crate::serving::{DMSNAP, MIB, Place, tool};

/// A frozen file system holds up who writes there, and nobody else.
#[test]
fn a_frozen_file_system_stops_only_its_own_clients() {
    if !usable("a frozen file system") {
        return;
    }
    for (kind, io) in KINDS.iter().flat_map(|kind| rounds().into_iter().map(move |io| (kind, io))) {
        // Linux has 64 queues for writes through the cache that have to wait, and chooses by the file: in one round of
        // 64 the two files share one, and then one waits for the other. Other files are tried then.
        if catch_unwind(|| frozen_alone(kind, io)).is_err() {
            frozen_alone(kind, io);
        }
    }
}

/// One round of [`a_frozen_file_system_stops_only_its_own_clients`].
fn frozen_alone(kind: &str, io: &str) {
    let Some(small) = Small::new(kind) else { return };
    let place = Place::new(8, &["b"]);
    tool(DMSNAP, &["create", "--size", "32M", &small.text("a")]);
    let (a, b) = (format!("a={}", small.text("a")), format!("b={}", place.text("b")));
    let serving = start(&place, &["--snapshot", &a, "--snapshot", &b, "--io", io]);
    fine(&place, "a", &[Write(1, 0, 8192), Flush]);
    thread::scope(|scope| {
        let frozen = small.freeze();
        scope.spawn(|| fine(&place, "a", &[Write(2, 2 * MIB, 8192), Flush]));
        thread::sleep(Duration::from_millis(300));
        others_go_on(&place, 3);
        thread::sleep(Duration::from_millis(700));
        others_go_on(&place, 4);
        drop(frozen);
    });
    fine(&place, "a", &[Find(1, 0, 8192), Find(2, 2 * MIB, 8192)]);
    assert_eq!(serving.stop(), "", "{kind}, {io}");
}
