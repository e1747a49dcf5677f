//! The second reading of the protocol that judges the server's answers. It decodes what the server says
//! by itself, and does without `dmsnap_nbd::client`: a mistake in the code under
//! test must not excuse itself.

use std::ops::Range;

use dmsnap_nbd::{
    Greeting, MetaQuery, OptionHeader, OptionRequest, Refusal, Request, command, flag,
};

use crate::exports::{LEN_BYTES, NAMES};
use crate::input::told;
use crate::sparse::index;

/// Metadata contexts that every export knows.
const CONTEXTS: [&str; 3] = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:s"];

/// What the devices hold.
pub(crate) struct Model {
    origin: Vec<u8>,
    snapshot: Vec<u8>,
}

impl Model {
    pub(crate) fn new(content: Vec<u8>) -> Self {
        Self { origin: content.clone(), snapshot: content }
    }

    fn of(&mut self, export: usize) -> &mut Vec<u8> {
        if NAMES[export] == "s" { &mut self.snapshot } else { &mut self.origin }
    }
}

/// Bytes of one side, from the front.
struct Stream<'a>(&'a [u8]);

impl<'a> Stream<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array().expect("answered in full"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array().expect("answered in full"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array().expect("answered in full"))
    }
}

/// What client and server have agreed on.
struct Talk<'a> {
    said: Stream<'a>,
    heard: Stream<'a>,
    /// All of it went through an encrypted connection.
    encrypted: bool,
    padded: bool,
    structured: bool,
    /// The export they were chosen for, and which.
    chosen: (usize, Vec<usize>),
}

/// Goes through all that a client said, and through the answers: every one is there, is whole, and is
/// the right one; and nothing else was said.
pub(crate) fn judge(said: &[u8], heard: &[u8], encrypted: bool, model: &mut Model) {
    let (said, heard) = (Stream(said), Stream(heard));
    let chosen = (0, Vec::new());
    let mut talk = Talk { said, heard, encrypted, padded: true, structured: false, chosen };
    assert_eq!(talk.heard.bytes(18), Some(&Greeting::NEWSTYLE.encode()[..]));
    if let Some(export) = talk.handshake() {
        told(|| format!("export {export}, contexts {:?}", talk.chosen));
        while talk.request(export, model).is_some() {}
    }
    assert_eq!(talk.heard.0, b"", "said unasked");
}

fn find(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| *known == name || name.is_empty())
}

