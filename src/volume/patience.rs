use std::error::Error;
use std::fmt;
use std::io;

use super::Volume;
use crate::device::Device;

/// A snapshot has no room for old data, and its rule is to wait.
#[derive(Debug)]
pub(super) struct NoRoom {
    /// How long it waits at most.
    pub(super) ticks: u32,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store is full")
    }
}

impl Error for NoRoom {}

impl NoRoom {
    /// If that is why.
    pub(super) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<NoRoom> for io::Error {
    fn from(found: NoRoom) -> Self {
        Self::new(io::ErrorKind::StorageFull, found)
    }
}

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
            let found = NoRoom::of(error);
            let hurried = || self.hurried.get() || !wanted();
            if hurried() || found.is_none_or(|no_room| waited >= no_room.ticks) {
                return ended;
            }
            waited += 1;
            let now = self.ticks.get();
            self.ticked.wait_until(|| self.ticks.get() != now || hurried()).await;
        }
    }
}
