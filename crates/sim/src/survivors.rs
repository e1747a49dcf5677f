use crate::random::Random;

/// Up to this many combinations, all of them are tried.
const EXHAUSTIVE: usize = 4096;

/// Up to this many blocks every pair is tried, if not every combination.
const PAIRS: usize = 64;

/// Drawn at random where all would be too many.
const DRAWN: usize = 64;

/// Which version of each block survives a power cut: one number for each block, 0 for the durable
/// one. All combinations; or where that is too many, a choice that holds none, all, each one
/// alone, each one missing, each pair missing, and some drawn with `seed`.
///
/// `options` are the numbers of versions. With `fresh`, those blocks have just got their newest
/// version: combinations without any of these were tried before and are left out.
pub(crate) fn choose(options: &[usize], fresh: &[usize], seed: u64) -> Vec<Vec<usize>> {
    let all = options.iter().try_fold(1_usize, |all, n| all.checked_mul(*n));
    let mut choices = match all.filter(|all| *all <= EXHAUSTIVE) {
        Some(all) => (0..all).map(|n| combination(options, n)).collect(),
        None => telling(options, seed),
    };
    if !fresh.is_empty() {
        choices.retain(|choice: &Vec<usize>| fresh.iter().any(|n| choice[*n] + 1 == options[*n]));
    }
    choices
}

fn telling(options: &[usize], seed: u64) -> Vec<Vec<usize>> {
    let newest: Vec<usize> = options.iter().map(|n| n - 1).collect();
    let mut choices = vec![vec![0; options.len()], newest.clone()];
    for block in 0..options.len() {
        let mut alone = vec![0; options.len()];
        let mut missing = newest.clone();
        alone[block] = newest[block];
        missing[block] = 0;
        if options.len() <= PAIRS {
            for other in 0..block {
                let mut two = missing.clone();
                two[other] = 0;
                choices.push(two);
            }
        }
        choices.extend([alone, missing]);
    }
    let mut random = Random::new(seed);
    for _ in 0..DRAWN {
        choices.push(options.iter().map(|n| random.below(*n)).collect());
    }
    choices
}

/// The `n`th combination, as digits of a number with mixed bases.
fn combination(options: &[usize], mut n: usize) -> Vec<usize> {
    options
        .iter()
        .map(|base| {
            let digit = n % base;
            n /= base;
            digit
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_blocks_are_tried_in_every_combination() {
        assert_eq!(choose(&[2, 3, 2], &[], 1).len(), 12);
        assert_eq!(choose(&[], &[], 1), [Vec::<usize>::new()]);
        // The last block's newest version is new: half of the combinations have it.
        assert_eq!(choose(&[2, 3, 2], &[2], 1).len(), 6);
    }

    #[test]
    fn of_many_blocks_each_pair_is_lost_once() {
        let choices = choose(&[2; 40], &[], 1);
        for a in 0..40 {
            for b in 0..a {
                let lost =
                    |choice: &&Vec<usize>| (0..40).all(|n| (choice[n] == 0) == (n == a || n == b));
                assert!(choices.iter().any(|choice| lost(&choice)), "{a} and {b}");
            }
        }
    }
}
