use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};

/// Set by the first SIGINT or SIGTERM. The second one kills, as it would without us: a store is
/// right at any time, only the message how far it came is lost.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn on_signals() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset, and sets it.
            flag::register_conditional_default(signal, stop.clone())?;
            flag::register(signal, stop.clone())?;
        }
        Ok(Self(stop))
    }

    pub(crate) fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
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
