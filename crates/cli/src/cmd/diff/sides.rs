use clap::error::ErrorKind;
use dmsnap::device::{AnyDevice, Mode};
use dmsnap::ops::{Diff, DiffOptions, DiffSide, Error, Which, begins_with_store, owner};
use dmsnap_images::Volumes;

use crate::device_arg::DeviceArg;
use crate::devices::{open_device, origin_of, overlap};
use crate::files::Io;
use crate::formats::warn_of_image;
use crate::refusals::{advise, warn};
use crate::report::Failure;

/// How they are to be looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) compare: bool,
    pub(super) no_fence: bool,
    pub(super) io: Io,
}

/// Differences of what the command line names.
pub(super) type Found<'a> = Diff<'a, AnyDevice, AnyDevice>;

/// A and B, and the origin.
#[derive(Debug)]
pub(super) struct Sides {
    wanted: Wanted,
    /// As the user gave them.
    stores: Vec<Store>,
    origin: Option<(String, AnyDevice)>,
    /// A is the origin, not B.
    origin_first: bool,
}

/// One that is a snapshot.
#[derive(Debug)]
struct Store {
    name: String,
    device: AnyDevice,
    /// Of what a snapshot in a volume group shows.
    snapshot_bytes: Option<u64>,
}

/// A side before it is clear what it is.
struct Side<'a> {
    named: &'a DeviceArg,
    device: AnyDevice,
    /// Of a snapshot in a volume group: its origin, and the size of what it shows.
    own: Option<(DeviceArg, u64)>,
    is_store: bool,
}

impl<'a> Side<'a> {
    async fn open(
        named: &'a DeviceArg,
        origin: Option<&DeviceArg>,
        (volumes, io): (&Volumes, Io),
    ) -> Result<Self, Failure> {
        let own = match named {
            DeviceArg::Volume(address) => origin_of(address).await?,
            DeviceArg::Path(_) => None,
        };
        let own = own.map(|(address, len)| (DeviceArg::Volume(address), len));
        let device = open_device(volumes, named, Which::Cow, Mode::Read, io.into()).await?;
        // Also an origin may begin like a store: a kernel's failed merge leaves it so.
        let is_origin = origin.is_some_and(|origin| overlap(origin, named).is_some());
        let is_store = match is_origin {
            true => false,
            false => own.is_some() || is_store(named, &device).await?,
        };
        Ok(Self { named, device, own, is_store })
    }

    fn into_store(self) -> Store {
        let snapshot_bytes = self.own.map(|(_, len)| len);
        Store { name: self.named.to_string(), device: self.device, snapshot_bytes }
    }
}

async fn is_store(named: &DeviceArg, device: &AnyDevice) -> Result<bool, Failure> {
    let refused = |error: Error| advise(Failure::of(&named.to_string(), &error), &error);
    // One whose repair was begun does not begin like a store, and is none of both.
    owner(device).await.map_err(refused)?;
    begins_with_store(device, Which::Cow).await.map_err(refused)
}

impl Sides {
    /// Opens what is named, and finds out which is what.
    pub(super) async fn open(
        a: &DeviceArg,
        b: &DeviceArg,
        origin: Option<&DeviceArg>,
        wanted: Wanted,
    ) -> Result<Self, Failure> {
        if let Some(found) = overlap(a, b) {
            return Err(Failure::of(&b.to_string(), found).advise("A and B must be two"));
        }
        let volumes = Volumes::new(warn);
        let with = (&volumes, wanted.io);
        let first = Side::open(a, origin, with).await?;
        let second = Side::open(b, origin, with).await?;
        let origin_first = !first.is_store;
        let (stores, origin) = match (first.is_store, second.is_store) {
            (true, true) => {
                let named = match origin {
                    Some(origin) => Some(origin.clone()),
                    None => own_origin(&first, &second)?,
                };
                let origin = match named {
                    Some(named) => Some(open_origin(&named, with).await?),
                    None => None,
                };
                (vec![first.into_store(), second.into_store()], origin)
            }
            (true, false) => (vec![first.into_store()], Some(as_origin(second, origin)?)),
            (false, true) => (vec![second.into_store()], Some(as_origin(first, origin)?)),
            (false, false) => {
                let found = format!("no store begins here, nor on {b}");
                return Err(Failure::of(&a.to_string(), found)
                    .advise("A, B or both are COW devices; `dmsnap check` tells what is wrong"));
            }
        };
        if wanted.compare && origin.is_none() {
            let found = "--compare reads the origin too: give --origin";
            return Err(Failure::usage(ErrorKind::MissingRequiredArgument, found));
        }
        if let Some((name, device)) = &origin {
            warn_of_image(name, device).await;
        }
        Ok(Self { wanted, stores, origin, origin_first })
    }

