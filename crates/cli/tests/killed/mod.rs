//! A server under random load is killed at a random moment, again and again: every write that was
//! flushed is there afterwards, on the origin and on every snapshot, while a snapshot merges too, and
//! nothing is there that nobody wrote.
//!
//! `DMSNAP_KILLS=1000 cargo test -p dmsnap-cli killed -- --nocapture` kills more often;
//! `DMSNAP_SEED=N` repeats the choices, though not the exact moments.

pub(crate) mod sectors; // what each sector may hold
pub(crate) mod client; // one connection, with its share of an export
pub(crate) mod load; // all connections at once

use std::fs;
use std::time::Duration;

use crate::kernel::random::Random;
use crate::serving::{DMSNAP, Place, Serving, tool};
use load::Load;
use sectors::Sectors;

const ORIGIN_MIB: u64 = 4;
const KILLS: u64 = 14;

/// After this many kills one snapshot begins to merge.
const PLAIN_ROUNDS: u64 = 5;
const MOST_MILLISECONDS: u64 = 250;

/// An origin, two snapshots, and what each may hold.
struct World {
    place: Place,
    origin: Sectors,
    a: Sectors,
    b: Sectors,
    merging: bool,
}

impl World {
    fn new() -> Self {
        let place = Place::new(ORIGIN_MIB, &[]);
        for (cow, chunk) in [("a", "4k"), ("b", "64k")] {
            tool(DMSNAP, &["create", "--chunk-size", chunk, "--size", "16M", &place.text(cow)]);
        }
        let content = Sectors::of(&place.read("origin"));
        Self { place, origin: content.clone(), a: content.clone(), b: content, merging: false }
    }

    fn serve(&self) -> Serving {
        let [a, b] = ["a", "b"].map(|name| format!("{name}={}", self.place.text(name)));
        let mut args = vec!["--snapshot", &a, "--snapshot", &b];
        if self.merging {
            args.extend(["--merge", "a", "--rate", "8M", "--window", "128k"]);
        }
        Serving::start(&self.place, &args)
    }

    /// One life of the server: what it holds is compared, then it is written to and killed.
    fn round(&mut self, random: &mut Random) -> (u64, u64) {
        let serving = self.serve();
        self.compare();
        let mut devices = vec![("a", &mut self.a), ("b", &mut self.b)];
        if !self.merging {
            // During a merge, origin and snapshot are one device.
            devices.push(("origin", &mut self.origin));
        }
        let load = Load::start(&self.place, devices, random);
        std::thread::sleep(Duration::from_millis(random.below(MOST_MILLISECONDS)));
        serving.kill();
        load.end()
    }

    /// What is served now is what may be there, and from now on nothing else may.
    fn compare(&mut self) {
        for (export, sectors) in [("a", &mut self.a), ("b", &mut self.b)] {
            sectors.settle(export, &self.place.copy_of(export));
        }
        let origin = self.place.copy_of("origin");
        match self.merging {
            true => assert!(origin == self.place.copy_of("a"), "a merging snapshot is the origin"),
            false => self.origin.settle("origin", &origin),
        }
    }

    /// Offline at last: sound stores with the content that was served.
    fn end(mut self) {
        let serving = self.serve();
        self.compare();
        let (a, b) = (self.place.copy_of("a"), self.place.copy_of("b"));
        serving.stop();
        let [cow_a, cow_b, origin, out] = ["a", "b", "origin", "out"].map(|it| self.place.text(it));
        tool(DMSNAP, &["check", &cow_b, &origin]);
        tool(DMSNAP, &["export", &cow_b, &origin, &out]);
        assert!(fs::read(&out).expect("readable") == b, "snapshot b, offline");
        tool(DMSNAP, &["check", &cow_a, &origin]);
        tool(DMSNAP, &["merge", &cow_a, &origin]);
        assert!(self.place.read("origin") == a, "snapshot a, merged");
    }
}

#[test]
fn what_was_flushed_is_there_after_a_kill_at_any_moment() {
    let kills = std::env::var("DMSNAP_KILLS").map_or(KILLS, |it| it.parse().expect("a number"));
    let mut random = Random::new();
    let (mut requests, mut flushes) = (0, 0);
    let mut world = World::new();
    for kill in 0..kills {
        world.merging = kill % (2 * PLAIN_ROUNDS) >= PLAIN_ROUNDS;
        if kill > 0 && kill % (2 * PLAIN_ROUNDS) == 0 {
            world.merging = true;
            std::mem::replace(&mut world, World::new()).end();
        }
        let (sent, flushed) = world.round(&mut random);
        requests += sent;
        flushes += flushed;
    }
    world.end();
    assert!(requests > kills && flushes > kills / 2, "{requests} requests, {flushes} flushes");
    println!("{kills} kills, {requests} requests, {flushes} flushes acknowledged");
}
