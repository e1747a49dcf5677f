use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::rc::{Rc, Weak};

use dmsnap::device::Device;
use dmsnap::volume::{Snapshot, State, View, Volume};

use crate::nbd::{Context, Export, Extent, HOLE, ZERO, allocation, allocation_by};

/// Exceptions that nobody flushes are published when this many ticks have added none.
const IDLE_TICKS: u32 = 3;

/// The name of a volume's origin among its exports.
pub const ORIGIN: &str = "origin";

/// A volume's origin or one of its snapshots, to be served.
///
/// Clients can ask which chunks differ: `qemu:dirty-bitmap:NAME` is set where snapshot NAME has an
/// exception. It is the table the snapshot lives by, so it survives crashes as the snapshot does.
#[derive(Debug)]
pub struct Live<O, C> {
    name: String,
    view: View<O, C>,
    volume: Rc<Volume<O, C>>,
    snapshot: Option<Rc<Snapshot<C>>>,
    read_only: bool,
}

impl<O: Device, C: Device> Live<O, C> {
    /// The origin, as the export [`ORIGIN`].
    pub fn origin(volume: &Rc<Volume<O, C>>, read_only: bool) -> Self {
        Self {
            name: ORIGIN.into(),
            view: View::origin(volume),
            volume: volume.clone(),
            snapshot: None,
            read_only,
        }
    }

    /// A snapshot, under its own name.
    pub fn snapshot(
        volume: &Rc<Volume<O, C>>,
        snapshot: &Rc<Snapshot<C>>,
        read_only: bool,
    ) -> Self {
        Self {
            name: snapshot.name().into(),
            view: View::snapshot(volume, snapshot),
            volume: volume.clone(),
            snapshot: Some(snapshot.clone()),
            read_only,
        }
    }

    /// The same under another name.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// The snapshots whose changes this export can tell.
    fn told(&self) -> Vec<Rc<Snapshot<C>>> {
        match &self.snapshot {
            Some(snapshot) => vec![snapshot.clone()],
            None => self.volume.snapshots(),
        }
    }

    /// 1 where the snapshot itself holds the bytes (on the origin: where it does), 2 where they
    /// are the origin's below a snapshot, 0 in holes.
    async fn depth(&self, range: Range<u64>, most: usize) -> io::Result<Vec<Extent>> {
        let Some(snapshot) = &self.snapshot else {
            let extents = allocation(&self.view, range, most).await?;
            let depth = |flags| u32::from(flags & HOLE == 0);
            return Ok(extents
                .into_iter()
                .map(|it| Extent { flags: depth(it.flags), ..it })
                .collect());
        };
        let below = Below { origin: View::origin(&self.volume), known: RefCell::default() };
        let mut extents = Vec::new();
        let mut at = range.start;
        for (len_bytes, saved) in snapshot.changes(range, most) {
            if saved {
                extents.push(Extent { len_bytes, flags: 1 });
            } else {
                let next_data = async |at| below.next_data(at).await;
                let below = allocation_by(next_data, at..at + len_bytes, most).await?;
                extents.extend(below.into_iter().map(|it| {
                    let flags = if it.flags & HOLE == 0 { 2 } else { 0 };
                    Extent { flags, ..it }
                }));
            }
            at += len_bytes;
        }
        Ok(extents)
    }

    /// What is saved is data, also where it holds zeroes.
    async fn base(&self, range: Range<u64>, most: usize) -> io::Result<Vec<Extent>> {
        if self.snapshot.is_none() {
            return allocation(&self.view, range, most).await;
        }
        let layers = self.depth(range, most).await?.into_iter();
        let flags = |depth| if depth == 0 { HOLE | ZERO } else { 0 };
        Ok(layers.map(|it| Extent { flags: flags(it.flags), ..it }).collect())
    }
}

/// Where the origin below a snapshot has data, asked once for a whole stretch: a file system takes its
/// time to answer, and a scattered snapshot asks for each gap.
struct Below<O, C> {
    origin: View<O, C>,
    /// The last question and its answer.
    known: RefCell<Option<(u64, Option<Range<u64>>)>>,
}

