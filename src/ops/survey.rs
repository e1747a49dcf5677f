use dmsnap_format::{Exception, Extents, Header, Layout, MAGIC, SECTOR_BYTES};

use super::{Error, Which};
use crate::device::Device;
use crate::store::{End, Ledger, Place, StoreError, read_exceptions, read_header};

/// What every task on a store begins with: its header, held against the devices' sizes.
pub(super) struct Survey {
    pub(super) header: Header,
    pub(super) layout: Layout,
    pub(super) extents: Extents,
    /// As the device tells it, for messages; what counts is in whole chunks.
    pub(super) cow_bytes: u64,
}

impl Survey {
    /// Of a store in whatever state that a kernel would open.
    pub(super) async fn of<C: Device>(cow: &C, origin_bytes: Option<u64>) -> Result<Self, Error> {
        let header = read_header(cow).await?;
        let layout = Layout::new(header.chunk_size);
        let cow_bytes =
            cow.len_bytes().map_err(Error::io(Which::Cow, "cannot find out the size"))?;
        let extents = Extents::new(layout, cow_bytes, origin_bytes);
        Ok(Self { header, layout, extents, cow_bytes })
    }

    /// Visits every exception as it stands, with its index; an error if the list has no end.
    pub(super) async fn exceptions<C: Device>(
        &self,
        cow: &C,
        visit: impl FnMut(u64, Exception) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match read_exceptions(cow, self.extents, visit).await? {
            (_, End::Terminator) => Ok(()),
            (_, End::Missing { area }) => {
                Err(StoreError::NoTerminator { area, cow_bytes: self.cow_bytes }.into())
            }
        }
    }

    /// Visits every exception and refuses at the first that cannot be believed.
    pub(super) async fn believe<C: Device>(
        &self,
        cow: &C,
        mut visit: impl FnMut(Exception),
    ) -> Result<Ledger, Error> {
        let mut ledger = Ledger::new(self.extents);
        self.exceptions(cow, |index, exception| {
            let place = Place::of(self.layout, index);
            visit(exception);
            let admitted = ledger.admit(exception);
            admitted.map_err(|fault| StoreError::Fault { place, exception, fault }.into())
        })
        .await?;
        Ok(ledger)
    }
}

/// The size of a device in whole sectors, as bytes: what lies behind the last whole sector of a
/// file is no part of any block device.
pub(super) fn whole_sectors<D: Device>(device: &D, which: Which) -> Result<u64, Error> {
    let len = device.len_bytes().map_err(Error::io(which, "cannot find out the size"))?;
    Ok(len - len % SECTOR_BYTES)
}

/// Refuses devices that look swapped, or (without `force`) an origin that looks like a store.
pub(super) async fn right_way_round<C: Device, O: Device>(
    cow: &C,
    origin: &O,
    force: bool,
) -> Result<(), Error> {
    let cow_is_store = has_magic(cow, Which::Cow).await?;
    match (cow_is_store, has_magic(origin, Which::Origin).await?) {
        (false, true) => Err(Error::Swapped),
        (true, true) if !force => Err(Error::OriginIsStore),
        _ => Ok(()),
    }
}

/// True if the device begins like a store, in whatever state.
pub(super) async fn has_magic<D: Device>(device: &D, which: Which) -> Result<bool, Error> {
    if whole_sectors(device, which)? == 0 {
        return Ok(false);
    }
    let first = device.read(0, 512).await;
    Ok(first.map_err(Error::io(which, "cannot read the first sector"))?.starts_with(&MAGIC))
}
