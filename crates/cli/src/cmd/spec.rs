//! Snapshots as the command line names them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use dmsnap::device::Mode;
use dmsnap::format::ChunkSize;
use dmsnap_serve::control::NewSnapshot;
use dmsnap_serve::{SnapshotOptions, UnknownOnFull, refuse_reserved};

use crate::device_arg::DeviceArg;
use crate::size;

/// `NAME=COW[,OPTION]...`, or a line of a table.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) name: String,
    /// As on the command line, see [`DeviceArg`].
    pub(super) cow: PathBuf,
    pub(super) store: Store,
    pub(super) options: SnapshotOptions,
}

/// What the COW device holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Store {
    Persistent,
    /// The same, made first if the device is blank.
    MaybeNew(NewStore),
    Transient(ChunkSize),
}

/// A store that is made where there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewStore {
    pub(super) chunk_size: ChunkSize,
    /// The chunk size was asked for.
    pub(super) is_sized: bool,
    /// The file is made too, if there is none.
    pub(super) makes_file: bool,
    /// Of that file; by default as large as a store of everything can become.
    pub(super) size_bytes: Option<u64>,
    /// It remembers its origin.
    pub(super) knows_base: bool,
}

impl NewStore {
    /// With chunks of the size that was asked for, or else of the caller's default.
    pub(super) fn new(asked: Option<ChunkSize>, default: ChunkSize) -> Self {
        let (chunk_size, is_sized) = (asked.unwrap_or(default), asked.is_some());
        Self { chunk_size, is_sized, makes_file: false, size_bytes: None, knows_base: false }
    }

    /// Whether another chunk size was asked for than a store has that was there before.
    pub(super) fn is_other(self, found: ChunkSize) -> bool {
        self.is_sized && self.chunk_size != found
    }
}

impl Spec {
    /// For `value_parser`: paths are any bytes.
    pub(super) fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(|text| Self::parse(&text))
    }

    pub(super) fn parse(text: &OsStr) -> Result<Self, String> {
        let shown = text.display();
        let equals = text.as_bytes().iter().position(|byte| *byte == b'=');
        let equals =
            equals.ok_or_else(|| format!("found `{shown}`; a snapshot is NAME=COW[,OPTION]..."))?;
        let (name, rest) = (&text.as_bytes()[..equals], &text.as_bytes()[equals + 1..]);
        let name = str::from_utf8(name).map_err(|_| format!("found `{shown}`; a name is text"))?;
        refuse_reserved(name).map_err(|error| error.to_string())?;
        let begins_with_option = rest.starts_with(b",") && !rest.starts_with(b",,");
        if rest.is_empty() || begins_with_option {
            return Err(format!("found no COW device in `{shown}`; it is NAME=COW[,OPTION]..."));
        }
        let (cow, parts) = DeviceArg::take(OsStr::from_bytes(rest))?;
        let cow = PathBuf::from(cow.into_os_string());
        let options = SnapshotOptions::default();
        let mut spec = Self { name: name.into(), cow, store: Store::Persistent, options };
        let mut new = NewStore::new(None, ChunkSize::DEFAULT);
        let mut take = |part: &OsString| spec.option(&part.to_string_lossy(), &mut new);
        parts.iter().try_for_each(&mut take)?;
        spec.store = match (spec.store, new) {
            (Store::Transient(_), new) if new.makes_file => {
                return Err("found make and transient; there is no store to make".into());
            }
            (_, new) if new.makes_file => Store::MaybeNew(new),
            (store, NewStore { is_sized: false, size_bytes: None, knows_base: false, .. }) => store,
            _ => return Err("found an option of a new store; it needs make as well".into()),
        };
        Ok(spec)
    }

    fn option(&mut self, text: &str, new: &mut NewStore) -> Result<(), String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let options = &mut self.options;
        match (name, value) {
            ("on-full", rule) => {
                options.on_full = rule.parse().map_err(|it: UnknownOnFull| it.to_string())?;
            }
            ("max-size", size) => options.max_bytes = Some(size::parse(size)?),
            ("virtual-size", size) => options.len_bytes = Some(size::parse_sectors(size)?),
            ("make", "") => new.makes_file = true,
            ("for", "base") => new.knows_base = true,
            ("size", size) => new.size_bytes = Some(size::parse_sectors(size)?),
            ("chunk-size", size) => {
                (new.chunk_size, new.is_sized) = (size::parse_chunk_size(size)?, true);
            }
            ("transient", size) => self.store = Store::Transient(size::parse_chunk_size(size)?),
            ("discard-zeroes", "") => options.discard_zeroes = true,
            ("discard-passdown", "") => options.discard_passdown = true,
            _ => {
                let known = "on-full, max-size, virtual-size, make, for=base, size, chunk-size, \
                    transient, discard-zeroes, discard-passdown";
                return Err(format!("found the option `{text}`; there is {known}"));
            }
        }
        Ok(())
    }

    /// What a client of the control socket asks for. A store that it makes is made before.
    pub(super) fn of_request(wanted: &NewSnapshot) -> Result<Self, String> {
        let chunk_size = |bytes: u64| size::parse_chunk_size(&bytes.to_string());
        let store = match wanted.transient_chunk_bytes.map(chunk_size).transpose()? {
            Some(chunk_size) => Store::Transient(chunk_size),
            None => Store::Persistent,
        };
        let options = SnapshotOptions {
            on_full: wanted.on_full.unwrap_or_default(),
            max_bytes: wanted.max_size_bytes,
            discard_zeroes: wanted.discard_zeroes,
            discard_passdown: wanted.discard_passdown,
            ..SnapshotOptions::default()
        };
        let (name, cow) = (wanted.name.clone(), PathBuf::from(&wanted.cow));
        Ok(Self { name, cow, store, options })
    }

    /// The same as a client of the control socket says it.
    pub(super) fn into_request(self) -> Result<NewSnapshot, String> {
        if matches!(self.store, Store::MaybeNew(_)) {
            return Err("`make` and what belongs to it are options of their own here".into());
        }
        if self.options.len_bytes.is_some() {
            return Err("virtual-size is for `dmsnap serve`, or remembered by `create`".into());
        }
        let transient_chunk_bytes = match self.store {
            Store::Transient(chunk_size) => Some(chunk_size.bytes()),
            Store::Persistent | Store::MaybeNew(_) => None,
        };
        let cow = std::path::absolute(&self.cow).map_err(|error| error.to_string())?;
        let cow = cow.into_os_string().into_string();
        Ok(NewSnapshot {
            name: self.name,
            cow: cow
                .map_err(|path| format!("found the path {}; it is not text", path.display()))?,
            make: None,
            transient_chunk_bytes,
            on_full: Some(self.options.on_full),
            max_size_bytes: self.options.max_bytes,
            discard_zeroes: self.options.discard_zeroes,
            discard_passdown: self.options.discard_passdown,
        })
    }

    /// How the COW device is opened where the origin is opened for `mode`. A transient store has nothing
    /// worth keeping.
    pub(super) fn mode(&self, mode: Mode) -> Mode {
        match self.store {
            Store::Transient(_) => Mode::Write,
            Store::Persistent | Store::MaybeNew(_) => mode,
        }
    }
}

/// What a name of the command line, or of a table, stands for.
pub(super) fn device_arg(name: &Path) -> Result<DeviceArg, String> {
    DeviceArg::parse(name.to_owned().into_os_string())
}

/// Where the control socket is: `unix:PATH`.
pub(super) fn unix_path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => Err("a control socket is unix:PATH".into()),
    }
}
