//! Starts a server and measures how long it takes until it has answered a read of 4 KiB, and how
//! much memory and CPU time it has taken then. Printed as JSON.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use dmsnap_compare::client::{connect, disconnect};
use dmsnap_compare::cpu_time::CpuTime;
use dmsnap_serve::nbd::codec::{Request, command};

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
    let mut stream = loop {
        match connect(socket, export) {
            Ok((stream, _)) => break stream,
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_) if server.try_wait()?.is_some() => {
                return Err(io::Error::other("the server has ended"));
            }
            Err(_) => std::thread::sleep(Duration::from_micros(100)),
        }
    };
    let read = Request { flags: 0, command: command::READ, cookie: 1, offset: 0, len: 4096 };
    stream.write_all(&read.encode())?;
    let mut answer = [0; 16 + 4096];
    stream.read_exact(&mut answer)?;
    let millis = begin.elapsed().as_secs_f64() * 1e3;
    if answer[4..8] != [0; 4] {
        return Err(io::Error::other("the read has failed"));
    }
    disconnect(stream)?;
    Ok(millis)
}

fn resident_mib(pid: u32) -> io::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| io::Error::other("no VmRSS"))
}
