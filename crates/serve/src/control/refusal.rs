use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// Why something was not done, as a word that stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request says something that makes no sense.
    BadRequest,
    /// There is no such path, or no snapshot of that name.
    NotFound,
    /// The path does not know the method.
    MethodNotAllowed,
    /// The request did not come in time.
    TimeOut,
    /// The request is longer than any that makes sense.
    TooLarge,
    /// Another export has the name.
    NameInUse,
    /// Another request changes the same snapshot at the moment.
    Busy,
    /// Not while a snapshot merges.
    Merging,
    /// There is no merge, or it has finished.
    NotMerging,
    /// The snapshot was dropped.
    Invalid,
    /// The server was started to write nothing.
    ReadOnly,
    /// The store or the device cannot do that.
    Unsupported,
    /// A device or a store that cannot be used, and the message says why.
    Refused,
    /// There is no space.
    NoSpace,
    /// A device failed.
    Device,
    /// The server is about to end.
    Stopping,
}

impl Code {
    /// The status of an HTTP answer.
    pub(super) fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::ReadOnly => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TimeOut => 408,
            Self::NameInUse | Self::Busy | Self::Merging | Self::NotMerging | Self::Invalid => 409,
            Self::TooLarge => 413,
            Self::Unsupported | Self::Refused => 422,
            Self::Device => 500,
            Self::Stopping => 503,
            Self::NoSpace => 507,
        }
    }
}

/// Something that was not done, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people, in one line.
    pub message: String,
}

/// A refusal as it is sent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refused {
    pub(super) error: Refusal,
}

impl Refusal {
    /// With a message.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// What the volume said about a snapshot, or about anything else with a name.
    pub fn of(subject: &str, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::AlreadyExists => Code::NameInUse,
            io::ErrorKind::ResourceBusy => Code::Merging,
            io::ErrorKind::Unsupported => Code::Unsupported,
            io::ErrorKind::StorageFull => Code::NoSpace,
            io::ErrorKind::InvalidData => Code::Refused,
            _ => Code::Device,
        };
        Self::new(code, format_args!("{subject}: {error}"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
