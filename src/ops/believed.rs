use dmsnap_format::Exception;

use super::devices::{refuse_changed, right_way_round, shown_bytes};
use super::{Error, ExportOptions};
use crate::device::Device;
use crate::store::{BaseFence, Ledger, Reader};

/// A store whose exceptions can be believed, all of them.
#[derive(Debug)]
pub(super) struct Believed {
    pub(super) chunk_bytes: u64,
    /// What was told.
    pub(super) ledger: Ledger,
    /// The size of the snapshot; `None` if nobody says it.
    pub(super) len_bytes: Option<u64>,
    /// What it remembers of its origin; nothing, if that is to be ignored.
    pub(super) fence: BaseFence,
}

/// Tells `visit` every exception of a store, in the order of the slots. What was told counts only if this
/// succeeds.
///
/// # Errors
///
/// Devices that look swapped, an invalid store (unless allowed), an exception that cannot be believed, an origin
/// that is not what the store remembers (unless ignored); an error of a device.
pub(super) async fn believe<C: Device, O: Device>(
    cow: &C,
    origin: Option<&O>,
    options: ExportOptions,
    mut visit: impl FnMut(Exception),
) -> Result<Believed, Error> {
    if let Some(origin) = origin {
        right_way_round(cow, origin, true).await?;
    }
    let told_bytes = shown_bytes(cow, origin, options.len_bytes).await?;
    let reader = Reader::open(cow, told_bytes).await?;
    if !reader.header().valid && !options.allow_invalid {
        return Err(Error::Invalid);
    }
    let mut fence = reader.fence();
    let believed = reader.believe(|exception| {
        fence.see(exception.old);
        visit(exception);
    });
    let ledger = believed.await?;
    if let Some(origin) = origin.filter(|_| reader.header().valid && !options.ignore_fence) {
        refuse_changed(&fence, origin).await?;
    }
    let chunk_bytes = reader.layout().chunk_size().bytes();
    // The origin may have been made longer since the store was made for it.
    let holds = |len: &u64| ledger.max_old().is_none_or(|old| old < len.div_ceil(chunk_bytes));
    let made_for = reader.tag().map(|tag| tag.origin_bytes).filter(|len| *len > 0 && holds(len));
    Ok(Believed {
        chunk_bytes,
        ledger,
        len_bytes: told_bytes.or(made_for),
        fence: if options.ignore_fence { BaseFence::default() } else { fence },
    })
}
