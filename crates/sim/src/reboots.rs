use std::collections::BTreeMap;

use bytes::Bytes;

/// Up to this many contents, all of them are tried.
const EXHAUSTIVE: u64 = 4096;

/// Drawn at random where all would be too many.
const DRAWN: u64 = 64;

/// Every content a disk can have after a power cut, one at a time.
#[derive(Debug)]
pub struct Reboots {
    durable: Vec<u8>,
    block_bytes: usize,
    /// For each block with volatile writes its number and its later versions, oldest first.
    blocks: Vec<(usize, Vec<Bytes>)>,
    choices: Box<[Vec<usize>]>,
    next: usize,
}

impl Reboots {
    pub(crate) fn new(
        durable: Vec<u8>,
        volatile: &[(u64, Bytes)],
        block_bytes: usize,
        seed: u64,
    ) -> Self {
        let mut versions: BTreeMap<usize, Vec<Bytes>> = BTreeMap::new();
        for (at, data) in volatile {
            let first = usize::try_from(*at).unwrap_or(usize::MAX) / block_bytes;
            assert!(at.is_multiple_of(block_bytes as u64), "a write begins inside a block");
            assert!(data.len().is_multiple_of(block_bytes), "a write ends inside a block");
            for n in 0..data.len() / block_bytes {
                let block = data.slice(n * block_bytes..(n + 1) * block_bytes);
                versions.entry(first + n).or_default().push(block);
            }
        }
        let blocks: Vec<_> = versions.into_iter().collect();
        let choices = choose(&blocks.iter().map(|(_, v)| v.len() + 1).collect::<Vec<_>>(), seed);
        Self { durable, block_bytes, blocks, choices: choices.into(), next: 0 }
    }

    /// How many contents there are to try.
    pub fn choices(&self) -> usize {
        self.choices.len()
    }
}

impl Iterator for Reboots {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let choice = self.choices.get(self.next)?;
        self.next += 1;
        let mut content = self.durable.clone();
        for ((block, versions), version) in self.blocks.iter().zip(choice) {
            if let Some(data) = version.checked_sub(1).and_then(|n| versions.get(n)) {
                content[block * self.block_bytes..][..self.block_bytes].copy_from_slice(data);
            }
        }
        Some(content)
    }
}

/// Version numbers for each block, 0 for the durable one: all combinations, or a telling choice.
fn choose(options: &[usize], seed: u64) -> Vec<Vec<usize>> {
    let all = options.iter().try_fold(1_u64, |all, n| all.checked_mul(*n as u64));
    if let Some(all) = all.filter(|all| *all <= EXHAUSTIVE) {
        return (0..all).map(|n| combination(options, n)).collect();
    }
    let newest: Vec<usize> = options.iter().map(|n| n - 1).collect();
    let mut choices = vec![vec![0; options.len()], newest.clone()];
    for block in 0..options.len() {
        let mut alone = vec![0; options.len()];
        let mut missing = newest.clone();
        alone[block] = newest[block];
        missing[block] = 0;
        choices.extend([alone, missing]);
    }
    let mut state = seed | 1;
    for _ in 0..DRAWN {
        let draw = |n: &usize| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % *n as u64).unwrap_or(0)
        };
        choices.push(options.iter().map(draw).collect());
    }
    choices
}

/// The `n`th combination, as digits of a number with mixed bases.
fn combination(options: &[usize], mut n: u64) -> Vec<usize> {
    options
        .iter()
        .map(|base| {
            let digit = n % *base as u64;
            n /= *base as u64;
            usize::try_from(digit).unwrap_or(0)
        })
        .collect()
}
