//! The least that still fails: what is asked is left out piece by piece.

use crate::hunt::{Failure, every_cut, run, some_cuts};
use crate::plan::{Action, Plan, Start, Step};
use crate::random::Random;

/// Up to this many actions, every cut is tried for each attempt.
const FEW: usize = 5;

/// Otherwise this many images.
const IMAGES: usize = 600;

/// A machine that breaks a promise as well, with as little happening in it as was found.
pub fn minimise(failure: &Failure) -> Box<Failure> {
    let mut best = Box::new(failure.clone());
    let with_cuts = failure.image.is_some();
    let mut size = count(&best.plan).max(2) / 2;
    loop {
        let mut at = 0;
        while at < count(&best.plan) {
            let plan = without(&best.plan, at, size);
            match attempt(&plan, &best.start, with_cuts) {
                Some(smaller) => best = smaller,
                None => at += size,
            }
        }
        if let Some(smaller) = with_fewer_faults(&best, with_cuts) {
            best = smaller;
            continue;
        }
        if size == 1 {
            return best;
        }
        size /= 2;
    }
}

fn with_fewer_faults(failure: &Failure, with_cuts: bool) -> Option<Box<Failure>> {
    (0..failure.plan.steps.len()).filter(|n| !failure.plan.steps[*n].faults.is_empty()).find_map(
        |n| {
            let mut plan = failure.plan.clone();
            plan.steps[n].faults.pop();
            attempt(&plan, &failure.start, with_cuts)
        },
    )
}

fn attempt(plan: &Plan, start: &Start, with_cuts: bool) -> Option<Box<Failure>> {
    if !with_cuts {
        return run(plan, start).err();
    }
    match count(plan) <= FEW {
        true => every_cut(plan, start).err(),
        false => some_cuts(plan, start, IMAGES, &mut Random::new(1)).err(),
    }
}

fn count(plan: &Plan) -> usize {
    plan.steps.iter().flat_map(|step| &step.clients).map(Vec::len).sum()
}

/// The plan without the actions from number `first` on, this many of them.
fn without(plan: &Plan, first: usize, len: usize) -> Plan {
    let mut number = 0;
    let mut keep = |_: &Action| {
        number += 1;
        !(first..first + len).contains(&(number - 1))
    };
    let mut steps: Vec<Step> = Vec::new();
    for step in &plan.steps {
        let clients = step.clients.iter().map(|actions| {
            actions.iter().filter(|action| keep(action)).cloned().collect::<Vec<_>>()
        });
        let clients: Vec<_> = clients.collect();
        let clients: Vec<_> = clients.into_iter().filter(|actions| !actions.is_empty()).collect();
        if !clients.is_empty() {
            steps.push(Step { clients, faults: step.faults.clone() });
        }
    }
    Plan { setup: plan.setup.clone(), steps }
}
