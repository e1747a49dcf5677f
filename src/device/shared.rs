use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::barrier::Barrier;
use super::buffer::Buffer;
use super::forward::forward;
use super::interface::{Allocation, Device};

/// One device below several others, as a disk is below its volumes.
///
/// Its flushes go through one [`Barrier`]: a flush that fails may have lost the writes of any of
/// them, so from then on all fail, for everybody.
#[derive(Debug)]
pub struct Shared<D> {
    device: D,
    barrier: Barrier,
}

impl<D> Shared<D> {
    /// To be shared as an `Rc`.
    pub fn new(device: D) -> Self {
        Self { device, barrier: Barrier::default() }
    }

    /// The device itself.
    pub fn device(&self) -> &D {
        &self.device
    }
}

forward!([D: Device] Shared<D>, self: this => this.device; flush: self.barrier.flush(&self.device));
