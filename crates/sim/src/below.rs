use std::io;
use std::rc::Rc;

use dmsnap::device::{Device, DynDevice};
use dmsnap::volume::{Snapshot, SnapshotOptions, View, Volume};

use crate::naive;

/// A volume of the simulation. All of it is compiled for each pair of types of devices: so there is one pair,
/// whatever the devices are.
pub(crate) type SimVolume = Volume<DynDevice, DynDevice>;

/// One of its snapshots.
pub(crate) type SimSnapshot = Snapshot<DynDevice>;

/// What one of its clients has.
pub(crate) type SimView = View<DynDevice, DynDevice>;

/// A device that others hold as well.
pub(crate) fn any<D: Device + 'static>(device: &Rc<D>) -> DynDevice {
    DynDevice::new(device.clone())
}

/// What lies below a volume's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Below {
    /// The origin is the first disk.
    Nothing,
    /// The origin is a snapshot, on the second disk, of the first one.
    Volume,
}

impl Below {
    /// Opens the origin. `disks` may be more than it needs.
    pub(crate) async fn open<D: Device + 'static>(self, disks: &[Rc<D>]) -> io::Result<DynDevice> {
        match self {
            Self::Nothing => Ok(any(&disks[0])),
            Self::Volume => {
                let volume = Rc::new(SimVolume::new(any(&disks[0]))?);
                let opened = volume.open("below", any(&disks[1]), SnapshotOptions::default());
                let snapshot = opened.await?;
                Ok(DynDevice::new(View::snapshot(&volume, &snapshot)))
            }
        }
    }

    /// What the origin holds, without a line of what is tested.
    ///
    /// # Errors
    ///
    /// In words, why no kernel could say.
    pub(crate) fn content(self, contents: &[Vec<u8>]) -> Result<Vec<u8>, String> {
        if self == Self::Nothing {
            return Ok(contents[0].clone());
        }
        match naive::read(&contents[1]) {
            naive::Found::Store(store) if store.valid => {
                match store.wrong(contents[1].len(), contents[0].len()) {
                    Some(wrong) => Err(format!("the store below: {wrong}")),
                    None => Ok(store.view(&contents[0], &contents[1])),
                }
            }
            other => Err(format!("the store below: {other:?}")),
        }
    }
}
