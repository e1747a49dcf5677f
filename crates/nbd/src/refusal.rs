use crate::codes::option_reply_type;

/// Why an option is not followed: the protocol's error replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The server does not know the option.
    Unsupported,
    /// The server does not want it.
    Policy,
    /// Its data is invalid.
    Invalid,
    /// It cannot be done where the server runs.
    Platform,
    /// Only after encryption has begun.
    TlsRequired,
    /// There is no such export.
    Unknown,
    /// The server is about to end.
    Shutdown,
    /// Only for clients that ask about block sizes.
    BlockSizeRequired,
    /// Too long.
    TooBig,
    /// Another reason, by its number in the protocol; never one of the above.
    Other(u32),
}

impl Refusal {
    /// The protocol's number for it.
    pub fn number(self) -> u32 {
        let low = match self {
            Self::Unsupported => 1,
            Self::Policy => 2,
            Self::Invalid => 3,
            Self::Platform => 4,
            Self::TlsRequired => 5,
            Self::Unknown => 6,
            Self::Shutdown => 7,
            Self::BlockSizeRequired => 8,
            Self::TooBig => 9,
            Self::Other(number) => number,
        };
        option_reply_type::REFUSED | low
    }

    /// `None` if the number does not stand for a refusal.
    pub fn from_number(number: u32) -> Option<Self> {
        if number & option_reply_type::REFUSED == 0 {
            return None;
        }
        Some(match number & !option_reply_type::REFUSED {
            1 => Self::Unsupported,
            2 => Self::Policy,
            3 => Self::Invalid,
            4 => Self::Platform,
            5 => Self::TlsRequired,
            6 => Self::Unknown,
            7 => Self::Shutdown,
            8 => Self::BlockSizeRequired,
            9 => Self::TooBig,
            _ => Self::Other(number),
        })
    }
}
