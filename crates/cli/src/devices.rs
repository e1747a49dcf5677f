use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use clap::error::ErrorKind as Usage;
use clap::{CommandFactory, ValueEnum};
use dmsnap::device::{AnyDevice, Caching, Device, File, Identity, Mode, OpenError, is_same};
use dmsnap::ops::{Error, Which};

use crate::lvm::Volumes;
use crate::place::{Place, is_address};
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
#[derive(Debug)]
pub(crate) struct Devices<'a> {
    cow: Place,
    origin: Option<Place>,
    output: Option<&'a Path>,
    volumes: Volumes,
}

impl<'a> Devices<'a> {
    /// For a command that looks at a store alone.
    pub(crate) fn of_cow(cow: &Place) -> Self {
        Self { cow: cow.clone(), origin: None, output: None, volumes: Volumes::default() }
    }

    /// For a command that takes an origin as well, if there is one.
    pub(crate) async fn maybe_pair(cow: &Place, origin: Option<&Place>) -> Result<Self, Failure> {
        let origin = match (origin, cow) {
            (None, Place::Volume(address)) => address.origin().await?.map(Place::Volume),
            (origin, _) => origin.cloned(),
        };
        Self::checked(cow, origin, None)
    }

    /// For a command that needs an origin: without a name it is that of the snapshot.
    pub(crate) async fn pair(
        cow: &Place,
        origin: Option<&Place>,
        output: Option<&'a Path>,
    ) -> Result<Self, Failure> {
        let origin = match (origin, cow) {
            (Some(origin), _) => origin.clone(),
            (None, Place::Volume(address)) => match address.origin().await? {
                Some(origin) => Place::Volume(origin),
                None => {
                    return Err(Failure::of(&cow.to_string(), "is no snapshot")
                        .advise("name its origin as well, or a snapshot"));
                }
            },
            // For clap it may be missing.
            (None, Place::Path(_)) => {
                let found = "only a snapshot of LVM's has no need of ORIGIN; COW comes first";
                crate::Cli::command().error(Usage::MissingRequiredArgument, found).exit();
            }
        };
        Self::checked(cow, Some(origin), output)
    }

    fn checked(
        cow: &Place,
        origin: Option<Place>,
        output: Option<&'a Path>,
    ) -> Result<Self, Failure> {
        let devices = Self { cow: cow.clone(), origin, output, volumes: Volumes::default() };
        devices.refuse_same()?;
        Ok(devices)
    }

    pub(crate) async fn open(
        &self,
        which: Which,
        mode: Mode,
        caching: impl Into<Caching>,
    ) -> Result<AnyDevice, Failure> {
        let place = match which {
            Which::Cow => Some(&self.cow),
            Which::Origin => self.origin.as_ref(),
            Which::Output => None,
        };
        match (place, self.output) {
            (Some(place), _) => self.volumes.open(place, which, mode, caching.into()).await,
            (None, Some(path)) => Ok(open_file(path, mode, caching.into()).await?.into()),
            (None, None) => Err(Failure::of("a device", "was not given")),
        }
    }

    /// What a task says, with the name of the device it is about.
    pub(crate) fn failure(&self, error: &Error) -> Failure {
        let failure = Failure::of(&self.name(error.device()), error);
        match (error, &self.origin) {
            (Error::Header(_), Some(_)) => failure.advise("COW comes first, then ORIGIN"),
            (Error::Header(_), None) => failure.advise("is it the COW device?"),
            _ => failure,
        }
    }

    pub(crate) fn has_origin(&self) -> bool {
        self.origin.is_some()
    }

    /// As the user gave it.
    pub(crate) fn name(&self, which: Which) -> String {
        match (which, &self.origin, self.output) {
            (Which::Origin, Some(origin), _) => origin.to_string(),
            (Which::Output, _, Some(output)) => output.display().to_string(),
            // No task speaks of a device it was not given.
            _ => self.cow.to_string(),
        }
    }

    /// Writing to one name must not change what is read through another.
    fn refuse_same(&self) -> Result<(), Failure> {
        let output = self.output.map(|path| Place::from(path.to_owned()));
        let named = [
            ("COW", Some(&self.cow)),
            ("ORIGIN", self.origin.as_ref()),
            ("OUTPUT", output.as_ref()),
        ];
        for (i, &(second, b)) in named.iter().enumerate() {
            for &(first, a) in &named[..i] {
                let (Some(a), Some(b)) = (a, b) else { continue };
                if let Some(found) = overlap(a, b) {
                    return Err(Failure::of(&b.to_string(), found)
                        .advise(format_args!("{first} and {second} must be two")));
                }
            }
        }
        Ok(())
    }
}

/// How `b` is, or is part of, what `a` is; `None` if they are two. What cannot be looked at cannot be
/// opened either, and opening says why.
pub(crate) fn overlap(a: &Place, b: &Place) -> Option<String> {
    let mut pairs = a.paths().iter().flat_map(|a| b.paths().iter().map(move |b| (a, b)));
    if !pairs.any(|(a, b)| is_same(a, b).unwrap_or(false)) {
        return None;
    }
    match (a, b) {
        (Place::Path(_), Place::Path(_)) => Some(format!("the same file or device as {a}")),
        (Place::Volume(of_a), Place::Volume(of_b)) => {
            of_a.name.is_same(&of_b.name).then(|| format!("the same volume as {a}"))
        }
        _ => Some(format!("lies in the same file or device as {a}")),
    }
}

pub(crate) async fn open_file(path: &Path, mode: Mode, caching: Caching) -> Result<File, Failure> {
    File::open(path, mode, caching).await.map_err(|error| open_failure(path, &error))
}

/// Why `path` could not be opened, and what can be done about it.
pub(crate) fn open_failure(path: &Path, error: &OpenError) -> Failure {
    let failure = Failure::about(path, error);
    match error {
        OpenError::InUse => failure.advise("stop, unmount or remove what uses it first"),
        OpenError::ReadOnly(_) => failure.advise("make it writable first"),
        OpenError::NotStorage => failure.advise("give a file or a disk"),
        OpenError::System(error) => match error.kind() {
            ErrorKind::NotFound if path.to_str().is_some_and(is_address) => {
                failure.advise("volumes of LVM's are not taken here")
            }
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

/// What is there, or a new file of `wanted` bytes. What is there must have that size, if one is
/// wanted.
pub(crate) async fn open_or_make(
    path: &Path,
    wanted: Option<u64>,
    caching: Caching,
) -> Result<(File, Option<NewFile<'_>>), Failure> {
    match (File::open(path, Mode::Write, caching).await, wanted) {
        (Err(OpenError::System(error)), Some(size)) if error.kind() == ErrorKind::NotFound => {
            let (file, new) = NewFile::create(path, size, caching).await?;
            Ok((file, Some(new)))
        }
        (Err(OpenError::System(error)), None) if error.kind() == ErrorKind::NotFound => {
            Err(Failure::about(path, error).advise("to make a new file, give its --size"))
        }
        (Err(error), _) => Err(open_failure(path, &error)),
        (Ok(file), None) => Ok((file, None)),
        (Ok(file), Some(wanted)) => {
            let found = file.len_bytes().map_err(|error| Failure::about(path, error))?;
            match found == wanted {
                true => Ok((file, None)),
                false => Err(Failure::about(
                    path,
                    format_args!("exists and has {found} bytes, not {wanted}"),
                )
                .advise("leave out --size to use it as it is")),
            }
        }
    }
}
