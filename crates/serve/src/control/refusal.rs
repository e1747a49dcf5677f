use std::fmt;
use std::io;

use dmsnap::volume::VolumeError;
use serde::{Deserialize, Serialize};

/// Why something was not done, as a word that stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request cannot mean anything.
    BadRequest,
    /// There is no such path, or no snapshot of that name.
    NotFound,
    /// The path does not know the method.
    MethodNotAllowed,
    /// The request did not come in time.
    TimeOut,
    /// The request is longer than any valid one.
    TooLarge,
    /// Another export has the name.
    NameInUse,
    /// Another request is changing the same snapshot; or as many clients watch the status as may.
    Busy,
    /// Not while a snapshot merges.
    Merging,
    /// There is no merge, or it has finished.
    NotMerging,
    /// The snapshot was dropped.
    Invalid,
    /// The snapshot cannot tell any more what has changed: a merge of it was begun.
    ChangesUnknown,
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
            Self::NameInUse
            | Self::Busy
            | Self::Merging
            | Self::NotMerging
            | Self::Invalid
            | Self::ChangesUnknown => 409,
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

    /// The server writes nothing.
    pub fn read_only() -> Self {
        Self::new(Code::ReadOnly, "the server is read-only")
    }

    /// What the volume, or a device, said about a snapshot, or about anything else with a name.
    pub fn of(subject: &str, error: impl Into<VolumeError>) -> Self {
        let error = error.into();
        let code = match &error {
            VolumeError::NameTaken { .. } => Code::NameInUse,
            VolumeError::Merging { .. }
            | VolumeError::MergeRunning
            | VolumeError::Merged { .. } => Code::Merging,
            VolumeError::NotMerging => Code::NotMerging,
            VolumeError::Invalid => Code::Invalid,
            VolumeError::ChangesUnknown => Code::ChangesUnknown,
            VolumeError::TakenOut => Code::NotFound,
            VolumeError::Transient => Code::Unsupported,
            VolumeError::NoRoom { .. } | VolumeError::NoRoomToKeep { .. } => Code::NoSpace,
            VolumeError::HasWayBack { .. } => Code::Busy,
            VolumeError::ReadOnly
            | VolumeError::IsWayBack
            | VolumeError::NoWayBack
            | VolumeError::Duplicate(_)
            | VolumeError::SizeNotWhole { .. }
            | VolumeError::SizeTooLarge { .. } => Code::Refused,
            failed => match failed.kind() {
                io::ErrorKind::StorageFull => Code::NoSpace,
                io::ErrorKind::Unsupported => Code::Unsupported,
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    Code::Refused
                }
                _ => Code::Device,
            },
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
