use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;

use dmsnap_nbd::Command;
use dmsnap_nbd::client::{BlockingError, Event, RequestId, Transmission};

use crate::kernel::nbd::connect;
use crate::kernel::random::Random;
use crate::killed::sectors::{Moment, SECTOR_BYTES, Sectors, tag};

/// Sectors of a block; two connections own every other block of the first half of a device, and a
/// quarter of the device each in the second. Chunks have owners in common, sectors have not.
const BLOCK: usize = 3;
const LONGEST: u64 = 400;

/// One connection, which alone writes to its sectors.
pub(crate) struct Client {
    stream: UnixStream,
    transmission: Transmission,
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
    /// With what was read so far.
    Read(Range<usize>, Vec<u8>),
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
    ) -> Result<Self, BlockingError> {
        let (stream, transmission) = connect(socket, export)?.into_parts();
        // No two connections, and no two lives, write the same number.
        let next_tag = (random.below(1 << 40) << 20) | 1 << 60;
        Ok(Self { stream, transmission, share, sectors, random, next_tag, requests: 0, flushes: 0 })
    }

    /// Sends batches and takes their answers until the server is gone.
    pub(crate) fn run(&mut self) {
        while self.batch().is_ok() {}
    }

    fn batch(&mut self) -> io::Result<()> {
        let mut sent: Vec<(RequestId, Sent)> = Vec::new();
        let mut busy: Vec<Range<usize>> = Vec::new();
        for _ in 0..1 + self.random.below(8) {
            let range = self.range();
            if busy.iter().any(|it| it.start < range.end && range.start < it.end) {
                continue;
            }
            let request = match self.random.below(10) {
                0..=1 => Sent::Read(range.clone(), Vec::new()),
                2..=6 => Sent::Write,
                7 => Sent::WriteDurable(range.clone()),
                // Promised is what was answered before; what is under way may be durable or not.
                _ if sent.is_empty() => Sent::Flush(self.sectors.moment()),
                _ => continue,
            };
            let id = self.send(&request, range.clone())?;
            busy.push(range);
            sent.push((id, request));
        }
        while !sent.is_empty() {
            self.answer(&mut sent)?;
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

    fn send(&mut self, request: &Sent, range: Range<usize>) -> io::Result<RequestId> {
        let at = (range.start * SECTOR_BYTES) as u64;
        let len = u32::try_from(range.len() * SECTOR_BYTES).expect("small");
        let command = match request {
            Sent::Read(..) => Command::Read { at, len },
            Sent::Write => Command::Write { at, len, fua: false },
            Sent::WriteDurable(_) => Command::Write { at, len, fua: true },
            Sent::Flush(_) => Command::Flush,
        };
        let (id, header) = self.transmission.begin(command).expect("the export can do it");
        let mut bytes = header.to_vec();
        if let Sent::Write | Sent::WriteDurable(_) = request {
            for sector in range {
                self.next_tag += 1;
                self.sectors.write(sector, self.next_tag);
                bytes.extend(self.next_tag.to_le_bytes().repeat(SECTOR_BYTES / 8));
            }
        }
        self.requests += 1;
        self.stream.write_all(&bytes)?;
        Ok(id)
    }

    /// Takes one piece of what the server says, and what has ended out of `sent`.
    fn answer(&mut self, sent: &mut Vec<(RequestId, Sent)>) -> io::Result<()> {
        let place = |sent: &[(RequestId, Sent)], id| {
            sent.iter().position(|(it, _)| *it == id).expect("it was sent")
        };
        match self.transmission.next().expect("the protocol") {
            None => {
                let received = self.stream.read(self.transmission.space())?;
                if received == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.transmission.received(received);
            }
            Some(Event::Data { id, bytes, .. }) => {
                let place = place(sent, id);
                match &mut sent[place].1 {
                    // A simple reply brings them in order.
                    Sent::Read(_, content) => content.extend_from_slice(bytes),
                    _ => panic!("data for what is not a read"),
                }
            }
            Some(Event::Done { id, result }) => {
                result.expect("no error");
                let place = place(sent, id);
                let (_, request) = sent.swap_remove(place);
                self.ended(request);
            }
            Some(event) => panic!("{event:?} in a simple reply"),
        }
        Ok(())
    }

    fn ended(&mut self, request: Sent) {
        match request {
            Sent::Write => {}
            Sent::Read(range, content) => {
                assert_eq!(content.len(), range.len() * SECTOR_BYTES);
                for (sector, found) in range.zip(content.chunks(SECTOR_BYTES)) {
                    assert_eq!(tag(found), self.sectors.now(sector), "read of sector {sector}");
                }
            }
            Sent::WriteDurable(range) => {
                for sector in range {
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
    }
}
