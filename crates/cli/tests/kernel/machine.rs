use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use crate::kernel::guest::{HELP, cache, repository};

/// A kernel that does what it is told step by step: `tests/kernel/agent` runs in it. It has one
/// disk, of which both sides use any place they like.
pub(crate) struct Machine {
    boot: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    disk: File,
    dir: TempDir,
}

impl Machine {
    /// Boots, with a blank disk of this size in `dir`, for at most this many seconds.
    pub(crate) fn boot(dir: TempDir, disk_bytes: u64, seconds: u64) -> Self {
        let path = dir.path().join("disk");
        let disk = File::options().read(true).write(true).create_new(true).open(&path);
        let disk = disk.expect("the disk can be made");
        disk.set_len(disk_bytes).expect("the disk can be made");
        let (boot, input, output) = start(&path, seconds);
        let mut machine = Self { boot, input, output, disk, dir };
        machine.hear_answer(|_| ()).expect("the agent is ready");
        machine
    }

    /// Kills the machine: what it had handed to its disk is there, the rest is not. What it had
    /// said goes to `heard`. Then boots another one with the same disk, for this many seconds.
    pub(crate) fn power_cut(&mut self, seconds: u64, heard: &mut impl FnMut(&str)) {
        let boot = self.boot.id();
        let children = fs::read_to_string(format!("/proc/{boot}/task/{boot}/children"));
        let children = children.expect("the kernel tells children");
        let guest = children.split_whitespace().next().expect("it runs").parse().expect("a number");
        let group = Pid::from_raw(guest).expect("not 0");
        kill_process_group(group, Signal::KILL).expect("it leads its group");
        loop {
            let mut line = String::new();
            self.output.read_line(&mut line).expect("the machine can be heard");
            match line.strip_suffix('\n') {
                Some(line) => heard(line),
                None => break,
            }
        }
        self.boot.wait().expect("it can be waited for");
        (self.boot, self.input, self.output) = start(&self.dir.path().join("disk"), seconds);
        self.hear_answer(|_| ()).expect("the agent is ready");
    }

    /// Gives a command, and takes the answer: its words, or the error.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> Result<String, String> {
        self.ask_hearing(line, |_| ())
    }

    /// Gives a command that must succeed.
    #[track_caller]
    pub(crate) fn must(&mut self, line: &str) -> String {
        self.ask(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// The same; what is said before the answer goes to `heard`.
    #[track_caller]
    pub(crate) fn ask_hearing(
        &mut self,
        line: &str,
        heard: impl FnMut(&str),
    ) -> Result<String, String> {
        writeln!(self.input, "{line}").unwrap_or_else(|error| panic!("{line}: {error}"));
        self.hear_answer(heard)
    }

    fn hear_answer(&mut self, mut heard: impl FnMut(&str)) -> Result<String, String> {
        loop {
            let line = self.hear();
            match line.split_at_checked(1) {
                Some(("=", answer)) => return Ok(answer.trim().to_owned()),
                Some(("!", error)) => return Err(error.trim().to_owned()),
                _ => heard(&line),
            }
        }
    }

    /// The next line.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the machine can be heard");
        if line.is_empty() {
            let ended = self.boot.wait().expect("it can be waited for");
            let told = fs::read_to_string(self.dir.path().join("told")).expect("text");
            panic!("the machine has gone: {ended}\n{told}\n{HELP}");
        }
        line.truncate(line.trim_end().len());
        line
    }

    /// Bytes of the disk.
    pub(crate) fn get(&self, sector: u64, sectors: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(sectors * 512).expect("small")];
        self.disk.read_exact_at(&mut bytes, sector * 512).expect("the disk can be read");
        bytes
    }

    /// Writes to the disk, behind the kernel's back: nothing there may be mapped.
    pub(crate) fn put(&self, sector: u64, bytes: &[u8]) {
        self.disk.write_all_at(bytes, sector * 512).expect("the disk can be written");
    }

    /// Ends it; nothing writes to its disk afterwards.
    fn kill(&mut self) {
        let _ = kill_process(Pid::from_child(&self.boot), Signal::TERM);
        let _ = self.boot.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(disk: &Path, seconds: u64) -> (Child, ChildStdin, BufReader<ChildStdout>) {
    let folder = repository().join("tests/kernel");
    let mut command = Command::new(folder.join("boot"));
    command.arg("--interactive").args(["--timeout", &seconds.to_string()]);
    command.arg("--cache").arg(cache()).arg("--disk").arg(disk).arg(folder.join("agent"));
    let told = File::create(disk.with_file_name("told")).expect("a file can be made");
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(told).spawn();
    let mut boot = started.unwrap_or_else(|error| panic!("tests/kernel/boot: {error}; {HELP}"));
    let input = boot.stdin.take().expect("piped");
    let output = BufReader::new(boot.stdout.take().expect("piped"));
    (boot, input, output)
}