impl Talk<'_> {
    /// The export that was chosen, if one was.
    fn handshake(&mut self) -> Option<usize> {
        let flags = u32::from_be_bytes(self.said.array()?);
        self.padded = flags & 2 == 0;
        if flags & !3 != 0 {
            return None;
        }
        loop {
            let header = OptionHeader::decode(self.said.array()?)?;
            let data = self.said.bytes(index(header.len_bytes.into()))?;
            let most = match header.code {
                1 | 2 => 4096,
                3 | 5 | 8 => 0,
                6 | 7 => 8192,
                9 | 10 => 64 << 10,
                _ => usize::MAX,
            };
            let option = match data.len() {
                len if len > most && most == 0 => Err(Refusal::Invalid),
                len if len > most => Err(Refusal::TooBig),
                _ => OptionRequest::decode(header.code, data),
            };
            told(|| format!("option {}: {option:?}", header.code));
            match option {
                // It cannot be refused but by hanging up.
                Err(_) if header.code == 1 => return None,
                Err(refusal) => self.is_refused(header.code, refusal),
                Ok(OptionRequest::ExportName(name)) => return self.export_name(&name),
                Ok(OptionRequest::Abort) => {
                    assert_eq!(self.replies(header.code), (Vec::new(), 1));
                    return None;
                }
                Ok(OptionRequest::Go(it)) if find(&it.name).is_some() => {
                    self.is_described(header.code);
                    return find(&it.name);
                }
                Ok(option) => self.option(header.code, &option),
            }
        }
    }

    fn option(&mut self, code: u32, option: &OptionRequest) {
        match option {
            OptionRequest::List => {
                let (replies, end) = self.replies(code);
                let names: Vec<_> = replies.iter().map(|(_, data)| &data[4..]).collect();
                assert_eq!((names.len(), end), (NAMES.len(), 1));
                assert!(names.iter().zip(NAMES).all(|(it, name)| it.starts_with(name.as_bytes())));
            }
            OptionRequest::StructuredReply => {
                self.structured = true;
                assert_eq!(self.replies(code), (Vec::new(), 1));
            }
            OptionRequest::Info(it) if find(&it.name).is_some() => self.is_described(code),
            OptionRequest::ListMeta(query) | OptionRequest::SetMeta(query) => {
                self.contexts(code, query);
            }
            OptionRequest::Info(_) | OptionRequest::Go(_) => {
                self.is_refused(code, Refusal::Unknown);
            }
            OptionRequest::StartTls if self.encrypted => self.is_refused(code, Refusal::Invalid),
            _ => self.is_refused(code, Refusal::Unsupported),
        }
    }

    fn contexts(&mut self, code: u32, query: &MetaQuery) {
        let lists = code == 9;
        if !lists {
            self.chosen.1.clear();
        }
        let Some(export) = find(&query.name).filter(|_| self.structured) else {
            let why = if self.structured { Refusal::Unknown } else { Refusal::Invalid };
            return self.is_refused(code, why);
        };
        let meant = |name: &str| {
            let all = lists && query.queries.is_empty();
            let whole = |it: &String| lists && it.ends_with(':') && name.starts_with(&**it);
            all || query.queries.iter().any(|it| it == name || whole(it))
        };
        let expected: Vec<usize> = (0..3).filter(|n| meant(CONTEXTS[*n])).collect();
        let (replies, end) = self.replies(code);
        let found = replies.iter().map(|(kind, data)| (*kind, &data[4..]));
        let names = expected.iter().map(|n| (4, CONTEXTS[*n].as_bytes()));
        assert!(found.eq(names) && end == 1, "{query:?}");
        if !lists {
            self.chosen = (export, expected);
        }
    }

    fn is_refused(&mut self, code: u32, refusal: Refusal) {
        assert_eq!(self.replies(code), (Vec::new(), refusal.number()), "option {code}");
    }

    /// Size, flags and block sizes were told.
    fn is_described(&mut self, code: u32) {
        let (replies, end) = self.replies(code);
        let info = replies.iter().find(|(_, data)| data[..2] == [0, 0]).expect("always told");
        assert_eq!((info.0, &info.1[2..10]), (3, &LEN_BYTES.to_be_bytes()[..]));
        assert!(end == 1 && replies.iter().all(|(kind, _)| *kind == 3));
    }

    fn export_name(&mut self, name: &str) -> Option<usize> {
        let export = find(name)?;
        assert_eq!(self.heard.u64(), LEN_BYTES);
        let flags = self.heard.u16();
        assert_eq!(flags & 2 != 0, NAMES[export] == "ro");
        if self.padded {
            assert_eq!(self.heard.bytes(124), Some(&[0; 124][..]));
        }
        Some(export)
    }

    /// The replies to an option, and the kind of the last one.
    fn replies(&mut self, code: u32) -> (Vec<(u32, Vec<u8>)>, u32) {
        let mut replies = Vec::new();
        loop {
            assert_eq!((self.heard.u64(), self.heard.u32()), (0x0003_e889_0455_65a9, code));
            let (kind, len) = (self.heard.u32(), self.heard.u32());
            let data = self.heard.bytes(index(len.into())).expect("answered in full");
            if kind == 1 || kind >> 31 == 1 {
                assert!(kind != 1 || data.is_empty());
                return (replies, kind);
            }
            replies.push((kind, data.to_vec()));
        }
    }

    /// One request and its answer; `None` if there are no more.
    fn request(&mut self, export: usize, model: &mut Model) -> Option<()> {
        let request = Request::decode(self.said.array()?)?;
        let payload = match request.command {
            command::WRITE => self.said.bytes(index(request.len.into()))?,
            command::DISC => return None,
            _ => &[],
        };
        let contexts = if self.chosen.0 == export { self.chosen.1.clone() } else { Vec::new() };
        let verdict = verdict(&request, export, self.structured, !contexts.is_empty());
        told(|| format!("{request:?}: {verdict:?}"));
        let answer = self.answer(&request, verdict.is_ok());
        assert_eq!(answer.errno, verdict.err().unwrap_or(0), "{request:?}");
        if verdict.is_err() {
            return Some(());
        }
        let range = index(request.offset)..index(request.offset + u64::from(request.len));
        match request.command {
            command::READ => assert!(model.of(export)[range] == answer.data, "{request:?}"),
            command::WRITE => model.of(export)[range].copy_from_slice(payload),
            command::WRITE_ZEROES => model.of(export)[range].fill(0),
            // On a snapshot it does nothing.
            command::TRIM if NAMES[export] != "s" => {
                // Sectors are given back whole.
                let whole = range.start.next_multiple_of(512)..range.end / 512 * 512;
                if whole.start < whole.end {
                    model.of(export)[whole].fill(0);
                }
            }
            command::BLOCK_STATUS => {
                let one = request.flags & flag::REQ_ONE != 0;
                is_status_right(&answer, &contexts, range, one, (export, model));
            }
            _ => {}
        }
        Some(())
    }

    fn answer(&mut self, request: &Request, well: bool) -> Answer {
        let mut answer = Answer::default();
        if !self.structured {
            assert_eq!(self.heard.u32(), 0x6744_6698);
            answer.errno = self.heard.u32();
            assert_eq!(self.heard.u64(), request.cookie);
            let len = if well && request.command == command::READ { request.len } else { 0 };
            answer.data = self.heard.bytes(index(len.into())).expect("answered in full").to_vec();
            return answer;
        }
        loop {
            assert_eq!(self.heard.u32(), 0x668e_33ef);
            let (flags, kind) = (self.heard.u16(), self.heard.u16());
            assert_eq!(self.heard.u64(), request.cookie);
            let len = self.heard.u32();
            told(|| format!("chunk {kind} flags {flags}: {len} of {}", self.heard.0.len()));
            let mut body = Stream(self.heard.bytes(index(len.into())).expect("answered in full"));
            match kind {
                0 => assert!(body.0.is_empty()),
                1 => {
                    assert_eq!(body.u64(), request.offset + answer.data.len() as u64);
                    answer.data.extend_from_slice(body.0);
                }
                5 => answer.extents.push((body.u32(), extents(&mut body))),
                0x8001 => {
                    answer.errno = body.u32();
                    assert_eq!(usize::from(body.u16()), body.0.len());
                }
                _ => panic!("a chunk of type {kind}"),
            }
            if flags & 1 != 0 {
                return answer;
            }
        }
    }
}

