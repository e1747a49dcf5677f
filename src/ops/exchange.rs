//! Two stores of one origin, each of which can take back what a merge of the other has done.

use dmsnap_format::{Exception, Fence, Layout, StoreId, Tag, TagState, sampled_bytes};

use super::create::refuse_content;
use super::devices::{begins_with_store, merged_bytes, whole_sectors};
use super::old_data::{How, Keeper, Kept, Merging, Target, keep_whole};
use super::{Error, MergeOptions, Observer, Which, pair};
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::{Loaded, Store, StoreError, Strays, read_tag, take_fence, write_tag};
use crate::table::Table;

/// What a merge with a way back knows before anything is written.
pub(super) struct Known<'a, C, O> {
    pub(super) merging: Merging<'a, C>,
    pub(super) target: Target<'a, O>,
    pub(super) tag: Option<Tag>,
    /// What the store may go on remembering of its origin.
    fence: Fence,
}

/// What the device holds that is to have the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Blank,
    /// The other store of this merge.
    Partner,
}

impl<'a, C: Device, O: Device> Known<'a, C, O> {
    pub(super) async fn of(
        cow: &'a C,
        origin: &'a O,
        options: MergeOptions,
    ) -> Result<Self, Error> {
        let target =
            Target { origin, len_bytes: merged_bytes(cow, origin, options.len_bytes).await? };
        let loaded = Loaded::read(cow, Some(target.len_bytes), |_| {}).await?;
        let (layout, exceptions) = (loaded.layout(), loaded.published());
        let fence = loaded.fence().without_exceptions();
        let merging = Merging { cow, layout, exceptions };
        Ok(Self { merging, target, tag: loaded.tag().copied(), fence })
    }

    /// Refuses what cannot become, or is not, the undo store of this merge.
    pub(super) async fn look_at(
        &self,
        undo: &C,
        needed_bytes: u64,
        options: MergeOptions,
    ) -> Result<Found, Error> {
        if begins_with_store(undo, Which::Cow).await.map_err(Error::of_undo)? {
            let theirs = read_tag(undo).await.map_err(Error::of_undo)?;
            return match (&self.tag, &theirs) {
                (Some(ours), Some(theirs)) if pair::are_partners(ours, theirs) => {
                    self.refuse_settled(ours, undo).await.map(|()| Found::Partner)
                }
                _ => Err(Error::of_undo(Error::HoldsStore)),
            };
        }
        self.blank(options)?;
        let found_bytes = whole_sectors(undo, Which::Cow).map_err(Error::of_undo)?;
        if found_bytes < needed_bytes {
            return Err(Error::of_undo(Error::UndoTooSmall { found_bytes, needed_bytes }));
        }
        let chunk_size = self.merging.layout.chunk_size();
        let tag = read_tag(undo).await.map_err(Error::of_undo)?;
        // What a merge that was cut off has left there is nothing yet.
        let is_left = tag.is_some_and(|tag| tag.state == TagState::Filling);
        let refused = refuse_content(undo, found_bytes, chunk_size, options.force || is_left).await;
        refused.map_err(Error::of_undo)?;
        Ok(Found::Blank)
    }

    /// A new store: unless another one has the way back already.
    pub(super) fn blank(&self, options: MergeOptions) -> Result<Found, Error> {
        if !options.forget_undo {
            pair::refuse_other_way_back(self.tag.as_ref())?;
        }
        Ok(Found::Blank)
    }

    /// The way back of a merge that is done cannot be that of another one as well.
    async fn refuse_settled(&self, ours: &Tag, undo: &C) -> Result<(), Error> {
        let is_another = ours.state == TagState::Plain && self.merging.exceptions > 0;
        if !is_another || ours.partner.is_none() {
            return Ok(());
        }
        let undo = Loaded::read(undo, None, |_| {}).await.map_err(Error::of_undo)?;
        match undo.published() {
            0 => Ok(()),
            _ => Err(Error::of_undo(Error::HoldsStore)),
        }
    }
}

