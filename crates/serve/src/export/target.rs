use std::io;

use dmsnap::device::Device;
use futures_util::future::LocalBoxFuture;

use super::extent::{StatusKind, tidied};
use super::interface::Export;
use super::request::{Reply, Request};

/// Any [`Export`]: one set can hold exports of different types.
pub(crate) trait Target {
    fn name(&self) -> &str;
    fn stop_waiting_for_room(&self);
    fn description(&self) -> Option<String>;
    fn joins_writes(&self) -> bool;
    fn status_kinds(&self) -> Vec<StatusKind>;
    fn len_bytes(&self) -> io::Result<u64>;
    fn preferred_block_bytes(&self) -> u32;
    fn run(&self, request: Request) -> LocalBoxFuture<'_, io::Result<Reply>>;
}

impl<E: Export> Target for E {
    fn name(&self) -> &str {
        Export::name(self)
    }

    fn stop_waiting_for_room(&self) {
        Export::stop_waiting_for_room(self);
    }

    fn description(&self) -> Option<String> {
        Export::description(self)
    }

    fn joins_writes(&self) -> bool {
        Export::joins_writes(self)
    }

    fn status_kinds(&self) -> Vec<StatusKind> {
        Export::status_kinds(self)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.device().len_bytes()
    }

    fn preferred_block_bytes(&self) -> u32 {
        Export::preferred_block_bytes(self)
    }

    fn run(&self, request: Request) -> LocalBoxFuture<'_, io::Result<Reply>> {
        Box::pin(async move {
            let device = self.device();
            match request {
                Request::Read { at, len } => return device.read(at, len).await.map(Reply::Data),
                Request::Write { at, mut pieces, .. } => match pieces.pop() {
                    Some(only) if pieces.is_empty() => device.write(at, only).await?,
                    last => {
                        pieces.extend(last);
                        device.write_vectored(at, pieces).await?;
                    }
                },
                Request::WriteMany(writes) => device.write_many(writes).await?,
                Request::Discard { at, len, .. } => match device.discard(at, len).await {
                    // A client only says that it no longer needs the range.
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                    other => other?,
                },
                Request::WriteZeroes { at, len, allocation, .. } => {
                    device.write_zeroes(at, len, allocation).await?;
                }
                Request::Flush => self.flush().await?,
                Request::Status { kind, range, most } => {
                    let extents = self.status(&kind, range.clone(), most).await?;
                    return tidied(extents, &range, most).map(Reply::Extents);
                }
            }
            Ok(Reply::Done)
        })
    }
}