/// What a request was answered.
#[derive(Default)]
struct Answer {
    errno: u32,
    data: Vec<u8>,
    /// Of each context.
    extents: Vec<(u32, Vec<(u32, u32)>)>,
}

fn extents(body: &mut Stream<'_>) -> Vec<(u32, u32)> {
    assert_eq!(body.0.len() % 8, 0);
    let count = body.0.len() / 8;
    (0..count).map(|_| (body.u32(), body.u32())).collect()
}

/// Is it done, or with which number is it refused?
fn verdict(it: &Request, export: usize, structured: bool, has_contexts: bool) -> Result<(), u32> {
    const INVALID: u32 = 22;
    let known = match it.command {
        command::READ if structured => flag::DF,
        command::READ..=command::CACHE => 0,
        command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
        command::BLOCK_STATUS => flag::REQ_ONE,
        _ => return Err(INVALID),
    };
    let writes = [command::WRITE, command::TRIM, command::WRITE_ZEROES].contains(&it.command);
    let moves = [command::READ, command::WRITE].contains(&it.command);
    let fills = [command::WRITE, command::WRITE_ZEROES].contains(&it.command);
    let end = u128::from(it.offset) + u128::from(it.len);
    let rules = [
        (it.flags & !flag::FUA & !known != 0, INVALID),
        (writes && NAMES[export] == "ro", 1),
        (it.command == command::FLUSH && end != 0, INVALID),
        (moves && it.len > 32 << 20, INVALID),
        (end > u128::from(LEN_BYTES), if fills { 28 } else { INVALID }),
        (it.command == command::BLOCK_STATUS && !(structured && has_contexts), INVALID),
        (it.command == command::BLOCK_STATUS && it.len == 0, INVALID),
        (it.command == command::WRITE_ZEROES && it.flags & flag::FAST_ZERO != 0, 95),
    ];
    match rules.into_iter().find(|(broken, _)| *broken) {
        Some((_, errno)) => Err(errno),
        None => Ok(()),
    }
}

/// Extents lie one behind the other; what is told to be zero is, and what a snapshot does not hold is
/// the origin's.
fn is_status_right(
    answer: &Answer,
    contexts: &[usize],
    range: Range<usize>,
    one: bool,
    (export, model): (usize, &mut Model),
) {
    assert_eq!(answer.extents.len(), contexts.len());
    let content = model.of(export).clone();
    for ((n, (id, extents)), context) in (1..).zip(&answer.extents).zip(contexts) {
        assert!(*id == n && !extents.is_empty() && (!one || extents.len() == 1));
        let mut at = range.start;
        for (len, flags) in extents {
            let end = at + index((*len).into());
            assert!(*len > 0 && end <= range.end, "{extents:?} of {range:?}");
            let zero = *context == 0 && flags & 2 != 0 || *context == 1 && *flags == 0;
            assert!(!zero || content[at..end].iter().all(|byte| *byte == 0), "no zeroes");
            let same = *context == 2 && *flags == 0;
            assert!(!same || model.origin[at..end] == model.snapshot[at..end], "a difference");
            at = end;
        }
    }
}
