mod event; // what it has to tell
mod error; // why it has not ended well
mod memory; // one bound, shared out
mod options; // how it behaves
mod ticks; // a clock
mod losses; // snapshots that were dropped
mod origin_watch; // an origin that others have as well
mod unanswered; // the end, where devices hang

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use dmsnap::device::{Buffer, Device};
use dmsnap::sync::Signal;
use dmsnap::volume::{Snapshot, Volume, VolumeError};
use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{Either, select};

use crate::control::{Code, Control, Controller, NewSnapshot, Refusal, ServerFacts, StoreOpener};
use crate::export::{Exports, VolumeExport};
use crate::idle_publisher::IdlePublisher;
use crate::merges::{MergePhase, Merger};
use crate::nbd::{Limits, Listener, Server, Tls};

pub use error::ServiceError;
pub use event::ServiceEvent;
pub use memory::MIN_MEMORY_BYTES;
pub use options::ServiceOptions;

use event::Teller;
use losses::Losses;
use origin_watch::OriginWatch;
use ticks::Ticks;
use unanswered::give_up;

/// How often a volume's time passes.
const TICK: Duration = Duration::from_secs(1);

/// Serves a volume: its origin and its snapshots over NBD, its control socket, its merges, and all that
/// a volume wants done in the background, from the first client to the last flush.
///
/// ```no_run
/// # use std::path::Path;
/// # use std::rc::Rc;
/// # use dmsnap::device::{Caching, File, Mode};
/// # use dmsnap_serve::nbd::Listener;
/// # use dmsnap_serve::{Service, ServiceOptions, SnapshotOptions, Volume};
/// # async fn serve(stop: impl Future<Output = ()>) -> Result<(), Box<dyn std::error::Error>> {
/// let origin = File::open(Path::new("disk.img"), Mode::Write, Caching::Buffered).await?;
/// let cow = File::open(Path::new("snapshot.cow"), Mode::Write, Caching::Buffered).await?;
/// let volume = Rc::new(Volume::new(origin)?);
/// volume.open("snapshot", cow, SnapshotOptions::default()).await?;
/// let listener = Listener::unix(Path::new("nbd.sock")).await?;
/// Service::new(volume, ServiceOptions::default()).nbd(listener).run(stop).await?;
/// # Ok(())
/// # }
/// ```
pub struct Service<O, C, P = NoOpener> {
    volume: Rc<Volume<O, C>>,
    exports: Exports,
    merger: Rc<Merger<O, C>>,
    controller: Rc<Controller<O, C, P>>,
    options: ServiceOptions,
    listeners: Vec<Listener>,
    tls: Option<Tls>,
    control: Option<Control>,
    tell: Teller,
    origin_watch: OriginWatch,
    last_client_gone: Rc<Signal>,
}

impl<O: Device + 'static, C: Device + 'static> Service<O, C> {
    /// Serves a volume with all the snapshots that it has now. None is added over the control socket: see
    /// [`with_opener`](Self::with_opener).
    pub fn new(volume: Rc<Volume<O, C>>, options: ServiceOptions) -> Self {
        Self::with_opener(volume, options, NoOpener, |_| {})
    }
}

impl<O: Device + 'static, C: Device + 'static, P: StoreOpener<O, C>> Service<O, C, P> {
    /// The same, where `opener` opens what clients of the control socket name; and `tell` hears what there is
    /// to tell.
    pub fn with_opener(
        volume: Rc<Volume<O, C>>,
        options: ServiceOptions,
        opener: P,
        tell: impl Fn(ServiceEvent<'_>) + 'static,
    ) -> Self {
        let tell: Teller = Rc::new(tell);
        let memory = options.memory();
        Buffer::keep_at_most(usize::try_from(memory.kept).unwrap_or(usize::MAX));
        volume.limit_copying(memory.copying);
        volume.allow_backlog(memory.write_back);
        let exports = exports(&volume, &options);
        let tell_end = tell.clone();
        let on_end = Box::new(move |snapshot: &str, end: crate::MergeEnd<'_>| {
            tell_end(ServiceEvent::MergeEnded { snapshot, end });
        });
        let merger = Merger::new(volume.clone(), options.window_bytes, on_end);
        merger.limit_window(memory.window);
        merger.set_rate(options.rate_bytes_per_second);
        let facts = ServerFacts {
            version: options.version.clone(),
            origin: options.origin.clone(),
            read_only: options.read_only,
        };
        let controller =
            Controller::new(volume.clone(), exports.clone(), merger.clone(), opener, facts);
        let (listeners, tls, control) = (Vec::new(), None, None);
        let origin_watch = OriginWatch::default();
        Self {
            volume,
            exports,
            merger,
            controller,
            options,
            listeners,
            tls,
            control,
            tell,
            origin_watch,
            last_client_gone: Rc::default(),
        }
    }

