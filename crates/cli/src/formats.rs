//! What was given instead of what is needed, in words, and the command to go on with.

use std::fmt::Display;

use dmsnap::device::Device;
use dmsnap::ops::{self, Which};
use dmsnap::signature::{self, Class, Found};

use crate::report::{Failure, tell};

/// Says on stderr that a device seems to be the container of a disk, and is taken as it is.
pub(crate) async fn warn_of_image(name: impl Display, device: &impl Device) {
    if let Some(found) = signature::packed(device).await {
        let warning = format!("warning: this is {found}, taken as a raw image all the same");
        tell(Failure::of(&name.to_string(), warning).advise(advice(found)));
    }
}

/// Refuses what is known to be something other than a store. What begins as a store, or is not known, is
/// left to what opens it.
pub(crate) async fn refuse_foreign(name: impl Display, cow: &impl Device) -> Result<(), Failure> {
    let is_store = ops::begins_with_store(cow, Which::Cow).await;
    match (is_store.unwrap_or(false), signature::name(cow).await) {
        (false, Some(found)) => Err(no_store(&name.to_string(), found)),
        _ => Ok(()),
    }
}

/// About a COW device that holds something else.
pub(crate) fn no_store(name: &str, found: Found) -> Failure {
    Failure::of(name, format_args!("no snapshot store here, but {found}")).advise(advice(found))
}

/// How to go on.
pub(crate) fn advice(found: Found) -> String {
    let name = found.kind.name;
    let fixed = match name {
        "linux_raid_member" | "ddf_raid_member" | "isw_raid_member" => {
            "`mdadm --assemble` makes the array of all its disks: give that \
             (`mdadm --zero-superblock` if there is none any more)"
        }
        "LVM2_member" => "`dmsnap lvm list` shows its volumes",
        "LVM1_member" => "`vgconvert -M2` of LVM 2.02 brings it up to date",
        "stratis" => "`stratis pool start` makes its file systems: give one of those",
        "VMFS_volume_member" | "VMFS" => "`vmfs-fuse` shows the images in it",
        "crypto_LUKS" => "`cryptsetup open --readonly` decrypts it: give what that maps",
        "BitLocker" => "`cryptsetup open --type bitlk --readonly` decrypts it: give what that maps",
        "bcache" => "`bcache-register` makes /dev/bcacheN of it: give that",
        "DM_integrity" => "`integritysetup open` maps it: give that",
        "DM_verity_hash" => "`veritysetup open` maps it with its data: give that",
        "vdo" => "LVM or `vdo` activates it: give that device",
        "drbd" | "drbdmanage_control_volume" | "drbdproxy_datalog" => {
            "`drbdadm up` makes /dev/drbdN of it: give that"
        }
        "ceph_bluestore" => "`rbd-nbd map` attaches an image of Ceph: give that",
        "DM_snapshot_cow" => "`dmsnap info` shows what it holds",
        "qcow2" | "qcow" | "vmdk" | "vpc" | "vhdx" | "vdi" | "qed" | "parallels" | "dmg" => {
            return format!(
                "`nbdfuse DIR/raw [ qemu-nbd --read-only --format={name} FILE ]` shows the disk in it, \
                 `qemu-img convert -O raw` copies it"
            );
        }
        "ewf" => "`ewfmount` shows the disk in it",
        "aff" => "`affuse` shows the disk in it",
        "android-sparse" => "`simg2img` makes a raw image of it",
        "partclone" => "`partclone.restore` makes a raw image of it",
        "compress" => "`gzip -d` unpacks it",
        "gzip" | "xz" | "zstd" | "bzip2" | "lz4" | "lzop" => {
            return format!("`{name} -d` unpacks it");
        }
        "zip" => "`unzip` unpacks it",
        "7z" => "`7z x` unpacks it",
        "rar" => "`unrar x` unpacks it",
        "tar" => "`tar -x` unpacks it",
        _ => match found.kind.class {
            Class::Raid => "`dmraid -ay` makes the array of all its disks: give that",
            Class::PartitionTable => {
                "`dmsnap lvm list` looks into its partitions, `losetup --partscan --read-only` makes \
                 devices of them"
            }
            _ => "is it the origin? the COW device comes first",
        },
    };
    fixed.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_known_there_is_a_way_to_go_on() {
        for kind in signature::kinds() {
            let advice = advice(Found { kind, at: 0 });
            let may_be_origin =
                matches!(kind.class, Class::FileSystem | Class::Layer | Class::PhysicalVolume);
            let says_command = advice.contains('`') || may_be_origin;
            assert!(says_command, "{}: {advice}", kind.name);
        }
    }
}
