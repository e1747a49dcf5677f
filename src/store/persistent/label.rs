use dmsnap_format::{Fence, Tag};

use super::Persistent;
use crate::device::Device;
use crate::planted::{Planted, planted};
use crate::store::StoreError;
use crate::store::tag::put_tag;

impl<D: Device> Persistent<D> {
    /// Whom the store belongs to, if it says so.
    pub fn tag(&self) -> Option<Tag> {
        self.tag.borrow().as_deref().copied()
    }

    /// Writes a tag, durably.
    ///
    /// # Ordering
    ///
    /// 1. write the first unit of chunk 0, with the header as it is
    /// 2. flush
    ///
    /// A crash before 2 leaves the old tag or the new one, and the same exceptions.
    ///
    /// # Errors
    ///
    /// Any error of the device, which ends the use of the store for writing, unless there is no room for the write.
    pub async fn set_tag(&self, tag: Tag) -> Result<(), StoreError> {
        let _turn = self.writer.lock().await;
        self.usable()?;
        let written = async {
            put_tag(&self.slots.cow, self.slots.layout.chunk_size(), &tag).await?;
            self.slots.make_durable("the tag").await
        };
        // The old tag counts until the next one is written: there may be room for it then.
        self.change_again(written).await?;
        self.tag.replace(Some(Box::new(tag)));
        Ok(())
    }

    /// The origin is about to change under this store without old data being kept in it: what it remembers of the
    /// origin is forgotten, durably. Nothing is written if there is nothing.
    ///
    /// # Errors
    ///
    /// As [`set_tag`](Self::set_tag).
    pub async fn forget_origin(&self) -> Result<(), StoreError> {
        match self.tag() {
            Some(tag) if tag.fence != Fence::EMPTY && !planted(Planted::KeepFence) => {
                self.set_tag(Tag { fence: Fence::EMPTY, ..tag }).await
            }
            _ => Ok(()),
        }
    }
}
