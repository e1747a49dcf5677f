use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::pin::pin;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use compio::net::UnixListener;
use compio::runtime::{JoinHandle, Runtime};
use compio::time::sleep;
use futures_channel::{mpsc, oneshot};
use futures_util::future::{Either, select};

use super::call::QueuedCall;
use super::connection::{Connections, serve};

/// Clients at a time; others wait to be accepted.
const CONNECTIONS: usize = 64;

/// Between two attempts to accept a client.
const NAP: Duration = Duration::from_millis(100);

/// The thread that speaks HTTP.
#[derive(Debug)]
pub(super) struct HttpThread {
    /// Its being dropped is the message.
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl HttpThread {
    /// Starts the thread. What clients ask for comes out of the channel.
    ///
    /// # Errors
    ///
    /// The system has no thread, or no ring, for it.
    pub(super) fn start(listener: StdListener) -> io::Result<(Self, mpsc::Receiver<QueuedCall>)> {
        let (calls, asked) = mpsc::channel(CONNECTIONS);
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (started, ready) = std::sync::mpsc::sync_channel(1);
        thread::Builder::new().name("control".into()).spawn(move || {
            let begun = Runtime::new().and_then(|runtime| {
                let listener = runtime.enter(|| UnixListener::from_std(listener))?;
                Ok((runtime, listener))
            });
            match begun {
                Err(error) => drop(started.send(Err(error))),
                Ok((runtime, listener)) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(speak(listener, calls, stopped));
                }
            }
            let _ = end.send(());
        })?;
        ready.recv().unwrap_or_else(|ended| Err(io::Error::other(ended)))?;
        Ok((Self { stop, ended }, asked))
    }

    /// Lets clients have the answers that are under way, and ends the thread.
    pub(super) async fn stop(self) {
        drop(self.stop);
        let _ = self.ended.await;
    }
}

async fn speak(
    listener: UnixListener,
    calls: mpsc::Sender<QueuedCall>,
    mut stopped: oneshot::Receiver<()>,
) {
    let shared = Rc::new(Connections::default());
    let mut clients: Vec<JoinHandle<()>> = Vec::new();
    loop {
        clients.retain(|task| !task.is_finished());
        // Then nobody keeps a connection for a request that may never come.
        shared.crowded.set(clients.len() >= CONNECTIONS);
        let next = async {
            if clients.len() >= CONNECTIONS {
                sleep(NAP).await;
                return None;
            }
            match listener.accept().await {
                Ok((client, _)) => Some(client),
                Err(_) => {
                    // Out of descriptors or memory: later, perhaps.
                    sleep(NAP).await;
                    None
                }
            }
        };
        let accepted = match select(pin!(next), &mut stopped).await {
            Either::Left((accepted, _)) => accepted,
            Either::Right(_) => break,
        };
        if let Some(client) = accepted {
            clients.push(compio::runtime::spawn(serve(client, calls.clone(), shared.clone())));
        }
    }
    shared.stopping.set(true);
    drop(calls);
    for client in clients {
        let _ = client.await;
    }
}
