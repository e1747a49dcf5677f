use std::cell::Cell;
use std::time::{Duration, Instant};

use compio::time::sleep;
use futures_util::lock::Mutex;

/// What is done before clients have their turn: about as long as a request of theirs takes.
const SLICE: Duration = Duration::from_micros(50);

/// Long enough to look for what clients have sent.
const MOMENT: Duration = Duration::from_micros(1);

/// Keeps work in the background from holding up clients that are served by the same thread: what the
/// page cache answers at once never waits by itself, and may take longer than its length tells (a page
/// of a large folio costs the system a look at all of it).
#[derive(Debug, Default)]
pub(crate) struct Yielder {
    /// When the slice at work began.
    since: Cell<Option<Instant>>,
    /// Held while clients have their turn: everybody else in the background waits as well.
    turn: Mutex<()>,
}

impl Yielder {
    /// Returns when a request may be made.
    pub(crate) async fn give_way(&self) {
        let _turn = self.turn.lock().await;
        let since = self.since.get();
        if since.is_none_or(|since| since.elapsed() > SLICE) {
            sleep(MOMENT).await;
            self.since.set(Some(Instant::now()));
        }
    }
}
