use dmsnap::device::AnyDevice;
use dmsnap::format::StoreId;
use dmsnap::ops::{
    self, Kept, MergeOptions, MergePlan, Merged, Observer, Other, UndoOptions, UndoPlan, Which,
    keep_way_back, merge_keeping, merge_undoable, plan_merge_keeping, plan_merge_undoable,
};
use dmsnap::volume::OnFull;

use crate::error::{ImageError, ImageErrorKind};
use crate::group::Group;

/// The data of a merge of an LVM snapshot into its origin, which may have other snapshots. The metadata is
/// left alone: see [`Merge`](crate::Merge).
#[derive(Debug)]
pub struct DataMerge<'a> {
    group: Group<'a>,
    name: &'a str,
    cow: AnyDevice,
    origin: AnyDevice,
    /// Of what it shows. The origin may have become larger since: the rest is left alone.
    len_bytes: u64,
    /// Other snapshots of the same origin, none of them invalid.
    others: Vec<Other<AnyDevice>>,
}

impl<'a> DataMerge<'a> {
    /// Opens all volumes that have to do with it.
    ///
    /// # Errors
    ///
    /// The volume is not a snapshot, its origin is virtual, another snapshot merges into that origin, or a
    /// store cannot be read.
    pub async fn new(group: Group<'a>, name: &str) -> Result<Self, ImageError> {
        let vg = &group.found.vg;
        let snapshot = group.snapshot(name)?;
        if vg.has_virtual_origin(snapshot) {
            let origin = snapshot.origin.clone();
            return Err(group.error(name, ImageErrorKind::VirtualOrigin { origin }));
        }
        let mut others = Vec::new();
        for other in vg.snapshots_of(&snapshot.origin).filter(|other| other.name != name) {
            if other.merging {
                let origin = snapshot.origin.clone();
                return Err(group.error(&other.name, ImageErrorKind::OtherMerges { origin }));
            }
            let cow = group.device(&other.name)?;
            let info = ops::info(&cow).await;
            let info =
                info.map_err(|error| group.error(&other.name, ImageErrorKind::CannotKeep(error)))?;
            if info.valid {
                let len_bytes = Some(vg.snapshot_bytes(other));
                others.push(Other { name: other.name.clone(), cow, len_bytes });
            }
        }
        let (cow, origin) = (group.device(name)?, group.device(&snapshot.origin)?);
        let len_bytes = vg.snapshot_bytes(snapshot);
        Ok(Self { group, name: &snapshot.name, cow, origin, len_bytes, others })
    }

    /// What a merge would do, to the others as well. Writes nothing.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::Merge`] for what a merge refuses, [`ImageErrorKind::Store`] for what keeps
    /// another snapshot from being kept.
    pub async fn plan(&self, options: MergeOptions) -> Result<(MergePlan, Vec<Kept>), ImageError> {
        let options = MergeOptions { len_bytes: Some(self.len_bytes), ..options };
        let planned = plan_merge_keeping(&self.cow, &self.origin, &self.others, options).await;
        planned.map_err(|error| self.group.merge_error(self.name, error))
    }

    /// Brings the data to the origin. The others get what they show of it first, durably. One that
    /// has no room for that is dropped, if `drop_full`; else the merge ends there.
    ///
    /// # Ordering
    ///
    /// That of [`ops::merge`]; or of [`ops::merge_keeping`], if there are others.
    ///
    /// # Errors
    ///
    /// What [`plan`](Self::plan) refuses, before anything is written; later whatever a device says. Origin
    /// and store are one device as before then, and another merge goes on.
    pub async fn run(
        self,
        options: MergeOptions,
        drop_full: bool,
        observer: &impl Observer,
    ) -> Result<(Merged, Vec<Kept>), ImageError> {
        let options = MergeOptions { len_bytes: Some(self.len_bytes), ..options };
        let on_full = if drop_full { OnFull::Invalidate } else { OnFull::Fail };
        let Self { group, name, cow, origin, others, .. } = self;
        let merged = merge_keeping(cow, origin, others, options, on_full, observer).await;
        merged.map_err(|error| group.merge_error(name, error))
    }
}

