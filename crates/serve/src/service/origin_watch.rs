use std::cell::RefCell;
use std::mem::discriminant;

use dmsnap::device::{Change, Device};
use dmsnap::volume::Volume;

use super::event::ServiceEvent;

/// What there is to tell of an origin that others have as well, as far as that was told.
#[derive(Debug, Default)]
pub(super) struct OriginWatch {
    refusal: RefCell<Option<String>>,
    change: RefCell<Option<Change>>,
}

impl OriginWatch {
    /// Tells what is new since the last time of writes that were refused.
    pub(super) fn tell<O: Device, C: Device>(
        &self,
        volume: &Volume<O, C>,
        tell: &dyn Fn(ServiceEvent<'_>),
    ) {
        let refusal = volume.write_refusal();
        let told = self.refusal.replace(refusal.clone());
        if let Some(found) = refusal.as_deref().filter(|_| told.is_none()) {
            tell(ServiceEvent::OriginNotWritten { found });
        }
    }

    /// Looks whether somebody has changed the origin, and tells what is new. That may take long: the device may hang.
    pub(super) async fn look<O: Device, C: Device>(
        &self,
        volume: &Volume<O, C>,
        tell: &dyn Fn(ServiceEvent<'_>),
    ) -> Option<Change> {
        // What cannot be asked is told by those who read it.
        let change = volume.origin_device().change().await.ok().flatten()?;
        let told = self.change.replace(Some(change));
        if told.is_none_or(|told| discriminant(&told) != discriminant(&change)) {
            tell(ServiceEvent::OriginChanged { change });
        }
        Some(change)
    }
}
