use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use clap::ValueEnum;
use dmsnap::device::{Caching, File, Identity, Mode, OpenError, is_same};
use dmsnap::ops::{Error, Which};

use crate::report::Failure;

/// Whether the page cache is used
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Io {
    /// Around the page cache, where the device can
    #[default]
    Direct,
    /// Through the page cache
    Buffered,
}

impl From<Io> for Caching {
    fn from(io: Io) -> Self {
        match io {
            Io::Direct => Self::Direct,
            Io::Buffered => Self::Buffered,
        }
    }
}

/// The devices of a command by the names the user gave them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Devices<'a> {
    cow: &'a Path,
    origin: Option<&'a Path>,
    output: Option<&'a Path>,
}

impl<'a> Devices<'a> {
    pub(crate) fn new(
        cow: &'a Path,
        origin: Option<&'a Path>,
        output: Option<&'a Path>,
    ) -> Result<Self, Failure> {
        let devices = Self { cow, origin, output };
        devices.refuse_same()?;
        Ok(devices)
    }

    pub(crate) async fn open(
        &self,
        which: Which,
        mode: Mode,
        caching: impl Into<Caching>,
    ) -> Result<File, Failure> {
        let path = self.path(which);
        File::open(path, mode, caching.into()).await.map_err(|error| open_failure(path, &error))
    }

    /// What a task says, with the name of the device it is about.
    pub(crate) fn failure(&self, error: &Error) -> Failure {
        let failure = Failure::about(self.path(error.device()), error);
        match (error, self.origin) {
            (Error::Header(_), Some(_)) => failure.advise("COW comes first, then ORIGIN"),
            (Error::Header(_), None) => failure.advise("is it the COW device?"),
            _ => failure,
        }
    }

    fn path(&self, which: Which) -> &'a Path {
        match which {
            Which::Cow => Some(self.cow),
            Which::Origin => self.origin,
            Which::Output => self.output,
        }
        // No task speaks of a device it was not given.
        .unwrap_or(self.cow)
    }

    /// Writing to one name must not change what is read through another.
    fn refuse_same(&self) -> Result<(), Failure> {
        let named = [("COW", Some(self.cow)), ("ORIGIN", self.origin), ("OUTPUT", self.output)];
        for (i, &(second, b)) in named.iter().enumerate() {
            for &(first, a) in &named[..i] {
                let (Some(a), Some(b)) = (a, b) else { continue };
                // What cannot be looked at cannot be opened either, and opening says why.
                if is_same(a, b).unwrap_or(false) {
                    let found = format!("the same file or device as {}", a.display());
                    return Err(Failure::about(b, found)
                        .advise(format_args!("{first} and {second} must be two")));
                }
            }
        }
        Ok(())
    }
}

/// Why `path` could not be opened, and what can be done about it.
pub(crate) fn open_failure(path: &Path, error: &OpenError) -> Failure {
    let failure = Failure::about(path, error);
    match error {
        OpenError::InUse => failure.advise("stop, unmount or remove what uses it first"),
        OpenError::ReadOnly(_) => failure.advise("make it writable first"),
        OpenError::NotStorage => failure.advise("give a file or a disk"),
        OpenError::System(error) => match error.kind() {
            ErrorKind::NotFound => failure.advise("check the name"),
            ErrorKind::PermissionDenied => failure.advise("check its mode, or run as its owner"),
            _ => failure,
        },
        _ => failure,
    }
}

/// A file made by this command. Removed again when dropped, unless it was finished.
#[derive(Debug)]
pub(crate) struct NewFile<'a> {
    path: &'a Path,
    /// None once it is to stay.
    identity: Option<Identity>,
}

impl<'a> NewFile<'a> {
    /// All hole. Nothing that exists is touched.
    pub(crate) async fn create(
        path: &'a Path,
        len_bytes: u64,
        caching: impl Into<Caching>,
    ) -> Result<(File, Self), Failure> {
        let file = File::create_new(path, len_bytes, caching.into())
            .await
            .map_err(|error| create_failure(path, &error))?;
        let identity = file.identity().map_err(|error| Failure::about(path, error))?;
        Ok((file, Self { path, identity: Some(identity) }))
    }

    /// It is what it was to become.
    pub(crate) fn keep(mut self) {
        self.identity = None;
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        // Not what somebody else may have put in its place meanwhile.
        if self.identity.is_some() && Identity::of(self.path).ok() == self.identity {
            let _ = fs::remove_file(self.path);
        }
    }
}

fn create_failure(path: &Path, error: &OpenError) -> Failure {
    match error {
        OpenError::System(error) if error.kind() == ErrorKind::NotFound => {
            Failure::about(path, "its directory does not exist").advise("make it first")
        }
        OpenError::System(error) if error.kind() == ErrorKind::AlreadyExists => {
            Failure::about(path, "exists already").advise("remove it, or choose another name")
        }
        OpenError::System(error) => {
            Failure::about(path, format_args!("cannot make this file: {error}"))
        }
        error => open_failure(path, error),
    }
}
