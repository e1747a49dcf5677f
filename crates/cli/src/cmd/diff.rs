mod form; // how they are written
mod sides; // what the command line names, opened and told apart

use std::io;
use std::num::NonZeroU64;
use std::ops::Range;

use clap::error::ErrorKind;
use dmsnap::ops::{DiffPage, Differences};

use self::form::{Form, Head, Writer};
use self::sides::{Sides, Wanted};
use crate::device_arg::DeviceArg;
use crate::exit::Outcome;
use crate::files::Io;
use crate::output::Output;
use crate::progress::Watch;
use crate::report::Failure;
use crate::size;

/// List where two snapshots of one origin differ, or a snapshot and its origin
///
/// A and B are the COW devices of two snapshots, or one of them is the origin: that is the one
/// that does not begin with a store's header. Of two stores the origin need not be there; with
/// --origin both are checked against it.
///
/// Two snapshots show the same wherever neither of their stores has an exception, and only the
/// stores' metadata is read. So a range may also hold the same on both sides, if the same was
/// written again; --compare reads the data too, and lists only what differs. What lies past the
/// end of the shorter snapshot is listed.
///
/// In text a line is
///
///   START LENGTH  SIZE
///
/// with the first byte, the number of bytes, and the same for people. Nothing is written. A store
/// that a server has is refused: ask that with `dmsnap ctl diff`.
///
/// The exit status is 0 if nothing differs, and 1 if something does.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, verbatim_doc_comment)]
pub(crate) struct Args {
    /// COW device or image, or the origin
    #[arg(value_name = "A", value_parser = DeviceArg::parser())]
    a: DeviceArg,

    /// The same of the other side
    #[arg(value_name = "B", value_parser = DeviceArg::parser())]
    b: DeviceArg,

    /// The origin of two stores
    #[arg(long, value_parser = DeviceArg::parser())]
    origin: Option<DeviceArg>,

    /// Read what both sides show, and leave out what is the same
    #[arg(long)]
    compare: bool,

    /// Begin at this byte
    #[arg(long, value_name = "BYTE", value_parser = size::parse_or_none, default_value = "0")]
    from: u64,

    /// List at most this many ranges
    #[arg(long, value_name = "N")]
    max: Option<NonZeroU64>,

    /// How the ranges are written
    #[arg(long, value_enum, default_value_t)]
    format: Form,

    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Go on although the origin is not what the store remembers of it (`dmsnap create --base`)
    #[arg(long)]
    no_fence: bool,

    /// Around the page cache or through it
    #[arg(long, value_enum, value_name = "WAY", default_value_t)]
    io: Io,

    /// With --compare: show progress even if stderr is not a terminal
    #[arg(long, requires = "compare")]
    progress: bool,
}

const EXAMPLES: &str = "\
Examples:
  What has changed since Monday:
    dmsnap diff monday.cow disk.img
  And between two snapshots, without what only was written again:
    dmsnap diff --compare --origin disk.img monday.cow tuesday.cow
  How many bytes:
    dmsnap diff monday.cow disk.img | awk '{ n += $2 } END { print n }'
  For a CSI driver, a page at a time:
    dmsnap diff --format csi --from 1G --max 256 monday.cow disk.img";

impl Args {
    pub(crate) async fn run(&self, out: &mut Output) -> Result<Outcome, Failure> {
        let wanted = Wanted { compare: self.compare, no_fence: self.no_fence, io: self.io };
        let sides = Sides::open(&self.a, &self.b, self.origin.as_ref(), wanted).await?;
        let diff = sides.diff().await?;
        let form = if self.json { Form::Json } else { self.format };
        if form.needs_size() && diff.len_bytes().is_none() {
            let found = "this format tells the size, which only the origin says: give --origin";
            return Err(Failure::usage(ErrorKind::MissingRequiredArgument, found));
        }
        let (size, granularity) = (diff.len_bytes(), diff.granularity_bytes());
        let head = Head { size, granularity, exact: diff.is_exact() };
        let page = DiffPage { from: self.from, most: self.max };
        let watch = self.compare.then(|| Watch::new(self.progress, None)).transpose()?;
        let mut writer = Writer::new(form, head, self.from, out);
        let told = self.tell(&sides, &diff, page, watch.as_ref(), &mut writer).await?;
        if let Some(told) = told {
            writer.end(told.next)?;
            let differs = told.ranges > 0;
            return Ok(if differs { Outcome::No } else { Outcome::Yes });
        }
        // Nobody reads any more, and something was to be read.
        Ok(Outcome::No)
    }

    /// `None` if nobody listens any more.
    async fn tell(
        &self,
        sides: &Sides,
        diff: &sides::Found<'_>,
        page: DiffPage,
        watch: Option<&Watch>,
        writer: &mut Writer<'_>,
    ) -> Result<Option<Differences>, Failure> {
        let mut stopped = None;
        let each = |range: Range<u64>| match writer.range(range) {
            Ok(()) if !writer.is_closed() => Ok(()),
            // The error only ends the list; what it was stays here.
            told => {
                stopped = Some(told);
                Err(io::ErrorKind::BrokenPipe.into())
            }
        };
        let told = match watch {
            Some(watch) => diff.each(page, watch, each).await,
            None => diff.each(page, &dmsnap::ops::Silent, each).await,
        };
        if let Some(watch) = watch {
            watch.done();
        }
        match stopped {
            Some(told) => told.map(|()| None),
            None => told.map(Some).map_err(|error| sides.failure(&error)),
        }
    }
}
