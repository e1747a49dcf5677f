use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::Dir;

/// Whether `DMSNAP_SKIP_KERNEL=1` is set; says so on stderr, whatever the test harness captures.
pub(crate) fn skipped() -> bool {
    let skipped = std::env::var("DMSNAP_SKIP_KERNEL").is_ok_and(|value| value == "1");
    if skipped {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        writeln!(std::io::stderr(), "{name}: SKIPPED, as DMSNAP_SKIP_KERNEL=1 says")
            .expect("stderr");
    }
    skipped
}

/// One boot of the kernel: its disks, and the script that it will run.
pub(crate) struct Guest {
    disks: Vec<PathBuf>,
    script: String,
}

/// What the script's lines of three words said.
#[derive(Debug)]
pub(crate) struct Said(HashMap<(String, String), String>);

impl Said {
    /// The answer about `name`.
    #[track_caller]
    pub(crate) fn get(&self, name: &str, what: &str) -> &str {
        let key = (name.to_owned(), what.to_owned());
        self.0.get(&key).unwrap_or_else(|| panic!("the script did not tell {key:?}: {self:?}"))
    }
}

impl Guest {
    pub(crate) fn new() -> Self {
        Self { disks: Vec::new(), script: include_str!("guest.sh").to_owned() }
    }

    /// Attaches an image, and gives the word that stands for it in the script.
    pub(crate) fn disk(&mut self, image: &Path) -> String {
        self.disks.push(image.to_owned());
        format!("$DISK{}", self.disks.len() - 1)
    }

    /// Adds a command to the script.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        self.script.push_str(line.as_ref());
        self.script.push('\n');
    }

    /// Boots, and waits for the end of the script, which must succeed.
    #[track_caller]
    pub(crate) fn run(self) -> Said {
        self.boot(&[])
    }

    /// Boots, and kills the machine as soon as the script prints `marker`.
    #[track_caller]
    pub(crate) fn crash(self, marker: &str) -> Said {
        self.boot(&["--crash-on-marker", marker])
    }

    #[track_caller]
    fn boot(self, options: &[&str]) -> Said {
        let dir = Dir::new();
        let script = dir.file("script", self.script.as_bytes());
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("permissions");
        let mut command = Command::new(repository().join("tests/kernel/boot"));
        // On an idle machine none takes a tenth of that.
        command.args(options).args(["--timeout", "240"]).arg("--cache").arg(cache());
        for disk in &self.disks {
            command.arg("--disk").arg(disk);
        }
        let ran = command.arg(&script).stdin(Stdio::null()).output();
        let ran = ran.unwrap_or_else(|error| panic!("tests/kernel/boot: {error}; {HELP}"));
        let stdout = String::from_utf8_lossy(&ran.stdout);
        let stderr = String::from_utf8_lossy(&ran.stderr);
        let status = ran.status.code();
        assert_ne!(status, Some(125), "no kernel: {stderr}\n{HELP}");
        assert_eq!(status, Some(0), "the script in the guest failed:\n{stdout}\n{stderr}");
        Said(stdout.lines().filter_map(answer).collect())
    }
}

pub(crate) const HELP: &str = "tests/kernel/README.md says what this needs; root gets it by itself. \
    DMSNAP_SKIP_KERNEL=1 skips these tests.";

fn answer(line: &str) -> Option<((String, String), String)> {
    let mut words = line.splitn(3, ' ').map(str::to_owned);
    Some(((words.next()?, words.next()?), words.next()?))
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Next to everything else that was built.
pub(crate) fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("kernel")
}

/// A path of this machine, as the guest sees it.
pub(crate) fn in_guest(path: &Path) -> String {
    format!("/run/host{}", path.display())
}
