//! The only door to storage.

mod buffer; // aligned, pooled memory for I/O
mod interface; // what a device is
mod forward; // devices that pass everything on to another one
mod memory; // bytes in memory
mod zeroes; // nothing but zeroes
mod barrier; // flushes that are shared
mod shared; // one device below several
mod segment; // a stretch of a device, in stripes over others
mod mapped; // stretches of others, as one
#[cfg(feature = "file")]
mod ioctl; // what no library asks without `unsafe`
#[cfg(feature = "file")]
mod file; // what Linux files and disks are
mod share; // extents of one device lent to another
mod object; // what a device is, as an object
mod dynamic; // of any type
#[cfg(feature = "file")]
mod any; // files, or of any other type

#[cfg(feature = "file")]
#[cfg_attr(docsrs, doc(cfg(feature = "file")))]
pub use any::AnyDevice;
pub use barrier::Barrier;
pub use buffer::{ALIGNMENT, Buffer};
pub use dynamic::DynDevice;
#[cfg(feature = "file")]
#[cfg_attr(docsrs, doc(cfg(feature = "file")))]
pub use file::{
    Access, Caching, File, Identity, Loop, Mode, OpenError, User, is_open_elsewhere, is_same,
    loops_on, new_file, new_file_of,
};
pub(crate) use interface::is_no_room;
pub use interface::{Allocation, Change, Device, within};
pub use mapped::{MapError, Mapped};
pub use memory::Memory;
pub use segment::{Column, Segment};
pub use share::share;
pub use shared::Shared;
pub use zeroes::Zeroes;
