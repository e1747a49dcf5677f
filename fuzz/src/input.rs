use std::sync::LazyLock;

/// Set when one input is replayed.
static TELLING: LazyLock<bool> = LazyLock::new(|| std::env::var_os("FUZZ_TELL").is_some());

/// A line about what is going on, for a person who looks at one input.
pub(crate) fn told(line: impl FnOnce() -> String) {
    if *TELLING {
        eprintln!("{}", line());
    }
}

/// Takes numbers off a target's input. When it is used up, everything that follows is zero.
#[derive(Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let len = N.min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        array[..len].copy_from_slice(taken);
        self.0 = rest;
        array
    }

    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        match end {
            0..=0x100 => u64::from(self.u8()) % end,
            0x101..=0x1_0000 => u64::from(self.u16()) % end,
            _ => self.u64() % end,
        }
    }

    /// One of a few.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.u8()) % of.len()]
    }

    /// Mostly a small number; sometimes one near a power of two, or any.
    pub(crate) fn number(&mut self) -> u64 {
        let kind = self.u8();
        match kind {
            0..=0xBF => u64::from(kind),
            0xC0..=0xDF => u64::from(self.u16()),
            0xE0..=0xE7 => 1 << (self.u8() % 64),
            0xE8..=0xEF => (1 << (self.u8() % 64)) - 1,
            0xF0..=0xF7 => u64::MAX - u64::from(self.u8()),
            _ => self.u64(),
        }
    }
}
