use dmsnap::device::Device;
use dmsnap::volume::{State, Volume};

use super::event::ServiceEvent;

/// Snapshots that were dropped, as far as that was reported.
#[derive(Debug, Default)]
pub(super) struct Losses {
    told: Vec<String>,
    /// Those whose stores do not say so.
    unmarked: Vec<String>,
}

impl Losses {
    /// Tells what is new since the last time.
    pub(super) fn tell<O: Device, C: Device>(
        &mut self,
        volume: &Volume<O, C>,
        tell: &dyn Fn(ServiceEvent<'_>),
    ) {
        let snapshots = volume.snapshots();
        let invalid = snapshots.iter().filter(|it| it.state() == State::Invalid);
        let invalid: Vec<String> = invalid.map(|it| it.name().into()).collect();
        for snapshot in invalid.iter().filter(|name| !self.told.contains(name)) {
            tell(ServiceEvent::Dropped { snapshot });
            let partner = volume.snapshot(snapshot).and_then(|it| volume.merged_partner(&it));
            if let Some(merged) = partner {
                let (snapshot, way_back) = (merged.name(), snapshot.as_str());
                tell(ServiceEvent::WayBackLost { snapshot, way_back });
            }
        }
        let unmarked = snapshots.iter().filter(|it| it.is_unmarked());
        let unmarked: Vec<String> = unmarked.map(|it| it.name().into()).collect();
        for snapshot in unmarked.iter().filter(|name| !self.unmarked.contains(name)) {
            tell(ServiceEvent::Unmarked { snapshot });
        }
        let marked = |name: &&String| invalid.contains(name) && !unmarked.contains(name);
        for snapshot in self.unmarked.iter().filter(marked) {
            tell(ServiceEvent::Marked { snapshot });
        }
        self.unmarked = unmarked;
        // One that was taken out may come back under the same name.
        self.told = invalid;
    }
}
