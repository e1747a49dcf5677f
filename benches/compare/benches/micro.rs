//! The small things that every request or every exception takes.
//!
//! `cargo bench -p dmsnap-compare --bench micro [-- FILTER]`
//!
//! `cargo bench --bench table` has the table's memory and its comparison with other maps.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dmsnap::format::{
    ChunkSize, CowChunk, Exception, Layout, OriginChunk, RawException, RawHeader,
};
use dmsnap::table::Table;
use dmsnap_compare::order::Order;
use dmsnap_nbd::{Facts, Reply, Request, command};
use zerocopy::IntoBytes;

const EXCEPTIONS: u64 = 1 << 20;
const CHUNKS: u64 = EXCEPTIONS * 4;

fn layout() -> Layout {
    Layout::new(ChunkSize::from_sectors(8).expect("a power of two"))
}

fn exception(n: u64) -> Exception {
    let old = OriginChunk::new(Order::Random.block(n, CHUNKS, 1));
    Exception { old, new: layout().lock_step_chunk(n) }
}

fn table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("table of 1 Mi scattered exceptions");
    let exceptions: Vec<Exception> = (0..EXCEPTIONS).map(exception).collect();
    let table = Table::from_exceptions(exceptions.clone()).expect("no chunk comes twice");
    let mut n = 0;
    let mut next = |of: u64| {
        n = (n + 1) % of;
        n
    };
    group.bench_function("get, hit", |bencher| {
        bencher.iter(|| table.get(exception(next(EXCEPTIONS)).old));
    });
    group.bench_function("get, one of four hits", |bencher| {
        bencher.iter(|| table.get(OriginChunk::new(Order::Random.block(next(CHUNKS), CHUNKS, 2))));
    });
    group.bench_function("insert", |bencher| {
        // Each time into a copy: a table that grows would change what is measured.
        let fresh = |n| Exception {
            old: OriginChunk::new(Order::Random.block(EXCEPTIONS + n, CHUNKS, 1)),
            new: CowChunk::new(1 << 30 | n),
        };
        bencher.iter_batched_ref(
            || table.clone(),
            |table| (0..1000).for_each(|n| table.insert(fresh(n)).expect("new")),
            BatchSize::LargeInput,
        );
    });
    group.throughput(Throughput::Elements(EXCEPTIONS)).sample_size(10);
    group.bench_function("build", |bencher| {
        let input = || exceptions.clone();
        bencher.iter_batched(input, Table::from_exceptions, BatchSize::LargeInput);
    });
    group.finish();
}

fn format(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("format");
    let slots: Vec<RawException> = (0..layout().exceptions_per_area())
        .map(exception)
        .map(|it| RawException { old: it.old.get().into(), new: it.new.get().into() })
        .collect();
    let header = RawHeader::new(layout().chunk_size(), true);
    group.bench_function("header", |bencher| {
        bencher.iter(|| {
            RawHeader::from_prefix(black_box(header.as_bytes())).map(|raw| raw.validate())
        });
    });
    group.throughput(Throughput::Elements(slots.len() as u64));
    group.bench_function("area of 256 slots", |bencher| {
        bencher.iter(|| {
            let slots = RawException::slots(black_box(slots.as_bytes()));
            slots.iter().map_while(RawException::decode).map(|it| it.new.get()).sum::<u64>()
        });
    });
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("NBD codec");
    let facts =
        Facts { size_bytes: 1 << 40, read_only: false, structured: true, has_contexts: false };
    let request = Request { flags: 0, command: command::READ, cookie: 7, offset: 8192, len: 4096 };
    let bytes = request.encode();
    group.bench_function("request", |bencher| {
        bencher.iter(|| Request::decode(black_box(bytes)).map(|request| request.understand(facts)));
    });
    let data = Bytes::from(vec![1; 4096]);
    group.bench_function("simple reply with 4 KiB", |bencher| {
        bencher.iter(|| Reply::simple(black_box(7), None, Some(data.clone())));
    });
    group.finish();
}

criterion_group!(benches, table, format, codec);
criterion_main!(benches);
