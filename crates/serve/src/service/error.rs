use std::io;

/// Why a service has not run, or has not ended well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The system has no timer. Nothing was served.
    #[error("no timer: {0}")]
    Timer(#[source] io::Error),
    /// A device has failed, now or before; the others are flushed.
    #[error("not all durable: {0}")]
    NotDurable(#[source] io::Error),
    /// A device has hung in a request; all of them could be flushed.
    #[error("a device has not answered a request for {seconds} seconds; all was flushed")]
    Unanswered {
        /// How long the server has waited.
        seconds: u64,
    },
    /// Devices hang: what was written to these exports is not known to be durable.
    #[error(
        "not all durable: no answer from its device for {seconds} seconds: {}",
        exports.join(", ")
    )]
    Unflushed {
        /// How long the server has waited.
        seconds: u64,
        /// Names of exports.
        exports: Vec<String>,
    },
}
