//! `dmsnap diff` and `dmsnap compare`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{
    CHUNK, Dir, OLD, ORIGIN_CHUNKS, Pair, Ran, data, origin, pair, parsed, read, run, snapshot,
    store, write_at,
};

/// Asserts "something differs" with nothing to complain about, and gives stdout.
#[track_caller]
fn differ(ran: Ran) -> String {
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
    ran.stdout
}

fn ranges(text: &str) -> Vec<(u64, u64)> {
    let number = |word: Option<&str>| word.and_then(|it| it.parse().ok()).expect("a number");
    let range = |line: &str| {
        let mut words = line.split_whitespace();
        (number(words.next()), number(words.next()))
    };
    text.lines().map(range).collect()
}

fn chunks(first: u64, len: u64) -> (u64, u64) {
    (first * CHUNK as u64, len * CHUNK as u64)
}

/// A second store of the same origin, besides the usual pair.
struct Two {
    pair: Pair,
    other: PathBuf,
}

fn two() -> Two {
    let pair = pair(&OLD, ORIGIN_CHUNKS);
    // Chunk 6 holds the same in both, chunk 20 does not.
    let mut content = store(&[6, 20, 30], 21);
    write_at(&mut content, 3 * CHUNK as u64, &[7; CHUNK]);
    let other = pair.dir.file("other", &content);
    Two { pair, other }
}

#[test]
fn a_side_is_a_store_or_the_origin_and_the_order_does_not_matter() {
    let Two { pair: Pair { cow, disk, dir }, other } = two();
    let of_origin = differ(dmsnap!("diff", cow, disk));
    assert_eq!(of_origin, "4096 2048  2 KiB\n10240 6144  6 KiB\n40960 2048  2 KiB\n");
    assert_eq!(differ(dmsnap!("diff", disk, cow)), of_origin);
    assert_eq!(differ(dmsnap!("diff", "--origin", disk, disk, cow)), of_origin);
    let both = [chunks(2, 1), chunks(5, 3), chunks(20, 1), chunks(30, 1)];
    assert_eq!(ranges(&differ(dmsnap!("diff", cow, other))), both);
    assert_eq!(ranges(&differ(dmsnap!("diff", "--origin", disk, other, cow))), both);
    let exact = [chunks(2, 1), chunks(5, 1), chunks(7, 1), chunks(20, 1), chunks(30, 1)];
    let ran = dmsnap!("diff", "--compare", "--origin", disk, cow, other);
    assert_eq!(ranges(&differ(ran)), exact);
    // An origin may begin like a store: who names it says which it is.
    let mut odd = origin(ORIGIN_CHUNKS);
    write_at(&mut odd, 0, &store(&[], 2)[..CHUNK]);
    let odd = dir.file("odd", &odd);
    assert_eq!(differ(dmsnap!("diff", cow, odd, "--origin", odd)), of_origin);
    let empty = dir.file("empty", &store(&[], 16));
    assert_eq!(dmsnap!("diff", empty, disk).ok(), "");
    assert_eq!(dmsnap!("diff", "--compare", empty, disk).ok(), "");
    assert_eq!(dir.names(), ["cow", "disk", "empty", "odd", "other"]);
}

#[test]
fn pages_and_formats_say_the_same() {
    let Pair { cow, disk, dir: _dir } = pair(&OLD, ORIGIN_CHUNKS);
    let whole = [chunks(2, 1), chunks(5, 3), chunks(20, 1)];
    let size = ORIGIN_CHUNKS * CHUNK as u64;
    assert_eq!(ranges(&differ(dmsnap!("diff", "--max", "2", cow, disk))), whole[..2]);
    assert_eq!(ranges(&differ(dmsnap!("diff", "--from", "16k", cow, disk))), whole[2..]);
    let cut = differ(dmsnap!("diff", "--from", "11k", "--max", "1", cow, disk));
    assert_eq!(ranges(&cut), [(11 << 10, 5 << 10)]);
    assert_eq!(dmsnap!("diff", "--from", "42k", cow, disk).ok(), "");

    let lines = differ(dmsnap!("diff", "--json", cow, disk));
    let mut lines = lines.lines().map(parsed);
    let head = json!({ "size": size, "granularity": CHUNK, "exact": false });
    assert_eq!(lines.next(), Some(head));
    let expected = whole.map(|(start, length)| json!({ "start": start, "length": length }));
    assert_eq!(lines.collect::<Vec<_>>(), expected);
    let exact = differ(dmsnap!("diff", "--json", "--compare", "--max", "1", cow, disk));
    assert_eq!(parsed(exact.lines().next().expect("a head"))["exact"], true);
    let nothing = dmsnap!("diff", "--json", "--from", size.to_string(), cow, disk).ok();
    assert_eq!(nothing.lines().count(), 1);

    let message = parsed(&differ(dmsnap!("diff", "--format", "csi", cow, disk)));
    let blocks = whole.map(|(at, len)| json!({ "byte_offset": at, "size_bytes": len }));
    let expected = json!({
        "block_metadata_type": "VARIABLE_LENGTH",
        "volume_capacity_bytes": size,
        "block_metadata": blocks,
    });
    assert_eq!(message, expected);
    let nothing = dmsnap!("diff", "--format", "csi", "--from", size.to_string(), cow, disk).ok();
    assert_eq!(parsed(&nothing)["block_metadata"], json!([]));

    for (from, args) in [(0, &[][..]), (11 << 10, &["--from", "11k"])] {
        let paths = [&cow, &disk].map(|path| path.to_str().expect("plain"));
        let args = [&["diff", "--format", "qemu"][..], args, &paths].concat();
        let map: Vec<Value> = serde_json::from_str(&differ(run(&args))).expect("a list");
        let number = |it: &Value, name| it[name].as_u64().expect("a number");
        let mut end = from;
        for extent in &map {
            assert_eq!(number(extent, "start"), end, "{extent}");
            end += number(extent, "length");
        }
        assert_eq!(end, size);
        let data = map.iter().filter(|it| it["data"] == true);
        let data: Vec<_> = data.map(|it| (number(it, "start"), number(it, "length"))).collect();
        let clipped = whole.iter().filter(|(at, len)| at + len > from);
        let clipped = clipped.map(|(at, len)| (*at.max(&from), at + len - at.max(&from)));
        assert_eq!(data, clipped.collect::<Vec<_>>());
    }
}

