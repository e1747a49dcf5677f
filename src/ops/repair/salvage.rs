use super::list::List;
use super::lost_header::{Found, HeaderState, find_store};
use super::options::{Condition, RepairOptions};
use super::plan::{RepairPlan, Teller};
use super::treatment::Treatment;
use crate::device::Device;
use crate::ops::Error;
use crate::ops::check::is_swapped_or_store;
use crate::ops::devices::{changed_origin, shown_bytes};
use crate::ops::finding::{Finding, Place};
use crate::store::Damage;

/// A store that was read to be repaired. Nothing has been written to it.
#[derive(Debug)]
pub struct Salvage<'a, C> {
    pub(super) options: RepairOptions,
    plan: RepairPlan,
    /// `None` if there is no list.
    list: Option<List<'a, C>>,
}

/// Reads what is left of a store, and tells `each` every finding with what a repair does about it. Finds what
/// [`check`](crate::ops::check) finds, and reads on where that stops: without a header, and past the gap that
/// a discard has left. Of a sound store nothing is told. Writes nothing.
///
/// Memory: some bits for each exception, as for a check, and about 64 bytes for each that repeats the chunk of
/// an earlier one, of which 262,144 are looked at.
///
/// # Errors
///
/// An error of a device; devices that look swapped; [`Error::Header`] if nothing shows that there was a store.
pub async fn salvage<'a, C: Device, O: Device>(
    cow: &'a C,
    origin: Option<&O>,
    options: RepairOptions,
    each: impl FnMut(&Finding, &Treatment),
) -> Result<Salvage<'a, C>, Error> {
    let origin_is_store = match origin {
        Some(origin) => is_swapped_or_store(cow, origin).await?,
        None => false,
    };
    let origin_bytes = shown_bytes(cow, origin, options.len_bytes).await?;
    let mut teller = Teller::new(&options, each);
    let (reader, header) = match find_store(cow, origin_bytes, options.chunk_size).await? {
        Found::Store(reader, header) => (reader, header),
        Found::Nothing(damage) => {
            let treatment = match damage {
                Damage::Header(_) => Treatment::NameChunkSize,
                _ => Treatment::NothingLeft,
            };
            teller.tell(&Finding::new(Place::HEADER, damage), &treatment);
            return Ok(Salvage { options, plan: teller.plan(None::<&List<'_, C>>), list: None });
        }
    };
    let list = List::read(reader, &options).await?;
    let changed = match origin {
        Some(origin) => changed_origin(&list.fence, origin).await?,
        None => None,
    };
    let mut found = |place, damage| {
        let finding = Finding::new(place, damage);
        teller.tell(&finding, &list.treatment(&finding, &options));
    };
    if origin_is_store {
        found(Place::NOWHERE, Damage::OriginBeginsWithHeader);
    }
    if let Some(changed) = changed {
        found(Place::NOWHERE, Damage::OriginChanged(changed));
    }
    if let HeaderState::Lost(error) = header {
        found(Place::HEADER, Damage::Header(error));
    }
    if list.is_damaged {
        teller.list(&list).await?;
    }
    let plan = teller.plan(Some(&list));
    let sound = plan.damaged == 0 && !matches!(header, HeaderState::Overruled);
    Ok(Salvage { options, plan: RepairPlan { sound, ..plan }, list: Some(list) })
}

impl<'a, C: Device> Salvage<'a, C> {
    /// What a repair would do, in numbers.
    pub fn plan(&self) -> &RepairPlan {
        &self.plan
    }

    /// Refuses what a repair would refuse before it writes anything.
    ///
    /// # Errors
    ///
    /// [`Error::Needs`]: the gravest of what the caller still has to agree to.
    pub fn refuse_unmet(&self) -> Result<(), Error> {
        self.agreed().map(|_| ())
    }

    /// The list, if the caller has agreed to all that a repair needs.
    pub(super) fn agreed(&self) -> Result<&List<'a, C>, Error> {
        match (self.plan.needs.first(), &self.list) {
            (None, Some(list)) => Ok(list),
            (Some(condition), _) => Err(Error::Needs(*condition)),
            (None, None) => Err(Error::Needs(Condition::Impossible)),
        }
    }
}
