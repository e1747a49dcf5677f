use std::rc::Rc;

use dmsnap::volume::{Snapshot, Volume};

use super::api::NewSnapshot;
use super::refusal::Refusal;

/// Opens the stores that clients name: only the program that started the server knows how.
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

    /// Checks whether a merge may write to the origin.
    ///
    /// # Errors
    ///
    /// Why not.
    async fn may_merge(&self, volume: &Volume<O, C>) -> Result<(), Refusal>;
}
