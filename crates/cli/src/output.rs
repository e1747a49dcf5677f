use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::report::{Failure, Plain};

/// Stdout, or stderr where stdout is taken. Once nobody reads it any more, it takes everything and keeps nothing: what the command
/// does and its exit status do not depend on who listens.
#[derive(Debug)]
pub(crate) struct Output {
    to: Box<dyn Stream>,
    /// Lines appear as they come; elsewhere than on a terminal they are collected.
    line_by_line: bool,
    waiting: Vec<u8>,
    closed: bool,
}

trait Stream: Write + fmt::Debug {}

impl Stream for io::Stdout {}
impl Stream for io::Stderr {}

/// As much is collected before it is written.
const BUFFER_BYTES: usize = 64 << 10;

impl Output {
    pub(crate) fn stdout() -> Self {
        let line_by_line = io::stdout().is_terminal();
        Self { line_by_line, to: Box::new(io::stdout()), waiting: Vec::new(), closed: false }
    }

    pub(crate) fn stderr() -> Self {
        Self { line_by_line: true, to: Box::new(io::stderr()), waiting: Vec::new(), closed: false }
    }

    /// A line of text. Names that others chose may hold control characters, which no terminal gets.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        writeln!(self.waiting, "{}", Plain(&text.to_string())).map_err(failure)?;
        self.line_done()
    }

    /// An object of JSON, on a line of its own, without control characters as well.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let start = self.waiting.len();
        serde_json::to_writer(&mut self.waiting, value).map_err(failure)?;
        // They stand in strings only, and those that JSON wants escaped are.
        let is_plain = self.waiting[start..].iter().all(|byte| (0x20..0x7f).contains(byte));
        if !is_plain {
            let json = self.waiting.split_off(start);
            for c in String::from_utf8_lossy(&json).chars() {
                match c.is_control() {
                    true => write!(self.waiting, "\\u{:04x}", u32::from(c)).map_err(failure)?,
                    false => write!(self.waiting, "{c}").map_err(failure)?,
                }
            }
        }
        self.waiting.push(b'\n');
        self.line_done()
    }

    /// Whole text, as it is.
    pub(crate) fn text(&mut self, text: &[u8]) -> Result<(), Failure> {
        self.waiting.extend_from_slice(text);
        self.line_done()
    }

    /// True once nobody reads: a caller that only writes here may stop.
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
