//! A merge alongside clients that is taken back: what every store shows at every cut, and what is refused.

use std::cell::Cell;
use std::rc::Rc;

use dmsnap::copy::Observer;
use dmsnap::device::{Device, DynDevice};
use dmsnap::format::{StoreId, TagState};
use dmsnap::ops::{self, MergeOptions, Silent, UndoOptions};
use dmsnap::store::read_tag;
use dmsnap::volume::{MergeState, SnapshotOptions, State, VolumeError};
use dmsnap_sim::{Disk, Power, run};

use crate::common::live::{AnySnapshot, AnyView, AnyVolume, any_volume, data};
use crate::common::{World, scattered};

const WINDOW_BYTES: u64 = 2048;

const ORIGIN_SECTORS: u64 = 24;

fn ids(n: u8) -> [StoreId; 2] {
    [n, n + 1].map(|byte| StoreId::new([byte; 16]).expect("not zero"))
}

fn world() -> World {
    World::new(1, 200, ORIGIN_SECTORS).with_exceptions(&scattered(9, ORIGIN_SECTORS, 5))
}

/// The store, its origin, and the device for the undo store.
type Disks = [Rc<Disk>; 3];

fn disks(world: &World, power: &Power) -> Disks {
    let contents = [&world.cow, &world.origin, &vec![0; 512 * 200]];
    contents.map(|content| Rc::new(Disk::new(content.clone(), 512, power)))
}

/// A client, which knows what it was told, and what the old origin is.
struct Play {
    volume: Rc<AnyVolume>,
    snapshot: Rc<AnySnapshot>,
    way_back: Option<Rc<AnySnapshot>>,
}

impl Play {
    async fn open(disks: &Disks) -> Result<Self, VolumeError> {
        let volume = any_volume(disks[1].clone());
        let cow = DynDevice::new(disks[0].clone());
        let snapshot = volume.open("s", cow, SnapshotOptions::default()).await?;
        Ok(Self { volume, snapshot, way_back: None })
    }

    async fn add(&mut self, disks: &Disks) -> Result<(), VolumeError> {
        let device = ("u", DynDevice::new(disks[2].clone()));
        let options = SnapshotOptions::default();
        let added = self.volume.add_way_back(&self.snapshot, device, ids(1), options).await?;
        self.way_back = Some(added);
        Ok(())
    }

    fn origin(&self) -> AnyView {
        AnyView::origin(&self.volume)
    }

    async fn write(&self, sector: u64, tag: u64) -> Result<(), VolumeError> {
        Ok(self.origin().write(sector * 512, data(tag, 1)).await?)
    }

    fn way_back(&self) -> &Rc<AnySnapshot> {
        self.way_back.as_ref().expect("added")
    }
}

/// Pauses after this many windows.
struct Windows(Cell<u32>);

