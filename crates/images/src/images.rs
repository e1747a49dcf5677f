use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dmsnap::device::{Caching, File, Identity, Mode, Shared};

use crate::error::ImageError;
use crate::files::{Warn, open_file};

/// Disks and images. Each is opened and locked once, whatever lies on it.
pub struct Images {
    pub(crate) warn: Warn,
    open: RefCell<Vec<(Identity, Rc<Shared<File>>)>>,
}

/// A disk or an image, by the path that the caller gave.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) path: PathBuf,
    pub(crate) file: Rc<Shared<File>>,
}

impl Images {
    /// None is open yet. `warn` hears what may go wrong with one that can be opened.
    pub fn new(warn: Warn) -> Self {
        Self { warn, open: RefCell::default() }
    }

    /// The mode of the first opening holds: a task has one for all its volumes.
    pub(crate) async fn open(
        &self,
        path: &Path,
        mode: Mode,
        caching: Caching,
    ) -> Result<Rc<Shared<File>>, ImageError> {
        // What cannot be looked at cannot be opened either, and opening says why.
        let known = Identity::of(path).ok().and_then(|identity| self.find(identity));
        if let Some(known) = known {
            return Ok(known);
        }
        let file = open_file(path, mode, caching, self.warn).await?;
        let identity = file.identity().map_err(ImageError::io(path))?;
        let file = Rc::new(Shared::new(file));
        self.open.borrow_mut().push((identity, file.clone()));
        Ok(file)
    }

    fn find(&self, identity: Identity) -> Option<Rc<Shared<File>>> {
        let open = self.open.borrow();
        open.iter().find(|(known, _)| known.overlaps(&identity)).map(|(_, file)| file.clone())
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images").field("open", &self.open).finish_non_exhaustive()
    }
}
