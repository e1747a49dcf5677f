//! Starts a server and measures how long it takes until it has answered a read of 4 KiB, and how
//! much memory and CPU time it has taken then. Printed as JSON.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use dmsnap_compare::client::Connection;
use dmsnap_compare::cpu_time::CpuTime;

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(120);

/// Start a server and measure the time to its first answer
#[derive(Debug, Parser)]
struct Args {
    /// Where it will listen
    socket: PathBuf,
    #[arg(long, default_value = "")]
    export: String,
    /// The server
    #[arg(last = true, required = true)]
    argv: Vec<String>,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let begin = Instant::now();
    let mut server = Command::new(&args.argv[0])
        .args(&args.argv[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let measured = first_read(&args.socket, &args.export, &mut server, begin).and_then(|millis| {
        let (resident, cpu) = (resident_mib(server.id())?, CpuTime::of(server.id())?.total());
        println!(r#"{{"ms": {millis}, "resident_mib": {resident}, "cpu_seconds": {cpu}}}"#);
        Ok(())
    });
    server.kill()?;
    server.wait()?;
    let _ = std::fs::remove_file(&args.socket);
    measured
}

fn first_read(socket: &Path, export: &str, server: &mut Child, begin: Instant) -> io::Result<f64> {
    let mut connection = loop {
        match Connection::new(socket, export) {
            Ok(connection) => break connection,
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_) if server.try_wait()?.is_some() => {
                return Err(io::Error::other("the server has ended"));
            }
            Err(_) => std::thread::sleep(Duration::from_micros(100)),
        }
    };
    connection.read(0, 4096)?;
    let millis = begin.elapsed().as_secs_f64() * 1e3;
    connection.disconnect()?;
    Ok(millis)
}

fn resident_mib(pid: u32) -> io::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| io::Error::other("no VmRSS"))
}
