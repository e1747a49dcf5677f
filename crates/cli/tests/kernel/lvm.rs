//! LVM and dmsnap in turn on the same volume group: dmsnap works on the bytes of the LVs, which LVM
//! then activates and merges, or the other way round.

use rustix::process::Signal;

use crate::common;
use crate::kernel::guest::{in_guest, repository, skipped};
use crate::kernel::history::model::{Shape, Step, Write};
use crate::kernel::history::served::Served;
use crate::kernel::machine::Machine;
use crate::kernel::merge::stop_merge;
use crate::kernel::pair::{Pair, directory, sha256};
use crate::kernel::random::{Random, rounds};

const DISK_BYTES: u64 = 24 << 20;

/// Of an extent and both LVs, in sectors.
const EXTENT: u64 = 128;
const ORIGIN: u64 = 128 * EXTENT;
const COW: u64 = 160 * EXTENT;

/// Sectors of a chunk, from the smallest to the largest that LVM takes.
const CHUNKS: [u64; 8] = [8, 16, 32, 64, 128, 256, 512, 1024];

/// Each scenario with each chunk size, twice.
const MOST_ROUNDS: u64 = 64;

type Scenario = fn(&mut Group<'_>, &mut Random);
const SCENARIOS: [Scenario; 4] = [served_then_merged, half_merged, crashed, dropped];

#[test]
fn lvm_goes_on_with_the_bytes_that_dmsnap_wrote_and_dmsnap_with_those_of_lvm() {
    if skipped() {
        return;
    }
    let (seed, rounds) = (Random::seed(), rounds(2).min(MOST_ROUNDS));
    let seconds = 180 + 40 * rounds;
    let mut machine = Machine::boot(directory(), DISK_BYTES, seconds);
    let turn = |n: u64, of: usize| usize::try_from(n % of as u64).expect("small");
    for n in seed..seed + rounds {
        let chunk = CHUNKS[turn(n, CHUNKS.len())];
        // With each round of chunk sizes each has its turn with the next one.
        let scenario = SCENARIOS[turn(n + n / CHUNKS.len() as u64, SCENARIOS.len())];
        eprintln!("seed {n}, chunks of {} bytes", chunk * 512);
        let mut random = Random::from(n);
        let mut group = Group::make(&mut machine, chunk, seconds, &mut random);
        scenario(&mut group, &mut random);
        group.remove();
    }
    println!("FIGURES volume groups: {rounds} that LVM and dmsnap worked on in turn");
}

/// dmsnap serves the LVs' bytes and is written to; LVM shows that, and merges it.
fn served_then_merged(group: &mut Group<'_>, random: &mut Random) {
    let pair = group.take();
    let mut served = Served::new(&common::read(&pair.origin), false);
    let shape = Shape { chunk: group.chunk, cow: group.cow_sectors, po: true, zeroes: false };
    served.add(0, shape, &common::read(&pair.cow));
    for number in 2..22 {
        let at = random.below(ORIGIN);
        let write = Write { at, count: (1 + random.below(64)).min(ORIGIN - at), number };
        let step = match random.below(2) {
            0 => Step::WriteOrigin(write),
            _ => Step::WriteSnapshot { id: 0, write },
        };
        assert!(served.step(&step), "{step:?}");
    }
    let [origin, snapshot] =
        [None, Some(0)].map(|id| served.content(id, ORIGIN).expect("readable"));
    let (bytes, stores) = served.end();
    group.put(&bytes, &stores[&0]);
    let percent = info(&group.take())["percent"].as_f64().expect("a number");
    group.lvm("vgchange -q -ay vg0");
    assert_eq!(group.lvm(DATA_PERCENT).trim(), format!("{percent:.2}"));
    assert_eq!(group.content("root"), sha256(&origin));
    assert_eq!(group.content("snap"), sha256(&snapshot));
    group.merges_to(&snapshot);
}

const DATA_PERCENT: &str = "lvs --noheadings -o data_percent vg0/snap";

/// dmsnap is killed in the middle of merging the LVs' bytes; LVM shows the same snapshot, and
/// merges the rest.
fn half_merged(group: &mut Group<'_>, random: &mut Random) {
    let pair = group.take();
    let before = pair.exceptions();
    stop_merge(&pair, Signal::KILL, before / 4 + random.below(before / 2));
    group.put(&common::read(&pair.origin), &common::read(&pair.cow));
    group.lvm("vgchange -q -ay vg0");
    assert_eq!(group.content("snap"), sha256(&pair.snapshot));
    group.merges_to(&pair.snapshot);
}

/// The machine is killed in the middle of LVM's merge; dmsnap merges the rest on the bytes; LVM
/// finds nothing left to do.
fn crashed(group: &mut Group<'_>, random: &mut Random) {
    let before = group.take();
    let left = 1 + random.below(before.exceptions() / 2);
    group.lvm(&format!(
        "{SLOW}; vgchange -q -ay vg0; lvconvert -q --merge vg0/snap >/dev/null 2>&1 </dev/null & \
         . {tests}/lvm-scenarios.sh; until words vg0-root 2>/dev/null | grep -q /; do sleep 0.05; done; \
         while [ $(left vg0-root) -gt {} ]; do sleep 0.02; done",
        left * group.chunk,
        tests = in_guest(&repository().join("tests/kernel")),
    ));
    group.machine.power_cut(group.seconds, &mut |_: &str| ());
    let pair = group.take();
    let found = pair.exceptions();
    assert!(found < before.exceptions(), "{found} of {} are left", before.exceptions());
    assert!(pair.snapshot == before.snapshot, "{found} left: another snapshot");
    dmsnap!("merge", pair.cow, pair.origin).ok();
    assert!(common::read(&pair.origin) == before.snapshot, "{found} left: merged");
    group.put(&common::read(&pair.origin), &common::read(&pair.cow));
    group.lvm("vgchange -q -ay vg0; lvchange -q --poll y vg0/root");
    group.merged_to(&before.snapshot);
}

/// A slow disk under the volume group, which LVM then takes instead of the fast one.
const SLOW: &str = "/sbin/modprobe dm-delay; \
    dmsetup create slow0 --table \"0 $(blockdev --getsz $DISK0) delay $DISK0 0 4\"; \
    sed -i 's,\"a|^/dev/ubd|\"\\, ,,' $LVM_SYSTEM_DIR/lvm.conf";

/// dmsnap runs out of room and drops the snapshot; LVM says so, and removes it.
fn dropped(group: &mut Group<'_>, _: &mut Random) {
    let pair = group.take();
    // As if the LV had been made shorter: nearly full.
    let cow = common::read(&pair.cow);
    let mut served = Served::new(&common::read(&pair.origin), true);
    let used = info(&pair)["allocated_sectors"].as_u64().expect("a number");
    let short = &cow[..usize::try_from((used + group.chunk) * 512).expect("small")];
    let shape = Shape { chunk: group.chunk, cow: used + group.chunk, po: true, zeroes: false };
    served.add(0, shape, short);
    for (n, at) in (0..ORIGIN).step_by(512).enumerate() {
        assert!(served.step(&Step::WriteOrigin(Write { at, count: 512, number: 2 + n as u64 })));
    }
    assert_eq!(served.status_on_disk(0), "Invalid");
    let origin = served.content(None, ORIGIN).expect("readable");
    let (bytes, stores) = served.end();
    group.put(&bytes, &[&stores[&0][..], &cow[short.len()..]].concat());
    group.lvm("vgchange -q -ay vg0");
    let told = group.lvm("lvs --noheadings -o lv_snapshot_invalid vg0/snap");
    assert_eq!(told.trim(), "snapshot invalid");
    assert_eq!(group.content("root"), sha256(&origin));
    group.lvm("lvremove -q -y vg0/snap");
    assert_eq!(group.content("root"), sha256(&origin));
}

fn info(pair: &Pair) -> serde_json::Value {
    common::parsed(&dmsnap!("info", pair.cow, "--json").ok())
}

/// A volume group on the machine's disk: an origin and a snapshot with content. Inactive between
/// the words that are told to LVM and what is done here.
struct Group<'m> {
    machine: &'m mut Machine,
    seconds: u64,
    chunk: u64,
    /// The first sectors of both LVs on the disk.
    origin_at: u64,
    cow_at: u64,
    /// LVM makes none larger than its origin needs.
    cow_sectors: u64,
}

