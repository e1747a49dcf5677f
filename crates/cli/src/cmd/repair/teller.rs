use std::collections::BTreeMap;

use dmsnap::ops::{Finding, Treatment};
use serde::Serialize;

use crate::cmd::check::{OF_ONE_KIND, word};
use crate::output::Output;
use crate::report::Failure;

/// Prints findings and what is done about them; as text at most [`OF_ONE_KIND`] of each kind.
pub(super) struct Teller<'a> {
    out: &'a mut Output,
    json: bool,
    told: BTreeMap<(&'static str, &'static str), u64>,
    failed: Option<Failure>,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    finding: &'a Finding,
    treatment: &'a Treatment,
}

impl<'a> Teller<'a> {
    pub(super) fn new(out: &'a mut Output, json: bool) -> Self {
        Self { out, json, told: BTreeMap::new(), failed: None }
    }

    pub(super) fn tell(&mut self, finding: &Finding, treatment: &Treatment) {
        let told = self.told.entry((finding.damage.name(), treatment.name())).or_default();
        *told += 1;
        let result = match self.json {
            true => self.out.json(&Line { finding, treatment }),
            false if *told > OF_ONE_KIND => Ok(()),
            false => {
                let severity = word(finding.damage.severity());
                let line = self.out.line(format_args!("{severity}: {finding}"));
                line.and_then(|()| self.out.line(format_args!("  repair: {treatment}")))
            }
        };
        if let Err(failure) = result {
            self.failed.get_or_insert(failure);
        }
    }

    pub(super) fn finish(self) -> Result<(), Failure> {
        if let Some(failure) = self.failed {
            return Err(failure);
        }
        let many = self.told.iter().filter(|&(_, &told)| told > OF_ONE_KIND && !self.json);
        for ((kind, treatment), told) in many {
            let more = told - OF_ONE_KIND;
            self.out
                .line(format_args!("... and {more} more of {kind}, repaired by {treatment}"))?;
        }
        Ok(())
    }
}
