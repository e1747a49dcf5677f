use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use dmsnap_serve::nbd::codec::{
    OptionRequest, Request, SIMPLE_REPLY_MAGIC, Selection, command, flag,
};

use crate::random::Random;
use crate::sectors::{Moment, SECTOR_BYTES, Sectors, tag};

/// Sectors of a block; two connections own every other block of the first half of a device, and a
/// quarter of the device each in the second. Chunks have owners in common, sectors have not.
const BLOCK: usize = 3;
const LONGEST: u64 = 400;

/// One connection, which alone writes to its sectors.
pub(crate) struct Client {
    stream: UnixStream,
    /// 0 or 1.
    share: usize,
    pub(crate) sectors: Sectors,
    random: Random,
    next_tag: u64,
    pub(crate) requests: u64,
    pub(crate) flushes: u64,
}

/// A request on its way, and what it changes when it is answered.
enum Sent {
    Read(Range<usize>),
    Write,
    /// FUA.
    WriteDurable(Range<usize>),
    Flush(Moment),
}

pub(crate) fn owns(share: usize, sector: usize, count: usize) -> bool {
    match sector < count / 2 {
        true => sector / BLOCK % 2 == share,
        false => (sector - count / 2) / (count / 4) == share,
    }
}

impl Client {
    /// Connects to an export.
    pub(crate) fn new(
        socket: &Path,
        export: &str,
        share: usize,
        sectors: Sectors,
        mut random: Random,
    ) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.read_exact(&mut [0; 18])?;
        stream.write_all(&3_u32.to_be_bytes())?;
        let go = OptionRequest::Go(Selection { name: export.into(), infos: Vec::new() });
        stream.write_all(&go.encode())?;
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head)?;
            let number =
                |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
            stream.read_exact(&mut vec![0; number(16) as usize])?;
            match number(12) {
                1 => break,
                kind => assert_eq!(kind >> 31, 0, "{export}: refused"),
            }
        }
        // No two connections, and no two lives, write the same number.
        let next_tag = (random.below(1 << 40) << 20) | 1 << 60;
        Ok(Self { stream, share, sectors, random, next_tag, requests: 0, flushes: 0 })
    }

    /// Sends batches and takes their answers until the server is gone.
    pub(crate) fn run(&mut self) {
        while self.batch().is_ok() {}
    }

    fn batch(&mut self) -> io::Result<()> {
        let mut sent: Vec<Sent> = Vec::new();
        let mut busy: Vec<Range<usize>> = Vec::new();
        for _ in 0..1 + self.random.below(8) {
            let range = self.range();
            if busy.iter().any(|it| it.start < range.end && range.start < it.end) {
                continue;
            }
            let request = match self.random.below(10) {
                0..=1 => Sent::Read(range.clone()),
                2..=6 => Sent::Write,
                7 => Sent::WriteDurable(range.clone()),
                // Promised is what was answered before; what is under way may be durable or not.
                _ if sent.is_empty() => Sent::Flush(self.sectors.moment()),
                _ => continue,
            };
            self.send(&request, range.clone(), sent.len())?;
            busy.push(range);
            sent.push(request);
        }
        let mut answered = vec![false; sent.len()];
        while answered.contains(&false) {
            let n = self.answer(&sent)?;
            assert!(!std::mem::replace(&mut answered[n], true), "answered twice");
        }
        Ok(())
    }

    /// Sectors that are this connection's alone.
    fn range(&mut self) -> Range<usize> {
        let count = self.sectors.count();
        let below = |random: &mut Random, end: usize| {
            usize::try_from(random.below(end as u64)).expect("small")
        };
        if self.random.below(2) == 0 {
            let block = 2 * below(&mut self.random, count / 2 / BLOCK / 2) + self.share;
            return block * BLOCK..(block + 1) * BLOCK;
        }
        let quarter = count / 4;
        let first = below(&mut self.random, quarter);
        let len = 1 + usize::try_from(self.random.below(LONGEST)).expect("small");
        let start = count / 2 + self.share * quarter;
        start + first..start + (first + len).min(quarter)
    }

    fn send(&mut self, request: &Sent, range: Range<usize>, cookie: usize) -> io::Result<()> {
        let (command, flags, range) = match request {
            Sent::Read(_) => (command::READ, 0, range),
            Sent::Write => (command::WRITE, 0, range),
            Sent::WriteDurable(_) => (command::WRITE, flag::FUA, range),
            Sent::Flush(_) => (command::FLUSH, 0, 0..0),
        };
        let len = u32::try_from(range.len() * SECTOR_BYTES).expect("small");
        let offset = (range.start * SECTOR_BYTES) as u64;
        let header = Request { flags, command, cookie: cookie as u64, offset, len };
        let mut bytes = header.encode().to_vec();
        if command == command::WRITE {
            for sector in range {
                self.next_tag += 1;
                self.sectors.write(sector, self.next_tag);
                bytes.extend(self.next_tag.to_le_bytes().repeat(SECTOR_BYTES / 8));
            }
        }
        self.requests += 1;
        self.stream.write_all(&bytes)
    }

    /// Takes one answer, and says to which request.
    fn answer(&mut self, sent: &[Sent]) -> io::Result<usize> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        assert_eq!(head[..4], SIMPLE_REPLY_MAGIC.to_be_bytes());
        assert_eq!(head[4..8], [0; 4], "an error");
        let cookie = u64::from_be_bytes(head[8..].try_into().expect("eight bytes"));
        let cookie = usize::try_from(cookie).expect("small");
        match &sent[cookie] {
            Sent::Write => {}
            Sent::Read(range) => {
                let mut content = vec![0; range.len() * SECTOR_BYTES];
                self.stream.read_exact(&mut content)?;
                for (sector, found) in range.clone().zip(content.chunks(SECTOR_BYTES)) {
                    assert_eq!(tag(found), self.sectors.now(sector), "read of sector {sector}");
                }
            }
            Sent::WriteDurable(range) => {
                for sector in range.clone() {
                    let now = self.sectors.now(sector);
                    self.sectors.durable(sector, now);
                }
            }
            Sent::Flush(moment) => {
                for (sector, then) in moment.iter().enumerate() {
                    self.sectors.durable(sector, *then);
                }
                self.flushes += 1;
            }
        }
        Ok(cookie)
    }
}
