/// Bytes that were received and not used yet.
#[derive(Debug, Default)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// What can be received at a time, in bytes.
const ROOM_BYTES: usize = 256 << 10;

/// With less room than this at the end, what is there moves to the front; so it does where that
/// costs nothing.
const LEAST_BYTES: usize = 64 << 10;

impl Input {
    /// Where to receive. It grows only as long as what was received is not used.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end || self.buffer.len() - self.end < LEAST_BYTES {
            self.compact();
        }
        if self.buffer.len() - self.end < LEAST_BYTES {
            self.buffer.resize(self.end + ROOM_BYTES, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// `len` bytes were put into [`space`](Self::space).
    pub(super) fn received(&mut self, len: usize) {
        self.end = (self.end + len).min(self.buffer.len());
    }

    /// Takes a copy of bytes that were received elsewhere.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.compact();
        self.buffer.truncate(self.end);
        self.buffer.extend_from_slice(bytes);
        self.end = self.buffer.len();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The first bytes, if there are enough; they are not used yet.
    pub(super) fn peek<const N: usize>(&self) -> Option<[u8; N]> {
        self.bytes().first_chunk().copied()
    }

    /// Takes at most `len` bytes; where they lie stays true until something is received.
    pub(super) fn take(&mut self, len: usize) -> std::ops::Range<usize> {
        let taken = self.start..(self.start + len).min(self.end);
        self.start = taken.end;
        taken
    }

    /// What was taken.
    pub(super) fn taken(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.buffer.get(range).unwrap_or_default()
    }

    fn compact(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }
}
