//! What a server with many exceptions costs: the time from its start to its first answer, and its
//! memory.
//!
//! `cargo bench -p dmsnap-cli --bench opening [-- --exceptions 10000000] [--rounds 5] [--dir DIR]`
//!
//! Three stores of 4 KiB chunks take turns: an empty one, one whose exceptions lie at random all over
//! the origin, and one where they come in runs of 64. The files are sparse: nothing but the areas is
//! ever read to open a store. `buffered` reads them through a warm page cache, `direct` from the disk.
//! Memory is the resident set after the first read, less that of the server of the empty store.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use dmsnap::format::{ChunkSize, Layout, RawException, RawHeader};
use dmsnap_nbd::client::{Blocking, ClientOptions};
use zerocopy::IntoBytes;

const CHUNK: u64 = 4096;

/// The origin has this many chunks for each exception.
const SPREAD: u64 = 2;
const RUN: u64 = 64;

fn main() -> io::Result<()> {
    let (exceptions, rounds, dir) = arguments()?;
    let world = World::make(exceptions, &dir)?;
    println!("opening {exceptions} exceptions of 4 KiB; {rounds} rounds, in turns");
    let mut costs: BTreeMap<(&str, &str), Vec<Cost>> = BTreeMap::new();
    for _ in 0..rounds {
        for store in ["empty", "random", "runs"] {
            for way in ["buffered", "direct"] {
                costs.entry((store, way)).or_default().push(world.serve(store, way)?);
            }
        }
    }
    let median = |costs: &[Cost], of: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        (values[values.len() / 2], values[0], values[values.len() - 1])
    };
    for ((store, way), costs_here) in &costs {
        let (ready, least, most) = median(costs_here, |it| it.seconds * 1e3);
        let (resident, ..) = median(costs_here, |it| it.resident_bytes);
        let (empty, ..) = median(&costs[&("empty", *way)], |it| it.resident_bytes);
        println!(
            "{store:>7} {way:>8}: first read after {ready:8.1} ms (min {least:.1}, max {most:.1}), \
             resident {:6.1} MiB, {:5.2} bytes an exception",
            resident / f64::from(1 << 20),
            (resident - empty) / exceptions as f64
        );
    }
    Ok(())
}

fn arguments() -> io::Result<(u64, u32, PathBuf)> {
    let mut chosen = (10_000_000, 5, std::env::temp_dir());
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| io::Error::other(format!("{name} wants a value")))?;
        let wrong = |_| io::Error::other(format!("{value}: not a number"));
        match name.as_str() {
            "--exceptions" => chosen.0 = value.parse().map_err(wrong)?,
            "--rounds" => chosen.1 = value.parse().map_err(wrong)?,
            "--dir" => chosen.2 = value.into(),
            _ => return Err(io::Error::other(format!("unknown option {name}"))),
        }
    }
    Ok(chosen)
}

/// From the start of a process to its first answer.
struct Cost {
    seconds: f64,
    resident_bytes: f64,
}

/// The files, gone when dropped.
struct World {
    dir: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl World {
    fn make(exceptions: u64, dir: &Path) -> io::Result<Self> {
        let world = Self { dir: dir.join(format!("dmsnap-opening-{}", std::process::id())) };
        fs::create_dir(&world.dir)?;
        let chunks = exceptions * SPREAD;
        File::create(world.dir.join("origin"))?.set_len(chunks * CHUNK)?;
        let scattered = |n: u64| permuted(n, chunks);
        let in_runs = |n: u64| n / RUN * RUN * SPREAD + n % RUN;
        world.store("empty", 0, scattered)?;
        world.store("random", exceptions, scattered)?;
        world.store("runs", exceptions, in_runs)?;
        Ok(world)
    }

    /// A store whose `n`th exception is for chunk `old(n)`.
    fn store(&self, name: &str, exceptions: u64, old: impl Fn(u64) -> u64) -> io::Result<()> {
        let chunk_size = ChunkSize::from_sectors(8).map_err(io::Error::other)?;
        let layout = Layout::new(chunk_size);
        let cow = File::create(self.dir.join(name))?;
        cow.set_len(layout.chunks_needed(exceptions + 1) * CHUNK)?;
        cow.write_all_at(RawHeader::new(chunk_size, true).as_bytes(), 0)?;
        let per_area = layout.exceptions_per_area();
        for area in 0..exceptions.div_ceil(per_area) {
            let here = area * per_area..exceptions.min((area + 1) * per_area);
            let slots: Vec<RawException> = here
                .map(|n| RawException {
                    old: old(n).into(),
                    new: layout.lock_step_chunk(n).get().into(),
                })
                .collect();
            cow.write_all_at(slots.as_bytes(), layout.area_location(area).get() * CHUNK)?;
        }
        cow.sync_all()
    }

    /// Starts a server, reads 4 KiB of the snapshot, and ends it.
    fn serve(&self, store: &str, way: &str) -> io::Result<Cost> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let snapshot = format!("s={}", path(store));
        let socket = path("socket");
        let nbd = format!("unix:{socket}");
        let begin = Instant::now();
        let mut server = Command::new(env!("CARGO_BIN_EXE_dmsnap"))
            .args(["serve", &path("origin"), "--snapshot", &snapshot, "--nbd", &nbd, "--io", way])
            .stdout(Stdio::piped())
            .spawn()?;
        let measured = first_read(&mut server, &socket).and_then(|()| {
            let seconds = begin.elapsed().as_secs_f64();
            Ok(Cost { seconds, resident_bytes: resident_bytes(server.id())? })
        });
        server.kill()?;
        server.wait()?;
        fs::remove_file(&socket)?;
        measured
    }
}

fn first_read(server: &mut Child, socket: &str) -> io::Result<()> {
    let out = server.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
    BufReader::new(out).read_line(&mut String::new())?;
    let options = ClientOptions { export: "s".into(), ..ClientOptions::default() };
    let client = Blocking::new(UnixStream::connect(socket)?, options);
    let read = client.and_then(|mut client| client.read(0, 4096));
    read.map(drop).map_err(io::Error::other)
}

fn resident_bytes(pid: u32) -> io::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0).ok_or_else(|| io::Error::other("no VmRSS"))
}

/// A permutation of the numbers below `end`: four rounds of a Feistel network, walked until it ends
/// inside.
fn permuted(n: u64, end: u64) -> u64 {
    let bits = end.next_power_of_two().ilog2().div_ceil(2);
    let mask = (1_u64 << bits) - 1;
    let mut value = n;
    loop {
        let (mut left, mut right) = (value >> bits, value & mask);
        for round in 1..=4_u64 {
            let mixed = (right + round).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 29;
            (left, right) = (right, (left ^ mixed) & mask);
        }
        value = left << bits | right;
        if value < end {
            return value;
        }
    }
}
