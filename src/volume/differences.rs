use std::ops::Range;

use super::extents::Extents;

/// The first stretch of one kind that ends after a position.
type Next<'a> = &'a dyn Fn(u64) -> Option<Range<u64>>;

/// Which bytes of a range lie in a stretch of any of these kinds: lengths in bytes, one after the other from the
/// beginning of the range on, at most `most` of them (at least one), no two neighbours alike.
pub(super) fn covered(kinds: &[Next<'_>], range: Range<u64>, most: usize) -> Vec<(u64, bool)> {
    let mut found = Extents::at_most(most);
    let mut at = range.start;
    while at < range.end {
        let next = || kinds.iter().filter_map(|next| next(at));
        let covered = next().filter(|it| it.start <= at).map(|it| it.end).max();
        let end = covered.unwrap_or_else(|| next().map(|it| it.start).min().unwrap_or(range.end));
        let len = end.min(range.end) - at;
        if !found.push(len, covered.is_some()) {
            break;
        }
        at += len;
    }
    found.into_vec()
}
