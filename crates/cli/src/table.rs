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

/// Reads a table. Empty lines and lines that begin with `#` are passed over.
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
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'\\' => {
                let (byte, len) = match octal(behind) {
                    Some(byte) => (byte, 3),
                    None => (*behind.first().unwrap_or(&b'\\'), 1),
                };
                rest = behind.get(len..).unwrap_or_default();
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
                Err(self.found("discard_passdown_origin", "discard_zeroes_cow beside it"))
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(sectors: u32) -> ChunkSize {
        ChunkSize::from_sectors(sectors).expect("a chunk size")
    }

    fn snapshot(line: &str) -> Snapshot {
        let mut lines = parse(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
        match lines.pop().map(|line| line.target) {
            Some(Target::Snapshot(snapshot)) => snapshot,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn refusal(table: &str) -> String {
        let error = parse(table.as_bytes()).expect_err(table);
        format!("{}: {error}", error.line)
    }

    #[test]
    fn what_dmsetup_prints_is_read() {
        let table = "# of this host\n\nvg-root: 0 8192 snapshot-origin 254:3\n\
                     vg-snap: 0 8192 snapshot 254:3 254:4 PO 8 1 discard_zeroes_cow\n";
        let origin = PathBuf::from("/dev/block/254:3");
        let snapshot = Snapshot {
            cow: "/dev/block/254:4".into(),
            store: Store::Persistent(Some(chunk(8))),
            merges: false,
            discard_zeroes: true,
            discard_passdown: false,
        };
        let line = |number, name: &str, target| Line {
            number,
            name: Some(name.into()),
            len_sectors: 8192,
            origin: origin.clone(),
            target,
        };
        assert_eq!(
            parse(table.as_bytes()),
            Ok(vec![
                line(3, "vg-root", Target::Origin),
                line(4, "vg-snap", Target::Snapshot(snapshot)),
            ])
        );
        assert_eq!(parse(b""), Ok(vec![]));
        // Not a comment, but a name that begins so.
        let named = parse(br"\#a: 0 8 snapshot-origin b").expect("a line");
        assert_eq!(named[0].name.as_deref(), Some("#a"));
    }

    #[test]
    fn only_letters_that_count_choose_the_store() {
        for (words, store) in [
            ("P 8", Store::Persistent(Some(chunk(8)))),
            ("p 0", Store::Persistent(None)),
            ("po 1", Store::Persistent(Some(chunk(1)))),
            ("POther 2097152", Store::Persistent(Some(chunk(2_097_152)))),
            ("n 16", Store::Transient(chunk(16))),
            ("Nfoo 16", Store::Transient(chunk(16))),
        ] {
            let found = snapshot(&format!("0 8 snapshot a b {words}"));
            assert_eq!((found.store, found.merges), (store, false), "{words}");
        }
        assert!(snapshot("0 8 snapshot-merge a b P 8").merges);
    }

    #[test]
    fn a_path_may_hold_blanks_and_any_bytes() {
        for (word, path) in [
            (r"/a\040b", &b"/a b"[..]),
            (r"/a\ b", b"/a b"),
            (r"/a\134b", br"/a\b"),
            (r"/a\\b", br"/a\b"),
            (r"/a\377", b"/a\xff"),
            (r"/a\400", b"/a400"),
            (r"/a\09", b"/a09"),
            (r"\#a", b"#a"),
            ("/a,b", b"/a,b"),
        ] {
            let found = snapshot(&format!("0 8 snapshot a {word} P 8")).cow;
            assert_eq!(found.into_os_string().into_vec(), path, "{word}");
        }
        let lines = parse(b"0 8 snapshot-origin /\xfe").expect("a line");
        assert_eq!(lines[0].origin.clone().into_os_string().into_vec(), b"/\xfe");
    }

    #[test]
    fn features_are_counted_and_may_stand_in_any_order_and_case() {
        for (words, features) in [
            ("", (false, false)),
            ("0", (false, false)),
            ("1 Discard_Zeroes_COW", (true, false)),
            ("2 discard_passdown_origin discard_zeroes_cow", (true, true)),
        ] {
            let found = snapshot(&format!("0 8 snapshot-merge a b P 8 {words}"));
            assert_eq!((found.discard_zeroes, found.discard_passdown), features, "{words}");
        }
    }

    #[test]
    fn a_wrong_line_is_named_with_what_was_found_and_what_was_expected() {
        const PASSDOWN: &str = "found `discard_passdown_origin`, expected discard_zeroes_cow";
        for (table, said) in [
            ("# x\n\n0", "3: found the end of the line, expected the length"),
            (": 0 8 snapshot-origin a", "1: found `:`, expected a name"),
            ("s: 8 8 snapshot-origin a", "1: found `8`, expected the start, 0"),
            ("s : 0 8 snapshot-origin a", "1: found `s`, expected the start"),
            ("0 -8 snapshot-origin a", "1: found `-8`, expected the length"),
            ("0 99999999999999999999 snapshot-origin a", "expected the length"),
            ("0 8 linear 8:0 0", "1: found `linear`, expected snapshot-origin"),
            ("0 8 snapshot-origin", "found the end of the line, expected the origin"),
            ("0 8 snapshot-origin a b", "found `b`, expected the end"),
            ("0 8 snapshot a", "found the end of the line, expected the COW"),
            ("0 8 snapshot a b", "found the end of the line, expected P, PO or N"),
            ("0 8 snapshot a b PX 8", "found `PX`, expected P, PO or N"),
            ("0 8 snapshot a b Persistent 8", "found `Persistent`, expected P, PO or N"),
            ("0 8 snapshot-merge a b N 8", "found `N`, expected P or PO"),
            ("0 8 snapshot a b P", "found the end of the line, expected the chunk"),
            ("0 8 snapshot a b P 24", "found `24`, expected the chunk size in sectors: 0, or"),
            ("0 8 snapshot a b P +8", "found `+8`, expected the chunk"),
            ("0 8 snapshot a b P 4194304", "found `4194304`, expected the chunk"),
            ("0 8 snapshot a b N 0", "found `0`, expected the chunk size in sectors, a power"),
            ("0 8 snapshot a b P 8 3 x y z", "found `3`, expected the number of features"),
            ("0 8 snapshot a b P 8 discard_zeroes_cow", "expected the number of features"),
            ("0 8 snapshot a b P 8 1", "found the end of the line, expected discard_zeroes"),
            ("0 8 snapshot a b P 8 1 trim", "found `trim`, expected discard_zeroes"),
            ("0 8 snapshot a b P 8 0 trim", "found `trim`, expected the end"),
            ("0 8 snapshot a b P 8 1 discard_passdown_origin", PASSDOWN),
        ] {
            let refused = refusal(table);
            assert!(refused.contains(said), "{table}: {refused}");
        }
    }

    /// Words that mean something, in any order, and some that do not.
    fn words() -> impl Strategy<Value = String> {
        const KNOWN: [&str; 21] = [
            "0",
            "8",
            "18446744073709551616",
            "snapshot",
            "snapshot-origin",
            "snapshot-merge",
            "a",
            "8:1",
            ":",
            "s:",
            "P",
            "PO",
            "N",
            "1",
            "2",
            "discard_zeroes_cow",
            "discard_passdown_origin",
            "#",
            "\n",
            "é",
            "\u{a0}",
        ];
        let word = prop_oneof![
            8 => prop::sample::select(&KNOWN[..]).prop_map(str::to_owned),
            1 => any::<String>(),
        ];
        prop::collection::vec(word, 0..24).prop_map(|words| words.join(" "))
    }

    fn a_line() -> impl Strategy<Value = Line> {
        let store = prop_oneof![
            (0..=21_u32).prop_map(|shift| Store::Persistent(Some(chunk(1 << shift)))),
            Just(Store::Persistent(None)),
            (0..=21_u32).prop_map(|shift| Store::Transient(chunk(1 << shift))),
        ];
        let snapshot = ("/[ -~]{1,9}", store, any::<bool>(), any::<bool>(), any::<bool>());
        let snapshot = snapshot.prop_map(|(cow, store, merges, zeroes, passdown)| Snapshot {
            cow: cow.into(),
            store,
            merges: merges && matches!(store, Store::Persistent(_)),
            discard_zeroes: zeroes,
            discard_passdown: zeroes && passdown,
        });
        let target = prop_oneof![Just(Target::Origin), snapshot.prop_map(Target::Snapshot)];
        let name = prop::option::of("[a-z][!-\\[\\]-~]{0,9}");
        (name, any::<u64>(), "/[ -~]{1,9}", target).prop_map(|(name, len, origin, target)| Line {
            number: 1,
            name,
            len_sectors: len,
            origin: origin.into(),
            target,
        })
    }

    /// With a backslash before what would be something else.
    fn quoted(path: &std::path::Path) -> String {
        path.display().to_string().replace('\\', r"\\").replace(' ', r"\040")
    }

    /// As an administrator would write it.
    fn written(line: &Line) -> String {
        let name = line.name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        let (len, origin) = (line.len_sectors, quoted(&line.origin));
        let Target::Snapshot(snapshot) = &line.target else {
            return format!("{name}0 {len} snapshot-origin {origin}");
        };
        let target = if snapshot.merges { "snapshot-merge" } else { "snapshot" };
        let (store, sectors) = match snapshot.store {
            Store::Persistent(chunk) => ("P", chunk.map_or(0, ChunkSize::sectors)),
            Store::Transient(chunk) => ("N", chunk.sectors()),
        };
        let features = match (snapshot.discard_zeroes, snapshot.discard_passdown) {
            (false, _) => "",
            (true, false) => " 1 discard_zeroes_cow",
            (true, true) => " 2 discard_zeroes_cow discard_passdown_origin",
        };
        let cow = quoted(&snapshot.cow);
        format!("{name}0 {len} {target} {origin} {cow} {store} {sectors}{features}")
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), words in words()) {
            for text in [text, words] {
                let lines = text.split('\n').count();
                match parse(text.as_bytes()) {
                    Ok(parsed) => prop_assert!(parsed.len() <= lines),
                    Err(error) => prop_assert!((1..=lines).contains(&error.line)),
                }
            }
        }

        #[test]
        fn every_line_is_read_as_it_was_meant(line in a_line()) {
            prop_assert_eq!(parse(written(&line).as_bytes()), Ok(vec![line]));
        }
    }
}
