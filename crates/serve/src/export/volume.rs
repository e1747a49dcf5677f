use std::io;
use std::ops::Range;
use std::rc::Rc;

use dmsnap::device::Device;
use dmsnap::volume::{Layer, Snapshot, View, Volume, VolumeError};

use super::extent::{Extent, HOLE, StatusKind, ZERO};
use super::interface::Export;

/// The name of a volume's origin among its exports.
pub const ORIGIN: &str = "origin";

/// A volume's origin or one of its snapshots, to be served.
///
/// Clients can ask which chunks differ: [`StatusKind::ChangedSince`] is set where the origin may have changed since
/// a snapshot was made ([`Volume::changed_since`]), and between two snapshots where they may differ
/// ([`Volume::different`]). It is the tables the snapshots live by, so it survives crashes as they do, and is not
/// offered for one that was dropped, or whose merge was begun.
#[derive(Debug)]
pub struct VolumeExport<O, C> {
    name: String,
    view: View<O, C>,
    volume: Rc<Volume<O, C>>,
    snapshot: Option<Rc<Snapshot<C>>>,
    read_only: bool,
}

impl<O: Device, C: Device> VolumeExport<O, C> {
    /// The origin, as the export [`ORIGIN`]. One that is [open for reading alone](Device::is_read_only) can
    /// only be read.
    pub fn origin(volume: &Rc<Volume<O, C>>, read_only: bool) -> Self {
        Self {
            name: ORIGIN.into(),
            view: View::origin(volume),
            volume: volume.clone(),
            snapshot: None,
            read_only: read_only || volume.origin_device().is_read_only(),
        }
    }

    /// A snapshot, under its own name. One that keeps the way back of a merge can only be read.
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
            read_only: read_only || snapshot.is_way_back(),
        }
    }

    /// The same under another name.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// The snapshots from which this export can tell its difference; of a snapshot also itself, which stands
    /// for the origin.
    fn told(&self) -> Vec<Rc<Snapshot<C>>> {
        let tells = |it: &Rc<Snapshot<C>>| self.volume.tells_changes(it);
        if self.snapshot.as_ref().is_some_and(|own| !tells(own)) {
            return Vec::new();
        }
        self.volume.snapshots().into_iter().filter(tells).collect()
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
        let named = match (kind, &self.snapshot) {
            (StatusKind::DiffersFromOrigin, Some(own)) => Some(own.clone()),
            _ => self.told().into_iter().find(|it| changed_since(it) == *kind),
        };
        let named = named.ok_or(VolumeError::ChangesUnknown)?;
        let changes = match &self.snapshot {
            Some(own) if !Rc::ptr_eq(own, &named) => {
                self.volume.different([own, &named], range, most)
            }
            _ => self.volume.changed_since(&named, range, most),
        };
        let changes = changes?.into_iter();
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
        let told = self.told();
        let from_origin = !told.is_empty() && self.snapshot.is_some();
        [StatusKind::Allocation, StatusKind::Depth]
            .into_iter()
            .chain(from_origin.then_some(StatusKind::DiffersFromOrigin))
            .chain(told.iter().map(|it| changed_since(it)))
            .collect()
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
            StatusKind::DiffersFromOrigin | StatusKind::ChangedSince { .. } => {
                self.changes(kind, range, most)
            }
        }
    }
}

/// Another snapshot that comes under the same name is another one.
fn changed_since<C: Device>(snapshot: &Snapshot<C>) -> StatusKind {
    StatusKind::ChangedSince { snapshot: snapshot.name().into(), id: snapshot.id() }
}
