use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::builder::{OsStringValueParser, TypedValueParser};
use dmsnap::device::{AnyDevice, Caching, Device, Mode, is_same};
use dmsnap::format::{ChunkSize, MAGIC, SECTOR_BYTES};
use dmsnap::ops::{self, Error, Which};
use dmsnap_images::{Scan, Volumes, refuse_raid_member};
use dmsnap_serve::control::{NewSnapshot, OnFullText};
use dmsnap_serve::{ORIGIN, OnFull, SnapshotOptions, Volume, VolumeError};
use rustix::fs::{major, minor};

use crate::devices::{open_file, open_place, overlap};
use crate::formats::{advice, refuse_foreign, warn_of_image};
use crate::place::{Address, Place};
use crate::refusals::warn;
use crate::report::{Failure, tell};
use crate::size;
use crate::table::{self, Line, Target};

/// What can be done about a merge, or an opening, that was refused.
const MERGE_ANYWAY: &str = "`dmsnap merge --force` merges it all the same";

pub(super) type Disk = Volume<AnyDevice, AnyDevice>;

/// What is served, told by options or by a table. Devices are named as on the command line, see
/// [`Place`].
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) origin: PathBuf,
    snapshots: Vec<Spec>,
    /// The snapshot that the table, or LVM, merges.
    pub(super) merge: Option<String>,
    /// What the lines of a table say of lengths.
    lengths: Vec<Length>,
    /// LVM's name of the origin.
    pub(super) alias: Option<String>,
}

/// `NAME=COW[,OPTION]...`, or a line of a table.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    name: String,
    cow: PathBuf,
    store: Store,
    options: SnapshotOptions,
}

/// How long a line of a table makes its device.
#[derive(Clone, Debug)]
struct Length {
    /// Where it stands.
    line: String,
    sectors: u64,
    /// That of the origin itself. A snapshot may be shorter.
    is_origin: bool,
}

/// What the COW device holds.
#[derive(Clone, Copy, Debug)]
enum Store {
    Persistent,
    /// The same, made first if the device is blank. `None` stands for the default chunk size.
    MaybeNew(Option<ChunkSize>),
    Transient(ChunkSize),
}

impl Spec {
    /// For `value_parser`: paths are any bytes.
    pub(crate) fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(|text| Self::parse(&text))
    }

    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        let shown = text.display();
        let equals = text.as_bytes().iter().position(|byte| *byte == b'=');
        let equals =
            equals.ok_or_else(|| format!("found `{shown}`; a snapshot is NAME=COW[,OPTION]..."))?;
        let (name, rest) = (&text.as_bytes()[..equals], &text.as_bytes()[equals + 1..]);
        let name = str::from_utf8(name).map_err(|_| format!("found `{shown}`; a name is text"))?;
        refuse_reserved(name)?;
        let begins_with_option = rest.starts_with(b",") && !rest.starts_with(b",,");
        if rest.is_empty() || begins_with_option {
            return Err(format!("found no COW device in `{shown}`; it is NAME=COW[,OPTION]..."));
        }
        let (cow, parts) = Place::take(OsStr::from_bytes(rest))?;
        let cow = PathBuf::from(cow.into_os_string());
        let options = SnapshotOptions::default();
        let mut spec = Self { name: name.into(), cow, store: Store::Persistent, options };
        parts.iter().try_for_each(|part| spec.option(&part.to_string_lossy()))?;
        Ok(spec)
    }
}

fn refuse_reserved(name: &str) -> Result<(), String> {
    match name.is_empty() || name == ORIGIN || name.chars().any(char::is_control) {
        true => Err(format!(
            "found the name `{}`; it must not be empty, nor `{ORIGIN}`, nor hold control characters",
            name.escape_debug()
        )),
        false => Ok(()),
    }
}

impl Spec {
    fn option(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let options = &mut self.options;
        match (name, value) {
            ("on-full", rule) => options.on_full = rule.parse::<OnFullText>()?.0,
            ("max-size", size) => options.max_bytes = Some(size::parse(size)?),
            ("transient", size) => self.store = Store::Transient(size::parse_chunk_size(size)?),
            ("discard-zeroes", "") => options.discard_zeroes = true,
            ("discard-passdown", "") => options.discard_passdown = true,
            _ => {
                let known = "on-full, max-size, transient, discard-zeroes, discard-passdown";
                return Err(format!("found the option `{text}`; there is {known}"));
            }
        }
        Ok(())
    }

