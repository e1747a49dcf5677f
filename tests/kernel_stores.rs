//! The COW devices that real kernels left, from `tests/data`.

use std::fs;
use std::io::Read;
use std::path::Path;

use ruzstd::decoding::StreamingDecoder;

use crate::sources;

/// A COW device.
pub(crate) struct KernelStore {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

impl KernelStore {
    /// Its origin, as the kernel left it.
    pub(crate) fn origin(&self) -> Vec<u8> {
        let (name, _) = self.name.split_once(".cow").expect("named as a store");
        unpacked(&sources::root().join(format!("tests/data/{name}.origin.img.zst")))
    }
}

fn unpacked(path: &Path) -> Vec<u8> {
    let file = fs::File::open(path).expect("readable");
    let mut content = Vec::new();
    let mut decoder = StreamingDecoder::new(file).expect("zstd");
    decoder.read_to_end(&mut content).expect("whole");
    content
}

/// All of them.
pub(crate) fn kernel_stores() -> Vec<KernelStore> {
    let folder = sources::root().join("tests/data");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the stores lie there") {
        let path = entry.expect("readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("text").to_owned();
        if name.ends_with(".cow.img.zst") || name.ends_with(".cow2.img.zst") {
            found.push(KernelStore { name, content: unpacked(&path) });
        }
    }
    assert!(found.len() >= 19, "only {} stores", found.len());
    found
}