impl Observer for Windows {
    fn stop_requested(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

async fn all(view: &AnyView) -> Vec<u8> {
    let len = usize::try_from(view.len_bytes().expect("a size")).expect("small");
    view.read(0, len).await.expect("read").to_vec()
}

async fn windows(play: &Play, count: u32) -> Result<MergeState, VolumeError> {
    play.volume.run_merge(WINDOW_BYTES, &Windows(count.into())).await
}

/// Adds the way back, merges `before` windows with client writes, and takes that back.
async fn history(disks: &Disks, before: u32, told: &Cell<&'static str>) -> Result<(), VolumeError> {
    let mut play = Play::open(disks).await?;
    play.add(disks).await?;
    told.set("added");
    play.volume.start_merge(&play.snapshot).await?;
    told.set("merging");
    windows(&play, before).await?;
    if before > 1 {
        told.set("written");
        play.write(5, 1 << 50).await?;
        play.write(11, 1 << 51).await?;
        if before > 2 {
            play.origin().flush().await?;
            told.set("flushed");
        }
    }
    play.volume.exchange_merge(&play.snapshot).await?;
    if before == 2 {
        // What the snapshot shows is durable, also what was written to the origin's device before.
        AnyView::snapshot(&play.volume, &play.snapshot).flush().await?;
    }
    told.set("exchanged");
    let state = windows(&play, u32::MAX).await?;
    assert_eq!(state, MergeState::Finished);
    told.set("taken back");
    play.volume.flush_all().await
}

fn shown(cow: &Disk, origin: &Disk) -> Vec<u8> {
    let output = Disk::new(vec![0; origin.content().len()], 512, &Power::steady());
    run(ops::export(cow, origin, &output, Default::default(), &Silent)).expect("exported");
    output.content()
}

/// What clients have written in a [`history`], in the order they did.
fn versions(world: &World) -> Vec<Vec<u8>> {
    let mut content = world.snapshot.clone();
    let mut versions = vec![content.clone()];
    for (sector, tag) in [(5, 1 << 50), (11, 1 << 51)] {
        content[sector * 512..][..512].copy_from_slice(&data(tag, 1));
        versions.push(content.clone());
    }
    // Unflushed, the second may survive without the first.
    let mut other = world.snapshot.clone();
    other[11 * 512..][..512].copy_from_slice(&data(1 << 51, 1));
    versions.push(other);
    versions
}

fn steady(contents: [Vec<u8>; 3]) -> Disks {
    contents.map(|content| Rc::new(Disk::new(content, 512, &Power::steady())))
}

#[test]
fn at_every_cut_one_store_shows_the_snapshot_and_the_other_the_old_origin() {
    let world = world();
    let versions = versions(&world);
    let mut states = 0;
    for before in [0, 1, 2, 3, u32::MAX] {
        let power = Power::steady();
        run(history(&disks(&world, &power), before, &Cell::new(""))).expect("done");
        for cut in 0..power.operations() {
            let told = Cell::new("opened");
            let begun = disks(&world, &Power::cut_after(cut));
            run(history(&begun, before, &told)).expect_err("the power was cut");
            let at = format!("{before} windows, cut after {cut}, {}", told.get());
            let left = begun.each_ref().map(|it| it.reboots(cut).take(6).collect::<Vec<_>>());
            for n in 0..left.iter().map(Vec::len).max().unwrap_or(0) {
                let left = steady(left.each_ref().map(|it| it[n % it.len()].clone()));
                let may = match told.get() {
                    "opened" | "added" | "merging" => &versions[..1],
                    "written" => &versions[..],
                    _ if before > 1 => &versions[2..3],
                    _ => &versions[..1],
                };
                assert_shown(&left, &world, may, &at);
                finish(&left, &world, n, &at);
                states += 1;
            }
        }
    }
    assert!(states > 400, "the world has become too small: {states}");
}

fn assert_shown([cow, origin, undo]: &Disks, world: &World, may: &[Vec<u8>], at: &str) {
    assert!(may.contains(&shown(cow, origin)), "the snapshot, {at}");
    match undo.content().starts_with(b"SnAp") {
        true => assert!(shown(undo, origin) == world.origin, "the old origin, {at}"),
        false => assert!(origin.content() == world.origin, "an origin without a way back, {at}"),
    }
}

/// What a power cut left is brought to an end offline, either way.
fn finish(left: &Disks, world: &World, n: usize, at: &str) {
    let [cow, origin, undo] = left;
    let snapshot = shown(cow, origin);
    if !undo.content().starts_with(b"SnAp") {
        return;
    }
    let needs = run(read_tag(&**cow)).expect("read").is_some_and(|it| it.needs_partner);
    let alone = run(ops::plan_merge(&**cow, &**origin, MergeOptions::default()));
    assert_eq!(alone.is_err(), needs || is_way_back(cow), "{at}: {alone:?}");
    let options = UndoOptions::default();
    let pair = (&**cow, &**origin);
    match n % 2 {
        0 => {
            let undone = run(ops::undo(pair, &**undo, &[], options, &Silent));
            undone.unwrap_or_else(|error| panic!("{error}: {at}"));
            assert!(origin.content() == world.origin, "taken back, {at}");
            assert!(shown(cow, origin) == snapshot, "the snapshot, taken back, {at}");
        }
        _ => {
            let way = (&**undo, ids(7));
            let merged = run(ops::merge_undoable(pair, way, &[], options, &Silent));
            merged.unwrap_or_else(|error| panic!("{error}: {at}"));
            assert!(origin.content() == snapshot, "merged, {at}");
            assert!(shown(undo, origin) == world.origin, "the old origin, merged, {at}");
        }
    }
}

fn is_way_back(cow: &Disk) -> bool {
    run(read_tag(cow)).expect("read").is_some_and(|it| it.state == TagState::Undo)
}

#[test]
fn from_one_moment_to_the_next_the_devices_are_exchanged() {
    let world = world();
    let disks = disks(&world, &Power::steady());
    run(async {
        let mut play = Play::open(&disks).await.expect("opened");
        play.add(&disks).await.expect("added");
        let (snapshot, way_back) = (play.snapshot.clone(), play.way_back().clone());
        assert!(way_back.is_way_back() && !snapshot.is_way_back());
        let partner = play.volume.bound_partner(&snapshot).expect("bound");
        assert_eq!(partner.name(), "u");
        // Before the merge begins the origin is the old one, and what is written to it is kept.
        play.write(0, 77).await.expect("written");
        play.volume.start_merge(&snapshot).await.expect("begun");
        windows(&play, 2).await.expect("merged");
        let of = |it: &Rc<AnySnapshot>| AnyView::snapshot(&play.volume, it);
        assert!(all(&of(&way_back)).await == world.origin);
        assert!(all(&play.origin()).await == world.snapshot, "what has an exception is hidden");
        let refused = play.volume.exchange_merge(&way_back).await.expect_err("not merged");
        assert!(matches!(refused, VolumeError::Merging { .. }), "{refused}");
        play.volume.exchange_merge(&snapshot).await.expect("exchanged");
        assert!(
            all(&play.origin()).await == world.origin
                && all(&of(&snapshot)).await == world.snapshot
        );
        windows(&play, 1).await.expect("merged");
        // And back, half-way.
        play.volume.exchange_merge(&way_back).await.expect("exchanged");
        assert!(
            all(&play.origin()).await == world.snapshot
                && all(&of(&way_back)).await == world.origin
        );
        assert_eq!(windows(&play, u32::MAX).await.expect("merged"), MergeState::Finished);
        assert!(
            all(&play.origin()).await == world.snapshot
                && all(&of(&way_back)).await == world.origin
        );
        let tags = [&snapshot, &way_back].map(|it| it.tag().expect("a tag"));
        assert!(tags.iter().all(|it| it.state == TagState::Plain && !it.needs_partner), "{tags:?}");
        assert!(play.volume.bound_partner(&snapshot).is_none(), "nobody needs the other");
    });
}

#[test]
fn what_cannot_have_a_way_back_is_refused_and_needs_none_afterwards() {
    let world = world();
    let disks = disks(&world, &Power::steady());
    run(async {
        let mut play = Play::open(&disks).await.expect("opened");
        play.add(&disks).await.expect("added");
        let volume = play.volume.clone();
        let second =
            || DynDevice::new(Rc::new(Disk::new(vec![0; 512 * 99], 512, &Power::steady())));
        let options = SnapshotOptions::default;
        let again = volume.add_way_back(&play.snapshot, ("v", second()), ids(5), options()).await;
        assert!(matches!(again, Err(VolumeError::HasWayBack { .. })), "{again:?}");
        let of_it = volume.add_way_back(play.way_back(), ("v", second()), ids(5), options()).await;
        assert!(matches!(of_it, Err(VolumeError::IsWayBack)), "{of_it:?}");
        let alone = volume.start_merge(play.way_back()).await;
        assert!(matches!(alone, Err(VolumeError::IsWayBack)), "{alone:?}");
        volume.drop_way_back(&play.snapshot, play.way_back()).await.expect("dropped");
        assert!(volume.snapshot("u").is_none());
        let tag = play.snapshot.tag().expect("named");
        assert!(tag.partner.is_none() && tag.state == TagState::Plain && !tag.needs_partner);
        let undone = volume.exchange_merge(&play.snapshot).await;
        assert!(matches!(undone, Err(VolumeError::NoWayBack)), "{undone:?}");
    });
}

#[test]
fn a_way_back_without_room_is_lost_and_the_merge_goes_on() {
    let world = world();
    let mut disks = disks(&world, &Power::steady());
    // Room for three exceptions.
    disks[2] = Rc::new(Disk::new(vec![0; 512 * 5], 512, &Power::steady()));
    run(async {
        let mut play = Play::open(&disks).await.expect("opened");
        play.add(&disks).await.expect("added");
        play.volume.start_merge(&play.snapshot).await.expect("begun");
        assert_eq!(windows(&play, u32::MAX).await.expect("merged"), MergeState::Finished);
        assert_eq!(play.way_back().state(), State::Invalid);
        assert!(all(&play.origin()).await == world.snapshot);
        let undone = play.volume.exchange_merge(&play.snapshot).await;
        assert!(matches!(undone, Err(VolumeError::NoWayBack)), "{undone:?}");
    });
}

#[test]
fn a_snapshot_without_room_for_what_is_merged_back_is_not_given_up() {
    let world = World::new(1, 12, ORIGIN_SECTORS).with_exceptions(&scattered(9, ORIGIN_SECTORS, 5));
    let disks = disks(&world, &Power::steady());
    run(async {
        let mut play = Play::open(&disks).await.expect("opened");
        play.add(&disks).await.expect("added");
        play.volume.start_merge(&play.snapshot).await.expect("begun");
        windows(&play, u32::MAX).await.expect("merged");
        let untouched =
            (0..ORIGIN_SECTORS).filter(|it| !scattered(9, ORIGIN_SECTORS, 5).contains(it));
        for sector in untouched {
            play.write(sector, 1 << 40 | sector).await.expect("written");
        }
        let before = all(&play.origin()).await;
        let refused = play.volume.exchange_merge(&play.snapshot).await;
        assert!(
            matches!(refused, Err(VolumeError::NoRoomToKeep { chunks: 24, .. })),
            "{refused:?}"
        );
        assert!(all(&play.origin()).await == before);
        assert_eq!(play.snapshot.state(), State::Active);
    });
}

#[cfg(feature = "planted")]
#[test]
fn what_breaks_the_way_back_of_a_live_merge_is_noticed() {
    use dmsnap::planted::{Planted, plant};
    let laws = [Planted::NeedsNoPartner, Planted::ExchangeUnflushed, Planted::MergeUnprotected];
    for law in laws {
        plant(Some(law));
        let every_cut = at_every_cut_one_store_shows_the_snapshot_and_the_other_the_old_origin;
        let kept = std::panic::catch_unwind(every_cut).is_ok();
        plant(None);
        assert!(!kept, "{law:?}");
    }
}
