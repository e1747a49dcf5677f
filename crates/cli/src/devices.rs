use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use clap::ValueEnum;
use clap::error::ErrorKind as Usage;
use dmsnap::device::{
    Access, AnyDevice, Caching, Device, File, Identity, Mode, OpenError, is_same,
};
use dmsnap::format::HeaderError;
use dmsnap::ops::{Error, Which};
use dmsnap_images::{ImageErrorKind, Scan, Volumes, refuse_raid_member};

use crate::formats::{advice, refuse_foreign, warn_of_image};
use crate::place::{Address, Place};
use crate::refusals::{advise_merge, failure, open_failure, warn};
use crate::report::Failure;
use crate::usage;

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
    /// Of what a snapshot in a volume group shows: its origin may have become larger since.
    snapshot_bytes: Option<u64>,
    volumes: Volumes,
}

impl<'a> Devices<'a> {
    /// For a command that looks at a store alone.
    pub(crate) fn of_cow(cow: &Place) -> Self {
        Self::new(cow, None, None, None)
    }

    /// For a command that takes an origin as well, if there is one.
    pub(crate) async fn maybe_pair(cow: &Place, origin: Option<&Place>) -> Result<Self, Failure> {
        let (own, len) = own_origin(cow).await?;
        Self::checked(cow, origin.cloned().or(own), None, len)
    }

    /// For a command that needs an origin: without a name it is that of the snapshot.
    pub(crate) async fn pair(
        cow: &Place,
        origin: Option<&Place>,
        output: Option<&'a Path>,
    ) -> Result<Self, Failure> {
        let (own, len) = own_origin(cow).await?;
        let origin = match (origin.cloned().or(own), cow) {
            (Some(origin), _) => origin,
            (None, Place::Volume(_)) => {
                return Err(Failure::of(&cow.to_string(), "is no snapshot")
                    .advise("name its origin as well, or a snapshot"));
            }
            // For clap it may be missing.
            (None, Place::Path(_)) => {
                let found = "only a snapshot of LVM's has no need of ORIGIN; COW comes first";
                usage::refuse(Usage::MissingRequiredArgument, found);
            }
        };
        Self::checked(cow, Some(origin), output, len)
    }

    fn checked(
        cow: &Place,
        origin: Option<Place>,
        output: Option<&'a Path>,
        snapshot_bytes: Option<u64>,
    ) -> Result<Self, Failure> {
        let devices = Self::new(cow, origin, output, snapshot_bytes);
        devices.refuse_same()?;
        Ok(devices)
    }

    fn new(
        cow: &Place,
        origin: Option<Place>,
        output: Option<&'a Path>,
        snapshot_bytes: Option<u64>,
    ) -> Self {
        let (cow, volumes) = (cow.clone(), Volumes::new(warn));
        Self { cow, origin, output, snapshot_bytes, volumes }
    }

