//! No text makes the reader take more memory than is promised.

use std::alloc::System;

use cap::Cap;
use dmsnap_lvm::{GroupError, SyntaxError, SyntaxFault, VolumeGroup};

/// Alone in its file: the allocator belongs to the whole program.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const MOST_TEXT: usize = 16 << 20;

const HEAD: &str = "contents = \"Text Format Volume Group\" version = 1 vg { seqno = 1 extent_size = 1 \
                    id = \"00000000000000000000000000000000\" logical_volumes {";

/// A group of as many LVs as fit, each with several faults.
fn worst_group() -> String {
    let mut text = HEAD.to_owned();
    for number in 0.. {
        let lv = format!("{number:x}{{id=\"00000000000000000000000000000000\"}}");
        if text.len() + lv.len() + 2 > MOST_TEXT {
            break;
        }
        text.push_str(&lv);
    }
    text + "}}"
}

#[test]
fn the_worst_texts_take_a_bounded_multiple_of_their_size() {
    let mut worst = 0;
    for (junk, refused) in [
        ("a{}", Some(SyntaxFault::Items)),
        ("a=\"\"", Some(SyntaxFault::Items)),
        ("a=[1,1,1,1,1,1]", Some(SyntaxFault::Items)),
        ("a=\"12345678\"", None),
    ] {
        let text = junk.repeat(MOST_TEXT / junk.len());
        let before = ALLOCATOR.allocated();
        let found = match VolumeGroup::parse(text.as_bytes()) {
            Err(GroupError::Syntax(SyntaxError { fault, .. })) => Some(fault),
            _ => None,
        };
        assert_eq!(found, refused, "{junk}");
        // The most ever, which is this text or one before it.
        worst = worst.max(ALLOCATOR.max_allocated() - before);
    }
    let text = worst_group();
    let before = ALLOCATOR.allocated();
    let vg = VolumeGroup::parse(text.as_bytes()).expect("it parses");
    assert!(vg.faults().len() > 700_000);
    worst = worst.max(ALLOCATOR.max_allocated() - before);
    assert!(worst < 32 * MOST_TEXT, "{} MiB", worst >> 20);
}
