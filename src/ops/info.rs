use dmsnap_format::{Run, Tag, TagState, VERSION};

use super::Error;
use crate::device::Device;
use crate::store::{Ledger, Reader, StoreError, read_header, read_tag};

/// What a store holds, and how full it is.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Info {
    /// False once the snapshot was dropped.
    pub valid: bool,
    /// Always 1.
    pub version: u32,
    /// In sectors.
    pub chunk_size_sectors: u32,
    /// What `dmsetup status` prints after the target's name: `used/total metadata`, or `Invalid`.
    pub status: String,
    /// Size of the COW device, in sectors.
    pub total_sectors: u64,
    /// In sectors, metadata included.
    pub allocated_sectors: u64,
    /// In sectors.
    pub metadata_sectors: u64,
    /// 0 to 100, as LVM counts it.
    pub percent: f64,
    /// How many exceptions there are.
    pub exceptions: u64,
    /// How many runs of consecutive chunks, in the order of the slots.
    pub runs: u64,
    /// The most exceptions that fit on the device.
    pub capacity_exceptions: u64,
    /// Data chunks that no exception uses, below the next free one.
    pub holes: u64,
    /// The next chunk a kernel would give out.
    pub next_free_chunk: u64,
    /// Exceptions whose chunk is not the one an in-order writer gives their slot.
    pub out_of_order: u64,
    /// The least size of an origin that has all the chunks, in sectors (the last chunk may be
    /// partial).
    pub origin_at_least_sectors: u64,
    /// True if a kernel that fills the device to its last chunk drops the snapshot.
    pub kernel_loses_last_chunk: bool,
    /// Whom the store belongs to, if it says so.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub owner: Option<Owner>,
}

/// What the tag of a store says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Owner {
    /// The store's own name.
    pub id: String,
    /// `plain`, `undo`, `merging`, or what a later version says.
    pub state: String,
    /// The other store of a merge that can be taken back.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub partner: Option<String>,
    /// The size of the origin, in bytes; 0 if it is not known.
    pub origin_bytes: u64,
    /// The size of what the snapshot shows, in bytes; 0 if it is that of the origin.
    pub snapshot_bytes: u64,
    /// How many samples of the origin it remembers.
    pub origin_samples: usize,
}

impl From<&Tag> for Owner {
    fn from(tag: &Tag) -> Self {
        let state = match tag.state {
            TagState::Plain => "plain".into(),
            TagState::Undo => "undo".into(),
            TagState::Merging => "merging".into(),
            TagState::Filling => "filling".into(),
            TagState::Repairing => "repairing".into(),
            other => format!("{other:?}").to_lowercase(),
        };
        Self {
            id: tag.id.to_string(),
            state,
            partner: tag.partner.map(|partner| partner.to_string()),
            origin_bytes: tag.origin_bytes,
            snapshot_bytes: tag.snapshot_bytes,
            origin_samples: tag.fence.samples().len(),
        }
    }
}

/// What the store on `cow` says of whom it belongs to, if there is a store and it does. Reads the first sector alone.
///
/// # Errors
///
/// [`Error::RepairBegun`]; an error of the device.
pub async fn owner<C: Device>(cow: &C) -> Result<Option<Owner>, Error> {
    match read_header(cow).await {
        Ok(_) => Ok(read_tag(cow).await?.as_ref().map(Owner::from)),
        Err(error @ (StoreError::Io { .. } | StoreError::RepairBegun)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// Reads header and areas, of an invalid store too. What the exceptions say is counted, not judged:
/// that is [`check`](super::check)'s.
///
/// # Errors
///
/// [`Error::Header`] if no kernel would open the device; [`Error::Damaged`] if the list of
/// exceptions has no end; an error of the device.
pub async fn info<C: Device>(cow: &C) -> Result<Info, Error> {
    let reader = Reader::open(cow, None).await?;
    let (header, layout, extents) = (reader.header(), reader.layout(), reader.extents());
    let mut ledger = Ledger::new(extents);
    let (mut runs, mut run) = (0, None::<Run>);
    reader
        .exceptions(|_, exception| {
            let _judged_elsewhere = ledger.admit(exception);
            if !run.as_mut().is_some_and(|run| run.extend(exception)) {
                run = Some(exception.into());
                runs += 1;
            }
            Ok::<_, Error>(())
        })
        .await?;
    let tally = ledger.tally();
    let usage = tally.usage(reader.cow_bytes());
    let chunk = u64::from(header.chunk_size.sectors());
    Ok(Info {
        valid: header.valid,
        version: VERSION,
        chunk_size_sectors: header.chunk_size.sectors(),
        status: if header.valid { usage.to_string() } else { "Invalid".into() },
        total_sectors: usage.total,
        allocated_sectors: usage.allocated,
        metadata_sectors: usage.metadata,
        percent: usage.percent(),
        exceptions: tally.exceptions(),
        runs,
        capacity_exceptions: layout.capacity(extents.cow_chunks),
        holes: tally.holes(),
        next_free_chunk: tally.next_free().get(),
        out_of_order: ledger.out_of_order(),
        origin_at_least_sectors: ledger
            .max_old()
            .map_or(0, |old| old.saturating_mul(chunk).saturating_add(1)),
        kernel_loses_last_chunk: layout.kernel_loses_last_chunk(extents.cow_chunks),
        owner: reader.tag().map(Owner::from),
    })
}
