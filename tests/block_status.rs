//! What a view says of its stretches, while others change them; and what a snapshot says has changed.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use dmsnap::copy::Silent;
use dmsnap::device::{Device, DynDevice, Memory};
use dmsnap::format::ChunkSize;
use dmsnap::store::format;
use dmsnap::volume::{Layer, MergeState, SnapshotOptions, View};
use dmsnap_sim::run;
use futures_util::future::join;

use crate::common::holes::{Answer, Holes};
use crate::common::live::{AnySnapshot, AnyView, AnyVolume, any_volume};

const CHUNK: u64 = 4096;
const LEN: u64 = 16 * CHUNK;

fn cow() -> DynDevice {
    let cow = Memory::zeroed(64 * 4096);
    run(format(&cow, ChunkSize::from_sectors(8).expect("legal"))).expect("formats");
    cow.into()
}

/// The first half of the origin is a hole, the second data.
fn volume() -> (Rc<Holes>, Rc<AnyVolume>) {
    let origin = Rc::new(Holes::new(LEN));
    origin.fill(LEN / 2..LEN, 7);
    (origin.clone(), any_volume(origin))
}

fn add(volume: &AnyVolume, name: &str) -> Rc<AnySnapshot> {
    run(volume.open(name, cow(), SnapshotOptions::default())).expect("added")
}

/// Returns when the origin was asked for its holes.
async fn asked(origin: &Holes) {
    poll_fn(|context| match origin.asking.get() {
        0 => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        _ => Poll::Ready(()),
    })
    .await;
}

/// The layers of all of `view`, while `meanwhile` happens between the question and the origin's answer.
fn layers_while(
    origin: &Holes,
    view: &AnyView,
    answer: Answer,
    meanwhile: impl Future<Output = ()>,
) -> Vec<(u64, Layer)> {
    origin.answer(answer);
    let others = async {
        asked(origin).await;
        meanwhile.await;
        origin.answer(Answer::AtOnce);
    };
    let len = view.len_bytes().expect("a size");
    run(join(view.layers(0..len, 100), others)).0.expect("answers")
}

/// A hole is asked for while a client trims the origin: the snapshot has kept the data before the origin
/// loses it, so it is never a hole of the snapshot.
#[test]
fn data_that_the_origin_loses_meanwhile_is_no_hole_of_the_snapshot() {
    for answer in [Answer::Held, Answer::Late] {
        let (origin, volume) = volume();
        let snapshot = add(&volume, "s");
        let view = View::snapshot(&volume, &snapshot);
        let trim = async {
            View::origin(&volume).discard(LEN / 2, LEN / 4).await.expect("discarded");
        };
        let layers = layers_while(&origin, &view, answer, trim);
        let expected = [(LEN / 2, Layer::Hole), (LEN / 4, Layer::Saved), (LEN / 4, Layer::Origin)];
        assert_eq!(layers, expected, "{answer:?}");
    }
}

/// The same question of the device's next data.
#[test]
fn the_next_data_of_a_snapshot_is_not_passed_over_by_a_trim() {
    let (origin, volume) = volume();
    let snapshot = add(&volume, "s");
    let view = View::snapshot(&volume, &snapshot);
    origin.answer(Answer::Held);
    let trim = async {
        asked(&origin).await;
        View::origin(&volume).discard(LEN / 2, LEN / 2).await.expect("discarded");
        origin.answer(Answer::AtOnce);
    };
    // From the last sector of the hole on.
    let (data, ()) = run(join(view.next_data(LEN / 2 - 512), trim));
    assert_eq!(data.expect("answers").map(|it| it.start), Some(LEN / 2));
}

/// A chunk that a merge brings into a hole of the origin after the origin was asked is data.
#[test]
fn a_chunk_that_is_merged_meanwhile_is_no_hole() {
    for (answer, own) in [(Answer::Late, true), (Answer::Held, true), (Answer::Late, false)] {
        let (origin, volume) = volume();
        let snapshot = add(&volume, "s");
        let view = View::snapshot(&volume, &snapshot);
        run(view.write(3 * CHUNK, Bytes::from(vec![9; 4096]))).expect("written");
        run(volume.start_merge(&snapshot)).expect("starts");
        let view = if own { view } else { View::origin(&volume) };
        let merge = async {
            let state = volume.run_merge(1 << 20, &Silent).await.expect("merges");
            assert_eq!(state, MergeState::Finished);
        };
        let layers = layers_while(&origin, &view, answer, merge);
        let mut at = 0;
        for (len, layer) in layers {
            assert!(
                layer != Layer::Hole || at + len <= 3 * CHUNK || at >= 4 * CHUNK,
                "{answer:?} {at} {len}"
            );
            at += len;
        }
        assert_eq!(at, LEN);
    }
}

