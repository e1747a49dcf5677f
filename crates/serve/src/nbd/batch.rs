use dmsnap_nbd::Command;

use super::in_flight::InFlight;

/// A longer write is a request of its own below, in bytes.
const MAX_WRITE_BYTES: u32 = 32 << 10;

/// Writes that are made together, at most.
const MAX_WRITES: usize = 64;

/// Small writes that came in one after the other, and are made together. Those that are left when it is
/// dropped are begun.
pub(super) struct WriteBatch {
    /// The export gains by it.
    joins: bool,
    writes: Vec<InFlight>,
}

impl WriteBatch {
    /// For an export that [joins writes](crate::export::Export::joins_writes), or not.
    pub(super) fn new(joins: bool) -> Self {
        Self { joins, writes: Vec::new() }
    }

    pub(super) fn takes(&self, command: Command) -> bool {
        self.joins && matches!(command, Command::Write { len: 1..=MAX_WRITE_BYTES, fua: false, .. })
    }

    pub(super) fn push(&mut self, write: InFlight) {
        self.writes.push(write);
        if self.writes.len() == MAX_WRITES {
            self.begin();
        }
    }

    pub(super) fn begin(&mut self) {
        match self.writes.len() {
            0 => {}
            1 => self.writes.drain(..).for_each(InFlight::begin),
            _ => InFlight::begin_together(std::mem::take(&mut self.writes)),
        }
    }
}

impl Drop for WriteBatch {
    fn drop(&mut self) {
        self.begin();
    }
}
