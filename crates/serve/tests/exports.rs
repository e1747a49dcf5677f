//! Exports without any protocol: what a front end may rely on.

use std::io;
use std::pin::pin;

use bytes::Bytes;
use compio::runtime::Runtime;
use dmsnap::device::{Allocation, Memory};
use dmsnap_serve::export::{
    DuplicateName, Exports, Extent, HOLE, Reply, Request, StatusKind, ZERO,
};
use futures_util::FutureExt;

use crate::common::Plain;

const LEN: usize = 1 << 20;

fn plain(name: &str) -> Plain<Memory> {
    Plain::new(name, Memory::zeroed(LEN))
}

fn run(test: impl Future<Output = ()>) {
    Runtime::new().expect("a runtime").block_on(test);
}

#[test]
fn an_export_does_what_it_is_asked() {
    run(async {
        let exports = Exports::new();
        exports.add(plain("disk")).expect("new");
        assert_eq!(exports.add(plain("disk")), Err(DuplicateName));
        assert_eq!(exports.add(plain("nul\0")), Err(DuplicateName));
        assert!(exports.lease("none").is_none());
        let lease = exports.lease("").expect("the default");
        assert_eq!((lease.name(), lease.size_bytes().expect("known")), ("disk", LEN as u64));
        let pieces = vec![Bytes::from_static(&[1; 512]), Bytes::from_static(&[2; 512])];
        let write = Request::Write { at: 4096, pieces, durable: true };
        assert!(matches!(lease.run(write).await, Ok(Reply::Done)));
        let (len, allocation) = (512, Allocation::MayPunch);
        let zero = Request::WriteZeroes { at: 4096, len, allocation, durable: false };
        assert!(matches!(lease.run(zero).await, Ok(Reply::Done)));
        let Ok(Reply::Data(data)) = lease.run(Request::Read { at: 4096, len: 1024 }).await else {
            panic!("no data");
        };
        assert!(data[..512] == [0; 512] && data[512..] == [2; 512]);
        let (kind, range) = (StatusKind::Allocation, 0..LEN as u64);
        let status = lease.run(Request::Status { kind, range, most: 8 }).await;
        let Ok(Reply::Extents(extents)) = status else { panic!("no extents") };
        assert_eq!(extents.iter().map(|it| it.len_bytes).sum::<u64>(), LEN as u64);
        let known = |it: &Extent| it.flags & !(HOLE | ZERO) == 0;
        assert!(extents.iter().all(known), "{extents:?}");
    });
}

#[test]
fn an_export_that_is_read_only_refuses_every_change() {
    run(async {
        let exports = Exports::new();
        exports.add(Plain { read_only: true, ..plain("disk") }).expect("new");
        let lease = exports.lease("disk").expect("served");
        let changes = [
            Request::Write { at: 0, pieces: vec![Bytes::from_static(&[1; 512])], durable: false },
            Request::WriteMany(vec![(0, Bytes::from_static(&[1; 512]))]),
            Request::Discard { at: 0, len: 512, durable: false },
        ];
        for change in changes {
            let refused = lease.run(change).await.expect_err("read-only");
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        }
        assert!(matches!(lease.run(Request::Flush).await, Ok(Reply::Done)));
    });
}

#[test]
fn an_export_is_removed_when_its_last_client_has_left() {
    run(async {
        let exports = Exports::new();
        exports.add(plain("disk")).expect("new");
        let leases = [exports.lease("disk"), exports.lease("disk")].map(|it| it.expect("served"));
        assert!(leases[0].removed().now_or_never().is_none());
        let mut removed = pin!(exports.remove("disk"));
        assert!(removed.as_mut().now_or_never().is_none(), "it is in use");
        assert!(exports.lease("disk").is_none() && exports.names().is_empty());
        leases[0].removed().await;
        drop(leases);
        assert!(removed.await);
        assert!(!exports.remove("disk").await);
    });
}
