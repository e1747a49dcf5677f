use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use dmsnap::device::{Caching, File, Identity, Mode, Shared};

use super::in_use::loops_on;
use crate::devices::open_file;
use crate::report::{Failure, tell};

/// Disks and images. Each is opened and locked once, whatever lies on it.
#[derive(Debug, Default)]
pub(crate) struct Images {
    open: RefCell<Vec<(Identity, Rc<Shared<File>>)>>,
}

impl Images {
    /// The mode is that of whoever is first: a command has one for all its volumes.
    pub(super) async fn open(
        &self,
        path: &Path,
        mode: Mode,
        caching: Caching,
    ) -> Result<Rc<Shared<File>>, Failure> {
        let failed = |error| Failure::about(path, error);
        // What cannot be looked at cannot be opened either, and opening says why.
        let known = Identity::of(path).ok().and_then(|identity| self.find(identity));
        if let Some(known) = known {
            return Ok(known);
        }
        let file = open_file(path, mode, caching).await?;
        let identity = file.identity().map_err(failed)?;
        if path.metadata().map_err(failed)?.is_file() {
            look_for_loops(path, identity, mode)?;
        }
        let file = Rc::new(Shared::new(file));
        self.open.borrow_mut().push((identity, file.clone()));
        Ok(file)
    }

    fn find(&self, identity: Identity) -> Option<Rc<Shared<File>>> {
        let open = self.open.borrow();
        open.iter().find(|(known, _)| *known == identity).map(|(_, file)| file.clone())
    }
}

/// What the kernel has on a loop device is not to be written below it; read, it may be of different
/// moments.
fn look_for_loops(path: &Path, identity: Identity, mode: Mode) -> Result<(), Failure> {
    for it in loops_on(identity) {
        let node = it.node.display();
        if mode == Mode::Write {
            return Err(Failure::about(path, format_args!("in use: {node} is attached to it"))
                .advise(format_args!("deactivate what lies on it, then `losetup -d {node}`")));
        }
        if it.held && mode == Mode::Read {
            let found = "warning: what is read may be of different moments";
            tell(Failure::about(path, format_args!("{found}: it is in use through {node}")));
        }
    }
    Ok(())
}
