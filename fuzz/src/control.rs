//! Clients of the control socket, over HTTP, with a volume behind it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use dmsnap::device::Device;
use dmsnap::format::{ChunkSize, Layout, StoreId};
use dmsnap::ops;
use dmsnap::volume::{Snapshot, SnapshotOptions, State, View, Volume};
use dmsnap_serve::Merger;
use dmsnap_serve::control::{
    Code, Control, Controller, NewSnapshot, OwnerSocket, Refusal, ServerFacts, Status, StoreOpener,
    WayBack,
};
use dmsnap_serve::export::{Exports, VolumeExport};
use futures_util::future::join_all;
use serde_json::Value;

use crate::input::{Input, told};
use crate::socket::{heard, in_time};
use crate::sparse::{Sparse, index};

const LEN_BYTES: u64 = 16 << 10;

/// Rounds of requests, and requests at a time, at most.
const MOST_ROUNDS: u8 = 12;
const AT_ONCE: u8 = 3;

type Disk = Volume<Rc<Sparse>, Rc<Sparse>>;

/// COW devices by their paths. Each is locked as long as a snapshot has it, as files are.
struct MemoryOpener(RefCell<HashMap<String, Rc<Sparse>>>);

impl StoreOpener<Rc<Sparse>, Rc<Sparse>> for MemoryOpener {
    async fn open(
        &self,
        volume: &Disk,
        wanted: &NewSnapshot,
    ) -> Result<Rc<Snapshot<Rc<Sparse>>>, Refusal> {
        let sectors = |bytes: u64| u32::try_from(bytes / 512).unwrap_or(0);
        let odd = |error| Refusal::new(Code::BadRequest, error);
        let size = |bytes| ChunkSize::from_sectors(sectors(bytes)).map_err(odd);
        let known = self.0.borrow().get(&wanted.cow).cloned();
        let cow = match (known, wanted.make.and_then(|make| make.size_bytes)) {
            (Some(cow), _) => cow,
            (None, Some(size)) => Rc::new(Sparse::zeroed(size.min(1 << 62))),
            (None, None) => return Err(Refusal::new(Code::Refused, "it is not there")),
        };
        // The map has it, if it is known, and this is another.
        let known = usize::from(self.0.borrow().contains_key(&wanted.cow));
        if Rc::strong_count(&cow) > 1 + known {
            return Err(Refusal::new(Code::Refused, "in use"));
        }
        if let Some(make) = wanted.make {
            let made = ops::create(&cow, size(make.chunk_bytes)?, false).await;
            made.map_err(|error| Refusal::new(Code::Refused, error))?;
        }
        self.0.borrow_mut().insert(wanted.cow.clone(), cow.clone());
        let options = SnapshotOptions {
            on_full: wanted.on_full.unwrap_or_default(),
            max_bytes: wanted.max_size_bytes,
            discard_zeroes: wanted.discard_zeroes,
            discard_passdown: wanted.discard_passdown,
            ..SnapshotOptions::default()
        };
        let opened = match wanted.transient_chunk_bytes {
            Some(bytes) => volume.open_transient(&wanted.name, cow, size(bytes)?, options).await,
            None => volume.open(&wanted.name, cow, options).await,
        };
        opened.map_err(|error| Refusal::of(&wanted.name, error))
    }

    async fn open_way_back(
        &self,
        volume: &Disk,
        snapshot: &Rc<Snapshot<Rc<Sparse>>>,
        (name, wanted): (&str, &WayBack),
    ) -> Result<Rc<Snapshot<Rc<Sparse>>>, Refusal> {
        let known = self.0.borrow().len();
        if self.0.borrow().contains_key(&wanted.cow) {
            return Err(Refusal::new(Code::Refused, "in use"));
        }
        let layout = Layout::new(snapshot.chunk_size());
        let cow = Rc::new(Sparse::zeroed(ops::undo_bytes(layout, snapshot.exceptions())));
        let named = |n: usize| StoreId::new((n as u128 + 1).to_ne_bytes()).expect("not zero");
        let ids = [named(2 * known), named(2 * known + 1)];
        let options =
            SnapshotOptions { max_bytes: wanted.max_size_bytes, ..SnapshotOptions::default() };
        let added = volume.add_way_back(snapshot, (name, cow.clone()), ids, options).await;
        let added = added.map_err(|error| Refusal::of(name, error))?;
        self.0.borrow_mut().insert(wanted.cow.clone(), cow);
        Ok(added)
    }

