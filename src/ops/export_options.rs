/// How to export.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions {
    /// Export an invalid store too: what it saved, on an origin that may have changed since.
    pub allow_invalid: bool,
    /// The size of the snapshot, and so of the image; by default what its store says, or else that of the origin, which
    /// zeroes follow where it is shorter.
    pub len_bytes: Option<u64>,
    /// Export although the origin is not what the store remembers of it.
    pub ignore_fence: bool,
}