/// Makes the undo store of a merge. See [`merge_undoable`](super::merge_undoable).
pub(super) async fn keep_new<C: Device, O: Device>(
    undo: &C,
    [undo_id, own_id]: [StoreId; 2],
    known: &Known<'_, C, O>,
    how: How<'_, impl Observer>,
) -> Result<Kept, Error> {
    let Known { merging, target, tag, fence } = known;
    let chunk_size = merging.layout.chunk_size();
    let own = tag.unwrap_or(Tag::new(own_id));
    let origin_bytes = target.len_bytes;
    let undo_tag = Tag {
        state: TagState::Undo,
        partner: Some(own.id),
        origin_bytes,
        fence: fence_of(*merging, *target, undo_id).await?,
        ..Tag::new(undo_id)
    };
    let merging_tag = Tag {
        state: TagState::Merging,
        partner: Some(undo_id),
        undone: false,
        needs_partner: false,
        fence: *fence,
        ..own
    };
    let name = async || -> Result<(), Error> {
        if planted(Planted::TagBeforeHeader) {
            return Ok(write_tag(merging.cow, chunk_size, &merging_tag).await?);
        }
        match tag {
            Some(_) => Ok(()),
            None => Ok(write_tag(merging.cow, chunk_size, &own).await?),
        }
    };
    let kept = keep_whole(undo, *merging, *target, (undo_tag, name), how).await?;
    if !planted(Planted::TagBeforeHeader) {
        write_tag(merging.cow, chunk_size, &merging_tag).await?;
    }
    Ok(kept)
}

/// What the new undo store remembers of the origin: chunks that the merge does not write.
async fn fence_of<C: Device, O: Device>(
    merging: Merging<'_, C>,
    Target { origin, len_bytes }: Target<'_, O>,
    id: StoreId,
) -> Result<Fence, Error> {
    let chunk_size = merging.layout.chunk_size();
    let chunks: Vec<u64> = sampled_bytes(chunk_size, len_bytes, id.bytes())
        .map(|at| at / chunk_size.bytes())
        .collect();
    let mut merged = Vec::new();
    let visit = |it: Exception| {
        if chunks.contains(&it.old.get()) {
            merged.push(it.old);
        }
    };
    Loaded::read(merging.cow, Some(len_bytes), visit).await?;
    let taken =
        take_fence(origin, (chunk_size, len_bytes), id.bytes(), |old| merged.contains(&old)).await;
    taken.map_err(Error::io(Which::Origin, "cannot read what is to be remembered"))
}

/// One store is about to be merged, and the other has to keep what it shows.
pub(super) struct Exchange<'a, C> {
    pub(super) keeper: &'a C,
    pub(super) merging: Merging<'a, C>,
    /// It is an undo that exchanges them.
    pub(super) undone: bool,
}

