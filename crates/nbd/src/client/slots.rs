use super::ClientError;
use super::event::{Failure, RequestId};
use crate::codes::command;

/// The requests in flight.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    pending: Option<Pending>,
}

/// What was asked, and how much of it was answered.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) command: u16,
    pub(super) offset: u64,
    pub(super) len: u32,
    /// Of what was read, or told about one context.
    pub(super) answered: u64,
    pub(super) failure: Option<Failure>,
}

impl Slots {
    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// `None` if there are as many as the protocol can tell apart.
    pub(super) fn begin(&mut self, pending: Pending) -> Option<RequestId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(Slot::default());
                slot
            }
        };
        let it = self.slots.get_mut(slot as usize)?;
        it.pending = Some(pending);
        Some(RequestId { slot, generation: it.generation })
    }

    pub(super) fn get(&mut self, id: RequestId) -> Result<&mut Pending, ClientError> {
        let slot = self.slots.get_mut(id.slot()).filter(|it| it.generation == id.generation);
        let pending = slot.and_then(|slot| slot.pending.as_mut());
        pending.ok_or(ClientError::NoRequest { cookie: id.cookie() })
    }

    /// The request has ended, and how: well only if all is there that was asked for.
    pub(super) fn end(&mut self, id: RequestId) -> Result<Result<(), Failure>, ClientError> {
        let no_request = ClientError::NoRequest { cookie: id.cookie() };
        let slot = self.slots.get_mut(id.slot()).ok_or(no_request.clone())?;
        let Pending { command, len, answered, failure, .. } =
            slot.pending.take().ok_or(no_request)?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot);
        if let Some(failure) = failure {
            return Ok(Err(failure));
        }
        let has_answer = matches!(command, command::READ | command::BLOCK_STATUS);
        match u64::from(len).saturating_sub(answered) {
            missing_bytes if has_answer && missing_bytes > 0 => {
                Err(ClientError::Missing { missing_bytes })
            }
            _ => Ok(Ok(())),
        }
    }
}
