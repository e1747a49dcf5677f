//! Small machines, of which every cut is tried.

mod build; // what they are built from
mod stores; // stores that are made, filled, and found as kernels left them
mod full; // stores that have no room
mod merges; // merges, alone and while others are at work
mod undo; // merges that are taken back
mod requests; // requests of every kind
mod sequences; // short sequences of operations, all of them
mod served; // what exports say of ranges
mod hangs; // disks that hang
mod rare; // what seldom meets

pub use build::World;
pub use sequences::sequences;

/// The worlds with a name of their own.
pub fn named() -> Vec<World> {
    let mut all = stores::creation();
    all.extend(stores::first_writes());
    all.extend(stores::boundaries());
    all.extend(full::full_stores());
    all.extend(stores::strays());
    all.extend(merges::merges());
    all.extend(merges::two_snapshots());
    all.extend(undo::undone());
    all.extend(requests::odd_requests());
    all.extend(requests::waiting_writes());
    all.extend(requests::flushes_beside_copies());
    all.extend(rare::rare());
    all.extend(served::served());
    all.extend(hangs::hangs());
    all
}

/// The world with this name.
pub fn find(name: &str) -> Option<World> {
    let letters = name.matches('-').count().saturating_sub(1);
    let length = u32::try_from(letters).unwrap_or(0);
    let mut all = match name.starts_with("sequence-") {
        true => sequences(length),
        false => named(),
    };
    all.retain(|world| world.name == name);
    all.pop()
}
