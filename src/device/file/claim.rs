use std::io;

use super::descent::Descent;
use super::error::OpenError;
use super::handle::File;
use super::handles::Handles;
use super::locks::{self, patiently};
use super::mode::Mode;
use super::open::open_for_writing;

impl File {
    /// The handles that a write goes through.
    ///
    /// # Errors
    ///
    /// As [`Device::claim`](crate::device::Device::claim).
    pub(super) async fn for_writing(&self) -> io::Result<&Handles> {
        match self.rights.mode {
            Mode::Write => Ok(&self.handles),
            Mode::Look | Mode::Read => Err(read_only("it was opened so")),
            Mode::Share => match self.writing.get() {
                Some(handles) => Ok(handles),
                None => self.claim_now().await,
            },
        }
    }

    /// Those that were written through, if any were.
    pub(super) fn written(&self) -> &Handles {
        self.writing.get().unwrap_or(&self.handles)
    }

    /// Whether it may be written by now.
    pub(super) fn has_writer(&self) -> bool {
        self.rights.mode == Mode::Write || self.writing.get().is_some()
    }

    /// Becomes the only one that has the file.
    ///
    /// # Ordering
    ///
    /// 1. what an opening for writing refuses without locks is looked for
    /// 2. the locks, of the file and of what is below a loop device
    /// 3. the file is opened for writing, and the page cache told to drop what it holds
    ///
    /// What fails leaves the file as it was, with the locks that it had.
    async fn claim_now(&self) -> io::Result<&Handles> {
        if let Some(found) = &self.rights.not_writable {
            return Err(read_only(found));
        }
        let _turn = self.rights.turn.acquire().await;
        if let Some(handles) = self.writing.get() {
            return Ok(handles);
        }
        let claimed = self.try_claim().await;
        self.rights.was_refused.set(claimed.is_err());
        let handles = claimed.map_err(|error| match error {
            OpenError::System(error) => error,
            error => {
                let found = format!("not written as long as others have it open: {error}");
                io::Error::new(io::ErrorKind::PermissionDenied, found)
            }
        })?;
        let handles = self.writing.get_or_init(|| handles);
        self.drop_cached().await?;
        Ok(handles)
    }

    async fn try_claim(&self) -> Result<Handles, OpenError> {
        let (path, held) = (&self.rights.path, &*self.handles.std);
        let descent = Descent::of(&held.metadata()?, Some(held));
        // Others are waited for a moment, but not at every write that they refuse.
        let patient = !self.rights.was_refused.get();
        let attempt = || open_for_writing(path, held, (self.is_disk, &descent));
        let file = if patient { patiently(attempt).await? } else { attempt()? };
        locks::raise(held, patient).await?;
        drop(self.below.take());
        let claimed = async {
            let below = locks::take_below(&descent, Mode::Write).await?;
            let ways = (self.is_disk, true);
            let handles = Handles::of(path, file, ways, self.rights.caching).await?;
            Ok((below, handles))
        };
        match claimed.await {
            Ok((below, handles)) => {
                self.below.replace(below);
                Ok(handles)
            }
            Err(error) => {
                locks::lower(held).await;
                let below = locks::take_below(&descent, Mode::Share).await;
                self.below.replace(below.ok().flatten());
                Err(error)
            }
        }
    }
}

fn read_only(found: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, format!("open for reading alone: {found}"))
}
