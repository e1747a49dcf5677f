use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::buffer::Buffer;
use super::interface::{Allocation, Device};

/// The methods of a [`Device`] that passes every request on to another one: `forward!(self: this =>
/// this.device);` inside its `impl`. `this` is a pattern, and an enum may have one for each variant. With
/// `but flush` the device has a `flush` of its own.
///
/// The only list of them. What it lacks is found where it is used, by
/// `#[deny(clippy::missing_trait_methods)]`.
macro_rules! forward {
    ($self:ident: $($this:pat => $device:expr),+) => {
        $crate::device::forward::forward!(but flush, $self: $($this => $device),+);

        async fn flush(&$self) -> io::Result<()> {
            match $self { $($this => $device.flush().await,)+ }
        }
    };
    (but flush, $self:ident: $($this:pat => $device:expr),+) => {
        async fn read(&$self, at: u64, len: usize) -> io::Result<Buffer> {
            match $self { $($this => $device.read(at, len).await,)+ }
        }

        async fn read_medium(&$self, at: u64, len: usize) -> io::Result<Buffer> {
            match $self { $($this => $device.read_medium(at, len).await,)+ }
        }

        async fn forget_cached(&$self) -> io::Result<()> {
            match $self { $($this => $device.forget_cached().await,)+ }
        }

        async fn write(&$self, at: u64, data: Bytes) -> io::Result<()> {
            match $self { $($this => $device.write(at, data).await,)+ }
        }

        async fn write_vectored(&$self, at: u64, pieces: Vec<Bytes>) -> io::Result<()> {
            match $self { $($this => $device.write_vectored(at, pieces).await,)+ }
        }

        async fn write_many(&$self, writes: Vec<(u64, Bytes)>) -> io::Result<()> {
            match $self { $($this => $device.write_many(writes).await,)+ }
        }

        async fn write_zeroes(&$self, at: u64, len: u64, allocation: Allocation) -> io::Result<()> {
            match $self { $($this => $device.write_zeroes(at, len, allocation).await,)+ }
        }

        async fn discard(&$self, at: u64, len: u64) -> io::Result<()> {
            match $self { $($this => $device.discard(at, len).await,)+ }
        }

        async fn next_data(&$self, at: u64) -> io::Result<Option<Range<u64>>> {
            match $self { $($this => $device.next_data(at).await,)+ }
        }

        fn len_bytes(&$self) -> io::Result<u64> {
            match $self { $($this => $device.len_bytes(),)+ }
        }

        async fn grow(&$self, len_bytes: u64) -> io::Result<()> {
            match $self { $($this => $device.grow(len_bytes).await,)+ }
        }

        fn block_bytes(&$self) -> u32 {
            match $self { $($this => $device.block_bytes(),)+ }
        }

        fn logical_block_bytes(&$self) -> u32 {
            match $self { $($this => $device.logical_block_bytes(),)+ }
        }

        fn kernel_file(&$self) -> Option<Arc<std::fs::File>> {
            match $self { $($this => $device.kernel_file(),)+ }
        }
    };
}

pub(super) use forward;

#[deny(clippy::missing_trait_methods)]
impl<D: Device> Device for &D {
    forward!(self: this => **this);
}

#[deny(clippy::missing_trait_methods)]
impl<D: Device> Device for Box<D> {
    forward!(self: this => **this);
}

#[deny(clippy::missing_trait_methods)]
impl<D: Device> Device for Rc<D> {
    forward!(self: this => **this);
}

#[deny(clippy::missing_trait_methods)]
impl<D: Device> Device for Arc<D> {
    forward!(self: this => **this);
}
