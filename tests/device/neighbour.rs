use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// A program of somebody else that has a file open, killed when dropped.
pub(crate) struct Neighbour(pub(crate) Child);

impl Neighbour {
    /// QEMU's own program as a server of `image`, which it has open from now on.
    pub(crate) fn qemu_nbd(socket: &Path, image: &Path, options: &[&str]) -> Self {
        let mut command = Command::new("qemu-nbd");
        command.args(["--persistent", "--format=raw", "--socket"]).arg(socket);
        command.args(options).arg(image);
        Self::listening(command, socket)
    }

    /// Runs an NBD server, and returns when it greets: QEMU's listens before it has opened the image.
    pub(crate) fn listening(mut command: Command, socket: &Path) -> Self {
        let _ = fs::remove_file(socket);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(command.spawn().expect("it can be run: ./check installs it"));
        for _ in 0..200 {
            let greeted = UnixStream::connect(socket).and_then(|mut it| it.read_exact(&mut [0; 8]));
            if greeted.is_ok() {
                return server;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("{command:?} does not listen");
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
