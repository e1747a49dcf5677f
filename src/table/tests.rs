//! What only a look inside shows: invariants of the directory, and memory that falls again.

use super::*;

const ISOLATED: u64 = 150_000;

/// Every number below `modulus` once, in an order without pattern: the factor is prime.
fn scattered(index: u64, modulus: u64) -> u64 {
    (index * 982_451_653 + 12_345) % modulus
}

fn exception(old: u64, new: u64) -> Exception {
    Exception { old: OriginChunk::new(old), new: CowChunk::new(new) }
}

/// Isolated chunks (3 apart), enough for several branches, in an order without pattern.
fn isolated() -> Table {
    let mut table = Table::new();
    for index in 0..ISOLATED {
        let old = 3 * scattered(index, ISOLATED);
        table.insert(exception(old, 2 + index)).expect("every chunk comes once");
    }
    table
}

#[test]
fn directory_stays_in_order_through_splits_and_fusions() {
    let mut table = isolated();
    table.directory.audit();
    assert_eq!((table.len(), table.runs()), (ISOLATED, ISOLATED));
    for index in (0..ISOLATED).rev() {
        let old = OriginChunk::new(3 * scattered(index, ISOLATED));
        assert_eq!(table.remove(old), Some(CowChunk::new(2 + index)), "chunk {old}");
        if index % 15_000 == 0 {
            table.directory.audit();
            assert_eq!((table.len(), table.runs()), (index, index));
        }
    }
    assert_eq!(table.memory_bytes(), Table::new().memory_bytes() + table.directory.memory_bytes());
}

#[test]
fn memory_falls_with_the_exceptions_in_whatever_order_they_go() {
    let full = isolated();
    let all = full.memory_bytes() as u64;
    for newest_first in [true, false] {
        let mut table = full.clone();
        for at in 0..ISOLATED - ISOLATED / 100 {
            let index = if newest_first { ISOLATED - 1 - at } else { at };
            let old = if newest_first { scattered(index, ISOLATED) } else { index };
            table.remove(OriginChunk::new(3 * old)).expect("still there");
        }
        let left = table.memory_bytes() as u64;
        assert!(left < all / 25, "{left} of {all} bytes for a hundredth ({newest_first})");
    }
    let mut table = full;
    table.clear();
    assert_eq!(table.memory_bytes(), size_of::<Table>());
}

#[test]
fn ascending_insertion_fills_the_leaves() {
    let mut table = Table::new();
    for index in 0..20_000 {
        table.insert(exception(2 * index, index)).expect("ascending");
    }
    table.directory.audit();
    let bytes = table.memory_bytes();
    assert!(bytes < 20_000 * 4, "{bytes} bytes");
}

/// A hole between two leaves is filled: the run that then lies across both becomes one.
#[test]
fn runs_of_two_leaves_become_one() {
    let mut joined = 0;
    let holes = 2_000;
    let full: Vec<_> = (0..3 * holes).filter(|old| old % 3 != 2).collect();
    let table = Table::from_exceptions(full.iter().map(|&old| exception(old, old + 9)).collect());
    let mut table = table.expect("no duplicates");
    assert_eq!(table.runs(), holes);
    for hole in (0..holes - 1).map(|index| 3 * index + 2) {
        let leaves = |table: &Table, old| table.directory.locate(old);
        joined += u64::from(leaves(&table, hole) != leaves(&table, hole + 1));
        let runs = table.runs();
        table.insert(exception(hole, hole + 9)).expect("a hole");
        assert_eq!(table.runs(), runs - 1, "hole at {hole}");
    }
    table.directory.audit();
    assert!(joined > 3, "only {joined} holes lay between leaves");
    let one = Run { old: OriginChunk::new(0), new: CowChunk::new(9), len: 3 * holes - 1 };
    assert_eq!(table.iter().collect::<Vec<_>>(), [one]);
}
