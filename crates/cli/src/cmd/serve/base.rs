use dmsnap_serve::ORIGIN;

use super::plan::Plan;
use crate::device_arg::is_address;
use crate::report::Failure;

/// What there is to say of an origin that others have as well.
#[derive(Debug, clap::Args)]
pub(super) struct Base {
    /// Open the origin for reading alone: a golden image
    ///
    /// Its export refuses writes, nothing can be merged into it, and others may not write to it either. Of
    /// itself it is opened so where its mode, its file system or its disk lets nobody write. Without the option any number
    /// of servers share an origin all the same, until a client of one of them writes to it; as long as
    /// others have it open such a write is refused.
    #[arg(long, conflicts_with_all = ["merge", "undo"])]
    origin_read_only: bool,

    /// What clients get who ask for no export by name
    ///
    /// By default it is the origin; but the only snapshot, where the origin is open for reading alone and
    /// --read-only is not given.
    #[arg(long, value_name = "NAME")]
    pub(super) default_export: Option<String>,
}

impl Base {
    /// Puts it into the plan, if it can be done.
    pub(super) fn check(&self, plan: &mut Plan, merge: Option<&str>) -> Result<(), Failure> {
        plan.keeps_origin = self.origin_read_only;
        if let Some(merge) = merge.filter(|_| self.origin_read_only) {
            let found = format_args!("{merge} is to be merged into the origin");
            return Err(Failure::of("--origin-read-only", found));
        }
        if self.origin_read_only && plan.cows().iter().any(|(_, cow)| is_address(cow)) {
            let found = "an LVM origin and its snapshots lie in the same images";
            return Err(Failure::of("--origin-read-only", found).advise("leave it out"));
        }
        let is_served =
            |name: &str| name == ORIGIN || plan.alias.as_deref() == Some(name) || plan.has(name);
        match self.default_export.as_deref().filter(|name| !is_served(name)) {
            Some(name) => {
                let found = format_args!("no export is named {name}");
                Err(Failure::of("--default-export", found))
            }
            None => Ok(()),
        }
    }
}
