//! A client of the NBD server that says anything, and then one that behaves.

use std::cell::LazyCell;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream as StdStream};
use std::rc::Rc;

use dmsnap::format::ChunkSize;
use dmsnap::ops;
use dmsnap::volume::{SnapshotOptions, Volume};
use dmsnap_nbd::{MetaQuery, OptionRequest, Request, Selection, command};
use dmsnap_serve::export::{Exports, VolumeExport};
use dmsnap_serve::nbd::{Limits, Listener, Server, Tls};

use crate::exports::LEN_BYTES;
use crate::input::{Input, told};
use crate::socket::{heard, in_time};
use crate::sparse::Sparse;
use crate::talk::{Model, judge};

/// Options and requests of one client, at most.
const MOST: u8 = 24;

/// The longest payload that is sent, whatever a request claims.
const MOST_PAYLOAD: u32 = 80 << 10;

thread_local! {
    static LISTENER: LazyCell<(UnixListener, SocketAddr)> = LazyCell::new(listener);
}

/// On a name of no file.
fn listener() -> (UnixListener, SocketAddr) {
    let name = format!("dmsnap-fuzz-nbd-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).expect("a name");
    (UnixListener::bind_addr(&address).expect("nobody has it"), address)
}

/// Whether origin writes wait in memory, then what the client says.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let backlog = input.u8() % 2 == 1;
    let said = script(&mut input);
    in_time(serve(backlog, &said));
}

async fn serve(backlog: bool, said: &[u8]) {
    serving(backlog, None, async |mut model| {
        for said in [said, &civil("s"), &civil("origin")] {
            judge(said, &heard(connected(), said).await, false, &mut model);
        }
    })
    .await;
}

/// A server, until its clients have ended, whose exports hold what the model does.
pub(crate) async fn serving(backlog: bool, tls: Option<Tls>, clients: impl AsyncFnOnce(Model)) {
    let origin = Rc::new(Sparse::zeroed(LEN_BYTES));
    for at in (8 << 10..LEN_BYTES).step_by(512) {
        origin.put(at, &[u8::try_from(at / 512).unwrap_or(0); 512]);
    }
    let model = Model::new(origin.content(0..LEN_BYTES));
    let volume = Rc::new(Volume::new(origin).expect("a size"));
    volume.allow_backlog(if backlog { 16 << 10 } else { 0 });
    let cow = Rc::new(Sparse::zeroed(4 * LEN_BYTES));
    let chunk = ChunkSize::from_sectors(2).expect("legal");
    ops::create(&cow, chunk, false).await.expect("there is room");
    let snapshot = volume.open("s", cow, SnapshotOptions::default()).await.expect("sound");
    let exports = Exports::new();
    exports.add(VolumeExport::origin(&volume, false)).expect("new");
    exports.add(VolumeExport::snapshot(&volume, &snapshot, false)).expect("new");
    exports.add(VolumeExport::origin(&volume, true).named("ro")).expect("new");

    let (stop, stopped) = futures_channel::oneshot::channel::<()>();
    let listener = LISTENER.with(|it| it.0.try_clone()).expect("a descriptor");
    let listener = Listener::from_unix(listener).expect("a listener");
    let limits = Limits::default().connections(2).requests(4);
    let server = Server::new(exports, limits);
    let server = match tls {
        Some(tls) => server.with_tls(tls),
        None => server,
    };
    let server = compio::runtime::spawn(server.run(vec![listener], async { _ = stopped.await }));
    clients(model).await;
    drop(stop);
    server.await.expect("no panic").expect("nothing fails");
}

pub(crate) fn connected() -> StdStream {
    LISTENER.with(|it| StdStream::connect_addr(&it.1)).expect("the server listens")
}

pub(crate) fn ask(command: u16, flags: u16, offset: u64, len: u32) -> Vec<u8> {
    Request { flags, command, cookie: offset ^ 7, offset, len }.encode().to_vec()
}

