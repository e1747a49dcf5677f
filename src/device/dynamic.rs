use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::buffer::Buffer;
use super::forward::forward;
use super::interface::{Allocation, Device};
use super::mapped::Mapped;
use super::memory::Memory;
use super::object::Object;
use super::zeroes::Zeroes;

/// A device of any type: for programs that learn only while they run what their devices are, and for devices
/// that this library does not know.
///
/// Each request takes one allocation, for its future.
pub struct DynDevice(Box<dyn Object>);

impl DynDevice {
    /// Hides the type of `device`.
    pub fn new(device: impl Device + 'static) -> Self {
        Self(Box::new(device))
    }
}

impl fmt::Debug for DynDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynDevice").finish_non_exhaustive()
    }
}

impl From<Memory> for DynDevice {
    fn from(memory: Memory) -> Self {
        Self::new(memory)
    }
}

impl From<Zeroes> for DynDevice {
    fn from(zeroes: Zeroes) -> Self {
        Self::new(zeroes)
    }
}

impl<D: Device + 'static> From<Mapped<D>> for DynDevice {
    fn from(mapped: Mapped<D>) -> Self {
        Self::new(mapped)
    }
}

forward!([] DynDevice, self: this => *this.0);

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use futures_executor::block_on;

    use super::super::shared::Shared;
    use super::{Device, DynDevice, Mapped, Memory, Zeroes, io};

    #[test]
    fn a_device_of_any_type_is_the_device_itself() {
        let disk = Rc::new(Shared::new(Memory::zeroed(1 << 20)));
        let half = Mapped::window(disk.clone(), 1 << 19, 1 << 19).expect("half of the disk");
        let devices: Vec<DynDevice> =
            vec![half.into(), Zeroes::new(4096).into(), Memory::zeroed(512).into()];
        let lens: Vec<_> = devices.iter().map(|it| it.len_bytes().expect("a size")).collect();
        assert_eq!(lens, [1 << 19, 4096, 512]);
        block_on(async {
            devices[0].write(512, vec![7; 512].into()).await.expect("written");
            assert_eq!(disk.read((1 << 19) + 512, 512).await.expect("read")[..], [7; 512]);
            devices[1].write(0, vec![7; 512].into()).await.expect_err("zeroes stay");
            let outside = devices[1].read(4000, 512).await.expect_err("past the end");
            assert_eq!(outside.kind(), io::ErrorKind::UnexpectedEof);
        });
    }
}
