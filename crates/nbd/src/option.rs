use crate::codes::{OPTION_MAGIC, option_code};
use crate::fields::{Fields, text};
use crate::refusal::Refusal;

/// Length of [`OptionHeader`] on the wire, in bytes.
pub const OPTION_HEADER_LEN: usize = 16;

/// What stands before the data of every option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option, see [`option_code`].
    pub code: u32,
    /// How many bytes of data follow.
    pub len_bytes: u32,
}

impl OptionHeader {
    /// `None` if the magic is wrong: then nothing that follows can be trusted to be an option.
    pub fn decode(bytes: [u8; OPTION_HEADER_LEN]) -> Option<Self> {
        let mut fields = Fields(&bytes);
        let magic = fields.u64()?;
        let header = Self { code: fields.u32()?, len_bytes: fields.u32()? };
        (magic == OPTION_MAGIC).then_some(header)
    }

    /// The bytes of it.
    pub fn encode(self) -> [u8; OPTION_HEADER_LEN] {
        let mut bytes = [0; OPTION_HEADER_LEN];
        bytes[..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_be_bytes());
        bytes[12..].copy_from_slice(&self.len_bytes.to_be_bytes());
        bytes
    }
}

/// Data of "info" and "go".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Name of the export; empty for the default one.
    pub name: String,
    /// Which facts are wanted. Numbers the server does not know are to be ignored.
    pub infos: Vec<u16>,
}

/// Data of the two options about metadata contexts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaQuery {
    /// Name of the export; empty for the default one.
    pub name: String,
    /// Names of contexts, or of whole namespaces.
    pub queries: Vec<String>,
}

/// An option with its data understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionRequest {
    /// Begin transmission with this export, or hang up.
    ExportName(String),
    /// Hang up.
    Abort,
    /// Name the exports.
    List,
    /// Go on encrypted.
    StartTls,
    /// Tell about this export.
    Info(Selection),
    /// Begin transmission with this export.
    Go(Selection),
    /// Use structured replies.
    StructuredReply,
    /// Name the contexts.
    ListMeta(MetaQuery),
    /// Choose contexts, instead of those chosen before.
    SetMeta(MetaQuery),
}

impl OptionRequest {
    /// The longest data worth reading for an option, in bytes; `None` for an option not known here.
    /// Whatever is longer can be skipped unread.
    pub fn max_len_bytes(code: u32) -> Option<u32> {
        match code {
            option_code::EXPORT_NAME => Some(4096),
            option_code::LIST | option_code::STARTTLS | option_code::STRUCTURED_REPLY => Some(0),
            option_code::INFO | option_code::GO => Some(8192),
            option_code::LIST_META_CONTEXT | option_code::SET_META_CONTEXT => Some(64 << 10),
            option_code::ABORT => Some(4096),
            _ => None,
        }
    }

    /// Understands the data of option `code`.
    ///
    /// # Errors
    ///
    /// What to answer: [`Refusal::Unsupported`], [`Refusal::Invalid`] or [`Refusal::TooBig`].
    pub fn decode(code: u32, data: &[u8]) -> Result<Self, Refusal> {
        let without_data =
            |option| if data.is_empty() { Ok(option) } else { Err(Refusal::Invalid) };
        match code {
            option_code::EXPORT_NAME => text(data).map(Self::ExportName),
            option_code::ABORT => Ok(Self::Abort),
            option_code::LIST => without_data(Self::List),
            option_code::STARTTLS => without_data(Self::StartTls),
            option_code::INFO => Selection::decode(data).map(Self::Info),
            option_code::GO => Selection::decode(data).map(Self::Go),
            option_code::STRUCTURED_REPLY => without_data(Self::StructuredReply),
            option_code::LIST_META_CONTEXT => MetaQuery::decode(data).map(Self::ListMeta),
            option_code::SET_META_CONTEXT => MetaQuery::decode(data).map(Self::SetMeta),
            _ => Err(Refusal::Unsupported),
        }
    }

    /// Which option it is, see [`option_code`].
    pub fn code(&self) -> u32 {
        match self {
            Self::ExportName(_) => option_code::EXPORT_NAME,
            Self::Abort => option_code::ABORT,
            Self::List => option_code::LIST,
            Self::StartTls => option_code::STARTTLS,
            Self::Info(_) => option_code::INFO,
            Self::Go(_) => option_code::GO,
            Self::StructuredReply => option_code::STRUCTURED_REPLY,
            Self::ListMeta(_) => option_code::LIST_META_CONTEXT,
            Self::SetMeta(_) => option_code::SET_META_CONTEXT,
        }
    }

    /// Header and data.
    pub fn encode(&self) -> Vec<u8> {
        let data = match self {
            Self::ExportName(name) => name.as_bytes().to_vec(),
            Self::Abort | Self::List | Self::StartTls | Self::StructuredReply => Vec::new(),
            Self::Info(selection) | Self::Go(selection) => selection.encode(),
            Self::ListMeta(query) | Self::SetMeta(query) => query.encode(),
        };
        let len_bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        [&OptionHeader { code: self.code(), len_bytes }.encode()[..], &data].concat()
    }
}

impl Selection {
    fn decode(data: &[u8]) -> Result<Self, Refusal> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = fields.u16().ok_or(Refusal::Invalid)?;
        let infos = (0..count).map(|_| fields.u16().ok_or(Refusal::Invalid));
        let infos = infos.collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(Self { name, infos })
    }

    fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        put_string(&mut data, &self.name);
        data.extend(u16::try_from(self.infos.len()).unwrap_or(u16::MAX).to_be_bytes());
        data.extend(self.infos.iter().flat_map(|info| info.to_be_bytes()));
        data
    }
}

impl MetaQuery {
    fn decode(data: &[u8]) -> Result<Self, Refusal> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = fields.u32().ok_or(Refusal::Invalid)?;
        // Grows with the queries that are really there, not with how many are claimed.
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(fields.string()?);
        }
        fields.end()?;
        Ok(Self { name, queries })
    }

    fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        put_string(&mut data, &self.name);
        data.extend(u32::try_from(self.queries.len()).unwrap_or(u32::MAX).to_be_bytes());
        for query in &self.queries {
            put_string(&mut data, query);
        }
        data
    }
}

fn put_string(data: &mut Vec<u8>, string: &str) {
    data.extend(u32::try_from(string.len()).unwrap_or(u32::MAX).to_be_bytes());
    data.extend(string.as_bytes());
}
