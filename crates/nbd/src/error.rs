/// Why what a server said cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Nothing that follows can be trusted.
    #[error("{found:#x} stands where {expected:#x} was expected")]
    Magic {
        /// What was expected.
        expected: u64,
        /// What was found.
        found: u64,
    },
    /// A type of replies that the protocol does not have.
    #[error("a reply of the unknown type {kind:#x}")]
    Kind {
        /// Its number.
        kind: u32,
    },
    /// Too short, too long, or text that is none.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}
