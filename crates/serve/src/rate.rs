use std::cell::Cell;
use std::time::{Duration, Instant};

/// Spreads bytes over time: each admission begins when the ones before it would have ended.
#[derive(Debug)]
pub struct Rate {
    bytes_per_second: u64,
    free: Cell<Instant>,
}

impl Rate {
    /// At least one byte a second.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free: Cell::new(Instant::now()) }
    }

    /// As it was asked for.
    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// When these bytes may begin to move. Time that was not used is not saved up.
    pub fn admit(&self, bytes: u64) -> Instant {
        let begin = self.free.get().max(Instant::now());
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.bytes_per_second);
        let lasts = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        // A rate so low that its end cannot be told never ends: half a year will do.
        let free = begin.checked_add(lasts);
        self.free.set(free.unwrap_or(begin + Duration::from_secs(1 << 24)));
        begin
    }
}

/// How long a task sleeps at most before it looks whether it is to stop.
const NAP: Duration = Duration::from_millis(50);

/// Sleeps until then, or until the task is to stop, which is asked every now and then.
pub async fn sleep_until(begin: Instant, stops: impl Fn() -> bool) {
    while !stops() {
        let left = begin.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        compio::time::sleep(left.min(NAP)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_spreads_bytes_over_time() {
        let rate = Rate::new(1000);
        let first = rate.admit(500);
        assert!(first <= Instant::now(), "nothing was moved yet: begin at once");
        assert_eq!(rate.admit(2000) - first, Duration::from_millis(500));
        assert_eq!(rate.admit(1) - first, Duration::from_millis(2500));
        assert!(Rate::new(1).admit(u64::MAX) <= Instant::now());
    }
}
