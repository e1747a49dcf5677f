use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::Ran;
use crate::lvm::samples::{Sample, samples, sha256};

/// Runs the command as nobody, if this is root, and asserts nothing.
fn run_as_nobody(args: &[OsString]) -> Ran {
    let binary = env!("CARGO_BIN_EXE_dmsnap");
    let mut command = match rustix::process::getuid().is_root() {
        // Where its build is out of nobody's reach, root will do: modes keep it out as well.
        true if readable_by_all(Path::new(binary)) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", binary]);
            command
        }
        _ => Command::new(binary),
    };
    command.args(args).stdin(Stdio::null());
    command.output().expect("the command starts").into()
}

fn readable_by_all(path: &Path) -> bool {
    path.ancestors().all(|path| {
        path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o005 == 0o005)
    })
}

/// What only reads, each with its arguments after the images' own.
fn commands(sample: &Sample) -> Vec<Vec<OsString>> {
    let images: Vec<OsString> = sample.images.iter().map(|it| it.clone().into()).collect();
    let lvm = |word: &str, rest: &[&str]| {
        let mut args = vec!["lvm".into(), word.into()];
        args.extend(images.clone());
        args.extend(rest.iter().map(OsString::from));
        args
    };
    let mut all = vec![lvm("list", &[]), lvm("list", &["--json", "-a"]), lvm("check", &[])];
    for (name, _) in sample.snapshots() {
        let (volume, cow) = (sample.volume(&name), sample.address(&name));
        let output = format!("/tmp/dmsnap-evidence-{}-{name}", std::process::id());
        all.push(lvm("check", &[&volume]));
        all.push(lvm("export", &["--allow-invalid", &volume, &output]));
        all.push(lvm("merge", &["--dry-run", &volume]));
        for word in ["info", "check", "dump"] {
            all.push(vec![word.into(), cow.clone().into()]);
        }
        all.push(vec!["merge".into(), "--dry-run".into(), cow.clone().into()]);
        all.push(vec!["export".into(), cow.into(), output.into()]);
    }
    all
}

/// The images are such that a write would fail or be seen: read-only, and hashed.
#[test]
fn what_only_reads_leaves_every_byte_of_every_image_as_it_is() {
    // A dry run is refused, as the merge would be.
    for sample in samples() {
        let hash = || sample.images.iter().map(|it| sha256(&fs::read(it).expect("read")));
        let before: Vec<_> = hash().collect();
        for image in &sample.images {
            fs::set_permissions(image, Permissions::from_mode(0o444)).expect("chmod");
        }
        let home = sample.dir.path("");
        fs::set_permissions(&home, Permissions::from_mode(0o555)).expect("chmod");
        let names = sample.dir.names();
        for args in commands(&sample) {
            let ran = run_as_nobody(&args);
            let refused = ["is invalid", "is exported", "read-only: "]
                .iter()
                .any(|it| ran.stderr.contains(it));
            // A check says so on stdout.
            let refused = refused || sample.name == "full" && ran.status == 1;
            let export = args.iter().any(|arg| arg == "export");
            // An invalid store is a finding of a check.
            let found = ran.status == 1 && args.iter().any(|arg| arg == "check");
            assert!(
                ran.status == 0 || refused || found,
                "{}: {args:?}: {}",
                sample.name,
                ran.stderr
            );
            if let Some(output) = args.last().filter(|_| export) {
                let _ = fs::remove_file(output);
            }
        }
        fs::set_permissions(&home, Permissions::from_mode(0o755)).expect("chmod");
        assert_eq!(hash().collect::<Vec<_>>(), before, "{}: a byte has changed", sample.name);
        assert_eq!(sample.dir.names(), names, "{}: a file was made next to it", sample.name);
    }
}

#[test]
fn a_merge_of_what_is_marked_read_only_is_refused() {
    for sample in samples().take(3) {
        for image in &sample.images {
            fs::set_permissions(image, Permissions::from_mode(0o444)).expect("chmod");
        }
        let (name, _) = sample.snapshots().swap_remove(0);
        let refused = sample.lvm("merge", &[&sample.volume(&name)]).failed();
        assert!(refused.contains("read-only: its mode is 0444"), "{refused}");
    }
}
