//! The first bytes of a COW device, and the arithmetic that follows from its chunk size.

use dmsnap::device::Device;
use dmsnap::format::{
    ChunkSize, CowChunk, Exception, ExceptionFault, Extents, HeaderError, Layout, OriginChunk,
    RawHeader, Role, Tally,
};
use dmsnap::ops;
use dmsnap::store::read_header;
use futures_executor::block_on;

use crate::input::Input;
use crate::sparse::{Sparse, index};

/// Bytes of the device, its size, then numbers for the arithmetic.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let head = input.bytes(16);
    let expected = judge(head);
    let found = RawHeader::from_prefix(head).map(|raw| raw.validate());
    match (&found, &expected) {
        (None, None) => {}
        (Some(Ok(header)), Some(Ok((sectors, valid)))) => {
            assert_eq!((header.chunk_size.sectors(), header.valid), (*sectors, *valid));
            let size = header.chunk_size;
            assert_eq!(ChunkSize::from_sectors(*sectors), Ok(size));
            arithmetic(Layout::new(size), &mut input);
        }
        (Some(Err(error)), Some(Err(why))) => {
            let told = match error {
                HeaderError::Blank => "blank",
                HeaderError::Magic { .. } => "magic",
                HeaderError::ChunkSize(_) => "chunk size",
                HeaderError::Version { .. } => "version",
                _ => "something new",
            };
            assert_eq!(told, *why);
        }
        _ => panic!("found {found:?}, expected {expected:?}"),
    }
    on_a_device(head, input.number(), matches!(expected, Some(Ok(_))));
}

/// Chunk size in sectors and valid flag, or why the kernel refuses; `None` if that is not a header.
fn judge(head: &[u8]) -> Option<Result<(u32, bool), &'static str>> {
    let [m0, m1, m2, m3, v0, v1, v2, v3, n0, n1, n2, n3, c0, c1, c2, c3] = *head else {
        return None;
    };
    let sectors = u32::from_le_bytes([c0, c1, c2, c3]);
    Some(match &[m0, m1, m2, m3] {
        [0, 0, 0, 0] => Err("blank"),
        magic if magic != b"SnAp" => Err("magic"),
        _ if sectors == 0 || sectors & (sectors - 1) != 0 || sectors > 1 << 21 => Err("chunk size"),
        _ if [n0, n1, n2, n3] != [1, 0, 0, 0] => Err("version"),
        _ => Ok((sectors, [v0, v1, v2, v3] != [0; 4])),
    })
}

/// The same on a device of any size: commands say what they found, and write nothing.
fn on_a_device(head: &[u8], len_bytes: u64, fine: bool) {
    let len_bytes = len_bytes & (u64::MAX >> 1);
    let cow = Sparse::zeroed(len_bytes);
    cow.put(0, &head[..head.len().min(index(len_bytes))]);
    let opened = block_on(read_header(&cow));
    assert_eq!(opened.is_ok(), fine && len_bytes >= 1024, "{opened:?}, {len_bytes} bytes");
    let chunk = opened.as_ref().map_or(0, |header| header.chunk_size.bytes());
    let info = block_on(ops::info(&cow));
    // Behind a terminator a check looks at the rest of its area, which can have 1 GiB.
    if chunk <= 1 << 20 {
        let checked = block_on(ops::check(&cow, None::<&Sparse>, |_| {}));
        // An empty list is sound wherever there is room for it.
        assert_eq!(info.is_ok(), opened.is_ok() && len_bytes >= 2 * chunk, "{info:?}");
        let valid = opened.as_ref().is_ok_and(|header| header.valid);
        // What is not a store at all is not checked.
        assert!(checked.is_ok() || opened.is_err(), "{checked:?}");
        let sound = checked.as_ref().is_ok_and(|report| report.sound);
        assert_eq!(sound, info.is_ok() && valid, "{checked:?}");
    }
    assert_eq!(cow.take_writes(), 0);
    assert_eq!(cow.len_bytes().expect("known"), len_bytes);
}

/// Every formula once more, in the most obvious way and with numbers that cannot overflow.
fn arithmetic(layout: Layout, input: &mut Input<'_>) {
    let chunk_bytes = u128::from(layout.chunk_size().bytes());
    let per_area = chunk_bytes / 16;
    let stride = per_area + 1;
    let number = input.number();
    let n = u128::from(number);
    let saturated = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);

    assert_eq!(u128::from(layout.exceptions_per_area()), per_area);
    assert_eq!(layout.area_location(number).get(), saturated(1 + n * stride));
    let (area, slot) = (n / per_area, n % per_area);
    assert_eq!(layout.position(number), (saturated(area), saturated(slot)));
    let byte = (1 + area * stride) * chunk_bytes + slot * 16;
    // The chunk's first byte may be the last that fits.
    assert_eq!(layout.slot_byte(number), u64::try_from(byte).ok());
    let lock_step = 1 + area * stride + 1 + slot;
    assert_eq!(layout.lock_step_chunk(number).get(), saturated(lock_step));

    let is_area = |chunk: u128| chunk >= 1 && (chunk - 1).is_multiple_of(stride);
    let chunk = CowChunk::new(number);
    let role = match n {
        0 => Role::Header,
        n if is_area(n) => Role::Area(saturated((n - 1) / stride)),
        _ => Role::Data,
    };
    assert_eq!(layout.role(chunk), role);
    let areas_before = if n == 0 { 0 } else { (n - 1).div_ceil(stride) };
    let data_before = n.saturating_sub(1 + areas_before);
    assert_eq!(u128::from(layout.data_chunks_before(chunk)), data_before);
    assert_eq!(layout.chunks_needed(number), saturated(n + n / per_area + 2));
    capacity(layout, number);
    exception(layout, number, input);
}

/// The most exceptions that a device holds: one more would not fit.
fn capacity(layout: Layout, chunks: u64) {
    let most = layout.capacity(chunks);
    if chunks >= 2 {
        assert!(layout.chunks_needed(most) <= chunks);
    }
    if chunks < u64::MAX {
        assert!(layout.chunks_needed(most + 1) > chunks);
    }
}

fn exception(layout: Layout, cow_chunks: u64, input: &mut Input<'_>) {
    let (old, new) = (input.number(), input.number());
    let origin_chunks = input.u8().is_multiple_of(2).then(|| input.number());
    let exception = Exception { old: OriginChunk::new(old), new: CowChunk::new(new) };
    let fault = if new >= 1 << 56 {
        Some(ExceptionFault::NewTooLarge)
    } else if new >= cow_chunks {
        Some(ExceptionFault::NewBeyondDevice)
    } else if new == 0 || new % layout.stride() == 1 {
        Some(ExceptionFault::NewIsMetadata)
    } else if origin_chunks.is_some_and(|chunks| old >= chunks) {
        Some(ExceptionFault::OldBeyondOrigin)
    } else {
        None
    };
    let extents = Extents { layout, cow_chunks, origin_chunks };
    assert_eq!(extents.check(exception).err(), fault);

    let mut tally = Tally::new(layout);
    tally.add(exception);
    let next = tally.next_free();
    assert!(new == u64::MAX || next.get() > new);
    assert!(next.get() == u64::MAX || layout.role(next) == Role::Data);
    let usage = tally.usage(cow_chunks);
    assert!(usage.percent() >= 0.0);
    assert_eq!(
        usage.to_string(),
        format!("{}/{} {}", usage.allocated, usage.total, usage.metadata)
    );
}