    /// What a client of the control socket asks for. A store that it makes is made before.
    pub(super) fn of_request(wanted: &NewSnapshot) -> Result<Self, String> {
        let chunk_size = |bytes: u64| size::parse_chunk_size(&bytes.to_string());
        let store = match wanted.transient_chunk_bytes.map(chunk_size).transpose()? {
            Some(chunk_size) => Store::Transient(chunk_size),
            None => Store::Persistent,
        };
        let options = SnapshotOptions {
            on_full: wanted.on_full.map_or(OnFull::default(), |text| text.0),
            max_bytes: wanted.max_size_bytes,
            discard_zeroes: wanted.discard_zeroes,
            discard_passdown: wanted.discard_passdown,
            ..SnapshotOptions::default()
        };
        let (name, cow) = (wanted.name.clone(), PathBuf::from(&wanted.cow));
        Ok(Self { name, cow, store, options })
    }

    /// The same as a client of the control socket says it.
    pub(crate) fn into_request(self) -> Result<NewSnapshot, String> {
        let transient_chunk_bytes = match self.store {
            Store::Transient(chunk_size) => Some(chunk_size.bytes()),
            Store::Persistent | Store::MaybeNew(_) => None,
        };
        let cow = std::path::absolute(&self.cow).map_err(|error| error.to_string())?;
        let cow = cow.into_os_string().into_string();
        Ok(NewSnapshot {
            name: self.name,
            cow: cow.map_err(|path| format!("found the path {}; it is no text", path.display()))?,
            make: None,
            transient_chunk_bytes,
            on_full: Some(OnFullText(self.options.on_full)),
            max_size_bytes: self.options.max_bytes,
            discard_zeroes: self.options.discard_zeroes,
            discard_passdown: self.options.discard_passdown,
        })
    }

    /// Opens the COW device beside a volume that is there, and adds it.
    pub(super) async fn open(
        self,
        volume: &Disk,
        mode: Mode,
        caching: Caching,
    ) -> Result<(), Failure> {
        let mode_of_cow = self.mode(mode);
        let cow = AnyDevice::from(open_file(&self.cow, mode_of_cow, caching).await?);
        if mode_of_cow == Mode::Write {
            refuse_raid_member(&self.cow, &cow).await?;
        }
        self.add_to(volume, cow, mode).await
    }

    fn from_table(line: &Line, snapshot: &table::Snapshot) -> Result<Self, String> {
        let name = line.name.as_deref();
        let file = || snapshot.cow.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.map(str::to_owned).or_else(file).unwrap_or_default();
        refuse_reserved(&name).map_err(|found| format!("{found}; put `NAME: ` before the line"))?;
        let store = match snapshot.store {
            table::Store::Persistent(chunk_size) => Store::MaybeNew(chunk_size),
            table::Store::Transient(chunk_size) => Store::Transient(chunk_size),
        };
        let too_long = || {
            format!("found the length {} sectors, which is no number of bytes", line.len_sectors)
        };
        let options = SnapshotOptions {
            len_bytes: Some(line.len_sectors.checked_mul(SECTOR_BYTES).ok_or_else(too_long)?),
            // A write to the origin drops it in kernels, with `P` and with `PO`.
            on_full: OnFull::Invalidate,
            discard_zeroes: snapshot.discard_zeroes,
            discard_passdown: snapshot.discard_passdown,
            ..SnapshotOptions::default()
        };
        Ok(Self { name, cow: node(&snapshot.cow), store, options })
    }

    /// How the COW device is opened where the origin is opened for `mode`. A transient store has nothing
    /// worth keeping.
    fn mode(&self, mode: Mode) -> Mode {
        match self.store {
            Store::Transient(_) => Mode::Write,
            Store::Persistent | Store::MaybeNew(_) => mode,
        }
    }

