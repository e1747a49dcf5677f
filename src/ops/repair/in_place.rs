use std::io::Write;

use dmsnap_format::{CowChunk, Exception, Layout, StoreId, Tag, TagState};

use super::copy::{REQUESTS, most_chunks, moved};
use super::list::{Fate, Kept, List};
use super::options::RepairTarget;
use super::{Repaired, Salvage};
use crate::copy::{Alone, Engine, LARGE_READS, Moves, Observer, REQUEST_BYTES, Reader};
use crate::device::Device;
use crate::ops::pack::{Packed, pack_to_repair};
use crate::ops::{Error, Which};
use crate::store::Builder;

/// Chunks of the COW device that nobody uses, from the first after all that are used.
#[derive(Clone, Copy, Debug)]
struct Spare {
    layout: Layout,
    next: CowChunk,
}

impl Spare {
    fn take(&mut self) -> CowChunk {
        let taken = self.layout.skip_metadata(self.next);
        self.next = taken.plus(1);
        taken
    }
}

/// What the repaired store needs of its device.
struct Needs {
    spare: Spare,
    /// Chunks that become two.
    copies: u64,
    /// The least size of the device, in bytes.
    bytes: u64,
}

impl<C: Device> Salvage<'_, C> {
    /// Writes a pack of everything that a repair in place is about to write over:
    /// [`unpack`](crate::ops::unpack) brings the old metadata back.
    ///
    /// # Errors
    ///
    /// [`Error::Needs`]; an error of the device; [`Error::Consumer`] if `to` fails.
    pub async fn back_up<W: Write>(&self, to: &mut W) -> Result<Packed, Error> {
        let list = self.agreed()?;
        pack_to_repair(&list.reader, to, list.end()).await
    }

    /// Makes the store sound where it is. No data moves, but for chunks that several exceptions share.
    /// A [backup](Self::back_up) must be durable before.
    ///
    /// # Ordering
    ///
    /// 1. copy what several exceptions share to chunks that nobody uses          - the damaged store is as it was
    /// 2. zero the header, write a tag that says that a repair was begun, flush   - no store is here
    /// 3. write the areas, front to back; flush                                   - the list is whole
    /// 4. write the header with the old tag, flush                                - the sound store exists
    ///
    /// A crash before 4, and an error, leave the damaged store or, after 2, a device on which everybody finds
    /// [`Error::RepairBegun`]: the backup brings it back. `id` is for a
    /// store that has no tag.
    ///
    /// # Errors
    ///
    /// Before anything is written: [`Error::Needs`], [`Error::CowTooSmall`], [`Error::Stopped`]. Later: any error
    /// of the device. Once begun, it is not stopped.
    pub async fn in_place(&self, id: StoreId, observer: &impl Observer) -> Result<Repaired, Error> {
        let list = self.agreed()?;
        let (cow, layout) = (list.reader.device(), list.reader.layout());
        let Needs { spare, copies, bytes } = self.needs(list).await?;
        self.make_room(list, bytes).await?;
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let copied = match copies {
            0 => 0,
            copies => self.copy_shared(list, spare, (copies, observer)).await?,
        };
        let own = list.reader.tag().copied();
        let repairing = Tag { state: TagState::Repairing, ..own.unwrap_or(Tag::new(id)) };
        let mut builder = Builder::announced(cow, layout.chunk_size(), &repairing).await?;
        if let Some(tag) = own {
            builder.set_tag(tag);
        }
        // Slots are read ahead of those that are written: the list never becomes longer.
        let (mut batches, mut spare) = (Kept::new(list, &self.options), spare);
        while let Some(batch) = batches.next().await? {
            for (mut exception, fate) in batch {
                if fate == Fate::KeepCopy {
                    exception.new = spare.take();
                }
                builder.place_at(exception).await?;
            }
        }
        let exceptions = builder.finish().await?;
        let dropped = list.found - exceptions;
        Ok(Repaired { exceptions, dropped, bytes: copied, shared_bytes: 0 })
    }

    async fn needs(&self, list: &List<'_, C>) -> Result<Needs, Error> {
        let layout = list.reader.layout();
        let (mut newest, mut copies) = (CowChunk::new(0), 0);
        let mut batches = Kept::new(list, &self.options);
        while let Some(batch) = batches.next().await? {
            for (exception, fate) in batch {
                newest = newest.max(exception.new);
                copies += u64::from(fate == Fate::KeepCopy);
            }
        }
        let spare = Spare { layout, next: newest.plus(1).max(CowChunk::new(2)) };
        let mut last = spare;
        let after = (0..copies).map(|_| last.take().get() + 1).last().unwrap_or(0);
        let list_ends = layout.area_location(layout.position(list.kept()).0).get() + 1;
        let chunks = after.max(list_ends);
        Ok(Needs { spare, copies, bytes: chunks.saturating_mul(layout.chunk_size().bytes()) })
    }

    async fn make_room(&self, list: &List<'_, C>, needed_bytes: u64) -> Result<(), Error> {
        let (cow, cow_bytes) = (list.reader.device(), list.reader.cow_bytes());
        match self.options.target {
            _ if cow_bytes >= needed_bytes => Ok(()),
            RepairTarget::InPlace { can_grow: true } => {
                let grown = cow.grow(needed_bytes).await;
                grown.map_err(Error::io(Which::Cow, "cannot make it longer"))
            }
            _ => Err(Error::CowTooSmall { cow_bytes, needed_bytes }),
        }
    }

    /// Copies each chunk that is shared to one of its own. Says how many bytes.
    async fn copy_shared(
        &self,
        list: &List<'_, C>,
        mut spare: Spare,
        (copies, observer): (u64, &impl Observer),
    ) -> Result<u64, Error> {
        let (cow, layout) = (list.reader.device(), list.reader.layout());
        let origin_bytes = cow.len_bytes().map_err(Error::unknown_size(Which::Cow))?;
        let reader =
            Reader { cow, layout, origin_bytes, request_bytes: REQUEST_BYTES, reads: LARGE_READS };
        let engine = Engine::new(reader, Alone(cow), observer, REQUESTS);
        engine.set_total(copies.saturating_mul(layout.chunk_size().bytes()));
        let mut batches = Kept::new(list, &self.options);
        while let Some(batch) = batches.next().await? {
            let shared = batch.into_iter().filter(|(_, fate)| *fate == Fate::KeepCopy);
            let moves: Vec<Exception> =
                shared.map(|(exception, _)| moved(exception.new, spare.take())).collect();
            for moves in moves.chunks(most_chunks(layout.chunk_size())) {
                let moves = Moves::Copies(engine.reader.runs(moves.to_vec()));
                engine.bring(moves).await.map_err(Error::from)?;
            }
        }
        Ok(engine.done())
    }
}
