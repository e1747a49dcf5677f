//! `dmsnap merge --keep`: another snapshot of the origin keeps what it shows. The stores are a kernel's, and so
//! are the hashes.

use std::ffi::{OsStr, OsString};

use crate::kernel_images::images::{Unpacked, Vector, sha256, vectors};
use crate::kernel_images::run::{Ran, dmsnap};

fn ran(words: &[&dyn AsRef<OsStr>]) -> Ran {
    dmsnap(words.iter().map(|word| OsString::from(word.as_ref())))
}

/// Both snapshots of one origin.
fn pair() -> [(Vector, Unpacked); 2] {
    let mut both = vectors().into_iter().filter(|vector| vector.name == "two-snapshots-8k");
    let mut next = || {
        let vector = both.next().expect("two snapshots");
        let unpacked = vector.unpack();
        (vector, unpacked)
    };
    [next(), next()]
}

#[test]
fn another_snapshot_keeps_what_it_shows() {
    let [(first, store), (second, other)] = pair();
    let (cow, origin, kept) = (&store.cow, &store.origin, &other.cow);
    let planned = ran(&[&"merge", &"--dry-run", &"--json", &"--keep", kept, cow, origin]);
    let planned = planned.expect(0).json();
    assert_eq!(sha256(origin), first.origin_sha256, "a dry run writes nothing");

    let merged = ran(&[&"merge", &"--json", &"--keep", kept, cow, origin]).expect(0).json();
    assert_eq!(merged["finished"], true, "{merged}");
    assert_eq!(merged["others"], planned["others"], "what was planned was done");
    assert!(merged["others"][0]["chunks"].as_u64() > Some(0), "{merged}");
    assert_eq!(sha256(origin), first.snapshot_sha256());
    let out = store.path("out");
    ran(&[&"export", kept, origin, &out]).expect(0);
    assert_eq!(sha256(&out), second.snapshot_sha256());
}

#[test]
fn one_device_is_given_once() {
    let [(_, store), (_, other)] = pair();
    let (cow, origin, kept) = (&store.cow, &store.origin, &other.cow);
    for keep in [&[cow][..], &[origin], &[kept, kept]] {
        let mut words: Vec<&dyn AsRef<OsStr>> = vec![&"merge"];
        keep.iter().for_each(|it| words.extend([&"--keep" as &dyn AsRef<OsStr>, *it]));
        words.extend([cow as &dyn AsRef<OsStr>, origin]);
        let refused = ran(&words).expect(3);
        assert!(refused.told().contains("the same file or device as"), "{}", refused.told());
    }
}
