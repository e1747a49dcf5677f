#!/bin/busybox sh
# What every script of these tests begins with. Answers are lines of three words: what about, what,
# and the answer.
set -eu

sectors() { blockdev --getsz "$1"; }

# The snapshot first: an origin learns how to cut its writes when it is mapped. A chunk size of 0
# leaves it to the header.
#   map NAME ORIGIN COW [PO]
map() {
    dmsetup create "$1" --table "0 $(sectors "$2") snapshot $2 $3 ${4:-P} 0"
    dmsetup create "$1-origin" --table "0 $(sectors "$2") snapshot-origin $2"
}

unmap() {
    sync
    dmsetup remove "$1-origin"
    dmsetup remove "$1"
}

# The kernel's own words for a mapped store.
#   status NAME WHAT
status() { echo "$1 $2 $(dmsetup status "$1" | cut -d ' ' -f 4-)"; }

# The content, past the page cache. Only the full path runs the dd that aligns its buffer; that of
# busybox falls back to the page cache without a word.
#   content NAME WHAT DEVICE
content() {
    sync
    echo "$1 $2 $(/bin/dd if="$3" bs=64k iflag=direct 2>/dev/null | sha256sum | cut -d ' ' -f 1)"
}

# Bytes of a file to the same place of a device, in one request.
#   put FILE DEVICE BYTE LENGTH             any bytes, through the page cache
#   put_direct FILE DEVICE BYTE LENGTH      whole sectors, past it: fails if the device does
put() {
    dd if="$1" of="$2" bs="$4" count=1 iflag=skip_bytes skip="$3" \
        oflag=seek_bytes seek="$3" conv=notrunc 2>/dev/null
}
put_direct() {
    /bin/dd if="$1" of="$2" bs="$4" count=1 iflag=skip_bytes skip="$3" \
        oflag=seek_bytes,direct seek="$3" conv=notrunc 2>/dev/null
}

#   copy ORIGIN COW TO-ORIGIN TO-COW
copy() {
    /bin/dd if="$1" of="$3" bs=64k iflag=direct oflag=direct 2>/dev/null
    /bin/dd if="$2" of="$4" bs=64k iflag=direct oflag=direct 2>/dev/null
}

# A device that takes its time for every request.
#   slow NAME DEVICE
slow() { dmsetup create "$1" --table "0 $(sectors "$2") delay $2 0 2"; }

#   merge NAME ORIGIN COW
merge() { dmsetup create "$1" --table "0 $(sectors "$2") snapshot-merge $2 $3 P 0"; }

# Waits until a merge has no more than this many sectors of data to copy.
#   until_left NAME SECTORS
until_left() {
    while dmsetup status "$1" | {
        read -r _ _ _ numbers metadata
        [ $((${numbers%/*} - metadata)) -gt "$2" ]
    }; do sleep 0.02; done
}

#   until_merged NAME
until_merged() {
    until_left "$1" 0
    status "$1" merged
    dmsetup remove "$1"
}
