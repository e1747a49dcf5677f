//! The README is true: every command of its `console` blocks is run, one after the other, and
//! prints what stands below it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A command and what it prints.
#[derive(Debug, Default)]
struct Step {
    command: String,
    prints: String,
}

/// The steps of all `console` blocks, in order.
fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            steps.push(Step { command: command.to_owned(), ..Step::default() });
        } else if inside {
            let step = steps.last_mut().expect("a block begins with a command");
            step.prints += line;
            step.prints += "\n";
        }
    }
    steps
}

/// Without what differs from machine to machine: how long a task took, and, in brackets, how much
/// of its data was written and how much shared (a matter of the file system).
fn comparable(text: &str) -> String {
    let line = |line: &str| {
        let (done, seconds) = line.rsplit_once(", ").unwrap_or((line, ""));
        let timed = seconds.strip_suffix(" s").is_some_and(|time| time.parse::<f64>().is_ok());
        match (timed, done.split_once(" ("), done.split_once(')')) {
            (true, Some((before, _)), Some((_, after))) => format!("{before}{after}\n"),
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(line).collect()
}

/// A shell in `dir` that finds the binary under test.
fn shell(dir: &Path, command: &str) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_dmsnap")).parent().expect("it lies somewhere");
    let path = std::env::var("PATH").expect("there is a PATH");
    let output = Command::new("sh")
        .args(["-c", &format!("{{ {command}; }} 2>&1")])
        .env("PATH", format!("{}:{path}", binary.display()))
        .current_dir(dir)
        .output()
        .expect("sh can be run");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {}: {printed}", output.status);
    printed
}

#[test]
fn every_command_of_the_readme_prints_what_the_readme_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize();
    let root = root.expect("the package lies in the workspace");
    let readme = fs::read_to_string(root.join("README.md")).expect("README.md is readable");
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory can be made");
    symlink(root.join("tests"), dir.path().join("tests")).expect("a link can be made");
    let steps = steps(&readme);
    let told = [
        "info", "check", "dump", "restore", "pack", "unpack", "wipe", "export", "diff", "compare",
        "merge", "create",
    ];
    for command in told {
        let word = format!("dmsnap {command} ");
        assert!(steps.iter().any(|step| step.command.contains(&word)), "no {word}in the tour");
    }
    for Step { command, prints } in steps {
        let printed = shell(dir.path(), &command);
        assert_eq!(comparable(&printed), comparable(&prints), "$ {command}");
    }
    let left = fs::read_dir(dir.path()).expect("the directory is readable").count();
    assert_eq!(left, 1, "the tour leaves files behind");
}
