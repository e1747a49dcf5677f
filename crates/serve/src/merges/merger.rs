use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use compio::time::sleep;
use dmsnap::copy::{Observer, Rate, wait_until};
use dmsnap::device::Device;
use dmsnap::sync::Event;
use dmsnap::volume::{MergeState, Snapshot, State, Volume, VolumeError};

use super::progress::{MergeEnd, MergePhase, MergeProgress, OnEnd};
use super::yielder::Yielder;
use crate::tasks::spawn;

/// The most data in one window, in bytes, unless a lower limit is set: it is in memory at once.
const MAX_WINDOW_BYTES: u64 = 64 << 20;

/// Merges one snapshot of a volume at a time, alongside the clients, on a task of its own.
///
/// However it was started, it can be paused, resumed, given up, and its rate and window changed while
/// it runs. A change takes hold with the next window; a window is never larger than what a
/// second of the rate moves (but for one chunk).
pub struct Merger<O, C> {
    volume: Rc<Volume<O, C>>,
    on_end: OnEnd,
    rate: RefCell<Option<Rate>>,
    yielder: Yielder,
    window_bytes: Cell<u64>,
    max_window_bytes: Cell<u64>,
    job: RefCell<Option<Rc<Job<C>>>>,
    /// A task of a job has ended.
    rested: Event,
}

/// One merge.
struct Job<C> {
    snapshot: Rc<Snapshot<C>>,
    exceptions_total: u64,
    /// It is to run.
    wanted: Cell<bool>,
    /// Its task exists.
    at_work: Cell<bool>,
    /// Time of work before the task of now.
    worked: Cell<Duration>,
    /// When the task of now, or the last one, began.
    begun: Cell<Instant>,
    error: RefCell<Option<String>>,
}

impl<C> Job<C> {
    fn worked(&self) -> Duration {
        let now = if self.at_work.get() { self.begun.get().elapsed() } else { Duration::ZERO };
        self.worked.get() + now
    }
}

impl<O: Device + 'static, C: Device + 'static> Merger<O, C> {
    /// For a volume. Windows have at most `window_bytes`, and never more than 64 MiB: their data is in memory
    /// at once.
    pub fn new(volume: Rc<Volume<O, C>>, window_bytes: u64, on_end: OnEnd) -> Rc<Self> {
        Rc::new(Self {
            volume,
            on_end,
            rate: RefCell::default(),
            yielder: Yielder::default(),
            window_bytes: window_bytes.min(MAX_WINDOW_BYTES).into(),
            max_window_bytes: MAX_WINDOW_BYTES.into(),
            job: RefCell::default(),
            rested: Event::default(),
        })
    }

    /// Most data in one window, in bytes, from the next window on; as far as that is allowed.
    pub fn set_window(&self, bytes: u64) {
        self.window_bytes.set(bytes.min(self.max_window_bytes.get()));
        self.take_hold();
    }

    /// Allows no window of more than this many bytes, whatever is asked for.
    pub fn limit_window(&self, most_bytes: u64) {
        self.max_window_bytes.set(most_bytes.min(MAX_WINDOW_BYTES));
        self.set_window(self.window_bytes.get());
    }

    /// Most bytes a second, from now on; `None` for as many as there are.
    pub fn set_rate(&self, bytes_per_second: Option<u64>) {
        self.rate.replace(bytes_per_second.map(Rate::new));
        self.take_hold();
    }

    /// Starts to merge `snapshot`: from now on it and the origin are one device.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Merging`] while another merge is not finished, [`VolumeError::Merged`] while its
    /// snapshot is not removed; as [`Volume::start_merge`].
    pub async fn start(self: &Rc<Self>, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        if let Some(job) = self.job() {
            return Err(self.in_the_way(&job));
        }
        self.volume.start_merge(snapshot).await?;
        self.begin(snapshot);
        Ok(())
    }

