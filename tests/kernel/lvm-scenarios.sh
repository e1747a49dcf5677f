#!/bin/busybox sh
# How the images of tests/data/lvm come about: one function each, run in the guest after lvm.sh.
# Every function ends with its volume groups inactive, or with the marker that kills the machine.

# One PV, one origin, one snapshot, both written to.
one_pv() {
    pvcreate -q "$DISK0"
    group vg0 "$DISK0"
    written vg0 root snap 4k
    vgchange -q -an vg0
}

#   written VG ORIGIN SNAPSHOT CHUNK-SIZE
written() {
    volume "$1" "$2" 32
    scribble "/dev/$1/$2" 0 0
    snapshot "$1" "$2" "$3" "$4" 24
    scribble "/dev/$1/$2" 1 12
    scribble "/dev/$1/$3" 101 12
    scribble "/dev/$1/$2" 13 6
}

# An origin in four pieces on two PVs, and a COW LV in two pieces because it was extended.
two_pvs() {
    pvcreate -q "$DISK0" "$DISK1"
    group data "$DISK0" "$DISK1"
    volume data home 10 "$DISK1:5-14"
    lvextend -q -l +10 data/home "$DISK0:20-29"
    lvextend -q -l +10 data/home "$DISK1:0-4" "$DISK1:40-44"
    scribble /dev/data/home 0 0
    snapshot data home before 8k 6 "$DISK1:30-35"
    scribble /dev/data/home 1 10
    lvextend -q -l +12 data/before "$DISK0:2-13"
    scribble /dev/data/before 101 10
    scribble /dev/data/home 11 10
    vgchange -q -an data
}

# Origin and COW LV striped over two PVs, with stripes larger and smaller than a chunk.
striped() {
    pvcreate -q "$DISK0" "$DISK1"
    group fast "$DISK0" "$DISK1"
    volume fast db 32 -i 2 -I 64k
    scribble /dev/fast/db 0 0
    snapshot fast db nightly 16k 24 -i 2 -I 4k
    scribble /dev/fast/db 1 10
    scribble /dev/fast/nightly 101 10
    vgchange -q -an fast
}

# Three snapshots of one origin, taken at different times, with different chunk sizes.
several() {
    pvcreate -q "$DISK0"
    group vg0 "$DISK0"
    volume vg0 root 24
    scribble /dev/vg0/root 0 0
    snapshot vg0 root monday 4k 20
    scribble /dev/vg0/root 1 6
    snapshot vg0 root tuesday 64k 28
    scribble /dev/vg0/root 7 6
    scribble /dev/vg0/tuesday 101 5
    snapshot vg0 root wednesday 512k 48
    scribble /dev/vg0/root 13 3
    scribble /dev/vg0/wednesday 201 2
    scribble /dev/vg0/monday 301 5
    vgchange -q -an vg0
}

# The machine dies in the middle of lvconvert --merge, on a disk slow enough to be caught.
merging() {
    pvcreate -q "$DISK0"
    /sbin/modprobe dm-delay
    dmsetup create slow0 --table "0 $(blockdev --getsz "$DISK0") delay $DISK0 0 4"
    sed -i 's,"a|^/dev/ubd|"\, ,,' $LVM_SYSTEM_DIR/lvm.conf
    group vg0 /dev/mapper/slow0
    volume vg0 root 32
    scribble /dev/vg0/root 0 0
    snapshot vg0 root snap 4k 40
    scribble /dev/vg0/snap 101 40 8
    scribble /dev/vg0/root 1 20 8
    told vg0 snap
    lvconvert -q --merge vg0/snap &
    until words vg0-root | grep -q / && [ "$(left vg0-root)" -gt 0 ]; do sleep 0.05; done
    half=$(($(left vg0-root) / 2))
    while [ "$(left vg0-root)" -gt $half ]; do sleep 0.02; done
    echo MERGING-HALF-WAY
    sleep 60
}

