use std::cell::RefCell;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dmsnap::device::{Access, AnyDevice, Caching, Device, File, Mode, is_open_elsewhere};
use dmsnap::ops;
use dmsnap_images::refuse_raid_member;
use dmsnap_serve::control::{
    Code, MakeStore, NewSnapshot, Refusal, StateChange, StoreOpener, WayBack,
};
use dmsnap_serve::{Snapshot, VolumeError};

use super::adding;
use super::disk::{Disk, not_made, origin_is_store, origin_looks_like_store};
use super::state::StateFile;
use super::way_back;
use crate::cmd::spec::{Spec, device_arg};
use crate::device_arg::DeviceArg;
use crate::devices::{access_of, overlap};
use crate::files::{NewFile, new_id, open_or_make};
use crate::report::Failure;
use crate::size;

/// Opens COW devices for clients of the control socket, as the command line would.
#[derive(Debug)]
pub(super) struct FileOpener {
    origin: PathBuf,
    mode: Mode,
    caching: Caching,
    ignore_fence: bool,
    forget_undo: bool,
    /// The COW devices that were opened, by the names of their snapshots. Some may be gone.
    cows: RefCell<Vec<(String, DeviceArg)>>,
    /// Where changes are kept, if they are.
    state: Option<Rc<StateFile>>,
}

impl FileOpener {
    pub(super) fn new(
        (origin, cows): (&Path, &[(String, PathBuf)]),
        mode: Mode,
        caching: Caching,
    ) -> Self {
        let cows = cows.iter().map(|(name, cow)| (name.clone(), named(cow))).collect();
        let (origin, cows) = (origin.to_owned(), RefCell::new(cows));
        let (ignore_fence, forget_undo, state) = (false, false, None);
        Self { origin, mode, caching, ignore_fence, forget_undo, cows, state }
    }

    /// One store of an undoable merge may be added without the other.
    pub(super) fn forgetting_undo(self, forget_undo: bool) -> Self {
        Self { forget_undo, ..self }
    }

    /// The origin may be another than a store remembers.
    pub(super) fn ignoring_fences(self, ignore_fence: bool) -> Self {
        Self { ignore_fence, ..self }
    }

    /// What clients change is kept there.
    pub(super) fn keeping(self, state: Option<Rc<StateFile>>) -> Self {
        Self { state, ..self }
    }

    /// Makes a store. A file that is made for it goes away again unless it is kept.
    async fn make<'a>(
        &self,
        cow: &'a Path,
        make: MakeStore,
    ) -> Result<Option<NewFile<'a>>, Failure> {
        let chunk_size = size::parse_chunk_size(&make.chunk_bytes.to_string());
        let chunk_size = chunk_size.map_err(|found| Failure::about(cow, found))?;
        let wanted = make.size_bytes.map(size::whole_sectors).transpose();
        let wanted = wanted.map_err(|found| Failure::about(cow, found))?;
        let access = access_of(&named(&self.origin));
        refuse_readers(cow).await?;
        let (file, new) = open_or_make(cow, wanted, self.caching, access).await?;
        if new.is_none() {
            refuse_strangers(cow, &file, access)?;
        }
        let made = ops::create(&file, chunk_size, false).await;
        made.map_err(|error| not_made(cow, &error))?;
        Ok(new)
    }

    fn refuse(&self, volume: &Disk, wanted: &NewSnapshot) -> Result<(), Refusal> {
        let cow = Path::new(&wanted.cow);
        if wanted.make.is_some() && wanted.transient_chunk_bytes.is_some() {
            return Err(Refusal::new(
                Code::BadRequest,
                "a transient snapshot has no store to make",
            ));
        }
        if wanted.make.is_some() && self.mode != Mode::Write {
            return Err(Refusal::read_only());
        }
        self.refuse_same(volume, cow)
    }

    fn refuse_same(&self, volume: &Disk, cow: &Path) -> Result<(), Refusal> {
        match self.same(volume, &DeviceArg::from(cow.to_owned())) {
            Some(of) => {
                let found = format_args!("the same file or device as {of}, or a part of it");
                let failure = Failure::about(cow, found).advise("each must be its own");
                Err(Refusal::new(Code::Refused, failure))
            }
            None => Ok(()),
        }
    }

    /// The device for a way back: a new file of `size` bytes, or what is there, if that is nothing.
    async fn way_back_device<'a>(
        &self,
        cow: &'a Path,
        size: way_back::Size,
    ) -> Result<(File, Option<NewFile<'a>>), Failure> {
        let access = access_of(&named(&self.origin));
        refuse_readers(cow).await?;
        match cow.symlink_metadata() {
            Ok(_) => {
                let (file, _) = open_or_make(cow, None, self.caching, access).await?;
                refuse_strangers(cow, &file, access)?;
                refuse_raid_member(cow, &file).await?;
                size.refuse_unusable(cow, &file).await?;
                Ok((file, None))
            }
            Err(_) => {
                size.refuse_full(cow)?;
                let (file, new) =
                    NewFile::create_in_place(cow, size.new_bytes, self.caching, access).await?;
                Ok((file, Some(new)))
            }
        }
    }

    /// What this server has open already of what `cow` is.
    fn same(&self, volume: &Disk, cow: &DeviceArg) -> Option<String> {
        if overlap(&named(&self.origin), cow).is_some() {
            return Some("the origin".into());
        }
        let mut cows = self.cows.borrow_mut();
        cows.retain(|(name, _)| volume.snapshot(name).is_some());
        let found = cows.iter().find(|(_, known)| overlap(known, cow).is_some());
        found.map(|(name, _)| format!("the COW device of {name}"))
    }
}

