//! Live volumes on simulated disks.

use std::rc::Rc;

use bytes::Bytes;
use dmsnap::device::{Device, DynDevice};
use dmsnap::format::ChunkSize;
use dmsnap::store::{AnyStore, Persistent, Strays, format};
use dmsnap::volume::{OnFull, Snapshot, SnapshotOptions, View, Volume};
use dmsnap_sim::{Disk, Power, run};

/// A volume on devices of any types. All of it is compiled anew for each pair of types, which takes seconds: so
/// there is one, which the simulation has too.
pub(crate) type AnyVolume = Volume<DynDevice, DynDevice>;
pub(crate) type AnySnapshot = Snapshot<DynDevice>;
pub(crate) type AnyView = View<DynDevice, DynDevice>;

pub(crate) fn any_volume(origin: impl Device + 'static) -> Rc<AnyVolume> {
    Rc::new(Volume::new(DynDevice::new(origin)).expect("a size"))
}

pub(crate) const SECTOR: u64 = 512;

pub(crate) fn data(tag: u64, sectors: u64) -> Bytes {
    (0..sectors).flat_map(|n| (tag + n).to_le_bytes().repeat(64)).collect()
}

pub(crate) fn origin(sectors: u64, power: &Power) -> Rc<Disk> {
    Rc::new(Disk::new(data(0, sectors).to_vec(), 512, power))
}

pub(crate) fn empty_cow(chunk_sectors: u32, chunks: u64, power: &Power) -> Rc<Disk> {
    let len = usize::try_from(chunks * u64::from(chunk_sectors) * SECTOR).expect("small");
    let disk = Disk::new(vec![0; len], 512, &Power::steady());
    run(format(&disk, ChunkSize::from_sectors(chunk_sectors).expect("legal"))).expect("formats");
    Rc::new(Disk::new(disk.content(), 512, power))
}

pub(crate) fn add(
    volume: &AnyVolume,
    name: &str,
    cow: impl Device + 'static,
    options: SnapshotOptions,
) -> Rc<AnySnapshot> {
    let mut exceptions = Vec::new();
    let cow = DynDevice::new(cow);
    let opened =
        Persistent::open(cow, Some(volume.len_bytes()), Strays::Refuse, |it| exceptions.push(it));
    let store = AnyStore::Persistent(run(opened).expect("opens"));
    run(volume.add(name, store, exceptions, options)).expect("added")
}

pub(crate) fn on_full(on_full: OnFull) -> SnapshotOptions {
    SnapshotOptions { on_full, ..SnapshotOptions::default() }
}

pub(crate) fn read_all<D: Device>(device: &D) -> Vec<u8> {
    let len = usize::try_from(device.len_bytes().expect("a size")).expect("small");
    run(device.read(0, len)).expect("readable").to_vec()
}
