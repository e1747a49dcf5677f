//! Small writes that come in together are made together, and each is answered for itself.

use std::io;
use std::sync::{Arc, Mutex};

use crate::common::Serving;
use crate::common::client::Client;
use bytes::Bytes;
use dmsnap::device::{Allocation, Buffer, Device, Memory};
use dmsnap_nbd::Request;
use dmsnap_serve::export::Export;
use dmsnap_serve::nbd::Limits;

const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const FUA: u16 = 1;

const BLOCK: u32 = 4096;

/// Nothing can be written there.
const BAD: u64 = 5 * BLOCK as u64;

/// How many writes came together, each time.
type Log = Arc<Mutex<Vec<usize>>>;

struct Joining {
    memory: Memory,
    log: Log,
}

impl Device for Joining {
    async fn read(&self, at: u64, len: usize) -> io::Result<Buffer> {
        self.memory.read(at, len).await
    }

    async fn write(&self, at: u64, data: Bytes) -> io::Result<()> {
        self.log.lock().expect("no panic").push(1);
        match at {
            BAD => Err(io::ErrorKind::StorageFull.into()),
            _ => self.memory.write(at, data).await,
        }
    }

    async fn write_many(&self, writes: Vec<(u64, Bytes)>) -> io::Result<()> {
        self.log.lock().expect("no panic").push(writes.len());
        if writes.iter().any(|(at, _)| *at == BAD) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.memory.write_many(writes).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
        self.memory.write_zeroes(at, len, allocation).await
    }

    async fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        self.memory.discard(at, len).await
    }

    async fn flush(&self) -> io::Result<()> {
        self.memory.flush().await
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.memory.len_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.memory.block_bytes()
    }
}

impl Export for Joining {
    type Device = Self;

    fn name(&self) -> &'static str {
        "disk"
    }

    fn device(&self) -> &Self {
        self
    }

    async fn flush(&self) -> io::Result<()> {
        self.memory.flush().await
    }

    fn joins_writes(&self) -> bool {
        true
    }
}

fn serving(limits: Limits) -> (Serving, Log) {
    let log = Log::default();
    let shared = log.clone();
    let serving = Serving::start(limits, async move |_, exports| {
        let disk = Joining { memory: Memory::zeroed(1 << 20), log: shared };
        exports.add(disk).expect("the first");
    });
    (serving, log)
}

/// As it stands on the wire; what is written is the block's number.
fn write(block: u8, flags: u16) -> Vec<u8> {
    let (offset, cookie) = (u64::from(block) * u64::from(BLOCK), u64::from(block));
    let head = Request { flags, command: WRITE, cookie, offset, len: BLOCK }.encode();
    [&head[..], &[block; BLOCK as usize]].concat()
}

fn assert_holds(client: &mut Client, block: u8, expected: u8) {
    let read = client.request(READ, 0, u64::from(block) * u64::from(BLOCK), BLOCK);
    assert_eq!((read.errno, read.data), (0, vec![expected; BLOCK as usize]), "block {block}");
}

/// Sends them in one go and returns the answers' errnos by cookie.
fn answers(client: &mut Client, requests: &[Vec<u8>]) -> Vec<(u64, u32)> {
    client.write(&requests.concat());
    let mut told: Vec<_> = requests
        .iter()
        .map(|_| {
            let answer = client.answer(0);
            (answer.cookie, answer.errno)
        })
        .collect();
    told.sort_unstable();
    told
}

#[test]
fn writes_that_come_in_together_are_made_together() {
    let (serving, log) = serving(Limits::default());
    for structured in [false, true] {
        let mut client = Client::transmitting(&serving, structured);
        log.lock().expect("no panic").clear();
        let requests: Vec<_> = (10..26).map(|block| write(block, 0)).collect();
        let told = answers(&mut client, &requests);
        assert_eq!(told, (10..26).map(|block| (block, 0)).collect::<Vec<_>>());
        (10..26).for_each(|block| assert_holds(&mut client, block, block));
        let log = log.lock().expect("no panic");
        assert_eq!(log.iter().sum::<usize>(), 16);
        assert!(log.len() < 16, "each by itself: {log:?}");
    }
}

#[test]
fn one_that_fails_is_told_and_the_others_are_written() {
    const NO_SPACE: u32 = 28;
    let (serving, _) = serving(Limits::default());
    let mut client = Client::transmitting(&serving, false);
    let requests: Vec<_> = (1..9).map(|block| write(block, 0)).collect();
    let errno = |block| if block == 5 { NO_SPACE } else { 0 };
    let told = answers(&mut client, &requests);
    assert_eq!(told, (1..9).map(|block| (block, errno(block))).collect::<Vec<_>>());
    (1..9).for_each(|block| assert_holds(&mut client, block, if block == 5 { 0 } else { block }));
}

/// What stands between or after writes is done all the same, and nobody waits for company that does not
/// come: not with few requests in flight, not before a request that is there in part only.
#[test]
fn nothing_waits_for_more_writes() {
    let one_at_a_time = Limits::default().requests(1);
    for limits in [Limits::default(), one_at_a_time] {
        let (serving, _) = serving(limits);
        let mut client = Client::transmitting(&serving, false);
        let flush = Request { flags: 0, command: FLUSH, cookie: 77, offset: 0, len: 0 }.encode();
        let odd = Request { flags: 0, command: 99, cookie: 78, offset: 0, len: 0 }.encode();
        let requests =
            [write(1, 0), write(2, 0), flush.to_vec(), write(3, FUA), write(4, 0), odd.to_vec()];
        let told = answers(&mut client, &requests);
        assert_eq!(told[..5], [(1, 0), (2, 0), (3, 0), (4, 0), (77, 0)]);
        assert_ne!(told[5], (78, 0));
        let last = write(7, 0);
        let (begin, rest) = last.split_at(1000);
        client.write(&[&write(6, 0)[..], begin].concat());
        assert_eq!(client.answer(0).cookie, 6);
        client.write(rest);
        assert_eq!(client.answer(0).cookie, 7);
        for block in [1, 2, 3, 4, 6, 7] {
            assert_holds(&mut client, block, block);
        }
    }
}

/// The client is gone before it reads an answer: what was read whole is written.
#[test]
fn writes_of_a_client_that_leaves_are_made() {
    const DISC: u16 = 2;
    let (serving, _) = serving(Limits::default());
    let mut client = Client::transmitting(&serving, false);
    let leave = Request { flags: 0, command: DISC, cookie: 0, offset: 0, len: 0 }.encode();
    client.write(&[write(1, 0), write(2, 0), write(3, 0), leave.to_vec()].concat());
    (1..4).for_each(|_| assert_eq!(client.answer(0).errno, 0));
    client.sees_the_end();
    let mut client = Client::transmitting(&serving, false);
    (1..4).for_each(|block| assert_holds(&mut client, block, block));
}
