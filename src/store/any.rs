use dmsnap_format::{ChunkSize, OriginChunk, Usage};

use super::{Persistent, Prepared, Published, Store, StoreError, Transient};
use crate::device::Device;

/// A store of either kind.
#[derive(Debug)]
pub enum AnyStore<D> {
    /// In the kernel's format.
    Persistent(Persistent<D>),
    /// Gone with the process.
    Transient(Transient<D>),
}

impl<D: Device> AnyStore<D> {
    /// The COW device.
    pub fn device(&self) -> &D {
        match self {
            Self::Persistent(store) => store.device(),
            Self::Transient(store) => store.device(),
        }
    }

    /// The persistent store, if it is one: only that can be merged.
    pub fn persistent(&self) -> Option<&Persistent<D>> {
        match self {
            Self::Persistent(store) => Some(store),
            Self::Transient(_) => None,
        }
    }
}

macro_rules! either {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Self::Persistent($store) => $call,
            Self::Transient($store) => $call,
        }
    };
}

impl<D: Device> Store for AnyStore<D> {
    fn chunk_size(&self) -> ChunkSize {
        either!(self, store => store.chunk_size())
    }

    fn prepare(&self) -> Result<Prepared, StoreError> {
        either!(self, store => store.prepare())
    }

    fn commit(&self, prepared: Prepared, old: OriginChunk) {
        either!(self, store => store.commit(prepared, old));
    }

    fn abandon(&self, prepared: Prepared) {
        either!(self, store => store.abandon(prepared));
    }

    async fn publish(&self) -> Result<Published, StoreError> {
        either!(self, store => store.publish().await)
    }

    async fn clear(&self, count: u64) -> Result<(), StoreError> {
        either!(self, store => store.clear(count).await)
    }

    async fn invalidate(&self) -> Result<(), StoreError> {
        either!(self, store => store.invalidate().await)
    }

    async fn flush(&self) -> Result<(), StoreError> {
        either!(self, store => store.flush().await)
    }

    fn is_broken(&self) -> bool {
        either!(self, store => store.is_broken())
    }

    fn room_left(&self) -> u64 {
        either!(self, store => store.room_left())
    }

    fn published(&self) -> u64 {
        either!(self, store => store.published())
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        either!(self, store => store.usage())
    }
}
