use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::report::Failure;

/// Stdout. Once nobody reads it any more, it takes everything and keeps nothing: what the command
/// does and its exit status do not depend on who listens.
#[derive(Debug)]
pub(crate) struct Output {
    to: io::Stdout,
    /// Lines appear as they come; elsewhere than on a terminal they are collected.
    line_by_line: bool,
    waiting: Vec<u8>,
    closed: bool,
}

/// As much is collected before it is written.
const BUFFER_BYTES: usize = 64 << 10;

impl Output {
    pub(crate) fn stdout() -> Self {
        let to = io::stdout();
        Self { line_by_line: to.is_terminal(), to, waiting: Vec::new(), closed: false }
    }

    /// A line of text.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        writeln!(self.waiting, "{text}").map_err(failure)?;
        self.line_done()
    }

    /// An object of JSON, on a line of its own.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.waiting, value).map_err(failure)?;
        self.waiting.push(b'\n');
        self.line_done()
    }

    /// Whole text, as it is.
    pub(crate) fn text(&mut self, text: &[u8]) -> Result<(), Failure> {
        self.waiting.extend_from_slice(text);
        self.line_done()
    }

    /// True once nobody reads: whoever only writes here may stop.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    /// Hands over what was collected.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        let waiting = std::mem::take(&mut self.waiting);
        if self.closed {
            return Ok(());
        }
        match self.to.write_all(&waiting).and_then(|()| self.to.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.closed = true,
            other => other.map_err(failure)?,
        }
        Ok(())
    }

    fn line_done(&mut self) -> Result<(), Failure> {
        match self.line_by_line || self.waiting.len() >= BUFFER_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }
}

fn failure(error: impl Display) -> Failure {
    Failure::of("standard output", error)
}
