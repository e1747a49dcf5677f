use std::path::PathBuf;

use dmsnap::ops::{Kept, MergeOptions, MergePlan, Merged, Observer};

use crate::data::DataMerge;
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

    /// Merges.
    ///
    /// # Ordering
    ///
    /// 1. the old metadata text goes to a file, durably
    /// 2. the metadata says that the snapshot merges, durably: see [`Rewrite::mark`]
    /// 3. the data is merged, durably, window by window
    /// 4. the metadata without the snapshot is written: see [`Rewrite::finish`]
    ///
    /// A crash in 2 leaves the group of before, or one that merges and in which nothing is merged yet.
    /// One in 3 leaves origin and store consistent together, in a group that merges; one between 3 and 4
    /// the same with an empty store. The same merge goes on, and so does LVM.
    ///
    /// # Errors
    ///
    /// What a file or a device says, in each of the steps.
    pub async fn run(self, observer: &impl Observer) -> Result<GroupMerged, MergeError> {
        let Self { data, rewrite, options, group_options, .. } = self;
        let before = |error| MergeError { error, is_under_way: false };
        let backup = group_options.backup.as_deref();
        let backup = rewrite.as_ref().map(|it| it.back_up(backup)).transpose().map_err(before)?;
        if let Some(rewrite) = &rewrite {
            rewrite.mark().await.map_err(before)?;
        }
        let ran = data.run(options, group_options.drop_full, observer).await;
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
        Ok(GroupMerged { merged, others, metadata })
    }
}
