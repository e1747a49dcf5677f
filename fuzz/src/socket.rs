use std::cell::LazyCell;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use compio::buf::BufResult;
use compio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use compio::net::UnixStream;
use compio::runtime::Runtime;
use futures_util::future::join;

/// A session that takes longer hangs. Servers themselves give a client five seconds, or ten.
const PATIENCE: Duration = Duration::from_secs(4);

thread_local! {
    static RUNTIME: LazyCell<Runtime> = LazyCell::new(|| Runtime::new().expect("a runtime"));
}

/// Drives a server and its clients to their end, on this thread's runtime.
pub(crate) fn in_time(serving: impl Future<Output = ()>) {
    RUNTIME.with(|runtime| {
        let ended = runtime.block_on(async { compio::time::timeout(PATIENCE, serving).await });
        ended.expect("the server answers in time");
    });
}

/// Says all of it, and hears all that is answered until the server hangs up.
pub(crate) async fn heard(stream: StdStream, said: &[u8]) -> Vec<u8> {
    stream.set_nonblocking(true).expect("a socket");
    let stream = UnixStream::from_std(stream).expect("a socket");
    let (mut mouth, mut ear) = (&stream, &stream);
    let saying = async {
        // The server may hang up before it has heard it all.
        let _ = mouth.write_all(said.to_vec()).await;
        let _ = mouth.shutdown().await;
    };
    let hearing = async {
        let (mut all, mut buffer) = (Vec::new(), Vec::with_capacity(64 << 10));
        loop {
            buffer.clear();
            let BufResult(read, filled) = ear.read(buffer).await;
            buffer = filled;
            match read {
                Ok(0) | Err(_) => return all,
                Ok(_) => all.extend_from_slice(&buffer),
            }
        }
    };
    join(saying, hearing).await.1
}
