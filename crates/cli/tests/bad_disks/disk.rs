use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::serving::Place;

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fails {
    Reads,
    Writes,
    Flushes,
    /// Writes and flushes do not end.
    Hangs,
}

const ALL: [Fails; 4] = [Fails::Reads, Fails::Writes, Fails::Flushes, Fails::Hangs];

/// A file of a place, as a disk that fails when it is told to.
pub(crate) struct BadDisk {
    image: PathBuf,
    mount: PathBuf,
    nbdkit: Child,
    fuse: Child,
}

impl BadDisk {
    /// Reads and writes can fail. Errors are injected by nbdkit's own filter.
    pub(crate) fn over(place: &Place, name: &str) -> Self {
        let image = place.path(name);
        let mut args =
            vec!["--filter=error".to_owned(), "file".into(), image.display().to_string()];
        for (requests, fails) in [
            ("pread", Fails::Reads),
            ("pwrite", Fails::Writes),
            ("zero", Fails::Writes),
            ("trim", Fails::Writes),
        ] {
            let trigger = trigger(&image, fails);
            args.push(format!("error-{requests}-rate=100%"));
            args.push(format!("error-{requests}-file={}", trigger.display()));
        }
        Self::behind(place, name, &args)
    }

    /// Flushes can fail, writes and flushes can hang; everything takes its time.
    pub(crate) fn by_hand(place: &Place, name: &str) -> Self {
        let image = place.path(name);
        let file = image.display();
        let [fails, hangs] = [Fails::Flushes, Fails::Hangs].map(|it| trigger(&image, it));
        let hang = format!("while [ -e {} ]; do sleep 0.1; done", hangs.display());
        let args = [
            "eval".to_owned(),
            format!("get_size=stat -c %s {file}"),
            format!("pread=dd if={file} skip=$4 count=$3 iflag=count_bytes,skip_bytes status=none"),
            format!(
                "pwrite={hang}; dd of={file} seek=$4 conv=notrunc oflag=seek_bytes status=none"
            ),
            format!(
                "flush={hang}; if [ -e {} ]; then echo EIO injected >&2; exit 1; fi",
                fails.display()
            ),
            "can_write=exit 0".into(),
            "can_flush=exit 0".into(),
        ];
        Self::behind(place, name, &args)
    }

    /// Every write takes this long.
    pub(crate) fn slow(place: &Place, name: &str, seconds: u32) -> Self {
        let file = place.path(name).display().to_string();
        let args = ["--filter=delay", "file", &file, &format!("wdelay={seconds}")];
        Self::behind(place, name, &args.map(str::to_owned))
    }

    fn behind(place: &Place, name: &str, args: &[String]) -> Self {
        let (socket, mount) =
            (place.path(&format!("{name}.nbd")), place.path(&format!("{name}.d")));
        fs::create_dir(&mount).expect("a directory");
        let nbdkit = Command::new("nbdkit")
            .args(["--foreground", "--unix"])
            .arg(&socket)
            .args(args)
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdkit can be run: ./check installs it");
        until("nbdkit listens", || socket.exists());
        let fuse = Command::new("nbdfuse")
            .arg(mount.join("disk"))
            .arg(format!("nbd+unix:///?socket={}", socket.display()))
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdfuse can be run: ./check installs it");
        let disk = Self { image: place.path(name), mount, nbdkit, fuse };
        until("nbdfuse shows a file", || disk.path().exists());
        disk
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.mount.join("disk")
    }

    pub(crate) fn text(&self) -> String {
        self.path().display().to_string()
    }

    pub(crate) fn breaks(&self, fails: Fails) {
        fs::write(trigger(&self.image, fails), "").expect("written");
    }

    /// The same until the result is dropped, also by a test that fails: clients that wait end then.
    pub(crate) fn breaks_for_now(&self, fails: Fails) -> Broken<'_> {
        self.breaks(fails);
        Broken(self)
    }

    pub(crate) fn heals(&self) {
        for fails in ALL {
            let _ = fs::remove_file(trigger(&self.image, fails));
        }
    }

    /// There is nothing behind it any more.
    pub(crate) fn goes_away(&mut self) {
        self.nbdkit.kill().expect("killed");
        self.nbdkit.wait().expect("ended");
    }
}

/// A disk that fails.
pub(crate) struct Broken<'a>(&'a BadDisk);

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        self.0.heals();
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        self.heals();
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount).output();
        for child in [&mut self.fuse, &mut self.nbdkit] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// While this file is there, requests of that kind fail.
fn trigger(image: &std::path::Path, fails: Fails) -> PathBuf {
    image.with_extension(format!("{fails:?}").to_lowercase())
}

/// Waits for something that takes a moment.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(20));
    }
    panic!("not within 20 seconds: {what}");
}
