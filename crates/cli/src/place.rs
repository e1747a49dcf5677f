//! What the command line names as a device: a path, or a volume in images of LVM's.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};

/// What such a name begins with. A file of that name is `./lvm:...`.
const LVM: &str = "lvm:";

/// A device of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file or a disk.
    Path(PathBuf),
    /// A volume.
    Volume(Address),
}

/// `lvm:IMAGE[,IMAGE]...:[VG/]LV`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) images: Vec<PathBuf>,
    pub(crate) name: Name,
}

/// `[VG/]LV`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// Only one volume group may be there, if it is left out.
    pub(crate) group: Option<String>,
    pub(crate) volume: String,
}

/// Whether this names a volume.
pub(crate) fn is_address(text: &str) -> bool {
    text.starts_with(LVM)
}

impl Place {
    /// For `value_parser`.
    pub(crate) fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(Self::parse)
    }

    pub(crate) fn parse(text: OsString) -> Result<Self, String> {
        match text.to_str().and_then(|text| text.strip_prefix(LVM)) {
            Some(rest) => Address::parse(rest).map(Self::Volume),
            None => Ok(Self::Path(text.into())),
        }
    }

    /// Takes a place from the front of a list whose parts are divided by commas, as an address's
    /// images are; gives the other parts.
    pub(crate) fn take(list: &str) -> Result<(Self, impl Iterator<Item = &str>), String> {
        let mut parts = list.split(',');
        let mut text = parts.next().unwrap_or_default().to_owned();
        // An address goes on until its volume is named.
        while is_address(&text) && !text[LVM.len()..].contains(':') {
            let Some(part) = parts.next() else { break };
            text = format!("{text},{part}");
        }
        Ok((Self::parse(text.into())?, parts))
    }

    /// The files and disks it lies in.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Path(path) => std::slice::from_ref(path),
            Self::Volume(address) => &address.images,
        }
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl Address {
    /// What follows `lvm:`.
    fn parse(rest: &str) -> Result<Self, String> {
        let form = "lvm:IMAGE[,IMAGE]...:VG/LV";
        let (images, name) =
            rest.rsplit_once(':').ok_or_else(|| format!("no volume is named; it is {form}"))?;
        let name = name.parse().map_err(|found| format!("{found}; it is {form}"))?;
        // An image may have a comma in its name.
        let images: Vec<PathBuf> = match Path::new(images).exists() {
            true => vec![images.into()],
            false => images.split(',').map(PathBuf::from).collect(),
        };
        match images.iter().any(|image| image.as_os_str().is_empty()) {
            true => Err(format!("an image has no name; it is {form}")),
            false => Ok(Self { images, name }),
        }
    }
}

impl Name {
    /// Whether both may mean one volume.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let groups = self.group.as_ref().zip(other.group.as_ref());
        self.volume == other.volume && groups.is_none_or(|(a, b)| a == b)
    }
}

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (group, volume) = match text.split_once('/') {
            Some((group, volume)) => (Some(group.to_owned()), volume),
            None => (None, text),
        };
        let named = |name: &str| !name.is_empty() && !name.contains('/');
        match named(volume) && group.as_deref().is_none_or(named) {
            true => Ok(Self { group, volume: volume.into() }),
            false => Err(format!("`{text}` is no volume, as VG/LV is")),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{group}/{}", self.volume),
            None => f.write_str(&self.volume),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Volume(Address { images, name }) => {
                let images: Vec<_> = images.iter().map(|it| it.display().to_string()).collect();
                write!(f, "{LVM}{}:{name}", images.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(images: &[&str], group: Option<&str>, volume: &str) -> Place {
        let images = images.iter().map(PathBuf::from).collect();
        let name = Name { group: group.map(str::to_owned), volume: volume.into() };
        Place::Volume(Address { images, name })
    }

    #[test]
    fn an_address_names_images_group_and_volume() {
        let parse = |text: &str| Place::parse(text.into());
        let shown = "lvm:a.img,/dev/sdb:vg0/root";
        let found = parse(shown).expect("an address");
        assert_eq!(found, volume(&["a.img", "/dev/sdb"], Some("vg0"), "root"));
        assert_eq!(found.to_string(), shown);
        assert_eq!(
            parse("lvm:/dev/disk/by-id/x:1:root"),
            Ok(volume(&["/dev/disk/by-id/x:1"], None, "root"))
        );
        assert_eq!(parse("./lvm:a"), Ok(Place::Path("./lvm:a".into())));
        for wrong in [
            "lvm:",
            "lvm:a.img",
            "lvm::vg/lv",
            "lvm:a,:vg/lv",
            "lvm:a:",
            "lvm:a:vg/",
            "lvm:a:/lv",
            "lvm:a:b/c/d",
        ] {
            parse(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn an_address_in_a_list_ends_with_its_volume() {
        let take = |list| {
            let (place, rest) = Place::take(list).expect("a place");
            (place, rest.collect::<Vec<_>>())
        };
        assert_eq!(take("a.cow,x=1:2,y"), (Place::Path("a.cow".into()), vec!["x=1:2", "y"]));
        let found = take("lvm:a,b:vg/lv,on-full=wait:3");
        assert_eq!(found, (volume(&["a", "b"], Some("vg"), "lv"), vec!["on-full=wait:3"]));
        assert!(Place::take("lvm:a,b").is_err());
    }
}
