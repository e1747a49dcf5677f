//! A failure in words: what was asked, what was done, what was promised, what was found.

use std::fmt::Write;

use crate::cuts::Cuts;
use crate::hunt::Failure;
use crate::model::{Change, name};
use crate::naive::words;
use crate::play::play;
use crate::record::Event;

/// The most lines of a trace that are shown.
const MOST: usize = 120;

/// All of it.
pub fn report(failure: &Failure) -> String {
    let mut text = format!("BROKEN: {}\n\nthe machine: {}", failure.what, failure.plan);
    // A machine whose code panics leaves no record.
    let Ok(played) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        play(&failure.plan, &failure.start)
    })) else {
        return text;
    };
    let end = failure.image.as_ref().map_or(played.record.len(), |image| image.cut);
    let lines: Vec<String> = played.record[..end].iter().filter_map(line).collect();
    let _ = writeln!(text, "what happened:");
    let skipped = lines.len().saturating_sub(MOST);
    if skipped > 0 {
        let _ = writeln!(text, "  ({skipped} earlier lines)");
    }
    for line in &lines[skipped..] {
        let _ = writeln!(text, "  {line}");
    }
    if let Some(image) = &failure.image {
        let mut cuts = Cuts::new(&failure.plan.setup, &failure.start, &played.record);
        cuts.go_to(image.cut);
        let _ = writeln!(text, "  the power is cut; what survives: {}", cuts.words(image));
    }
    let _ = writeln!(text, "found: {}", failure.what);
    text
}

fn line(event: &Event) -> Option<String> {
    Some(match event {
        Event::Write { disk, at, data, .. } => {
            format!("    disk {disk}: {} bytes at {at}: {}", data.len(), words(data))
        }
        Event::Flush { disk, open } => match open.len() {
            0 => format!("    disk {disk}: flushed"),
            open => format!("    disk {disk}: flushed, but for {open} writes that came too late"),
        },
        Event::Lost { disk } => format!("    disk {disk}: forgets what was not flushed"),
        Event::Grown { disk, len, .. } => format!("    disk {disk}: {len} bytes long from now on"),
        Event::Fault { disk, fault } => format!("    disk {disk}: a request goes wrong: {fault:?}"),
        Event::Told(change) => told(change)?,
    })
}

fn told(change: &Change) -> Option<String> {
    let done = |ok: &bool| if *ok { "done" } else { "failed" };
    Some(match change {
        Change::Write { id, device, at, data } => {
            format!("write {id} asked: {} bytes at {at} of {}", data.len(), name(*device))
        }
        Change::Written { id, ok } => format!("write {id} answered: {}", done(ok)),
        Change::Discard { id, device, at, len, .. } => {
            format!("discard {id} asked: {len} bytes at {at} of {}", name(*device))
        }
        Change::Flush { id, device } => format!("flush {id} asked: of {}", name(*device)),
        Change::Flushed { id, ok } => format!("flush {id} answered: {}", done(ok)),
        Change::Found { .. } | Change::Shaken { .. } => return None,
        Change::Add { slot } => format!("snapshot {slot} is to be made"),
        Change::Added { slot, ok } => format!("snapshot {slot}: making it: {}", done(ok)),
        Change::Merge { slot } => format!("snapshot {slot} is to be merged"),
        Change::Merging { slot, ok } => format!("snapshot {slot}: a merge begins: {}", done(ok)),
        Change::Cancelled => "the merge is given up".into(),
        Change::Remove { slot } => format!("snapshot {slot} is out"),
        Change::Drop { slot } => format!("snapshot {slot} is to be dropped, or may be"),
        Change::Dropped { slot } => format!("snapshot {slot} is dropped for good"),
        Change::Lose { slot } => format!("nothing is promised of snapshot {slot} any more"),
    })
}
