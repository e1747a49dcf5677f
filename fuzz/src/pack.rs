//! A store is packed and unpacked and is the same; a pack of any records at all is unpacked or refused.

use dmsnap::ops::{self, Error, PackOptions};
use futures_executor::block_on;

use crate::case::Case;
use crate::input::{Input, told};
use crate::sparse::Sparse;

/// The most bytes of a device here.
const MOST_BYTES: u64 = 1 << 40;

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 4 {
        0 => comes_back(&mut input),
        1 => {
            let _ = ops::read_pack(&mut &data[1..]);
        }
        _ => any_records(&mut input),
    }
}

/// Whatever lies on the device: a pack of it shows the same.
fn comes_back(input: &mut Input<'_>) {
    let case = Case::new(input, &[1, 2, 8, 128], 1 << 20, u64::MAX);
    if input.u8().is_multiple_of(8) {
        case.cow.put(0, b"no header here, and nothing else");
        return raw(&case.cow);
    }
    let mut pack = Vec::new();
    let packed = match block_on(ops::pack(&case.cow, &mut pack, PackOptions::default())) {
        Ok(packed) => packed,
        // Too small, or no header in it.
        Err(Error::Header(_) | Error::Store(_)) => return raw(&case.cow),
        Err(error) => panic!("{error}"),
    };
    let (list, _) = case.list();
    assert_eq!(packed.exceptions, list.len() as u64);
    let (head, read) = ops::read_pack(&mut &pack[..]).expect("what was written is read");
    assert_eq!(read.exceptions, packed.exceptions);
    let back = Sparse::zeroed(head.cow_bytes);
    block_on(ops::unpack(&mut &pack[..], &back, false)).expect("an empty device");
    let listed = |cow: &Sparse| {
        let mut runs = Vec::new();
        let ended = block_on(ops::dump(cow, |run| {
            runs.push(run);
            Ok(())
        }));
        (runs, ended.map_err(|error| error.to_string()))
    };
    assert_eq!(listed(&back), listed(&case.cow));
    let findings = |cow: &Sparse| {
        let mut found = Vec::new();
        let ended = block_on(ops::check(cow, None::<&Sparse>, |it| found.push(it.to_string())));
        (found, ended.is_ok())
    };
    assert_eq!(findings(&back), findings(&case.cow));
}

/// As it is, without a header: everything that is kept comes back to its place.
fn raw(cow: &Sparse) {
    let mut pack = Vec::new();
    let options = PackOptions { raw: true, chunk_size: None };
    let packed = block_on(ops::pack(cow, &mut pack, options)).expect("any device");
    let (head, read) = ops::read_pack(&mut &pack[..]).expect("what was written is read");
    assert_eq!((packed.exceptions, packed.raw_bytes), (0, read.raw_bytes));
    let back = Sparse::zeroed(head.cow_bytes);
    block_on(ops::unpack(&mut &pack[..], &back, true)).expect("an empty device");
    let front = 0..head.cow_bytes.min(4096);
    assert!(back.content(front.clone()) == cow.content(front));
}

/// Records with right checksums and any content. What is refused was written to no place after the end, and
/// leaves no store.
fn any_records(input: &mut Input<'_>) {
    let mut pack = b"dmsnap pack 1\n".to_vec();
    let cow_bytes = input.number().min(MOST_BYTES);
    let sectors = 1_u32.checked_shl(u32::from(input.u8())).unwrap_or(0);
    record(&mut pack, b'H', &[&cow_bytes.to_le_bytes()[..], &sectors.to_le_bytes()].concat());
    let chunk = if sectors == 0 { 4096 } else { u64::from(sectors) * 512 };
    let begin = usize::try_from(chunk.min(4096).min(cow_bytes)).unwrap_or(0);
    record(&mut pack, b'B', &vec![input.u8(); begin]);
    while !input.is_empty() {
        let tag = input.pick(b"AAARRREHBx");
        let mut body = Vec::new();
        match tag {
            b'A' | b'R' => {
                body.extend(input.number().to_le_bytes());
                body.extend(u32::from(input.u16()).to_le_bytes());
                frames(input, &mut body);
            }
            b'E' => (0..3).for_each(|_| body.extend(input.number().to_le_bytes())),
            _ => {
                let len = input.u8();
                body.extend(input.bytes(len.into()));
            }
        }
        record(&mut pack, tag, &body);
    }
    let back = Sparse::zeroed(cow_bytes);
    let read = ops::read_pack(&mut &pack[..]);
    let unpacked = block_on(ops::unpack(&mut &pack[..], &back, true));
    told(|| format!("{read:?}, {unpacked:?}"));
    assert_eq!(read.is_ok(), unpacked.is_ok(), "{read:?}, {unpacked:?}");
    if unpacked.is_err() && cow_bytes >= 1024 {
        assert!(block_on(ops::info(&back)).is_err(), "half a pack is a store");
    }
}

/// zstd frames: right ones, or any bytes.
fn frames(input: &mut Input<'_>, body: &mut Vec<u8>) {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    for _ in 0..input.u8() % 20 {
        let len = usize::from(input.u8());
        match input.u8() % 3 {
            0 => body.extend(input.bytes(len)),
            1 => {
                body.extend(compress_to_vec(&vec![input.u8(); len][..], CompressionLevel::Fastest));
            }
            _ => body.extend(compress_to_vec(input.bytes(len), CompressionLevel::Fastest)),
        }
    }
}

fn record(pack: &mut Vec<u8>, tag: u8, body: &[u8]) {
    let from = pack.len();
    pack.push(tag);
    pack.extend((body.len() as u64).to_le_bytes());
    pack.extend(body);
    let sum = crc32c(&pack[from..]);
    pack.extend(sum.to_le_bytes());
}

/// Bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| (sum >> 1) ^ if sum & 1 == 1 { 0x82F6_3B78 } else { 0 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}
