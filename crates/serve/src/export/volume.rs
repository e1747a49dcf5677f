use std::io;
use std::ops::Range;
use std::rc::Rc;

use dmsnap::device::Device;
use dmsnap::volume::{Layer, Snapshot, View, Volume};

use super::extent::{Extent, HOLE, StatusKind, ZERO};
use super::interface::Export;

/// The name of a volume's origin among its exports.
pub const ORIGIN: &str = "origin";

/// A volume's origin or one of its snapshots, to be served.
///
/// Clients can ask which chunks differ: [`StatusKind::ChangedSince`] is set where the origin may have changed since
/// a snapshot was made ([`Volume::changed_since`]). It is the table the snapshot lives by, so it survives crashes as
/// the snapshot does, and is not offered for one that was dropped, or whose merge was begun.
#[derive(Debug)]
pub struct VolumeExport<O, C> {
    name: String,
    view: View<O, C>,
    volume: Rc<Volume<O, C>>,
    snapshot: Option<Rc<Snapshot<C>>>,
    read_only: bool,
}

impl<O: Device, C: Device> VolumeExport<O, C> {
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

    fn changes(
        &self,
        kind: &StatusKind,
        range: Range<u64>,
        most: usize,
    ) -> io::Result<Vec<Extent>> {
        let snapshot = self.told().into_iter().find(|it| changed_since(it) == *kind);
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

impl<O: Device + 'static, C: Device + 'static> Export for VolumeExport<O, C> {
    type Device = View<O, C>;

    fn name(&self) -> &str {
        &self.name
    }

    fn device(&self) -> &View<O, C> {
        &self.view
    }

    async fn flush(&self) -> io::Result<()> {
        // After a flush for which there was no room nothing is lost, and the volume knows that.
        self.view.flush().await
    }

    fn stop_waiting_for_room(&self) {
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

    /// A request that fills whole chunks copies nothing.
    fn preferred_block_bytes(&self) -> u32 {
        self.chunk_bytes()
    }

    /// New chunks of a snapshot lie one after the other.
    fn joins_writes(&self) -> bool {
        self.snapshot.is_some()
    }

    fn status_kinds(&self) -> Vec<StatusKind> {
        let changes = self.told().into_iter().map(|it| changed_since(&it));
        [StatusKind::Allocation, StatusKind::Depth].into_iter().chain(changes).collect()
    }

    async fn status(
        &self,
        kind: &StatusKind,
        range: Range<u64>,
        most: usize,
    ) -> io::Result<Vec<Extent>> {
        match kind {
            StatusKind::Allocation => {
                // What is saved is data, also where it holds zeroes.
                let flags = |layer| if layer == Layer::Hole { HOLE | ZERO } else { 0 };
                self.layers(range, most, flags).await
            }
            StatusKind::Depth => self.layers(range, most, |layer| self.depth(layer)).await,
            StatusKind::ChangedSince { .. } => self.changes(kind, range, most),
        }
    }
}

/// Another snapshot that comes under the same name is another one.
fn changed_since<C: Device>(snapshot: &Snapshot<C>) -> StatusKind {
    StatusKind::ChangedSince { snapshot: snapshot.name().into(), id: snapshot.id() }
}