    /// Takes NBD clients from here, too.
    #[must_use]
    pub fn nbd(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Encrypts NBD connections.
    #[must_use]
    pub fn tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Takes calls from a control socket.
    #[must_use]
    pub fn control(self, control: Option<Control>) -> Self {
        Self { control, ..self }
    }

    /// What clients of the control socket are answered: how everything is, and where snapshots come from.
    pub fn controller(&self) -> &Rc<Controller<O, C, P>> {
        &self.controller
    }

    /// What is served. Exports of other devices can be added.
    pub fn exports(&self) -> &Exports {
        &self.exports
    }

    /// Merges a snapshot of the volume alongside the clients: from now on it and the origin are one device.
    /// A service that is read-only shows them so, and moves nothing.
    ///
    /// # Errors
    ///
    /// As [`Merger::start`].
    pub async fn start_merge(&self, snapshot: &Rc<Snapshot<C>>) -> Result<(), VolumeError> {
        match self.options.read_only {
            true => self.volume.start_merge(snapshot).await,
            false => self.merger.start(snapshot).await,
        }
    }

    /// A merge that was started moves nothing until a client of the control socket resumes it.
    pub fn pause_merge(&self) {
        self.merger.pause();
    }

    /// Serves until `stop` is ready, a client of the control socket asks for the end, or the last client has gone, if
    /// that is the end.
    ///
    /// Once a second the volume's time passes: writes that wait for room look for it, what nobody flushes is
    /// published, marks of dropped snapshots are tried again. Origin writes that wait in memory are written
    /// back as a task of their own.
    ///
    /// Must run inside the compio runtime of the devices. The future must not be dropped before its end:
    /// requests would go on without it.
    ///
    /// # Ordering
    ///
    /// 1. no client is taken any more, no call of the control socket, and nobody waits for room
    /// 2. requests that were read are done and answered; calls that were begun end; a merge stops after the
    ///    window under way; what waits in memory is written back. Meanwhile the clock goes on.
    /// 3. everything is published and flushed, and dropped snapshots are marked
    ///
    /// If devices hang in 2 or 3, the others are flushed after 15 seconds, and 30 seconds later it ends all
    /// the same.
    ///
    /// # Errors
    ///
    /// As [`ServiceError`]. All devices that answer are flushed first.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), ServiceError> {
        let ticks = Ticks::every(TICK).map_err(ServiceError::Timer)?;
        let (server, control) = (self.server(), self.control.take());
        let listeners = std::mem::take(&mut self.listeners);
        let this = &self;
        let stopping = async {
            let (asked, alone) = (this.controller.shutdown_asked(), this.last_client_gone.wait());
            let _ = select(pin!(stop), select(pin!(asked), pin!(alone))).await;
        };
        let stopping = stopping.shared();
        let mut losses = Losses::default();
        let (ended, end) = oneshot::channel();
        let work = async {
            let (served, (), (), (), ()) = futures_util::join!(
                server.run(listeners, this.stop_clients(stopping.clone())),
                this.take_calls(control, stopping.clone()),
                this.stop_merge(stopping.clone()),
                this.volume.run_write_back(stopping.clone()),
                this.watch_origin(stopping.clone()),
            );
            drop(ended);
            served
        };
        let to_the_end = async {
            let clock = this.keep(&ticks, end, &mut losses);
            let (served, ()) = futures_util::join!(work, clock);
            this.tell_what_is_left();
            let flushed = this.volume.flush_all().await.map_err(io::Error::from);
            served.and(flushed).map_err(ServiceError::NotDurable)
        };
        let hanging = give_up(&this.volume, stopping.clone());
        let ended = match select(pin!(to_the_end), pin!(hanging)).await {
            Either::Left((ended, _)) => ended,
            Either::Right((error, _)) => Err(error),
        };
        // What was dropped in the last moment, or for what waited in memory.
        losses.tell(&this.volume, &*this.tell);
        ended
    }