# Sectors of data that a merge has yet to copy.
left() { words "$1" | { read -r numbers metadata && echo $((${numbers%/*} - metadata)); }; }

# What cannot be seen any more once the merge has begun.
#   told VG LV
told() { echo "TOLD $2 $(content_of "/dev/$1/$2") $(words "$1-$2")"; }

# Merge asked for while the origin was open: LVM writes it down, and begins at the next activation.
merge_waits() {
    pvcreate -q "$DISK0"
    group vg0 "$DISK0"
    written vg0 root snap 4k
    told vg0 snap
    told vg0 root
    exec 7</dev/vg0/root
    lvconvert --merge vg0/snap
    exec 7<&-
    vgchange -q -an vg0
}

# The COW LV ran full by writes to the origin, which invalidates the snapshot.
full() {
    pvcreate -q "$DISK0"
    group vg0 "$DISK0"
    volume vg0 root 32
    scribble /dev/vg0/root 0 0
    snapshot vg0 root good 4k 24
    snapshot vg0 root snap 4k 2
    scribble /dev/vg0/snap 101 3
    scribble /dev/vg0/root 1 24
    vgchange -q -an vg0
}

# The second partition of a disk; the tables were made before.
gpt() { in_partition; }
mbr() { in_partition; }
in_partition() {
    pvcreate -q "${DISK0}2"
    group vg0 "${DISK0}2"
    written vg0 root snap 4k
    vgchange -q -an vg0
    scribble "${DISK0}1" 1 10
}

# Small metadata areas, and so many changes that the text runs over the end of one and goes on at
# its beginning.
wrapped() {
    pvcreate -q --dataalignment 64k --metadatasize 12k "$DISK0"
    group vg0 "$DISK0"
    written vg0 root snap 4k
    vgchange -q -an vg0
    for number in $(seq 200); do
        vgchange -q --addtag "tag-$number" vg0 >/dev/null
        if [ "$number" -gt 5 ]; then vgchange -q --deltag "tag-$((number - 5))" vg0 >/dev/null; fi
        if wraps; then return; fi
    done
    echo 'the text never wrapped'
    exit 1
}

# Whether the live text of the one metadata area goes over its end.
wraps() {
    pvck --dump headers "$DISK0" >/tmp/headers 2>/dev/null || exit 1
    size=$(value mda_header_1.size) offset=$(value 'raw_locn.0..offset')
    [ $((offset + $(value 'raw_locn.0..size'))) -gt "$size" ]
}
value() { sed -n "s/.*$1 \([0-9]*\).*/\1/p" /tmp/headers | head -n 1; }

# Volumes of kinds that dm-snapshot has nothing to do with, and a snapshot.
others() {
    pvcreate -q "$DISK0" "$DISK1"
    group vg0 "$DISK0" "$DISK1"
    volume vg0 safe 8 --type raid1 -m 1
    lvcreate -q -y --type thin-pool -l 16 -c 64k --poolmetadatasize 2m -n pool vg0
    lvcreate -q -y -Wn -V 4m -T vg0/pool -n thin
    written vg0 root snap 8k
    vgchange -q -an vg0
}

# Names with everything LVM lets through, and tags. device-mapper doubles the hyphens.
names() {
    pvcreate -q "$DISK0"
    group vg-1.old_+x "$DISK0"
    written vg-1.old_+x root.fs--v2 snap-2026.11_01+a 4k
    vgchange -q --addtag backup --addtag 'site/a=b:c' vg-1.old_+x
    lvchange -q --addtag keep --addtag v1.2 vg-1.old_+x/snap-2026.11_01+a
    pvchange -q --addtag shelf3 "$DISK0"
    vgchange -q -an vg-1.old_+x
}

exported() {
    pvcreate -q "$DISK0"
    group vg0 "$DISK0"
    written vg0 root snap 4k
    vgchange -q -an vg0
    vgexport -q vg0
}

# Two metadata areas on one PV, the label in the third sector.
two_areas() {
    pvcreate -q --pvmetadatacopies 2 --labelsector 2 "$DISK0"
    group vg0 "$DISK0"
    written vg0 root snap 4k
    vgchange -q -an vg0
}

# A PV without metadata, holding nearly everything, and one that has it.
no_area() {
    pvcreate -q --pvmetadatacopies 0 "$DISK0"
    pvcreate -q "$DISK1"
    group vg0 "$DISK0" "$DISK1"
    written vg0 root snap 4k
    vgchange -q -an vg0
}
