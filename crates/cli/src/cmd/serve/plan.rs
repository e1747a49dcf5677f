use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;

use dmsnap::device::{AnyDevice, Caching, Device, Mode, is_same};
use dmsnap::format::{ChunkSize, MAGIC, SECTOR_BYTES};
use dmsnap::ops::{self, Error, Which};
use dmsnap_serve::control::{NewSnapshot, OnFullText};
use dmsnap_serve::{ORIGIN, OnFull, SnapshotOptions, Volume};
use rustix::fs::{major, minor};

use crate::devices::{open_file, overlap};
use crate::lvm::Volumes;
use crate::place::Place;
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
    /// Where it was promised, and how long the origin is, in sectors.
    promised: Option<(String, u64)>,
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

/// What the COW device holds.
#[derive(Clone, Copy, Debug)]
enum Store {
    Persistent,
    /// The same, made first if the device is blank. `None` stands for the default chunk size.
    MaybeNew(Option<ChunkSize>),
    Transient(ChunkSize),
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text
            .split_once('=')
            .ok_or_else(|| format!("found `{text}`; a snapshot is NAME=COW[,OPTION]..."))?;
        refuse_reserved(name)?;
        if rest.is_empty() || rest.starts_with(',') {
            return Err(format!("found no COW device in `{text}`; it is NAME=COW[,OPTION]..."));
        }
        let (cow, mut parts) = Place::take(rest)?;
        let cow = PathBuf::from(cow.to_string());
        let options = SnapshotOptions::default();
        let mut spec = Self { name: name.into(), cow, store: Store::Persistent, options };
        parts.try_for_each(|part| spec.option(part))?;
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
        let cow = AnyDevice::from(open_file(&self.cow, self.mode(mode), caching).await?);
        self.add_to(volume, cow, mode).await
    }

    fn from_table(name: Option<&str>, snapshot: &table::Snapshot) -> Result<Self, String> {
        let file = || snapshot.cow.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.map(str::to_owned).or_else(file).unwrap_or_default();
        refuse_reserved(&name).map_err(|found| format!("{found}; put `NAME: ` before the line"))?;
        let store = match snapshot.store {
            table::Store::Persistent(chunk_size) => Store::MaybeNew(chunk_size),
            table::Store::Transient(chunk_size) => Store::Transient(chunk_size),
        };
        let options = SnapshotOptions {
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
        let failed = |error| Failure::about(&self.cow, error);
        // Whatever it is that cannot be read, the next one says it.
        let is_store = begins_with_store(volume).await.unwrap_or(false);
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
        match self.store {
            Store::Persistent | Store::MaybeNew(_) if mode != Mode::Write => {
                volume.open_read_only(name, cow, options).await.map_err(failed)?;
            }
            Store::Transient(chunk_size) => {
                volume.open_transient(name, cow, chunk_size, options).await.map_err(failed)?;
            }
            Store::Persistent => {
                ops::open_snapshot(volume, name, cow, options).await.map_err(refused)?;
            }
            Store::MaybeNew(wanted) => {
                make_if_blank(&self.cow, &cow, wanted).await?;
                let added = ops::open_snapshot(volume, name, cow, options).await;
                let found = added.map_err(refused)?.chunk_size();
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

/// The device node, also where nobody keeps links to all of them by their numbers.
fn node(path: &Path) -> PathBuf {
    let named = || {
        let numbers = path.strip_prefix(table::BY_NUMBER).ok().filter(|_| !path.exists())?;
        let numbers = numbers.to_str()?;
        let uevent = fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).ok()?;
        let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        let node = Path::new("/dev").join(name);
        // The name may be left over from another device.
        let metadata = fs::metadata(&node).ok()?;
        let rdev = metadata.rdev();
        let same = format!("{}:{}", major(rdev), minor(rdev)) == numbers;
        (metadata.file_type().is_block_device() && same).then_some(node)
    };
    named().unwrap_or_else(|| path.to_owned())
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
    const MAGIC_BYTES: usize = 4;
    const DEFAULT_SECTORS: u32 = 32;
    let magic = cow.read(0, MAGIC_BYTES).await.map_err(|error| Failure::about(path, error))?;
    if magic.iter().any(|byte| *byte != 0) {
        return Ok(());
    }
    let chunk_size = match wanted {
        Some(wanted) => Ok(wanted),
        None => ChunkSize::from_sectors(DEFAULT_SECTORS),
    };
    let chunk_size = chunk_size.map_err(|error| Failure::about(path, error))?;
    match ops::create(cow, chunk_size, false).await {
        Ok(_) => Ok(()),
        Err(Error::Refused(..)) => {
            let found = "its magic is zero, but its first 4 KiB are not";
            Err(Failure::about(path, found).advise("`dmsnap create --force` makes a store there"))
        }
        Err(error) => Err(Failure::about(path, error)),
    }
}

impl Plan {
    pub(super) fn of_options(origin: &Path, snapshots: &[Spec]) -> Result<Self, Failure> {
        let (origin, snapshots) = (origin.to_owned(), snapshots.to_vec());
        let plan = Self { origin, snapshots, merge: None, promised: None, alias: None };
        plan.refuse_same()?;
        Ok(plan)
    }

    /// `origin` is what the command line names besides, if it does.
    pub(super) fn of_table(path: &Path, origin: Option<&Path>) -> Result<Self, Failure> {
        let about =
            |line: usize, found: &str| Failure::of(&format!("{}:{line}", path.display()), found);
        let text = fs::read_to_string(path).map_err(|error| Failure::about(path, error))?;
        let lines = table::parse(&text);
        let lines = lines.map_err(|error| about(error.line, &error.to_string()))?;
        let Some(first) = lines.first() else {
            return Err(Failure::about(path, "no line of it names an origin"));
        };
        let mut plan = Self {
            origin: origin.map_or_else(|| node(&first.origin), Path::to_owned),
            snapshots: Vec::new(),
            merge: None,
            promised: Some((format!("{}:{}", path.display(), first.number), first.len_sectors)),
            alias: None,
        };
        for line in &lines {
            plan.take(line, first).map_err(|found| about(line.number, &found))?;
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
        for found in origin.snapshots().await? {
            let (name, place) = (found.address.name.volume.clone(), Place::Volume(found.address));
            let known =
                |spec: &Spec| self::place(&spec.cow).is_ok_and(|it| overlap(&it, &place).is_some());
            let known =
                self.snapshots.iter().find(|spec| known(spec)).map(|spec| spec.name.clone());
            if !found.valid {
                tell(Failure::of(&name, "was dropped before: it is not served"));
                continue;
            }
            let served = match known {
                Some(served) => served,
                None => {
                    refuse_reserved(&name).map_err(|it| Failure::of("--snapshot", it))?;
                    let (cow, options) = (place.to_string().into(), SnapshotOptions::default());
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
    fn take(&mut self, line: &Line, first: &Line) -> Result<(), String> {
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
        if line.len_sectors != first.len_sectors {
            let (found, expected) = (line.len_sectors, first.len_sectors);
            return Err(format!(
                "found the length {found}, expected {expected} sectors as in line {}",
                first.number
            ));
        }
        let Target::Snapshot(snapshot) = &line.target else { return Ok(()) };
        let spec = Spec::from_table(line.name.as_deref(), snapshot)?;
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
        let volumes = Volumes::default();
        let open = async |path: &Path, which: Which, mode: Mode| {
            let place = place(path).map_err(|found| Failure::about(path, found))?;
            volumes.open(&place, which, mode, caching).await
        };
        let origin = open(&self.origin, Which::Origin, mode).await?;
        let volume = Volume::new(origin).map_err(|error| Failure::about(&self.origin, error))?;
        let sectors = volume.len_bytes() / SECTOR_BYTES;
        if sectors == 0 {
            let len = volume.origin_device().len_bytes().unwrap_or(0);
            let found = format_args!("has {len} bytes, which is no whole sector");
            return Err(Failure::about(&self.origin, found).advise("is it the origin?"));
        }
        if let Some((line, found)) = self.promised.filter(|(_, promised)| *promised != sectors) {
            let origin = self.origin.display();
            let found = format!("found the length {found}, expected the {sectors} sectors");
            return Err(Failure::of(&line, format_args!("{found} of {origin}")));
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
