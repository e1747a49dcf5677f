//! ext4 on what `dmsnap serve` serves: the kernel mounts an origin and its snapshot side by side,
//! and a merging device, by loop devices over nbdfuse. Needs root and FUSE.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

const DMSNAP: &str = env!("CARGO_BIN_EXE_dmsnap");

/// Files that are changed, removed and added in one go.
const CHANGES: usize = 120;

/// Rounds of changes during a merge, at most.
const ROUNDS: usize = 60;

#[test]
fn file_systems_on_origin_snapshot_and_merging_device_stay_sound() {
    if let Some(reason) = unusable() {
        // Past the test harness, which keeps what a passing test prints to itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED served_files: {reason}");
        return;
    }
    let place = Place::new();
    let mut origin = place.make_file_system();
    let mut snapshot = origin.clone();
    assert!(origin.bytes() > 20 << 20, "only {} bytes of files", origin.bytes());

    change_both(&place, &mut origin, &mut snapshot);
    merge_and_write(&place, &mut snapshot);

    // The bare image, without dmsnap.
    fsck(&place.path("origin"));
    let mounted = Mounted::image(&place, "origin");
    mounted.assert_holds(&snapshot, "the merged image");
}

/// Both file systems are mounted at once and take different changes.
fn change_both(place: &Place, origin: &mut Tree, snapshot: &mut Tree) {
    let serving = Serving::start(place, &[]);
    let on_origin = Mounted::export(place, "origin");
    let on_snapshot = Mounted::export(place, "s");
    for round in 0..3 {
        origin.change(&on_origin.dir, round * 2);
        snapshot.change(&on_snapshot.dir, round * 2 + 1);
        tool(Command::new("sync").arg("-f").args([&on_origin.dir, &on_snapshot.dir]));
    }
    let (device, snapshot_device) = (on_origin.unmount(), on_snapshot.unmount());
    fsck(&device.path);
    fsck(&snapshot_device.path);
    drop((device, snapshot_device));

    // Again, so that nothing comes from a page cache.
    Mounted::export(place, "origin").assert_holds(origin, "the origin");
    Mounted::export(place, "s").assert_holds(snapshot, "the snapshot");
    serving.stop();
}

/// Files are written on the merging device until nothing is left to merge.
fn merge_and_write(place: &Place, tree: &mut Tree) {
    let before = place.exceptions();
    let merging = ["--merge", "s", "--rate", "4M", "--window", "1M"];
    let serving = Serving::start(place, &merging);
    let mounted = Mounted::export(place, "s");
    let mut left = Vec::new();
    for round in 0..ROUNDS {
        left.push(place.exceptions());
        if left.ends_with(&[0]) {
            break;
        }
        tree.change(&mounted.dir, 100 + round);
        tool(Command::new("sync").arg("-f").arg(&mounted.dir));
        sleep(Duration::from_millis(300));
    }
    assert!(left[0] > before / 2, "{} of {before} exceptions when writing began", left[0]);
    assert!(left.len() > 3, "writes during the merge: {left:?}");
    assert_eq!(left.last(), Some(&0), "the merge did not finish: {left:?}");
    let device = mounted.unmount();
    fsck(&device.path);
    drop(device);
    // The origin is the same device.
    Mounted::export(place, "origin").assert_holds(tree, "the merging device");
    assert_eq!(serving.stop(), "dmsnap: s: merged\n");
}

/// Why this machine cannot run the test.
fn unusable() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    let missing = |path| !Path::new(path).exists();
    match (missing("/dev/fuse"), missing("/dev/loop-control")) {
        (true, _) => Some("no /dev/fuse"),
        (_, true) => Some("no loop devices here"),
        _ => None,
    }
}

/// Files by name, with what they should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tree {
    files: BTreeMap<PathBuf, (u64, [u8; 32])>,
}