/// What nothing is going on with is told as it is, at any byte, and never more than was asked for.
#[test]
fn holes_and_data_are_told_from_any_byte_on() {
    let (_origin, volume) = volume();
    let snapshot = add(&volume, "s");
    let view = View::snapshot(&volume, &snapshot);
    run(view.write(CHUNK, Bytes::from(vec![0; 4096]))).expect("written");
    let all = [
        (CHUNK, Layer::Hole),
        (CHUNK, Layer::Saved),
        (LEN / 2 - 2 * CHUNK, Layer::Hole),
        (LEN / 2, Layer::Origin),
    ];
    assert_eq!(run(view.layers(0..LEN, 9)).expect("answers"), all);
    assert_eq!(run(view.layers(0..LEN, 2)).expect("answers"), all[..2]);
    let odd = run(view.layers(CHUNK - 3..CHUNK + 5, 9)).expect("answers");
    assert_eq!(odd, [(3, Layer::Hole), (5, Layer::Saved)]);
    assert!(run(view.layers(0..LEN + 1, 9)).is_err(), "past the end");
    assert_eq!(run(view.next_data(0)).expect("answers"), Some(CHUNK..2 * CHUNK));
    assert_eq!(run(view.next_data(2 * CHUNK)).expect("answers"), Some(LEN / 2..LEN));
}

/// A snapshot that is dropped answers nothing, also if that happens while the origin is asked.
#[test]
fn a_dropped_snapshot_says_nothing_of_holes_and_changes() {
    let (origin, volume) = volume();
    let snapshot = add(&volume, "s");
    let view = View::snapshot(&volume, &snapshot);
    origin.answer(Answer::Held);
    let drop = async {
        asked(&origin).await;
        volume.invalidate(&snapshot).await.expect("dropped");
        origin.answer(Answer::AtOnce);
    };
    let (answer, ()) = run(join(view.layers(0..LEN, 9), drop));
    assert!(answer.is_err(), "{answer:?}");
    assert!(run(view.layers(0..LEN, 9)).is_err());
    assert!(run(view.next_data(0)).is_err());
    assert!(!volume.tells_changes(&snapshot));
    assert!(volume.changed_since(&snapshot, 0..LEN, 9).is_err());
    assert!(run(View::origin(&volume).layers(0..LEN, 9)).is_ok(), "the origin goes on");
}

fn changed(volume: &AnyVolume, snapshot: &Rc<AnySnapshot>) -> Vec<(u64, bool)> {
    volume.changed_since(snapshot, 0..LEN, 100).expect("it tells")
}

/// While another snapshot merges the origin shows that one's content: what it holds has changed for
/// everybody else, whether it has been moved or not. Given up or finished, nothing is forgotten.
#[test]
fn what_a_merging_snapshot_holds_has_changed_since_another_one() {
    for finish in [true, false] {
        let (_origin, volume) = volume();
        let (s, t) = (add(&volume, "s"), add(&volume, "t"));
        for chunk in [2, 5, 9] {
            let at = chunk * CHUNK;
            run(View::snapshot(&volume, &s).write(at, Bytes::from(vec![9; 4096])))
                .expect("written");
        }
        assert_eq!(changed(&volume, &t), [(LEN, false)]);
        run(volume.start_merge(&s)).expect("starts");
        let all: Vec<_> =
            [(2, false), (1, true), (2, false), (1, true), (3, false), (1, true), (6, false)]
                .map(|(chunks, changed)| (chunks * CHUNK, changed))
                .into();
        assert_eq!(changed(&volume, &t), all);
        assert!(volume.changed_since(&s, 0..LEN, 9).is_err(), "it and the origin are one");
        if finish {
            run(volume.run_merge(CHUNK, &Silent)).expect("merges");
            assert_eq!(changed(&volume, &t), all);
        } else {
            run(volume.cancel_merge()).expect("given up");
            assert_eq!(changed(&volume, &t), [(LEN, false)], "the origin alone has not changed");
        }
        assert!(volume.changed_since(&s, 0..LEN, 9).is_err(), "it was merged, if only in part");
    }
}

/// An origin write that waits in memory has changed the origin for its clients.
#[test]
fn what_waits_in_memory_has_changed() {
    let (_origin, volume) = volume();
    volume.allow_backlog(1 << 20);
    let snapshot = add(&volume, "s");
    run(View::origin(&volume).write(CHUNK, Bytes::from(vec![9; 4096]))).expect("waits");
    assert_eq!(snapshot.exceptions(), 0, "it waits");
    let expected = [(CHUNK, false), (CHUNK, true), (LEN - 2 * CHUNK, false)];
    assert_eq!(changed(&volume, &snapshot), expected);
    run(volume.write_back()).expect("written");
    assert_eq!(changed(&volume, &snapshot), expected);
}

/// One that was taken out gets no exceptions any more, and another one of its name is another one.
#[test]
fn a_snapshot_that_was_taken_out_tells_no_changes() {
    let (_origin, volume) = volume();
    let before = add(&volume, "s");
    run(volume.remove(&before)).expect("removed");
    let now = add(&volume, "s");
    assert!(volume.changed_since(&before, 0..LEN, 9).is_err());
    assert_ne!(before.id(), now.id());
    assert_eq!(changed(&volume, &now), [(LEN, false)]);
}
