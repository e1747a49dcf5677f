//! What clients cost is bounded, and one client's cost is not another's.

use std::io::Write;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::common::Serving;
use crate::common::client::{Client, is_well};
use dmsnap_serve::nbd::Limits;

const READ: u16 = 0;
const WRITE: u16 = 1;

/// The tests here measure time and the memory of this process: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The memory that this process has touched and not given back, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number") * 4096
}

#[test]
fn silent_clients_are_sent_away_and_cost_others_nothing() {
    let _alone = alone();
    let limits = Limits::default().handshake(Duration::from_millis(600)).connections(450);
    let serving = Serving::memory(limits, 1 << 20);
    let before = resident_bytes();
    let mut silent: Vec<_> = (0..200).map(|_| Client::greeted(&serving)).collect();
    let mut idle: Vec<_> = (0..200).map(|_| Client::transmitting(&serving, true)).collect();
    is_well(&serving);
    // The test's own ends of the connections are in it, too.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "400 silent clients took {grown} bytes");
    silent.iter_mut().for_each(Client::sees_the_end);
    for client in &mut idle {
        assert_eq!(client.request(READ, 0, 0, 512).data.len(), 512, "idle clients may stay");
    }
}

#[test]
fn more_clients_than_allowed_are_sent_away_at_once() {
    let _alone = alone();
    let limits = Limits::default().connections(2);
    let serving = Serving::memory(limits, 1 << 20);
    let mut inside = [Client::transmitting(&serving, true), Client::transmitting(&serving, true)];
    let stream = std::os::unix::net::UnixStream::connect(&serving.socket).expect("it listens");
    let mut outside = Client { stream, structured: false };
    outside.sees_the_end();
    for client in &mut inside {
        assert_eq!(client.request(READ, 0, 0, 512).errno, 0);
    }
    drop(inside);
    // The server needs a moment to notice.
    std::thread::sleep(Duration::from_millis(300));
    is_well(&serving);
}

/// Clients that announce 32 MiB and send nothing cost next to nothing; clients that ask for much
/// and read nothing cost what the limits allow, and stop only themselves.
#[test]
fn memory_is_bounded_by_what_arrives_and_by_the_limits() {
    let _alone = alone();
    let limits = Limits::default().bytes(32 << 20);
    let serving = Serving::memory(limits, 64 << 20);
    let before = resident_bytes();
    let mut announced = Vec::new();
    for _ in 0..100 {
        let mut client = Client::transmitting(&serving, true);
        client.ask(WRITE, 0, 1, 0, 32 << 20);
        client.write(&[1; 100]);
        announced.push(client);
    }
    is_well(&serving);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "100 announcements of 32 MiB took {grown} bytes");
    drop(announced);

    let before = resident_bytes();
    let mut deaf = Client::transmitting(&serving, true);
    deaf.stream.set_nonblocking(true).expect("a socket");
    let request =
        dmsnap_nbd::Request { flags: 0, command: READ, cookie: 1, offset: 0, len: 8 << 20 };
    // The server stops reading, so the socket fills up.
    let mut asked = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(500) {
        match deaf.stream.write(&request.encode()) {
            Ok(sent) => asked += sent / request.encode().len(),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    assert!(asked > 100, "{asked} requests of 8 MiB");
    is_well(&serving);
    // What one connection may have in flight, and as much again in the allocator's hands.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 96 << 20, "{asked} unread reads of 8 MiB took {grown} bytes");
}

/// All of them together are bounded, not only each; and those who want little get it meanwhile.
#[test]
fn many_deaf_clients_together_stay_within_the_servers_memory() {
    let _alone = alone();
    let limits = Limits::default().memory(96 << 20);
    let serving = Serving::memory(limits, 64 << 20);
    let before = resident_bytes();
    let mut deaf = Vec::new();
    for _ in 0..40 {
        let mut client = Client::transmitting(&serving, true);
        for cookie in 0..2 {
            client.ask(READ, 0, cookie, 0, 32 << 20);
        }
        for cookie in 2..20 {
            client.ask(READ, 0, cookie, 0, 1 << 20);
        }
        deaf.push(client);
    }
    is_well(&serving);
    let mut other = Client::transmitting(&serving, true);
    assert_eq!(other.request(READ, 0, 4096, 256 << 10).data.len(), 256 << 10);
    std::thread::sleep(Duration::from_millis(500));
    is_well(&serving);
    // The one that goes alone, and what the thread keeps of buffers that were returned.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < (96 + 33 + 64 + 16) << 20, "40 deaf clients took {grown} bytes");
}

/// A client that reads nothing holds memory that others wait for: not for ever.
#[test]
fn who_neither_sends_nor_receives_while_others_wait_is_sent_away() {
    let _alone = alone();
    let stall = Duration::from_millis(300);
    let limits = Limits::default().memory(16 << 20).stall(stall).grace(stall);
    let serving = Serving::memory(limits, 64 << 20);
    let mut deaf = Client::transmitting(&serving, true);
    deaf.ask(READ, 0, 1, 0, 32 << 20);
    std::thread::sleep(3 * stall);
    // Nobody waits: it may take its time.
    let mut mute = Client::transmitting(&serving, true);
    mute.ask(WRITE, 0, 1, 0, 32 << 20);
    let began = Instant::now();
    let mut other = Client::transmitting(&serving, true);
    assert_eq!(other.request(READ, 0, 0, 32 << 20).data.len(), 32 << 20);
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    deaf.sees_the_end();
    assert_eq!(other.request(READ, 0, 0, 32 << 20).data.len(), 32 << 20);
    mute.sees_the_end();
    is_well(&serving);
}

#[test]
fn shutting_down_waits_for_no_client() {
    let _alone = alone();
    let limits = Limits::default().grace(Duration::from_millis(300));
    let serving = Serving::memory(limits, 64 << 20);
    let _silent = Client::greeted(&serving);
    let mut idle = Client::transmitting(&serving, true);
    let mut halfway = Client::transmitting(&serving, true);
    halfway.ask(WRITE, 0, 1, 0, 1 << 20);
    halfway.write(&[1; 1000]);
    let mut deaf = Client::transmitting(&serving, true);
    for cookie in 0..8 {
        deaf.ask(READ, 0, cookie, 0, 8 << 20);
    }
    let began = Instant::now();
    serving.stop().expect("a good end");
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    idle.sees_the_end();
}

#[test]
fn clients_that_choose_no_export_keep_nobody_out() {
    let _alone = alone();
    let limits = Limits::default().connections(2);
    let serving = Serving::memory(limits, 1 << 20);
    let mut silent: Vec<_> = (0..10).map(|_| Client::greeted(&serving)).collect();
    is_well(&serving);
    // Two are still there, less the one whose place was taken.
    silent[..9].iter_mut().for_each(Client::sees_the_end);
    silent[9].write(&3u32.to_be_bytes());
    silent[9].option(&dmsnap_nbd::OptionRequest::List);
}