    /// Opens the store, or makes it before.
    async fn add_to(self, volume: &Disk, cow: AnyDevice, mode: Mode) -> Result<(), Failure> {
        let failed = |error: VolumeError| Failure::about(&self.cow, error);
        // Whatever it is that cannot be read, the next one says it.
        let is_store = begins_with_store(volume).await.unwrap_or(false);
        if !is_store && matches!(self.store, Store::Persistent) {
            refuse_foreign(self.cow.display(), &cow).await?;
        }
        let refused = |error: Error| match error {
            Error::FrontZeroed { .. } => Failure::about(&self.cow, error).advise(MERGE_ANYWAY),
            Error::Header(_) if is_store => {
                let found = "no store here, but there is one on the origin: they look swapped";
                Failure::about(&self.cow, found).advise("it is ORIGIN --snapshot NAME=COW")
            }
            Error::Header(_) => Failure::about(&self.cow, error)
                .advise("is it the COW device? `dmsnap create` makes a store"),
            _ => Failure::about(&self.cow, error),
        };
        let Self { name, options, .. } = &self;
        let options = options.clone();
        if let (Some(most), Ok(now)) = (options.max_bytes, cow.len_bytes())
            && most < now
        {
            let found = format_args!("has {now} bytes already, and max-size={most} is less");
            let refused = Failure::about(&self.cow, found);
            return Err(refused.advise("say a size that it may grow to, or leave max-size out"));
        }
        match self.store {
            Store::Persistent | Store::MaybeNew(_) if mode != Mode::Write => {
                volume.open_read_only(name, cow, options).await.map_err(failed)?;
            }
            Store::Transient(chunk_size) => {
                ops::refuse_chunk_size(chunk_size, &cow, Which::Cow).map_err(refused)?;
                ops::refuse_chunk_size(chunk_size, volume.origin_device(), Which::Origin)
                    .map_err(refused)?;
                volume.open_transient(name, cow, chunk_size, options).await.map_err(failed)?;
            }
            Store::Persistent => {
                let added = volume.open(name, cow, options).await;
                added.map_err(Error::of_opening).map_err(refused)?;
            }
            Store::MaybeNew(wanted) => {
                make_if_blank(&self.cow, &cow, wanted).await?;
                let added = volume.open(name, cow, options).await;
                let found = added.map_err(Error::of_opening).map_err(refused)?.chunk_size();
                if wanted.is_some_and(|wanted| wanted != found) {
                    let found = format_args!("warning: its chunks have {found}");
                    tell(Failure::about(&self.cow, found).advise("the table's size is not used"));
                }
            }
        }
        Ok(())
    }
}

/// What a name of the command line, or of a table, stands for.
fn place(name: &Path) -> Result<Place, String> {
    Place::parse(name.to_owned().into_os_string())
}

/// The device node, also where nobody keeps links to all of them by their numbers, and where there is
/// no `/sys`.
fn node(path: &Path) -> PathBuf {
    let numbers = || path.strip_prefix(table::BY_NUMBER).ok().filter(|_| !path.exists())?.to_str();
    let Some(numbers) = numbers() else { return path.to_owned() };
    // The name may be left over from another device.
    let is_it = |node: &PathBuf| {
        fs::metadata(node).is_ok_and(|metadata| {
            let rdev = metadata.rdev();
            let found = format!("{}:{}", major(rdev), minor(rdev));
            metadata.file_type().is_block_device() && found == numbers
        })
    };
    let named = || {
        let uevent = fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).ok()?;
        let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(Path::new("/dev").join(name)).filter(is_it)
    };
    let seen = || {
        let nodes = ["/dev", "/dev/mapper"].into_iter().flat_map(|dir| fs::read_dir(dir).ok());
        nodes.flatten().flatten().map(|entry| entry.path()).find(is_it)
    };
    named().or_else(seen).unwrap_or_else(|| path.to_owned())
}

/// Whether the origin looks like a store.
async fn begins_with_store(volume: &Disk) -> io::Result<bool> {
    let len = MAGIC.len().min(usize::try_from(volume.len_bytes()).unwrap_or(MAGIC.len()));
    Ok(volume.origin_device().read(0, len).await?.starts_with(&MAGIC))
}

/// For a merge: an origin that looks like a store.
async fn refuse_store(path: &Path, volume: &Disk) -> Result<(), Failure> {
    let is_store = begins_with_store(volume).await;
    match is_store.map_err(|error| Failure::about(path, error))? {
        true => Err(Failure::about(path, Error::OriginIsStore).advise(MERGE_ANYWAY)),
        false => Ok(()),
    }
}