/// A client that behaves: its export is read, looked at, written and read again.
pub(crate) fn civil(name: &str) -> Vec<u8> {
    let differences = if name == "s" { "qemu:dirty-bitmap:origin" } else { "qemu:dirty-bitmap:s" };
    let contexts = ["base:allocation", "qemu:allocation-depth", differences];
    let queries = contexts.map(str::to_owned).to_vec();
    let all = u32::try_from(LEN_BYTES).unwrap_or(u32::MAX);
    [
        3_u32.to_be_bytes().to_vec(),
        OptionRequest::StructuredReply.encode(),
        OptionRequest::List.encode(),
        OptionRequest::SetMeta(MetaQuery { name: name.into(), queries }).encode(),
        OptionRequest::Go(Selection { name: name.into(), infos: vec![3] }).encode(),
        ask(command::READ, 0, 0, all),
        ask(command::BLOCK_STATUS, 0, 0, all),
        ask(command::WRITE, 0, 1536, 1024),
        vec![0xC1; 1024],
        ask(command::READ, 0, 0, all),
        ask(command::FLUSH, 0, 0, 0),
        ask(command::DISC, 0, 0, 0),
    ]
    .concat()
}

/// What a client says after the greeting: mostly sense, then bytes as they come.
pub(crate) fn script(input: &mut Input<'_>) -> Vec<u8> {
    let flags = match input.u8() {
        0..=0xEF => input.pick(&[3, 3, 3, 1, 0, 2]),
        _ => input.u32(),
    };
    let mut said = flags.to_be_bytes().to_vec();
    for _ in 0..input.u8() % MOST {
        let option = option(input);
        said.extend(&option);
    }
    for _ in 0..input.u8() % MOST {
        let request = request(input);
        said.extend(&request);
    }
    said.extend(input.bytes(usize::MAX));
    told(|| format!("{} bytes are said", said.len()));
    said
}

fn name(input: &mut Input<'_>) -> String {
    match input.u8() {
        0..=0xEF => input.pick(&["", "origin", "s", "ro", "none"]).into(),
        _ => "n".repeat(usize::from(input.u16() % 5000)),
    }
}

fn option(input: &mut Input<'_>) -> Vec<u8> {
    let query = |input: &mut Input<'_>| {
        let name = name(input);
        let known = ["base:", "base:allocation", "qemu:", "qemu:allocation-depth"];
        let known = [&known[..], &["qemu:dirty-bitmap:s", "qemu:dirty-bitmap:origin"]].concat();
        let known = [&known[..], &["qemu:dirty-bitmap:", "x"]].concat();
        let queries = (0..input.u8() % 5).map(|_| input.pick(&known).into()).collect();
        MetaQuery { name, queries }
    };
    let selection = |input: &mut Input<'_>| {
        let name = name(input);
        Selection { name, infos: (0..input.u8() % 5).map(|_| u16::from(input.u8() % 6)).collect() }
    };
    let option = match input.u8() % 16 {
        0..=3 => OptionRequest::Go(selection(input)),
        4 => OptionRequest::Info(selection(input)),
        5 | 6 => OptionRequest::StructuredReply,
        7 | 8 => OptionRequest::SetMeta(query(input)),
        9 => OptionRequest::ListMeta(query(input)),
        10 => OptionRequest::List,
        11 => OptionRequest::ExportName(name(input)),
        12 => OptionRequest::StartTls,
        13 => OptionRequest::Abort,
        _ => {
            let (code, len) = (u32::from(input.u8() % 16), usize::from(input.u16()));
            let claimed = if input.u8().is_multiple_of(8) {
                input.u32()
            } else {
                len.try_into().unwrap_or(0)
            };
            let mut data = input.bytes(len.min(64)).to_vec();
            data.resize(len, b'x');
            let magic = *b"IHAVEOPT";
            return [&magic[..], &code.to_be_bytes(), &claimed.to_be_bytes(), &data].concat();
        }
    };
    option.encode()
}

fn request(input: &mut Input<'_>) -> Vec<u8> {
    let command = if input.u8() < 0xF8 { u16::from(input.u8() % 8) } else { input.u16() };
    let flags = match input.u8() {
        0..=0x7F => 0,
        0x80..=0xF7 => u16::from(input.u8() % 32),
        _ => input.u16(),
    };
    let (offset, len) = match input.u8() {
        0..=0xCF => {
            let sectors = LEN_BYTES / 512;
            let start = input.below(sectors + 1);
            (start * 512, u32::try_from(input.below(sectors - start + 1) * 512).unwrap_or(0))
        }
        0xD0..=0xDF => (0, 0),
        0xE0..=0xEF => (input.number(), u32::from(input.u16())),
        _ => (input.u64(), input.u32()),
    };
    let request = Request { flags, command, cookie: input.u8().into(), offset, len };
    let mut said = request.encode().to_vec();
    if command == command::WRITE {
        let byte = input.u8();
        said.extend(std::iter::repeat_n(byte, len.min(MOST_PAYLOAD).try_into().unwrap_or(0)));
    }
    told(|| format!("{request:?}"));
    said
}
