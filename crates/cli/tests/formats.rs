//! What lies where a store, an origin or a disk is expected: named, kept, and never written in half.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Dir, OLD, ORIGIN_CHUNKS, pair, read, store};
use crate::serving::DMSNAP;

const MIB: usize = 1 << 20;

/// A file of `len` zeroes with something in it; from the end, if `at` is negative.
fn with(dir: &Dir, name: &str, len: usize, patches: &[(isize, &[u8])]) -> PathBuf {
    let mut bytes = vec![0; len];
    put(&mut bytes, patches);
    dir.file(name, &bytes)
}

fn put(bytes: &mut [u8], patches: &[(isize, &[u8])]) {
    for (at, patch) in patches {
        let at = if *at < 0 { bytes.len() - at.unsigned_abs() } else { at.unsigned_abs() };
        bytes[at..at + patch.len()].copy_from_slice(patch);
    }
}

const MD: &[u8] = b"\xfc\x4e\x2b\xa9";
const MD_1: &[u8] = b"\xfc\x4e\x2b\xa9\x01\0\0\0";

/// Members of arrays, by where their superblock is. Lengths are whole multiples of 64 KiB.
const MEMBERS: [(&str, isize, &[u8]); 4] =
    [("0.90", -65536, MD), ("1.0", -8192, MD_1), ("1.1", 0, MD_1), ("1.2", 4096, MD_1)];

