use std::hash::{BuildHasher, RandomState};

/// Numbers from a seed (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// Of [`Random::seed`].
    pub(crate) fn new() -> Self {
        Self(Self::seed())
    }

    /// The seed of `DMSNAP_SEED`, or a new one. Either way it is printed.
    pub(crate) fn seed() -> u64 {
        let seed = match std::env::var("DMSNAP_SEED") {
            Ok(seed) => seed.parse().expect("DMSNAP_SEED is a number"),
            // Others are counted from it.
            Err(_) => RandomState::new().hash_one("dmsnap") >> 16,
        };
        eprintln!("the same choices again: DMSNAP_SEED={seed}");
        seed
    }

    pub(crate) fn from(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Another one, for another thread.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn bytes(&mut self, len: u64) -> Vec<u8> {
        let len = usize::try_from(len).expect("small");
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        words.take(len.div_ceil(8)).flatten().take(len).collect()
    }
}

/// How often a test that can go on for long is to repeat itself: what `DMSNAP_ROUNDS` says, or `few`.
pub(crate) fn rounds(few: u64) -> u64 {
    std::env::var("DMSNAP_ROUNDS").map_or(few, |it| it.parse().expect("DMSNAP_ROUNDS is a number"))
}
