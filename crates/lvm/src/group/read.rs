use std::collections::HashMap;

use super::VolumeGroup;
use super::check;
use super::fault::Faults;
use super::snapshot::Snapshots;
use super::volumes::{
    LogicalVolume, PhysicalVolume, Segment, SegmentKind, Stripe, Target, ThinOrigin,
};
use crate::area::MAX_TEXT_BYTES;
use crate::bytes::Uuid;
use crate::text::{self, Section, SyntaxError, Value, ValueError};

/// LVM counts extents in 32 bits.
const MAX_EXTENTS: u64 = u32::MAX as u64;

/// Why a metadata text is not a volume group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum GroupError {
    /// More than [`MAX_TEXT_BYTES`].
    #[error("the metadata text has {bytes} bytes, more than {MAX_TEXT_BYTES}")]
    TooLong { bytes: u64 },
    /// Not in the language of LVM metadata.
    #[error("the metadata text is damaged: {0}")]
    Syntax(#[from] SyntaxError),
    /// Not the metadata of a volume group, or of a version that is not known.
    #[error("the text is not metadata of a volume group: its `{key}` is {found}")]
    Contents { key: &'static str, found: String },
    /// There has to be one section.
    #[error("the metadata text describes {found} volume groups, not one")]
    Groups { found: usize },
    /// A name that LVM gives nothing.
    #[error("{place} has a name that is not allowed: {name:?}")]
    Name { place: &'static str, name: String },
    /// Something is missing in a section, or not what it should be.
    #[error("{place}: {error}")]
    Value { place: String, error: ValueError },
    /// A size or count that is impossible.
    #[error("{place}: `{key}` is {found}")]
    Range { place: String, key: &'static str, found: u64 },
}

impl GroupError {
    fn value(place: &str) -> impl Fn(ValueError) -> Self + use<'_> {
        |error| Self::Value { place: place.to_owned(), error }
    }
}

/// Whether LVM would call a VG or an LV so: letters, digits, `+ _ . -`, no hyphen in front, at most
/// 127 bytes, neither `.` nor `..`. Such a name is also safe as that of a file.
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
    !name.is_empty()
        && name.len() < 128
        && !name.starts_with('-')
        && !matches!(name, "." | "..")
        && name.bytes().all(allowed)
}

impl VolumeGroup {
    /// Reads a metadata text, without the NUL at its end.
    ///
    /// Keys that are not known are left alone.
    ///
    /// # Errors
    ///
    /// If it is not the metadata of one volume group, or something in it is missing or of the wrong kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, GroupError> {
        let tree = parse_text(bytes)?;
        let (name, section) = group_section(&tree)?;
        let mut group = head(&tree, name, section)?;
        let at = |part: &str| format!("{name}/{part}");
        let pvs = subsection(section, name, "physical_volumes")?;
        for (name, section) in pvs.sections() {
            group.pvs.push(pv(&at(name), name, section)?);
        }
        let lvs = subsection(section, name, "logical_volumes")?;
        group.names = lvs.sections().enumerate().map(|(at, (name, _))| (name.into(), at)).collect();
        let names = Names::new(&group);
        let read = lvs.sections().map(|(name, section)| lv(&at(name), name, section, &names));
        group.lvs = read.collect::<Result<_, _>>()?;
        group.part_of = part_of(&group.lvs);
        group.thin_origins = thin_origins(&group.lvs);
        group.snapshots = Snapshots::find(&group.lvs);
        group.faults = Faults::new(check::find(&group));
        Ok(group)
    }
}

pub(crate) fn parse_text(bytes: &[u8]) -> Result<Section, GroupError> {
    let len = bytes.len() as u64;
    if len > MAX_TEXT_BYTES {
        return Err(GroupError::TooLong { bytes: len });
    }
    Ok(text::parse(bytes)?)
}

/// The one section of a text, with the group's name.
pub(crate) fn group_section(tree: &Section) -> Result<(&str, &Section), GroupError> {
    let place = GroupError::value("text");
    let contents = tree.string("contents").map_err(&place)?;
    if contents != "Text Format Volume Group" {
        return Err(GroupError::Contents { key: "contents", found: contents.to_owned() });
    }
    let version = tree.number("version").map_err(&place)?;
    if version != 1 {
        return Err(GroupError::Contents { key: "version", found: version.to_string() });
    }
    let mut sections = tree.sections();
    match (sections.next(), sections.count()) {
        (Some(group), 0) => Ok(group),
        (first, more) => Err(GroupError::Groups { found: more + usize::from(first.is_some()) }),
    }
}

