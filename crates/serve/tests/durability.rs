//! What the server promises about writes: durable when it says so, driven to their end, and never
//! promised after a flush that failed.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::client::{Client, is_well};
use crate::common::{Plain, Serving};
use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device, Memory};
use dmsnap_serve::export::Exports;
use dmsnap_serve::nbd::Limits;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const FUA: u16 = 1;

/// What a device was asked, in the order it was done.
type Log = Arc<Mutex<Vec<String>>>;

/// A slow device that remembers what it did.
struct Witness {
    memory: Memory,
    log: Log,
    /// A write at 0 takes so long; every other one is done at once.
    slow: Duration,
    failing_flushes: Cell<u32>,
    in_flight: RefCell<u32>,
}

impl Witness {
    fn new(log: &Log, slow: Duration) -> Self {
        Self {
            memory: Memory::zeroed(1 << 20),
            log: log.clone(),
            slow,
            failing_flushes: Cell::new(0),
            in_flight: RefCell::new(0),
        }
    }

    fn did(&self, what: &str) {
        self.log.lock().expect("no panic").push(what.to_owned());
    }
}

impl Device for Witness {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.memory.read(at, len).await
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        *self.in_flight.borrow_mut() += 1;
        if at == 0 {
            compio::time::sleep(self.slow).await;
        }
        *self.in_flight.borrow_mut() -= 1;
        self.did(&format!("write {at}"));
        self.memory.write(at, data).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        self.did(&format!("zero {at} {allocation:?}"));
        self.memory.write_zeroes(at, len, allocation).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.did(&format!("discard {at} {len}"));
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn flush(&self) -> io::Result<()> {
        self.did(&format!("flush, {} in flight", self.in_flight.borrow()));
        match self.failing_flushes.get() {
            0 => Ok(()),
            left => {
                self.failing_flushes.set(left - 1);
                Err(io::Error::other("the disk is on fire"))
            }
        }
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.memory.len_bytes()
    }

    fn block_bytes(&self) -> u32 {
        512
    }
}

fn serving(slow: Duration, failing_flushes: u32) -> (Serving, Log) {
    let log = Log::default();
    let witnessed = log.clone();
    let serving = Serving::start(Limits::default(), async move |_, exports: &Exports| {
        let witness = Witness::new(&witnessed, slow);
        witness.failing_flushes.set(failing_flushes);
        exports.add(Plain::new("disk", witness)).expect("the first");
    });
    (serving, log)
}

fn taken(log: &Log) -> Vec<String> {
    std::mem::take(&mut *log.lock().expect("no panic"))
}

fn write(client: &mut Client, cookie: u64, flags: u16, at: u64) {
    client.ask(WRITE, flags, cookie, at, 512);
    client.write(&[7; 512]);
}

#[test]
fn force_unit_access_flushes_before_the_reply() {
    let (serving, log) = serving(Duration::ZERO, 0);
    let mut client = Client::transmitting(&serving, true);
    for (flags, flush) in [(0, None), (FUA, Some("flush, 0 in flight"))] {
        let expected = |what: &str| -> Vec<String> {
            [Some(what), flush].into_iter().flatten().map(str::to_owned).collect()
        };
        write(&mut client, 1, flags, 512);
        assert_eq!(client.answer(0).errno, 0);
        assert_eq!(taken(&log), expected("write 512"));
        assert_eq!(client.request(WRITE_ZEROES, flags, 0, 4096).errno, 0);
        assert_eq!(taken(&log), expected("zero 0 MayPunch"));
        assert_eq!(client.request(WRITE_ZEROES, flags | 2, 0, 4096).errno, 0);
        assert_eq!(taken(&log), expected("zero 0 Keep"));
        // A device that cannot discard is no reason to fail.
        assert_eq!(client.request(TRIM, flags, 512, 1024).errno, 0);
        assert_eq!(taken(&log), expected("discard 512 1024"));
        assert_eq!(client.request(READ, flags, 0, 512).errno, 0);
        assert_eq!(taken(&log), [""; 0]);
    }
    assert_eq!(client.request(WRITE_ZEROES, 1 << 4, 0, 4096).errno, 95);
    assert_eq!(taken(&log), [""; 0], "fast zeroing is refused before anything happens");
}

