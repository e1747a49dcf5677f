use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use dmsnap_nbd::Command;

use super::exports::Work;
use super::transmission::{Asked, Session, begin, serve};

/// A longer write is a request of its own below, in bytes.
const MOST_BYTES: u32 = 32 << 10;

/// Writes that are made together, at most.
const MOST: usize = 64;

/// Small writes that came in one behind the other, and are made together. Those that are left when it is
/// dropped are begun.
pub(super) struct Together {
    session: Rc<Session>,
    /// The export gains by it.
    joins: bool,
    writes: Vec<Asked>,
}

impl Together {
    pub(super) fn new(session: &Rc<Session>) -> Self {
        let joins = session.slot().target.joins_writes();
        Self { session: session.clone(), joins, writes: Vec::new() }
    }

    pub(super) fn takes(&self, command: Command) -> bool {
        self.joins && matches!(command, Command::Write { len: 1..=MOST_BYTES, fua: false, .. })
    }

    pub(super) fn push(&mut self, asked: Asked) {
        self.writes.push(asked);
        if self.writes.len() == MOST {
            self.begin();
        }
    }

    pub(super) fn begin(&mut self) {
        match self.writes.len() {
            0 => {}
            1 => self.writes.drain(..).for_each(|one| begin(serve(one))),
            _ => begin(serve_all(self.session.clone(), std::mem::take(&mut self.writes))),
        }
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        self.begin();
    }
}

/// Makes several writes and queues the replies. If one of them fails, each is made once more, by itself:
/// nobody else may have been told yet that any of them is done, and each then tells how it ended.
async fn serve_all(session: Rc<Session>, asked: Vec<Asked>) {
    let begun = Instant::now();
    let writes: Vec<(u64, Bytes)> = asked.iter().flat_map(Asked::writes).collect();
    match session.slot().change(Work::WriteMany(writes), false).await {
        Ok(()) => asked.into_iter().for_each(|it| it.answer(begun, Ok(Vec::new()))),
        Err(_) => asked.into_iter().for_each(|it| begin(serve(it))),
    }
}
