//! Merging a store of random 4 KiB chunks, compared with a bare program that copies the same bytes.
//!
//! `cargo bench --bench merge [-- --mib 512] [--origin-gib 4] [--rounds 5] [--dir DIR]`
//!
//! The bare program is the least that could do the job: it reads all exceptions, sorts them by
//! origin chunk, reads the data in one sweep, writes each chunk and ends with one fsync. It checks
//! nothing, keeps the whole delta in memory, and forgets no exception: killed half-way it has to
//! begin anew, and nobody knows that it has to. Both take turns in one process on the same files.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use dmsnap::device::{self, Caching, Mode};
use dmsnap::format::{ChunkSize, Layout, RawException, RawHeader};
use dmsnap::ops::{self, MergeOptions, Merged, Silent};
use zerocopy::IntoBytes;

const CHUNK: u64 = 4096;

fn main() -> io::Result<()> {
    let setup = Setup::from_args()?;
    let world = World::make(&setup)?;
    println!(
        "merging {} exceptions, {} MiB in random 4 KiB chunks, into {} GiB; {} rounds, in turns",
        world.olds.len(),
        setup.mib,
        setup.origin_gib,
        setup.rounds
    );
    let mut seconds: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut last = Merged::default();
    for _ in 0..setup.rounds {
        for name in ["bare", "direct", "buffered"] {
            world.reset()?;
            let begin = Instant::now();
            match name {
                "bare" => world.bare()?,
                "direct" => last = world.merge(Caching::Direct)?,
                _ => last = world.merge(Caching::Buffered)?,
            }
            seconds.entry(name).or_default().push(begin.elapsed().as_secs_f64());
            world.verify()?;
        }
    }
    for (name, seconds) in &mut seconds {
        seconds.sort_by(f64::total_cmp);
        let (least, most) = (seconds[0], seconds[seconds.len() - 1]);
        println!("{name:>9}: median {:.3} s  (min {least:.3}, max {most:.3})", median(seconds));
    }
    for name in ["direct", "buffered"] {
        println!("{name:>9} / bare: {:.2}", median(&seconds[name]) / median(&seconds["bare"]));
    }
    println!(
        "windows {}, flushes of the origin {}, of the COW device {}, metadata writes {}",
        last.windows, last.origin_flushes, last.cow_flushes, last.metadata_writes
    );
    println!(
        "flushes per window: {:.2}",
        (last.origin_flushes + last.cow_flushes) as f64 / last.windows as f64
    );
    Ok(())
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

struct Setup {
    mib: u64,
    origin_gib: u64,
    rounds: u32,
    dir: PathBuf,
}

impl Setup {
    fn from_args() -> io::Result<Self> {
        let mut setup = Self { mib: 512, origin_gib: 4, rounds: 5, dir: std::env::temp_dir() };
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_string());
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| wrong(&format!("{name} wants a value")))?;
            let number = || value.parse().map_err(|_| wrong(&format!("{value}: not a number")));
            match name.as_str() {
                "--mib" => setup.mib = number()?,
                "--origin-gib" => setup.origin_gib = number()?,
                "--rounds" => setup.rounds = u32::try_from(number()?).map_err(io::Error::other)?,
                "--dir" => setup.dir = value.into(),
                _ => return Err(wrong(&format!("unknown option {name}"))),
            }
        }
        Ok(setup)
    }
}

/// The files, gone when dropped.
struct World {
    cow: PathBuf,
    origin: PathBuf,
    olds: Vec<u64>,
    layout: Layout,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.cow);
        let _ = std::fs::remove_file(&self.origin);
    }
}

impl World {
    fn make(setup: &Setup) -> io::Result<Self> {
        let name =
            |kind: &str| setup.dir.join(format!("dmsnap-bench-{}.{kind}", std::process::id()));
        let chunk_size = ChunkSize::from_sectors(8).map_err(io::Error::other)?;
        let world = Self {
            cow: name("cow"),
            origin: name("origin"),
            olds: scattered(setup.mib << 8, setup.origin_gib << 18),
            layout: Layout::new(chunk_size),
        };
        let origin = File::create(&world.origin)?;
        let filler = vec![0x5A; 1 << 20];
        for mib in 0..setup.origin_gib << 10 {
            origin.write_all_at(&filler, mib << 20)?;
        }
        let cow = File::create(&world.cow)?;
        cow.set_len(world.layout.chunks_needed(world.olds.len() as u64) * CHUNK)?;
        cow.write_all_at(RawHeader::new(chunk_size, true).as_bytes(), 0)?;
        for (index, old) in (0..).zip(&world.olds) {
            cow.write_all_at(&data_of(*old), world.layout.lock_step_chunk(index).get() * CHUNK)?;
        }
        Ok(world)
    }

