use super::ClientError;
use super::export_info::ExportInfo;
use super::input::Input;
use super::transmission::Transmission;
use crate::codes::{FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, option_code};
use crate::error::DecodeError;
use crate::option::{MetaQuery, OptionRequest, Selection};
use crate::option_reply::{
    BlockSize, EXPORT_NAME_PADDING, EXPORT_NAME_REPLY_LEN, ExportNameReply, GREETING_LEN, Greeting,
    Info, OPTION_REPLY_HEADER_LEN, OptionReply, OptionReplyHeader,
};
use crate::refusal::Refusal;

/// The longest data of an option reply, in bytes: a name and a description fit in.
const MAX_REPLY_BYTES: u32 = 32 << 10;

/// What a client wants of a server.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// Name of the export; empty for the default one.
    pub export: String,
    /// What the handshake is for.
    pub goal: Goal,
    /// Is the connection to be encrypted?
    pub encryption: Encryption,
    /// Ask for structured replies; a server may not have them.
    pub structured: bool,
    /// Metadata contexts to choose, by their whole names. A server may not have them; without
    /// structured replies none is chosen.
    pub contexts: Vec<String>,
}

/// What a handshake is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// Requests.
    #[default]
    Transmission,
    /// Facts about an export.
    Info,
    /// The names of the exports.
    List,
}

/// Is a connection to be encrypted?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// Never.
    #[default]
    Never,
    /// If the server agrees. Somebody in between can prevent it.
    IfOffered,
    /// If the server does not agree, that is an error.
    Required,
}

/// What a handshake has come to.
#[derive(Debug)]
pub enum HandshakeEvent {
    /// The server agrees: the caller begins TLS on the connection, and then calls
    /// [`Handshake::encrypted`]. From now on only what was decrypted is received.
    StartTls,
    /// There is this export ([`Goal::List`]).
    Listed {
        /// Its name.
        name: String,
        /// A line for people, or nothing.
        description: String,
    },
    /// The list is complete ([`Goal::List`]). What is still to be sent says good-bye.
    ListEnd,
    /// What there is to tell about the export ([`Goal::Info`]). What is still to be sent says
    /// good-bye.
    Described(Box<ExportInfo>),
    /// Requests can be sent ([`Goal::Transmission`]).
    Ready(Box<Transmission>),
}

/// The client's side of the handshake.
#[derive(Debug)]
pub struct Handshake {
    options: ClientOptions,
    input: Input,
    pub(super) output: Vec<u8>,
    state: State,
    /// The server sends no padding.
    no_zeroes: bool,
    size_known: bool,
    info: ExportInfo,
}

/// What is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    /// Replies to this option.
    Asked(u32),
    /// The answer to an export name, which is not an option reply.
    ExportName,
    /// The caller begins TLS.
    Encrypting,
    Ended,
}

/// What a step leads to: an event, or the next step.
type Step = Option<HandshakeEvent>;

impl Handshake {
    /// At the beginning of a connection, where the server speaks first.
    pub fn new(options: ClientOptions) -> Self {
        Self {
            options,
            input: Input::default(),
            output: Vec::new(),
            state: State::Greeting,
            no_zeroes: false,
            size_known: false,
            info: ExportInfo::default(),
        }
    }

