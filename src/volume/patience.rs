use std::io;

use super::{Volume, VolumeError};
use crate::device::Device;

impl<O: Device, C: Device> Volume<O, C> {
    /// Tries again, tick by tick, what finds no room in a snapshot that waits for it; as long as
    /// that snapshot has patience, and `wanted` says so.
    ///
    /// Between two attempts nothing is held, so snapshots may come and go, merge and be dropped:
    /// `attempt` looks at the volume anew each time. One that was begun may be made again from its
    /// beginning, because nobody was told of its end.
    pub(super) async fn patiently_while(
        &self,
        wanted: impl Fn() -> bool,
        attempt: impl AsyncFn() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut waited = 0;
        loop {
            let ended = attempt().await;
            let Err(error) = &ended else { return ended };
            let patience = VolumeError::patience_of(error);
            let hurried = || self.hurried.get() || !wanted();
            if hurried() || patience.is_none_or(|ticks| waited >= ticks) {
                return ended;
            }
            waited += 1;
            let now = self.ticks.get();
            self.ticked.wait_until(|| self.ticks.get() != now || hurried()).await;
        }
    }
}
