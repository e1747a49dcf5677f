//! What a process has worked.

use std::{fs, io};

/// CPU time of a process so far.
#[derive(Clone, Copy, Debug)]
pub struct CpuTime {
    /// User and system, in seconds, as far as the clock ticks; of threads that have ended, too.
    ticked: f64,
    /// Of the threads there are now, to the nanosecond.
    exact: f64,
}

impl CpuTime {
    /// Of the process with this number. Workers that the kernel starts for a process's rings are
    /// threads of it, and counted.
    ///
    /// # Errors
    ///
    /// There is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let behind_name = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
        // utime, stime, cutime, cstime.
        let fields = behind_name.split(' ').skip(11).take(4).map(str::parse::<u64>);
        let ticks: Result<Vec<u64>, _> = fields.collect();
        let ticks: u64 = ticks.map_err(io::Error::other)?.iter().sum();
        let mut nanos = 0;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end meanwhile.
            let told = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            nanos += told.split(' ').next().and_then(|ran| ran.parse::<u64>().ok()).unwrap_or(0);
        }
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Ok(Self { ticked: ticks as f64 / per_second, exact: nanos as f64 / 1e9 })
    }

    /// In seconds, since the process began; exact, unless threads have ended.
    pub fn total(self) -> f64 {
        self.since(Self { ticked: 0.0, exact: 0.0 })
    }

    /// In seconds, from then to now. Exact, unless threads have ended meanwhile.
    pub fn since(self, then: Self) -> f64 {
        let (ticked, exact) = (self.ticked - then.ticked, self.exact - then.exact);
        if (ticked - exact).abs() < 0.03 { exact } else { ticked }
    }
}