fn subsection<'a>(group: &'a Section, name: &str, part: &str) -> Result<&'a Section, GroupError> {
    let place = GroupError::value(name);
    let section = group.section(part).map_err(&place)?;
    section.unique_sections().map_err(&place)?;
    Ok(section)
}

fn head(tree: &Section, name: &str, section: &Section) -> Result<VolumeGroup, GroupError> {
    let fault = GroupError::value(name);
    if !is_valid_name(name) {
        return Err(GroupError::Name { place: "the volume group", name: name.to_owned() });
    }
    if let Some(found) = section.optional_string("format").map_err(&fault)?.filter(|f| *f != "lvm2")
    {
        return Err(GroupError::Contents { key: "format", found: found.to_owned() });
    }
    let text = |section: &Section, key| {
        section.optional_string(key).map(|text| text.map(str::to_owned)).map_err(&fault)
    };
    Ok(VolumeGroup {
        name: name.to_owned(),
        id: id(section).map_err(&fault)?,
        seqno: section.number("seqno").map_err(&fault)?,
        status: section.strings("status").map_err(&fault)?,
        flags: section.strings("flags").map_err(&fault)?,
        tags: section.strings("tags").map_err(&fault)?,
        system_id: text(section, "system_id")?.filter(|id| !id.is_empty()),
        lock_type: text(section, "lock_type")?.filter(|kind| kind != "none"),
        allocation_policy: text(section, "allocation_policy")?,
        extent_sectors: in_range(section, name, "extent_size", 1, MAX_EXTENTS)?,
        description: text(tree, "description")?,
        creation_host: text(tree, "creation_host")?,
        creation_time: tree.optional_number("creation_time").map_err(&fault)?,
        pvs: Vec::new(),
        lvs: Vec::new(),
        snapshots: Snapshots::default(),
        names: HashMap::new(),
        part_of: HashMap::new(),
        thin_origins: HashMap::new(),
        faults: Faults::default(),
    })
}

fn id(section: &Section) -> Result<Uuid, ValueError> {
    let wrong = ValueError::Unexpected { key: "id".into(), expected: "32 letters and digits" };
    Uuid::parse(section.string("id")?).ok_or(wrong)
}

fn in_range(
    section: &Section,
    place: &str,
    key: &'static str,
    least: u64,
    most: u64,
) -> Result<u64, GroupError> {
    let found = section.number(key).map_err(GroupError::value(place))?;
    if (least..=most).contains(&found) {
        Ok(found)
    } else {
        Err(GroupError::Range { place: place.to_owned(), key, found })
    }
}

fn pv(place: &str, name: &str, section: &Section) -> Result<PhysicalVolume, GroupError> {
    let fault = GroupError::value(place);
    Ok(PhysicalVolume {
        name: name.to_owned(),
        id: id(section).map_err(&fault)?,
        device: section.optional_string("device").map_err(&fault)?.map(str::to_owned),
        status: section.strings("status").map_err(&fault)?,
        flags: section.strings("flags").map_err(&fault)?,
        tags: section.strings("tags").map_err(&fault)?,
        dev_sectors: section.optional_number("dev_size").map_err(&fault)?,
        pe_start_sectors: section.number("pe_start").map_err(&fault)?,
        pe_count: in_range(section, place, "pe_count", 0, MAX_EXTENTS)?,
    })
}

/// What names in segments stand for.
struct Names {
    pvs: HashMap<String, usize>,
    lvs: HashMap<String, usize>,
}

impl Names {
    fn new(group: &VolumeGroup) -> Self {
        let pvs = group.pvs.iter().enumerate();
        Self { pvs: pvs.map(|(at, pv)| (pv.name.clone(), at)).collect(), lvs: group.names.clone() }
    }

    fn target(&self, name: &str) -> Target {
        match (self.pvs.get(name), self.lvs.get(name)) {
            (Some(pv), _) => Target::Pv(*pv),
            (None, Some(lv)) => Target::Lv(*lv),
            (None, None) => Target::Unknown(name.to_owned()),
        }
    }
}

fn lv(
    place: &str,
    name: &str,
    section: &Section,
    names: &Names,
) -> Result<LogicalVolume, GroupError> {
    let fault = GroupError::value(place);
    if !is_valid_name(name) {
        return Err(GroupError::Name { place: "a logical volume", name: name.to_owned() });
    }
    section.unique_sections().map_err(&fault)?;
    let mut segments = section
        .sections()
        .filter(|(name, _)| name.starts_with("segment"))
        .map(|(name, section)| segment(&format!("{place}/{name}"), section, names))
        .collect::<Result<Vec<_>, _>>()?;
    segments.sort_by_key(|segment| segment.start_extent);
    let text = |key| section.optional_string(key).map(|text| text.map(str::to_owned));
    Ok(LogicalVolume {
        name: name.to_owned(),
        id: id(section).map_err(&fault)?,
        status: section.strings("status").map_err(&fault)?,
        flags: section.strings("flags").map_err(&fault)?,
        tags: section.strings("tags").map_err(&fault)?,
        creation_time: section.optional_number("creation_time").map_err(&fault)?,
        creation_host: text("creation_host").map_err(&fault)?,
        allocation_policy: text("allocation_policy").map_err(&fault)?,
        segments,
    })
}

