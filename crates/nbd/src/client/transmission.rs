use super::ClientError;
use super::event::{Event, RequestId};
use super::export_info::ExportInfo;
use super::input::Input;
use super::reading::{Reading, Step};
use super::slots::{Pending, Slots};
use crate::codes::{Errno, transmission};
use crate::request::{Command, Facts, REQUEST_LEN};

/// The client's side of transmission.
#[derive(Debug)]
pub struct Transmission {
    pub(super) info: ExportInfo,
    pub(super) facts: Facts,
    pub(super) input: Input,
    pub(super) slots: Slots,
    pub(super) reading: Reading,
}

impl Transmission {
    pub(super) fn new(info: ExportInfo, input: Input) -> Self {
        let facts = Facts {
            size_bytes: info.size_bytes,
            read_only: info.flags & transmission::READ_ONLY != 0,
            structured: info.structured,
            has_contexts: !info.contexts.is_empty(),
        };
        Self { info, facts, input, slots: Slots::default(), reading: Reading::Header }
    }

    /// What the handshake has come to.
    pub fn info(&self) -> &ExportInfo {
        &self.info
    }

    /// How many requests have not ended.
    pub fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    /// Where to receive what the server sends; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        self.input.space()
    }

    /// `len` bytes were received into [`space`](Self::space).
    pub fn received(&mut self, len: usize) {
        self.input.received(len);
    }

    /// Takes a copy of what was received elsewhere.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.put(bytes);
    }

    /// Begins a request: its header is to be sent, and then the payload of a write. Nothing else may be
    /// sent in between.
    ///
    /// # Errors
    ///
    /// [`ClientError::Impossible`] for what the server would refuse; the connection is as good as
    /// before.
    pub fn begin(&mut self, it: Command) -> Result<(RequestId, [u8; REQUEST_LEN]), ClientError> {
        let impossible = |(errno, why)| ClientError::Impossible { errno, why };
        if let Some(lacking) = self.lacking(it) {
            return Err(impossible((Errno::NotSup, lacking)));
        }
        let plan = it.request(0);
        plan.understand(self.facts).map_err(impossible)?;
        let (command, offset, len) = (plan.command, plan.offset, plan.len);
        let pending = Pending { command, offset, len, answered: 0, failure: None };
        let id = self.slots.begin(pending);
        let id = id.ok_or(impossible((Errno::NoMem, "too many requests")))?;
        Ok((id, it.request(id.cookie()).encode()))
    }

    /// The last message: the server ends what was asked, and hangs up. There is no reply to it.
    pub fn disconnect() -> [u8; REQUEST_LEN] {
        Command::Disconnect.request(0).encode()
    }

    /// What the server would have to have for this.
    fn lacking(&self, it: Command) -> Option<&'static str> {
        use transmission::{
            SEND_CACHE, SEND_FAST_ZERO, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES,
        };
        let has = |flag| self.info.flags & flag != 0;
        let most = self.info.block_size.map_or(u32::MAX, |it| it.maximum);
        let (fua, lacking) = match it {
            Command::Read { len, .. } => (false, (len > most).then_some("so long a payload")),
            Command::Write { len, fua, .. } => (fua, (len > most).then_some("so long a payload")),
            Command::Flush => (false, (!has(SEND_FLUSH)).then_some("flush")),
            Command::Trim { fua, .. } => (fua, (!has(SEND_TRIM)).then_some("trim")),
            Command::WriteZeroes { fua, fast, .. } => {
                let able = has(SEND_WRITE_ZEROES) && (!fast || has(SEND_FAST_ZERO));
                (fua, (!able).then_some("write-zeroes of that kind"))
            }
            Command::Cache { .. } => (false, (!has(SEND_CACHE)).then_some("cache")),
            Command::BlockStatus { .. } => (false, None),
            Command::Disconnect => (false, Some("a reply to a disconnection")),
        };
        lacking.or((fua && !has(SEND_FUA)).then_some("single requests made durable"))
    }

    /// The next event; `None` if more has to be received before.
    ///
    /// # Errors
    ///
    /// Every error ends the connection: it is not known which requests are done.
    #[allow(clippy::should_implement_trait, reason = "an event borrows what was received")]
    pub fn next(&mut self) -> Result<Option<Event<'_>>, ClientError> {
        loop {
            return Ok(match self.step()? {
                Step::On => continue,
                Step::Starved => None,
                Step::Told(event) => Some(event),
                Step::Data { id, at, bytes } => {
                    Some(Event::Data { id, at, bytes: self.input.taken(bytes) })
                }
            });
        }
    }
}
