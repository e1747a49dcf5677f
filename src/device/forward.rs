use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::buffer::Buffer;
use super::interface::{Allocation, Device};

/// A [`Device`] that passes every request on to another one: `forward!([D: Device] Rc<D>, self: this => **this);`.
/// First its generics and its type; then `this`, a pattern, and where the other device is. An enum may have a
/// pattern for each variant. After `; flush:` a flush of its own may follow.
///
/// The only list of the methods. One that it lacks is found by clippy in every device that is made so.
macro_rules! forward {
    ([$($generics:tt)*] $type:ty, $self:ident: $($this:pat => $device:expr),+) => {
        #[deny(clippy::missing_trait_methods)]
        impl<$($generics)*> Device for $type {
            $crate::device::forward::forward!(methods $self: $($this => $device),+);

            async fn flush(&$self) -> io::Result<()> {
                match $self { $($this => $device.flush().await,)+ }
            }
        }
    };
    ([$($generics:tt)*] $type:ty, $self:ident: $this:pat => $device:expr; flush: $flush:expr) => {
        #[deny(clippy::missing_trait_methods)]
        impl<$($generics)*> Device for $type {
            $crate::device::forward::forward!(methods $self: $this => $device);

            async fn flush(&$self) -> io::Result<()> {
                $flush.await
            }
        }
    };
    (methods $self:ident: $($this:pat => $device:expr),+) => {
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

        async fn claim(&$self) -> io::Result<()> {
            match $self { $($this => $device.claim().await,)+ }
        }

        fn is_read_only(&$self) -> bool {
            match $self { $($this => $device.is_read_only(),)+ }
        }

        async fn change(&$self) -> io::Result<Option<$crate::device::Change>> {
            match $self { $($this => $device.change().await,)+ }
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

forward!([D: Device] &D, self: this => **this);
forward!([D: Device] Box<D>, self: this => **this);
forward!([D: Device] Rc<D>, self: this => **this);
forward!([D: Device] Arc<D>, self: this => **this);
