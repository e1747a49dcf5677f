use roaring::RoaringTreemap;

/// Numbers below this are kept as bits of one array: 64 MiB of them, of which only the pages that are
/// touched take memory.
const MOST_BITS: u64 = 1 << 29;

/// Which numbers have come so far. Most are expected below a bound that the store did not claim itself, but
/// the size of a device.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    bits: Vec<u64>,
    /// What lies past those.
    others: RoaringTreemap,
    max: Option<u64>,
}

impl Seen {
    /// None yet; most of them will be less than `expected`.
    pub(super) fn below(expected: u64) -> Self {
        let words = expected.min(MOST_BITS).div_ceil(64);
        let bits = vec![0; usize::try_from(words).unwrap_or(0)];
        Self { bits, others: RoaringTreemap::new(), max: None }
    }

    /// False if it has come before.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        self.max = self.max.max(Some(number));
        let word = usize::try_from(number / 64).ok().and_then(|at| self.bits.get_mut(at));
        let Some(word) = word else { return self.others.insert(number) };
        let bit = 1 << (number % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// All of them, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        let words = (0..).step_by(64).zip(&self.bits).filter(|(_, word)| **word != 0);
        let in_bits = words.flat_map(|(first, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(first + u64::from(bit))
            })
        });
        in_bits.chain(&self.others)
    }

    /// The largest.
    pub(super) fn max(&self) -> Option<u64> {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_number_is_new_once_whatever_was_expected() {
        let ends = [0, 63, 64, 127, 128, MOST_BITS - 1, MOST_BITS, u64::MAX];
        for expected in [0, 1, 64, 65, 1 << 20, MOST_BITS, u64::MAX] {
            let mut seen = Seen::below(expected);
            let mut naive = HashSet::new();
            assert_eq!(seen.max(), None);
            let near = ends.iter().flat_map(|end| [-1, 0, 1].map(|by| end.wrapping_add_signed(by)));
            for number in near.chain((0..2000).map(|n| n * 37 % 1000)) {
                let told = format!("{number} with {expected} expected");
                assert_eq!(seen.insert(number), naive.insert(number), "{told}");
                assert_eq!(seen.max(), naive.iter().max().copied(), "{told}");
            }
            let mut sorted: Vec<_> = naive.into_iter().collect();
            sorted.sort_unstable();
            assert!(seen.iter().eq(sorted), "{expected} expected");
        }
    }
}
