PATH=$PATH:/usr/sbin:/sbin
socket=/run/nbd.sock
/sbin/modprobe nbd

#   serve ARGUMENT...      until the shell's job is killed
serve() {
    # What an earlier one said.
    : >/run/served
    "$dmsnap" serve "$origin" "$@" --nbd unix:$socket >/run/served &
    until grep -q listening /run/served; do sleep 0.1; done
}

#   attach DEVICE EXPORT
attach() { nbd-client -unix $socket "$1" -N "$2" -C 2 >/dev/null 2>&1; }

# A file system on the origin, before there is a snapshot.
serve
attach /dev/nbd0 origin
mkfs.ext4 -q -F /dev/nbd0
mkdir -p /tmp/o /tmp/s
mount /dev/nbd0 /tmp/o
cp -r /etc/init.d /etc/security /tmp/o/
umount /tmp/o
nbd-client -d /dev/nbd0 >/dev/null
kill %1
wait %1

# From here on there is one, and both change.
serve --snapshot "s=$cow"
attach /dev/nbd0 origin
attach /dev/nbd1 s
mount /dev/nbd0 /tmp/o
mount /dev/nbd1 /tmp/s
rm -r /tmp/o/security
cp -r /etc/apt /tmp/o/
cp -r /etc/default /tmp/s/
rm -r /tmp/s/init.d
sync
diff -r /etc/init.d /tmp/o/init.d
diff -r /etc/apt /tmp/o/apt
[ ! -e /tmp/o/security ] && [ ! -e /tmp/o/default ]
diff -r /etc/security /tmp/s/security
diff -r /etc/default /tmp/s/default
[ ! -e /tmp/s/init.d ] && [ ! -e /tmp/s/apt ]
umount /tmp/o
umount /tmp/s
fsck.ext4 -fn /dev/nbd0 >/dev/null 2>&1
fsck.ext4 -fn /dev/nbd1 >/dev/null 2>&1
content nbd origin /dev/nbd0
content nbd snapshot /dev/nbd1
nbd-client -d /dev/nbd0 >/dev/null
nbd-client -d /dev/nbd1 >/dev/null
kill %1
status=0
wait %1 || status=$?
echo "served status $status"

map mapped "$origin" "$cow"
content mapped origin /dev/mapper/mapped-origin
content mapped snapshot /dev/mapper/mapped
unmap mapped
