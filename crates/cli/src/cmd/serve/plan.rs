use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dmsnap::device::{Caching, Mode, is_same};
use dmsnap::format::{ChunkSize, SECTOR_BYTES, Tag, TagState};
use dmsnap::ops::Which;
use dmsnap_images::{Scan, Volumes};
use dmsnap_serve::{OnFull, SnapshotOptions, Volume, VolumeError, refuse_reserved};

use super::adding::add;
use super::disk::{Disk, make_file, node, origin_is_store, origin_looks_like_store};
use crate::cmd::spec::{NewStore, Spec, Store, device_arg};
use crate::device_arg::{Address, DeviceArg, is_address};
use crate::devices::{open_device, overlap};
use crate::files::NewFile;
use crate::formats::warn_of_image;
use crate::refusals::warn;
use crate::report::{Failure, tell};
use crate::table::{self, Line, Target};

/// What is served, told by options or by a table. Devices are named as on the command line, see
/// [`DeviceArg`].
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
    /// A store may be served without the other one of an undoable merge.
    pub(super) forget_undo: bool,
    /// The origin is not written, whatever is written to the COW devices.
    pub(super) keeps_origin: bool,
}

/// How long a line of a table makes the origin. A snapshot may be shorter or longer.
#[derive(Clone, Debug)]
struct Length {
    /// Where it stands.
    line: String,
    sectors: u64,
}

