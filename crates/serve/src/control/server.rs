use std::io;
use std::pin::pin;
use std::rc::Rc;

use dmsnap::device::Device;
use futures_channel::mpsc;
use futures_util::StreamExt;
use futures_util::future::{Either, select};

use super::desk::{Desk, Errand, Opener};
use super::http::Speaker;
use crate::socket::Private;

/// A control socket and the thread that serves it.
#[derive(Debug)]
pub struct Control {
    socket: Private,
    speaker: Speaker,
    asked: mpsc::Receiver<Errand>,
}

impl Control {
    /// Starts the thread. Clients wait until somebody [serves](Self::serve) them.
    ///
    /// # Errors
    ///
    /// The system has no thread, or no ring, for it.
    pub fn start(socket: Private) -> io::Result<Self> {
        let (speaker, asked) = Speaker::start(socket.duplicate()?)?;
        Ok(Self { socket, speaker, asked })
    }

    /// Lets a desk do what clients ask for, until `stop` is ready. Then the socket's file is removed,
    /// calls that were begun are driven to their end, and clients have a few seconds to hear of it.
    pub async fn serve<O, C, P>(self, desk: &Rc<Desk<O, C, P>>, stop: impl Future<Output = ()>)
    where
        O: Device + 'static,
        C: Device + 'static,
        P: Opener<O, C>,
    {
        let Self { socket, speaker, mut asked } = self;
        let mut stop = pin!(stop);
        while let Either::Left((Some(errand), _)) = select(asked.next(), stop.as_mut()).await {
            desk.take(errand);
        }
        drop(socket);
        // Whoever asks from now on is told that it is too late.
        drop(asked);
        desk.done().await;
        speaker.stop().await;
    }
}
