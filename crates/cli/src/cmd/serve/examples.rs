/// How it is called, for help and manual.
pub(super) const EXAMPLES: &str = "\
Examples:
  A writable overlay on a golden image, for QEMU; other servers may have the image as well:
    dmsnap serve golden.img --snapshot vm1=vm1.cow,make,for=base --nbd unix:/run/vm.sock
    qemu-system-x86_64 -drive 'file=nbd+unix:///vm1?socket=/run/vm.sock,format=raw'
  A disk of 20 GiB on a smaller golden image:
    dmsnap serve golden.img --snapshot vm1=vm1.cow,make,virtual-size=20G --nbd unix:/run/vm.sock
  The same, gone when the server ends:
    dmsnap serve golden.img --snapshot vm1=scratch.img,transient=64k --nbd unix:/run/vm.sock
  A look into a disk image: an LVM origin and all its snapshots:
    dmsnap serve --read-only lvm:disk.img:vg0/root --nbd unix:/run/look.sock
  Merge while clients go on:
    dmsnap serve disk.img --snapshot s=snap.cow --merge s --rate 50M --nbd unix:/run/vm.sock
  The same with a way back:
    dmsnap serve disk.img --snapshot s=snap.cow --merge s --undo undo.cow --nbd unix:/run/vm.sock
  What device-mapper would map, with the targets snapshot and snapshot-origin in `table`:
    dmsnap serve --table table --nbd unix:/run/vm.sock
  To be changed while it runs, by `dmsnap ctl --control unix:/run/vm.ctl`:
    dmsnap serve disk.img --nbd unix:/run/vm.sock --control unix:/run/vm.ctl
  In the background, until the last client has gone:
    dmsnap serve --fork --exit-with-last-client disk.img --nbd unix:/run/vm.sock
  As long as a command needs it:
    dmsnap serve --read-only disk.img --run 'nbdcopy \"$uri\" copy.img'
  Which chunks have changed since the snapshot:
    nbdinfo --map=qemu:dirty-bitmap:s 'nbd+unix:///origin?socket=/run/vm.sock'";
