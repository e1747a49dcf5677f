use std::ops::Range;

use crate::device::Device;

/// Where chunks are brought, and who else is there.
pub(crate) trait Target {
    /// What they are written to.
    type Device: Device;

    /// The same.
    fn device(&self) -> &Self::Device;

    /// Returns when nobody reads these bytes any more: they may be written over.
    async fn wait_unread(&self, range: Range<u64>);
}

/// A device that nobody else uses.
pub(crate) struct Alone<'a, O>(pub(crate) &'a O);

impl<O: Device> Target for Alone<'_, O> {
    type Device = O;

    fn device(&self) -> &O {
        self.0
    }

    async fn wait_unread(&self, _: Range<u64>) {}
}
