use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::common::{self, Ran};
use crate::kernel::history::choose::CHUNKS;
use crate::kernel::history::mapped::Mapped;
use crate::kernel::history::model::{Shape, index, tag};
use crate::kernel::machine::Machine;
use crate::kernel::random::Random;
use crate::killed::load::Load;
use crate::killed::sectors::Sectors;
use crate::serving::{Place, Serving};

/// The longest turn, in milliseconds.
const LONGEST: u64 = 120;

/// The names of the snapshots; the first one merges in the end.
const NAMES: [&str; 2] = ["a", "b"];

/// Numbers of writes that a turn of the kernel can use up: agent.
const NUMBERS: u64 = 130_000;

/// How a turn of the kernel ends.
#[derive(Clone, Copy)]
pub(super) enum Crash {
    /// The devices below take nothing more.
    Devices,
    /// The machine is killed; the next one may run this many seconds.
    Machine(u64),
}

/// The devices, and what each may hold.
pub(super) struct Relay {
    place: Place,
    shapes: [Shape; 2],
    origin: Sectors,
    snapshots: [Sectors; 2],
    /// The first snapshot and the origin are one device.
    pub(super) merging: bool,
    turn: u64,
}

impl Relay {
    pub(super) fn new(chunk: u64, random: &mut Random) -> Self {
        let other = CHUNKS[index(random.below(CHUNKS.len() as u64))];
        let chunks = (1200 / chunk).max(3) + random.below(8);
        let sectors = (chunks * chunk - random.below(chunk)).max(64);
        let place = Place::new(0, &[]);
        let content: Vec<u8> =
            (0..sectors).flat_map(|sector| tag(1, sector).to_le_bytes().repeat(64)).collect();
        fs::write(place.path("origin"), &content).expect("written");
        let shapes = [chunk, other].map(|chunk| {
            let all = sectors.div_ceil(chunk);
            let cow = (all + all / (32 * chunk) + 4) * chunk;
            Shape { chunk, cow, po: true, zeroes: false }
        });
        for (name, shape) in NAMES.iter().zip(shapes) {
            let (chunk, size) = (format!("{}s", shape.chunk), format!("{}s", shape.cow));
            let made = dmsnap!("create", place.path(name), "--chunk-size", chunk, "--size", size);
            assert_eq!(made.status, 0, "{}", made.stderr);
        }
        let origin = Sectors::of(&content);
        let snapshots = [origin.clone(), origin.clone()];
        Self { place, shapes, origin, snapshots, merging: false, turn: 0 }
    }

    /// Nothing is left to merge.
    pub(super) fn is_merged(&self) -> bool {
        self.merging && self.exceptions("a") == 0
    }

    fn exceptions(&self, name: &str) -> u64 {
        let info = common::parsed(&dmsnap!("info", self.place.path(name), "--json").ok());
        info["exceptions"].as_u64().expect("a number")
    }

    /// The kernel's turn. Tells how many writes were begun.
    pub(super) fn map(&mut self, machine: &mut Machine, random: &mut Random, crash: Crash) -> u64 {
        self.turn += 1;
        let mut mapped = self.mapped(machine, random);
        self.settle(&mut mapped);
        let names = if self.merging { "o s1" } else { "o s0 s1" };
        let block = [5, 24, 3 * self.shapes[0].chunk + 1][index(random.below(3))];
        let (seed, number) = (random.below(1 << 40), self.turn * NUMBERS);
        let mut told = Vec::new();
        let mut hear = |line: &str| told.push(line.to_owned());
        let storm = format!("storm 0 {seed} {number} {block} {names}");
        mapped.machine().ask_hearing(&storm, &mut hear).expect("it begins");
        sleep(Duration::from_millis(random.below(LONGEST)));
        match crash {
            Crash::Devices => mapped.cut(&mut hear),
            Crash::Machine(seconds) => mapped.machine().power_cut(seconds, &mut hear),
        }
        let (_, origin, stores) = match crash {
            Crash::Devices => mapped.end(),
            Crash::Machine(_) => mapped.left(),
        };
        self.take_home(&origin, &stores);
        self.learn(&told)
    }

    fn take_home(&self, origin: &[u8], stores: &BTreeMap<u32, Vec<u8>>) {
        fs::write(self.place.path("origin"), origin).expect("written");
        for (name, store) in NAMES.iter().zip(stores.values()) {
            fs::write(self.place.path(name), store).expect("written");
        }
    }

