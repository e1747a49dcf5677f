use std::ffi::OsStr;
use std::process::{Command, Stdio};

use crate::signatures::assert_named;
use crate::signatures::image::Image;

/// What these tests make.
pub(crate) const NAMES: [&str; 14] = [
    "ext2", "ext3", "ext4", "jbd", "xfs", "btrfs", "swap", "minix", "bfs", "dos", "gpt", "qcow2",
    "vmdk", "vdi",
];

/// Runs a tool on a new file of this many MiB; `{}` stands for its name.
fn tool(len_mib: u64, command: &[&str]) -> Image {
    let image = Image::new(len_mib << 20);
    let args = command[1..].iter().map(|word| match *word {
        "{}" => image.path().as_os_str(),
        word => OsStr::new(word),
    });
    let ran = Command::new(command[0])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(ran.is_ok_and(|status| status.success()), "{command:?}");
    image
}

#[test]
fn file_systems_of_tools_are_named() {
    for (name, len_mib, command) in [
        ("ext2", 8, &["mke2fs", "-q", "-F", "-t", "ext2", "{}"][..]),
        ("ext3", 8, &["mke2fs", "-q", "-F", "-t", "ext3", "{}"]),
        ("ext4", 8, &["mke2fs", "-q", "-F", "-t", "ext4", "{}"]),
        ("ext4", 8, &["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "{}"]),
        ("jbd", 8, &["mke2fs", "-q", "-F", "-O", "journal_dev", "{}"]),
        ("xfs", 300, &["mkfs.xfs", "-q", "-f", "{}"]),
        ("btrfs", 128, &["mkfs.btrfs", "-q", "-f", "{}"]),
        ("swap", 8, &["mkswap", "{}"]),
        ("minix", 8, &["mkfs.minix", "{}"]),
        ("minix", 8, &["mkfs.minix", "-2", "{}"]),
        ("minix", 8, &["mkfs.minix", "-3", "{}"]),
        ("bfs", 8, &["mkfs.bfs", "{}"]),
    ] {
        let image = tool(len_mib, command);
        assert_named(&image, name);
    }
}

#[test]
fn partition_tables_of_sfdisk_are_named_also_by_the_copy_at_the_end() {
    for name in ["dos", "gpt"] {
        let image = Image::new(16 << 20);
        let script = format!("label: {name}\n,8M\n");
        let mut sfdisk = Command::new("sfdisk")
            .arg("--quiet")
            .arg(image.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("sfdisk is there");
        let mut input = sfdisk.stdin.take().expect("piped");
        std::io::Write::write_all(&mut input, script.as_bytes()).expect("taken");
        drop(input);
        assert!(sfdisk.wait().expect("ends").success());
        assert_named(&image, name);
        if name == "gpt" {
            image.put(0, &[0; 34 * 512]);
            assert_eq!(
                crate::signatures::found(&image).first().map(|it| it.kind.name),
                Some("gpt")
            );
        }
    }
}

#[test]
fn images_of_qemu_are_named_as_it_names_them() {
    for (name, options) in [
        ("qcow2", ""),
        ("qcow", ""),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vmdk", "subformat=monolithicFlat"),
        ("vpc", "subformat=dynamic"),
        ("vpc", "subformat=fixed"),
        ("vhdx", ""),
        ("vdi", ""),
        ("qed", ""),
        ("parallels", ""),
    ] {
        let image = Image::new(0);
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", name]);
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        let made = command.arg(image.path()).arg("8M").status();
        assert!(made.expect("qemu-img is there").success(), "{name} {options}");
        let found = crate::signatures::found(&image);
        assert_eq!(found.first().map(|it| it.kind.name), Some(name), "{options}: {found:?}");
        let flat = image.path().with_extension("");
        let _ = std::fs::remove_file(format!("{}-flat.vmdk", flat.display()));
    }
}