impl<'m> Group<'m> {
    fn make(machine: &'m mut Machine, chunk: u64, seconds: u64, random: &mut Random) -> Self {
        let mut group = Self { machine, seconds, chunk, origin_at: 0, cow_at: 0, cow_sectors: 0 };
        let first = 1 + random.below(1 << 20);
        // Of the large chunks some shall be left without an exception.
        let writes = if chunk < 256 { 8 } else { 3 };
        let (origin, cow, kib) = (ORIGIN / EXTENT, COW / EXTENT, chunk / 2);
        group.lvm(&format!(
            "pvcreate -q $DISK0; group vg0 $DISK0; volume vg0 root {origin}; \
             scribble /dev/vg0/root 0 0; snapshot vg0 root snap {kib}k {cow}; \
             scribble /dev/vg0/root {first} {writes} 16; scribble /dev/vg0/snap {} {} 16; \
             vgchange -q -an vg0",
            first + 100,
            2 * writes,
        ));
        let begin =
            group.lvm("pvs --noheadings --units s --nosuffix -o pe_start").trim().to_owned();
        let begin: u64 = begin.parse().expect("sectors");
        let mut place = |lv: &str| {
            let ranges = group.lvm(&format!("lvs --noheadings -o seg_pe_ranges vg0/{lv}"));
            let range = ranges.trim().split_once(':').expect("one linear segment").1;
            let (first, last) = range.split_once('-').expect("a range");
            let [first, last] = [first, last].map(|it| it.parse::<u64>().expect("an extent"));
            (begin + first * EXTENT, (last + 1 - first) * EXTENT)
        };
        let (origin, cow) = (place("root"), place("snap"));
        assert_eq!(origin.1, ORIGIN);
        (group.origin_at, group.cow_at, group.cow_sectors) = (origin.0, cow.0, cow.1);
        group
    }

