#![allow(dead_code, reason = "it has a `main` as well")]

use crate::samples::sample;

#[path = "../../examples/list_volumes.rs"]
mod list_volumes;

#[test]
fn the_example_lists_volumes_and_says_how_full_snapshots_are() {
    let sample = sample("several");
    let mut told = Vec::new();
    list_volumes::list_volumes(&sample.images, &mut told).expect("listed");
    let told = String::from_utf8(told).expect("text");
    assert!(told.contains("vg0/root: "), "{told}");
    assert_eq!(told.matches("  snapshot of vg0/root, ").count(), 3, "{told}");
}
