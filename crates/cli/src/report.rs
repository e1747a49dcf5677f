use std::fmt;
use std::io::{self, Write};
use std::path::Path;

/// Why a command could not be done: `PATH: what was found; what to do`, in one line.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    /// About a file or device, by the name the user gave.
    pub(crate) fn about(path: &Path, found: impl fmt::Display) -> Self {
        Self(format!("{}: {}", path.display(), without_numbers(&found.to_string())))
    }

    /// About what has no path.
    pub(crate) fn of(subject: &str, found: impl fmt::Display) -> Self {
        Self::about(Path::new(subject), found)
    }

    /// Says what to do about it.
    pub(crate) fn advise(self, advice: impl fmt::Display) -> Self {
        Self(format!("{}; {advice}", self.0))
    }
}

impl fmt::Display for Failure {
    /// In one line, whatever a path may hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_default()),
            false => write!(f, "{c}"),
        })
    }
}

/// Says something on stderr. If that is gone, nobody can be told.
pub(crate) fn tell(message: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "dmsnap: {message}");
}

/// Without the ` (os error 2)` that the standard library puts behind what the system says.
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
