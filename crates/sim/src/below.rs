use std::io;
use std::rc::Rc;

use dmsnap::device::Device;
use dmsnap::volume::{SnapshotOptions, View, Volume};

use crate::naive;

/// What lies below a volume's origin.
pub(crate) trait Below: 'static {
    /// The origin, on such disks.
    type Origin<D: Device + 'static>: Device + 'static;

    /// Opens it. `disks` may be more than it needs.
    #[allow(async_fn_in_trait, reason = "a volume lives on one thread")]
    async fn open<D: Device + 'static>(disks: &[Rc<D>]) -> io::Result<Self::Origin<D>>;

    /// What it holds, without a line of what is tested.
    ///
    /// # Errors
    ///
    /// In words, why no kernel could say.
    fn content(contents: &[Vec<u8>]) -> Result<Vec<u8>, String>;
}

/// The origin is the first disk.
#[derive(Debug)]
pub(crate) enum Bare {}

impl Below for Bare {
    type Origin<D: Device + 'static> = Rc<D>;

    async fn open<D: Device + 'static>(disks: &[Rc<D>]) -> io::Result<Rc<D>> {
        Ok(disks[0].clone())
    }

    fn content(contents: &[Vec<u8>]) -> Result<Vec<u8>, String> {
        Ok(contents[0].clone())
    }
}

/// The origin is a snapshot, on the second disk, of the first one.
#[derive(Debug)]
pub(crate) enum Stacked {}

impl Below for Stacked {
    type Origin<D: Device + 'static> = View<Rc<D>, Rc<D>>;

    async fn open<D: Device + 'static>(disks: &[Rc<D>]) -> io::Result<View<Rc<D>, Rc<D>>> {
        let volume = Rc::new(Volume::new(disks[0].clone())?);
        let opened = volume.open("below", disks[1].clone(), SnapshotOptions::default());
        let snapshot = opened.await?;
        Ok(View::snapshot(&volume, &snapshot))
    }

    fn content(contents: &[Vec<u8>]) -> Result<Vec<u8>, String> {
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
