use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use dmsnap_images::{Name, NameError};

use crate::device_arg::{Address, DeviceArg};
use crate::report::Failure;

/// `IMAGE... [VG/]LV`
pub(super) fn address(words: &[OsString]) -> Result<Address, Failure> {
    let Some((name, images)) = words.split_last().filter(|(_, images)| !images.is_empty()) else {
        let found = "images come first, then the volume as VG/LV";
        return Err(Failure::usage(ErrorKind::TooFewValues, found));
    };
    let name = parse(name).map_err(|found| Failure::about(Path::new(name), found))?;
    Ok(Address { images: images.iter().map(PathBuf::from).collect(), name })
}

/// `IMAGE... [[VG/]LV]`: the last word is an image if there is one of that name.
pub(super) fn images_and_name(words: &[OsString]) -> (Vec<PathBuf>, Option<Name>) {
    let (images, name) = match words.split_last() {
        Some((last, images)) if !images.is_empty() && !Path::new(last).exists() => {
            match parse(last) {
                Ok(name) => (images, Some(name)),
                Err(_) => (words, None),
            }
        }
        _ => (words, None),
    };
    (images.iter().map(PathBuf::from).collect(), name)
}

/// Names are text; what is not a name of LVM is refused with what was found.
fn parse(word: &OsString) -> Result<Name, NameError> {
    word.to_string_lossy().parse()
}

impl From<Address> for DeviceArg {
    fn from(address: Address) -> Self {
        Self::Volume(address)
    }
}
