use dmsnap::ops::{self, ExportOptions, Silent};

use super::{memory, world};

#[test]
fn a_comparison_names_the_first_byte_and_hashes_both() {
    let world = world(&[3, 20]);
    let (cow, origin) = (memory(&world.cow), memory(&world.origin));
    let compare = |image: &[u8]| {
        let image = memory(image);
        let options = ExportOptions::default();
        futures_executor::block_on(ops::compare(&cow, &origin, &image, options, &Silent))
            .expect("compared")
    };
    let hash = |content: &[u8]| blake3::hash(content).to_hex().to_string();
    let image = world.snapshot.clone();
    let same = compare(&image);
    assert!(same.same && same.first_difference.is_none(), "{same:?}");
    assert_eq!(same.snapshot_blake3, hash(&image));
    assert_eq!(same.image_blake3, hash(&image));
    for at in [0, 1, 6143, 6144, 8191, image.len() - 1] {
        let mut other = image.clone();
        other[at] ^= 1;
        let compared = compare(&other);
        assert_eq!((compared.same, compared.first_difference), (false, Some(at as u64)));
        assert_eq!(compared.snapshot_blake3, hash(&image));
        assert_eq!(compared.image_blake3, hash(&other));
    }
    let longer = [&image[..], &[0; 1024]].concat();
    for other in [&image[..image.len() - 512], &longer[..], &[]] {
        let compared = compare(other);
        let first = image.len().min(other.len()) as u64;
        assert_eq!((compared.same, compared.first_difference), (false, Some(first)));
        assert_eq!(compared.image_bytes, other.len() as u64);
        assert_eq!(compared.snapshot_bytes, image.len() as u64);
        assert_eq!(compared.image_blake3, hash(other));
    }
    // A last sector that is cut short is filled up with zeroes, as everywhere: seven of its bytes are.
    for (missing, same) in [(7, true), (8, false)] {
        let compared = compare(&image[..image.len() - missing]);
        assert_eq!((compared.same, compared.image_bytes), (same, image.len() as u64));
    }
}
