use std::path::PathBuf;

use dmsnap::device::AnyDevice;
use dmsnap::ops::{Kept, MergeOptions, MergePlan, Merged, Observer, UndoPlan};

use crate::data::{DataMerge, WayBack};
use crate::error::{ImageError, ImageErrorKind};
use crate::group::Group;
use crate::rewrite::Rewrite;

/// What a merge does to the volume group, besides moving data.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GroupOptions {
    /// The metadata stays as it is: the snapshot stays in the group, empty, and nothing in the group tells
    /// of a merge that was stopped.
    pub keep_metadata: bool,
    /// File for the old metadata text; `None` for `IMAGE.VG-NUMBER.vg`, see [`Rewrite::refuse_back_up`].
    pub backup: Option<PathBuf>,
    /// Another snapshot that has no room for what it shows is dropped, instead of refusing the merge.
    pub drop_full: bool,
}

impl GroupOptions {
    /// Sets [`keep_metadata`](Self::keep_metadata).
    #[must_use]
    pub fn keep_metadata(self, keep_metadata: bool) -> Self {
        Self { keep_metadata, ..self }
    }

    /// Sets [`backup`](Self::backup).
    #[must_use]
    pub fn backup(self, backup: Option<PathBuf>) -> Self {
        Self { backup, ..self }
    }

    /// Sets [`drop_full`](Self::drop_full).
    #[must_use]
    pub fn drop_full(self, drop_full: bool) -> Self {
        Self { drop_full, ..self }
    }
}

/// A merge of an LVM snapshot into its origin, with the metadata of their group: what `lvconvert --merge` and
/// the next activation do together. Everything that is refused was refused when there is one.
#[derive(Debug)]
pub struct Merge<'a> {
    data: DataMerge<'a>,
    rewrite: Option<Rewrite<'a>>,
    options: MergeOptions,
    group_options: GroupOptions,
    plan: MergePlan,
    others: Vec<Kept>,
}

/// What a [`Merge`] did.
#[derive(Debug)]
#[non_exhaustive]
pub struct GroupMerged {
    /// The data.
    pub merged: Merged,
    /// Other snapshots of the origin.
    pub others: Vec<Kept>,
    /// Chunks that were kept first, and their bytes; `None` without a way back.
    pub kept: Option<(u64, u64)>,
    /// The metadata without the snapshot; `None` if it stays as it is, or the merge was stopped before its end.
    pub metadata: Option<NewMetadata>,
}

/// Metadata that was written.
#[derive(Debug)]
#[non_exhaustive]
pub struct NewMetadata {
    /// The file with the text of before.
    pub backup: PathBuf,
    /// The number of the new text.
    pub seqno: u64,
}

/// Why a merge came to no end.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct MergeError {
    /// What was found.
    #[source]
    pub error: ImageError,
    /// The metadata says that the snapshot merges, and data may have moved: another merge goes on, and so
    /// does LVM when it activates the origin.
    pub is_under_way: bool,
}

impl<'a> Merge<'a> {
    /// Opens everything that has to do with it, and refuses what cannot be done. Writes nothing.
    ///
    /// # Errors
    ///
    /// As [`Rewrite::plan`], [`DataMerge::new`], [`DataMerge::plan`] and [`Rewrite::refuse_back_up`];
    /// [`ImageErrorKind::Short`] for volumes on a disk that was cut off; [`ImageErrorKind::NoRoom`] for
    /// another snapshot that would have to be dropped, unless it may be.
    pub async fn plan(
        group: Group<'a>,
        name: &str,
        options: MergeOptions,
        group_options: GroupOptions,
    ) -> Result<Self, ImageError> {
        let origin = &group.snapshot(name)?.origin;
        [name, origin].into_iter().try_for_each(|volume| group.refuse_short(volume))?;
        let rewrite = match group_options.keep_metadata {
            true => None,
            false => Some(Rewrite::plan(group, name)?),
        };
        let data = DataMerge::new(group, name).await?;
        let (plan, others) = data.plan(options).await?;
        if let Some(full) = others.iter().find(|it| !it.valid && !group_options.drop_full) {
            return Err(group.error(&full.name, ImageErrorKind::NoRoom { chunks: full.chunks }));
        }
        let backup = group_options.backup.as_deref();
        rewrite.as_ref().map_or(Ok(()), |it| it.refuse_back_up(backup))?;
        Ok(Self { data, rewrite, options, group_options, plan, others })
    }

    /// What it would do to the origin.
    pub fn data(&self) -> MergePlan {
        self.plan
    }

    /// What it would do to other snapshots of the origin.
    pub fn others(&self) -> &[Kept] {
        &self.others
    }

    /// What it would do with a way back: `undo` is looked at if it is there.
    ///
    /// # Errors
    ///
    /// As [`DataMerge::plan_undoable`].
    pub async fn plan_undoable(&self, undo: Option<&AnyDevice>) -> Result<UndoPlan, ImageError> {
        self.data.plan_undoable(undo, self.options).await
    }

    /// Merges; with a way back, if there is a place for it.
    ///
    /// # Ordering
    ///
    /// 1. the old metadata text goes to a file, durably
    /// 2. what the merge will write over is kept, if a way back is wanted: see [`DataMerge::keep`]
    /// 3. the metadata says that the snapshot merges, durably: see [`Rewrite::mark`]
    /// 4. the data is merged, durably, window by window
    /// 5. the metadata without the snapshot is written: see [`Rewrite::finish`]
    ///
    /// A crash in 2 or 3 leaves the group of before, or one that merges and in which nothing is merged yet.
    /// One in 4 leaves origin and store consistent together, in a group that merges; one between 4 and 5
    /// the same with an empty store. The same merge goes on, and so does LVM; from 3 on the way back stays right,
    /// no matter who does.
    ///
    /// # Errors
    ///
    /// What a file or a device says, in each of the steps.
    pub async fn run(
        self,
        way_back: Option<&WayBack>,
        observer: &impl Observer,
    ) -> Result<GroupMerged, MergeError> {
        let Self { data, rewrite, options, group_options, .. } = self;
        let before = |error| MergeError { error, is_under_way: false };
        let backup = group_options.backup.as_deref();
        let backup = rewrite.as_ref().map(|it| it.back_up(backup)).transpose().map_err(before)?;
        let kept = match way_back {
            Some(way_back) => Some(data.keep(way_back, options, observer).await.map_err(before)?),
            None => None,
        };
        if let Some(rewrite) = &rewrite {
            rewrite.mark().await.map_err(before)?;
        }
        let drop_full = group_options.drop_full;
        let ran = match way_back {
            Some(way_back) => data.run_undoable(way_back, options, drop_full, observer).await,
            None => data.run(options, drop_full, observer).await,
        };
        let (merged, others) =
            ran.map_err(|error| MergeError { error, is_under_way: rewrite.is_some() })?;
        let metadata = match (rewrite, backup) {
            (Some(rewrite), Some(backup)) if merged.finished => {
                // It says itself that the data is merged.
                let seqno = rewrite.finish().await.map_err(before)?;
                Some(NewMetadata { backup, seqno })
            }
            _ => None,
        };
        Ok(GroupMerged { merged, others, kept, metadata })
    }
}
