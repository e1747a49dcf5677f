//! A second, naive reader of stores. It shares no line with the code it judges.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where one origin chunk lives on the COW device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    pub(crate) old: u64,
    pub(crate) new: u64,
}

/// The exceptions in the order of their slots. Only header and areas are read, so that a store can
/// be watched while a merge is at work on it.
pub(crate) fn exceptions(cow: &Path) -> Vec<Exception> {
    let cow = File::open(cow).expect("the COW device is there");
    let read = |at: usize, len: usize| {
        let mut bytes = vec![0; len];
        cow.read_exact_at(&mut bytes, at as u64).expect("the COW device is readable");
        bytes
    };
    let chunk_bytes = chunk_bytes(&read(0, 16));
    let slots = chunk_bytes / 16;
    let mut found = Vec::new();
    for area in 0.. {
        for slot in read((1 + area * (slots + 1)) * chunk_bytes, chunk_bytes).chunks(16) {
            let exception = Exception { old: word(&slot[..8]), new: word(&slot[8..]) };
            if exception.new == 0 {
                return found;
            }
            found.push(exception);
        }
    }
    found
}

/// Copies each exception's chunk from `cow` over the chunk it stands for. A chunk at the end of
/// an odd-sized origin is cut.
pub(crate) fn apply(exceptions: &[Exception], cow: &Path, origin: &Path, output: &Path) {
    let cow = fs::read(cow).expect("the COW device is readable");
    let mut image = fs::read(origin).expect("the origin is readable");
    let chunk_bytes = chunk_bytes(&cow);
    for exception in exceptions {
        let from = position(exception.new, chunk_bytes);
        let to = position(exception.old, chunk_bytes);
        let len = chunk_bytes.min(image.len() - to);
        image[to..to + len].copy_from_slice(&cow[from..from + len]);
    }
    fs::write(output, image).expect("the image can be written");
}

fn chunk_bytes(cow: &[u8]) -> usize {
    assert_eq!(&cow[..4], b"SnAp", "no store here");
    512 * u32::from_le_bytes(cow[12..16].try_into().expect("four bytes")) as usize
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn position(chunk: u64, chunk_bytes: usize) -> usize {
    usize::try_from(chunk).expect("a chunk of a small image") * chunk_bytes
}
