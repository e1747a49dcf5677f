use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use compio::runtime::fd::PollFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A clock that ticks.
///
/// It is a file that becomes readable, not a timer of the runtime: with one of those every wait for
/// an event sets an alarm of its own, which costs more than many a request.
#[derive(Debug)]
pub(super) struct Ticks {
    period: Duration,
    timer: PollFd<OwnedFd>,
}

impl Ticks {
    pub(super) fn every(period: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let interval = Timespec::try_from(period).map_err(io::Error::other)?;
        let ticking = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticking)?;
        Ok(Self { period, timer: PollFd::new(timer)? })
    }

    /// Returns at the next tick; at once if one was missed.
    pub(super) async fn next(&self) {
        match self.timer.read_ready().await {
            // How many ticks it were does not matter.
            Ok(()) => drop(rustix::io::read(&self.timer, &mut [0; size_of::<u64>()])),
            Err(_) => compio::time::sleep(self.period).await,
        }
    }
}