#[test]
fn what_cannot_be_compared_is_refused_in_one_line() {
    let Two { pair: Pair { cow, disk, dir }, other } = two();
    let before = [&cow, &disk, &other].map(|path| read(path));
    let usage = |ran: Ran, words: &str| {
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(words) && ran.stderr.contains("--help"), "{}", ran.stderr);
    };
    usage(dmsnap!("diff", "--compare", cow, other), "--compare reads the origin too");
    usage(dmsnap!("diff", "--format", "csi", cow, other), "give --origin");
    usage(dmsnap!("diff", "--format", "qemu", cow, other), "give --origin");
    usage(dmsnap!("diff", "--max", "0", cow, disk), "--max");
    let failed = |ran: Ran, words: &str| {
        let line = ran.failed();
        assert!(line.contains(words), "{line}");
    };
    let image = dir.file("image", &origin(ORIGIN_CHUNKS));
    failed(dmsnap!("diff", disk, image), &format!("{}: no store begins here, nor", disk.display()));
    failed(dmsnap!("diff", cow, image, "--origin", disk), "no store begins here, and");
    failed(dmsnap!("diff", cow, cow), "A and B must be two");
    failed(dmsnap!("diff", "--from", "1M", cow, disk), "--from: byte 1048576 lies past the end");
    let short = dir.file("short", &origin(8));
    let line = dmsnap!("diff", cow, short).failed();
    assert!(line.starts_with(&format!("dmsnap: {}: ", cow.display())), "{line}");
    let line =
        dmsnap!("diff", "--origin", short, dir.file("small", &store(&[1], 16)), cow).failed();
    assert!(line.starts_with(&format!("dmsnap: {}: ", cow.display())), "{line}");
    let mut dropped = store(&OLD, 21);
    dropped[4..8].fill(0);
    let dropped = dir.file("dropped", &dropped);
    failed(dmsnap!("diff", dropped, disk), "this store is invalid");
    failed(dmsnap!("diff", other, dropped), &format!("{}: this store is", dropped.display()));
    failed(dmsnap!("compare", dropped, disk, image), "this store is invalid");
    failed(dmsnap!("compare", disk, cow, image), "the devices look swapped");
    failed(dmsnap!("compare", cow, disk, dir.path("missing")), "No such file or directory");
    // Somebody writes to it.
    let locked = fs::File::open(&cow).expect("open");
    locked.lock().expect("lock");
    failed(dmsnap!("diff", cow, disk), "in use by another process");
    drop(locked);
    assert!(before == [&cow, &disk, &other].map(|path| read(path)), "nothing was written");
}

