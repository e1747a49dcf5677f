//! An export into what takes bytes in their order: standard output, pipes, sockets.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::thread;

use crate::common::{
    CHUNK, OLD, ORIGIN_CHUNKS, command, one_line, pair, parsed, read, snapshot, write_at,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};

#[test]
fn standard_output_gets_the_image_and_nothing_else() {
    let pair = pair(&OLD, ORIGIN_CHUNKS);
    // A hole of the origin, and one that is not a whole piece.
    let mut origin = read(&pair.disk);
    write_at(&mut origin, 10 * CHUNK as u64, &[0; 3 * CHUNK]);
    fs::write(&pair.disk, &origin).expect("write");
    let file = File::options().write(true).open(&pair.disk).expect("open");
    file.set_len(9 << 20).expect("grown");
    let mut image = snapshot(&OLD, ORIGIN_CHUNKS);
    write_at(&mut image, 10 * CHUNK as u64, &[0; 3 * CHUNK]);
    image.resize(9 << 20, 0);
    for name in ["-", "/dev/stdout"] {
        for json in [false, true] {
            let mut export = command(&[&"export".into(), &pair.cow, &pair.disk, &name.into()]);
            if json {
                export.arg("--json");
            }
            let done = export.output().expect("runs");
            let told = String::from_utf8(done.stderr).expect("text");
            assert!(done.status.success(), "{told}");
            assert!(done.stdout == image, "{name}: {} bytes", done.stdout.len());
            match json {
                true => assert_eq!(parsed(&told)["image_bytes"], 9 << 20),
                false => assert!(told.starts_with("exported 9 MiB"), "{told}"),
            }
        }
    }
    assert_eq!(pair.dir.names(), ["cow", "disk"]);
}

#[test]
fn a_pipe_and_a_socket_get_the_image_and_stdout_the_result() {
    let pair = pair(&OLD, ORIGIN_CHUNKS);
    let image = snapshot(&OLD, ORIGIN_CHUNKS);
    let (pipe, socket) = (pair.dir.path("pipe"), pair.dir.path("socket"));
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from(0o600), 0).expect("a pipe");
    let path = pipe.clone();
    let reader = thread::spawn(move || read(&path));
    let told = dmsnap!("export", "--json", pair.cow, pair.disk, pipe).ok();
    assert!(reader.join().expect("read") == image);
    assert_eq!(parsed(&told)["exceptions"], OLD.len());

    let listener = UnixListener::bind(&socket).expect("a socket");
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().expect("a client").0.read_to_end(&mut bytes).expect("read");
        bytes
    });
    let told = dmsnap!("export", pair.cow, pair.disk, socket).ok();
    assert!(reader.join().expect("read") == image);
    assert!(told.starts_with("exported 64 KiB"), "{told}");
}

#[test]
fn a_reader_that_goes_away_is_told_in_one_line() {
    let pair = pair(&OLD, ORIGIN_CHUNKS);
    let file = File::options().write(true).open(&pair.disk).expect("open");
    file.set_len(16 << 20).expect("grown");
    let mut export =
        command(&["export".as_ref(), pair.cow.as_os_str(), pair.disk.as_os_str(), "-".as_ref()]);
    let mut running = export.stdout(Stdio::piped()).spawn().expect("runs");
    let mut first = [0; 4096];
    let mut stdout = running.stdout.take().expect("piped");
    stdout.read_exact(&mut first).expect("read");
    drop(stdout);
    let done = running.wait_with_output().expect("ends");
    let line = one_line(&String::from_utf8(done.stderr).expect("text"));
    assert_eq!(done.status.code(), Some(3), "{line}");
    assert!(line.contains("Broken pipe"), "{line}");
}

#[test]
fn what_is_refused_writes_nothing_to_standard_output() {
    let pair = pair(&[5, 5], ORIGIN_CHUNKS);
    dmsnap!("export", pair.cow, pair.disk, "-").failed();
    // Standard output is the file that would be read.
    let disk = File::options().append(true).open(&pair.disk).expect("open");
    let before = read(&pair.disk);
    let mut export =
        command(&["export".as_ref(), pair.cow.as_os_str(), pair.disk.as_os_str(), "-".as_ref()]);
    let done = export.stdout(disk).output().expect("runs");
    let line = one_line(&String::from_utf8(done.stderr).expect("text"));
    assert!(line.contains("the same file or device"), "{line}");
    assert!(read(&pair.disk) == before);
}
