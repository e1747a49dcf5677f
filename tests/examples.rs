//! The examples, run on small images.

#![allow(dead_code, reason = "each has a `main` as well")]

use std::cell::RefCell;
use std::fs;

#[path = "../examples/list_changes.rs"]
mod list_changes;
#[path = "../examples/make_store.rs"]
mod make_store;
#[path = "../examples/merge_with_progress.rs"]
mod merge_with_progress;
#[path = "../examples/own_device.rs"]
mod own_device;
#[path = "../examples/read_snapshot.rs"]
mod read_snapshot;

/// Two images that differ in chunks 1, 2 and the last, which is a part of one.
#[test]
fn a_store_is_made_listed_read_and_merged() {
    let dir = tempfile::tempdir().expect("a directory");
    let [old, new, cow] = ["old", "new", "cow"].map(|name| dir.path().join(name));
    let before = vec![1; 5 * 4096 + 512];
    let mut after = before.clone();
    after[4096..3 * 4096].fill(2);
    after[5 * 4096..].fill(3);
    fs::write(&old, &before).expect("written");
    fs::write(&new, &after).expect("written");
    assert_eq!(make_store::make_store(&old, &new, &cow).expect("made"), 3);

    let mut listed = Vec::new();
    list_changes::list_changes(&cow, &new, &mut listed).expect("listed");
    assert_eq!(String::from_utf8(listed).expect("text"), "4096 12288\n20480 20992\n");
    let read = read_snapshot::read_snapshot(&cow, &new, 4000, 200).expect("read");
    assert_eq!(read, before[4000..4200]);
    let past = read_snapshot::read_snapshot(&cow, &new, 20_000, 1000).expect_err("the image ends");
    assert!(past.to_string().contains("end of file"), "{past}");

    let told = RefCell::new(Vec::new());
    let merged = merge_with_progress::merge_with_progress(&cow, &new, |percent| {
        told.borrow_mut().push(percent);
    });
    assert_eq!(merged.expect("merged").exceptions, 3);
    assert_eq!(told.borrow().last(), Some(&100));
    assert_eq!(fs::read(&new).expect("read"), before);
}

#[test]
fn a_store_is_made_on_a_device_of_ones_own() {
    let told = own_device::own_device().expect("made");
    assert!(told.starts_with("16/2147483648 16: "), "{told}");
}