#[test]
fn another_origin_is_refused_by_the_fence() {
    let dir = Dir::new();
    let golden = dir.file("golden", &origin(64));
    let cow = dir.path("vm.cow");
    dmsnap!("create", "--for", golden, "--base", golden, cow).ok();
    dmsnap!("diff", cow, golden).ok();
    dmsnap!("compare", cow, golden, golden).ok();
    let mut content = origin(64);
    write_at(&mut content, 0, b"mounted elsewhere");
    let golden = dir.file("golden", &content);
    for ran in [
        dmsnap!("diff", cow, golden),
        dmsnap!("diff", "--compare", golden, cow),
        dmsnap!("compare", cow, golden, golden),
    ] {
        let line = ran.failed();
        assert!(line.starts_with(&format!("dmsnap: {}: not the origin", golden.display())));
        assert!(line.ends_with("or go on with --no-fence"), "{line}");
    }
    // Without the origin, two stores that remember two of them.
    let second = dir.path("vm2.cow");
    dmsnap!("create", "--for", golden, "--base", golden, second).ok();
    let line = dmsnap!("diff", cow, second).failed();
    assert!(line.starts_with("dmsnap: A and B: the stores were made for two origins"), "{line}");
    dmsnap!("diff", "--no-fence", cow, second).ok();
    dmsnap!("diff", "--no-fence", cow, golden).ok();
    dmsnap!("compare", "--no-fence", cow, golden, golden).ok();
}

#[test]
fn a_comparison_is_a_proof() {
    let Pair { cow, disk, dir } = pair(&OLD, ORIGIN_CHUNKS);
    let image = dir.path("image");
    dmsnap!("export", cow, disk, image).ok();
    assert!(read(&image) == snapshot(&OLD, ORIGIN_CHUNKS));
    let said = dmsnap!("compare", cow, disk, image).ok();
    let (size, hash) = said.split_once(" bytes, BLAKE3 ").expect("both");
    assert_eq!((size, hash.trim().len()), ("the same: 65536", 64));
    let told = parsed(&dmsnap!("compare", "--json", cow, disk, image).ok());
    assert_eq!((&told["same"], &told["first_difference"]), (&json!(true), &Value::Null));
    assert_eq!(told["snapshot_blake3"], hash.trim());
    assert_eq!(told["image_blake3"], hash.trim());

    let mut content = read(&image);
    content[5 * CHUNK + 17] = !data(5);
    fs::write(&image, content).expect("written");
    let said = differ(dmsnap!("compare", cow, disk, image));
    assert!(said.starts_with("different from byte 10257 on\nsnapshot: 65536 bytes, BLAKE3 "));
    let told = parsed(&differ(dmsnap!("compare", "--json", cow, disk, image)));
    assert_eq!((&told["same"], &told["first_difference"]), (&json!(false), &json!(10257)));
    assert_ne!(told["snapshot_blake3"], told["image_blake3"]);
    let longer = dir.file("longer", &[&snapshot(&OLD, ORIGIN_CHUNKS)[..], &[0; 512]].concat());
    let told = parsed(&differ(dmsnap!("compare", "--json", cow, disk, longer)));
    assert_eq!(told["first_difference"], 65536);

    // After a merge the origin is the snapshot, and its store is empty.
    dmsnap!("merge", cow, disk).ok();
    let merged = dir.file("merged", &snapshot(&OLD, ORIGIN_CHUNKS));
    dmsnap!("compare", cow, disk, merged).ok();
    assert_eq!(dmsnap!("diff", cow, disk).ok(), "");
}

/// A file of this length that is one hole.
fn hole(path: &Path, len: u64) {
    fs::File::create(path).and_then(|file| file.set_len(len)).expect("made");
}

#[test]
fn holes_are_not_read() {
    let dir = Dir::new();
    let [disk, image, cow] = ["disk", "image", "cow"].map(|name| dir.path(name));
    hole(&disk, 1 << 28);
    hole(&image, 1 << 28);
    dmsnap!("create", "--size", "1M", cow).ok();
    let told = parsed(&dmsnap!("compare", "--json", cow, disk, image).ok());
    assert_eq!((&told["read_bytes"], &told["snapshot_bytes"]), (&json!(0), &json!(1 << 28)));
    assert_eq!(told["snapshot_blake3"], told["image_blake3"]);
}

#[test]
fn snapshots_in_volume_groups_bring_their_origin() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = Dir::new();
    let packed = fs::File::open(root.join("tests/data/lvm/gpt.a.img.zst")).expect("readable");
    let mut content = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed).expect("zstd");
    std::io::Read::read_to_end(&mut decoder, &mut content).expect("whole");
    let image = dir.file("disk.img", &content);
    let volume = |name: &str| format!("lvm:{}:vg0/{name}", image.display());
    let found = differ(dmsnap!("diff", volume("snap"), volume("root")));
    assert!(ranges(&found).len() > 1, "{found}");
    let head = differ(dmsnap!("diff", "--json", "--max", "1", volume("root"), volume("snap")));
    let head = parsed(head.lines().next().expect("a head"));
    assert_eq!((&head["size"], &head["granularity"]), (&json!(2 << 20), &json!(4096)));
    let out = dir.path("out");
    dmsnap!("lvm", "export", image, "vg0/snap", out).ok();
    dmsnap!("compare", volume("snap"), out).ok();
    differ(dmsnap!("compare", volume("snap"), volume("root")));
    assert!(read(&image) == content, "nothing was written");
}
