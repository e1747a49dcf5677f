use std::io;

use super::merging::Merging;
use super::origin_writes::OriginWrites;
use super::payload::Payload;
use crate::device::Device;
use crate::planted::{Planted, planted};

/// Writes to the one device that origin and merging snapshot are.
pub(super) struct MergeWrites<'a, O, C> {
    pub(super) merging: &'a Merging<C>,
    pub(super) origin_writes: OriginWrites<'a, O, C>,
}

impl<O: Device, C: Device> MergeWrites<'_, O, C> {
    /// What has an exception goes to its COW chunk, the rest to the origin. A write to a chunk of the window
    /// under way waits while that is held.
    pub(super) async fn write(&self, at: u64, payload: Payload) -> io::Result<()> {
        let (merging, snapshot) = (self.merging, self.merging.snapshot());
        snapshot.writable()?;
        let map = snapshot.map();
        let chunk = map.chunk_bytes();
        let end = at + payload.len();
        let mut position = at;
        while position < end {
            let old = position / chunk;
            if merging.is_held(old) {
                merging.wait_released(old).await;
                continue;
            }
            let saved = map.next_stored(position);
            let begin = saved.as_ref().map_or(u64::MAX, |(saved, _)| saved.start);
            let Some((saved, byte)) = saved.filter(|_| begin == position) else {
                let len = begin.min(end) - position;
                let part = payload.part(position - at, len);
                let merging = Some(snapshot).filter(|_| !planted(Planted::MergingTakesExceptions));
                self.origin_writes.write(position, part, merging).await?;
                position += len;
                continue;
            };
            let run_end = saved.end.min(end);
            let free = map.chunks(&(position..run_end)).take_while(|it| !merging.is_held(*it));
            let part_end = ((old + free.count() as u64) * chunk).min(run_end);
            let part = payload.part(position - at, part_end - position);
            let olds = map.chunks(&(position..part_end));
            if planted(Planted::DirtyBeforeWrite) {
                merging.rewritten(olds.clone());
            }
            let held = snapshot.cow_writes().enter(position..part_end);
            let written = part.write_to(snapshot.cow_device(), byte).await;
            // Whatever window is open now has read the chunk before this write ended.
            if !planted(Planted::DirtyBeforeWrite) {
                merging.rewritten(olds);
            }
            drop(held);
            written?;
            position = part_end;
        }
        Ok(())
    }
}
