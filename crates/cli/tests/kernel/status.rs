//! `dmsnap ctl status --dmsetup` compared with `dmsetup status` of a real kernel that has mapped the same
//! bytes: line for line the same.

use crate::common::{parsed, read};
use crate::controlled::{ctl, ctl_json, start, wait_until};
use crate::kernel::guest::skipped;
use crate::kernel::machine::Machine;
use crate::kernel::pair::directory;
use crate::serving::{DMSNAP, Place, output, tool};

const ORIGIN_MIB: u64 = 8;
const SECTORS: u64 = ORIGIN_MIB << 11;

/// Name, size of a chunk, and sectors of each COW device. The last has room for six chunks.
const COWS: [(&str, &str, u64); 3] = [("a", "4k", 8192), ("b", "16k", 4096), ("c", "4k", 64)];

/// Milliseconds for each request, so that a merge is slower than the one that looks at it.
const SLOW: u64 = 1000;

#[test]
fn a_server_says_of_every_state_what_dmsetup_says_of_the_same_bytes() {
    if skipped() {
        return;
    }
    let place = Place::new(ORIGIN_MIB, &[]);
    for (name, chunk, sectors) in COWS {
        let size = format!("{sectors}s");
        tool(DMSNAP, &["create", "--chunk-size", chunk, "--size", &size, &place.text(name)]);
    }
    let cows = COWS.map(|(name, ..)| format!("--snapshot={name}={}", place.text(name)));
    let serving = start(&place, &cows.each_ref().map(String::as_str));
    let said = || ctl(&place, &["status", "--dmsetup"]);
    let mut kernel = Kernel::boot(&place);

    let empty = said();
    assert_eq!(kernel.says("snapshot", 0), empty, "empty stores");
    place.qemu_io("a", &["write -P 1 0 1M", "write -P 2 5M 512", "flush"]);
    place.qemu_io("b", &["write -P 3 1M 100k", "flush"]);
    place.qemu_io("c", &["write -P 4 2M 24k", "flush"]);
    let filled = said();
    assert_ne!(filled, empty);
    assert_eq!(kernel.says("snapshot", 0), filled, "stores with exceptions");

    let refused = output("qemu-io", &["-f", "raw", "-c", "write 3M 4k", &place.uri("c")]);
    let refused = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
    assert!(refused.contains("No space left on device"), "{refused}");
    let overflowed = said();
    assert!(overflowed.ends_with(" Overflow\n"), "{overflowed}");
    kernel.map("snapshot", 0);
    kernel.machine.ask("write c 6144 8 1").expect_err("there is no room");
    assert_eq!(kernel.status(), overflowed, "a store without room");
    kernel.unmap();

    place.qemu_io("origin", &["write -P 5 3M 4k", "flush"]);
    let dropped = said();
    assert!(dropped.ends_with(" Invalid\n"), "{dropped}");
    assert_eq!(kernel.says("snapshot", 0), dropped, "a snapshot that was dropped");

    // A kernel's merge would begin with copies for it.
    ctl(&place, &["snapshot", "remove", "b"]);
    kernel.cows.retain(|(name, ..)| *name != "b");
    ctl(&place, &["merge", "start", "a", "--rate", "256k", "--window", "64k"]);
    let left = || ctl_json(&place, &["status"])["merge"]["exceptions_left"].as_u64();
    let all = left();
    wait_until("the first window", || left() < all);
    ctl(&place, &["merge", "pause"]);
    wait_until("a pause", || ctl_json(&place, &["status"])["merge"]["state"] == "paused");
    let half = said();
    assert!(half.contains("\na: 0 16384 snapshot-merge "), "{half}");
    assert_eq!(kernel.says("snapshot-merge", SLOW), half, "half merged");

    kernel.map("snapshot-merge", 0);
    kernel.machine.must("drained a");
    ctl(&place, &["merge", "rate", "none"]);
    ctl(&place, &["merge", "resume"]);
    wait_until("the end", || ctl_json(&place, &["status"])["merge"]["state"] == "finished");
    assert_eq!(kernel.status(), said(), "merged");
    kernel.unmap();
    serving.stop();
}

/// A kernel that maps what is served, under the same names.
struct Kernel<'a> {
    place: &'a Place,
    cows: Vec<(&'static str, &'static str, u64)>,
    machine: Machine,
}

impl<'a> Kernel<'a> {
    fn boot(place: &'a Place) -> Self {
        let mut machine = Machine::boot(directory(), 16 << 20, 240);
        machine.must("run /sbin/modprobe dm-delay");
        Self { place, cows: COWS.to_vec(), machine }
    }

    /// What `dmsetup status` prints for all of it.
    fn says(&mut self, target_of_a: &str, delay: u64) -> String {
        self.map(target_of_a, delay);
        let said = self.status();
        self.unmap();
        said
    }

    /// Maps a copy of what is on disk now; requests to `a`'s COW device take this many milliseconds.
    fn map(&mut self, target_of_a: &str, delay: u64) {
        self.machine.put(0, &read(&self.place.path("origin")));
        self.machine.must(&format!("map real 0 {SECTORS} linear {{DISK0}} 0"));
        let mut at = SECTORS;
        for (name, _, sectors) in self.cows.clone() {
            self.machine.put(at, &read(&self.place.path(name)));
            let delay = if name == "a" { delay } else { 0 };
            self.machine.must(&format!("map cow{name} 0 {sectors} delay {{DISK0}} {at} {delay}"));
            at += sectors;
        }
        self.machine.must(&format!("map origin 0 {SECTORS} snapshot-origin {{real}}"));
        for name in self.names() {
            let target = if name == "a" { target_of_a } else { "snapshot" };
            let table = format!("0 {SECTORS} {target} {{real}} {{cow{name}}} PO 0");
            self.machine.must(&format!("map {name} {table}"));
        }
    }

    fn names(&self) -> Vec<&'static str> {
        self.cows.iter().map(|(name, ..)| *name).collect()
    }

    fn status(&mut self) -> String {
        let names = self.names().join(" ");
        let said = self.machine.must(&format!("run dmsetup status origin {names}"));
        parsed(&said).as_str().expect("text").to_owned()
    }

    fn unmap(&mut self) {
        let snapshots = self.names().into_iter().map(str::to_owned);
        let cows = self.names().into_iter().map(|name| format!("cow{name}"));
        for name in snapshots.chain(["origin".into()]).chain(cows).chain(["real".into()]) {
            self.machine.must(&format!("remove {name}"));
        }
    }
}
