use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use clap::error::ErrorKind;

use crate::messages::Messages;

/// How long a reader of stderr has for the last messages of a process that ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where messages go by themselves, if they do.
static MESSAGES: OnceLock<Messages> = OnceLock::new();

/// Why a command could not be done: `PATH: what was found; what to do`, in one line.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    /// Set if the command line is wrong: then the usage is shown as well, as for what the parser finds.
    usage: Option<ErrorKind>,
}

impl Failure {
    /// About a file or device, by the name the user gave.
    pub(crate) fn about(path: &Path, found: impl fmt::Display) -> Self {
        let text = format!("{}: {}", path.display(), without_numbers(&found.to_string()));
        Self { text, usage: None }
    }

    /// About what has no path.
    pub(crate) fn of(subject: &str, found: impl fmt::Display) -> Self {
        Self::about(Path::new(subject), found)
    }

    /// Says what to do about it.
    pub(crate) fn advise(self, advice: impl fmt::Display) -> Self {
        Self { text: format!("{}; {advice}", self.text), ..self }
    }

    /// The command line is wrong, in a way that the parser cannot find.
    pub(crate) fn usage(kind: ErrorKind, found: impl fmt::Display) -> Self {
        Self { text: found.to_string(), usage: Some(kind) }
    }

    /// What is wrong with the command line, if that is the trouble.
    pub(crate) fn wrong_usage(&self) -> Option<ErrorKind> {
        self.usage
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Plain(&self.text).fmt(f)
    }
}

/// Text in one line, whatever it holds: control characters are escaped. Whatever is written to a terminal
/// goes through this, in [`tell`] and in [`Output`](crate::output::Output).
pub(crate) struct Plain<'a>(pub(crate) &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(char::is_control) {
            f.write_str(&rest[..at])?;
            let mut chars = rest[at..].chars();
            if let Some(c) = chars.next() {
                write!(f, "{}", c.escape_default())?;
            }
            rest = chars.as_str();
        }
        f.write_str(rest)
    }
}

/// Says something on stderr. If that is gone, nobody can be told.
pub(crate) fn tell(message: impl fmt::Display) {
    let line = format!("dmsnap: {}\n", Plain(&message.to_string()));
    match MESSAGES.get() {
        Some(messages) => messages.send(line),
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// From now on [`tell`] waits for nobody: a reader of stderr that has stopped reading must not stop a
/// server. Messages that find too many others waiting are counted instead, and the number told later.
pub(crate) fn wait_for_nobody() -> io::Result<()> {
    if MESSAGES.get().is_none() {
        let _ = MESSAGES.set(Messages::to(io::stderr())?);
    }
    Ok(())
}

/// To be called at the end: returns when everything was said, or when it has become clear that nobody reads.
pub(crate) fn finish() {
    if let Some(messages) = MESSAGES.get() {
        messages.flush(LAST_WORDS);
    }
}

/// Without the ` (os error 2)` that the standard library puts after what the system says.
fn without_numbers(message: &str) -> String {
    let mut parts = message.split(" (os error ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(
            part.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches(')'),
        );
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_without_error_numbers() {
        let error = io::Error::from_raw_os_error(2);
        let failure = Failure::about(Path::new("a\nb"), format!("cannot read: {error}"));
        assert_eq!(
            failure.advise("do something").to_string(),
            "a\\nb: cannot read: No such file or directory; do something"
        );
    }
}