impl<O: Device, C: Device> Below<O, C> {
    async fn next_data(&self, at: u64) -> io::Result<Option<Range<u64>>> {
        if let Some((asked, data)) = &*self.known.borrow()
            && *asked <= at
            && data.as_ref().is_none_or(|data| at < data.end)
        {
            return Ok(data.clone().map(|data| data.start.max(at)..data.end));
        }
        let data = self.origin.next_data(at).await?;
        self.known.replace(Some((at, data.clone())));
        Ok(data)
    }
}

impl<O: Device + 'static, C: Device + 'static> Export for Live<O, C> {
    type Device = View<O, C>;

    fn name(&self) -> &str {
        &self.name
    }

    fn device(&self) -> &View<O, C> {
        &self.view
    }

    fn description(&self) -> Option<String> {
        Some(match &self.snapshot {
            Some(snapshot) => format!("snapshot, chunks of {}", snapshot.chunk_size()),
            None => "the origin".into(),
        })
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    /// The volume knows better: after a flush for which there was no room nothing is lost.
    fn remembers_failed_flushes(&self) -> bool {
        true
    }

    /// New chunks of a snapshot lie one behind the other.
    fn joins_writes(&self) -> bool {
        self.snapshot.is_some()
    }

    fn contexts(&self) -> Vec<Context> {
        let bitmaps = self.told().into_iter().map(|it| Context::dirty_bitmap(it.name()));
        [Context::base_allocation(), Context::allocation_depth()]
            .into_iter()
            .chain(bitmaps)
            .collect()
    }

    async fn block_status(
        &self,
        context: &Context,
        range: Range<u64>,
        most: usize,
    ) -> io::Result<Vec<Extent>> {
        if *context == Context::base_allocation() {
            return self.base(range, most).await;
        }
        if *context == Context::allocation_depth() {
            return self.depth(range, most).await;
        }
        let meant = |it: &Rc<Snapshot<C>>| Context::dirty_bitmap(it.name()) == *context;
        let snapshot = self.told().into_iter().find(meant).ok_or(io::ErrorKind::Unsupported)?;
        // What waits in memory has changed the origin as well, for whoever wrote it.
        self.volume.write_back().await;
        let changes = snapshot.changes(range, most);
        let extent = |(len_bytes, saved)| Extent { len_bytes, flags: u32::from(saved) };
        Ok(changes.into_iter().map(extent).collect())
    }
}

/// What a volume wants to be done about once a second, by whoever has a clock.
#[derive(Debug)]
pub struct Keeper<O, C> {
    volume: Rc<Volume<O, C>>,
    /// Unpublished exceptions of each snapshot when last looked at, and for how many ticks.
    /// One that was taken out is kept by nobody: its COW device is free at once.
    seen: Vec<(Weak<Snapshot<C>>, u64, u32)>,
}

impl<O: Device, C: Device> Keeper<O, C> {
    /// For a volume.
    pub fn new(volume: Rc<Volume<O, C>>) -> Self {
        Self { volume, seen: Vec::new() }
    }

    /// Lets the volume's time pass, and publishes what idle snapshots have not. A failure to publish
    /// is the next client's to hear: its write or flush meets the same.
    pub async fn tick(&mut self) {
        self.volume.tick();
        let snapshots = self.volume.snapshots();
        self.seen.retain(|(known, ..)| snapshots.iter().any(|it| is(known, it)));
        for snapshot in snapshots {
            let now = snapshot.unpublished();
            let known = self.seen.iter_mut().find(|(known, ..)| is(known, &snapshot));
            let idle = match known {
                Some((_, before, ticks)) if *before == now => {
                    *ticks += 1;
                    *ticks
                }
                Some((_, before, ticks)) => {
                    (*before, *ticks) = (now, 0);
                    0
                }
                None => {
                    self.seen.push((Rc::downgrade(&snapshot), now, 0));
                    0
                }
            };
            if now > 0 && idle == IDLE_TICKS && snapshot.state() != State::Invalid {
                let _ = self.volume.publish(&snapshot).await;
            }
        }
    }
}

fn is<C>(known: &Weak<Snapshot<C>>, snapshot: &Rc<Snapshot<C>>) -> bool {
    std::ptr::eq(known.as_ptr(), Rc::as_ptr(snapshot))
}
