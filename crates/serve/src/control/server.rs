use std::io;
use std::pin::pin;
use std::rc::Rc;

use dmsnap::device::Device;
use futures_channel::mpsc;
use futures_util::StreamExt;
use futures_util::future::{Either, select};

use super::call::QueuedCall;
use super::controller::Controller;
use super::http::HttpThread;
use super::opener::StoreOpener;
use crate::socket::OwnerSocket;

/// A control socket and the thread that serves it.
#[derive(Debug)]
pub struct Control {
    socket: OwnerSocket,
    http: HttpThread,
    asked: mpsc::Receiver<QueuedCall>,
}

impl Control {
    /// Starts the thread. Clients wait until they are [served](Self::serve).
    ///
    /// # Errors
    ///
    /// The system has no thread, or no ring, for it.
    pub fn start(socket: OwnerSocket) -> io::Result<Self> {
        let (http, asked) = HttpThread::start(socket.duplicate()?)?;
        Ok(Self { socket, http, asked })
    }

    /// Lets a controller do what clients ask for, until `stop` is ready. Then the socket's file is removed,
    /// calls that were begun are driven to their end, and clients have a few seconds to hear of it.
    pub async fn serve<O, C, P>(
        self,
        controller: &Rc<Controller<O, C, P>>,
        stop: impl Future<Output = ()>,
    ) where
        O: Device + 'static,
        C: Device + 'static,
        P: StoreOpener<O, C>,
    {
        let Self { socket, http, mut asked } = self;
        let mut stop = pin!(stop);
        while let Either::Left((Some(queued), _)) = select(asked.next(), stop.as_mut()).await {
            controller.begin(queued);
        }
        drop(socket);
        // A client that asks from now on is told that the server is ending.
        drop(asked);
        controller.end().await;
        http.stop().await;
    }
}