/// Makes a store where a kernel would: where the magic is zero. What else lies there is kept.
async fn make_if_blank(
    path: &Path,
    cow: &AnyDevice,
    wanted: Option<ChunkSize>,
) -> Result<(), Failure> {
    let magic = cow.read(0, MAGIC.len()).await.map_err(|error| Failure::about(path, error))?;
    if magic.iter().any(|byte| *byte != 0) {
        return Ok(());
    }
    let chunk_size = wanted.unwrap_or(ChunkSize::KERNEL_DEFAULT);
    ops::refuse_chunk_size(chunk_size, cow, Which::Cow)
        .map_err(|error| Failure::about(path, error))?;
    let created = ops::create(cow, chunk_size, false).await;
    created.map(|_| ()).map_err(|error| not_made(path, &error))
}

/// Why no store was made.
pub(super) fn not_made(path: &Path, error: &Error) -> Failure {
    let failure = Failure::about(path, error);
    match error {
        Error::Occupied { .. } | Error::Refused(..) => {
            failure.advise("`dmsnap create --force` makes a store there all the same")
        }
        Error::RaidMember { found } => failure.advise(advice(*found)),
        _ => failure,
    }
}

impl Plan {
    pub(super) fn of_options(origin: &Path, snapshots: &[Spec]) -> Result<Self, Failure> {
        let (origin, snapshots) = (origin.to_owned(), snapshots.to_vec());
        let plan = Self { origin, snapshots, merge: None, lengths: Vec::new(), alias: None };
        plan.refuse_same()?;
        Ok(plan)
    }

    /// `origin` is what the command line names besides, if it does.
    pub(super) fn of_table(path: &Path, origin: Option<&Path>) -> Result<Self, Failure> {
        let about =
            |line: usize, found: &str| Failure::of(&format!("{}:{line}", path.display()), found);
        let text = fs::read(path).map_err(|error| Failure::about(path, error))?;
        let lines = table::parse(&text);
        let lines = lines.map_err(|error| about(error.line, &error.to_string()))?;
        let Some(first) = lines.first() else {
            return Err(Failure::about(path, "no line of it names an origin"));
        };
        let mut plan = Self {
            origin: origin.map_or_else(|| node(&first.origin), Path::to_owned),
            snapshots: Vec::new(),
            merge: None,
            lengths: Vec::new(),
            alias: None,
        };
        for line in &lines {
            plan.take(line).map_err(|found| about(line.number, &found))?;
            plan.lengths.push(Length {
                line: format!("{}:{}", path.display(), line.number),
                sectors: line.len_sectors,
                is_origin: line.target == Target::Origin,
            });
        }
        plan.refuse_same()?;
        Ok(plan)
    }

    /// Adds what an origin of LVM's has of snapshots, under their own names, unless they were named
    /// already: a write to the origin must not change what they show. What LVM merges is merged.
    pub(super) async fn add_those_of_lvm(&mut self) -> Result<(), Failure> {
        let about = |found: String| Failure::about(&self.origin, found);
        let Place::Volume(origin) = place(&self.origin).map_err(about)? else { return Ok(()) };
        self.alias = Some(origin.name.volume.clone());
        let scan = Scan::look(&origin.images, warn).await?;
        let group = scan.group_of(&origin.name)?;
        for found in group.snapshots_of(&origin.name.volume).await? {
            let (name, images) = (found.name.volume.clone(), origin.images.clone());
            let place = Place::Volume(Address { images, name: found.name });
            let known =
                |spec: &Spec| self::place(&spec.cow).is_ok_and(|it| overlap(&it, &place).is_some());
            let known =
                self.snapshots.iter().find(|spec| known(spec)).map(|spec| spec.name.clone());
            if !found.valid {
                tell(Failure::of(&name, "was dropped before: it is not served"));
                continue;
            }
            let len_bytes = Some(found.len_bytes);
            let served = match known {
                Some(served) => {
                    let same = self.snapshots.iter_mut().filter(|spec| spec.name == served);
                    same.for_each(|spec| spec.options.len_bytes = len_bytes);
                    served
                }
                None => {
                    refuse_reserved(&name).map_err(|it| Failure::of("--snapshot", it))?;
                    let cow = place.into_os_string().into();
                    let options = SnapshotOptions { len_bytes, ..SnapshotOptions::default() };
                    let store = Store::Persistent;
                    self.snapshots.push(Spec { name: name.clone(), cow, store, options });
                    name
                }
            };
            if found.merging {
                self.merge = Some(served);
            }
        }
        Ok(())
    }

