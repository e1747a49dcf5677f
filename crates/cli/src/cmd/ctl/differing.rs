use std::num::NonZeroU64;

use dmsnap_serve::control::{Client, ClientError, Diff, DiffQuery, DiffRange};

use crate::cmd::ranges::Line;
use crate::output::Output;
use crate::report::Failure;
use crate::size;

/// What is compared.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A snapshot, or `origin`
    from: String,

    /// A snapshot, or `origin`
    to: String,

    /// Begin at this byte
    #[arg(long, value_name = "BYTE", value_parser = size::parse_or_none, default_value = "0")]
    start: u64,

    /// List at most this many ranges
    #[arg(long, value_name = "N")]
    max: Option<NonZeroU64>,
}

impl Args {
    /// One page, for a program.
    pub(super) async fn page(&self, client: Client<'_>) -> Result<Diff, ClientError> {
        client.diff(&self.query(self.start, self.max.map(NonZeroU64::get))).await
    }

    /// Page after page, for people. True if anything differs.
    pub(super) async fn list(
        &self,
        client: Client<'_>,
        out: &mut Output,
    ) -> Result<Result<bool, Failure>, ClientError> {
        let (mut start, mut left) = (self.start, self.max.map(NonZeroU64::get));
        let mut differs = false;
        loop {
            let Diff { ranges, next, .. } = client.diff(&self.query(start, left)).await?;
            differs |= !ranges.is_empty();
            for DiffRange { start, length } in &ranges {
                if let Err(failure) = out.line(Line(*start..start + length)) {
                    return Ok(Err(failure));
                }
            }
            left = left.map(|left| left.saturating_sub(ranges.len() as u64));
            match next.filter(|_| left != Some(0) && !out.closed()) {
                Some(next) => start = next,
                None => return Ok(Ok(differs)),
            }
        }
    }

    fn query(&self, start: u64, max: Option<u64>) -> DiffQuery {
        DiffQuery { from: self.from.clone(), to: self.to.clone(), start, max }
    }
}
