//! Files that hold a disk, but not as it is: formats of virtual machines and of forensics, compressed
//! files, archives. Names are those of `qemu-img`, or of the tool that unpacks them.

use super::table::{Class, Entry, Place, end};

const fn image(
    name: &'static str,
    words: &'static str,
    magics: &'static [(Place, &'static [u8])],
) -> Entry {
    Entry::new(Class::Image, name, words, magics)
}

const fn packed(
    name: &'static str,
    words: &'static str,
    magics: &'static [(Place, &'static [u8])],
) -> Entry {
    Entry::new(Class::Compressed, name, words, magics)
}

pub(super) static TABLE: &[Entry] = &[
    image("qcow2", "an image in the format qcow2", &[(Place::Start(0), b"QFI\xfb")])
        .and(|sample, at| Some(sample.be32(at + 4)? != 1)),
    image("qcow", "an image in the format qcow", &[(Place::Start(0), b"QFI\xfb\x00\x00\x00\x01")]),
    image(
        "vmdk",
        "an image in the format VMDK (VMware)",
        &[
            (Place::Start(0), b"KDMV"),
            (Place::Start(0), b"COWD"),
            (Place::Start(0), b"# Disk DescriptorFile"),
            (Place::Start(0), b"\xbe\xba\xfe\xca\x00\x00\x00\x00"),
        ],
    ),
    image("vhdx", "an image in the format VHDX (Hyper-V)", &[(Place::Start(0), b"vhdxfile")]),
    image(
        "vpc",
        "an image in the format VHD (Virtual PC)",
        &[(Place::Start(0), b"conectix"), (end(512), b"conectix")],
    ),
    image(
        "vdi",
        "an image in the format VDI (VirtualBox)",
        &[(Place::Start(64), b"\x7f\x10\xda\xbe")],
    ),
    image("qed", "an image in the format QED", &[(Place::Start(0), b"QED\x00")]),
    image(
        "parallels",
        "an image in the format of Parallels",
        &[(Place::Start(0), b"WithoutFreeSpace"), (Place::Start(0), b"WithouFreSpacExt")],
    ),
    image("dmg", "an image in the format DMG (macOS)", &[(end(512), b"koly\x00\x00\x00\x04")]),
    image(
        "ewf",
        "an image in the format EWF (E01, Expert Witness, EnCase)",
        &[
            (Place::Start(0), b"EVF\x09\x0d\x0a\xff\x00"),
            (Place::Start(0), b"LVF\x09\x0d\x0a\xff\x00"),
            (Place::Start(0), b"EVF2\x0d\x0a\x81\x00"),
            (Place::Start(0), b"LEF2\x0d\x0a\x81\x00"),
        ],
    ),
    image("aff", "an image in the format AFF", &[(Place::Start(0), b"AFF10\x0d\x0a\x00")]),
    image(
        "android-sparse",
        "a sparse image of Android",
        &[(Place::Start(0), b"\x3a\xff\x26\xed\x01\x00")],
    ),
    image("partclone", "an image of partclone", &[(Place::Start(0), b"partclone-image")]),
    packed("gzip", "a file compressed with gzip", &[(Place::Start(0), b"\x1f\x8b\x08")]),
    packed("xz", "a file compressed with xz", &[(Place::Start(0), b"\xfd7zXZ\x00")]),
    packed("zstd", "a file compressed with zstd", &[(Place::Start(0), b"\x28\xb5\x2f\xfd")]),
    packed(
        "bzip2",
        "a file compressed with bzip2",
        &[(Place::Start(4), b"\x31\x41\x59\x26\x53\x59")],
    )
    .and(|sample, _| Some(sample.has(0, b"BZh"))),
    packed(
        "lz4",
        "a file compressed with lz4",
        &[(Place::Start(0), b"\x04\x22\x4d\x18"), (Place::Start(0), b"\x02\x21\x4c\x18")],
    ),
    packed(
        "lzop",
        "a file compressed with lzop",
        &[(Place::Start(0), b"\x89LZO\x00\x0d\x0a\x1a\x0a")],
    ),
    packed("compress", "a file compressed with compress", &[(Place::Start(0), b"\x1f\x9d\x90")]),
    packed("zip", "a ZIP archive", &[(Place::Start(0), b"PK\x03\x04")]),
    packed("7z", "a 7-Zip archive", &[(Place::Start(0), b"7z\xbc\xaf\x27\x1c")]),
    packed("rar", "a RAR archive", &[(Place::Start(0), b"Rar!\x1a\x07")]),
    packed("tar", "a tar archive", &[(Place::Start(257), b"ustar")]),
];
