use std::cell::Cell;
use std::time::Duration;

use compio::time::sleep;
use futures_util::lock::Mutex;

/// Bytes that are moved before clients have their turn.
const BYTES: u64 = 128 << 10;

/// What a request costs beside its bytes, in bytes.
const REQUEST: u64 = 8 << 10;

/// Long enough to look for what clients have sent.
const MOMENT: Duration = Duration::from_micros(1);

/// Keeps work in the background from holding up clients that are served by the same thread: what the
/// page cache answers at once never waits by itself.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    moved: Cell<u64>,
    /// Held while clients have their turn: everybody else in the background waits as well.
    turn: Mutex<()>,
}

impl Turns {
    /// Returns when a request of so many bytes may be made.
    pub(crate) async fn give_way(&self, bytes: u64) {
        let _turn = self.turn.lock().await;
        let moved = self.moved.get() + bytes + REQUEST;
        self.moved.set(moved);
        if moved > BYTES {
            self.moved.set(0);
            sleep(MOMENT).await;
        }
    }
}
