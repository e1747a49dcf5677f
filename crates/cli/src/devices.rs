use std::path::Path;

use clap::error::ErrorKind;
use dmsnap::device::{Access, AnyDevice, Caching, Device, Mode, is_same};
use dmsnap::format::HeaderError;
use dmsnap::ops::{Error, Which};
use dmsnap_images::{ImageErrorKind, Scan, Volumes, refuse_raid_member};

use crate::device_arg::{Address, DeviceArg};
use crate::files::{Io, open_file};
use crate::formats::{advice, refuse_foreign, warn_of_image};
use crate::refusals::{advise, advise_merge, failure, warn};
use crate::report::Failure;
use crate::size;

/// How large a snapshot is.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct VirtualSize {
    /// Size of the snapshot, where it is another than its origin's
    ///
    /// Zeroes follow an origin that is shorter; of one that is longer the rest is not a part of the snapshot. Without it
    /// the size is what the store remembers (`dmsnap create --virtual-size`), or else the origin's.
    #[arg(long, value_name = "SIZE", value_parser = size::parse_sectors)]
    pub(crate) virtual_size: Option<u64>,
}

/// The devices of a command by the names the user gave them.
#[derive(Debug)]
pub(crate) struct Devices<'a> {
    cow: DeviceArg,
    origin: Option<DeviceArg>,
    output: Option<&'a Path>,
    /// Of what a snapshot in a volume group shows: its origin may have become larger since.
    snapshot_bytes: Option<u64>,
    /// The same of any snapshot, as the command line says it.
    virtual_size: Option<u64>,
    volumes: Volumes,
}

impl<'a> Devices<'a> {
    /// For a command that looks at a store alone.
    pub(crate) fn of_cow(cow: &DeviceArg) -> Self {
        Self::new(cow, None, None, None)
    }

    /// For a command that takes an origin as well, if there is one.
    pub(crate) async fn maybe_pair(
        cow: &DeviceArg,
        origin: Option<&DeviceArg>,
        output: Option<&'a Path>,
    ) -> Result<Self, Failure> {
        let (own, len) = own_origin(cow).await?;
        Self::checked(cow, origin.cloned().or(own), output, len)
    }

    /// For a command that needs an origin: without a name it is that of the snapshot.
    pub(crate) async fn pair(
        cow: &DeviceArg,
        origin: Option<&DeviceArg>,
        output: Option<&'a Path>,
    ) -> Result<Self, Failure> {
        let (own, len) = own_origin(cow).await?;
        let origin = match (origin.cloned().or(own), cow) {
            (Some(origin), _) => origin,
            (None, DeviceArg::Volume(_)) => {
                return Err(Failure::of(&cow.to_string(), "is not a snapshot")
                    .advise("name its origin as well, or a snapshot"));
            }
            // For clap it may be missing.
            (None, DeviceArg::Path(_)) => {
                let found = "ORIGIN may be omitted only for an LVM snapshot; COW comes first";
                return Err(Failure::usage(ErrorKind::MissingRequiredArgument, found));
            }
        };
        Self::checked(cow, Some(origin), output, len)
    }

    fn checked(
        cow: &DeviceArg,
        origin: Option<DeviceArg>,
        output: Option<&'a Path>,
        snapshot_bytes: Option<u64>,
    ) -> Result<Self, Failure> {
        let devices = Self::new(cow, origin, output, snapshot_bytes);
        devices.refuse_same()?;
        Ok(devices)
    }

    fn new(
        cow: &DeviceArg,
        origin: Option<DeviceArg>,
        output: Option<&'a Path>,
        snapshot_bytes: Option<u64>,
    ) -> Self {
        let (cow, volumes) = (cow.clone(), Volumes::new(warn));
        Self { cow, origin, output, snapshot_bytes, virtual_size: None, volumes }
    }

    /// The size of the snapshot, if it was told, or LVM tells it: else it is what the store says, or that of the
    /// origin.
    pub(crate) fn snapshot_bytes(&self) -> Option<u64> {
        self.virtual_size.or(self.snapshot_bytes)
    }

    /// An origin that LVM says was longer has lost what its snapshot would show.
    pub(crate) fn refuse_cut_origin(&self, origin: &AnyDevice) -> Result<(), Failure> {
        let len = origin.len_bytes();
        let origin_bytes = len.map_err(|error| Failure::of(&self.name(Which::Origin), error))?;
        match (self.virtual_size, self.snapshot_bytes) {
            (None, Some(snapshot_bytes)) if snapshot_bytes > origin_bytes => {
                Err(self.failure(&Error::OriginTooSmall { origin_bytes, snapshot_bytes }))
            }
            _ => Ok(()),
        }
    }

    /// The same devices, where the command line says how large the snapshot is.
    pub(crate) fn of_size(self, virtual_size: &VirtualSize) -> Self {
        Self { virtual_size: virtual_size.virtual_size, ..self }
    }