    /// Runs lines of shell after `lvm.sh`. Gives what they print.
    #[track_caller]
    fn lvm(&mut self, lines: &str) -> String {
        let tests = in_guest(&repository().join("tests/kernel"));
        let run = format!("run export KERNEL_TESTS={tests}; . {tests}/lvm.sh; {lines}");
        common::parsed(&self.machine.must(&run)).as_str().expect("text").to_owned()
    }

    fn content(&mut self, lv: &str) -> String {
        self.lvm(&format!("content_of /dev/vg0/{lv}")).trim().to_owned()
    }

    /// The bytes of both LVs, as files.
    fn take(&self) -> Pair {
        let origin = self.machine.get(self.origin_at, ORIGIN);
        let cow = self.machine.get(self.cow_at, self.cow_sectors);
        Pair::of("lvm", self.chunk * 512, &origin, &cow)
    }

    fn put(&self, origin: &[u8], cow: &[u8]) {
        self.machine.put(self.origin_at, origin);
        self.machine.put(self.cow_at, cow);
    }

    fn merges_to(&mut self, snapshot: &[u8]) {
        self.lvm("lvconvert -q --merge vg0/snap");
        self.merged_to(snapshot);
    }

    /// Waits for the end of LVM's merge.
    fn merged_to(&mut self, snapshot: &[u8]) {
        self.lvm(
            "for i in $(seq 400); do lvs -a --noheadings -o lv_name vg0 | grep -q snap || break; \
             sleep 0.1; done; vgck vg0",
        );
        assert_eq!(self.lvm("lvs -a --noheadings -o lv_name vg0").trim(), "root");
        assert_eq!(self.content("root"), sha256(snapshot));
    }

    fn remove(mut self) {
        self.lvm("vgremove -q -y -f vg0; pvremove -q -y $DISK0");
    }
}
