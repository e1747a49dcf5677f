use std::ops::Range;

use super::error::RewriteError;
use crate::assemble::Group;
use crate::group::{
    LogicalVolume, Segment, SegmentKind, Snapshot, Target, VolumeGroup, group_section, parse_text,
};
use crate::text::{Entry, Item, Section};

/// Who writes, and when. LVM shows it to people and looks at none of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// What was done, as `Merged vg0/snap.`
    pub description: String,
    /// The name of this machine.
    pub host: String,
    /// Seconds since 1970.
    pub time: u64,
}

/// Pieces of a text and what comes in their place.
type Edits = Vec<(Range<usize>, Vec<u8>)>;

impl Group {
    /// The text without a snapshot.
    ///
    /// The old text is cut and patched, not printed anew: what this version does not know, and
    /// how LVM lays it out, stays as it is.
    pub(super) fn without(&self, name: &str, stamp: &Stamp) -> Result<Vec<u8>, RewriteError> {
        let vg = &self.vg;
        let snapshot = self.snapshot_named(name)?;
        let gone = [snapshot.holder.as_str(), name];
        if vg.has_virtual_origin(snapshot) {
            return Err(RewriteError::VirtualOrigin { origin: snapshot.origin.clone() });
        }
        vg.mapping(name).map_err(RewriteError::Cow)?;
        check_unused(vg, &gone)?;
        let (text, new) = self.edited(stamp, |text, lvs| {
            let entries = gone.iter().map(|name| lvs.entry(name));
            entries.map(|entry| Some((with_lines(text, entry?), Vec::new()))).collect()
        })?;
        if is_without(vg, &new, &gone) { Ok(text) } else { Err(RewriteError::Check(None)) }
    }

    /// The text in which the snapshot merges: the hidden LV that ties it to its origin names it as
    /// `merging_store`, and is not visible. That is what LVM writes.
    pub(super) fn marked(&self, name: &str, stamp: &Stamp) -> Result<Vec<u8>, RewriteError> {
        let holder = self.snapshot_named(name)?.holder.as_str();
        let (text, new) = self.edited(stamp, |text, lvs| {
            let Item::Section(holder) = &lvs.entry(holder)?.item else { return None };
            let mut edits = Edits::new();
            let is_snapshot = |(_, segment): &(&str, &Section)| segment.entry(UNMARKED).is_some();
            let (_, segment) = holder.sections().find(is_snapshot)?;
            let key = segment.entry(UNMARKED)?.span().start;
            let key = key..key + UNMARKED.len();
            // The name could be written otherwise, in quotes; LVM never does.
            edits.push((key.clone(), MARKED.into()));
            let status = holder.strings("status").ok()?;
            if status.iter().any(|word| word == VISIBLE) {
                let left: Vec<_> = status.iter().filter(|word| *word != VISIBLE).collect();
                let left: Vec<_> = left.into_iter().map(|word| quoted(word)).collect();
                let list = [b"[", &left.join(&b", "[..])[..], b"]"].concat();
                edits.push((value(holder.entry("status")?), list));
            }
            (text.get(key) == Some(UNMARKED.as_bytes())).then_some(edits)
        })?;
        if is_marked(&self.vg, &new, name) { Ok(text) } else { Err(RewriteError::Check(None)) }
    }

    fn snapshot_named(&self, name: &str) -> Result<&Snapshot, RewriteError> {
        let (vg, name) = (&self.vg, name.to_owned());
        let not_found = || RewriteError::NotFound { vg: vg.name.clone(), name: name.clone() };
        vg.snapshot(&name).ok_or_else(not_found)
    }

    /// The text with some edits among its LVs, and with who wrote it; and the group that it is.
    fn edited(
        &self,
        stamp: &Stamp,
        edits: impl FnOnce(&[u8], &Section) -> Option<Edits>,
    ) -> Result<(Vec<u8>, VolumeGroup), RewriteError> {
        let unread = |error| RewriteError::Check(Some(error));
        let tree = parse_text(&self.text).map_err(unread)?;
        let (_, section) = group_section(&tree).map_err(unread)?;
        let all = || {
            let mut all = edits(&self.text, section.section("logical_volumes").ok()?)?;
            all.extend(signature(&self.text, &tree, section, self.vg.seqno + 1, stamp)?);
            Some(all)
        };
        let text = apply(&self.text, all().ok_or(RewriteError::Check(None))?);
        let new = VolumeGroup::parse(&text).map_err(unread)?;
        Ok((text, new))
    }
}