    async fn may_merge(&self, _: &Disk) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Whether clients may write, then what they ask for.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let read_only = input.u8().is_multiple_of(8);
    let rounds: Vec<Vec<Vec<u8>>> = (0..input.u8() % MOST_ROUNDS)
        .map(|_| (0..=input.u8() % AT_ONCE).map(|_| request(&mut input)).collect())
        .collect();
    in_time(serve(read_only, &rounds));
}

/// Of this process; the file is gone with its socket.
fn path() -> PathBuf {
    std::env::temp_dir().join(format!("dmsnap-fuzz-control-{}", std::process::id()))
}

async fn serve(read_only: bool, rounds: &[Vec<Vec<u8>>]) {
    let origin = Rc::new(Sparse::zeroed(LEN_BYTES));
    origin.put(0, &vec![1; index(LEN_BYTES)]);
    let volume = Rc::new(Volume::new(origin).expect("a size"));
    let cow = Rc::new(Sparse::zeroed(4 * LEN_BYTES));
    let chunk = ChunkSize::from_sectors(2).expect("legal");
    ops::create(&cow, chunk, false).await.expect("there is room");
    let snapshot = volume.open("s", cow.clone(), SnapshotOptions::default()).await.expect("sound");
    let view = View::snapshot(&volume, &snapshot);
    view.write(512, Bytes::from(vec![2; 4096])).await.expect("there is room");
    let exports = Exports::new();
    exports.add(VolumeExport::origin(&volume, read_only)).expect("new");
    exports.add(VolumeExport::snapshot(&volume, &snapshot, read_only)).expect("new");
    let merger = Merger::new(volume.clone(), 4096, Box::new(|_, _| {}));
    let facts = ServerFacts { version: "1".into(), origin: "/origin".into(), read_only };
    let opener = MemoryOpener(HashMap::from([("/s".into(), cow)]).into());
    let controller =
        Controller::new(volume.clone(), exports.clone(), merger.clone(), opener, facts);

    let path = path();
    let control = Control::start(OwnerSocket::take(&path).expect("a socket")).expect("a thread");
    let (stop, stopped) = futures_channel::oneshot::channel::<()>();
    let server = controller.clone();
    let serving = async move { control.serve(&server, async { _ = stopped.await }).await };
    let serving = compio::runtime::spawn(serving);
    let ask = async |said: &[u8]| {
        let stream = UnixStream::connect(&path).expect("the server listens");
        heard(stream, said).await
    };
    let mut merged = false;
    for round in rounds {
        let answers = join_all(round.iter().map(|said| ask(said))).await;
        controller.tick();
        for (said, heard) in round.iter().zip(&answers) {
            told(|| format!("{}\n-> {}", said.escape_ascii(), heard.escape_ascii()));
            let went_well = are_well_formed(heard).contains(&200);
            merged |= went_well && said.windows(15).any(|it| it == b"POST /v1/merge ");
        }
    }
    // A client that behaves is answered, and what it is told is so, once nothing is moved any more.
    merger.stop().await;
    let heard = ask(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(are_well_formed(&heard), [200]);
    is_so(&serde_json::from_slice(body(&heard)).expect("a status"), &volume, &exports);
    let heard =
        ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n")
            .await;
    assert_eq!(are_well_formed(&heard), [200]);
    assert!(body(&heard).ends_with(b"# EOF\n"), "the numbers have no end");
    drop(stop);
    serving.await.expect("no panic");
    is_content_right(&volume, &snapshot, merged).await;
}

/// What follows the empty line.
fn body(heard: &[u8]) -> &[u8] {
    let head = heard.windows(4).position(|it| it == b"\r\n\r\n").expect("an empty line");
    &heard[head + 4..]
}

/// One answer after the other, for as many requests as the connection took. Returns their statuses; none if the
/// server hung up without a word.
fn are_well_formed(mut heard: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    while !heard.is_empty() {
        let (status, rest) = is_well_formed(heard);
        statuses.push(status);
        heard = rest;
    }
    statuses
}

/// An answer has a status line, headers, and a body of the length that they tell. Returns the status, and what
/// follows the answer.
fn is_well_formed(heard: &[u8]) -> (u16, &[u8]) {
    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
    let heard = heard.strip_prefix(go_on).unwrap_or(heard);
    let rest = body(heard);
    let head = std::str::from_utf8(&heard[..heard.len() - rest.len()]).expect("text");
    let (line, headers) = head.split_once("\r\n").expect("a line");
    let status: u16 = line[9..12].parse().expect("a status");
    assert!(line.starts_with("HTTP/1.1 ") || line.starts_with("HTTP/1.0 "), "{line}");
    let header = |name: &str| {
        let mut lines = headers.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    if header("transfer-encoding").is_some() {
        // Events, until the connection ends.
        return (status, &[]);
    }
    let len = header("content-length").map_or(0, |it| it.parse().expect("a number"));
    // The answer to a HEAD tells what it leaves out.
    let is_left_out = rest.is_empty() || rest.starts_with(b"HTTP/1.");
    assert!(is_left_out || rest.len() >= len, "{} bytes of {len}", rest.len());
    let (body, rest) = rest.split_at(if is_left_out { 0 } else { len });
    if header("content-type") == Some("application/json") && !body.is_empty() {
        let value: Value = serde_json::from_slice(body).expect("JSON");
        let message = &value["error"]["message"];
        assert_eq!(status >= 400, message.is_string(), "{status}: {value}");
        assert!(!message.as_str().is_some_and(|it| it.contains('\n')), "{message}");
    }
    (status, rest)
}

/// Snapshots, exports and their states are those that are there.
fn is_so(status: &Status, volume: &Disk, exports: &Exports) {
    let names: Vec<_> = status.snapshots.iter().map(|it| it.name.as_str()).collect();
    let there = volume.snapshots();
    assert_eq!(names, there.iter().map(|it| it.name()).collect::<Vec<_>>());
    let served: Vec<_> = status.exports.iter().map(|it| it.name.clone()).collect();
    assert_eq!(served, exports.names());
    let mut both: Vec<_> = ["origin"].into_iter().chain(names).collect();
    let mut served: Vec<_> = served.iter().map(String::as_str).collect();
    both.sort_unstable();
    served.sort_unstable();
    assert_eq!(served, both);
    for (told, snapshot) in status.snapshots.iter().zip(&there) {
        assert_eq!(told.exceptions, snapshot.exceptions());
        assert_eq!(told.total_bytes.is_none(), snapshot.state() == State::Invalid);
        assert!(told.percent.is_none_or(|it| (0.0..=100.0).contains(&it)), "{told:?}");
    }
    assert!(status.merge.iter().all(|it| it.exceptions_left <= it.exceptions_total));
}

/// Nothing that was asked for changes what clients see, but that a merge makes the origin one with its
/// snapshot.
async fn is_content_right(volume: &Rc<Disk>, snapshot: &Rc<Snapshot<Rc<Sparse>>>, merged: bool) {
    let mut expected = vec![1; index(LEN_BYTES)];
    let origin = View::origin(volume).read(0, expected.len()).await.expect("nothing fails");
    assert!(merged || origin[..] == expected, "the origin is another");
    expected[512..512 + 4096].fill(2);
    let there = volume.snapshot("s").is_some_and(|it| Rc::ptr_eq(&it, snapshot));
    if there && snapshot.state() != State::Invalid {
        let view = View::snapshot(volume, snapshot);
        let found = view.read(0, expected.len()).await.expect("nothing fails");
        assert!(found[..] == expected, "the snapshot is another");
    }
}

/// A request: mostly one that is known, with a body that makes sense; sometimes bytes as they come.
fn request(input: &mut Input<'_>) -> Vec<u8> {
    if input.u8() >= 0xF0 {
        let len = usize::from(input.u8());
        return input.bytes(len).to_vec();
    }
    let name = input.pick(&["s", "t", "u", "a%20b", "%ff", "%", "origin", ""]);
    let (method, path) = match input.u8() % 20 {
        0 => ("GET", "/v1/status".into()),
        1..=4 => ("POST", "/v1/snapshots".into()),
        5 => ("GET", format!("/v1/snapshots/{name}")),
        6 | 7 => ("DELETE", format!("/v1/snapshots/{name}")),
        8 => ("POST", format!("/v1/snapshots/{name}/invalidate")),
        9 => ("POST", format!("/v1/snapshots/{name}/grow")),
        10 => ("POST", format!("/v1/snapshots/{name}/flush")),
        11 => ("POST", "/v1/flush".into()),
        12 => ("GET", "/v1/merge".into()),
        13 | 14 => ("POST", "/v1/merge".into()),
        15 => ("PATCH", "/v1/merge".into()),
        16 => ("POST", format!("/v1/merge/{}", input.pick(&["pause", "resume", "cancel", "undo"]))),
        17 => ("POST", "/v1/shutdown".into()),
        18 => ("HEAD", "/metrics".into()),
        _ => (input.pick(&["GET", "PUT", "OPTIONS", "X"]), format!("/{name}")),
    };
    let body = if input.u8() < 0xE0 { sensible(method, &path, input) } else { odd(input) };
    let len = if input.u8() < 0xF8 { body.len() as u64 } else { input.number() };
    let end =
        input.pick(&["", "", "", "Expect: 100-continue\r\n", "Transfer-Encoding: chunked\r\n"]);
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n{end}\r\n");
    [head.into_bytes(), body].concat()
}

fn odd(input: &mut Input<'_>) -> Vec<u8> {
    let len = usize::from(input.u8());
    match input.u8() {
        0..=0xEF => input.bytes(len).to_vec(),
        // Longer than any that makes sense.
        _ => vec![b'['; len << 10],
    }
}

fn sensible(method: &str, path: &str, input: &mut Input<'_>) -> Vec<u8> {
    let mut fields: Vec<String> = Vec::new();
    let mut field = |name: &str, value: String| fields.push(format!("\"{name}\":{value}"));
    let number = |input: &mut Input<'_>| match input.u8() {
        0..=0xDF => input.pick(&[512, 1024, 4096, 65536, 1 << 20, 0, 1]).to_string(),
        _ => input.number().to_string(),
    };
    match (method, path) {
        ("POST", "/v1/snapshots") => {
            let names = ["t", "u", "s", "a b", "origin", "", "\\u0000", "\\ud83d\\ude00"];
            field("name", format!("\"{}\"", input.pick(&names)));
            field("cow", format!("\"{}\"", input.pick(&["/t", "/u", "/s", "t", "/t\\u0000"])));
            let what = input.u8();
            if what & 3 != 0 {
                let (chunk, size) = (number(input), number(input));
                field("make", format!("{{\"chunk_bytes\":{chunk},\"size_bytes\":{size}}}"));
            }
            if what & 0x0C == 4 {
                field("transient_chunk_bytes", number(input));
            }
            if what & 0x10 != 0 {
                let policies = ["invalidate", "fail", "wait:3", "wait:", "wait:99999999999"];
                field("on_full", format!("\"{}\"", input.pick(&policies)));
            }
            if what & 0x20 != 0 {
                field("max_size_bytes", number(input));
            }
            if what & 0x40 != 0 {
                field("discard_zeroes", "true".into());
            }
        }
        ("POST" | "PATCH", "/v1/merge") => {
            if method == "POST" {
                field("snapshot", format!("\"{}\"", input.pick(&["s", "t", "u"])));
            }
            let what = input.u8();
            if what & 1 != 0 {
                field("rate_bytes_per_second", number(input));
            }
            if what & 2 != 0 {
                field("window_bytes", number(input));
            }
            if what & 4 != 0 {
                field("undo", format!("{{\"cow\":\"{}\"}}", input.pick(&["/v", "/w", "/s", "v"])));
            }
        }
        (_, "/v1/merge/undo") => {
            field("snapshot", format!("\"{}\"", input.pick(&["s", "s-undo", "t", "t-undo"])));
        }
        (_, path) if path.ends_with("/grow") => field("size_bytes", number(input)),
        _ => return Vec::new(),
    }
    format!("{{{}}}", fields.join(",")).into_bytes()
}