#[test]
fn create_keeps_what_is_known_wherever_it_lies() {
    let dir = Dir::new();
    for (what, at, magic) in [
        ("btrfs", 65536 + 64, &b"_BHRfS_M"[..]),
        ("ISO 9660", 32769, b"CD001\x01"),
        ("bcache", 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
        ("GFS2", 65536, b"\x01\x16\x19\x70"),
        ("GPT", -512, b"EFI PART"),
        ("VHD", -512, b"conectix"),
        ("LUKS", 0x4000, b"SKUL\xba\xbe\0\x02"),
        ("Intel", -1024, b"Intel Raid ISM Cfg Sig. "),
        ("VMFS", 1 << 20, b"\x0d\xd0\x01\xc0"),
        ("ZFS", -(128 << 10), b"\x0c\xb1\xba\0\0\0\0\0"),
    ] {
        for chunk_size in ["512", "4k", "64k"] {
            let file = with(&dir, "file", 4 * MIB, &[(at, magic)]);
            let before = read(&file);
            let line = dmsnap!("create", "--chunk-size", chunk_size, file).failed();
            assert!(line.contains(what), "{line}");
            assert!(read(&file) == before, "{what}: written to");
            if what != "Intel" {
                assert!(line.contains("--force"), "{line}");
                dmsnap!("create", "--force", file).ok();
            }
        }
    }
}

#[test]
fn create_overwrites_nothing_but_zeroes() {
    let dir = Dir::new();
    for (chunk_size, last) in [("512", 4095), ("4k", 8191), ("64k", 131_071), ("1M", 2_097_151)] {
        for at in [0, 1, 511, 4095, last] {
            let file = with(&dir, "file", 4 * MIB, &[(at, b"x")]);
            let line = dmsnap!("create", "--chunk-size", chunk_size, file).failed();
            assert!(line.contains(&format!("there is data at byte {at}")), "{line}");
        }
        let file = with(&dir, "file", 4 * MIB, &[(last + 1, b"x")]);
        dmsnap!("create", "--chunk-size", chunk_size, file).ok();
    }
}

#[test]
fn half_of_an_array_is_never_written() {
    for (version, at, magic) in MEMBERS {
        let pair = pair(&OLD, ORIGIN_CHUNKS);
        for member in ["cow", "disk"] {
            let path = pair.dir.path(member);
            let mut bytes = read(&path);
            bytes.resize(MIB, 0);
            // A store keeps its header and its list.
            if member == "cow" && at >= 0 {
                continue;
            }
            put(&mut bytes, &[(at, magic)]);
            fs::write(&path, &bytes).expect("write");
            for ran in [
                dmsnap!("merge", pair.cow, pair.disk),
                dmsnap!("merge", "--force", pair.cow, pair.disk),
                dmsnap!("merge", "--dry-run", pair.cow, pair.disk),
                serve(&pair.disk, &pair.cow),
            ] {
                let line = ran.failed();
                assert!(line.contains(&format!("md RAID (metadata {version})")), "{line}");
                assert!(line.contains("mdadm --assemble"), "{line}");
            }
            let line = dmsnap!("create", "--force", path).failed();
            assert!(line.contains("mdadm --assemble"), "{line}");
            assert!(read(&path) == bytes, "{version}: written to");
            let other = if member == "cow" { &pair.disk } else { &pair.cow };
            assert!(read(other).len() < MIB, "the other is as it was");
            fs::write(
                &path,
                if member == "cow" { store(&OLD, 21) } else { crate::common::origin(32) },
            )
            .expect("write");
        }
    }
}

fn serve(origin: &Path, cow: &Path) -> crate::common::Ran {
    let dir = Dir::new();
    let nbd = format!("unix:{}", dir.path("socket").display());
    let snapshot = format!("s={}", cow.display());
    let mut serve = Command::new("timeout");
    serve.args(["20", DMSNAP, "serve"]).arg(origin).args(["--snapshot", &snapshot, "--nbd", &nbd]);
    serve.output().expect("timeout is there").into()
}

#[test]
fn what_is_given_instead_of_a_store_is_named_with_the_way_to_go_on() {
    let dir = Dir::new();
    let disk = dir.file("disk", &crate::common::origin(ORIGIN_CHUNKS));
    for (what, way, at, magic) in [
        ("qcow2", "qemu-nbd", 0, &b"QFI\xfb\0\0\0\x03"[..]),
        ("VMDK", "qemu-nbd", 0, b"KDMV"),
        ("VHDX", "qemu-nbd", 0, b"vhdxfile"),
        ("VDI", "qemu-nbd", 64, b"\x7f\x10\xda\xbe"),
        ("EWF", "ewfmount", 0, b"EVF\x09\x0d\x0a\xff\0"),
        ("gzip", "gzip -d", 0, b"\x1f\x8b\x08"),
        ("xz", "xz -d", 0, b"\xfd7zXZ\0"),
        ("zstd", "zstd -d", 0, b"\x28\xb5\x2f\xfd"),
        ("LUKS", "cryptsetup open", 0, b"LUKS\xba\xbe\0\x02"),
        ("md RAID", "mdadm --assemble", 4096, MD_1),
        (
            "physical volume of LVM",
            "lvm list",
            512,
            b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001",
        ),
        ("LVM version 1", "vgconvert", 0, b"HM\x01\0"),
        ("GPT", "lvm list", 512, b"EFI PART"),
        ("btrfs", "COW", 65536 + 64, b"_BHRfS_M"),
    ] {
        let file = with(&dir, "file", MIB, &[(at, magic)]);
        for ran in [
            dmsnap!("info", file),
            dmsnap!("check", file),
            dmsnap!("check", "--json", file, disk),
            dmsnap!("dump", file),
            dmsnap!("export", file, disk, dir.path("out")),
            dmsnap!("merge", "--dry-run", file, disk),
            dmsnap!("merge", file, disk),
            serve(&disk, &file),
        ] {
            let line = ran.failed();
            assert!(line.contains(what) && line.contains(way), "{what}: {line}");
        }
        if !["GPT", "physical volume of LVM"].contains(&what) {
            let line = dmsnap!("lvm", "list", file).failed();
            assert!(line.contains(what), "{what}: {line}");
            assert!(line.contains(way) || what == "btrfs", "{what}: {line}");
        }
    }
    assert!(!dir.path("out").exists());
}

#[test]
fn a_check_of_what_is_no_store_at_all_could_not_be_done() {
    let dir = Dir::new();
    for (name, content) in [
        ("zeroes", vec![0; MIB]),
        ("text", b"not a store\n".repeat(10)),
        ("noise", b"\xa5\x5a\x01".repeat(3000)),
    ] {
        let file = dir.file(name, &content);
        dmsnap!("check", file).failed();
        dmsnap!("check", "--json", file).failed();
    }
    // Only the magic is gone: that is a store, and damaged.
    let mut bytes = store(&OLD, 40);
    bytes[..4].fill(0);
    let ran = dmsnap!("check", dir.file("cow", &bytes));
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
    assert!(ran.stdout.contains("the magic is zero"), "{}", ran.stdout);
}

#[test]
fn an_origin_that_is_no_raw_image_is_taken_with_a_warning() {
    let pair = pair(&OLD, ORIGIN_CHUNKS);
    let mut bytes = read(&pair.disk);
    put(&mut bytes, &[(0, b"QFI\xfb\0\0\0\x03")]);
    fs::write(&pair.disk, &bytes).expect("write");
    let warned = |stderr: &str| {
        let line = crate::common::one_line(stderr);
        assert!(line.contains("warning: this is an image in the format qcow2"), "{line}");
        assert!(line.contains("qemu-nbd"), "{line}");
    };
    let out = pair.dir.path("out");
    for ran in [
        dmsnap!("export", pair.cow, pair.disk, out),
        dmsnap!("merge", "--dry-run", pair.cow, pair.disk),
        dmsnap!("merge", pair.cow, pair.disk),
    ] {
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        warned(&ran.stderr);
    }
    let dir = Dir::new();
    let nbd = format!("unix:{}", dir.path("socket").display());
    let mut serve = Command::new("timeout");
    serve.args(["--signal=TERM", "2", DMSNAP, "serve"]).arg(&pair.disk).args(["--nbd", &nbd]);
    let served = serve.output().expect("timeout is there");
    warned(&String::from_utf8_lossy(&served.stderr));
}
