use std::time::Duration;

/// How fast something fills, and when it will be full at that speed.
///
/// The speed is an average that forgets: what happened longer ago than [`MEMORY`](Self::MEMORY)
/// hardly counts. In the first minutes it is the plain average.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Forecast {
    last: Option<u64>,
    watched: Duration,
    per_second: f64,
}

impl Forecast {
    /// How far back it looks.
    const MEMORY: Duration = Duration::from_secs(300);

    /// This much is used now, `since` the last time.
    pub(crate) fn see(&mut self, used: u64, since: Duration) {
        let seconds = since.as_secs_f64();
        if let Some(last) = self.last.filter(|_| seconds > 0.0) {
            self.watched += since;
            let now = (used as f64 - last as f64) / seconds;
            let weight = seconds / self.watched.min(Self::MEMORY).as_secs_f64();
            self.per_second += (now - self.per_second) * weight.min(1.0);
        }
        self.last = Some(used);
    }

    /// Of what was seen, per second; negative if it becomes less. `None` before there is a
    /// difference to tell.
    pub(crate) fn per_second(&self) -> Option<f64> {
        (!self.watched.is_zero()).then_some(self.per_second)
    }

    /// Seconds until this much more is used; `None` if it does not fill.
    pub(crate) fn seconds_until(&self, room: u64) -> Option<f64> {
        /// Less than a byte in a hundred seconds: noise of the average.
        const LEAST: f64 = 0.01;
        self.per_second().filter(|it| *it > LEAST).map(|it| room as f64 / it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seen(used: impl IntoIterator<Item = u64>) -> Forecast {
        let mut forecast = Forecast::default();
        used.into_iter().for_each(|used| forecast.see(used, SECOND));
        forecast
    }

    #[test]
    fn a_steady_fill_is_foretold_from_the_second_look_on() {
        assert_eq!(seen([5]).seconds_until(1000), None);
        assert_eq!(seen([5, 15]).seconds_until(1000), Some(100.0));
        let long = seen((0..2000).map(|n| n * 10)).seconds_until(1000).expect("it fills");
        assert!((99.0..101.0).contains(&long), "{long}");
    }

    #[test]
    fn a_burst_is_forgotten_and_emptying_is_no_fill() {
        let burst = seen([0, 1_000_000]).seconds_until(1_000_000);
        let calm = seen([0].into_iter().chain([1_000_000; 3000]));
        assert_eq!(burst, Some(1.0));
        assert!(calm.seconds_until(1_000_000).is_none_or(|it| it > 1000.0), "{calm:?}");
        assert_eq!(seen([100, 50, 0]).seconds_until(10), None);
    }
}