impl Plan {
    pub(super) fn of_options(origin: &Path, snapshots: &[Spec]) -> Result<Self, Failure> {
        let (origin, snapshots) = (origin.to_owned(), snapshots.to_vec());
        let (merge, lengths, alias) = (None, Vec::new(), None);
        let (forget_undo, keeps_origin) = (false, false);
        let plan = Self { origin, snapshots, merge, lengths, alias, forget_undo, keeps_origin };
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
            forget_undo: false,
            keeps_origin: false,
        };
        for line in &lines {
            plan.take(line).map_err(|found| about(line.number, &found))?;
            if line.target == Target::Origin {
                let (line, sectors) =
                    (format!("{}:{}", path.display(), line.number), line.len_sectors);
                plan.lengths.push(Length { line, sectors });
            }
        }
        plan.refuse_same()?;
        Ok(plan)
    }

    /// Adds the snapshots of an LVM origin, under their own names, unless they were named
    /// already: a write to the origin must not change what they show. What LVM merges is merged.
    pub(super) async fn add_those_of_lvm(&mut self) -> Result<(), Failure> {
        let about = |found: String| Failure::about(&self.origin, found);
        let DeviceArg::Volume(origin) = device_arg(&self.origin).map_err(about)? else {
            return Ok(());
        };
        self.alias = Some(origin.name.volume.clone());
        let scan = Scan::look(&origin.images, warn).await?;
        let group = scan.group_of(&origin.name)?;
        for found in group.snapshots_of(&origin.name.volume).await? {
            let (name, images) = (found.name.volume.clone(), origin.images.clone());
            let device = DeviceArg::Volume(Address { images, name: found.name });
            let known =
                |spec: &Spec| device_arg(&spec.cow).is_ok_and(|it| overlap(&it, &device).is_some());
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
                    refuse_reserved(&name).map_err(|error| Failure::of("--snapshot", error))?;
                    let cow = device.into_os_string().into();
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

    /// The origin may be another than the stores remember.
    pub(super) fn ignore_fences(&mut self) {
        self.snapshots.iter_mut().for_each(|spec| spec.options.ignore_fence = true);
    }

    /// The snapshots and their COW devices.
    pub(super) fn cows(&self) -> Vec<(String, PathBuf)> {
        self.snapshots.iter().map(|spec| (spec.name.clone(), spec.cow.clone())).collect()
    }

    /// The COW device of a snapshot.
    pub(super) fn cow_of(&self, name: &str) -> Option<PathBuf> {
        self.snapshots.iter().find(|spec| spec.name == name).map(|spec| spec.cow.clone())
    }

    /// One less; false if there was none of that name.
    pub(super) fn take_out(&mut self, name: &str) -> bool {
        let before = self.snapshots.len();
        self.snapshots.retain(|spec| spec.name != name);
        self.snapshots.len() < before
    }

    /// One more.
    pub(super) fn push(&mut self, spec: Spec) {
        self.snapshots.push(spec);
    }

    /// Refuses a path of what is served already.
    pub(super) fn refuse_known(&self, path: &Path) -> Result<(), Failure> {
        let cows = self.snapshots.iter().map(|spec| &spec.cow);
        let new = DeviceArg::from(path.to_owned());
        for known in [&self.origin].into_iter().chain(cows) {
            let known = device_arg(known).map_err(|it| Failure::about(known, it))?;
            if let Some(found) = overlap(&known, &new) {
                return Err(Failure::about(path, found).advise("each must be its own"));
            }
        }
        Ok(())
    }

    /// Takes one line over. Everything that can be said without opening a device is said here.
    fn take(&mut self, line: &Line) -> Result<(), String> {
        let (origin, planned) = (line.origin.display(), self.origin.display());
        let same = match (device_arg(&node(&line.origin))?, device_arg(&self.origin)?) {
            (DeviceArg::Path(found), DeviceArg::Path(expected)) => is_same(&found, &expected)
                .map_err(|error| format!("found the origin {origin}: {error}"))?,
            (found, expected) => overlap(&found, &expected).is_some(),
        };
        if !same {
            return Err(format!(
                "found the origin {origin}, expected {planned}; one server has one origin"
            ));
        }
        let Target::Snapshot(snapshot) = &line.target else { return Ok(()) };
        let spec = spec_of(line, snapshot)?;
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
                let named = |path: &Path| device_arg(path).map_err(|it| Failure::about(path, it));
                if let Some(found) = overlap(&named(other)?, &named(path)?) {
                    return Err(Failure::about(path, found).advise("each must be its own"));
                }
            }
        }
        Ok(())
    }

    /// Where clients may write to it at all, the origin is shared until they do, so that any number of servers can have
    /// overlays of it.
    fn origin_mode(&self, mode: Mode, merge: Option<&str>) -> Mode {
        match (mode, merge) {
            (Mode::Write, None) if self.keeps_origin => Mode::Read,
            (Mode::Write, None) => Mode::Share,
            (mode, _) => mode,
        }
    }

    fn refuse_other_length(&self, volume: &Disk) -> Result<(), Failure> {
        let sectors = volume.len_bytes() / SECTOR_BYTES;
        if sectors == 0 {
            return Err(Failure::about(&self.origin, "is empty").advise("is it the origin?"));
        }
        for spec in &self.snapshots {
            let bytes = volume.snapshot_bytes(&spec.options);
            let found = bytes.map_err(|error| Failure::about(&spec.cow, error))?;
            let origin = volume.len_bytes();
            // An origin that LVM says was longer has lost what its snapshot would show.
            if found > origin && is_address(&spec.cow) {
                return Err(Failure::about(&spec.cow, VolumeError::SizeTooLarge { found, origin }));
            }
        }
        match self.lengths.iter().find(|it| it.sectors != sectors) {
            None => Ok(()),
            Some(Length { line, sectors: found }) => {
                let origin = self.origin.display();
                let found = format!("found the length {found}, expected the {sectors} sectors");
                Err(Failure::of(line, format_args!("{found} of {origin}")))
            }
        }
    }

    /// Opens everything before any store is made. Files that are made for new stores go away again if not all of
    /// it can be served.
    pub(super) async fn open(
        self,
        mode: Mode,
        caching: Caching,
        merge: Option<&str>,
    ) -> Result<Rc<Disk>, Failure> {
        let volumes = Volumes::new(warn);
        let open = async |path: &Path, which: Which, mode: Mode| {
            let device = device_arg(path).map_err(|found| Failure::about(path, found))?;
            open_device(&volumes, &device, which, mode, caching).await
        };
        let origin = open(&self.origin, Which::Origin, self.origin_mode(mode, merge)).await?;
        warn_of_image(self.origin.display(), &origin).await;
        let volume = Volume::new(origin).map_err(|error| Failure::about(&self.origin, error))?;
        if self.keeps_origin && mode == Mode::Write {
            volume.keep_cached();
        }
        let forgotten = volume.forget_cached().await;
        forgotten.map_err(|error| Failure::about(&self.origin, error))?;
        self.refuse_other_length(&volume)?;
        let mut cows = Vec::new();
        for spec in &self.snapshots {
            let made = match mode {
                Mode::Write => make_file(spec, (&self.origin, volume.len_bytes()), caching).await?,
                _ => None,
            };
            let (cow, new) = match made {
                Some((cow, new)) => (cow, Some(new)),
                None => (open(&spec.cow, Which::Cow, spec.mode(mode)).await?, None),
            };
            cows.push((spec, cow, new));
        }
        let mut made = Vec::new();
        for (spec, cow, new) in cows {
            if merge == Some(&spec.name) && mode == Mode::Write {
                refuse_store(&self.origin, &volume).await?;
            }
            add(spec, &volume, cow, mode).await?;
            made.extend(new);
        }
        // All or none.
        made.into_iter().for_each(NewFile::keep);
        if mode == Mode::Write && !self.forget_undo {
            bind_partners(&self.origin, &volume).await?;
        }
        Ok(Rc::new(volume))
    }
}

