use dmsnap::device::Device;
use dmsnap::volume::Volume;

use super::event::ServiceEvent;

/// What there is to tell of an origin that others have as well, as far as that was told.
#[derive(Debug, Default)]
pub(super) struct OriginWatch {
    refusal: Option<String>,
}

impl OriginWatch {
    /// Tells what is new since the last time.
    pub(super) fn tell<O: Device, C: Device>(
        &mut self,
        volume: &Volume<O, C>,
        tell: &dyn Fn(ServiceEvent<'_>),
    ) {
        let refusal = volume.write_refusal();
        if let Some(found) = refusal.as_deref().filter(|_| self.refusal.is_none()) {
            tell(ServiceEvent::OriginNotWritten { found });
        }
        self.refusal = refusal;
    }
}
