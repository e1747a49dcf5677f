use std::path::Path;
use std::rc::Rc;

use dmsnap::device::Device;
use dmsnap::volume::Snapshot;

use super::api::WayBack;
use super::call::Answer;
use super::change::StateChange;
use super::controller::{Controller, refuse_invalid};
use super::opener::StoreOpener;
use super::refusal::{Code, Refusal};
use crate::export::VolumeExport;
use crate::names::refuse_reserved;

impl<O: Device + 'static, C: Device + 'static, P: StoreOpener<O, C>> Controller<O, C, P> {
    /// Starts to merge a snapshot, and keeps what that writes over in a new store, which is served for reading.
    ///
    /// # Ordering
    ///
    /// 1. the new store is made and added: see [`Volume::add_way_back`](crate::Volume::add_way_back)
    /// 2. that it is there is kept, see [`StoreOpener::keep`]
    /// 3. the merge begins: see [`Merger::start`](crate::Merger::start)
    ///
    /// What clients write to the origin from 1 on is kept as well. A crash there leaves a merge in which
    /// nothing is merged.
    ///
    /// # Errors
    ///
    /// What the opener refuses, before anything is written; or why the merge cannot begin, and then the way back is
    /// dropped.
    pub async fn start_undoable(
        &self,
        snapshot: &Rc<Snapshot<C>>,
        wanted: &WayBack,
    ) -> Result<Rc<Snapshot<C>>, Refusal> {
        let way_back = self.add_way_back(snapshot, wanted).await?;
        match self.merger.start(snapshot).await {
            Ok(()) => Ok(way_back),
            Err(error) => {
                self.drop_way_back(snapshot, &way_back).await;
                Err(Refusal::of(snapshot.name(), error))
            }
        }
    }

    async fn add_way_back(
        &self,
        snapshot: &Rc<Snapshot<C>>,
        wanted: &WayBack,
    ) -> Result<Rc<Snapshot<C>>, Refusal> {
        let usual = || format!("{}-undo", snapshot.name());
        let name = wanted.name.clone().unwrap_or_else(usual);
        refuse_reserved(&name).map_err(|error| Refusal::new(Code::BadRequest, error))?;
        if !Path::new(&wanted.cow).is_absolute() {
            let found = format_args!("found the path `{}`; it must be absolute", wanted.cow);
            return Err(Refusal::new(Code::BadRequest, found));
        }
        let _held = self.hold(&name)?;
        let in_use = || Refusal::new(Code::NameInUse, format_args!("{name}: the name is in use"));
        if self.exports.names().contains(&name) {
            return Err(in_use());
        }
        let opened = self.opener.open_way_back(&self.volume, snapshot, (&name, wanted)).await;
        let way_back = opened?;
        if self.exports.add(VolumeExport::snapshot(&self.volume, &way_back, true)).is_err() {
            self.drop_way_back(snapshot, &way_back).await;
            return Err(in_use());
        }
        let (cow, max_size_bytes) = (wanted.cow.clone(), way_back.options().max_bytes);
        let made = WayBack { cow, name: Some(name.clone()), max_size_bytes };
        let made = StateChange::WayBackMade { name: &name, way_back: &made };
        if let Err(refusal) = self.opener.keep(made).await {
            self.drop_way_back(snapshot, &way_back).await;
            return Err(refusal);
        }
        self.name_cow(&name, Path::new(&wanted.cow));
        Ok(way_back)
    }

    async fn drop_way_back(&self, snapshot: &Rc<Snapshot<C>>, way_back: &Rc<Snapshot<C>>) {
        self.exports.remove(way_back.name()).await;
        // The reason for dropping it is reported anyway; an error of this device would add nothing.
        let _ = self.volume.drop_way_back(snapshot, way_back).await;
        self.monitor.forget_cow(way_back.name());
    }

    /// Takes a merge back: see [`Merger::undo`](crate::Merger::undo).
    pub(super) async fn undo_merge(&self, name: &str) -> Result<Answer, Refusal> {
        self.refuse_read_only()?;
        let snapshot = self.find(name)?;
        refuse_invalid(&snapshot)?;
        let partner = self.volume.partner(&snapshot);
        let _held = self.hold(name)?;
        let _partner = partner.as_ref().map(|it| self.hold(it.name())).transpose()?;
        let before = self.merger.progress().map(|it| it.snapshot);
        let may_undo = self.volume.may_exchange(&snapshot).is_ok();
        let partner = partner.filter(|_| may_undo && before.as_ref().is_none_or(|it| it == name));
        if let Some(partner) = &partner {
            self.opener.keep(StateChange::MergeExchanged(partner.name())).await?;
        }
        if let Err(error) = self.merger.undo(&snapshot).await {
            if partner.is_some() {
                let merges = |_| StateChange::MergeExchanged(name);
                let as_before = before.map_or(StateChange::MergeCancelled(name), merges);
                self.opener.keep(as_before).await?;
            }
            return Err(Refusal::of(name, error));
        }
        self.merge()
    }

    /// Refuses to take out one store of an undoable merge that is not done: origin writes would be lost to it.
    pub(super) fn refuse_bound(&self, snapshot: &Snapshot<C>) -> Result<(), Refusal> {
        let Some(partner) = self.volume.bound_partner(snapshot) else { return Ok(()) };
        let (name, partner) = (snapshot.name(), partner.name());
        let found = format_args!(
            "{name} shares an undoable merge with {partner}; end it, or give one of them up with \
             `snapshot invalidate`"
        );
        Err(Refusal::new(Code::Merging, found))
    }
}