    /// Takes the merge of `snapshot` back, or its undo: from now on it is a plain snapshot again, and the origin's
    /// device shows what its partner showed, which is merged. Waits for the window under way. Also for a snapshot
    /// whose merge was cancelled, or begun by another server.
    ///
    /// # Errors
    ///
    /// As [`Volume::exchange_merge`]; [`VolumeError::Merging`] and [`VolumeError::Merged`] while the merge of another
    /// snapshot is there. The merge goes on then.
    pub async fn undo(self: &Rc<Self>, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        let job = self.job();
        if let Some(job) = job.as_ref().filter(|it| !Rc::ptr_eq(&it.snapshot, snapshot)) {
            return Err(self.in_the_way(job));
        }
        self.volume.may_exchange(snapshot)?;
        let was_wanted = job.as_ref().is_some_and(|job| job.wanted.get());
        self.stop().await;
        match self.volume.exchange_merge(snapshot).await {
            Ok(merged) => {
                self.begin(&merged);
                Ok(())
            }
            Err(error) => {
                if was_wanted {
                    self.resume();
                }
                Err(error)
            }
        }
    }

    /// A merge of the volume has begun.
    fn begin(self: &Rc<Self>, snapshot: &Rc<Snapshot<C>>) {
        let job = Rc::new(Job {
            snapshot: snapshot.clone(),
            exceptions_total: snapshot.exceptions(),
            wanted: true.into(),
            at_work: false.into(),
            worked: Cell::default(),
            begun: Instant::now().into(),
            error: RefCell::default(),
        });
        self.job.replace(Some(job.clone()));
        self.work(job);
    }

    /// Why no other merge can be begun.
    fn in_the_way(&self, job: &Job<C>) -> VolumeError {
        let snapshot = job.snapshot.name().to_owned();
        match self.phase(job) {
            MergePhase::Finished => VolumeError::Merged { snapshot },
            _ => VolumeError::Merging { snapshot },
        }
    }

    /// Asks it to stop after the window under way. False if there is none, or it has finished.
    pub fn pause(&self) -> bool {
        let Some(job) = self.job().filter(|job| self.phase(job) != MergePhase::Finished) else {
            return false;
        };
        job.wanted.set(false);
        self.volume.pause_merge();
        true
    }

    /// Goes on with a paused or failed merge. False if there is none, or it has finished.
    pub fn resume(self: &Rc<Self>) -> bool {
        let Some(job) = self.job().filter(|job| self.phase(job) != MergePhase::Finished) else {
            return false;
        };
        job.wanted.set(true);
        job.error.take();
        if !job.at_work.get() {
            self.work(job);
        }
        true
    }

    /// Gives it up: the snapshot is a plain one again, with the same content. Returns its name;
    /// `None` if there is no merge, or it has finished. Waits for the window under way.
    ///
    /// # Errors
    ///
    /// [`VolumeError::MergeRunning`] if somebody resumed it meanwhile.
    pub async fn cancel(&self) -> Result<Option<String>, VolumeError> {
        if !self.pause() {
            return Ok(None);
        }
        self.rest().await;
        let Some(job) = self.job() else { return Ok(None) };
        self.volume.cancel_merge().await?;
        self.job.take();
        Ok(Some(job.snapshot.name().to_owned()))
    }

    /// Pauses it for good: returns when nothing is moved any more.
    pub async fn stop(&self) {
        self.pause();
        self.rest().await;
    }

    /// How far it is, if one was started and its snapshot is still there.
    pub fn progress(&self) -> Option<MergeProgress> {
        let job = self.job()?;
        let chunk = job.snapshot.chunk_size().bytes();
        let state = self.phase(&job);
        let left = self.volume.merge_state().map_or(0, |(_, left)| left);
        let seconds = job.worked().as_secs_f64();
        let moved = job.exceptions_total.saturating_sub(left) * chunk;
        let speed = (moved > 0 && seconds > 0.0).then(|| moved as f64 / seconds);
        let seconds_left = speed.map(|speed| (left * chunk) as f64 / speed);
        let error = job.error.borrow().clone();
        let (way_back, way_back_lost) = self.way_back(&job.snapshot);
        Some(MergeProgress {
            snapshot: job.snapshot.name().into(),
            state,
            exceptions_total: job.exceptions_total,
            exceptions_left: left,
            bytes_total: job.exceptions_total * chunk,
            bytes_left: left * chunk,
            rate_bytes_per_second: self.rate.borrow().as_ref().map(Rate::bytes_per_second),
            window_bytes: self.window_bytes.get(),
            bytes_per_second: speed.map(whole),
            seconds,
            seconds_left: seconds_left.map(whole).filter(|_| state == MergePhase::Running),
            way_back,
            way_back_lost,
            error,
        })
    }

