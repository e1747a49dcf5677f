//! What the table of exceptions costs, in memory and time, next to the maps of the standard library.
//!
//! `cargo bench --bench table -- [--exceptions N] [--rounds N]`
//!
//! Two workloads: `random`, isolated chunks among 2^32, and `runs`, 1 to 64 consecutive chunks at
//! random places. New chunks are those of a store with 4 KiB chunks, in order. Every figure of
//! memory comes from a process of its own, where a counting allocator tells what was asked for and
//! the kernel what became resident. Times are medians over the rounds.

use std::alloc::System;
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Instant;

use cap::Cap;
use dmsnap::format::{ChunkSize, CowChunk, Exception, Layout, OriginChunk};
use dmsnap::table::Table;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

type Failure = Box<dyn std::error::Error>;

/// The promise for isolated chunks, in bytes for each exception with all overhead.
const PROMISE_BYTES: f64 = 8.0;

#[derive(Clone, Copy, PartialEq)]
enum Workload {
    Random,
    Runs,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Runs => "runs",
        }
    }

    /// The first `count` exceptions in store order. Another `salt` gives other chunks.
    fn exceptions(self, count: usize) -> Result<Vec<Exception>, Failure> {
        let layout = Layout::new(ChunkSize::from_sectors(8)?);
        let mut exceptions = Vec::with_capacity(count);
        let mut index = 0_u32;
        while exceptions.len() < count {
            let (first, len) = match self {
                Self::Random => (scatter(index, u32::MAX), 1),
                // Places 64 chunks apart, so that no two runs overlap.
                Self::Runs => (scatter(index, u32::MAX >> 6) << 6, 1 + u64::from(index * 37 % 64)),
            };
            index += 1;
            for old in (first..first + len).take(count - exceptions.len()) {
                let new = layout.lock_step_chunk(exceptions.len() as u64);
                exceptions.push(Exception { old: OriginChunk::new(old), new });
            }
        }
        Ok(exceptions)
    }
}

/// A permutation of the numbers up to `mask`: odd factors and shifts can be undone.
fn scatter(index: u32, mask: u32) -> u64 {
    let mut n = index.wrapping_mul(0x9e37_79b1) & mask;
    for factor in [0x85eb_ca6b_u32, 0xc2b2_ae35] {
        n = (n ^ (n >> 15)).wrapping_mul(factor) & mask;
    }
    (n ^ (n >> 13)).into()
}

/// What the three structures have in common.
trait Map: Sized {
    const NAME: &'static str;
    fn build(exceptions: Vec<Exception>) -> Self;
    fn insert(&mut self, exception: Exception);
    fn get(&self, old: OriginChunk) -> Option<CowChunk>;
    fn remove(&mut self, old: OriginChunk);
    fn empty() -> Self {
        Self::build(Vec::new())
    }
}

impl Map for Table {
    const NAME: &'static str = "Table";
    fn build(exceptions: Vec<Exception>) -> Self {
        Self::from_exceptions(exceptions).expect("no chunk comes twice")
    }
    fn insert(&mut self, exception: Exception) {
        self.insert(exception).expect("no chunk comes twice");
    }
    fn get(&self, old: OriginChunk) -> Option<CowChunk> {
        self.get(old)
    }
    fn remove(&mut self, old: OriginChunk) {
        self.remove(old);
    }
}

macro_rules! standard_map {
    ($map:ident) => {
        impl Map for $map<u64, u64> {
            const NAME: &'static str = stringify!($map);
            fn build(exceptions: Vec<Exception>) -> Self {
                exceptions.into_iter().map(|e| (e.old.get(), e.new.get())).collect()
            }
            fn insert(&mut self, exception: Exception) {
                self.insert(exception.old.get(), exception.new.get());
            }
            fn get(&self, old: OriginChunk) -> Option<CowChunk> {
                self.get(&old.get()).copied().map(CowChunk::new)
            }
            fn remove(&mut self, old: OriginChunk) {
                self.remove(&old.get());
            }
        }
    };
}
standard_map!(HashMap);
standard_map!(BTreeMap);

