#!/bin/busybox sh
# For scripts in the guest that use LVM: its settings, and words for what they do with it.
#
# Commands of LVM run here without udev, without its daemons, and see the guest's disks only.
set -eu

export LVM_SYSTEM_DIR=/tmp/lvm LVM_SUPPRESS_FD_WARNINGS=1
mkdir -p $LVM_SYSTEM_DIR /run/lock/lvm
cat >$LVM_SYSTEM_DIR/lvm.conf <<'END'
devices {
    dir = "/dev"
    scan = ["/dev"]
    use_devicesfile = 0
    obtain_device_list_from_udev = 0
    filter = ["a|^/dev/ubd|", "a|^/dev/mapper/slow|", "r|.*|"]
    hints = "none"
}
activation { udev_sync = 0 udev_rules = 0 verify_udev_operations = 0 monitoring = 0 }
allocation { thin_pool_zero = 0 wipe_signatures_when_zeroing_new_lvs = 0 }
backup { backup = 0 archive = 0 }
global { locking_dir = "/run/lock/lvm" event_activation = 0 thin_check_executable = "" }
END
# The kernel would ask for these itself, but not know where they are.
for target in dm-raid raid1 dm-thin-pool; do /sbin/modprobe $target; done
# The metadata text names the host that wrote it.
hostname guest

# The words of the kernel's status line of a mapped LV: VG-LV, as dmsetup calls it.
#   words NAME
words() { dmsetup status "$1" | cut -d ' ' -f 4-; }

# SHA-256 of a device, past the page cache.
#   content_of DEVICE
content_of() {
    sync
    /bin/dd if="$1" bs=64k iflag=direct 2>/dev/null | sha256sum | cut -d ' ' -f 1
}

# A volume group with extents of 64 KiB.
#   group VG PV...
group() { vgcreate -q -s 64k "$@"; }

# An LV without any content yet.
#   volume VG LV EXTENTS [OPTION or PV]...
volume() {
    into=$1 called=$2 extents=$3
    shift 3
    lvcreate -q -y -Wn -Zn -l "$extents" -n "$called" "$into" "$@"
}

#   snapshot VG ORIGIN LV CHUNK-SIZE EXTENTS [OPTION or PV]...
snapshot() {
    of=$1/$2 called=$3 chunk=$4 extents=$5
    shift 5
    lvcreate -q -s -c "$chunk" -l "$extents" -n "$called" "$of" "$@"
}

# Random writes: see tests/kernel/scribble.
#   scribble DEVICE FIRST COUNT [LONGEST]
scribble() { "$KERNEL_TESTS/scribble" "$@"; }