    /// Reads the stores.
    pub(super) async fn diff(&self) -> Result<Found<'_>, Failure> {
        let mut sides = Vec::new();
        for (store, which) in self.stores.iter().zip([Which::Cow, Which::Second]) {
            let options =
                DiffOptions { len_bytes: store.snapshot_bytes, ignore_fence: self.wanted.no_fence };
            let side = match &self.origin {
                Some((_, origin)) if self.wanted.compare => {
                    DiffSide::readable((&store.device, which), origin, options).await
                }
                origin => {
                    let origin = origin.as_ref().map(|(_, device)| device);
                    DiffSide::listed(&store.device, origin, options).await
                }
            };
            sides.push(side.map_err(|error| self.about(&store.name, &error))?);
        }
        let last = match (sides.len(), &self.origin) {
            (1, Some((name, origin))) => {
                let side = DiffSide::origin(origin).await;
                Some(side.map_err(|error| advise(Failure::of(name, &error), &error))?)
            }
            _ => None,
        };
        sides.extend(last);
        if self.origin_first {
            sides.reverse();
        }
        let mut sides = sides.into_iter();
        match (sides.next(), sides.next()) {
            (Some(a), Some(b)) => Diff::new(a, b).map_err(|error| self.failure(&error)),
            // One of them is a store, so there is an origin or another store.
            _ => Err(Failure::of("A and B", "are not two sides")),
        }
    }

    /// Why the differences could not be told.
    pub(super) fn failure(&self, error: &Error) -> Failure {
        let store = usize::from(error.device() == Which::Second);
        match (error, self.stores.get(store)) {
            (Error::PastEnd { .. }, _) => Failure::of("--from", error),
            (Error::TwoOrigins { .. }, _) => Failure::of("A and B", error)
                .advise("give the origin with --origin, or go on with --no-fence"),
            (_, Some(store)) => self.about(&store.name, error),
            (_, None) => Failure::of("diff", error),
        }
    }

    fn about(&self, store: &str, error: &Error) -> Failure {
        let name = match (error.device(), &self.origin) {
            (Which::Origin, Some((name, _))) => name,
            _ => store,
        };
        let failure = advise(Failure::of(name, error), error);
        match error {
            Error::Invalid => failure.advise("what it shows may be wrong, so nothing is compared"),
            _ => failure,
        }
    }
}

async fn open_origin(
    named: &DeviceArg,
    (volumes, io): (&Volumes, Io),
) -> Result<(String, AnyDevice), Failure> {
    let device = open_device(volumes, named, Which::Origin, Mode::Read, io.into()).await?;
    Ok((named.to_string(), device))
}

/// What is not a store is the origin, and no other may be named.
fn as_origin(side: Side<'_>, named: Option<&DeviceArg>) -> Result<(String, AnyDevice), Failure> {
    let name = side.named.to_string();
    match named {
        Some(other) if overlap(other, side.named).is_none() => {
            Err(Failure::of(&name, format_args!("no store begins here, and {other} is the origin"))
                .advise("give two stores, or leave out --origin"))
        }
        _ => Ok((name, side.device)),
    }
}

/// The origin that two snapshots in volume groups have.
fn own_origin(a: &Side<'_>, b: &Side<'_>) -> Result<Option<DeviceArg>, Failure> {
    match (&a.own, &b.own) {
        (Some((of_a, _)), Some((of_b, _))) if overlap(of_a, of_b).is_none() => {
            Err(Failure::of(&b.named.to_string(), format_args!("is a snapshot of {of_b}"))
                .advise(format_args!("{} is one of {of_a}", a.named)))
        }
        (Some((own, _)), _) | (None, Some((own, _))) => Ok(Some(own.clone())),
        (None, None) => Ok(None),
    }
}
