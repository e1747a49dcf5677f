use std::ffi::OsString;
use std::fs;

use serde_json::Value;

use crate::kernel_images::images::{Unpacked, Vector, sha256, snapshots, vector, vectors};
use crate::kernel_images::run::dmsnap;
use crate::kernel_images::store::{Exception, apply, exceptions};

/// Arguments of mixed kinds: words and paths.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { [$(OsString::from(&$arg)),*] };
}

fn number(json: &Value, field: &str) -> u64 {
    json[field].as_u64().unwrap_or_else(|| panic!("{field} is not a number in {json}"))
}

fn info(store: &Unpacked) -> Value {
    dmsnap(args!["info", store.cow, "--json"]).expect(0).json()
}

fn export(store: &Unpacked, to: &str) -> String {
    let image = store.path(to);
    dmsnap(args!["export", store.cow, store.origin, image]).expect(0);
    sha256(&image)
}

/// Fails unless the merge of this store is at its end: the origin is the snapshot, the store is
/// empty and sound.
fn assert_merged(store: &Unpacked) {
    let name = store.name();
    assert_eq!(sha256(&store.origin), store.vector.snapshot_sha256(), "{name}: wrong origin");
    assert_eq!(exceptions(&store.cow), [], "{name}: the store is not empty");
    let empty = 2 * store.vector.chunk_size_sectors;
    let status = format!("{empty}/{} {empty}", store.vector.cow_sectors);
    assert_eq!(info(store)["status"], status, "{name}");
    dmsnap(args!["check", store.cow, store.origin]).expect(0);
}

/// What the kernel would print after the name of the target for this store.
///
/// `Overflow` is not stored: opened anew, that store is a full one.
fn status(vector: &Vector, count: u64) -> String {
    let line = vector.status.splitn(4, ' ').nth(3).expect("a status line has four parts");
    if line != "Overflow" {
        return line.to_owned();
    }
    let total = vector.cow_sectors;
    let areas = count / (32 * vector.chunk_size_sectors) + 1;
    format!("{total}/{total} {}", (areas + 1) * vector.chunk_size_sectors)
}

/// Guards the data itself: whatever else fails, it is not a spoilt image.
#[test]
fn the_images_are_what_the_index_says() {
    let stores = vectors();
    assert_eq!(stores.len(), 19, "18 names, one of them with two stores");
    for store in stores.iter().map(Vector::unpack) {
        let vector = &store.vector;
        let sectors = |path| fs::metadata(path).expect("the image is there").len() / 512;
        assert_eq!(store.content.origin, vector.origin_sha256, "{}", store.name());
        assert_eq!(sectors(&store.origin), vector.origin_sectors, "{}", store.name());
        assert_eq!(sectors(&store.cow), vector.cow_sectors, "{}", store.name());
        if let Some(reopened) = &vector.reopened_sha256 {
            assert_eq!(Some(reopened), vector.snapshot_sha256.as_ref(), "{}", store.name());
        }
    }
}

#[test]
fn info_tells_the_numbers_of_the_kernels_own_status_line() {
    for store in vectors().iter().map(Vector::unpack) {
        let (name, vector, told) = (store.name(), &store.vector, info(&store));
        let count = exceptions(&store.cow).len() as u64;
        let status = status(vector, count);
        assert_eq!(told["status"], status, "{name}");
        assert_eq!(told["valid"], vector.scenario != "invalid", "{name}");
        assert_eq!(number(&told, "chunk_size_sectors"), vector.chunk_size_sectors, "{name}");
        assert_eq!(number(&told, "total_sectors"), vector.cow_sectors, "{name}");
        if status != "Invalid" {
            assert_eq!(number(&told, "exceptions"), count, "{name}");
            let allocated = number(&told, "allocated_sectors");
            let metadata = number(&told, "metadata_sectors");
            assert_eq!(format!("{allocated}/{} {metadata}", vector.cow_sectors), status, "{name}");
            let least = number(&told, "origin_at_least_sectors");
            assert!(least <= vector.origin_sectors, "{name}: {least}");
        }
        store.assert_unchanged("info");
    }
}

#[test]
fn check_calls_every_store_sound_but_the_invalid_one() {
    for store in vectors().iter().map(Vector::unpack) {
        let expected = i32::from(store.vector.scenario == "invalid");
        dmsnap(args!["check", store.cow]).expect(expected);
        dmsnap(args!["check", store.cow, store.origin]).expect(expected);
        dmsnap(args!["check", store.cow, store.origin, "--json"]).expect(expected).json_lines();
        store.assert_unchanged("check");
    }
}

#[test]
fn the_runs_of_a_dump_laid_over_the_origin_are_the_snapshot() {
    for store in snapshots().iter().map(Vector::unpack) {
        let (name, told) = (store.name(), info(&store));
        let dump = dmsnap(args!["dump", store.cow, "--format", "json"]).expect(0);
        let runs = dump.json_lines();
        let dumped: Vec<_> = runs.iter().flat_map(chunks).collect();
        assert_eq!(dumped, exceptions(&store.cow), "{name}");
        assert_eq!(dumped.len() as u64, number(&told, "exceptions"), "{name}");
        assert_eq!(runs.len() as u64, number(&told, "runs"), "{name}");
        let image = store.path("by-hand.img");
        apply(&dumped, &store.cow, &store.origin, &image);
        assert_eq!(sha256(&image), store.vector.snapshot_sha256(), "{name}");
        dmsnap(args!["dump", store.cow]).expect(0);
        store.assert_unchanged("dump");
    }
}