/// The key with which a snapshot's segment names its COW device, before and after a merge was asked for.
const UNMARKED: &str = "cow_store";
const MARKED: &str = "merging_store";
const VISIBLE: &str = "VISIBLE";

/// Refuses to remove LVs that others need.
fn check_unused(vg: &VolumeGroup, gone: &[&str]) -> Result<(), RewriteError> {
    for lv in vg.lvs.iter().filter(|lv| !gone.contains(&lv.name.as_str())) {
        if let Some(part) = needed(vg, lv).into_iter().find(|name| gone.contains(name)) {
            return Err(RewriteError::InUse { user: lv.name.clone(), part: part.to_owned() });
        }
    }
    Ok(())
}

/// Names of the LVs that one needs.
fn needed<'a>(vg: &'a VolumeGroup, lv: &'a LogicalVolume) -> Vec<&'a str> {
    let mut found = Vec::new();
    for segment in &lv.segments {
        match &segment.kind {
            SegmentKind::Striped { stripes, .. } => {
                found.extend(stripes.iter().filter_map(|stripe| match &stripe.on {
                    Target::Lv(index) => Some(vg.lvs[*index].name.as_str()),
                    _ => None,
                }));
            }
            SegmentKind::Snapshot { origin, cow, .. } => found.extend([origin.as_str(), cow]),
            SegmentKind::Zero => {}
            SegmentKind::Other { uses, .. } => {
                found.extend(uses.iter().map(|(_, name)| name.as_str()));
            }
        }
    }
    found
}

/// Who wrote the text, when, and its number. `None` if something is not where LVM writes it.
fn signature(
    text: &[u8],
    tree: &Section,
    group: &Section,
    seqno: u64,
    stamp: &Stamp,
) -> Option<Edits> {
    let mut edits = Edits::new();
    edits.push((value(group.entry("seqno")?), format!("{seqno}").into_bytes()));
    if let Some(entry) = tree.entry("description") {
        edits.push((value(entry), quoted(&stamp.description)));
    }
    let tool = concat!("dmsnap ", env!("CARGO_PKG_VERSION"));
    if let Some(entry) = tree.entry("creation_host") {
        let host = [&quoted(&stamp.host), format!("\t# {tool}").as_bytes()].concat();
        edits.push((to_line_end(text, value(entry)), host));
    }
    let date = date(stamp.time);
    if let Some(entry) = tree.entry("creation_time") {
        let time = format!("{}\t# {date}", stamp.time).into_bytes();
        edits.push((to_line_end(text, value(entry)), time));
    }
    if let Some(line) = generated_by(text, tree) {
        edits.push((line, format!("# Generated by {tool}: {date}").into_bytes()));
    }
    Some(edits)
}

/// Each edit once, none inside another.
fn apply(text: &[u8], mut edits: Edits) -> Vec<u8> {
    edits.sort_by_key(|(range, _)| range.start);
    let mut new = Vec::with_capacity(text.len());
    let mut at = 0;
    for (range, with) in edits {
        new.extend_from_slice(&text[at..range.start.max(at)]);
        new.extend_from_slice(&with);
        at = range.end.max(at);
    }
    new.extend_from_slice(&text[at..]);
    new
}

/// An entry on lines of its own, and the empty line before it.
fn with_lines(text: &[u8], entry: &Entry) -> Range<usize> {
    let Range { mut start, mut end } = entry.span();
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    start -= text[..start].iter().rev().take_while(|byte| blank(byte)).count();
    end += text[end..].iter().take_while(|byte| blank(byte)).count();
    if text.get(end) == Some(&b'\n') && text[..start].ends_with(b"\n") {
        end += 1;
        if text[..start].ends_with(b"\n\n") {
            start -= 1;
        }
    }
    start..end
}

/// What follows the `=`.
fn value(entry: &Entry) -> Range<usize> {
    entry.item_span()
}

fn to_line_end(text: &[u8], range: Range<usize>) -> Range<usize> {
    let rest = text[range.end..].iter().position(|byte| *byte == b'\n');
    range.start..rest.map_or(text.len(), |rest| range.end + rest)
}

/// LVM's comment about itself, outside the group.
fn generated_by(text: &[u8], tree: &Section) -> Option<Range<usize>> {
    const WORDS: &[u8] = b"# Generated by ";
    let inside = |at: usize| tree.entries().iter().any(|entry| entry.span().contains(&at));
    let mut starts = text.windows(WORDS.len()).enumerate().filter(|(_, words)| *words == WORDS);
    let at = starts.find(|(at, _)| {
        let line = *at == 0 || text[*at - 1] == b'\n';
        line && !inside(*at)
    });
    Some(to_line_end(text, at?.0..at?.0))
}

