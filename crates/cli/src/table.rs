//! Tables of snapshot targets, as `dmsetup table` prints them and administrators write them.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use dmsnap::format::ChunkSize;

/// Where device numbers lead to devices.
pub(crate) const BY_NUMBER: &str = "/dev/block";

/// One device of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Counted from 1, with comments and empty lines.
    pub(crate) number: usize,
    /// What stands before the colon.
    pub(crate) name: Option<String>,
    pub(crate) len_sectors: u64,
    pub(crate) origin: PathBuf,
    pub(crate) target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Origin,
    Snapshot(Snapshot),
}

/// A `snapshot` or `snapshot-merge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) cow: PathBuf,
    pub(crate) store: Store,
    pub(crate) merges: bool,
    pub(crate) discard_zeroes: bool,
    pub(crate) discard_passdown: bool,
}

/// `P` and `PO` are the same store, and one thing here: a snapshot write that finds no room never
/// drops the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// The chunk size is for a new store; `None` was 0, the default.
    Persistent(Option<ChunkSize>),
    Transient(ChunkSize),
}

/// Why a line is not one of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    /// Counted from 1.
    pub(crate) line: usize,
    found: String,
    expected: &'static str,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found {}, expected {}", self.found, self.expected)
    }
}

/// Reads a table. Empty lines and lines that begin with `#` are skipped.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Line>, Error> {
    let says = |line: &[u8]| !line.is_empty() && !line.starts_with(b"#");
    let lines = (1..).zip(text.split(|byte| *byte == b'\n'));
    lines
        .filter(|(_, line)| says(line.trim_ascii()))
        .map(|(number, line)| Words { line: number, rest: words(line).into_iter() }.line())
        .collect()
}

/// The words of a line. What follows a backslash belongs to the word, as for the kernel; three octal
/// digits are one byte, as in fstab.
fn words(line: &[u8]) -> Vec<Vec<u8>> {
    let (mut words, mut word) = (Vec::new(), None::<Vec<u8>>);
    let mut rest = line;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'\\' => {
                let (byte, len) = match octal(after) {
                    Some(byte) => (byte, 3),
                    None => (*after.first().unwrap_or(&b'\\'), 1),
                };
                rest = after.get(len..).unwrap_or_default();
                word.get_or_insert_default().push(byte);
            }
            blank if blank.is_ascii_whitespace() => words.extend(word.take()),
            byte => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = digits.get(..3).filter(|all| all.iter().all(|it| matches!(it, b'0'..=b'7')))?;
    let value = digits.iter().fold(0, |sum, digit| sum * 8 + u32::from(digit - b'0'));
    u8::try_from(value).ok()
}

/// What is left of a line.
struct Words {
    line: usize,
    rest: std::vec::IntoIter<Vec<u8>>,
}

impl Words {
    /// `[NAME:] START LEN TARGET ORIGIN ...`
    fn line(mut self) -> Result<Line, Error> {
        let name = self.name()?;
        const START: &str = "the start, 0";
        let start = self.next(START)?;
        if number(&start) != Some(0) {
            return Err(self.found(&start, START));
        }
        let len_sectors = self.number("the length in sectors")?;
        const TARGET: &str = "snapshot-origin, snapshot or snapshot-merge";
        let target = self.next(TARGET)?;
        let merges = match &*target {
            "snapshot-origin" => None,
            "snapshot" => Some(false),
            "snapshot-merge" => Some(true),
            _ => return Err(self.found(&target, TARGET)),
        };
        let origin = device(self.next_bytes("the origin: a path or MAJOR:MINOR")?);
        let target = match merges {
            None => Target::Origin,
            Some(merges) => Target::Snapshot(self.snapshot(merges)?),
        };
        match self.rest.next() {
            Some(word) => Err(self.found(&String::from_utf8_lossy(&word), "the end of the line")),
            None => Ok(Line { number: self.line, name, len_sectors, origin, target }),
        }
    }

    /// A device number has a colon as well, but never at its end.
    fn name(&mut self) -> Result<Option<String>, Error> {
        if self.rest.as_slice().first().is_none_or(|word| !word.ends_with(b":")) {
            return Ok(None);
        }
        const NAME: &str = "a name before the colon";
        let word = self.next(NAME)?;
        match &word[..word.len() - 1] {
            "" => Err(self.found(":", NAME)),
            name => Ok(Some(name.into())),
        }
    }

