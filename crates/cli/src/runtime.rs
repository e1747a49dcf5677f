use compio::runtime::Runtime;

use crate::report::Failure;

/// Drives a task on this thread, with io_uring where the system lets us.
pub(crate) fn run<T>(task: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = Runtime::new().map_err(|error| {
        Failure::of("io_uring", format_args!("cannot set up the I/O of this process: {error}"))
    })?;
    runtime.block_on(task)
}
