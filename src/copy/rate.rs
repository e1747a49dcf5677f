use std::cell::Cell;
use std::time::{Duration, Instant};

/// Spreads bytes over time: each admission begins when the ones before it would have ended.
///
/// It has no clock: the caller says what time it is, and waits.
#[derive(Debug)]
pub struct Rate {
    bytes_per_second: u64,
    /// When the bytes admitted so far would have been moved; `None` before the first.
    free: Cell<Option<Instant>>,
}

impl Rate {
    /// At least one byte a second.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free: Cell::default() }
    }

    /// As it was asked for.
    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// When these bytes may begin to move: `now` or later. Time that was not used is not saved up.
    pub fn admit(&self, bytes: u64, now: Instant) -> Instant {
        let begin = self.free.get().map_or(now, |free| free.max(now));
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.bytes_per_second);
        let lasts = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        // A rate so low that its end cannot be told never ends: half a year will do.
        let free = begin.checked_add(lasts).unwrap_or(begin + Duration::from_secs(1 << 24));
        self.free.set(Some(free));
        begin
    }
}

/// How long a task sleeps at most before it looks whether it is to stop.
const NAP: Duration = Duration::from_millis(50);

/// Returns at `begin`, or when the task is to stop, which is asked every now and then. The clock is the
/// caller's: `now` says what time it is, `sleep` waits.
pub async fn wait_until(
    begin: Instant,
    now: impl Fn() -> Instant,
    sleep: impl AsyncFn(Duration),
    stops: impl Fn() -> bool,
) {
    while !stops() {
        let left = begin.saturating_duration_since(now());
        if left.is_zero() {
            return;
        }
        sleep(left.min(NAP)).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;

    #[test]
    fn a_rate_spreads_bytes_over_time() {
        let (rate, now) = (Rate::new(1000), Instant::now());
        assert_eq!(rate.admit(500, now), now, "nothing was moved yet: begin at once");
        assert_eq!(rate.admit(2000, now) - now, Duration::from_millis(500));
        assert_eq!(rate.admit(1, now) - now, Duration::from_millis(2500));
        let later = now + Duration::from_secs(60);
        assert_eq!(rate.admit(1, later), later, "time that was not used is not saved up");
        assert_eq!(Rate::new(1).admit(u64::MAX, now), now);
    }

    #[test]
    fn a_wait_ends_in_time_or_when_the_task_is_to_stop() {
        let (begin, passed) = (Instant::now(), Cell::new(Duration::ZERO));
        let now = || begin + passed.get();
        let sleep = async |time| passed.set(passed.get() + time);
        block_on(wait_until(begin + Duration::from_secs(1), now, sleep, || false));
        assert_eq!(passed.get(), Duration::from_secs(1));
        let stops = || passed.get() > Duration::from_secs(2);
        block_on(wait_until(begin + Duration::from_secs(9), now, sleep, stops));
        assert_eq!(passed.get(), Duration::from_millis(2050));
    }
}
