//! Requests that do not begin and end at a sector are served, and nobody's bytes next to them are lost.

use std::rc::Rc;

use dmsnap::device::{Access, Caching, Device, File, Memory, Mode};
use dmsnap::format::ChunkSize;
use dmsnap::ops;
use dmsnap::volume::{SnapshotOptions, Volume};
use dmsnap_nbd::{OptionRequest, Selection};
use dmsnap_serve::VolumeExport;
use dmsnap_serve::nbd::Limits;

use crate::common::Serving;
use crate::common::client::Client;

const READ: u16 = 0;
const WRITE: u16 = 1;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;

const LEN: u64 = 1 << 20;

/// A volume with one snapshot, of chunks of 8 KiB, in files. The origin is not a whole number of sectors.
fn serving(caching: Caching) -> Serving {
    Serving::start(Limits::default(), async move |dir, exports| {
        std::fs::write(dir.join("origin"), vec![7; 1_048_570]).expect("a file");
        let origin = File::open(&dir.join("origin"), Mode::Write, caching).await.expect("opens");
        let cow = File::create_new(&dir.join("cow"), 4 << 20, caching, Access::default()).await;
        let cow = cow.expect("a new file");
        ops::create(&cow, ChunkSize::from_sectors(16).expect("legal"), false).await.expect("made");
        let volume = Rc::new(Volume::new(origin).expect("a size"));
        volume.allow_backlog(1 << 20);
        let snapshot = volume.open("s", cow, SnapshotOptions::default()).await.expect("opens");
        exports.add(VolumeExport::origin(&volume, false)).expect("new");
        exports.add(VolumeExport::snapshot(&volume, &snapshot, false)).expect("new");
    })
}

fn client(serving: &Serving, name: &str) -> Client {
    let mut client = Client::haggling(serving);
    let go = OptionRequest::Go(Selection { name: name.into(), infos: vec![3] });
    let replies = client.option(&go);
    let sizes = replies.iter().find(|(_, data)| data[..2] == [0, 3]).expect("block sizes");
    let (minimum, preferred) = (&sizes.1[2..6], &sizes.1[6..10]);
    assert_eq!((minimum, preferred), (&[0, 0, 0, 1][..], &[0, 0, 0x20, 0][..]), "a chunk");
    client
}

fn write(client: &mut Client, at: u64, data: &[u8]) {
    client.ask(WRITE, 0, 1, at, u32::try_from(data.len()).expect("small"));
    client.write(data);
    assert_eq!(client.answer(0).errno, 0, "{} bytes at {at}", data.len());
}

/// What is written, zeroed and trimmed at odd places of both exports is there, and nothing else has changed.
#[test]
fn any_byte_may_be_the_first_and_the_last() {
    for (name, caching) in [
        ("origin", Caching::Buffered),
        ("s", Caching::Buffered),
        ("origin", Caching::Direct),
        ("s", Caching::Direct),
    ] {
        let serving = serving(caching);
        let mut client = client(&serving, name);
        let mut expected = vec![7; 1 << 20];
        expected[1_048_570..].fill(0);
        for (n, (at, len)) in
            (1..).zip([(100, 5), (511, 2), (8191, 2), (20_000, 30_001), (LEN - 3, 3), (1, 1)])
        {
            let data = vec![n; len];
            write(&mut client, at, &data);
            let at = usize::try_from(at).expect("small");
            expected[at..at + len].copy_from_slice(&data);
        }
        for (at, len) in [(70_001_u64, 3_u32), (8190, 20_000)] {
            assert_eq!(client.request(WRITE_ZEROES, 0, at, len).errno, 0);
            let at = usize::try_from(at).expect("small");
            expected[at..at + len as usize].fill(0);
        }
        assert_eq!(client.request(TRIM, 0, 200_001, 510).errno, 0, "no whole sector");
        let all = client.request(READ, 0, 0, 1 << 20).data;
        assert!(all == expected, "{name} {caching:?}");
        assert_eq!(client.request(READ, 0, 8190, 7).data, expected[8190..8197]);
        drop(client);
        serving.stop().expect("well");
    }
}

/// Several clients each write their own bytes of the same sectors at the same time.
#[test]
fn neighbours_in_one_sector_do_not_harm_each_other() {
    const CLIENTS: u8 = 4;
    for caching in [Caching::Buffered, Caching::Direct] {
        let serving = serving(caching);
        std::thread::scope(|scope| {
            for n in 0..CLIENTS {
                let serving = &serving;
                scope.spawn(move || {
                    for name in ["origin", "s"] {
                        let mut client = client(serving, name);
                        for round in 0..64 {
                            // Now and then one of them writes whole sectors of its own, in the same page.
                            match (n, round % 8) {
                                (0, 0) => write(&mut client, round * 4096 + 2048, &[n + 1; 1024]),
                                _ => {
                                    write(
                                        &mut client,
                                        round * 4096 + u64::from(n) * 3,
                                        &[n + 1; 3],
                                    );
                                }
                            }
                        }
                    }
                });
            }
        });
        for name in ["origin", "s"] {
            let all = client(&serving, name).request(READ, 0, 0, 64 * 4096).data;
            for (round, page) in all.chunks(4096).enumerate() {
                for n in 0..CLIENTS {
                    let at = usize::from(n) * 3;
                    let (from, len) = if n == 0 && round % 8 == 0 { (2048, 1024) } else { (at, 3) };
                    assert!(
                        page[from..from + len].iter().all(|it| *it == n + 1),
                        "{name} {round} {n} {caching:?}"
                    );
                }
            }
        }
        serving.stop().expect("well");
    }
}

/// A device in memory, to have said it: reading past its end to that of the sector does not make it longer.
#[test]
fn memory_has_a_whole_last_sector() {
    let memory = Memory::from(vec![1; 700]);
    let read = futures_executor(memory.read(512, 512));
    assert_eq!(read[..188], [1; 188]);
    assert_eq!(read[188..], [0; 324]);
    assert_eq!(memory.len_bytes().expect("a size"), 700);
}

fn futures_executor<T>(future: impl Future<Output = std::io::Result<T>>) -> T {
    compio::runtime::Runtime::new().expect("a runtime").block_on(future).expect("well")
}
