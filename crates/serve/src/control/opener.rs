use std::rc::Rc;

use dmsnap::volume::{Snapshot, Volume};

use super::api::{NewSnapshot, WayBack};
use super::change::StateChange;
use super::refusal::{Code, Refusal};

/// Opens the stores that clients name, and keeps what they have changed: only the program that started the server knows
/// how.
#[allow(async_fn_in_trait, reason = "all of it stays on the volume's thread")]
pub trait StoreOpener<O, C>: 'static {
    /// Opens the COW device of a new snapshot, after making a store there if that is asked for, and
    /// adds it to the volume. The name has been checked.
    ///
    /// # Errors
    ///
    /// Why not; then the volume is as it was.
    async fn open(
        &self,
        volume: &Volume<O, C>,
        wanted: &NewSnapshot,
    ) -> Result<Rc<Snapshot<C>>, Refusal>;

    /// Makes the store that is to keep the way back of a merge of `snapshot`, and adds it under `name`, as
    /// [`Volume::add_way_back`] does. The name has been checked.
    ///
    /// # Errors
    ///
    /// Why not; then the volume is as it was.
    async fn open_way_back(
        &self,
        volume: &Volume<O, C>,
        snapshot: &Rc<Snapshot<C>>,
        (name, wanted): (&str, &WayBack),
    ) -> Result<Rc<Snapshot<C>>, Refusal> {
        let _ = (volume, snapshot, wanted);
        let found = format_args!("{name}: this server makes no stores");
        Err(Refusal::new(Code::Unsupported, found))
    }

    /// Checks whether a merge may write to the origin.
    ///
    /// # Errors
    ///
    /// Why not.
    async fn may_merge(&self, volume: &Volume<O, C>) -> Result<(), Refusal>;

    /// Keeps a change of what is served past the end of the server, also if that is killed. Nobody is told of the
    /// change before.
    ///
    /// # Errors
    ///
    /// Why not; then the change is not made, or is taken back.
    async fn keep(&self, change: StateChange<'_>) -> Result<(), Refusal> {
        let _ = change;
        Ok(())
    }
}