    /// Where to receive what the server sends; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        self.input.space()
    }

    /// `len` bytes were received into [`space`](Self::space).
    pub fn received(&mut self, len: usize) {
        self.input.received(len);
    }

    /// Takes a copy of what was received elsewhere.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.put(bytes);
    }

    /// What is to be sent, after [`next`](Self::next) gave no event and before more is received.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// TLS has begun, and the server is who it should be.
    ///
    /// # Errors
    ///
    /// [`ClientError::BeforeEncryption`] if something was received that was not encrypted.
    pub fn encrypted(&mut self) -> Result<(), ClientError> {
        if self.state != State::Encrypting || !self.input.bytes().is_empty() {
            return Err(ClientError::BeforeEncryption);
        }
        self.info.encrypted = true;
        self.ask_after(option_code::STARTTLS);
        Ok(())
    }

    /// The next event; `None` if more has to be sent or received before.
    ///
    /// # Errors
    ///
    /// Every error ends the connection.
    #[allow(clippy::should_implement_trait, reason = "the end of it is not the end of the events")]
    pub fn next(&mut self) -> Result<Option<HandshakeEvent>, ClientError> {
        loop {
            let step = match self.state {
                State::Greeting => self.greeting()?,
                State::Asked(code) => self.reply(code)?,
                State::ExportName => self.export_name()?,
                State::Encrypting | State::Ended => None,
            };
            match step {
                None => return Ok(None),
                Some(None) => {}
                Some(event) => return Ok(event),
            }
        }
    }

    fn greeting(&mut self) -> Result<Option<Step>, ClientError> {
        let Some(bytes) = self.input.peek::<GREETING_LEN>() else { return Ok(None) };
        let greeting = Greeting::decode(bytes)?;
        self.input.take(GREETING_LEN);
        if greeting.flags & FLAG_FIXED_NEWSTYLE == 0 {
            return Err(ClientError::OldHandshake);
        }
        let flags = greeting.flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
        self.no_zeroes = flags & FLAG_NO_ZEROES != 0;
        self.output.extend(u32::from(flags).to_be_bytes());
        match self.options.encryption {
            Encryption::Never => self.ask_after(option_code::STARTTLS),
            _ => self.ask(&OptionRequest::StartTls),
        }
        Ok(Some(None))
    }

    /// Asks what comes after this option: encryption, structured replies, contexts, the goal.
    fn ask_after(&mut self, code: u32) {
        let options = &self.options;
        let wants_structured = options.structured || !options.contexts.is_empty();
        let wants_contexts = self.info.structured && !options.contexts.is_empty();
        let name = options.export.clone();
        let option = match (options.goal, code) {
            (Goal::List, _) => OptionRequest::List,
            (_, option_code::STARTTLS) if wants_structured => OptionRequest::StructuredReply,
            (_, option_code::STRUCTURED_REPLY) if wants_contexts => {
                OptionRequest::SetMeta(MetaQuery { name, queries: options.contexts.clone() })
            }
            (goal, _) => {
                let infos = vec![Info::NAME, Info::DESCRIPTION, Info::BLOCK_SIZE];
                let selection = Selection { name, infos };
                match goal {
                    Goal::Info => OptionRequest::Info(selection),
                    _ => OptionRequest::Go(selection),
                }
            }
        };
        self.ask(&option);
    }

    fn ask(&mut self, option: &OptionRequest) {
        self.output.extend(option.encode());
        self.state = match option {
            OptionRequest::ExportName(_) => State::ExportName,
            OptionRequest::Abort => State::Ended,
            _ => State::Asked(option.code()),
        };
    }

    fn reply(&mut self, asked: u32) -> Result<Option<Step>, ClientError> {
        let Some(bytes) = self.input.peek::<OPTION_REPLY_HEADER_LEN>() else { return Ok(None) };
        let header = OptionReplyHeader::decode(bytes)?;
        if header.code != asked {
            return Err(ClientError::OtherOption { asked, found: header.code });
        }
        let len_bytes = header.len_bytes;
        let len = usize::try_from(len_bytes.min(MAX_REPLY_BYTES + 1)).unwrap_or(usize::MAX);
        if len_bytes > MAX_REPLY_BYTES {
            return Err(ClientError::TooLong { len_bytes });
        }
        if self.input.bytes().len() - OPTION_REPLY_HEADER_LEN < len {
            return Ok(None);
        }
        self.input.take(OPTION_REPLY_HEADER_LEN);
        let data = self.input.take(len);
        let reply = OptionReply::decode(header.kind, self.input.taken(data))?;
        self.answered(asked, reply).map(Some)
    }

    fn answered(&mut self, code: u32, reply: OptionReply) -> Result<Step, ClientError> {
        match (code, reply) {
            (_, OptionReply::Refused(refusal, why)) => {
                self.refused(code, refusal, &why)?;
            }
            (option_code::STARTTLS, OptionReply::Ack) => {
                if !self.input.bytes().is_empty() {
                    return Err(ClientError::BeforeEncryption);
                }
                self.state = State::Encrypting;
                return Ok(Some(HandshakeEvent::StartTls));
            }
            (option_code::STRUCTURED_REPLY, OptionReply::Ack) => {
                self.info.structured = true;
                self.ask_after(code);
            }
            (option_code::SET_META_CONTEXT, OptionReply::MetaContext { id, name }) => {
                self.chosen(id, name)?;
            }
            (option_code::SET_META_CONTEXT, OptionReply::Ack) => self.ask_after(code),
            (option_code::LIST, OptionReply::Server { name, description }) => {
                return Ok(Some(HandshakeEvent::Listed { name, description }));
            }
            (option_code::LIST, OptionReply::Ack) => {
                self.ask(&OptionRequest::Abort);
                return Ok(Some(HandshakeEvent::ListEnd));
            }
            (option_code::INFO | option_code::GO, OptionReply::Info(info)) => self.learn(info),
            (option_code::INFO, OptionReply::Ack) => {
                let info = self.take_info()?;
                self.ask(&OptionRequest::Abort);
                return Ok(Some(HandshakeEvent::Described(Box::new(info))));
            }
            (option_code::GO, OptionReply::Ack) => return self.ready().map(Some),
            _ => return Err(ClientError::NoAnswer { code }),
        }
        Ok(None)
    }

    /// Goes on without what was refused, where that is possible.
    fn refused(&mut self, code: u32, refusal: Refusal, why: &str) -> Result<(), ClientError> {
        match code {
            option_code::STARTTLS if self.options.encryption == Encryption::IfOffered => {
                self.ask_after(code);
            }
            option_code::STRUCTURED_REPLY => self.ask_after(code),
            option_code::SET_META_CONTEXT => {
                self.info.contexts.clear();
                self.ask_after(code);
            }
            // A server that is older than this option.
            option_code::GO if refusal == Refusal::Unsupported => {
                self.ask(&OptionRequest::ExportName(self.options.export.clone()));
            }
            _ => return Err(ClientError::Refused { code, refusal, message: why.to_owned() }),
        }
        Ok(())
    }

    /// The server has chosen a context: each that was asked for once, and no others.
    fn chosen(&mut self, id: u32, name: String) -> Result<(), ClientError> {
        let known = self.info.contexts.iter().any(|it| it.0 == id || it.1 == name);
        if known || !self.options.contexts.contains(&name) {
            return Err(ClientError::NoAnswer { code: option_code::SET_META_CONTEXT });
        }
        self.info.contexts.push((id, name));
        Ok(())
    }

    fn learn(&mut self, info: Info) {
        match info {
            Info::Export { size_bytes, flags } => {
                (self.info.size_bytes, self.info.flags) = (size_bytes, flags);
                self.size_known = true;
            }
            Info::Name(name) => self.info.name = Some(name),
            Info::Description(description) => self.info.description = Some(description),
            Info::BlockSize(block_size) => self.info.block_size = Some(block_size),
            Info::Other { .. } => {}
        }
    }

    fn export_name(&mut self) -> Result<Option<Step>, ClientError> {
        let padding = if self.no_zeroes { 0 } else { EXPORT_NAME_PADDING };
        let len = EXPORT_NAME_REPLY_LEN + padding;
        let Some(bytes) = self.input.peek::<EXPORT_NAME_REPLY_LEN>() else { return Ok(None) };
        if self.input.bytes().len() < len {
            return Ok(None);
        }
        self.input.take(len);
        let ExportNameReply { size_bytes, flags } = ExportNameReply::decode(bytes);
        self.learn(Info::Export { size_bytes, flags });
        Ok(Some(Some(self.ready()?)))
    }

    fn take_info(&mut self) -> Result<ExportInfo, ClientError> {
        if !self.size_known {
            return Err(ClientError::NoSize);
        }
        if let Some(block_size) = self.info.block_size {
            block_size.check()?;
        }
        Ok(std::mem::take(&mut self.info))
    }

    fn ready(&mut self) -> Result<HandshakeEvent, ClientError> {
        let info = self.take_info()?;
        self.state = State::Ended;
        let input = std::mem::take(&mut self.input);
        Ok(HandshakeEvent::Ready(Box::new(Transmission::new(info, input))))
    }
}

impl BlockSize {
    /// Sizes that a client can work with: a caller divides by them.
    fn check(self) -> Result<(), DecodeError> {
        let Self { minimum, preferred, maximum } = self;
        let sound = minimum.is_power_of_two()
            && minimum <= 64 << 10
            && preferred.is_power_of_two()
            && minimum <= preferred
            && preferred <= maximum
            && (maximum == u32::MAX || maximum.is_multiple_of(minimum));
        if sound { Ok(()) } else { Err(DecodeError::Malformed("block sizes")) }
    }
}