impl Tree {
    /// What lies below `root`.
    fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        let mut dirs = vec![root.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    let name = path.strip_prefix(root).expect("below").to_owned();
                    tree.put(name, &fs::read(&path).expect("readable"));
                }
            }
        }
        tree
    }

    fn put(&mut self, name: PathBuf, content: &[u8]) {
        self.files.insert(name, (content.len() as u64, Sha256::digest(content).into()));
    }

    fn bytes(&self) -> u64 {
        self.files.values().map(|(len, _)| len).sum()
    }

    /// Overwrites, removes and adds files below `root` and here; other `salt`, other files.
    fn change(&mut self, root: &Path, salt: usize) {
        let names: Vec<PathBuf> = self.files.keys().cloned().collect();
        let step = names.len() / CHANGES;
        for (n, name) in names.iter().skip(salt % step).step_by(step).enumerate() {
            let content = format!("{salt} {n} ").into_bytes().repeat(1 + n * 97);
            match n % 3 {
                0 => {
                    fs::remove_file(root.join(name)).expect("removed");
                    self.files.remove(name);
                }
                1 => {
                    fs::write(root.join(name), &content).expect("overwritten");
                    self.put(name.clone(), &content);
                }
                _ => {
                    let name = name.with_extension(format!("new-{salt}-{n}"));
                    fs::write(root.join(&name), &content).expect("written");
                    self.put(name, &content);
                }
            }
        }
    }
}

/// The images: `origin`, and `cow` with a store.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().expect("a directory") };
        tool(Command::new(DMSNAP).args(["create", "--size", "96M"]).arg(place.path("cow")));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the origin an ext4 file system with the sources of dmsnap, several times.
    fn make_file_system(&self) -> Tree {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let image = fs::File::create(self.path("origin")).expect("an image");
        image.set_len(128 << 20).expect("sparse");
        tool(Command::new("mkfs.ext4").args(["-q", "-b", "4096"]).arg(self.path("origin")));
        let mounted = Mounted::image(self, "origin");
        let first = mounted.dir.join("copy-0");
        fs::create_dir(&first).expect("a directory");
        let parts = ["src", "crates", "tests", "docs"].map(|part| repository.join(part));
        tool(Command::new("cp").arg("-r").args(parts).arg(&first));
        for copy in 1..=(20 << 20) / Tree::read(&first).bytes() {
            let next = mounted.dir.join(format!("copy-{copy}"));
            tool(Command::new("cp").arg("-r").args([&first, &next]));
        }
        fs::remove_dir(mounted.dir.join("lost+found")).expect("there");
        let tree = Tree::read(&mounted.dir);
        drop(mounted.unmount());
        tree
    }

    /// How many exceptions the store holds, also while it is served.
    fn exceptions(&self) -> u64 {
        let told = tool(Command::new(DMSNAP).args(["info", "--json"]).arg(self.path("cow")));
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        told["exceptions"].as_u64().expect("a number")
    }
}

/// `dmsnap serve` of a place; its snapshot is the export `s`. Killed if the test fails meanwhile.
struct Serving(Child);

impl Serving {
    fn start(place: &Place, args: &[&str]) -> Self {
        let mut child = Command::new(DMSNAP)
            .arg("serve")
            .arg(place.path("origin"))
            .args(["--snapshot", &format!("s={}", place.path("cow").display())])
            .args(["--nbd", &format!("unix:{}", place.path("socket").display())])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut ready = String::new();
        let out = child.stdout.take().expect("piped");
        let serving = Self(child);
        BufReader::new(out).read_line(&mut ready).expect("a line");
        assert!(ready.starts_with("listening on "), "{ready}");
        serving
    }

