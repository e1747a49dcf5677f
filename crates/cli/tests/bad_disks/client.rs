use std::process::Command;
use std::time::{Duration, Instant};

use crate::controlled::ctl_json;
use crate::serving::{MIB, Place};

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    /// Bytes of this value, from here on, this many.
    Write(u8, u64, u64),
    /// Reads, whatever is there.
    Read(u64, u64),
    /// Reads, and finds this value in every byte.
    Find(u8, u64, u64),
    Flush,
}

use Ask::{Find, Flush, Read, Write};

/// Sends requests to an export, one after the other, by libnbd. Each is `ok`, or the errno that came back, or
/// `wrong` if something else is there.
pub(crate) fn asked(place: &Place, export: &str, requests: &[Ask]) -> Vec<String> {
    let mut script = "import nbd\ndef ask(request):\n  try: print(request())\n  \
                      except nbd.Error as error: print(error.errno)\n\
                      def done(_): return 'ok'\n"
        .to_owned();
    for request in requests {
        script += &match request {
            Write(byte, at, len) => {
                format!("ask(lambda: done(h.pwrite(bytes([{byte}]) * {len}, {at})))\n")
            }
            Read(at, len) => format!("ask(lambda: done(h.pread({len}, {at})))\n"),
            Find(byte, at, len) => {
                let same = format!("h.pread({len}, {at}) == bytes([{byte}]) * {len}");
                format!("ask(lambda: 'ok' if {same} else 'wrong')\n")
            }
            Flush => "ask(lambda: done(h.flush()))\n".into(),
        };
    }
    // The system's own Python has the module; another may come first on the path.
    let path = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
    let done = Command::new("timeout")
        .env("PATH", path)
        .args(["30", "nbdsh", "--uri", &place.uri(export), "--command", &script])
        .output()
        .expect("timeout (coreutils)");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "nbdsh (./check installs it): {}\n{out}{err}", done.status);
    out.lines().map(str::to_owned).collect()
}

/// Every request is done.
#[track_caller]
pub(crate) fn fine(place: &Place, export: &str, requests: &[Ask]) {
    let answers = asked(place, export, requests);
    assert!(answers.iter().all(|answer| answer == "ok"), "{export}: {requests:?}: {answers:?}");
}

/// Every request is refused with this errno.
#[track_caller]
pub(crate) fn refused(place: &Place, export: &str, errno: &str, requests: &[Ask]) {
    let answers = asked(place, export, requests);
    assert!(answers.iter().all(|answer| answer == errno), "{export}: {requests:?}: {answers:?}");
}

/// Far more than a request takes, far less than anybody waits for a disk here.
const SOON: Duration = Duration::from_secs(5);

#[track_caller]
fn soon(what: &str, act: impl FnOnce()) {
    let began = Instant::now();
    act();
    assert!(began.elapsed() < SOON, "{what} took {:?}", began.elapsed());
}

/// Everyone who has nothing to do with snapshot `a`.
pub(crate) fn others_go_on(place: &Place, value: u8) {
    soon("the control socket", || {
        ctl_json(place, &["status"]);
    });
    soon("another snapshot", || {
        fine(place, "b", &[Write(value, MIB, 8192), Flush, Find(value, MIB, 8192)]);
    });
    soon("reads of the origin", || fine(place, "origin", &[Read(0, MIB)]));
}