    /// Brings everything to the machine's disk, and maps it.
    fn mapped<'m>(&self, machine: &'m mut Machine, random: &mut Random) -> Mapped<'m> {
        let read = |name| self.place.read(name);
        // Merges of so little are over at once, unless the store is slow.
        let delay = if self.merging { random.below(4) } else { 0 };
        let mut mapped = Mapped::new(machine, &read("origin")).slow(delay);
        mapped.add(1, self.shapes[1], &read("b"));
        if self.merging {
            mapped.add_merging(0, self.shapes[0], &read("a"));
        } else {
            mapped.add(0, self.shapes[0], &read("a"));
        }
        mapped
    }

    /// What the kernel shows is what may be there, and from now on nothing else may.
    fn settle(&mut self, mapped: &mut Mapped<'_>) {
        let content = |mapped: &mut Mapped<'_>, id| mapped.content(id).expect("readable");
        let origin = content(mapped, None);
        self.snapshots[1].settle("b, mapped", &content(mapped, Some(1)));
        if self.merging {
            self.snapshots[0].settle("a, mapped for merging", &origin);
        } else {
            self.origin.settle("origin, mapped", &origin);
            self.snapshots[0].settle("a, mapped", &content(mapped, Some(0)));
        }
    }

    /// Which writes were begun, and which were acknowledged. Tells how many.
    fn learn(&mut self, told: &[String]) -> u64 {
        let mut begun = Vec::new();
        let mut count = 0;
        for line in told {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |word: &str| word.parse::<u64>().expect("a number");
            match words[..] {
                ["w", name, at, length, id] => {
                    let range = number(at)..number(at) + number(length);
                    let device = self.device(name);
                    range.clone().for_each(|it| device.write(index(it), tag(number(id), it)));
                    begun.push((name.to_owned(), range, number(id)));
                    count += 1;
                }
                ["a", id] => {
                    let done = begun.iter().position(|(.., it)| *it == number(id));
                    let (name, range, id) = begun.swap_remove(done.expect("begun before"));
                    let device = self.device(&name);
                    range.for_each(|it| device.durable(index(it), tag(id, it)));
                }
                // Cut off, or the last words of a machine.
                _ => {}
            }
        }
        count
    }

    fn device(&mut self, name: &str) -> &mut Sectors {
        match name {
            "o" if self.merging => &mut self.snapshots[0],
            "o" => &mut self.origin,
            "s0" => &mut self.snapshots[0],
            _ => &mut self.snapshots[1],
        }
    }

    /// dmsnap's turn, which ends as it should or by a kill. Tells how many requests were sent.
    pub(super) fn serve(&mut self, random: &mut Random, kill: bool) -> u64 {
        self.turn += 1;
        self.assert_sound();
        let serving = self.start(random);
        self.compare();
        let [a, b] = &mut self.snapshots;
        let mut devices = vec![("a", a), ("b", b)];
        if !self.merging {
            devices.push(("origin", &mut self.origin));
        }
        let load = Load::start(&self.place, devices, random);
        sleep(Duration::from_millis(random.below(LONGEST)));
        if kill {
            serving.kill();
        } else {
            serving.stop();
        }
        load.end().0
    }

    fn start(&self, random: &mut Random) -> Serving {
        let [a, b] = NAMES.map(|name| format!("{name}={}", self.place.text(name)));
        let mut args = vec!["--snapshot", &a, "--snapshot", &b];
        let rate = format!("{}k", 200 + random.below(4000));
        if self.merging {
            args.extend(["--merge", "a", "--rate", &rate, "--window", "64k"]);
        }
        Serving::start(&self.place, &args)
    }

    /// The same as [`settle`](Self::settle), of what is served.
    fn compare(&mut self) {
        for (name, sectors) in NAMES.iter().zip(&mut self.snapshots) {
            sectors.settle(name, &self.place.copy_of(name));
        }
        let origin = self.place.copy_of("origin");
        match self.merging {
            true => assert!(origin == self.place.copy_of("a"), "a merging snapshot is the origin"),
            false => self.origin.settle("origin", &origin),
        }
    }

    fn assert_sound(&self) {
        for name in NAMES {
            let Ran { status, stdout, stderr } =
                dmsnap!("check", self.place.path(name), self.place.path("origin"));
            assert_eq!(status, 0, "turn {}, {name}: {stdout}{stderr}", self.turn);
        }
    }

    /// Somebody finishes the merge, undisturbed.
    pub(super) fn finish(mut self, machine: &mut Machine, random: &mut Random) {
        self.merging = true;
        if random.below(2) == 0 {
            let mut mapped = self.mapped(machine, random);
            self.settle(&mut mapped);
            mapped.machine().must("drained o");
            let (_, origin, stores) = mapped.end();
            self.take_home(&origin, &stores);
        } else {
            let serving = self.start(random);
            self.compare();
            while self.exceptions("a") > 0 {
                sleep(Duration::from_millis(5));
            }
            serving.stop();
        }
        assert_eq!(self.exceptions("a"), 0);
        self.assert_sound();
        self.snapshots[0].settle("the origin, merged", &self.place.read("origin"));
        let out = self.place.path("out");
        dmsnap!("export", self.place.path("b"), self.place.path("origin"), out).ok();
        self.snapshots[1].settle("b, exported", &self.place.read("out"));
    }
}
