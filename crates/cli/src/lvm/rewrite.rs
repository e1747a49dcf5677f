use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use dmsnap::device::{Device, Shared};
use dmsnap_lvm::{GroupProblem, RewriteError, Stamp, Step};

use super::Group;
use crate::report::Failure;

/// The metadata of a group without one of its snapshots, ready to be written.
#[derive(Debug)]
pub(crate) struct Rewrite<'a> {
    group: Group<'a>,
    steps: Vec<Step>,
}

impl<'a> Rewrite<'a> {
    /// Everything that would refuse a rewrite refuses here.
    pub(crate) fn plan(group: Group<'a>, snapshot: &str) -> Result<Self, Failure> {
        let stamp = Stamp {
            description: format!("Merged {}/{snapshot} with dmsnap.", group.found.vg.name),
            host: host(),
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        };
        let rewrite = group.found.finish_merge(snapshot, &stamp).map_err(|error| {
            let failure = group.failure(snapshot, &error);
            match error {
                RewriteError::Exported => {
                    failure.advise("`vgimport` it first, or merge the data only with --no-metadata")
                }
                RewriteError::Problem(GroupProblem::MissingPv { .. }) => {
                    failure.advise("give all disks, or merge the data only with --no-metadata")
                }
                _ => failure.advise("--no-metadata merges the data only"),
            }
        })?;
        Ok(Self { group, steps: rewrite.steps })
    }

    /// Writes the metadata text in force to a file, durably, and says which.
    pub(crate) fn back_up(&self, wanted: Option<&Path>) -> Result<PathBuf, Failure> {
        let path = wanted.map_or_else(|| self.beside_image(), Path::to_owned);
        let failed =
            |error| Failure::about(&path, format_args!("cannot keep the old metadata: {error}"));
        let text = &self.group.found.text;
        match File::create_new(&path) {
            Ok(mut file) => {
                file.write_all(text).and_then(|()| file.sync_all()).map_err(failed)?;
                sync_directory_of(&path).map_err(failed)?;
            }
            // A merge that goes on has written it before.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if fs::read(&path).map_err(failed)? != *text {
                    return Err(Failure::about(&path, "exists already, with something else in it")
                        .advise("name another file with --backup"));
                }
            }
            Err(error) => {
                return Err(failed(error).advise("name another file with --backup"));
            }
        }
        Ok(path)
    }

    /// `IMAGE.VG-NUMBER.vg`
    fn beside_image(&self) -> PathBuf {
        let vg = &self.group.found.vg;
        let image = self.group.found.places.iter().flatten().next();
        let image = image.map_or(Path::new(""), |place| self.group.scan.path_of(place.disk));
        let own = format!("{}-{}.vg", vg.name, vg.seqno);
        match (image.is_file(), image.file_name()) {
            (true, Some(name)) => {
                let mut name = name.to_owned();
                name.push(format!(".{own}"));
                image.with_file_name(name)
            }
            _ => own.into(),
        }
    }

    /// Writes the metadata to all disks, and says which number it has.
    ///
    /// # Ordering
    ///
    /// 1. the text, to the free part of every metadata area; flush
    /// 2. every area's header: the old text is live, the new one precommitted; flush
    /// 3. area by area its header: the new text is live; flush
    ///
    /// A crash before 3 leaves the old group, one in 3 the new one.
    pub(crate) async fn write(&self) -> Result<u64, Failure> {
        for step in &self.steps {
            let (disk, done) = match step {
                Step::Write { disk, start, bytes } => {
                    (*disk, self.file(*disk).write(*start, bytes.clone().into()).await)
                }
                Step::Flush { disk } => (*disk, self.file(*disk).flush().await),
                step => unreachable!("{step:?}"),
            };
            done.map_err(|error| {
                let found = format_args!("cannot write the metadata: {error}");
                Failure::about(self.group.scan.path_of(disk), found)
                    .advise("the data is merged; the same command finishes it")
            })?;
        }
        Ok(self.group.found.vg.seqno + 1)
    }

    fn file(&self, disk: usize) -> &Shared<dmsnap::device::File> {
        self.group.scan.file_of(disk)
    }
}

/// Makes a new file's name durable.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// The name of this machine.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}