fn segment(place: &str, section: &Section, names: &Names) -> Result<Segment, GroupError> {
    let fault = GroupError::value(place);
    let kind = section.string("type").map_err(&fault)?;
    // Newer versions may add flags, as in `striped+FLAG`: then it is not what its name says.
    let kind = match kind {
        "striped" | "linear" => striped(section, names).map_err(&fault)?,
        "snapshot" => snapshot(section).map_err(&fault)?,
        "zero" => SegmentKind::Zero,
        _ => SegmentKind::Other {
            kind: kind.to_owned(),
            uses: uses(section, names),
            zeroes: section.optional_number("zero_new_blocks").is_ok_and(|it| it == Some(1)),
        },
    };
    Ok(Segment {
        start_extent: in_range(section, place, "start_extent", 0, MAX_EXTENTS)?,
        extent_count: in_range(section, place, "extent_count", 1, MAX_EXTENTS)?,
        kind,
    })
}

fn striped(section: &Section, names: &Names) -> Result<SegmentKind, ValueError> {
    let unexpected = |key: &str, expected| ValueError::Unexpected { key: key.into(), expected };
    let mut stripes = Vec::new();
    for pair in section.list("stripes")?.chunks(2) {
        let [Value::String(name), Value::Integer(start)] = pair else {
            return Err(unexpected("stripes", "pairs of a name and an extent"));
        };
        let start_extent = u64::try_from(*start).ok().filter(|start| *start <= MAX_EXTENTS);
        let start_extent = start_extent.ok_or(unexpected("stripes", "names and extents"))?;
        stripes.push(Stripe { on: names.target(name), start_extent });
    }
    if stripes.is_empty() || section.number("stripe_count")? != stripes.len() as u64 {
        return Err(unexpected("stripe_count", "the length of `stripes`, and not 0"));
    }
    let stripe_sectors = match stripes.len() {
        1 => 0,
        _ => section.number("stripe_size")?,
    };
    Ok(SegmentKind::Striped { stripe_sectors, stripes })
}

fn snapshot(section: &Section) -> Result<SegmentKind, ValueError> {
    let merging = section.get("merging_store").is_some();
    let cow = section.string(if merging { "merging_store" } else { "cow_store" })?;
    Ok(SegmentKind::Snapshot {
        origin: section.string("origin")?.to_owned(),
        cow: cow.to_owned(),
        chunk_sectors: section.number("chunk_size")?,
        merging,
    })
}

/// Keys with which segments of other types name LVs.
const USING: [&str; 16] = [
    "raids",
    "raid0_lvs",
    "mirrors",
    "mirror_log",
    "metadata",
    "data",
    "pool",
    "thin_pool",
    "origin",
    "external_origin",
    "merge",
    "cache_pool",
    "writecache",
    "vdo_pool",
    "meta_dev",
    "stripes",
];

/// The LVs that a segment of some other type names, each with its key.
fn uses(section: &Section, names: &Names) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in section.entries().iter().filter(|entry| USING.contains(&entry.name.as_str())) {
        let text::Item::Value(value) = &entry.item else { continue };
        let named = value.as_slice().iter().filter_map(Value::as_str);
        for name in named.filter(|name| names.lvs.contains_key(*name)) {
            found.push((entry.name.clone(), name.to_owned()));
        }
    }
    found
}

fn part_of(lvs: &[LogicalVolume]) -> HashMap<String, (String, String)> {
    let mut found = HashMap::new();
    for segment in lvs.iter().flat_map(|lv| &lv.segments) {
        let SegmentKind::Other { kind, uses, .. } = &segment.kind else { continue };
        for (key, name) in uses {
            found.insert(name.clone(), (kind.clone(), key.clone()));
        }
    }
    found
}

fn thin_origins(lvs: &[LogicalVolume]) -> HashMap<String, ThinOrigin> {
    let mut found: HashMap<String, ThinOrigin> = HashMap::new();
    for lv in lvs {
        match lv.thin_origin() {
            Some(("origin", name)) => found.entry(name.to_owned()).or_default().snapshots += 1,
            Some((_, name)) => found.entry(name.to_owned()).or_default().external += 1,
            None => {}
        }
    }
    found
}
