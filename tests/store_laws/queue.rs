use bytes::Bytes;
use dmsnap::device::Device;
use dmsnap::format::OriginChunk;
use dmsnap::store::{Persistent, Store, StoreError, Strays};
use dmsnap_sim::{Disk, Power, run};

use crate::store_laws::{found, kernel_image, open};

/// Publishing takes what stands in front; a chunk that still waits for its data holds back those
/// after it, so that slots stay in step.
#[test]
fn a_publish_stops_at_the_first_chunk_without_data() {
    let disk = Disk::new(kernel_image(100, 0), 512, &Power::steady());
    let store = open(&disk).expect("sound");
    let [a, b, c] = std::array::from_fn(|_| store.prepare().expect("room"));
    let (b_ticket, c_ticket) = (b.ticket(), c.ticket());
    store.commit(a, OriginChunk::new(1));
    store.commit(c, OriginChunk::new(3));
    assert_eq!(run(store.publish()).expect("published").next_ticket, b_ticket);
    assert_eq!(store.published(), 1);
    assert!(store.has_unpublished());
    store.commit(b, OriginChunk::new(2));
    assert_eq!(run(store.publish()).expect("published").next_ticket, c_ticket + 1);
    assert!(!run(store.publish()).expect("nothing to do").flushed);
    assert!(!store.has_unpublished());
    let olds: Vec<_> = found(disk.content(), "").0.iter().map(|it| it.old.get()).collect();
    assert_eq!(olds, [1, 2, 3]);
}

/// While slots are being written, chunks can be given out, committed and abandoned; and a publish
/// that is given up half-way breaks the store, because nobody knows what has reached the medium.
#[test]
fn chunks_can_be_given_out_while_a_publish_is_under_way() {
    use std::task::{Context, Poll, Waker};

    /// Every flush takes one more poll.
    struct Slow<'a>(&'a Disk);
    impl Device for Slow<'_> {
        async fn read(&self, at: u64, len: usize) -> std::io::Result<dmsnap::device::Buffer> {
            self.0.read(at, len).await
        }

        async fn write(&self, at: u64, data: Bytes) -> std::io::Result<()> {
            self.0.write(at, data).await
        }

        async fn write_zeroes(
            &self,
            at: u64,
            len: u64,
            allocation: dmsnap::device::Allocation,
        ) -> std::io::Result<()> {
            self.0.write_zeroes(at, len, allocation).await
        }

        async fn discard(&self, at: u64, len: u64) -> std::io::Result<()> {
            self.0.discard(at, len).await
        }

        async fn flush(&self) -> std::io::Result<()> {
            let mut polled = false;
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                match std::mem::replace(&mut polled, true) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
            self.0.flush().await
        }

        fn len_bytes(&self) -> std::io::Result<u64> {
            self.0.len_bytes()
        }

        fn block_bytes(&self) -> u32 {
            self.0.block_bytes()
        }
    }

    let disk = Disk::new(kernel_image(100, 0), 512, &Power::steady());
    let store = run(Persistent::open(Slow(&disk), None, Strays::Refuse, |_| {})).expect("sound");
    let prepare = |old| {
        let prepared = store.prepare().expect("room");
        store.commit(prepared, OriginChunk::new(old));
    };
    prepare(1);
    {
        let mut publish = std::pin::pin!(store.publish());
        let mut context = Context::from_waker(Waker::noop());
        assert!(publish.as_mut().poll(&mut context).is_pending());
        prepare(2);
        let prepared = store.prepare().expect("room");
        store.abandon(prepared);
        prepare(3);
        while publish.as_mut().poll(&mut context).is_pending() {}
    }
    assert_eq!(store.published(), 1, "what came later waits for the next publish");
    run(store.publish()).expect("published");
    let found_now = found(disk.content(), "");
    let pairs: Vec<_> = found_now.0.iter().map(|it| (it.old.get(), it.new.get())).collect();
    assert_eq!(pairs, [(1, 2), (2, 3), (3, 4)]);

    prepare(4);
    {
        let mut publish = std::pin::pin!(store.publish());
        let mut context = Context::from_waker(Waker::noop());
        assert!(publish.as_mut().poll(&mut context).is_pending());
    }
    assert!(matches!(store.prepare(), Err(StoreError::Broken)));
}
