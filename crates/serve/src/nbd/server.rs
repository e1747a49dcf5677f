use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use dmsnap::sync::{Event, Signal, join_all};
use futures_util::future::{Either, select};

use super::handshake::handshake;
use super::limits::Limits;
use super::listener::Listener;
use super::reader::Reader;
use super::relay::Relay;
use super::socket::Socket;
use super::tls::Tls;
use super::transmission::transmission;
use super::transport::Transport;
use crate::budget::Memory;
use crate::export::Exports;

/// How long to wait before accepting again after the system refused to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a set of exports to any number of clients.
pub struct Server {
    exports: Exports,
    limits: Limits,
    tls: Option<Tls>,
    on_refusal: OnRefusal,
    on_last_client: OnLastClient,
}

/// Whom to tell that the last client has gone.
pub type OnLastClient = Box<dyn Fn()>;

/// Whom to tell that the system would not let a client in, and why.
pub type OnRefusal = Box<dyn Fn(&io::Error)>;

impl Server {
    /// A server for `exports`.
    pub fn new(exports: Exports, limits: Limits) -> Self {
        let (on_refusal, on_last_client) = (Box::new(|_: &io::Error| {}), Box::new(|| {}));
        Self { exports, limits, tls: None, on_refusal, on_last_client }
    }

    /// Encrypts, for clients that ask for it or for all, as `tls` says.
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Calls back each time a client cannot be let in, because descriptors or memory have run out: about ten
    /// times a second, while it lasts.
    #[must_use]
    pub fn on_refusal(self, on_refusal: OnRefusal) -> Self {
        Self { on_refusal, ..self }
    }

    /// Calls back each time the last connection is closed, if one of them has had an export since the server was
    /// started. A connection that only asked what there is, or was refused, does not count.
    #[must_use]
    pub fn on_last_client(self, on_last_client: OnLastClient) -> Self {
        Self { on_last_client, ..self }
    }

    /// Accepts clients from all `listeners` and serves them until `shutdown` is ready. Then the
    /// listeners are closed, requests already read are finished and answered, every export is
    /// flushed, and the connections are closed.
    ///
    /// Must run inside the compio runtime of the devices. The future must not be dropped before its
    /// end: requests would go on without it.
    ///
    /// # Errors
    ///
    /// The system has no thread for encryption, before anything was accepted; or the first flush
    /// that failed, of those at the end.
    pub async fn run(
        self,
        listeners: Vec<Listener>,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let shared = Rc::new(Shared {
            exports: self.exports.clone(),
            limits: self.limits,
            relay: self.tls.map(Relay::start).transpose()?,
            memory: Memory::new(self.limits.memory),
            on_refusal: self.on_refusal,
            on_last_client: self.on_last_client,
            has_served: Cell::new(false),
            connections: Cell::new(0),
            newcomers: RefCell::default(),
            closed: Event::default(),
            stop: Signal::default(),
        });
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|listener| compio::runtime::spawn(accept(listener, shared.clone())))
            .collect();
        shutdown.await;
        shared.stop.raise();
        for task in accepting {
            let _ = task.await;
        }
        shared.closed.wait_until(|| shared.connections.get() == 0).await;
        // A device that hangs keeps no other from being flushed.
        let flushes =
            self.exports.all().into_iter().map(|slot| async move { slot.flush_if_dirty().await });
        join_all(flushes).await.into_iter().collect()
    }
}

/// What the tasks of a server share.
struct Shared {
    exports: Exports,
    limits: Limits,
    relay: Option<Relay>,
    memory: Rc<Memory>,
    on_refusal: OnRefusal,
    on_last_client: OnLastClient,
    /// A client has had an export.
    has_served: Cell<bool>,
    connections: Cell<usize>,
    /// Connections without an export, oldest first; raising the signal ends one.
    newcomers: RefCell<VecDeque<Rc<Signal>>>,
    closed: Event,
    stop: Signal,
}

/// One connection; counted as long as it lives.
struct Connection {
    shared: Rc<Shared>,
    /// Another client takes the place.
    ousted: Rc<Signal>,
}

impl Connection {
    /// `None` if there are enough.
    fn new(shared: &Rc<Shared>) -> Option<Self> {
        let mut newcomers = shared.newcomers.borrow_mut();
        if shared.connections.get() >= shared.limits.connections {
            newcomers.pop_front()?.raise();
        }
        shared.connections.set(shared.connections.get() + 1);
        let ousted = Rc::new(Signal::default());
        newcomers.push_back(ousted.clone());
        Some(Self { shared: shared.clone(), ousted })
    }

    /// Has an export now, or ends.
    fn is_no_newcomer(&self) {
        let mut newcomers = self.shared.newcomers.borrow_mut();
        newcomers.retain(|newcomer| !Rc::ptr_eq(newcomer, &self.ousted));
    }

    async fn serve(&self, socket: Socket) {
        let Shared { exports, limits, relay, memory, stop, .. } = &*self.shared;
        let transport = Rc::new(Transport::new(socket));
        let mut reader = Reader::new(transport.clone());
        let agreed = {
            let agreeing = handshake(&mut reader, exports, relay.as_ref());
            let agreeing = compio::time::timeout(limits.handshake, agreeing);
            let (stopped, ousted) = (pin!(stop.wait()), pin!(self.ousted.wait()));
            match select(pin!(agreeing), select(stopped, ousted)).await {
                Either::Left((Ok(Ok(agreed)), _)) => agreed,
                _ => return,
            }
        };
        self.is_no_newcomer();
        if let Some(agreed) = agreed {
            self.shared.has_served.set(true);
            transmission(reader, agreed, (*limits, memory), stop.wait()).await;
        }
        // A client that is gone, or does not listen, hears no good-bye.
        let _ = compio::time::timeout(limits.grace, transport.close()).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.is_no_newcomer();
        self.shared.connections.set(self.shared.connections.get() - 1);
        self.shared.closed.notify();
        if self.shared.connections.get() == 0 && self.shared.has_served.get() {
            (self.shared.on_last_client)();
        }
    }
}

async fn accept(listener: Listener, shared: Rc<Shared>) {
    while !shared.stop.is_raised() {
        let accepted = {
            let (accept, stop) = (listener.accept(), shared.stop.wait());
            match select(pin!(accept), pin!(stop)).await {
                Either::Left((accepted, _)) => accepted,
                Either::Right(_) => return,
            }
        };
        match accepted {
            Ok(socket) => {
                if let Some(connection) = Connection::new(&shared) {
                    let serving = async move { connection.serve(socket).await };
                    compio::runtime::spawn(serving).detach();
                }
            }
            // Out of descriptors or memory, or the client gave up: others may fare better.
            Err(error) => {
                (shared.on_refusal)(&error);
                compio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