/// A string of the language. What would end a line has no place in it.
fn quoted(words: &str) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in words.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }) {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(byte);
    }
    quoted.push(b'"');
    quoted
}

/// As the C library writes it, in UTC: `Tue Nov 24 00:05:19 2026`.
fn date(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, second) = (seconds / 86400, seconds % 86400);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    // Every 400 years have the same number of days.
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    for len in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < len {
            break;
        }
        left -= len;
        month += 1;
    }
    let weekday = DAYS[usize::try_from(days % 7).unwrap_or(0)];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday} {} {:2} {hour:02}:{minute:02}:{second:02} {year}", MONTHS[month], left + 1)
}

/// Whether the new group is the old one without those LVs.
fn is_without(old: &VolumeGroup, new: &VolumeGroup, gone: &[&str]) -> bool {
    let kept = old.lvs.iter().filter(|lv| !gone.contains(&lv.name.as_str()));
    let same = |old: &LogicalVolume, new: &LogicalVolume| {
        (&old.name, old.id, old.extents()) == (&new.name, new.id, new.extents())
            && old.status == new.status
    };
    is_next(old, new)
        && new.lvs.len() + gone.len() == old.lvs.len()
        && kept.zip(&new.lvs).all(|(a, b)| same(a, b) && segments(old, a) == segments(new, b))
}

/// Whether the new group is the old one, and that snapshot merges.
pub(super) fn is_marked(old: &VolumeGroup, new: &VolumeGroup, name: &str) -> bool {
    let Some(snapshot) = old.snapshot(name) else { return false };
    let same = |(old, new): (&LogicalVolume, &LogicalVolume)| {
        let is_holder = old.name == snapshot.holder;
        let hidden = |word: &&String| !(is_holder && *word == VISIBLE);
        (&old.name, old.id) == (&new.name, new.id)
            && old.status.iter().filter(hidden).eq(&new.status)
    };
    let all = || old.lvs.iter().zip(&new.lvs);
    let marked = |segment: &Segment| match &segment.kind {
        SegmentKind::Snapshot { cow, .. } if cow == name => {
            let mut segment = segment.clone();
            if let SegmentKind::Snapshot { merging, .. } = &mut segment.kind {
                *merging = true;
            }
            segment
        }
        _ => segment.clone(),
    };
    is_next(old, new)
        && new.lvs.len() == old.lvs.len()
        && all().all(same)
        && all().all(|(a, b)| a.segments.iter().map(marked).eq(b.segments.iter().cloned()))
}

/// Whether the new group may be the old one after one change of its LVs.
fn is_next(old: &VolumeGroup, new: &VolumeGroup) -> bool {
    (&new.name, new.id, new.seqno) == (&old.name, old.id, old.seqno + 1)
        && new.faults().is_empty()
        && new.pvs.len() == old.pvs.len()
}

fn segments(vg: &VolumeGroup, lv: &LogicalVolume) -> Vec<Segment> {
    lv.segments.iter().map(|segment| by_name(vg, segment)).collect()
}

/// A segment without indices of LVs, which change when one is removed.
fn by_name(vg: &VolumeGroup, segment: &Segment) -> Segment {
    let mut segment = segment.clone();
    if let SegmentKind::Striped { stripes, .. } = &mut segment.kind {
        for stripe in stripes {
            if let Target::Lv(index) = stripe.on {
                stripe.on = Target::Unknown(vg.lvs[index].name.clone());
            }
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_c_library() {
        for (seconds, expected) in [
            (0, "Thu Jan  1 00:00:00 1970"),
            (951_782_399, "Mon Feb 28 23:59:59 2000"),
            (951_782_400, "Tue Feb 29 00:00:00 2000"),
            (1_795_478_719, "Tue Nov 24 00:05:19 2026"),
            (4_107_542_400, "Mon Mar  1 00:00:00 2100"),
            (13_574_563_199, "Mon Feb 28 23:59:59 2400"),
            (253_402_300_799, "Fri Dec 31 23:59:59 9999"),
        ] {
            assert_eq!(date(seconds), expected, "{seconds}");
        }
        // Bounded also for what is not a time.
        assert!(date(u64::MAX).len() > 20);
    }
}
