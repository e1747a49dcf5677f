/// What the device is opened for, and so who else may have it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reading, even while others write: for looking at a device in use.
    Look,
    /// Reading, while nobody who locks writes (shared locks).
    Read,
    /// Reading, as [`Read`](Self::Read), and writing once something is to be written: the first write
    /// ([`Device::claim`](crate::device::Device::claim)) takes the locks of [`Write`](Self::Write). As long as
    /// others have the device open it is refused, and nothing has changed. What [`Write`](Self::Write) refuses
    /// at once is refused here as well, but for what may not be written at all: that is open for reading alone.
    Share,
    /// Reading and writing, alone: exclusive locks; on disks `O_EXCL`, which also keeps out mounts and
    /// device-mapper tables; files that anybody else has open for writing, and what a loop device is
    /// attached to, are refused.
    Write,
}

/// Whether the page cache is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// Around it (`O_DIRECT`) where the device can and the request is aligned; the rest through it.
    #[default]
    Direct,
    /// Through it.
    Buffered,
}
