use std::ops::Range;

use bytes::Bytes;

use super::Error;
use super::sparse::Sparse;
use crate::device::Device;

/// Bytes from front to back that can be read piece by piece.
pub(super) trait Content {
    fn len_bytes(&self) -> u64;

    /// A piece, which lies inside; `None` if all of it is known to be a hole.
    async fn piece(&self, range: Range<u64>) -> Result<Option<Bytes>, Error>;
}

/// All of a device.
pub(super) struct Whole<'a, D> {
    pub(super) sparse: Sparse<'a, D>,
    pub(super) len_bytes: u64,
}

impl<D: Device> Content for Whole<'_, D> {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    async fn piece(&self, range: Range<u64>) -> Result<Option<Bytes>, Error> {
        match self.sparse.data_in(range.clone()).await? {
            Some(_) => self.sparse.read(range.start, range.end - range.start).await.map(Some),
            None => Ok(None),
        }
    }
}