/// The two stores of an undoable merge show what they should only together, once the origin is written.
async fn bind_partners(origin: &Path, volume: &Disk) -> Result<(), Failure> {
    let snapshots = volume.snapshots();
    let ids: Vec<_> = snapshots.iter().filter_map(|it| it.tag()).map(|tag| tag.id).collect();
    for snapshot in &snapshots {
        let Some(Tag { state: TagState::Merging | TagState::Undo, partner: Some(partner), .. }) =
            snapshot.tag()
        else {
            continue;
        };
        if !ids.contains(&partner) {
            let found = format_args!("shares an undoable merge with the store {partner}");
            return Err(Failure::of(snapshot.name(), found).advise(
                "serve both, or give the way back up with --forget-undo; --read-only serves it alone",
            ));
        }
        let needed = snapshot.need_partner().await;
        needed.map_err(|error| Failure::about(origin, error))?;
    }
    Ok(())
}

/// A line of a table.
fn spec_of(line: &Line, snapshot: &table::Snapshot) -> Result<Spec, String> {
    let name = line.name.as_deref();
    let file = || snapshot.cow.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.map(str::to_owned).or_else(file).unwrap_or_default();
    refuse_reserved(&name).map_err(|found| format!("{found}; put `NAME: ` before the line"))?;
    let store = match snapshot.store {
        table::Store::Persistent(asked) => {
            Store::MaybeNew(NewStore::new(asked, ChunkSize::KERNEL_DEFAULT))
        }
        table::Store::Transient(chunk_size) => Store::Transient(chunk_size),
    };
    let too_long =
        || format!("found the length {} sectors, which is not a number of bytes", line.len_sectors);
    let options = SnapshotOptions {
        len_bytes: Some(line.len_sectors.checked_mul(SECTOR_BYTES).ok_or_else(too_long)?),
        // A write to the origin drops it in kernels, with `P` and with `PO`.
        on_full: OnFull::Invalidate,
        discard_zeroes: snapshot.discard_zeroes,
        discard_passdown: snapshot.discard_passdown,
        ..SnapshotOptions::default()
    };
    Ok(Spec { name, cow: node(&snapshot.cow), store, options })
}

/// For a merge: refuses an origin that looks like a store.
async fn refuse_store(path: &Path, volume: &Disk) -> Result<(), Failure> {
    match origin_is_store(volume).await.map_err(|error| Failure::about(path, error))? {
        true => Err(origin_looks_like_store(path)),
        false => Ok(()),
    }
}
