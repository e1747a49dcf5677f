use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A run of the command that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    line: String,
    output: Output,
}

/// Runs `dmsnap` and waits for its end.
pub(crate) fn dmsnap<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Ran {
    let mut command = command(args);
    let output = command.output().expect("the binary can be run");
    Ran { line: format!("{command:?}"), output }
}

/// Starts `dmsnap` and leaves it running.
pub(crate) fn start<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Child {
    command(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be run")
}

/// Waits for the end of what [`start`] started.
pub(crate) fn ended(child: Child) -> Ran {
    let line = format!("dmsnap, process {}", child.id());
    Ran { line, output: child.wait_with_output().expect("it ends") }
}

fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_dmsnap")));
    command.args(args).stdin(Stdio::null());
    command
}

impl Ran {
    /// Fails unless it ended with `status`.
    pub(crate) fn expect(self, status: i32) -> Self {
        assert_eq!(self.output.status.code(), Some(status), "{}", self.told());
        self
    }

    /// What it printed, as one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.told()))
    }

    /// What it printed, as one JSON value per line.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        serde_json::Deserializer::from_slice(&self.output.stdout)
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap_or_else(|error| panic!("{error}: {}", self.told()))
    }

    /// What it printed on stderr.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    pub(crate) fn told(&self) -> String {
        let stdout = String::from_utf8_lossy(&self.output.stdout);
        format!("{}: {}\n{stdout}\n{}", self.line, self.output.status, self.stderr())
    }
}
