use std::rc::Rc;

use super::strays::refuse_lost_front;
use super::{Error, Which};
use crate::device::Device;
use crate::store::{AnyStore, Persistent, Store};
use crate::volume::{Snapshot, SnapshotOptions, Volume};

/// Opens the store on `cow` for writing and adds it to `volume`, as [`Volume::open`] does, but for
/// one that has lost exceptions to an unaligned discard in a kernel: opening it would wipe what is
/// left of them.
///
/// # Ordering
///
/// Everything is read and judged, then [`Persistent::into_writable`] is called.
///
/// # Errors
///
/// [`Error::FrontZeroed`] for such a store; whatever [`Volume::open`] refuses.
pub async fn open_snapshot<O: Device, C: Device>(
    volume: &Volume<O, C>,
    name: &str,
    cow: C,
    options: SnapshotOptions,
) -> Result<Rc<Snapshot<C>>, Error> {
    let mut exceptions = Vec::new();
    let visit = |it| exceptions.push(it);
    let store = Persistent::open_read_only(cow, Some(volume.len_bytes()), visit).await?;
    refuse_lost_front(store.device(), store.layout(), store.published()).await?;
    let store = AnyStore::Persistent(store.into_writable().await?);
    let added = volume.add(name, store, exceptions, options).await;
    added.map_err(Error::io(Which::Cow, "cannot become a snapshot"))
}
