use std::path::{Path, PathBuf};
use std::rc::Rc;

use dmsnap::device::{AnyDevice, Caching, Device, Mode, is_same};
use dmsnap::format::MAGIC;
use dmsnap::ops::{self, Error};
use dmsnap_serve::Snapshot;
use dmsnap_serve::control::{Code, MakeStore, NewSnapshot, Opener, Refusal};

use super::plan::{Disk, Spec};
use crate::devices::{NewFile, open_or_make};
use crate::report::Failure;
use crate::size;

/// Opens COW devices for clients of the control socket, as the command line would.
#[derive(Debug)]
pub(super) struct Doors {
    origin: PathBuf,
    mode: Mode,
    caching: Caching,
}

impl Doors {
    pub(super) fn new(origin: &Path, mode: Mode, caching: Caching) -> Self {
        Self { origin: origin.to_owned(), mode, caching }
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
        let (file, new) = open_or_make(cow, wanted, self.caching).await?;
        let made = ops::create(&file, chunk_size, false).await;
        made.map_err(|error| Failure::about(cow, error))?;
        Ok(new)
    }

    fn refuse(&self, wanted: &NewSnapshot) -> Result<(), Refusal> {
        let cow = Path::new(&wanted.cow);
        if wanted.make.is_some() && wanted.transient_chunk_bytes.is_some() {
            return Err(Refusal::new(
                Code::BadRequest,
                "a transient snapshot has no store to make",
            ));
        }
        if wanted.make.is_some() && self.mode != Mode::Write {
            return Err(Refusal::new(Code::ReadOnly, "the server was started with --read-only"));
        }
        if is_same(cow, &self.origin).unwrap_or(false) {
            let found = Failure::about(cow, "the same file or device as the origin");
            return Err(Refusal::new(Code::Refused, found));
        }
        Ok(())
    }
}

impl Opener<AnyDevice, AnyDevice> for Doors {
    async fn open(
        &self,
        volume: &Disk,
        wanted: &NewSnapshot,
    ) -> Result<Rc<Snapshot<AnyDevice>>, Refusal> {
        self.refuse(wanted)?;
        let spec = Spec::of_request(wanted);
        let spec = spec.map_err(|found| Refusal::new(Code::BadRequest, found))?;
        let cow = Path::new(&wanted.cow);
        let opening = async {
            let made = match wanted.make {
                Some(make) => self.make(cow, make).await?,
                None => None,
            };
            spec.open(volume, self.mode, self.caching).await?;
            if let Some(new) = made {
                new.keep();
            }
            Ok(())
        };
        let opened: Result<(), Failure> = opening.await;
        opened.map_err(|failure| Refusal::new(Code::Refused, failure))?;
        let gone = || Refusal::new(Code::Busy, "it was taken out meanwhile");
        volume.snapshot(&wanted.name).ok_or_else(gone)
    }

    async fn may_merge(&self, volume: &Disk) -> Result<(), Refusal> {
        let first = volume.origin_device().read(0, 512).await;
        let first =
            first.map_err(|error| Refusal::of(&self.origin.display().to_string(), &error))?;
        match first.starts_with(&MAGIC) {
            true => {
                let failure = Failure::about(&self.origin, Error::OriginIsStore);
                let failure = failure.advise("`dmsnap merge --force` merges it all the same");
                Err(Refusal::new(Code::Refused, failure))
            }
            false => Ok(()),
        }
    }
}
