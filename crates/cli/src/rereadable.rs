//! Input that is read more than once: a file, or what came through a pipe.

use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::path::Path;

use crate::report::Failure;

/// A file, whatever it came from.
#[derive(Debug)]
pub(crate) struct Rereadable(File);

impl Rereadable {
    /// `-` is standard input. What is not a regular file is kept in a temporary one, without a name.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let failure = |error: io::Error| {
            let failure = Failure::about(path, &error);
            match error.kind() {
                io::ErrorKind::NotFound => failure.advise("check the name"),
                _ => failure,
            }
        };
        if path.as_os_str() == "-" {
            return kept(&mut io::stdin().lock()).map_err(failure);
        }
        let mut file = File::open(path).map_err(failure)?;
        let kind = file.metadata().map_err(failure)?.file_type();
        match () {
            () if kind.is_file() => Ok(Self(file)),
            () if kind.is_dir() => Err(failure(io::ErrorKind::IsADirectory.into())),
            () => kept(&mut file).map_err(failure),
        }
    }

    /// From the beginning.
    pub(crate) fn reader(&self) -> io::Result<BufReader<&File>> {
        let mut file = &self.0;
        file.rewind()?;
        Ok(BufReader::new(file))
    }
}

fn kept(from: &mut impl io::Read) -> io::Result<Rereadable> {
    let mut file = tempfile::tempfile()?;
    io::copy(from, &mut file)?;
    Ok(Rereadable(file))
}