/// One line of figures of memory, in bytes for each exception.
struct Memory {
    live: f64,
    /// Most at any moment of the build, the exceptions handed in (16 bytes each) included.
    peak: f64,
    /// What became resident, so with all that the allocator rounds and cannot use again.
    resident: f64,
}

/// In this process, which has done nothing else yet.
fn measure_memory<M: Map>(exceptions: Vec<Exception>, bulk: bool) -> Result<Memory, Failure> {
    let count = exceptions.len() as f64;
    let input = exceptions.capacity() * size_of::<Exception>();
    let (allocated, resident) = (ALLOCATOR.allocated() - input, resident_bytes()?);
    let map = if bulk {
        M::build(exceptions)
    } else {
        let mut map = M::empty();
        exceptions.into_iter().for_each(|exception| map.insert(exception));
        map
    };
    let live = ALLOCATOR.allocated() - allocated;
    // The input was resident before, and is gone.
    let resident = (resident_bytes()? + input).saturating_sub(resident);
    let peak = ALLOCATOR.max_allocated() - allocated;
    drop(map);
    Ok(Memory {
        live: live as f64 / count,
        peak: peak as f64 / count,
        resident: resident as f64 / count,
    })
}

fn resident_bytes() -> Result<usize, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(kib.parse::<usize>()? * 1024)
}

