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