    pub(crate) async fn open(
        &self,
        which: Which,
        mode: Mode,
        caching: impl Into<Caching>,
    ) -> Result<AnyDevice, Failure> {
        let device = match which {
            Which::Cow => Some(&self.cow),
            Which::Origin => self.origin.as_ref(),
            Which::Output | Which::Undo | Which::Second => None,
        };
        match (device, self.output) {
            (Some(device), _) => {
                open_device(&self.volumes, device, which, mode, caching.into()).await
            }
            (None, Some(path)) => Ok(open_file(path, mode, caching.into()).await?.into()),
            (None, None) => Err(Failure::of("a device", "was not given")),
        }
    }

    /// The COW device of another snapshot of the origin. Its name is none of those given so far.
    pub(crate) async fn open_other(
        &self,
        others: &[DeviceArg],
        other: &DeviceArg,
        io: Io,
    ) -> Result<AnyDevice, Failure> {
        let before = others.iter().take_while(|before| !std::ptr::eq(*before, other));
        let given = [Some(&self.cow), self.origin.as_ref()].into_iter().flatten().chain(before);
        if let Some(found) = given.filter_map(|given| overlap(given, other)).next() {
            return Err(Failure::of(&other.to_string(), found)
                .advise("COW, ORIGIN and each --keep must be another"));
        }
        open_device(&self.volumes, other, Which::Cow, Mode::Write, io.into()).await
    }

    /// What a task says, with the name of the device it is about.
    pub(crate) fn failure(&self, error: &Error) -> Failure {
        if let Error::Other { name, source } = error {
            return advise_merge(advise(Failure::of(name, source), source), source);
        }
        let failure = Failure::of(&self.name(error.device()), error);
        match (error, &self.origin) {
            (Error::RaidMember { found }, _) => failure.advise(advice(*found)),
            (Error::Header(_), Some(_)) => failure.advise("COW comes first, then ORIGIN"),
            (Error::Header(_), None) => failure.advise("is it the COW device?"),
            _ => advise(failure, error),
        }
    }

    /// As [`failure`](Self::failure), of a device that another store was to be written to.
    pub(crate) fn refused_target(&self, error: &Error) -> Failure {
        let failure = self.failure(error);
        match error {
            Error::StoreExists | Error::Occupied { .. } => failure.advise("--force overwrites it"),
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
        let output = self.output.map(|path| DeviceArg::from(path.to_owned()));
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

/// Who may use a file that is made of what `device` holds: those who may use that.
pub(crate) fn access_of(device: &DeviceArg) -> Access {
    let first = device.paths().first();
    first.and_then(|path| Access::like(path).ok()).unwrap_or_default()
}

/// The origin of a snapshot in a volume group, with the size of what the snapshot shows.
async fn own_origin(cow: &DeviceArg) -> Result<(Option<DeviceArg>, Option<u64>), Failure> {
    let own = match cow {
        DeviceArg::Volume(address) => origin_of(address).await?,
        DeviceArg::Path(_) => None,
    };
    Ok(own.map(|(origin, len)| (DeviceArg::Volume(origin), len)).unzip())
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
pub(crate) fn overlap(a: &DeviceArg, b: &DeviceArg) -> Option<String> {
    let mut pairs = a.paths().iter().flat_map(|a| b.paths().iter().map(move |b| (a, b)));
    if !pairs.any(|(a, b)| is_same(a, b).unwrap_or(false)) {
        return None;
    }
    match (a, b) {
        (DeviceArg::Path(_), DeviceArg::Path(_)) => Some(format!("the same file or device as {a}")),
        (DeviceArg::Volume(of_a), DeviceArg::Volume(of_b)) => {
            of_a.name.is_same(&of_b.name).then(|| format!("the same volume as {a}"))
        }
        _ => Some(format!("lies in the same file or device as {a}")),
    }
}

/// Opens a file, or a volume: as a COW device the one that a snapshot has.
pub(crate) async fn open_device(
    volumes: &Volumes,
    device: &DeviceArg,
    which: Which,
    mode: Mode,
    caching: Caching,
) -> Result<AnyDevice, Failure> {
    match device {
        DeviceArg::Path(path) => {
            let file = open_file(path, mode, caching).await?;
            if matches!(mode, Mode::Write | Mode::Share) {
                refuse_raid_member(path, &file).await?;
            }
            Ok(file.into())
        }
        DeviceArg::Volume(Address { images, name }) => {
            // Their images hold other volumes that are written.
            let mode = if mode == Mode::Share { Mode::Write } else { mode };
            let opened = volumes.open(images, name, which, mode, caching).await;
            opened.map_err(|error| match &*error.kind {
                kind @ ImageErrorKind::IsSnapshot { .. } => failure(&device.to_string(), kind),
                _ => error.into(),
            })
        }
    }
}
