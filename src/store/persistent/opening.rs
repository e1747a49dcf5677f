use super::Persistent;
use crate::device::{Allocation, Device, is_no_room};
use crate::planted::{Planted, planted};
use crate::store::StoreError;

impl<D: Device> Persistent<D> {
    /// Makes a store that was read one that can be written. See [`Loaded::into_writable`](crate::store::Loaded).
    pub(in crate::store) async fn put_in_order(
        &self,
        strays: Option<(u64, u64)>,
    ) -> Result<(), StoreError> {
        self.fill_holes().await?;
        if !planted(Planted::BelieveWithoutFlush) {
            let flushed = self.slots.barrier.flush(&self.slots.cow).await;
            flushed.map_err(StoreError::io("cannot make durable what was read"))?;
        }
        match strays {
            Some(strays) if !planted(Planted::KeepStrays) && !planted(Planted::KeepTail) => {
                self.change(self.slots.wipe(self.published.get(), strays)).await
            }
            _ => Ok(()),
        }
    }

    /// Gets room for the rest of the area in force, where a sparse copy of a file has left holes: it is
    /// zero already, and shall not turn out to have no place when exceptions are to be written. Without
    /// room for that the store is one below which there is no room.
    async fn fill_holes(&self) -> Result<(), StoreError> {
        let (area, _) = self.slots.layout.position(self.published.get());
        let mut at = self.slots.byte(area * self.slots.layout.exceptions_per_area())?;
        let end = at + self.slots.layout.chunk_size().bytes();
        while at < end {
            let data = self.slots.cow.next_data(at).await;
            let data =
                data.map_err(StoreError::io(format!("cannot look for holes in area {area}")))?;
            let data = data.map_or(end..end, |it| it.start.min(end)..it.end.min(end));
            if data.start > at {
                let filled =
                    self.slots.cow.write_zeroes(at, data.start - at, Allocation::Keep).await;
                match filled {
                    Err(error) if is_no_room(&error) => return Ok(()),
                    filled => filled.map_err(StoreError::io(format!("cannot fill area {area}")))?,
                }
            }
            at = data.end.max(at + 1);
        }
        Ok(())
    }
}
