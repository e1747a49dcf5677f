//! Servers with a control socket, and what speaks to them.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::serving::{DMSNAP, Place, Serving, output, tool};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn control(place: &Place) -> String {
    format!("unix:{}", place.text("control"))
}

pub(crate) fn start(place: &Place, args: &[&str]) -> Serving {
    let control = control(place);
    Serving::start(place, &[&["--control", &control][..], args].concat())
}

/// `dmsnap ctl`, which must succeed.
pub(crate) fn ctl(place: &Place, args: &[&str]) -> String {
    tool(DMSNAP, &[&["ctl", "--control", &control(place)][..], args].concat())
}

pub(crate) fn ctl_json(place: &Place, args: &[&str]) -> Value {
    let printed = ctl(place, &[args, &["--json"]].concat());
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{args:?}: {error}: {printed}"))
}

/// `dmsnap ctl`, which must say no in one line that holds `words`.
#[track_caller]
pub(crate) fn refused(place: &Place, args: &[&str], words: &str) {
    let done = output(DMSNAP, &[&["ctl", "--control", &control(place)][..], args].concat());
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(3), "{args:?}: {said}");
    assert!(said.lines().count() == 1 && said.contains(words), "{args:?}: {said}");
    assert!(done.stdout.is_empty(), "{args:?}");
}

/// What a server answers to these bytes: all of it, until it closes the connection.
pub(crate) fn raw(place: &Place, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(place.path("control")).expect("connected");
    stream.set_read_timeout(Some(20 * SECOND)).expect("set");
    // It may close while we still speak.
    let _ = stream.write_all(request);
    // Else it would wait for another request.
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A client that nobody here wrote reads `/v1/events`.
pub(crate) struct Events(BufReader<UnixStream>);

impl Events {
    pub(crate) fn of(place: &Place) -> Self {
        let mut stream = UnixStream::connect(place.path("control")).expect("connected");
        stream.set_read_timeout(Some(20 * SECOND)).expect("set");
        let request = "GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("written");
        Self(BufReader::new(stream))
    }

    /// The next status; `None` at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            // Heads of chunks are passed over.
            if self.0.read_line(&mut line).expect("in time") == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).expect("JSON"));
            }
        }
    }
}

/// Status and body of an answer.
pub(crate) fn http(place: &Place, method: &str, path: &str, body: &str) -> (u16, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(place, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    (status.unwrap_or_else(|| panic!("{request}: {answer}")), body.into())
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < 30 * SECOND, "{what}: not within 30 s");
        std::thread::sleep(SECOND / 50);
    }
}
