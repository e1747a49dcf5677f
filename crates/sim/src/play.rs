//! What clients and operators do, on the code that is tested.

use std::io;

use dmsnap::device::Allocation;
use futures_util::future::{join_all, join4};
use futures_util::lock::Mutex;

use crate::machine::Machine;
use crate::model::Model;
use crate::naive::SECTOR;
use crate::plan::{Action, Plan, Start, Step};
use crate::power::Power;
use crate::record::Event;

/// Seconds that pass while nothing else happens before a machine counts as stuck.
const PATIENCE: usize = 64;

/// Seconds after which everybody has ended that no disk holds up.
const LONG: usize = 24;

/// How a machine ran.
#[derive(Debug)]
pub struct Played {
    /// Everything that happened, in order.
    pub record: Vec<Event>,
    /// The first promise that was broken, in words.
    pub broken: Option<String>,
    /// Requests of all disks.
    pub requests: u64,
    /// For each step, how many requests there were before it.
    pub steps: Vec<u64>,
    /// What clients know in the end.
    pub model: Model,
}

/// Runs a machine from where it begins, on the code that is tested, and compares what clients find
/// with what they know.
pub fn play(plan: &Plan, start: &Start) -> Played {
    let power = Power::recording();
    let machine = Machine::new(&plan.setup, start, &power);
    if let Err(error) = machine.wait_for(machine.open()) {
        machine.break_promise(format!("cannot be opened: {error}"));
    }
    let mut steps = Vec::new();
    for step in &plan.steps {
        if machine.broken.borrow().is_some() || machine.over.get() {
            break;
        }
        let before = power.requests();
        steps.push(before);
        step.faults.iter().for_each(|(n, fault)| power.fail_request(before + n, *fault));
        machine.step(step);
    }
    let broken = machine.broken.take();
    let model = machine.model.borrow().clone();
    Played { record: power.take_record(), broken, requests: power.requests(), steps, model }
}

impl Machine<'_> {
    /// Drives a task; seconds pass when nothing else happens.
    fn wait_for<T>(&self, task: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut left = PATIENCE;
        let ended = self.scheduler.run(task, || {
            left -= 1;
            self.second();
            if left < PATIENCE - LONG && !self.power.hung().is_empty() {
                self.hold_to_liveness();
                self.power.heal();
                left = PATIENCE;
            }
            left > 0
        });
        match ended {
            Ok(ended) => ended,
            Err(_) => {
                self.break_promise("everybody waits, and nothing will ever happen".into());
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    fn step(&self, step: &Step) {
        let clients = step.clients.iter().map(|actions| async move {
            for action in actions {
                if self.broken.borrow().is_some() || self.over.get() {
                    return;
                }
                self.act(action).await;
            }
        });
        let clients = join_all(clients);
        self.clock.start();
        self.tasks.start();
        let at_work = Mutex::new(());
        let ended = self.wait_for(async {
            let busy = at_work.lock().await;
            let volume = self.volume();
            let write_back = async {
                if let Some(volume) = volume.filter(|_| self.setup.backlog > 0) {
                    volume.run_write_back(async { drop(at_work.lock().await) }).await;
                }
            };
            let work = async {
                clients.await;
                // Disks that hang or have no room do no longer; what was put off is done then.
                if self.power.heal() {
                    self.clock.wait(2).await;
                }
                drop(busy);
                self.clock.stop();
                self.tasks.stop();
            };
            join4(work, write_back, self.keep(), self.tasks.drive()).await;
            self.notice_drops(true);
            self.verify().await;
            Ok(())
        });
        if ended.is_err() {
            self.over.set(true);
        }
    }

    async fn act(&self, action: &Action) {
        let id = self.fresh_id();
        self.running.borrow_mut().push((id, action.clone()));
        self.carry_out(action).await;
        self.running.borrow_mut().retain(|(other, _)| *other != id);
        self.notice_drops(false);
    }

    async fn carry_out(&self, action: &Action) {
        match *action {
            Action::Read { device, at, len } => self.read(device, at, len).await,
            Action::Write { device, at, len } => self.put(device, at, len, None).await,
            Action::Fua { device, at, len } => {
                self.put(device, at, len, None).await;
                self.flush(device).await;
            }
            Action::Zero { device, at, len, keep } => {
                let allocation = if keep { Allocation::Keep } else { Allocation::MayPunch };
                self.put(device, at, len, Some(allocation)).await;
            }
            Action::Discard { device, at, len } => self.discard(device, at, len).await,
            Action::Flush { device } => self.flush(device).await,
            Action::Status { device, asked, at, len } => {
                self.status(device, asked, at..at + len).await;
            }
            Action::Lengthen { slot, chunks } => {
                self.cow(slot).lengthen(chunks * self.slot(slot).chunk * SECTOR);
            }
            Action::Tick => {
                if let Some(volume) = self.volume() {
                    volume.tick();
                }
            }
            Action::Find { slot } => {
                if self.is_dropped(slot) && self.power.fired().is_empty() {
                    self.break_promise(format!("snapshot {slot} was dropped, and had room"));
                }
            }
            _ => self.operate(action).await,
        }
    }
}
