//! What Linux files are: regular files and block devices, how they are opened, and who else has them.

mod mode; // what for, and through which cache
mod error; // why not, and who else has it
mod semaphore; // at most n at a time
mod pages; // direct and buffered writes kept apart
mod cached; // what the page cache has
mod threads; // calls on other threads
mod workers; // threads of the kernel that wait for files
mod direct; // what direct I/O demands
mod sysfs; // what the kernel tells about disks, as files
mod limits; // what a disk or a file system writes untorn
mod identity; // which bytes of which file or disk
mod backing; // what a loop device is attached to
mod descent; // down through partitions and loop devices
mod loops; // who else has it through a loop device
mod locks; // flock, and the locks of QEMU
mod open; // without locks, and surely what it is said to be
mod new_file; // made for whom, and durable
mod handles; // the ways to one that is open
mod trace; // what others have done to it
mod rights; // what it may be used for
mod handle; // one that is open
mod claim; // shared, until something is written
mod requests; // reads and writes, over io_uring
mod reflink; // extents of one file lent to another

pub use descent::is_same;
pub use error::{OpenError, User};
pub use handle::File;
pub use identity::Identity;
pub use loops::{Loop, loops_on};
pub use mode::{Caching, Mode};
pub use new_file::{Access, new_file, new_file_of};
pub use open::is_open_elsewhere;
pub(super) use reflink::reflink;
