use std::path::Path;

use crate::common::{Dir, command, read};
use crate::kernel::guest::{Guest, in_guest, skipped};
use crate::kernel::pair::sha256;

const SIZE_BYTES: usize = 24 << 20;

/// Nothing writes to an origin or a snapshot but the kernel's own `nbd` driver, over two connections
/// each: a file system on the origin, then the snapshot of it, then other files on both, and a check
/// of both; at the end the server is gone and the store is mapped by device-mapper.
#[test]
fn the_kernels_own_client_keeps_file_systems_on_origin_and_snapshot() {
    if skipped() {
        return;
    }
    let dir = Dir::new();
    let origin = dir.file("origin", &vec![0; SIZE_BYTES]);
    let cow = dir.path("cow");
    let created = command(&["create", "--size", "40M", cow.to_str().expect("plain")]).output();
    assert!(created.expect("the command starts").status.success());
    let mut guest = Guest::new();
    let (origin_disk, cow_disk) = (guest.disk(&origin), guest.disk(&cow));
    let dmsnap = in_guest(Path::new(env!("CARGO_BIN_EXE_dmsnap")));
    guest.line(format!("dmsnap={dmsnap} origin={origin_disk} cow={cow_disk}"));
    guest.line(include_str!("attached.sh"));
    let said = guest.run();

    for what in ["origin", "snapshot"] {
        assert_eq!(said.get("nbd", what), said.get("mapped", what), "{what}");
    }
    assert_eq!(said.get("served", "status"), "0");
    // The disks are this machine's again.
    assert_eq!(said.get("nbd", "origin"), sha256(&read(&origin)));
    let out = dir.path("out");
    let paths = [&cow, &origin, &out].map(|path| path.to_str().expect("plain").to_owned());
    let exported = command(&["export", &paths[0], &paths[1], &paths[2]]).output();
    assert!(exported.expect("the command starts").status.success());
    assert_eq!(said.get("nbd", "snapshot"), sha256(&read(&out)));
}
