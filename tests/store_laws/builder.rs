use bytes::Bytes;
use dmsnap::device::Memory;
use dmsnap::format::{ChunkSize, Exception, Layout, OriginChunk};
use dmsnap::store::{Builder, Persistent, Store, StoreError, format, read_header};
use dmsnap_sim::{Disk, Power, run};

use crate::store_laws::{
    E, STALE, assert_prefix, byte_of_chunk, data_of, every_cut, fill, kernel_image, layout, open,
};

/// The whole of a store with these exceptions, as a builder leaves it on a device of zeroes.
fn build(disk: &Disk, count: u64) -> Result<(), StoreError> {
    let mut builder = run(Builder::new(disk, layout().chunk_size()))?;
    for old in 1000..1000 + count {
        run(builder.add(OriginChunk::new(old), Bytes::from(data_of(old))))?;
    }
    run(builder.finish()).map(|built| assert_eq!(built, count))
}

/// A store that is built is there whole, or not at all: over an older store of the same layout, whose
/// list would go on where the new one ends, and over anything else.
#[test]
fn a_store_that_is_built_is_not_valid_before_it_is_whole() {
    let mut reboots = 0;
    for count in [0, 1, E - 1, E, E + 1] {
        let foreign = vec![STALE; byte_of_chunk(140)];
        for before in [kernel_image(140, 3 * E), foreign, vec![0; byte_of_chunk(140)]] {
            let (mut none, mut whole) = (0, 0);
            let act = |disk: &Disk| build(disk, count);
            reboots += every_cut(&before, act, |content, told| {
                let told = format!("{count} exceptions: {told}");
                let disk = Disk::new(content.clone(), 512, &Power::steady());
                match run(read_header(&disk)) {
                    // Not begun yet: still what was there.
                    Ok(_) if content == before => none += 1,
                    Ok(header) => {
                        assert!(header.valid, "{told}");
                        assert_eq!(assert_prefix(content, count, &told), count, "{told}");
                        whole += 1;
                    }
                    Err(StoreError::Header(_)) => none += 1,
                    Err(error) => panic!("{error}: {told}"),
                }
            });
            assert!(none > 0 && whole > 0, "{count}: {none} times no store, {whole} times whole");
        }
    }
    println!("{reboots} reboots");
    assert!(reboots > 1000, "the worlds have become too small: {reboots}");
}

/// Where a built store ends, a store that was filled one by one goes on in the same chunks; and there is room
/// for as many exceptions in both.
#[test]
fn a_store_that_is_built_is_the_one_that_a_writer_would_have_left() {
    for chunks in [2, 3, 4, E, E + 1, E + 2, E + 3, E + 4, 2 * E + 3, 2 * E + 4, 2 * E + 5] {
        let len = byte_of_chunk(chunks);
        for count in 0..=layout().capacity(chunks) {
            let built = Disk::new(vec![0; len], 512, &Power::steady());
            build(&built, count).expect("room");
            let written = Disk::new(vec![0; len], 512, &Power::steady());
            run(format(&written, layout().chunk_size())).expect("formatted");
            let store = open(&written).expect("sound");
            fill(&store, 1000..1000 + count).expect("room");
            run(store.publish()).expect("published");
            assert!(built.content() == written.content(), "{count} in {chunks} chunks");
            assert!(open(&built).is_ok(), "{count} in {chunks} chunks");
        }
        let full = Disk::new(vec![0; len], 512, &Power::steady());
        let refused = build(&full, layout().capacity(chunks) + 1);
        assert!(matches!(refused, Err(StoreError::Full)), "{chunks} chunks: {refused:?}");
        assert!(run(read_header(&full)).is_err(), "half a store is valid");
    }
}

/// Slots go out in pieces where an area is long, and whole units of larger blocks.
#[test]
fn a_store_with_long_areas_is_built_in_pieces() {
    let size = ChunkSize::from_sectors(256).expect("legal");
    let layout = Layout::new(size);
    let per_area = layout.exceptions_per_area();
    assert_eq!(per_area, 8192);
    for count in [4095, 4096, 4097, 8191, 8192, 8193] {
        // Data chunks are left as they are: of this memory only the areas are touched.
        let chunks = layout.chunks_needed(count);
        let disk = Memory::zeroed(usize::try_from(chunks * size.bytes()).expect("small"));
        let mut builder = run(Builder::new(&disk, size)).expect("room");
        for old in 0..count {
            let new = run(builder.place(OriginChunk::new(old))).expect("room");
            assert_eq!(new, layout.lock_step_chunk(old));
        }
        assert_eq!(run(builder.finish()).expect("built"), count);
        let mut seen = 0;
        let visit = |it: Exception| {
            assert_eq!((it.old.get(), it.new), (seen, layout.lock_step_chunk(seen)));
            seen += 1;
        };
        run(Persistent::open_read_only(&disk, None, visit)).expect("sound");
        assert_eq!(seen, count);
    }
}