/// Times of one structure, one entry for each round, in seconds.
#[derive(Default)]
struct Times {
    build: Vec<f64>,
    insert: Vec<f64>,
    hit: Vec<f64>,
    miss: Vec<f64>,
    remove: Vec<f64>,
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// Builds from all but the newest tenth, inserts that, looks up as many and takes it out again.
fn round<M: Map>(exceptions: &[Exception], times: &mut Times) {
    let (loaded, newest) = exceptions.split_at(exceptions.len() - exceptions.len() / 10);
    let input = loaded.to_vec();
    let mut map = None;
    times.build.push(seconds(|| map = Some(M::build(input))));
    let Some(mut map) = map else { return };
    times.insert.push(seconds(|| newest.iter().for_each(|&exception| map.insert(exception))));
    // Every tenth exception, by a stride that shares no factor with the count's.
    let asked: Vec<_> = (0..newest.len())
        .map(|index| exceptions[index * 7_368_787 % exceptions.len()].old)
        .collect();
    let absent: Vec<_> =
        asked.iter().map(|old| OriginChunk::new(old.get() ^ 0x5a5a_5a40)).collect();
    let look_up = |chunks: &[OriginChunk]| {
        let found = chunks.iter().filter(|&&old| black_box(map.get(black_box(old))).is_some());
        black_box(found.count());
    };
    times.hit.push(seconds(|| look_up(&asked)));
    times.miss.push(seconds(|| look_up(&absent)));
    times.remove.push(seconds(|| newest.iter().rev().for_each(|e| map.remove(e.old))));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds for the build, then millions of operations in a second.
fn figures(times: Times, count: usize) -> [f64; 5] {
    let tenth = (count / 10) as f64;
    let rate = |values| tenth / median(values) / 1e6;
    let Times { build, insert, hit, miss, remove } = times;
    [median(build), rate(insert), rate(hit), rate(miss), rate(remove)]
}

struct Options {
    exceptions: usize,
    rounds: usize,
    /// Print the figures of memory of this structure and end: how a process asks its child.
    memory: Option<(String, String, bool)>,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options { exceptions: 10_000_000, rounds: 3, memory: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--exceptions" => options.exceptions = value()?.parse()?,
            "--rounds" => options.rounds = value()?.parse()?,
            "--memory" => options.memory = Some((value()?, value()?, value()? == "built")),
            // Cargo adds it.
            "--bench" => {}
            _ => return Err(format!("unknown option {word}").into()),
        }
    }
    if options.exceptions < 1000 || options.rounds == 0 {
        return Err("at least 1000 exceptions and one round".into());
    }
    Ok(options)
}

/// As the child: one line with the three figures.
fn print_memory(map: &str, workload: &str, bulk: bool, count: usize) -> Result<(), Failure> {
    let workload = if workload == "runs" { Workload::Runs } else { Workload::Random };
    let exceptions = workload.exceptions(count)?;
    let memory = match map {
        "Table" => measure_memory::<Table>(exceptions, bulk)?,
        "HashMap" => measure_memory::<HashMap<u64, u64>>(exceptions, bulk)?,
        _ => measure_memory::<BTreeMap<u64, u64>>(exceptions, bulk)?,
    };
    println!("{} {} {}", memory.live, memory.peak, memory.resident);
    Ok(())
}

/// As the parent: what a child says.
fn memory_of(map: &str, workload: Workload, how: &str, count: usize) -> Result<Memory, Failure> {
    let child = Command::new(std::env::current_exe()?)
        .args(["--exceptions", &count.to_string(), "--memory", map, workload.name(), how])
        .output()?;
    let told = String::from_utf8(child.stdout)?;
    let figures: Vec<f64> = told.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let &[live, peak, resident] = figures.as_slice() else {
        return Err(format!("no figures: {}", String::from_utf8_lossy(&child.stderr)).into());
    };
    Ok(Memory { live, peak, resident })
}

/// Prints one workload; false if the promise is broken.
fn report(workload: Workload, options: &Options) -> Result<bool, Failure> {
    let count = options.exceptions;
    println!("{}: {count} exceptions", workload.name());
    println!("  bytes/exception             live     peak  resident");
    let mut kept = true;
    let structures =
        [("Table", "built"), ("Table", "grown"), ("BTreeMap", "grown"), ("HashMap", "grown")];
    for (map, how) in structures {
        let Memory { live, peak, resident } = memory_of(map, workload, how, count)?;
        println!("  {map:9} {how:12} {live:9.3} {peak:8.3} {resident:9.3}");
        kept &= map != "Table" || live.max(resident) <= PROMISE_BYTES;
    }
    let exceptions = workload.exceptions(count)?;
    let [mut table, mut tree, mut hash] = [(); 3].map(|()| Times::default());
    // In turn, so that a disturbance of the machine meets all three.
    for _ in 0..options.rounds {
        round::<Table>(&exceptions, &mut table);
        round::<BTreeMap<u64, u64>>(&exceptions, &mut tree);
        round::<HashMap<u64, u64>>(&exceptions, &mut hash);
    }
    let [table, tree, hash] = [table, tree, hash].map(|times| figures(times, count));
    println!(
        "                   {:>9} {:>9} {:>9}   Table is faster by",
        Table::NAME,
        "BTreeMap",
        "HashMap"
    );
    let rows = ["build, s", "insert, M/s", "hit, M/s", "miss, M/s", "remove, M/s"];
    for (index, row) in rows.iter().enumerate() {
        let (own, others) = (table[index], [tree[index], hash[index]]);
        let factor = others.map(|other| if index == 0 { other / own } else { own / other });
        println!(
            "  {row:16} {own:9.3} {:9.3} {:9.3}   {:.2} and {:.2}",
            others[0], others[1], factor[0], factor[1]
        );
    }
    Ok(kept)
}

fn run() -> Result<bool, Failure> {
    let options = options()?;
    if let Some((map, workload, bulk)) = &options.memory {
        print_memory(map, workload, *bulk, options.exceptions)?;
        return Ok(true);
    }
    Ok(report(Workload::Random, &options)? & report(Workload::Runs, &options)?)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("table: more than {PROMISE_BYTES} bytes for each exception");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("table: {error}");
            ExitCode::FAILURE
        }
    }
}
