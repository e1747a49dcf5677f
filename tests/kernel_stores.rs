//! The COW devices that real kernels left, from `tests/data`.

use std::fs;
use std::io::Read;

use ruzstd::decoding::StreamingDecoder;

use crate::sources;

/// A COW device.
pub(crate) struct KernelStore {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

/// All of them.
pub(crate) fn kernel_stores() -> Vec<KernelStore> {
    let folder = sources::root().join("tests/data");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the stores lie there") {
        let path = entry.expect("readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("text").to_owned();
        if name.ends_with(".cow.img.zst") || name.ends_with(".cow2.img.zst") {
            let file = fs::File::open(&path).expect("readable");
            let mut content = Vec::new();
            let mut decoder = StreamingDecoder::new(file).expect("zstd");
            decoder.read_to_end(&mut content).expect("whole");
            found.push(KernelStore { name, content });
        }
    }
    assert!(found.len() >= 19, "only {} stores", found.len());
    found
}
