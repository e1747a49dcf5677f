//! What the command line names as a device: a path, or an LVM volume in disk images.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use dmsnap_images::{Name, NameError};

/// What such a name begins with. A file of that name is `./lvm:...`.
const LVM: &[u8] = b"lvm:";

/// A device of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeviceArg {
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

/// Whether this names a volume.
pub(crate) fn is_address(text: impl AsRef<OsStr>) -> bool {
    text.as_ref().as_bytes().starts_with(LVM)
}

impl DeviceArg {
    /// For `value_parser`.
    pub(crate) fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(Self::parse)
    }

    pub(crate) fn parse(text: OsString) -> Result<Self, String> {
        match text.as_bytes().strip_prefix(LVM) {
            Some(rest) => Address::parse(rest).map(Self::Volume),
            None => Ok(Self::Path(text.into())),
        }
    }

    /// Takes a place from the front of a list whose parts are divided by commas, as an address's
    /// images are; gives the other parts. Two commas are one that belongs to the name, as in QEMU's
    /// options.
    pub(crate) fn take(list: &OsStr) -> Result<(Self, Vec<OsString>), String> {
        let mut parts = split(list.as_bytes()).into_iter();
        let mut text = parts.next().unwrap_or_default();
        // An address goes on until its volume is named.
        while text.starts_with(LVM) && !text[LVM.len()..].contains(&b':') {
            let Some(part) = parts.next() else { break };
            text = [&text[..], &part].join(&b',');
        }
        let place = match is_address(OsStr::from_bytes(&text)) {
            true => Self::parse(OsString::from_vec(text))?,
            false => Self::Path(OsString::from_vec(single_commas(&text)).into()),
        };
        Ok((place, parts.map(|part| OsString::from_vec(single_commas(&part))).collect()))
    }

    /// What [`parse`](Self::parse) takes for this place, with every byte of its paths.
    pub(crate) fn into_os_string(self) -> OsString {
        match self {
            Self::Path(path) => path.into_os_string(),
            Self::Volume(Address { images, name }) => {
                let images: Vec<_> = images.iter().map(|it| double_commas(it)).collect();
                let (images, name) = (images.join(&b','), name.to_string());
                OsString::from_vec([LVM, &images, b":", name.as_bytes()].concat())
            }
        }
    }

    /// The files and disks it lies in.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Path(path) => std::slice::from_ref(path),
            Self::Volume(address) => &address.images,
        }
    }
}

/// The parts between commas, but for those that come in twos.
fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let (mut parts, mut part) = (Vec::new(), Vec::new());
    let mut bytes = list.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' if bytes.next_if_eq(&b',').is_some() => part.extend(b",,"),
            b',' => parts.push(std::mem::take(&mut part)),
            byte => part.push(byte),
        }
    }
    parts.push(part);
    parts
}

fn single_commas(part: &[u8]) -> Vec<u8> {
    let mut single = Vec::with_capacity(part.len());
    let mut bytes = part.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        single.push(byte);
        if byte == b',' {
            bytes.next_if_eq(&b',');
        }
    }
    single
}

fn double_commas(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().split(|byte| *byte == b',').collect::<Vec<_>>().join(&b",,"[..])
}

impl From<PathBuf> for DeviceArg {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl Address {
    /// What follows `lvm:`.
    fn parse(rest: &[u8]) -> Result<Self, String> {
        let form = "lvm:IMAGE[,IMAGE]...:VG/LV";
        let colon = rest.iter().rposition(|byte| *byte == b':');
        let colon = colon.ok_or_else(|| format!("no volume is named; it is {form}"))?;
        let (images, name) = (&rest[..colon], String::from_utf8_lossy(&rest[colon + 1..]));
        let name = name.parse();
        let name = name.map_err(|found: NameError| format!("{found}; it is {form}"))?;
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        // An image may have a comma in its name.
        let images: Vec<PathBuf> = match path(images).exists() {
            true => vec![path(images)],
            false => split(images).iter().map(|part| path(&single_commas(part))).collect(),
        };
        match images.iter().any(|image| image.as_os_str().is_empty()) {
            true => Err(format!("an image has no name; it is {form}")),
            false => Ok(Self { images, name }),
        }
    }
}

impl fmt::Display for DeviceArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Volume(Address { images, name }) => {
                let images: Vec<_> = images.iter().map(|it| it.display().to_string()).collect();
                write!(f, "lvm:{}:{name}", images.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(images: &[&str], group: Option<&str>, volume: &str) -> DeviceArg {
        let images = images.iter().map(PathBuf::from).collect();
        let name = Name { group: group.map(str::to_owned), volume: volume.into() };
        DeviceArg::Volume(Address { images, name })
    }

    #[test]
    fn an_address_names_images_group_and_volume() {
        let parse = |text: &str| DeviceArg::parse(text.into());
        let shown = "lvm:a.img,/dev/sdb:vg0/root";
        let found = parse(shown).expect("an address");
        assert_eq!(found, volume(&["a.img", "/dev/sdb"], Some("vg0"), "root"));
        assert_eq!(found.to_string(), shown);
        assert_eq!(
            parse("lvm:/dev/disk/by-id/x:1:root"),
            Ok(volume(&["/dev/disk/by-id/x:1"], None, "root"))
        );
        assert_eq!(parse("./lvm:a"), Ok(DeviceArg::Path("./lvm:a".into())));
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
        let take = |list: &str| {
            let (place, rest) = DeviceArg::take(OsStr::new(list)).expect("a place");
            let rest = rest.into_iter().map(|part| part.into_string().expect("text"));
            (place, rest.collect::<Vec<_>>())
        };
        let rest = |parts: &[&str]| parts.iter().map(|&part| part.to_owned()).collect::<Vec<_>>();
        let found = take("a.cow,x=1:2,y");
        assert_eq!(found, (DeviceArg::Path("a.cow".into()), rest(&["x=1:2", "y"])));
        let found = take("lvm:a,b:vg/lv,on-full=wait:3");
        assert_eq!(found, (volume(&["a", "b"], Some("vg"), "lv"), rest(&["on-full=wait:3"])));
        assert!(DeviceArg::take(OsStr::new("lvm:a,b")).is_err());
        // As QEMU has it.
        assert_eq!(take("a,,b,,,,c.cow"), (DeviceArg::Path("a,b,,c.cow".into()), rest(&[])));
        assert_eq!(take("a,,,b"), (DeviceArg::Path("a,".into()), rest(&["b"])));
        let found = take("lvm:a,,1,b:lv,x");
        assert_eq!(found, (volume(&["a,1", "b"], None, "lv"), rest(&["x"])));
    }

    #[test]
    fn a_path_is_any_bytes_and_comes_back_as_it_was() {
        let odd = [b'd', 0xff, b',', b' ', b':', b'/', b'x'];
        let image = PathBuf::from(OsStr::from_bytes(&odd));
        let name = Name { group: Some("vg".into()), volume: "lv".into() };
        for images in [vec![image.clone()], vec!["a,,b".into(), image, "c".into()]] {
            let place = DeviceArg::Volume(Address { images, name: name.clone() });
            assert_eq!(DeviceArg::parse(place.clone().into_os_string()), Ok(place));
        }
        let list = OsStr::from_bytes(b"x\xff,,y,z");
        let (place, rest) = DeviceArg::take(list).expect("a place");
        assert_eq!(place, DeviceArg::Path(OsStr::from_bytes(b"x\xff,y").into()));
        assert_eq!(rest, ["z"]);
    }
}