    /// The size of the snapshot, if LVM tells it: else it is that of the origin.
    pub(crate) fn snapshot_bytes(&self) -> Option<u64> {
        self.snapshot_bytes
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
            (Some(place), _) => open_place(&self.volumes, place, which, mode, caching.into()).await,
            (None, Some(path)) => Ok(open_file(path, mode, caching.into()).await?.into()),
            (None, None) => Err(Failure::of("a device", "was not given")),
        }
    }

    /// The COW device of another snapshot of the origin. Its name is none of those given so far.
    pub(crate) async fn open_other(
        &self,
        others: &[Place],
        other: &Place,
        io: Io,
    ) -> Result<AnyDevice, Failure> {
        let before = others.iter().take_while(|before| !std::ptr::eq(*before, other));
        let given = [Some(&self.cow), self.origin.as_ref()].into_iter().flatten().chain(before);
        if let Some(found) = given.filter_map(|given| overlap(given, other)).next() {
            return Err(Failure::of(&other.to_string(), found)
                .advise("COW, ORIGIN and each --keep must be another"));
        }
        open_place(&self.volumes, other, Which::Cow, Mode::Write, io.into()).await
    }

    /// What a task says, with the name of the device it is about.
    pub(crate) fn failure(&self, error: &Error) -> Failure {
        if let Error::Other { name, source } = error {
            return advise_merge(Failure::of(name, source), source);
        }
        let failure = Failure::of(&self.name(error.device()), error);
        match (error, &self.origin) {
            (Error::RaidMember { found }, _) => failure.advise(advice(*found)),
            (Error::Header(_), Some(_)) => failure.advise("COW comes first, then ORIGIN"),
            (Error::Header(_), None) => failure.advise("is it the COW device?"),
            _ => failure,
        }
    }

    /// Who may use a file that is made of the origin's content.
    pub(crate) fn access(&self) -> Access {
        self.origin.as_ref().map_or_else(Access::default, access_of)
    }

    /// As [`failure`](Self::failure); of a COW device without a store it also says what is there instead.
    pub(crate) async fn explain(&self, error: &Error, cow: &impl Device) -> Failure {
        match error {
            Error::Header(HeaderError::Blank | HeaderError::Magic { .. }) | Error::Store(_) => {
                let name = self.name(Which::Cow);
                let foreign = refuse_foreign(&name, cow).await.err();
                foreign.unwrap_or_else(|| self.failure(error))
            }
            _ => self.failure(error),
        }
    }

    /// Says if the origin seems to be an image that is not raw.
    pub(crate) async fn warn_of_image(&self, origin: &impl Device) {
        warn_of_image(self.name(Which::Origin), origin).await;
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

/// Who may use a file that is made of what `place` holds: those who may use that.
pub(crate) fn access_of(place: &Place) -> Access {
    let first = place.paths().first();
    first.and_then(|path| Access::like(path).ok()).unwrap_or_default()
}

/// The origin of a snapshot in a volume group, with the size of what the snapshot shows.
async fn own_origin(cow: &Place) -> Result<(Option<Place>, Option<u64>), Failure> {
    let own = match cow {
        Place::Volume(address) => origin_of(address).await?,
        Place::Path(_) => None,
    };
    Ok(own.map(|(origin, len)| (Place::Volume(origin), len)).unzip())
}

/// The origin of a snapshot, with the size of what that shows; `None` if the volume is not a snapshot.
pub(crate) async fn origin_of(address: &Address) -> Result<Option<(Address, u64)>, Failure> {
    let scan = Scan::look(&address.images, warn).await?;
    let origin = scan.group_of(&address.name)?.origin(&address.name.volume);
    Ok(origin.map(|origin| {
        let (images, name) = (address.images.clone(), origin.name);
        (Address { images, name }, origin.snapshot_bytes)
    }))
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

/// Opens a file or a disk, and warns of what may go wrong with it.
pub(crate) async fn open_file(path: &Path, mode: Mode, caching: Caching) -> Result<File, Failure> {
    Ok(dmsnap_images::open_file(path, mode, caching, warn).await?)
}

/// Opens a file, or a volume: as a COW device the one that a snapshot has.
pub(crate) async fn open_place(
    volumes: &Volumes,
    place: &Place,
    which: Which,
    mode: Mode,
    caching: Caching,
) -> Result<AnyDevice, Failure> {
    match place {
        Place::Path(path) => {
            let file = open_file(path, mode, caching).await?;
            if mode == Mode::Write {
                refuse_raid_member(path, &file).await?;
            }
            Ok(file.into())
        }
        Place::Volume(Address { images, name }) => {
            let opened = volumes.open(images, name, which, mode, caching).await;
            opened.map_err(|error| match &*error.kind {
                kind @ ImageErrorKind::IsSnapshot { .. } => failure(&place.to_string(), kind),
                _ => error.into(),
            })
        }
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
    /// All hole, for those who may have what its content comes from. Nothing that exists is touched.
    pub(crate) async fn create(
        path: &'a Path,
        len_bytes: u64,
        caching: impl Into<Caching>,
        access: Access,
    ) -> Result<(File, Self), Failure> {
        Self::of(path, File::create_new(path, len_bytes, caching.into(), access).await)
    }

    fn of(path: &'a Path, made: Result<File, OpenError>) -> Result<(File, Self), Failure> {
        let file = made.map_err(|error| create_failure(path, &error))?;
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
    access: Access,
) -> Result<(File, Option<NewFile<'_>>), Failure> {
    match (File::open(path, Mode::Write, caching).await, wanted) {
        (Err(OpenError::System(error)), Some(size)) if error.kind() == ErrorKind::NotFound => {
            let file = File::create_in_place(path, size, caching, access).await;
            let (file, new) = NewFile::of(path, file)?;
            Ok((file, Some(new)))
        }
        (Err(OpenError::System(error)), None) if error.kind() == ErrorKind::NotFound => {
            Err(Failure::about(path, error).advise("to make a new file, give its --size"))
        }
        (Err(error), _) => Err(open_failure(path, &error)),
        (Ok(file), None) => {
            dmsnap_images::warnings(path, &file, Mode::Write).iter().for_each(warn);
            Ok((file, None))
        }
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
