use dmsnap_format::{Fence, StoreId, Tag, TagState};

use super::Snapshot;
use crate::device::Device;
use crate::store::{Persistent, StoreError};
use crate::volume::error::VolumeError;

/// Whom its store belongs to. Every tag is durable when its call returns; none is written that is there already.
impl<C: Device> Snapshot<C> {
    /// Whom its store belongs to, if it says so.
    pub fn tag(&self) -> Option<Tag> {
        self.store.persistent().and_then(Persistent::tag)
    }

    /// True if it keeps what a merge of its partner writes over: to be looked at, not to be written.
    pub fn is_way_back(&self) -> bool {
        let tag = self.tag();
        tag.is_some_and(|it| it.state == TagState::Undo && it.partner.is_some() && !it.undone)
    }

    /// Its store is the merged one of two partners, and may get exceptions that the other does not keep: from now on a
    /// merge of it without the other is refused.
    ///
    /// # Errors
    ///
    /// An error of the COW device.
    pub async fn need_partner(&self) -> Result<(), VolumeError> {
        match self.tag() {
            Some(tag) if tag.state == TagState::Merging => {
                self.write_tag(Tag { needs_partner: true, ..tag }).await
            }
            _ => Ok(()),
        }
    }

    /// Gives the store a name, unless it has one.
    pub(in crate::volume) async fn named(&self, id: StoreId) -> Result<StoreId, VolumeError> {
        match self.tag() {
            Some(tag) => Ok(tag.id),
            None => self.write_tag(Tag::new(id)).await.map(|()| id),
        }
    }

    /// The partner of its store keeps what a merge of it writes over, while the merge runs.
    pub(in crate::volume) async fn merge_with(&self, partner: StoreId) -> Result<(), VolumeError> {
        self.change_tag(|tag| Tag {
            state: TagState::Merging,
            partner: Some(partner),
            undone: false,
            needs_partner: true,
            ..tag
        })
        .await
    }

    /// An undo begins: its store keeps what the merge of its partner writes over.
    pub(in crate::volume) async fn keep_for_undo(&self) -> Result<(), VolumeError> {
        self.change_tag(|tag| Tag {
            state: TagState::Undo,
            undone: true,
            needs_partner: false,
            ..tag
        })
        .await
    }

    /// An undo begins: its store is merged, and its partner keeps what that writes over.
    pub(in crate::volume) async fn merge_for_undo(&self) -> Result<(), VolumeError> {
        self.change_tag(|tag| Tag {
            state: TagState::Merging,
            undone: true,
            needs_partner: true,
            ..tag
        })
        .await
    }

    /// The merge is done: an ordinary store again.
    pub(in crate::volume) async fn settle(&self) -> Result<(), VolumeError> {
        self.change_tag(|tag| Tag { state: TagState::Plain, needs_partner: false, ..tag }).await
    }

    /// The store remembers this of the origin.
    pub(in crate::volume) async fn remember(&self, fence: Fence) -> Result<(), VolumeError> {
        self.change_tag(|tag| Tag { fence, ..tag }).await
    }

    /// No merge of it can be taken back.
    pub(in crate::volume) async fn forget_partner(&self) -> Result<(), VolumeError> {
        self.change_tag(|tag| Tag {
            state: TagState::Plain,
            partner: None,
            needs_partner: false,
            ..tag
        })
        .await
    }

    async fn change_tag(&self, change: impl FnOnce(Tag) -> Tag) -> Result<(), VolumeError> {
        match self.tag() {
            Some(tag) => self.write_tag(change(tag)).await,
            None => Ok(()),
        }
    }

    /// Any other tag.
    pub(in crate::volume) async fn write_tag(&self, tag: Tag) -> Result<(), VolumeError> {
        let Some(store) = self.store.persistent() else { return Ok(()) };
        if store.tag() == Some(tag) {
            return Ok(());
        }
        let _under_way = self.store_writes.enter(0..1);
        self.standing.present()?;
        self.standing.usable()?;
        let written = match store.is_read_only() {
            true => Err(StoreError::ReadOnly),
            false => store.set_tag(tag).await,
        };
        written.map_err(VolumeError::Store)
    }
}
