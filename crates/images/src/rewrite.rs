use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use dmsnap::device::{self, Device, Shared, new_file_of};
use dmsnap_lvm::{MergeRewrites, Stamp, Step};
use rustix::fs::Access;

use crate::error::{ImageError, ImageErrorKind};
use crate::group::Group;

/// By how much a text may become shorter when a merge is marked in it: who wrote it is named anew.
const MARK_BYTES: u64 = 64 << 10;

/// What a merge does to the metadata of a group, ready to be written.
#[derive(Debug)]
pub struct Rewrite<'a> {
    group: Group<'a>,
    snapshot: String,
    steps: MergeRewrites,
}

impl<'a> Rewrite<'a> {
    /// Everything that would refuse a rewrite refuses here.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::Rewrite`]
    pub fn plan(group: Group<'a>, snapshot: &str) -> Result<Self, ImageError> {
        let stamp = |done| Stamp {
            description: format!("{done} {}/{snapshot} with dmsnap.", group.found.vg.name),
            host: host(),
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        };
        let steps = group.found.merge(snapshot, &stamp("Merging"), &stamp("Merged"));
        let steps = steps.map_err(|error| group.error(snapshot, ImageErrorKind::Rewrite(error)))?;
        Ok(Self { group, snapshot: snapshot.to_owned(), steps })
    }

    /// Refuses to keep the metadata text where something else is, or where nothing can be made. The
    /// file is `wanted`, or `IMAGE.VG-NUMBER.vg` (for a disk `VG-NUMBER.vg` in the current directory),
    /// with the number of the text.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::BackupExists`] and [`ImageErrorKind::Backup`].
    pub fn refuse_back_up(&self, wanted: Option<&Path>) -> Result<(), ImageError> {
        let path = self.backup(wanted);
        match path.symlink_metadata() {
            // A merge that goes on has written it before.
            Ok(_) if self.is_kept_in(&path) => Ok(()),
            Ok(_) => Err(ImageError::about(&path, ImageErrorKind::BackupExists)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new("."));
                rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)
                    .map_err(|error| no_backup(&path, error.into()))
            }
            Err(error) => Err(no_backup(&path, error)),
        }
    }

    /// Writes the metadata text of before the merge to a file, durably, and says which.
    ///
    /// # Errors
    ///
    /// As [`refuse_back_up`](Self::refuse_back_up). There is no new file then.
    pub fn back_up(&self, wanted: Option<&Path>) -> Result<PathBuf, ImageError> {
        self.refuse_back_up(wanted)?;
        let path = self.backup(wanted);
        match new_file_of(&path, self.access(), &self.group.found.text) {
            Ok(()) => Ok(path),
            // The right text, kept before.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.refuse_back_up(wanted).map(|()| path)
            }
            Err(error) => Err(no_backup(&path, error)),
        }
    }

    /// What was kept when the merge began is worth more than the text that says it merges.
    fn backup(&self, wanted: Option<&Path>) -> PathBuf {
        let seqno = self.group.found.vg.seqno;
        let default = || {
            let before = self.next_to_image(seqno.saturating_sub(1));
            if self.is_kept_in(&before) { before } else { self.next_to_image(seqno) }
        };
        wanted.map_or_else(default, Path::to_owned)
    }

    /// Who may read the image may read what its metadata was.
    fn access(&self) -> device::Access {
        self.group
            .first_image()
            .and_then(|image| device::Access::like(image).ok())
            .unwrap_or_default()
    }

    /// Whether a file holds the text in force, or the one that was when this merge was marked.
    fn is_kept_in(&self, path: &Path) -> bool {
        let group = &self.group.found;
        let most = group.text.len() as u64 + MARK_BYTES;
        let is_like =
            |path: &Path| path.metadata().is_ok_and(|it| it.is_file() && it.len() <= most);
        is_like(path)
            && fs::read(path).is_ok_and(|text| {
                text == group.text || group.is_marked_since(&text, &self.snapshot)
            })
    }

    /// `IMAGE.VG-NUMBER.vg`
    fn next_to_image(&self, seqno: u64) -> PathBuf {
        let vg = &self.group.found.vg;
        let image = self.group.first_image().unwrap_or(Path::new(""));
        let own = format!("{}-{seqno}.vg", vg.name);
        match (image.is_file(), image.file_name()) {
            (true, Some(name)) => {
                let mut name = name.to_owned();
                name.push(format!(".{own}"));
                image.with_file_name(name)
            }
            _ => own.into(),
        }
    }

    /// Writes to all disks that the snapshot merges, unless they say so already. To be done before
    /// the first byte of the origin changes.
    ///
    /// # Ordering
    ///
    /// As [`finish`](Self::finish). A crash in it leaves the group of before or the marked one, and
    /// no data was changed.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::WriteMetadata`]: the group is as after a crash.
    pub async fn mark(&self) -> Result<(), ImageError> {
        match &self.steps.mark {
            Some(mark) => self.write(mark, false).await,
            None => Ok(()),
        }
    }

    /// Writes the group without the snapshot to all disks, and says which number the metadata has.
    ///
    /// # Ordering
    ///
    /// 1. the text, to the free part of every metadata area; flush
    /// 2. every area's header: the old text is live, the new one precommitted; flush
    /// 3. area by area its header: the new text is live; flush
    ///
    /// A crash before 3 leaves the old group, one in 3 the new one.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::WriteMetadata`]: the group is as after a crash.
    pub async fn finish(&self) -> Result<u64, ImageError> {
        self.write(&self.steps.finish, true).await?;
        Ok(self.group.found.vg.seqno + 1 + u64::from(self.steps.mark.is_some()))
    }

    async fn write(&self, rewrite: &dmsnap_lvm::Rewrite, merged: bool) -> Result<(), ImageError> {
        for step in &rewrite.steps {
            let (disk, done) = match step {
                Step::Write { disk, start, bytes } => {
                    (*disk, self.file(*disk).write(*start, bytes.clone().into()).await)
                }
                Step::Flush { disk } => (*disk, self.file(*disk).flush().await),
                step => unreachable!("{step:?}"),
            };
            done.map_err(|source| {
                let kind = ImageErrorKind::WriteMetadata { merged, source };
                ImageError::about(&self.group.images[disk].path, kind)
            })?;
        }
        Ok(())
    }

    fn file(&self, disk: usize) -> &Shared<device::File> {
        &self.group.images[disk].file
    }
}

fn no_backup(path: &Path, error: io::Error) -> ImageError {
    ImageError::about(path, ImageErrorKind::Backup(error))
}

/// The name of this machine.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
