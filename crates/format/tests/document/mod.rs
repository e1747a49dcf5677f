//! The tables, the dump and the sums of `docs/format.md`.

use std::collections::BTreeMap;

pub(crate) const TEXT: &str = include_str!("../../../../docs/format.md");

/// The cells of a table row, without the code marks.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
    Some(inner.split(" | ").map(|cell| cell.trim_matches('`').to_string()).collect())
}

/// The rows of the one table with this header.
pub(crate) fn table(header: &[&str]) -> Vec<Vec<String>> {
    let is_header = |line: &&str| cells(line).is_some_and(|cells| cells == header);
    assert_eq!(TEXT.lines().filter(is_header).count(), 1, "tables with the header {header:?}");
    // Behind the header stands the line of dashes.
    let rest = TEXT.lines().skip_while(|line| !is_header(line)).skip(2);
    let rows: Vec<_> = rest.map_while(cells).collect();
    assert!(!rows.is_empty(), "the table {header:?} is empty");
    for row in &rows {
        assert_eq!(row.len(), header.len(), "columns of {row:?}");
    }
    rows
}

/// A cell as a number.
pub(crate) fn number(cell: &str) -> u64 {
    cell.parse().unwrap_or_else(|_| panic!("{cell:?} is not a number"))
}

/// A row of numbers.
pub(crate) fn numbers<const N: usize>(row: &[String]) -> [u64; N] {
    let all: Vec<u64> = row.iter().map(|cell| number(cell)).collect();
    all.try_into().unwrap_or_else(|_| panic!("{row:?} has not {N} columns"))
}

/// What a sum comes to: `+ - * / %` and parentheses, with the usual precedence, from the left.
pub(crate) fn evaluate(sum: &str) -> u64 {
    let spaced = sum.replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    let value = terms(&mut words);
    assert!(words.is_empty(), "{sum:?} has something left past its end: {words:?}");
    value
}

/// Takes factors and the `+` and `-` between them off the end of `words`, where the sum begins.
fn terms(words: &mut Vec<&str>) -> u64 {
    let mut value = factors(words);
    while let Some(sign) = words.pop_if(|word| ["+", "-"].contains(word)) {
        let next = factors(words);
        value = if sign == "+" { value + next } else { value - next };
    }
    value
}

fn factors(words: &mut Vec<&str>) -> u64 {
    let mut value = factor(words);
    while let Some(sign) = words.pop_if(|word| ["*", "/", "%"].contains(word)) {
        let next = factor(words);
        value = match sign {
            "*" => value * next,
            "/" => value / next,
            _ => value % next,
        };
    }
    value
}

fn factor(words: &mut Vec<&str>) -> u64 {
    match words.pop().expect("a number") {
        "(" => {
            let value = terms(words);
            assert_eq!(words.pop(), Some(")"));
            value
        }
        word => number(word),
    }
}

/// The lines inside the fenced block of the dump.
fn dump_lines() -> impl Iterator<Item = &'static str> {
    let (_, rest) = TEXT.split_once("\n```hexdump\n").expect("a dump");
    rest.lines().take_while(|line| *line != "```")
}

fn offset(line: &str) -> u64 {
    let digits = line.split_whitespace().next().expect("an offset");
    assert_eq!(digits.len(), 8, "an offset: {line}");
    u64::from_str_radix(digits, 16).expect("a hexadecimal offset")
}

/// The 16 bytes of a line, if it has any.
fn sixteen(line: &str) -> Option<[u8; 16]> {
    let words: Vec<&str> = line.split_whitespace().skip(1).take(16).collect();
    let bytes = words.iter().map(|word| {
        assert_eq!(word.len(), 2, "a byte: {line}");
        u8::from_str_radix(word, 16).expect("a hexadecimal byte")
    });
    bytes.collect::<Vec<u8>>().try_into().ok()
}

/// The line after this one where `*` stands: zeroes stay, an exception becomes its neighbour.
fn following(line: [u8; 16]) -> [u8; 16] {
    if line == [0; 16] {
        return line;
    }
    let (old, new) = line.split_at(8);
    let next = [old, new].map(|half| u64::from_le_bytes(half.try_into().expect("8 bytes")) + 1);
    next.map(u64::to_le_bytes).concat().try_into().expect("16 bytes")
}

/// The whole dump, 16 bytes at each offset, with what `*` stands for.
pub(crate) fn hexdump() -> BTreeMap<u64, [u8; 16]> {
    let mut shown = BTreeMap::new();
    let mut last: Option<(u64, [u8; 16])> = None;
    let mut repeats = false;
    for line in dump_lines() {
        if line == "*" {
            repeats = true;
            continue;
        }
        let at = offset(line);
        if repeats {
            let (mut before, mut bytes) = last.expect("a line above the first `*`");
            while before + 16 < at {
                (before, bytes) = (before + 16, following(bytes));
                shown.insert(before, bytes);
            }
            repeats = false;
        }
        if let Some(bytes) = sixteen(line) {
            assert!(shown.insert(at, bytes).is_none(), "{line} comes twice");
            last = Some((at, bytes));
        }
    }
    assert!(!repeats, "a dump ends with an offset");
    shown
}

/// Offset, area, slot, old and new of each line that says `area A, slot S: OLD -> NEW`.
pub(crate) fn notes() -> Vec<(u64, u64, u64, u64, u64)> {
    let note = |line: &'static str| {
        let (_, place) = line.split_once("area ")?;
        let (place, exception) = place.split_once(": ")?;
        let (area, slot) = place.split_once(", slot ")?;
        let (old, new) = exception.split_once(" -> ")?;
        let new = new.split(',').next()?;
        Some((offset(line), number(area), number(slot), number(old), number(new)))
    };
    dump_lines().filter_map(note).collect()
}
