use std::fmt::Write as _;
use std::ops::Range;

use clap::ValueEnum;
use dmsnap_serve::control::DiffRange;
use serde::Serialize;

use crate::cmd::ranges::Line;
use crate::output::Output;
use crate::report::Failure;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// A line of text for each range
    #[default]
    Text,
    /// A JSON object on a line for each range, after one that describes the list
    Json,
    /// Messages as those of CSI's `GetMetadataDelta`, a JSON object on a line each
    Csi,
    /// As `qemu-img map --output=json` lists an image that holds only what differs
    Qemu,
}

impl Form {
    pub(super) fn needs_size(self) -> bool {
        matches!(self, Self::Csi | Self::Qemu)
    }
}

/// What describes the whole list.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Head {
    pub(super) size: Option<u64>,
    pub(super) granularity: u64,
    pub(super) exact: bool,
}

/// The names are CSI's.
#[derive(Serialize)]
struct Block {
    byte_offset: u64,
    size_bytes: u64,
}

#[derive(Serialize)]
struct Message<'a> {
    block_metadata_type: &'static str,
    volume_capacity_bytes: u64,
    block_metadata: &'a [Block],
}

/// In one message.
const MOST_BLOCKS: usize = 1024;

/// The names are QEMU's.
#[derive(Serialize)]
struct Extent {
    start: u64,
    length: u64,
    depth: u64,
    present: bool,
    zero: bool,
    data: bool,
}

/// Writes a list of ranges.
pub(super) struct Writer<'a> {
    form: Form,
    head: Head,
    out: &'a mut Output,
    /// Nothing was written yet.
    is_new: bool,
    /// The first byte that was not told.
    at: u64,
    blocks: Vec<Block>,
    text: String,
}

impl<'a> Writer<'a> {
    /// Of a list that begins at byte `from`.
    pub(super) fn new(form: Form, head: Head, from: u64, out: &'a mut Output) -> Self {
        Self { form, head, out, is_new: true, at: from, blocks: Vec::new(), text: String::new() }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.out.closed()
    }

    pub(super) fn range(&mut self, range: Range<u64>) -> Result<(), Failure> {
        let Range { start, end } = range.clone();
        let length = end - start;
        match self.form {
            Form::Text => {
                // Millions of them hold nothing that a terminal must not get.
                self.text.clear();
                let _ = writeln!(self.text, "{}", Line(range));
                self.out.text(self.text.as_bytes())
            }
            Form::Json => {
                self.begin_json()?;
                self.out.json(&DiffRange { start, length })
            }
            Form::Csi => {
                self.blocks.push(Block { byte_offset: start, size_bytes: length });
                if self.blocks.len() == MOST_BLOCKS { self.message() } else { Ok(()) }
            }
            Form::Qemu => {
                self.extent(start, false)?;
                self.extent(end, true)
            }
        }
    }

    /// There are no more; the next range begins at `next`, if there are more than were asked for.
    pub(super) fn end(mut self, next: Option<u64>) -> Result<(), Failure> {
        match self.form {
            Form::Text => Ok(()),
            Form::Json => self.begin_json(),
            Form::Csi if self.is_new || !self.blocks.is_empty() => self.message(),
            Form::Csi => Ok(()),
            Form::Qemu => {
                self.extent(next.or(self.head.size).unwrap_or(self.at), false)?;
                let end = if self.is_new { "[]\n" } else { "]\n" };
                self.out.text(end.as_bytes())
            }
        }
    }

    fn begin_json(&mut self) -> Result<(), Failure> {
        match std::mem::take(&mut self.is_new) {
            true => self.out.json(&self.head),
            false => Ok(()),
        }
    }

    fn message(&mut self) -> Result<(), Failure> {
        self.is_new = false;
        let blocks = std::mem::take(&mut self.blocks);
        self.out.json(&Message {
            block_metadata_type: "VARIABLE_LENGTH",
            volume_capacity_bytes: self.head.size.unwrap_or(0),
            block_metadata: &blocks,
        })
    }

    /// From where the last one ended up to `end`.
    fn extent(&mut self, end: u64, differs: bool) -> Result<(), Failure> {
        let (start, length) = (self.at, end.saturating_sub(self.at));
        if length == 0 {
            return Ok(());
        }
        self.at = end;
        let (present, data) = (differs, differs);
        let extent = Extent { start, length, depth: 0, present, zero: false, data };
        let text = serde_json::to_string(&extent);
        let text = text.map_err(|error| Failure::of("standard output", error))?;
        let before = if std::mem::take(&mut self.is_new) { "[" } else { ",\n" };
        self.out.text(format!("{before}{text}").as_bytes())
    }
}
