use std::cell::Cell;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dmsnap::ops::{Observer, Progress, Rate, wait_until};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::{Failure, tell};
use crate::signals::{OnUsr1, Stop};
use crate::size::Bytes;

/// Lines instead of a bar come at least this far apart.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Watches a task for the user: a bar on a terminal, a line a second where progress was asked for
/// elsewhere, a line for every SIGUSR1; keeps to a rate; asks the task to stop after a signal.
#[derive(Debug)]
pub(crate) struct Watch {
    so_far: Arc<SoFar>,
    bar: Option<ProgressBar>,
    /// When the next line is due, if lines were asked for.
    next_line: Option<Cell<Instant>>,
    rate: Option<Rate>,
    stop: Stop,
    _usr1: OnUsr1,
}

impl Watch {
    /// `forced` is `--progress`; the rate is in bytes a second.
    pub(crate) fn new(forced: bool, rate: Option<u64>) -> Result<Self, Failure> {
        let so_far = Arc::new(SoFar::default());
        let terminal = io::stderr().is_terminal();
        let bar = terminal.then(new_bar);
        Ok(Self {
            next_line: (forced && !terminal).then(|| Cell::new(Instant::now() + LINE_EVERY)),
            rate: rate.map(Rate::new),
            stop: Stop::on_signals().map_err(|error| signal_failure(&error))?,
            _usr1: tell_on_usr1(so_far.clone(), bar.clone())
                .map_err(|error| signal_failure(&error))?,
            so_far,
            bar,
        })
    }

    /// What signals set.
    pub(crate) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Since the beginning.
    pub(crate) fn seconds(&self) -> f64 {
        self.so_far.begun.elapsed().as_secs_f64()
    }

    /// Takes the bar away: what comes next on the terminal is a result or an error.
    pub(crate) fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Watch {
    fn progress(&self, progress: Progress) {
        self.so_far.set(progress);
        if let Some(bar) = &self.bar {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        }
        if let Some(next) = self.next_line.as_ref().filter(|next| next.get() <= Instant::now()) {
            next.set(Instant::now() + LINE_EVERY);
            tell(&*self.so_far);
        }
    }

    async fn pace(&self, bytes: u64) {
        let Some(rate) = &self.rate else { return };
        let begin = rate.admit(bytes, Instant::now());
        wait_until(begin, Instant::now, compio::time::sleep, || self.stop.requested()).await;
    }

    fn stop_requested(&self) -> bool {
        self.stop.requested()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done();
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let template =
        "{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn tell_on_usr1(so_far: Arc<SoFar>, bar: Option<ProgressBar>) -> io::Result<OnUsr1> {
    OnUsr1::new(move || match &bar {
        Some(bar) => bar.suspend(|| tell(&*so_far)),
        None => tell(&*so_far),
    })
}

fn signal_failure(error: &io::Error) -> Failure {
    Failure::of("signals", format_args!("cannot be received: {error}"))
}

/// How far the task is, for any thread.
#[derive(Debug)]
struct SoFar {
    begun: Instant,
    done: AtomicU64,
    total: AtomicU64,
}

impl Default for SoFar {
    fn default() -> Self {
        Self { begun: Instant::now(), done: 0.into(), total: 0.into() }
    }
}

impl SoFar {
    fn set(&self, progress: Progress) {
        self.total.store(progress.total, Ordering::Relaxed);
        self.done.store(progress.done, Ordering::Relaxed);
    }
}

impl fmt::Display for SoFar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = self.done.load(Ordering::Relaxed);
        let total = self.total.load(Ordering::Relaxed).max(done);
        Pace { done, total, elapsed: self.begun.elapsed() }.fmt(f)
    }
}

/// The words for it: the rate is the average since the beginning.
#[derive(Clone, Copy, Debug)]
struct Pace {
    done: u64,
    total: u64,
    elapsed: Duration,
}

impl Pace {
    fn bytes_per_second(self) -> Option<u64> {
        let micros = self.elapsed.as_micros().max(1);
        let rate = u128::from(self.done) * 1_000_000 / micros;
        u64::try_from(rate).ok().filter(|&rate| rate > 0)
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} done", Bytes(self.done), Bytes(self.total))?;
        let Some(rate) = self.bytes_per_second() else { return Ok(()) };
        let left = Duration::from_secs((self.total - self.done).div_ceil(rate));
        write!(f, ", {}/s, {:#} left", Bytes(rate), HumanDuration(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_bytes_rate_and_time() {
        let line = |done, total, seconds| {
            Pace { done, total, elapsed: Duration::from_secs(seconds) }.to_string()
        };
        assert_eq!(line(0, 4096, 3), "0 B of 4 KiB done");
        assert_eq!(line(2 << 20, 8 << 20, 2), "2 MiB of 8 MiB done, 1 MiB/s, 6s left");
        assert_eq!(line(4096, 4096, 1), "4 KiB of 4 KiB done, 4 KiB/s, 0s left");
    }
}
