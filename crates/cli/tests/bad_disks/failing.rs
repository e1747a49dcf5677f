use crate::bad_disks::client::Ask::{Find, Flush, Read, Write};
use crate::bad_disks::client::{asked, fine, refused};
use crate::bad_disks::disk::{BadDisk, Fails, until};
use crate::bad_disks::{ended_without, skipped};
use crate::serving::{DMSNAP, MIB, Place, Serving, output, tool};

const K64: u64 = 64 << 10;

fn snapshot(name: &str, path: &str) -> String {
    format!("--snapshot={name}={path}")
}

/// The snapshot serves what it has; what it needs the origin for fails, and it is not dropped.
#[test]
fn an_origin_that_cannot_be_read_costs_nothing_but_its_reads() {
    if skipped("reads") {
        return;
    }
    let place = Place::new(8, &["s"]);
    let before = place.read("origin");
    let origin = BadDisk::over(&place, "origin");
    let args = [origin.text(), snapshot("s", &place.text("s"))];
    let serving = Serving::exactly(&place, &args.each_ref().map(String::as_str));
    fine(&place, "s", &[Write(1, 0, K64), Flush]);

    origin.breaks(Fails::Reads);
    refused(&place, "origin", "EIO", &[Read(MIB, 4096), Read(2 * MIB, K64)]);
    fine(&place, "s", &[Find(1, 0, K64), Write(2, K64, K64), Flush]);
    refused(&place, "s", "EIO", &[Read(MIB, 4096), Write(3, MIB, 512)]);
    let told = output("qemu-io", &["-f", "raw", "-c", "read 1M 4k", &place.uri("s")]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("read failed: Input/output error"));

    origin.heals();
    fine(&place, "origin", &[Write(4, 2 * MIB, K64), Flush, Find(4, 2 * MIB, K64)]);
    fine(&place, "s", &[Write(3, MIB, 512), Flush, Find(3, MIB, 512)]);
    assert_eq!(serving.stop(), "");
    drop(origin);

    let serving = Serving::start(&place, &[&snapshot("s", &place.text("s"))]);
    let (mut s, mut origin) = (before.clone(), before);
    origin[2 << 20..][..64 << 10].fill(4);
    s[..64 << 10].fill(1);
    s[64 << 10..][..64 << 10].fill(2);
    s[1 << 20..][..512].fill(3);
    assert!(place.copy_of("s") == s, "the snapshot");
    assert!(place.copy_of("origin") == origin, "the origin");
    assert_eq!(serving.stop(), "");
}

/// What was flushed before is there after a restart; the other snapshot and the origin never notice.
#[test]
fn a_cow_device_that_cannot_be_written_harms_nobody_else() {
    if skipped("writes") {
        return;
    }
    let place = Place::new(8, &["a", "b"]);
    let before = place.read("origin");
    let cow = BadDisk::over(&place, "a");
    let args = [snapshot("a", &cow.text()), snapshot("b", &place.text("b"))];
    let args = args.each_ref().map(String::as_str);
    let serving = Serving::start(&place, &args);
    fine(&place, "a", &[Write(1, 0, K64), Flush]);

    cow.breaks(Fails::Writes);
    refused(&place, "a", "EIO", &[Write(2, 0, 4096), Write(2, MIB, K64)]);
    fine(&place, "a", &[Find(1, 4096, K64 - 4096), Read(MIB, K64)]);
    fine(&place, "b", &[Write(3, 0, K64), Flush]);
    cow.heals();
    fine(&place, "a", &[Write(4, 2 * MIB, K64), Flush]);
    serving.kill();

    let serving = Serving::start(&place, &args);
    fine(&place, "a", &[Find(1, 4096, K64 - 4096), Find(4, 2 * MIB, K64)]);
    fine(&place, "b", &[Find(3, 0, K64)]);
    // An origin write whose old data nobody takes: the snapshot is lost. As long as its store cannot be told
    // so, the origin keeps what the store believes it to be.
    cow.breaks(Fails::Writes);
    assert_eq!(asked(&place, "origin", &[Write(5, 3 * MIB, K64), Flush])[1], "EIO");
    refused(&place, "origin", "EIO", &[Write(5, 3 * MIB, K64), Write(5, 5 * MIB, K64), Flush]);
    assert!(place.read("origin")[3 << 20..] == before[3 << 20..], "the store relies on it");
    refused(&place, "a", "EIO", &[Read(0, 4096), Write(1, 0, 4096), Flush]);
    let mut b = before;
    b[..64 << 10].fill(3);
    assert!(place.copy_of("b") == b, "the other snapshot");
    cow.heals();
    until("the mark is written", || asked(&place, "origin", &[Flush]) == ["ok"]);
    fine(&place, "origin", &[Find(5, 3 * MIB, K64)]);
    assert!(place.copy_of("b") == b, "the other snapshot");
    ended_without(serving, "a");
    let info = tool(DMSNAP, &["info", "--json", &place.text("a")]);
    assert!(info.contains("\"valid\":false"), "{info}");
    tool(DMSNAP, &["check", &place.text("b"), &place.text("origin")]);
}

/// A flush that fails is told, and no later one succeeds: what is on the medium is unknown until the
/// store is opened anew.
#[test]
fn a_failed_flush_is_told_and_not_forgotten() {
    if skipped("flushes") {
        return;
    }
    let place = Place::new(4, &[]);
    tool(DMSNAP, &["create", "--size", "8M", &place.text("a")]);
    tool(DMSNAP, &["create", "--size", "8M", &place.text("b")]);
    let cow = BadDisk::by_hand(&place, "a");
    let args = [snapshot("a", &cow.text()), snapshot("b", &place.text("b"))];
    let args = args.each_ref().map(String::as_str);
    let serving = Serving::start(&place, &args);
    fine(&place, "a", &[Write(1, 0, 8192), Flush]);
    cow.breaks(Fails::Flushes);
    fine(&place, "a", &[Write(2, MIB, 4096)]);
    refused(&place, "a", "EIO", &[Flush, Flush]);
    fine(&place, "b", &[Write(3, 0, 4096), Flush]);
    cow.heals();
    refused(&place, "a", "EIO", &[Flush, Write(4, 2 * MIB, 4096)]);
    fine(&place, "a", &[Find(1, 0, 8192)]);
    let (status, said) = serving.end();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("not all durable") && said.lines().count() == 1, "{said}");

    let serving = Serving::start(&place, &args);
    fine(&place, "a", &[Find(1, 0, 8192), Write(5, MIB, 4096), Flush, Find(5, MIB, 4096)]);
    fine(&place, "b", &[Find(3, 0, 4096)]);
    assert_eq!(serving.stop(), "");
    until("nothing holds the disk", || {
        output(DMSNAP, &["check", &cow.text(), &place.text("origin")]).status.success()
    });
}