/// What the command line named, and took for a device already.
fn named(name: &Path) -> DeviceArg {
    device_arg(name).unwrap_or_else(|_| DeviceArg::from(name.to_owned()))
}

/// A file that is there already and is to become a store: the old data of the origin goes there, so nobody may
/// be able to read it who may not read the origin, as its owner or by its mode.
fn refuse_strangers(cow: &Path, file: &File, access: Access) -> Result<(), Failure> {
    let metadata = file.metadata().map_err(|error| Failure::about(cow, error))?;
    if !metadata.is_file() {
        return Ok(());
    }
    let own = rustix::process::geteuid().as_raw();
    let uid = metadata.uid();
    if uid != own && uid != 0 && Some(uid) != access.uid() {
        return Err(no_place(cow, format_args!("belongs to user {uid}, who may read it")));
    }
    match access.exceeded_by(metadata.mode()) {
        0 => Ok(()),
        _ => {
            let mode = metadata.mode() & 0o7777;
            let found = format_args!("others than the origin's may read it (mode {mode:04o})");
            Err(no_place(cow, found))
        }
    }
}

/// A process that has the file open reads what is written to it later, whatever its mode is then.
async fn refuse_readers(cow: &Path) -> Result<(), Failure> {
    match is_open_elsewhere(cow).await {
        Ok(true) => {
            Err(no_place(cow, format_args!("in use by another process, which has it open")))
        }
        // Or opening says why not.
        _ => Ok(()),
    }
}

fn no_place(cow: &Path, found: fmt::Arguments<'_>) -> Failure {
    Failure::about(cow, found).advise("give a path where there is no file")
}

impl StoreOpener<AnyDevice, AnyDevice> for FileOpener {
    async fn open(
        &self,
        volume: &Disk,
        wanted: &NewSnapshot,
    ) -> Result<Rc<Snapshot<AnyDevice>>, Refusal> {
        self.refuse(volume, wanted)?;
        let spec = Spec::of_request(wanted);
        let mut spec = spec.map_err(|found| Refusal::new(Code::BadRequest, found))?;
        spec.options.ignore_fence = self.ignore_fence;
        let cow = Path::new(&wanted.cow);
        let opening = async {
            let made = match wanted.make {
                Some(make) => self.make(cow, make).await?,
                None if self.mode == Mode::Write && !self.forget_undo => {
                    way_back::refuse_shared(cow).await?;
                    None
                }
                None => None,
            };
            adding::open(&spec, volume, self.mode, self.caching).await?;
            if let Some(new) = made {
                new.keep();
            }
            Ok(())
        };
        let opened: Result<(), Failure> = opening.await;
        opened.map_err(|failure| Refusal::new(Code::Refused, failure))?;
        let gone = || Refusal::new(Code::Busy, "it was removed in the meantime");
        let snapshot = volume.snapshot(&wanted.name).ok_or_else(gone)?;
        self.cows.borrow_mut().push((wanted.name.clone(), DeviceArg::from(cow.to_owned())));
        Ok(snapshot)
    }

    async fn open_way_back(
        &self,
        volume: &Disk,
        snapshot: &Rc<Snapshot<AnyDevice>>,
        (name, wanted): (&str, &WayBack),
    ) -> Result<Rc<Snapshot<AnyDevice>>, Refusal> {
        if self.mode != Mode::Write {
            return Err(Refusal::read_only());
        }
        let cow = Path::new(&wanted.cow);
        self.refuse_same(volume, cow)?;
        let refused = |failure: Failure| Refusal::new(Code::Refused, failure);
        let size = way_back::Size::of(snapshot, volume.len_bytes(), wanted.max_size_bytes);
        let size = size.map_err(|found| refused(Failure::about(cow, found)))?;
        let (file, new) = self.way_back_device(cow, size).await.map_err(refused)?;
        let ids = [new_id().map_err(refused)?, new_id().map_err(refused)?];
        let device = (name, AnyDevice::from(file));
        let added = volume.add_way_back(snapshot, device, ids, size.options()).await;
        let added = added.map_err(|error| match error {
            VolumeError::HasWayBack { .. } | VolumeError::IsWayBack => {
                Refusal::of(snapshot.name(), error)
            }
            error => Refusal::of(&cow.display().to_string(), error),
        })?;
        if let Some(new) = new {
            new.keep();
        }
        self.cows.borrow_mut().push((name.into(), DeviceArg::from(cow.to_owned())));
        Ok(added)
    }

    async fn may_merge(&self, volume: &Disk) -> Result<(), Refusal> {
        let claimed = volume.origin_device().claim().await;
        claimed
            .map_err(|error| Refusal::new(Code::Refused, Failure::about(&self.origin, error)))?;
        match origin_is_store(volume).await {
            Ok(false) => Ok(()),
            Ok(true) => Err(Refusal::new(Code::Refused, origin_looks_like_store(&self.origin))),
            Err(error) => Err(Refusal::new(Code::Device, Failure::about(&self.origin, error))),
        }
    }

    async fn keep(&self, change: StateChange<'_>) -> Result<(), Refusal> {
        match &self.state {
            Some(state) => state.keep(change).await,
            None => Ok(()),
        }
    }
}