#[test]
fn requests_of_one_connection_overtake_each_other() {
    let (serving, log) = serving(Duration::from_millis(300), 0);
    let mut client = Client::transmitting(&serving, true);
    write(&mut client, 1, 0, 0);
    for cookie in 2..20 {
        write(&mut client, cookie, 0, cookie * 512);
    }
    let mut answered: Vec<_> = (1..20).map(|_| client.answer(0).cookie).collect();
    assert_eq!(answered.pop(), Some(1), "the slow one comes last");
    answered.sort_unstable();
    assert_eq!(answered, (2..20).collect::<Vec<_>>());
    assert_eq!(taken(&log).last().map(String::as_str), Some("write 0"));
}

#[test]
fn a_write_goes_on_when_its_client_has_gone_and_is_flushed() {
    for farewell in ["disconnect", "end of stream", "gone"] {
        let (serving, log) = serving(Duration::from_millis(300), 0);
        let mut client = Client::transmitting(&serving, true);
        write(&mut client, 1, 0, 0);
        match farewell {
            "disconnect" => client.ask(DISC, 0, 2, 0, 0),
            "end of stream" => client.falls_silent(),
            _ => {}
        }
        if farewell == "gone" {
            drop(client);
            std::thread::sleep(Duration::from_millis(800));
        } else {
            assert_eq!(client.answer(0).errno, 0, "what was asked before is answered");
            client.sees_the_end();
        }
        assert_eq!(taken(&log), ["write 0", "flush, 0 in flight"], "{farewell}");
    }
}

#[test]
fn shutting_down_finishes_writes_answers_and_flushes() {
    let (serving, log) = serving(Duration::from_millis(500), 0);
    let mut client = Client::transmitting(&serving, true);
    write(&mut client, 1, 0, 0);
    write(&mut client, 2, 0, 512);
    assert_eq!(client.answer(0).cookie, 2, "both have been read");
    serving.stop().expect("a good end");
    assert_eq!(client.answer(0).cookie, 1);
    client.sees_the_end();
    assert_eq!(taken(&log), ["write 512", "write 0", "flush, 0 in flight"]);
}

#[test]
fn after_a_failed_flush_none_succeeds() {
    let (serving, _) = serving(Duration::ZERO, 1);
    let mut client = Client::transmitting(&serving, true);
    let mut other = Client::transmitting(&serving, false);
    write(&mut client, 1, FUA, 512);
    assert_eq!(client.answer(0).errno, 5);
    for client in [&mut client, &mut other] {
        assert_eq!(client.request(FLUSH, 0, 0, 0).errno, 5);
        write(client, 2, FUA, 512);
        assert_eq!(client.answer(0).errno, 5);
        assert_eq!(client.request(READ, 0, 512, 512).data, [7; 512], "reads go on");
    }
    drop((client, other));
    let ended = serving.stop();
    assert!(ended.is_err(), "the end of the server says so, too");
}

#[test]
fn a_removed_export_is_flushed_and_its_clients_sent_away() {
    let log = Log::default();
    let witnessed = log.clone();
    let (tell, told) = std::sync::mpsc::channel();
    let (remove, asked) = std::sync::mpsc::channel::<()>();
    let serving = Serving::start(Limits::default(), async move |_, exports: &Exports| {
        let witness = Witness::new(&witnessed, Duration::from_millis(300));
        exports.add(Plain::new("goes", witness)).expect("new");
        exports.add(Plain::new("stays", Memory::zeroed(1 << 20))).expect("new");
        let exports = exports.clone();
        let removal = async move {
            let _ = compio::runtime::spawn_blocking(move || asked.recv()).await;
            let removed = (exports.remove("goes").await, exports.remove("goes").await);
            tell.send((removed, exports.names())).expect("the test waits");
        };
        compio::runtime::spawn(removal).detach();
    });
    let mut client = Client::transmitting(&serving, true);
    write(&mut client, 1, 0, 0);
    write(&mut client, 2, 0, 512);
    assert_eq!(client.answer(0).cookie, 2, "both have been read");
    drop(remove);
    assert_eq!(client.answer(0).cookie, 1);
    client.sees_the_end();
    let removed = told.recv_timeout(crate::common::PATIENCE).expect("the removal ends");
    assert_eq!(removed, ((true, false), vec!["stays".to_owned()]));
    assert_eq!(taken(&log), ["write 512", "write 0", "flush, 0 in flight"]);
    // The default is now the other one.
    is_well(&serving);
}
