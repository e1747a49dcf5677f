use crate::option_reply::BlockSize;

/// What a server tells about an export, and what was agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportInfo {
    /// In bytes.
    pub size_bytes: u64,
    /// What it can do, see [`transmission`](crate::transmission).
    pub flags: u16,
    /// Which requests are possible; if the server does not tell, requests of any length.
    pub block_size: Option<BlockSize>,
    /// Its proper name, if the server gave one.
    pub name: Option<String>,
    /// A line for people.
    pub description: Option<String>,
    /// Structured replies were agreed on.
    pub structured: bool,
    /// The contexts that were chosen, and what stands for them in replies.
    pub contexts: Vec<(u32, String)>,
    /// The connection is encrypted.
    pub encrypted: bool,
}