    /// Every export needs a name of its own.
    pub(super) fn refuse_double_names(&self) -> Result<(), Failure> {
        let names = self.alias.iter().chain(self.snapshots.iter().map(|spec| &spec.name));
        let names: Vec<_> = names.collect();
        match names.iter().enumerate().find(|(n, name)| names[..*n].contains(name)) {
            None => Ok(()),
            Some((_, name)) => {
                let found = format_args!("found the name `{name}` twice");
                Err(Failure::of("--snapshot", found).advise("give each one its own"))
            }
        }
    }

    /// Whether a snapshot of this name is planned.
    pub(super) fn has(&self, name: &str) -> bool {
        self.snapshots.iter().any(|spec| spec.name == name)
    }

    /// The snapshots and their COW devices.
    pub(super) fn cows(&self) -> Vec<(String, PathBuf)> {
        self.snapshots.iter().map(|spec| (spec.name.clone(), spec.cow.clone())).collect()
    }

    /// Takes one line over. Everything that can be said without opening a device is said here.
    fn take(&mut self, line: &Line) -> Result<(), String> {
        let (origin, planned) = (line.origin.display(), self.origin.display());
        let same = match (place(&node(&line.origin))?, place(&self.origin)?) {
            (Place::Path(found), Place::Path(expected)) => is_same(&found, &expected)
                .map_err(|error| format!("found the origin {origin}: {error}"))?,
            (found, expected) => overlap(&found, &expected).is_some(),
        };
        if !same {
            return Err(format!(
                "found the origin {origin}, expected {planned}; one server has one origin"
            ));
        }
        let Target::Snapshot(snapshot) = &line.target else { return Ok(()) };
        let spec = Spec::from_table(line, snapshot)?;
        if self.snapshots.iter().any(|other| other.name == spec.name) {
            return Err(format!("found the name `{}` again, expected another one", spec.name));
        }
        if snapshot.merges && self.merge.replace(spec.name.clone()).is_some() {
            return Err("found another snapshot-merge; only one snapshot merges at a time".into());
        }
        self.snapshots.push(spec);
        Ok(())
    }

    /// Writing to one name must not change what is read through another.
    fn refuse_same(&self) -> Result<(), Failure> {
        let cows = self.snapshots.iter().map(|spec| &spec.cow);
        let paths: Vec<_> = [&self.origin].into_iter().chain(cows).collect();
        for (n, path) in paths.iter().enumerate() {
            for other in &paths[..n] {
                let named = |path: &Path| place(path).map_err(|it| Failure::about(path, it));
                if let Some(found) = overlap(&named(other)?, &named(path)?) {
                    return Err(Failure::about(path, found).advise("each must be its own"));
                }
            }
        }
        Ok(())
    }

    /// Opens everything before any store is made.
    pub(super) async fn open(
        self,
        mode: Mode,
        caching: Caching,
        merge: Option<&str>,
    ) -> Result<Rc<Disk>, Failure> {
        let volumes = Volumes::new(warn);
        let open = async |path: &Path, which: Which, mode: Mode| {
            let place = place(path).map_err(|found| Failure::about(path, found))?;
            open_place(&volumes, &place, which, mode, caching).await
        };
        let origin = open(&self.origin, Which::Origin, mode).await?;
        warn_of_image(self.origin.display(), &origin).await;
        let volume = Volume::new(origin).map_err(|error| Failure::about(&self.origin, error))?;
        let forgotten = volume.forget_cached().await;
        forgotten.map_err(|error| Failure::about(&self.origin, error))?;
        let sectors = volume.len_bytes() / SECTOR_BYTES;
        if sectors == 0 {
            return Err(Failure::about(&self.origin, "is empty").advise("is it the origin?"));
        }
        let wrong = |it: &&Length| it.sectors > sectors || it.is_origin && it.sectors != sectors;
        if let Some(Length { line, sectors: found, is_origin }) = self.lengths.iter().find(wrong) {
            let expected = if *is_origin { "the" } else { "at most the" };
            let origin = self.origin.display();
            let found = format!("found the length {found}, expected {expected} {sectors} sectors");
            return Err(Failure::of(line, format_args!("{found} of {origin}")));
        }
        let mut cows = Vec::new();
        for spec in self.snapshots {
            let cow = open(&spec.cow, Which::Cow, spec.mode(mode)).await?;
            cows.push((spec, cow));
        }
        for (spec, cow) in cows {
            if merge == Some(&spec.name) && mode == Mode::Write {
                refuse_store(&self.origin, &volume).await?;
            }
            spec.add_to(&volume, cow, mode).await?;
        }
        Ok(Rc::new(volume))
    }
}