    fn server(&mut self) -> Server {
        let tell = self.tell.clone();
        let whole = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let limits = Limits {
            connections: self.options.connections,
            bytes: whole(self.options.connection_bytes),
            memory: whole(self.options.memory().requests),
            ..Limits::default()
        };
        let server = Server::new(self.exports.clone(), limits)
            .on_refusal(Box::new(move |error| tell(ServiceEvent::ClientRefused(error))));
        let server = match self.options.ends_with_last_client {
            true => {
                let gone = self.last_client_gone.clone();
                server.on_last_client(Box::new(move || gone.raise()))
            }
            false => server,
        };
        match self.tls.take() {
            Some(tls) => server.with_tls(tls),
            None => server,
        }
    }

    /// Returns when clients are to be sent away.
    async fn stop_clients(&self, stopping: impl Future<Output = ()>) {
        stopping.await;
        (self.tell)(ServiceEvent::Stopping);
        self.volume.stop_waiting_for_room();
    }

    async fn take_calls(&self, control: Option<Control>, stopping: impl Future<Output = ()>) {
        if let Some(control) = control {
            control.serve(&self.controller, stopping).await;
        }
    }

    async fn stop_merge(&self, stopping: impl Future<Output = ()>) {
        stopping.await;
        self.merger.stop().await;
    }

    /// Looks at the origin now and then, as long as others may have it.
    async fn watch_origin(&self, stopping: impl Future<Output = ()>) {
        let watch = async {
            let Ok(ticks) = Ticks::every(TICK) else { return };
            loop {
                ticks.next().await;
                let change = self.origin_watch.look(&self.volume, &*self.tell).await;
                self.controller.set_origin_change(change);
            }
        };
        // It only looks: it may be dropped anywhere.
        let _ = select(pin!(watch), pin!(stopping)).await;
    }

    /// Lets time pass until `end`, for the volume and for those who watch it, and tells what was lost.
    async fn keep(
        &self,
        ticks: &Ticks,
        mut end: oneshot::Receiver<Infallible>,
        losses: &mut Losses,
    ) {
        let mut publisher = IdlePublisher::new(self.volume.clone());
        loop {
            publisher.tick();
            self.controller.tick();
            losses.tell(&self.volume, &*self.tell);
            self.origin_watch.tell(&self.volume, &*self.tell);
            if let Either::Right(_) = select(pin!(ticks.next()), &mut end).await {
                return;
            }
        }
    }

    fn tell_what_is_left(&self) {
        if let Some(merge) = self.merger.progress().filter(|it| it.state == MergePhase::Paused) {
            let (snapshot, exceptions) = (merge.snapshot.as_str(), merge.exceptions_left);
            (self.tell)(ServiceEvent::MergeLeft { snapshot, exceptions });
        }
    }
}

fn exports<O: Device + 'static, C: Device + 'static>(
    volume: &Rc<Volume<O, C>>,
    options: &ServiceOptions,
) -> Exports {
    let (exports, read_only) = (Exports::new(), options.read_only);
    // A name that is there already is another export's: that one is served.
    let _ = exports.add(VolumeExport::origin(volume, read_only));
    if let Some(alias) = &options.alias {
        let _ = exports.add(VolumeExport::origin(volume, read_only).named(alias));
    }
    let snapshots = volume.snapshots();
    for snapshot in &snapshots {
        let _ = exports.add(VolumeExport::snapshot(volume, snapshot, read_only));
    }
    let is_base = volume.origin_device().is_read_only() && !read_only;
    match (&options.default_export, snapshots.as_slice()) {
        (Some(name), _) => exports.set_default(name),
        (None, [only]) if is_base => exports.set_default(only.name()),
        _ => {}
    }
    exports
}

/// Opens nothing: no snapshot is added over the control socket.
#[derive(Clone, Copy, Debug)]
pub struct NoOpener;

impl<O: 'static, C: 'static> StoreOpener<O, C> for NoOpener {
    async fn open(&self, _: &Volume<O, C>, _: &NewSnapshot) -> Result<Rc<Snapshot<C>>, Refusal> {
        Err(Refusal::new(Code::Unsupported, "this server opens no COW devices"))
    }

    async fn may_merge(&self, _: &Volume<O, C>) -> Result<(), Refusal> {
        Ok(())
    }
}