    /// `COW STORE CHUNK [COUNT FEATURE...]`
    fn snapshot(&mut self, merges: bool) -> Result<Snapshot, Error> {
        let cow = device(self.next_bytes("the COW device: a path or MAJOR:MINOR")?);
        let transient = self.is_transient(merges)?;
        let chunk_size = self.chunk_size(transient)?;
        let store = match (transient, chunk_size) {
            (true, Some(chunk_size)) => Store::Transient(chunk_size),
            (_, chunk_size) => Store::Persistent(chunk_size),
        };
        let (discard_zeroes, discard_passdown) = self.features()?;
        Ok(Snapshot { cow, store, merges, discard_zeroes, discard_passdown })
    }

    /// The first letter is the type. What follows is an option: `P` has only `O`, `N` ignores it.
    fn is_transient(&mut self, merges: bool) -> Result<bool, Error> {
        let expected = if merges { "P or PO" } else { "P, PO or N" };
        let word = self.next(expected)?;
        let mut letters = word.chars().map(|letter| letter.to_ascii_uppercase());
        match (letters.next(), letters.next()) {
            (Some('P'), None | Some('O')) => Ok(false),
            (Some('N'), _) if !merges => Ok(true),
            _ => Err(self.found(&word, expected)),
        }
    }

    /// In sectors. `None` is 0, the default of a new store; only a transient one has none.
    fn chunk_size(&mut self, transient: bool) -> Result<Option<ChunkSize>, Error> {
        let expected = match transient {
            true => "the chunk size in sectors, a power of two from 1 to 2097152",
            false => "the chunk size in sectors: 0, or a power of two from 1 to 2097152",
        };
        let word = self.next(expected)?;
        let sectors = number(&word).and_then(|sectors| u32::try_from(sectors).ok());
        match sectors.map(|sectors| (sectors, ChunkSize::from_sectors(sectors))) {
            Some((0, _)) if !transient => Ok(None),
            Some((_, Ok(chunk_size))) => Ok(Some(chunk_size)),
            _ => Err(self.found(&word, expected)),
        }
    }

    /// `[COUNT FEATURE...]`
    fn features(&mut self) -> Result<(bool, bool), Error> {
        const FEATURE: &str = "discard_zeroes_cow or discard_passdown_origin";
        const COUNT: &str = "the number of features, 0 to 2";
        let (mut zeroes, mut passdown) = (false, false);
        if self.rest.len() == 0 {
            return Ok((zeroes, passdown));
        }
        let word = self.next(COUNT)?;
        let count = number(&word).filter(|count| *count <= 2);
        for _ in 0..count.ok_or_else(|| self.found(&word, COUNT))? {
            let feature = self.next(FEATURE)?;
            match feature.to_ascii_lowercase().as_str() {
                "discard_zeroes_cow" => zeroes = true,
                "discard_passdown_origin" => passdown = true,
                _ => return Err(self.found(&feature, FEATURE)),
            }
        }
        match (zeroes, passdown) {
            (false, true) => {
                Err(self.found("discard_passdown_origin", "discard_zeroes_cow as well"))
            }
            both => Ok(both),
        }
    }

    fn next_bytes(&mut self, expected: &'static str) -> Result<Vec<u8>, Error> {
        let found = "the end of the line".into();
        self.rest.next().ok_or(Error { line: self.line, found, expected })
    }

    /// A word that is text. Bytes that are none stand for nothing here.
    fn next(&mut self, expected: &'static str) -> Result<String, Error> {
        let word = self.next_bytes(expected)?;
        String::from_utf8(word)
            .map_err(|error| self.found(&String::from_utf8_lossy(error.as_bytes()), expected))
    }

    fn number(&mut self, expected: &'static str) -> Result<u64, Error> {
        let word = self.next(expected)?;
        number(&word).ok_or_else(|| self.found(&word, expected))
    }

    fn found(&self, word: &str, expected: &'static str) -> Error {
        Error { line: self.line, found: format!("`{word}`"), expected }
    }
}

/// Digits only: no sign.
fn number(word: &str) -> Option<u64> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

/// A path, or what `MAJOR:MINOR` stands for.
fn device(word: Vec<u8>) -> PathBuf {
    let text = str::from_utf8(&word).unwrap_or_default();
    let numbers = text.split_once(':').and_then(|(major, minor)| number(major).zip(number(minor)));
    match numbers {
        Some((major, minor)) => format!("{BY_NUMBER}/{major}:{minor}").into(),
        None => OsString::from_vec(word).into(),
    }
}

#[cfg(test)]
#[path = "table/tests.rs"] // fuzz takes this file in from elsewhere
mod tests;
