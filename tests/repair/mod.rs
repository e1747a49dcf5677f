//! Damaged stores, repaired: every finding gets its treatment, and what is not named as lost reads as before.

mod findings; // each finding once
mod holes; // chunks without data
mod in_place; // the same where the store is
mod random; // any damage
mod view; // what a snapshot shows, by a reader of its own

use dmsnap::device::Memory;
use dmsnap::ops::{
    self, Condition, Error, Finding, RepairOptions, RepairPlan, Repaired, Silent, Treatment,
};
use dmsnap_sim::run;

/// What is told of one finding: its word, its treatment's word, the slot, and what falls back to the origin.
type Told = (&'static str, &'static str, Option<u64>, Option<std::ops::Range<u64>>);

/// A repair, with what it told.
struct Outcome {
    told: Vec<Told>,
    plan: RepairPlan,
    /// The store that was made, or why none was.
    made: Result<(Vec<u8>, Repaired), Error>,
}

/// Repairs to a copy that has the size the plan asks for, full of something else before.
fn repair(cow: &[u8], origin: Option<&[u8]>, options: RepairOptions) -> Result<Outcome, Error> {
    let (cow_device, origin) =
        (Memory::from(cow.to_vec()), origin.map(|it| Memory::from(it.to_vec())));
    let mut told = Vec::new();
    let each = |finding: &Finding, treatment: &Treatment| {
        let text = treatment.to_string();
        assert!(!text.is_empty() && !text.contains('\n'), "{text}");
        let (kind, what) = (finding.damage.name(), treatment.name());
        told.push((kind, what, finding.place.slot, treatment.origin()));
    };
    let salvage = run(ops::salvage(&cow_device, origin.as_ref(), options, each))?;
    let plan = salvage.plan().clone();
    let output = Memory::from(vec![0xEE; usize::try_from(plan.needed_bytes).expect("small")]);
    let made = run(salvage.copy_to(&output, &Silent));
    drop(salvage);
    assert!(cow_device.content() == cow, "a repair to another device wrote to the old one");
    if made.is_err() {
        assert!(output.content().iter().all(|byte| *byte == 0xEE), "a refused repair wrote");
    }
    let made = made.map(|repaired| (output.content(), repaired));
    in_place::compare(cow, origin.as_ref(), options, &made);
    Ok(Outcome { told, plan, made })
}

fn agreed() -> RepairOptions {
    RepairOptions { drop_lost: true, revive: true, ..RepairOptions::default() }
}

fn needs(outcome: &Outcome) -> &[Condition] {
    &outcome.plan.needs
}

/// A check finds nothing damaged.
#[track_caller]
fn assert_sound(cow: &[u8], origin: Option<&[u8]>, told: &str) {
    let (cow, origin) = (Memory::from(cow.to_vec()), origin.map(|it| Memory::from(it.to_vec())));
    let mut findings = Vec::new();
    let report = run(ops::check(&cow, origin.as_ref(), |it| findings.push(it.to_string())));
    assert!(report.expect("readable").sound, "{told}: {findings:?}");
}
