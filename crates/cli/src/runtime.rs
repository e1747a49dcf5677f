use std::io;

use compio::driver::ProactorBuilder;
use compio::runtime::{Runtime, RuntimeBuilder};

use crate::report::Failure;

/// Drives a task on this thread, with io_uring where the system lets us.
pub(crate) fn run<T>(task: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = runtime().map_err(|error| {
        Failure::of("io_uring", format_args!("cannot set up the I/O of this process: {error}"))
    })?;
    runtime.block_on(task)
}

/// One thread uses the ring, and what completes waits until that thread asks: nothing interrupts it
/// meanwhile. Kernels before 6.1 do not know that.
fn runtime() -> io::Result<Runtime> {
    let mut ring = ProactorBuilder::new();
    ring.single_issuer(true).defer_taskrun(true).taskrun_flag(true);
    let undisturbed = RuntimeBuilder::new().with_proactor(ring).build();
    undisturbed.or_else(|_| Runtime::new())
}
