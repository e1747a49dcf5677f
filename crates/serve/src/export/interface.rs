use std::io;
use std::ops::Range;

use dmsnap::device::Device;

use super::allocation::allocation;
use super::extent::{Extent, StatusKind};

/// The longest name of an export, in bytes.
pub const MAX_NAME_BYTES: usize = 4096;

/// Something that can be served.
#[allow(async_fn_in_trait, reason = "all of it stays on the device's thread")]
pub trait Export: 'static {
    /// What holds the bytes.
    type Device: Device;

    /// Clients ask for it by this name, of at most [`MAX_NAME_BYTES`].
    fn name(&self) -> &str;

    /// What holds the bytes.
    fn device(&self) -> &Self::Device;

    /// Makes every write that has completed durable.
    ///
    /// After one that failed, none may succeed as long as something may be lost that it should have made
    /// durable: systems report a loss once. Where the device does not see to that itself, flush it through
    /// a [`Barrier`](dmsnap::device::Barrier).
    ///
    /// # Errors
    ///
    /// Any error of the device.
    async fn flush(&self) -> io::Result<()>;

    /// It is taken away: requests that wait for something that may take long, such as room, give up.
    fn stop_waiting_for_room(&self) {}

    /// A line for people.
    fn description(&self) -> Option<String> {
        None
    }

    /// Are writes refused? Asked once, when it is added.
    fn read_only(&self) -> bool {
        false
    }

    /// The requests it likes best begin and end at a multiple of this many bytes, a power of two.
    fn preferred_block_bytes(&self) -> u32 {
        self.device().block_bytes()
    }

    /// Are writes that came together better made together ([`Device::write_many`]), although they are
    /// then answered together? That is so where they become one request below.
    fn joins_writes(&self) -> bool {
        false
    }

    /// What can be asked about its ranges.
    fn status_kinds(&self) -> Vec<StatusKind> {
        vec![StatusKind::Allocation]
    }

    /// What `range` is made of: at most `most` extents (at least one), one after the other from
    /// the beginning of the range on. They may end before the range does, and past it.
    ///
    /// # Errors
    ///
    /// Any error of the device.
    async fn status(
        &self,
        kind: &StatusKind,
        range: Range<u64>,
        most: usize,
    ) -> io::Result<Vec<Extent>> {
        match kind {
            StatusKind::Allocation => allocation(self.device(), range, most).await,
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}
