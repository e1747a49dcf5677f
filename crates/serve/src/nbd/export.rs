use std::io;
use std::ops::Range;

use dmsnap::device::Device;
use dmsnap_nbd::{Context, Extent, HOLE, MAX_STRING_BYTES, SECTOR_BYTES, ZERO};

/// Something that can be served.
#[allow(async_fn_in_trait, reason = "all of it stays on the device's thread")]
pub trait Export: 'static {
    /// What holds the bytes.
    type Device: Device;

    /// Clients ask for it by this name, of at most 4096 bytes.
    fn name(&self) -> &str;

    /// What holds the bytes.
    fn device(&self) -> &Self::Device;

    /// It is taken away: requests that wait for something that may take long, such as room, give up.
    fn hurry(&self) {}

    /// A line for people.
    fn description(&self) -> Option<String> {
        None
    }

    /// Are writes refused?
    fn read_only(&self) -> bool {
        false
    }

    /// The requests it likes best begin and end at a multiple of this many bytes, a power of two. What is less
    /// than 4096, or more than one request may have, is told as that.
    fn preferred_block_bytes(&self) -> u32 {
        self.device().block_bytes()
    }

    /// Is zeroing always much faster than writing? If not, a client that asks for fast zeroing is
    /// refused at once.
    fn has_fast_zeroes(&self) -> bool {
        false
    }

    /// Does a flush fail as long as something may be lost that an earlier one should have made
    /// durable? If not, the server lets no flush succeed after one that failed.
    fn remembers_failed_flushes(&self) -> bool {
        false
    }

    /// Are writes that came together better made together ([`Device::write_many`]), although they are
    /// then answered together? That is so where they become one request below.
    fn joins_writes(&self) -> bool {
        false
    }

    /// The kinds of metadata it knows of itself.
    fn contexts(&self) -> Vec<Context> {
        vec![Context::base_allocation()]
    }

    /// What `range` is made of: at most `most` extents (at least one), one after the other from
    /// the beginning of the range on. They may end before the range does, and past it.
    ///
    /// # Errors
    ///
    /// Any error of the device.
    async fn block_status(
        &self,
        context: &Context,
        range: Range<u64>,
        most: usize,
    ) -> io::Result<Vec<Extent>> {
        if *context != Context::base_allocation() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        allocation(self.device(), range, most).await
    }
}

/// The extents of `base:allocation` for a device: what [`Device::next_data`] passes over is hole and
/// zero.
///
/// # Errors
///
/// Any error of the device.
pub async fn allocation<D: Device>(
    device: &D,
    range: Range<u64>,
    most: usize,
) -> io::Result<Vec<Extent>> {
    let block = SECTOR_BYTES;
    let mut extents = Vec::new();
    let mut at = range.start;
    let mut put = |at: &mut u64, end: u64, flags| {
        let end = end.min(range.end);
        if end > *at {
            extents.push(Extent { len_bytes: end - *at, flags });
            *at = end;
        }
        extents.len()
    };
    while at < range.end {
        let Some(data) = device.next_data(at).await? else {
            put(&mut at, range.end, HOLE | ZERO);
            break;
        };
        if data.end <= at {
            return Err(io::Error::other(
                "the device names data before the place that was asked for",
            ));
        }
        // A block with any data in it is data.
        let data = data.start / block * block..data.end.next_multiple_of(block);
        if put(&mut at, data.start, HOLE | ZERO) >= most || put(&mut at, data.end, 0) >= most {
            break;
        }
    }
    Ok(extents)
}

/// What an export said about `range`, as it may be told: cut to the range and to `most`, nothing
/// empty, no two neighbours alike.
pub(super) fn tidied(
    extents: Vec<Extent>,
    range: &Range<u64>,
    most: usize,
) -> io::Result<Vec<Extent>> {
    let mut left = range.end - range.start;
    let mut tidy: Vec<Extent> = Vec::with_capacity(extents.len().min(most));
    for extent in extents {
        let len_bytes = extent.len_bytes.min(left);
        left -= len_bytes;
        let full = tidy.len() == most;
        match tidy.last_mut() {
            _ if len_bytes == 0 => {}
            Some(last) if last.flags == extent.flags => last.len_bytes += len_bytes,
            _ if full => break,
            _ => tidy.push(Extent { len_bytes, ..extent }),
        }
    }
    if tidy.is_empty() {
        return Err(io::Error::other("the export says nothing about the range"));
    }
    Ok(tidy)
}

/// Could a client ask for an export of this name?
pub(super) fn is_askable(name: &str) -> bool {
    name.len() <= MAX_STRING_BYTES && !name.contains('\0')
}