/// The exceptions a run stands for.
fn chunks(run: &Value) -> impl Iterator<Item = Exception> + use<> {
    let (old, new) = (number(run, "old"), number(run, "new"));
    (0..number(run, "len")).map(move |i| Exception { old: old + i, new: new + i })
}

#[test]
fn an_export_is_the_snapshot() {
    for store in snapshots().iter().map(Vector::unpack) {
        let name = store.name();
        assert_eq!(export(&store, "out.img"), store.vector.snapshot_sha256(), "{name}");
        store.assert_unchanged("export");
    }
}

#[test]
fn an_export_replaces_a_file_only_when_told_to() {
    let store = vector("random-16k").unpack();
    let image = store.path("out.img");
    fs::write(&image, "something dear to somebody").expect("the file can be written");
    let before = sha256(&image);
    dmsnap(args!["export", store.cow, store.origin, image]).expect(3);
    assert_eq!(sha256(&image), before, "the refused export wrote");
    dmsnap(args!["export", store.cow, store.origin, image, "--force"]).expect(0);
    assert_eq!(sha256(&image), store.vector.snapshot_sha256());
    store.assert_unchanged("export");
}

#[test]
fn two_snapshots_of_one_origin_are_told_apart() {
    let pair: Vec<_> = vectors().into_iter().filter(|vector| vector.scenario == "two").collect();
    let [first, second] = pair.as_slice() else { panic!("two stores, not {}", pair.len()) };
    assert_ne!(first.snapshot_sha256, second.snapshot_sha256);
    let (first, second) = (first.unpack(), second.unpack());
    assert_eq!(first.content.origin, second.content.origin);
    assert_eq!(export(&first, "out.img"), first.vector.snapshot_sha256());
    let image = first.path("second.img");
    dmsnap(args!["export", second.cow, first.origin, image]).expect(0);
    assert_eq!(sha256(&image), second.vector.snapshot_sha256());
}

#[test]
fn a_dry_run_says_what_a_merge_would_do_and_does_nothing() {
    for store in snapshots().iter().map(Vector::unpack) {
        let dry = dmsnap(args!["merge", store.cow, store.origin, "--dry-run", "--json"]);
        let plan = dry.expect(0).json();
        let count = exceptions(&store.cow).len() as u64;
        assert_eq!(number(&plan, "exceptions"), count, "{}", store.name());
        store.assert_unchanged("merge --dry-run");
    }
}

#[test]
fn a_merged_origin_is_the_snapshot_and_the_store_is_empty() {
    for store in snapshots().iter().map(Vector::unpack) {
        let (name, count) = (store.name(), exceptions(&store.cow).len() as u64);
        let merged = dmsnap(args!["merge", store.cow, store.origin, "--json"]).expect(0).json();
        assert_eq!(merged["finished"], true, "{name}");
        assert_eq!(number(&merged, "exceptions"), count, "{name}");
        assert_eq!(number(&merged, "left"), 0, "{name}");
        assert_merged(&store);
        let again = dmsnap(args!["merge", store.cow, store.origin, "--json"]).expect(0).json();
        assert_eq!(number(&again, "exceptions"), 0, "{name}");
        assert_merged(&store);
    }
}

#[test]
fn an_empty_store_has_nothing_left_to_merge() {
    let store = vector("merged-4k").unpack();
    let merged = dmsnap(args!["merge", store.cow, store.origin, "--json"]).expect(0).json();
    assert_eq!(number(&merged, "exceptions"), 0);
    assert_eq!(number(&merged, "bytes"), 0);
    store.assert_unchanged("merge");
}

#[test]
fn a_merge_in_many_small_windows_comes_to_the_same_end() {
    for store in snapshots().iter().map(Vector::unpack) {
        let (name, count) = (store.name(), exceptions(&store.cow).len() as u64);
        let window = format!("{}s", 16 * store.vector.chunk_size_sectors);
        let args = args!["merge", store.cow, store.origin, "--json", "--window", window];
        let merged = dmsnap(args).expect(0).json();
        assert!(number(&merged, "windows") >= count.div_ceil(16), "{name}: {merged}");
        assert_merged(&store);
    }
}

#[test]
fn an_invalid_store_is_neither_exported_nor_merged() {
    let store = vector("invalid-4k").unpack();
    let image = store.path("out.img");
    let refusals = [
        args!["export", store.cow, store.origin, image].to_vec(),
        args!["merge", store.cow, store.origin].to_vec(),
        args!["merge", store.cow, store.origin, "--dry-run"].to_vec(),
    ];
    for refusal in refusals {
        let message = dmsnap(refusal).expect(3).stderr();
        assert!(message.contains("invalid"), "{message}");
        assert!(message.contains("cow.img"), "the message does not name the file: {message}");
        assert!(!image.exists(), "a refused export left a file");
        store.assert_unchanged("a refused command");
    }
}