    /// Every exception back in its slot, everything on the disk.
    fn reset(&self) -> io::Result<()> {
        let cow = OpenOptions::new().write(true).open(&self.cow)?;
        let per_area = usize::try_from(self.layout.exceptions_per_area()).unwrap_or(usize::MAX);
        for (area, olds) in (0..).zip(self.olds.chunks(per_area)) {
            let first = area * per_area as u64;
            let slots: Vec<RawException> = (first..)
                .zip(olds)
                .map(|(index, old)| RawException {
                    old: (*old).into(),
                    new: self.layout.lock_step_chunk(index).get().into(),
                })
                .collect();
            let at = self.layout.area_location(area).get() * CHUNK;
            cow.write_all_at(slots.as_bytes(), at)?;
        }
        cow.sync_all()?;
        File::open(&self.origin)?.sync_all()
    }

    fn merge(&self, caching: Caching) -> io::Result<Merged> {
        compio::runtime::Runtime::new()?.block_on(async {
            let cow = device::File::open(&self.cow, Mode::Write, caching).await;
            let origin = device::File::open(&self.origin, Mode::Write, caching).await;
            let (cow, origin) = (cow.map_err(io::Error::other)?, origin.map_err(io::Error::other)?);
            let merged = ops::merge(cow, origin, MergeOptions::default(), &Silent).await;
            merged.map_err(io::Error::other)
        })
    }

    fn bare(&self) -> io::Result<()> {
        let cow = File::open(&self.cow)?;
        let origin = OpenOptions::new().write(true).open(&self.origin)?;
        let mut bytes = vec![0; usize::try_from(cow.metadata()?.len()).unwrap_or(usize::MAX)];
        for (piece, at) in bytes.chunks_mut(1 << 20).zip((0_u64..).step_by(1 << 20)) {
            cow.read_exact_at(piece, at)?;
        }
        let mut moves = Vec::new();
        for area in 0.. {
            let at = byte(self.layout.area_location(area).get());
            let slots = RawException::slots(&bytes[at..at + 4096]);
            moves.extend(slots.iter().map_while(RawException::decode));
            if moves.len() as u64 != (area + 1) * self.layout.exceptions_per_area() {
                break;
            }
        }
        moves.sort_unstable_by_key(|exception| exception.old);
        for exception in moves {
            let data = &bytes[byte(exception.new.get())..][..4096];
            origin.write_all_at(data, exception.old.get() * CHUNK)?;
        }
        origin.sync_data()
    }

    /// Every 97th chunk is where it belongs.
    fn verify(&self) -> io::Result<()> {
        let origin = File::open(&self.origin)?;
        let mut found = [0; 4096];
        for old in self.olds.iter().step_by(97) {
            origin.read_exact_at(&mut found, old * CHUNK)?;
            if found != data_of(*old) {
                return Err(io::Error::other(format!("chunk {old} is wrong after the merge")));
            }
        }
        Ok(())
    }
}

fn byte(chunk: u64) -> usize {
    usize::try_from(chunk * CHUNK).unwrap_or(usize::MAX)
}

fn data_of(old: u64) -> [u8; 4096] {
    let mut data = [0; 4096];
    for word in data.chunks_exact_mut(8) {
        word.copy_from_slice(&(old | 1 << 40).to_le_bytes());
    }
    data
}

/// `count` different numbers below `end`, in random order, the same each time.
fn scattered(count: u64, end: u64) -> Vec<u64> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut taken = std::collections::HashSet::new();
    let mut olds = Vec::new();
    while (olds.len() as u64) < count.min(end) {
        let old = draw() % end;
        if taken.insert(old) {
            olds.push(old);
        }
    }
    olds
}