    /// Who keeps what the merge of a snapshot writes over, and whether nobody does any more.
    fn way_back(&self, snapshot: &Rc<Snapshot<C>>) -> (Option<String>, bool) {
        let partner = self.volume.partner(snapshot);
        match partner.filter(|it| it.state() != State::Invalid) {
            Some(partner) => (Some(partner.name().into()), false),
            None => (None, snapshot.tag().is_some_and(|it| it.partner.is_some())),
        }
    }

    /// The merge of a snapshot that is still there.
    fn job(&self) -> Option<Rc<Job<C>>> {
        self.forget_removed();
        self.job.borrow().clone()
    }

    /// Keeps nothing of a finished merge whose snapshot was taken out.
    pub(crate) fn forget_removed(&self) {
        let snapshots = self.volume.snapshots();
        let there = |job: &Rc<Job<C>>| snapshots.iter().any(|it| Rc::ptr_eq(it, &job.snapshot));
        let gone = self.job.borrow().as_ref().is_some_and(|job| !there(job));
        if gone {
            self.job.take();
        }
    }

    fn phase(&self, job: &Job<C>) -> MergePhase {
        match self.volume.merge_state().map(|(state, _)| state) {
            Some(MergeState::Finished) => MergePhase::Finished,
            _ if job.at_work.get() && job.wanted.get() => MergePhase::Running,
            _ if job.at_work.get() => MergePhase::Pausing,
            Some(MergeState::Failed) => MergePhase::Failed,
            _ => MergePhase::Paused,
        }
    }

    /// Makes a running merge look at rate and window again.
    fn take_hold(&self) {
        // Its task goes on at once: the merge is still wanted.
        self.volume.pause_merge();
    }

    fn work(self: &Rc<Self>, job: Rc<Job<C>>) {
        let merger = self.clone();
        job.at_work.set(true);
        job.begun.set(Instant::now());
        // Detached: a window is driven to its end in any case; `rest` waits for it.
        spawn(async move { merger.run(&job).await });
    }

    async fn run(&self, job: &Job<C>) {
        let ended = loop {
            if !job.wanted.get() {
                break Ok(MergeState::Paused);
            }
            let most = self.rate.borrow().as_ref().map_or(u64::MAX, Rate::bytes_per_second);
            let ended = self.volume.run_merge(self.window_bytes.get().min(most), self).await;
            match ended {
                Ok(MergeState::Paused) => {}
                ended => break ended,
            }
        };
        job.worked.set(job.worked.get() + job.begun.get().elapsed());
        job.at_work.set(false);
        let name = job.snapshot.name();
        match &ended {
            Ok(MergeState::Finished) => (self.on_end)(name, MergeEnd::Finished),
            Ok(_) => {}
            Err(error) => {
                job.error.replace(Some(error.to_string()));
                (self.on_end)(name, MergeEnd::Failed(error));
            }
        }
        self.rested.notify();
    }

    /// Returns when no task is at work.
    async fn rest(&self) {
        let resting = || self.job.borrow().as_ref().is_none_or(|job| !job.at_work.get());
        self.rested.until(|| resting().then_some(())).await;
    }

    /// True if a window that waits for its turn should not.
    fn hurries(&self) -> bool {
        let running = self.volume.merge_state().map(|(state, _)| state);
        running != Some(MergeState::Running)
    }
}

impl<O: Device + 'static, C: Device + 'static> Observer for Merger<O, C> {
    async fn pace(&self, bytes: u64) {
        let begin = self.rate.borrow().as_ref().map(|rate| rate.admit(bytes, Instant::now()));
        let Some(begin) = begin else { return };
        wait_until(begin, Instant::now, sleep, || self.hurries()).await;
    }

    async fn give_way(&self) {
        self.yielder.give_way().await;
    }
}

/// Positive and not absurd, so that nothing is lost but the fraction.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by `as`")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}
