use std::io;
use std::ops::Range;
use std::rc::Rc;

use dmsnap::device::Device;
use dmsnap::volume::{Layer, Snapshot, View, Volume};

use crate::nbd::{Context, Export, Extent, HOLE, ZERO};

/// The name of a volume's origin among its exports.
pub const ORIGIN: &str = "origin";

/// A volume's origin or one of its snapshots, to be served.
///
/// Clients can ask which chunks differ: `qemu:dirty-bitmap:NAME` is set where the origin may have changed since
/// snapshot NAME was made ([`Volume::changed_since`]). It is the table the snapshot lives by, so it survives crashes as
/// the snapshot does, and is not offered for one that was dropped, or whose merge was begun.
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
        let mut told = match &self.snapshot {
            Some(snapshot) => vec![snapshot.clone()],
            None => self.volume.snapshots(),
        };
        told.retain(|it| self.volume.tells_changes(it));
        told
    }

    fn chunk_bytes(&self) -> u32 {
        let of = |it: &Snapshot<C>| u32::try_from(it.chunk_size().bytes()).unwrap_or(u32::MAX);
        match &self.snapshot {
            Some(snapshot) => of(snapshot),
            None => self.volume.snapshots().iter().map(|it| of(it)).max().unwrap_or(0),
        }
    }

    /// 1 where the snapshot itself holds the bytes (on the origin: where it does), 2 where they
    /// are the origin's below a snapshot, 0 in holes.
    fn depth(&self, layer: Layer) -> u32 {
        match layer {
            Layer::Hole => 0,
            Layer::Origin if self.snapshot.is_some() => 2,
            Layer::Saved | Layer::Origin => 1,
        }
    }

    async fn layers(
        &self,
        range: Range<u64>,
        most: usize,
        flags: impl Fn(Layer) -> u32,
    ) -> io::Result<Vec<Extent>> {
        let layers = self.view.layers(range, most).await?.into_iter();
        Ok(layers.map(|(len_bytes, it)| Extent { len_bytes, flags: flags(it) }).collect())
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

    fn hurry(&self) {
        self.view.stop_waiting_for_room();
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

    /// A request that fills whole chunks copies nothing.
    fn preferred_block_bytes(&self) -> u32 {
        self.chunk_bytes()
    }

    /// New chunks of a snapshot lie one behind the other.
    fn joins_writes(&self) -> bool {
        self.snapshot.is_some()
    }

    fn contexts(&self) -> Vec<Context> {
        let bitmaps = self.told().into_iter().map(|it| bitmap(&it));
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
            // What is saved is data, also where it holds zeroes.
            let flags = |layer| if layer == Layer::Hole { HOLE | ZERO } else { 0 };
            return self.layers(range, most, flags).await;
        }
        if *context == Context::allocation_depth() {
            return self.layers(range, most, |layer| self.depth(layer)).await;
        }
        let snapshot = self.told().into_iter().find(|it| bitmap(it) == *context);
        let snapshot = snapshot.ok_or_else(|| {
            io::Error::other(
                "the snapshot no longer tells what has changed: dropped, merged or removed",
            )
        })?;
        let changes = self.volume.changed_since(&snapshot, range, most)?.into_iter();
        let extent = |(len_bytes, changed)| Extent { len_bytes, flags: u32::from(changed) };
        Ok(changes.map(extent).collect())
    }
}

/// Another snapshot that comes under the same name is another one.
fn bitmap<C: Device>(snapshot: &Snapshot<C>) -> Context {
    Context::dirty_bitmap(snapshot.name()).of(snapshot.id())
}