    /// Ends it as an administrator would. Returns what it said on stderr.
    #[track_caller]
    fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        let mut said = String::new();
        let err = self.0.stderr.as_mut().expect("piped");
        err.read_to_string(&mut said).expect("text");
        let status = self.0.wait().expect("ended");
        assert!(status.success(), "{status}: {said}");
        said
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An export as a file.
struct Fuse {
    child: Child,
    dir: TempDir,
}

impl Fuse {
    fn over(place: &Place, export: &str) -> Self {
        let dir = TempDir::new_in(place.dir.path()).expect("a directory");
        let uri = format!("nbd+unix:///{export}?socket={}", place.path("socket").display());
        let child = Command::new("nbdfuse")
            .args([&dir.path().join("disk"), Path::new(&uri)])
            .spawn()
            .expect("nbdfuse can be run: ./check installs it");
        let mut fuse = Self { child, dir };
        for _ in 0..500 {
            if fuse.file().exists() {
                return fuse;
            }
            if let Some(status) = fuse.child.try_wait().expect("a child") {
                panic!("nbdfuse: {status}");
            }
            sleep(Duration::from_millis(20));
        }
        panic!("nbdfuse shows no file");
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("disk")
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        unmount(self.dir.path());
        // It has nothing left to do, and ends by itself.
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loop device, and what is below it.
struct Loop {
    path: PathBuf,
    _below: Option<Fuse>,
}

impl Loop {
    /// Others look for a free device at the same time: a loser asks again.
    fn over(file: &Path, below: Option<Fuse>) -> Self {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).arg(file);
        for _ in 0..50 {
            let done = losetup.output().expect("losetup can be run: ./check installs it");
            if done.status.success() {
                let path = String::from_utf8_lossy(&done.stdout).trim().into();
                return Self { path, _below: below };
            }
            sleep(Duration::from_millis(20));
        }
        panic!("{losetup:?} finds no device");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).output();
    }
}

/// A mounted ext4. Dropped from above to below.
struct Mounted {
    dir: PathBuf,
    device: Option<Loop>,
}

impl Mounted {
    fn image(place: &Place, name: &str) -> Self {
        Self::new(place, Loop::over(&place.path(name), None))
    }

    fn export(place: &Place, export: &str) -> Self {
        let fuse = Fuse::over(place, export);
        Self::new(place, Loop::over(&fuse.file(), Some(fuse)))
    }

    fn new(place: &Place, device: Loop) -> Self {
        let name = device.path.file_name().expect("a name");
        let dir = place.dir.path().join(format!("mounted-{}", name.display()));
        fs::create_dir_all(&dir).expect("a mount point");
        tool(Command::new("mount").args(["-t", "ext4"]).args([&device.path, &dir]));
        Self { dir, device: Some(device) }
    }

    #[track_caller]
    fn assert_holds(&self, tree: &Tree, told: &str) {
        let found = Tree::read(&self.dir).files;
        let differs = |name: &&PathBuf| found.get(*name) != tree.files.get(*name);
        let wrong: Vec<_> = found.keys().chain(tree.files.keys()).filter(differs).collect();
        assert!(wrong.is_empty(), "{told}: {} files differ: {:?}", wrong.len(), wrong.first());
    }

    /// Leaves the device without a file system in use.
    fn unmount(mut self) -> Loop {
        tool(Command::new("umount").arg(&self.dir));
        self.device.take().expect("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.device.is_some() {
            unmount(&self.dir);
        }
    }
}

/// Unmounts, when those that have it open for a moment are gone.
fn unmount(dir: &Path) {
    for _ in 0..100 {
        let done = Command::new("umount").arg(dir).output();
        if done.is_ok_and(|done| done.status.success()) {
            return;
        }
        sleep(Duration::from_millis(20));
    }
    let _ = Command::new("umount").arg("--lazy").arg(dir).output();
}

/// Asserts that an ext4 is clean.
#[track_caller]
fn fsck(device: &Path) {
    tool(Command::new("fsck.ext4").arg("-fn").arg(device));
}

/// Runs a program, which must be there and succeed.
#[track_caller]
fn tool(line: &mut Command) -> String {
    let done = line
        .output()
        .unwrap_or_else(|error| panic!("{line:?}: {error}: ./check installs what tests need"));
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line:?}: {}: {told}{error}", done.status);
    told
}
