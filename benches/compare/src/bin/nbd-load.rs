//! Puts load on an NBD server and prints what it took, as JSON.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use dmsnap_compare::client::Connection;
use dmsnap_compare::cpu_time::CpuTime;
use dmsnap_compare::load::{Kind, Outcome, Plan, run};
use dmsnap_compare::order::Order;
use serde::Serialize;

/// Put load on an NBD server and print what it took, as JSON
#[derive(Debug, Parser)]
struct Args {
    /// Socket of the server
    socket: PathBuf,
    /// Export, by default the server's default
    #[arg(long, default_value = "")]
    export: String,
    /// The server, whose CPU time is measured meanwhile
    #[arg(long)]
    pid: Option<u32>,
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long, value_enum, default_value = "random")]
    order: Order,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Begin with this block of the order
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Bytes of the export that are used, by default all
    #[arg(long)]
    span: Option<u64>,
    /// Bytes of a request
    #[arg(long, default_value_t = 4096)]
    block: u32,
    /// Requests in flight
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Requests from flush to flush
    #[arg(long, default_value_t = 0)]
    flush_every: u64,
    /// A flush at the end, which is measured, too
    #[arg(long)]
    flush_last: bool,
    /// End after this many requests
    #[arg(long, default_value_t = u64::MAX)]
    count: u64,
    /// or after this many seconds
    #[arg(long)]
    seconds: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    requests: u64,
    flushes: u64,
    bytes: u64,
    seconds: f64,
    /// User and system.
    server_cpu_seconds: f64,
    client_cpu_seconds: f64,
    /// Of the requests, in microseconds.
    p50: f64,
    p99: f64,
    p999: f64,
    slowest: f64,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut connection = Connection::new(&args.socket, &args.export)?;
    let size_bytes = connection.size_bytes();
    let plan = Plan {
        kind: args.kind,
        order: args.order,
        seed: args.seed,
        first: args.first,
        span_bytes: args.span.unwrap_or(size_bytes).min(size_bytes),
        block_bytes: args.block,
        depth: args.depth,
        flush_every: args.flush_every,
        flush_last: args.flush_last,
        count: args.count,
        time: args.seconds.map(Duration::from_secs_f64),
    };
    if plan.span_bytes < u64::from(plan.block_bytes) || plan.depth == 0 {
        return Err(io::Error::other("nothing to do"));
    }
    // Measured on itself, it only tells that the client is cheap.
    let (server, client) = (args.pid.unwrap_or(std::process::id()), std::process::id());
    let before = (CpuTime::of(server)?, CpuTime::of(client)?);
    let outcome = run(&mut connection, &plan)?;
    let after = (CpuTime::of(server)?, CpuTime::of(client)?);
    connection.disconnect()?;
    let (server, client) = (after.0.since(before.0), after.1.since(before.1));
    let report = report(outcome, &plan, server, client);
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn report(mut outcome: Outcome, plan: &Plan, server: f64, client: f64) -> Report {
    let latencies = &mut outcome.latencies;
    latencies.sort_unstable();
    let at = |per_mille: usize| {
        let nanos = latencies.get(latencies.len().saturating_sub(1) * per_mille / 1000);
        f64::from(nanos.copied().unwrap_or(0)) / 1e3
    };
    Report {
        requests: outcome.requests,
        flushes: outcome.flushes,
        bytes: outcome.requests * u64::from(plan.block_bytes),
        seconds: outcome.elapsed.as_secs_f64(),
        server_cpu_seconds: server,
        client_cpu_seconds: client,
        p50: at(500),
        p99: at(990),
        p999: at(999),
        slowest: at(1000),
    }
}
