//! Judges the server's answers. It takes messages apart with `dmsnap_nbd`, but knows by itself which one has to
//! come and what it has to say: it does without `dmsnap_nbd::client`, and without [`Request::understand`].

use std::ops::Range;

use bytes::Bytes;
use dmsnap_nbd::{
    CHUNK_HEADER_LEN, Chunk, ChunkHeader, EXPORT_NAME_PADDING, EXPORT_NAME_REPLY_LEN,
    ExportNameReply, Extent, GREETING_LEN, Greeting, Info, MetaQuery, OPTION_REPLY_HEADER_LEN,
    OptionHeader, OptionReply, OptionReplyHeader, OptionRequest, Refusal, Request,
    SIMPLE_REPLY_LEN, SimpleReply, command, flag, transmission,
};

use crate::exports::{LEN_BYTES, NAMES};
use crate::input::told;
use crate::sparse::index;

/// Metadata contexts that an export knows: from the third on, where it differs from the origin, or the origin from
/// the snapshot, which is the same.
fn contexts_of(export: usize) -> &'static [&'static str] {
    const ALL: [&str; 4] = [
        "base:allocation",
        "qemu:allocation-depth",
        "qemu:dirty-bitmap:origin",
        "qemu:dirty-bitmap:s",
    ];
    const OF_ORIGIN: [&str; 3] = [ALL[0], ALL[1], ALL[3]];
    if NAMES[export] == "s" { &ALL } else { &OF_ORIGIN }
}

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

    /// Of an answer, which must be there.
    fn answered<const N: usize>(&mut self) -> [u8; N] {
        self.array().expect("answered in full")
    }

    /// The same, of any length.
    fn payload(&mut self, len: u32) -> &'a [u8] {
        self.bytes(index(len.into())).expect("answered in full")
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
    assert_eq!(Greeting::decode(talk.heard.answered::<GREETING_LEN>()), Ok(Greeting::NEWSTYLE));
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
                    assert_eq!(self.replies(header.code), [OptionReply::Ack]);
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
                let replies = self.acknowledged(code);
                let listed = |reply: &OptionReply| match reply {
                    OptionReply::Server { name, .. } => name.clone(),
                    other => panic!("{other:?} in a list"),
                };
                assert!(replies.iter().map(listed).eq(NAMES));
            }
            OptionRequest::StructuredReply => {
                self.structured = true;
                assert_eq!(self.replies(code), [OptionReply::Ack]);
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
        let known = contexts_of(export);
        let expected: Vec<usize> = (0..known.len()).filter(|n| meant(known[*n])).collect();
        let replies = self.acknowledged(code);
        let named = |reply: &OptionReply| match reply {
            OptionReply::MetaContext { name, .. } => name.clone(),
            other => panic!("{other:?} among contexts"),
        };
        assert!(replies.iter().map(named).eq(expected.iter().map(|n| known[*n])), "{query:?}");
        if !lists {
            self.chosen = (export, expected);
        }
    }

    fn is_refused(&mut self, code: u32, refusal: Refusal) {
        let replies = self.replies(code);
        let found =
            |it: &OptionReply| matches!(it, OptionReply::Refused(why, _) if *why == refusal);
        assert!(replies.len() == 1 && found(&replies[0]), "option {code}: {replies:?}");
    }

    /// Size, flags and block sizes were told.
    fn is_described(&mut self, code: u32) {
        let replies = self.acknowledged(code);
        assert!(replies.iter().all(|it| matches!(it, OptionReply::Info(_))), "{replies:?}");
        let size = |it: &OptionReply| match it {
            OptionReply::Info(Info::Export { size_bytes, .. }) => Some(*size_bytes),
            _ => None,
        };
        assert_eq!(replies.iter().find_map(size), Some(LEN_BYTES), "always told");
    }

    fn export_name(&mut self, name: &str) -> Option<usize> {
        let export = find(name)?;
        let reply = ExportNameReply::decode(self.heard.answered::<EXPORT_NAME_REPLY_LEN>());
        assert_eq!(reply.size_bytes, LEN_BYTES);
        assert_eq!(reply.flags & transmission::READ_ONLY != 0, NAMES[export] == "ro");
        if self.padded {
            assert_eq!(self.heard.answered(), [0; EXPORT_NAME_PADDING]);
        }
        Some(export)
    }

    /// The replies to an option, the last one included.
    fn replies(&mut self, code: u32) -> Vec<OptionReply> {
        let mut replies = Vec::new();
        loop {
            let header = self.heard.answered::<OPTION_REPLY_HEADER_LEN>();
            let header = OptionReplyHeader::decode(header).expect("an option reply");
            assert_eq!(header.code, code);
            let data = self.heard.payload(header.len_bytes);
            replies.push(OptionReply::decode(header.kind, data).expect("known"));
            if header.is_last() {
                return replies;
            }
        }
    }

    /// The replies to an option before the one that ends them well.
    fn acknowledged(&mut self, code: u32) -> Vec<OptionReply> {
        let mut replies = self.replies(code);
        assert_eq!(replies.pop(), Some(OptionReply::Ack), "option {code}");
        replies
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
            let reply = SimpleReply::decode(self.heard.answered::<SIMPLE_REPLY_LEN>());
            let SimpleReply { cookie, errno } = reply.expect("a simple reply");
            assert_eq!(cookie, request.cookie);
            answer.errno = errno.map_or(0, |errno| errno as u32);
            let len = if well && request.command == command::READ { request.len } else { 0 };
            answer.data = self.heard.payload(len).to_vec();
            return answer;
        }
        loop {
            let header = self.heard.answered::<CHUNK_HEADER_LEN>();
            let header = ChunkHeader::decode(header).expect("a chunk");
            assert_eq!(header.cookie, request.cookie);
            told(|| format!("{header:?} of {}", self.heard.0.len()));
            let payload = Bytes::copy_from_slice(self.heard.payload(header.len_bytes));
            match Chunk::decode(header.kind, &payload).expect("a chunk") {
                Chunk::None => assert!(payload.is_empty()),
                Chunk::Data { at, data } => {
                    assert_eq!(at, request.offset + answer.data.len() as u64);
                    answer.data.extend_from_slice(&data);
                }
                Chunk::Status { context, extents } => answer.extents.push((context, extents)),
                Chunk::Error(errno, _) => answer.errno = errno as u32,
                other => panic!("{other:?} is not a chunk of this server"),
            }
            if header.last {
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
    extents: Vec<(u32, Vec<Extent>)>,
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

/// Extents lie one after the other; what is told to be zero is, and what a snapshot does not hold is
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
        for Extent { len_bytes, flags } in extents {
            let end = at + index(*len_bytes);
            assert!(*len_bytes > 0 && end <= range.end, "{extents:?} of {range:?}");
            let zero = *context == 0 && flags & 2 != 0 || *context == 1 && *flags == 0;
            assert!(!zero || content[at..end].iter().all(|byte| *byte == 0), "no zeroes");
            let same = *context >= 2 && *flags == 0;
            assert!(!same || model.origin[at..end] == model.snapshot[at..end], "a difference");
            at = end;
        }
    }
}