impl<C: Device> Exchange<'_, C> {
    /// How many chunks are to be kept. Writes nothing.
    ///
    /// # Errors
    ///
    /// As [`keep`](Self::keep) before anything is kept.
    pub(super) async fn plan(&self, len_bytes: u64) -> Result<u64, Error> {
        let mut table = Table::new();
        let loaded = load(self.keeper, len_bytes, &mut table).await?;
        let layout = loaded.layout();
        if layout != self.merging.layout {
            return Err(Error::NotPartners);
        }
        let chunks = layout.chunk_size().whole_chunks(whole_sectors(self.keeper, Which::Cow)?);
        let store = loaded.into_read_only();
        let missing = Keeper { store: &store, table: &table }.missing(self.merging).await?;
        match layout.capacity(chunks).saturating_sub(store.published()) {
            room if missing > room => Err(Error::NoRoomToKeep { chunks: missing, room }),
            _ => Ok(missing),
        }
    }

    /// Keeps what is missing, then writes the tags: that of the keeper first. What they say already is not
    /// written again. Returns also how many exceptions the keeper had before.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoomToKeep`] before anything is kept; those of [`Keeper::keep_missing`].
    pub(super) async fn keep<O: Device>(
        &self,
        target: Target<'_, O>,
        how: How<'_, impl Observer>,
    ) -> Result<(Kept, u64), Error> {
        let Self { keeper: cow, merging, undone } = *self;
        let mut table = Table::new();
        let loaded = load(cow, target.len_bytes, &mut table).await?;
        if loaded.layout() != merging.layout {
            return Err(Error::NotPartners);
        }
        let strays = if how.options.force { Strays::Wipe } else { Strays::Refuse };
        let store = loaded.into_writable(strays).await?;
        let keeper = Keeper { store: &store, table: &table };
        let (held, missing) = (store.published(), keeper.missing(merging).await?);
        let room = store.room_left();
        if missing > room {
            return Err(Error::NoRoomToKeep { chunks: missing, room });
        }
        let kept = keeper.keep_missing(merging, target, missing, how).await?;
        let theirs = read_tag(merging.cow).await?.ok_or(Error::NotPartners)?;
        let ours = store.tag().ok_or(Error::NotPartners)?;
        let as_keeper = Tag {
            state: TagState::Undo,
            partner: Some(theirs.id),
            undone,
            needs_partner: false,
            ..ours
        };
        if as_keeper != ours {
            store.set_tag(as_keeper).await?;
        }
        let as_merging = Tag {
            state: TagState::Merging,
            partner: Some(ours.id),
            undone,
            needs_partner: false,
            ..theirs
        };
        if as_merging != theirs {
            write_tag(merging.cow, merging.layout.chunk_size(), &as_merging).await?;
        }
        Ok((kept, held))
    }
}

/// Marks the snapshot as dropped, durably, and then the undo store as one that may be merged by itself.
pub(super) async fn drop_snapshot<C: Device>(
    cow: &C,
    len_bytes: u64,
    tag: &Tag,
    merging: Merging<'_, C>,
) -> Result<Kept, Error> {
    match Loaded::read(cow, Some(len_bytes), |_| {}).await {
        Ok(loaded) => loaded.into_writable(Strays::Wipe).await?.invalidate().await?,
        Err(StoreError::Invalid) => {}
        Err(error) => return Err(error.into()),
    }
    let tag = Tag { state: TagState::Merging, undone: true, needs_partner: false, ..*tag };
    let written = write_tag(merging.cow, merging.layout.chunk_size(), &tag).await;
    written.map_err(Error::of_undo)?;
    Ok(Kept::default())
}

/// The merge of this store is done: it is an ordinary one again, durably.
pub(super) async fn settle<C: Device>(cow: &C, layout: Layout) -> Result<(), Error> {
    match read_tag(cow).await? {
        Some(tag) if tag.state != TagState::Plain => {
            let tag = Tag { state: TagState::Plain, needs_partner: false, ..tag };
            Ok(write_tag(cow, layout.chunk_size(), &tag).await?)
        }
        _ => Ok(()),
    }
}

/// The tags of both stores.
pub(super) async fn tags<C: Device>(cow: &C, undo: &C) -> Result<(Tag, Tag), Error> {
    let ours = read_tag(cow).await?;
    let theirs = read_tag(undo).await.map_err(Error::of_undo)?;
    ours.zip(theirs).ok_or_else(|| Error::of_undo(Error::NotPartners))
}

/// Reads a valid store, and its exceptions into a table.
pub(super) async fn load<'a, C: Device>(
    cow: &'a C,
    len_bytes: u64,
    table: &mut Table,
) -> Result<Loaded<&'a C>, StoreError> {
    Loaded::read(cow, Some(len_bytes), |exception| {
        // The list has none twice: it was judged.
        let _inserted = table.insert(exception);
    })
    .await
}
