//! Every server gets the same requests in the same order.

/// The order in which blocks are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// One after the other, from the first on.
    Sequential,
    /// At random, each one once before any comes again.
    Random,
}

impl Order {
    /// The `n`th of `blocks` blocks. Another `seed` is another order.
    pub fn block(self, n: u64, blocks: u64, seed: u64) -> u64 {
        match self {
            Self::Sequential => n % blocks,
            Self::Random => permuted(n % blocks, blocks, seed),
        }
    }
}

/// A permutation of the numbers below `end`: four rounds of a Feistel network, walked until it ends
/// inside.
pub fn permuted(n: u64, end: u64, seed: u64) -> u64 {
    let bits = end.next_power_of_two().ilog2().div_ceil(2);
    let mask = (1_u64 << bits) - 1;
    let mut value = n;
    loop {
        let (mut left, mut right) = (value >> bits, value & mask);
        for round in 1..=4_u64 {
            let key = seed.wrapping_add(round).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (right ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 29;
            (left, right) = (right, (left ^ mixed) & mask);
        }
        value = left << bits | right;
        if value < end {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_comes_once() {
        for blocks in [1, 2, 3, 64, 1000, 4097] {
            let mut seen: Vec<u64> =
                (0..blocks).map(|n| Order::Random.block(n, blocks, 7)).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..blocks), "{blocks} blocks");
        }
    }
}