/// Where the way back of a merge is kept, and the new names of the stores.
#[derive(Debug)]
pub struct WayBack {
    /// A blank device that is large enough, or the way back of this very merge.
    pub undo: AnyDevice,
    /// For the undo store, and for one that has no name yet.
    pub ids: [StoreId; 2],
}

/// The same with a way back.
impl DataMerge<'_> {
    fn undo_options(&self, options: MergeOptions, drop_full: bool) -> UndoOptions {
        let merge = MergeOptions { len_bytes: Some(self.len_bytes), ..options };
        let on_full = if drop_full { OnFull::Invalidate } else { OnFull::Fail };
        UndoOptions { merge, on_full, ..UndoOptions::default() }
    }

    /// What a merge with a way back would do. Writes nothing.
    ///
    /// # Errors
    ///
    /// As [`plan`](Self::plan); [`ImageErrorKind::WayBack`] of an undo store.
    pub async fn plan_undoable(
        &self,
        undo: Option<&AnyDevice>,
        options: MergeOptions,
    ) -> Result<UndoPlan, ImageError> {
        let options = self.undo_options(options, false);
        let pair = (&self.cow, &self.origin);
        let planned = plan_merge_undoable(pair, undo, &self.others, options).await;
        planned.map_err(|error| self.group.merge_error(self.name, error))
    }

    /// Keeps what the merge will write over, and changes nothing of the origin. Returns how many chunks were
    /// kept, and their bytes.
    ///
    /// # Ordering
    ///
    /// That of [`ops::keep_way_back`].
    ///
    /// # Errors
    ///
    /// As [`plan_undoable`](Self::plan_undoable); whatever a device says.
    pub async fn keep(
        &self,
        way_back: &WayBack,
        options: MergeOptions,
        observer: &impl Observer,
    ) -> Result<(u64, u64), ImageError> {
        let WayBack { undo, ids } = way_back;
        let options = self.undo_options(options, false);
        let (pair, undo) = ((&self.cow, &self.origin), (undo, *ids));
        let kept = keep_way_back(pair, undo, &self.others, options, observer).await;
        kept.map_err(|error| self.group.merge_error(self.name, error))
    }

    /// As [`run`](Self::run), when all is [kept](Self::keep).
    ///
    /// # Ordering
    ///
    /// That of [`ops::merge_undoable`].
    ///
    /// # Errors
    ///
    /// As there; the way back stays right.
    pub async fn run_undoable(
        self,
        way_back: &WayBack,
        options: MergeOptions,
        drop_full: bool,
        observer: &impl Observer,
    ) -> Result<(Merged, Vec<Kept>), ImageError> {
        let WayBack { undo, ids } = way_back;
        let options = self.undo_options(options, drop_full);
        let (pair, undo) = ((&self.cow, &self.origin), (undo, *ids));
        let merged = merge_undoable(pair, undo, &self.others, options, observer).await;
        let merged = merged.map_err(|error| self.group.merge_error(self.name, error))?;
        Ok((merged.merged, merged.others))
    }
}

impl Group<'_> {
    /// About a merge of this snapshot.
    fn merge_error(self, name: &str, error: ops::Error) -> ImageError {
        let vg = &self.found.vg;
        match (error.device(), error) {
            (_, ops::Error::Other { name, source }) => match *source {
                ops::Error::Live(error) => self.error(&name, ImageErrorKind::Io(error.into())),
                error => self.error(&name, ImageErrorKind::Store(error)),
            },
            (_, ops::Error::Live(error)) => self.error(name, ImageErrorKind::Io(error.into())),
            (Which::Undo, error) => self.error(name, ImageErrorKind::WayBack(error)),
            (Which::Origin, error) => {
                let origin = vg.snapshot(name).map_or(name, |it| &it.origin);
                self.error(origin, ImageErrorKind::Merge(error))
            }
            (_, error) => self.error(name, ImageErrorKind::Merge(error)),
        }
    }
}
