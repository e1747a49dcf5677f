use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Lets this process open as many files as the system would ever let it: each device takes up to three
/// descriptors, each client one, or four with TLS, and the usual limit of 1024 is one for programs that
/// still use `select`.
pub(crate) fn raise_limit() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return Ok(());
    }
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Has the system no descriptor or memory for one more client?
pub(crate) fn are_spent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}
