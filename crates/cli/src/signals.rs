use std::io::{self, PipeReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use compio::runtime::fd::PollFd;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::pipe;

/// Set by the first SIGINT or SIGTERM. The second one kills, as it would without us: a store is
/// right at any time, only the message how far it came is lost.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    requested: Arc<AtomicBool>,
    /// Holds a byte as soon as it is set, for good.
    woken: Arc<PipeReader>,
}

impl Stop {
    pub(crate) fn on_signals() -> io::Result<Self> {
        let requested = Arc::new(AtomicBool::new(false));
        let (woken, wake) = io::pipe()?;
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset, sets it, and wakes.
            flag::register_conditional_default(signal, requested.clone())?;
            flag::register(signal, requested.clone())?;
            pipe::register(signal, wake.try_clone()?)?;
        }
        Ok(Self { requested, woken: woken.into() })
    }

    pub(crate) fn requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Returns once it is set. Costs nothing while it waits.
    pub(crate) async fn wait(&self) {
        /// How often to look where the system cannot wake.
        const NAP: Duration = Duration::from_millis(50);
        let woken = PollFd::new(self.woken.clone());
        while !self.requested() {
            let readable = match &woken {
                Ok(woken) => woken.read_ready().await.is_ok(),
                Err(_) => false,
            };
            if !readable {
                compio::time::sleep(NAP).await;
            }
        }
    }
}

/// Makes SIGUSR1 harmless until somebody waits for it, and SIGUSR2 for good: what asks how far a task is must
/// not end it because it came a moment too early.
pub(crate) fn outlive_questions() -> io::Result<()> {
    for signal in [SIGUSR1, SIGUSR2] {
        flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

/// The end of a terminal is not the end of a server that was started there.
pub(crate) fn outlive_terminals() -> io::Result<()> {
    flag::register(SIGHUP, Arc::new(AtomicBool::new(false))).map(|_| ())
}

/// Makes a write beyond the limit of `ulimit -f` an error like any other. The system's own way is to end the
/// process, without a word and with whatever it serves.
pub(crate) fn outlive_size_limits() -> io::Result<()> {
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(|_| ())
}

/// SIGUSR1, for a task that is waited for. Several at once may count as one.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Holds a byte for each signal that was not seen yet.
    woken: PollFd<PipeReader>,
}

impl Asked {
    pub(crate) fn on_usr1() -> io::Result<Self> {
        let (woken, wake) = io::pipe()?;
        rustix::io::ioctl_fionbio(&woken, true)?;
        pipe::register(SIGUSR1, wake)?;
        Ok(Self { woken: PollFd::new(woken)? })
    }

    /// Returns at the next signal; at once if one came meanwhile.
    pub(crate) async fn next(&self) {
        /// How often to look where the system cannot wake.
        const NAP: Duration = Duration::from_millis(500);
        while !matches!(rustix::io::read(&self.woken, &mut [0; 64]), Ok(1..)) {
            if self.woken.read_ready().await.is_err() {
                compio::time::sleep(NAP).await;
            }
        }
    }
}

/// Calls back on every SIGUSR1, on a thread of its own, until dropped.
#[derive(Debug)]
pub(crate) struct OnUsr1(Handle);

impl OnUsr1 {
    pub(crate) fn new(act: impl Fn() + Send + 'static) -> io::Result<Self> {
        let mut signals = Signals::new([SIGUSR1])?;
        let handle = signals.handle();
        thread::Builder::new().name("usr1".into()).spawn(move || {
            for _ in signals.forever() {
                act();
            }
        })?;
        Ok(Self(handle))
    }
}

impl Drop for OnUsr1 {
    fn drop(&mut self) {
        self.0.close();
    }
}
