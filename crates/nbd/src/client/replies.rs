use bytes::Bytes;

use super::ClientError;
use super::event::{Event, Failure, RequestId};
use super::reading::{Reading, Step};
use super::transmission::Transmission;
use crate::codes::{SIMPLE_REPLY_MAGIC, chunk_type, command};
use crate::context::Extent;
use crate::error::DecodeError;
use crate::reply::{
    CHUNK_HEADER_LEN, Chunk, ChunkHeader, EXTENT_LEN, SIMPLE_REPLY_LEN, SimpleReply, extents,
};

/// The longest chunk that is looked at as a whole, in bytes: an error with its text.
const MAX_WHOLE_BYTES: u32 = 16 << 10;

impl Transmission {
    pub(super) fn step(&mut self) -> Result<Step, ClientError> {
        match self.reading {
            Reading::Header => self.header(),
            Reading::Data { id, left: 0, last, .. }
            | Reading::Extents { id, left: 0, last, .. } => {
                self.after(id, last);
                Ok(Step::On)
            }
            Reading::Data { id, at, left, last } => {
                let bytes = self.input.take(index(left));
                let taken = u32::try_from(bytes.len()).unwrap_or(left);
                if taken == 0 {
                    return Ok(Step::Starved);
                }
                let next = at + u64::from(taken);
                self.reading = Reading::Data { id, at: next, left: left - taken, last };
                Ok(Step::Data { id, at, bytes })
            }
            Reading::Offset { id, left, last } => {
                let Some(at) = self.input.peek().map(u64::from_be_bytes) else {
                    return Ok(Step::Starved);
                };
                self.input.take(8);
                self.answer(id, at, left.into())?;
                self.reading = Reading::Data { id, at, left, last };
                Ok(Step::On)
            }
            Reading::Context { id, left, last } => self.context(id, left, last),
            Reading::Extents { id, context, at, left, last } => {
                let whole = index(left).min(self.input.bytes().len()) / EXTENT_LEN * EXTENT_LEN;
                if whole == 0 {
                    return Ok(Step::Starved);
                }
                let bytes = self.input.take(whole);
                let extents = extents(self.input.taken(bytes)).unwrap_or_default();
                let next = self.check_extents(id, at, &extents)?;
                let left = left - u32::try_from(whole).unwrap_or(left);
                self.reading = Reading::Extents { id, context, at: next, left, last };
                Ok(Step::Told(Event::Extents { id, context, at, extents }))
            }
            Reading::Whole { id, kind, len, last } => {
                if self.input.bytes().len() < len {
                    return Ok(Step::Starved);
                }
                let payload = self.input.take(len);
                let payload = Bytes::copy_from_slice(self.input.taken(payload));
                self.after(id, last);
                self.whole(id, Chunk::decode(kind, &payload)?)
            }
            Reading::End { id } => {
                self.reading = Reading::Header;
                let result = self.slots.end(id)?;
                Ok(Step::Told(Event::Done { id, result }))
            }
        }
    }

    /// After a chunk comes another one, of any request, or the end of this one.
    fn after(&mut self, id: RequestId, last: bool) {
        self.reading = if last { Reading::End { id } } else { Reading::Header };
    }

    fn header(&mut self) -> Result<Step, ClientError> {
        let Some(magic) = self.input.peek().map(u32::from_be_bytes) else {
            return Ok(Step::Starved);
        };
        if magic == SIMPLE_REPLY_MAGIC {
            let Some(bytes) = self.input.peek::<SIMPLE_REPLY_LEN>() else {
                return Ok(Step::Starved);
            };
            self.input.take(SIMPLE_REPLY_LEN);
            return self.simple(SimpleReply::decode(bytes)?);
        }
        if !self.facts.structured {
            let (expected, found) = (SIMPLE_REPLY_MAGIC.into(), magic.into());
            return Err(DecodeError::Magic { expected, found }.into());
        }
        let Some(bytes) = self.input.peek::<CHUNK_HEADER_LEN>() else { return Ok(Step::Starved) };
        self.input.take(CHUNK_HEADER_LEN);
        self.chunk(ChunkHeader::decode(bytes)?)
    }

    fn simple(&mut self, reply: SimpleReply) -> Result<Step, ClientError> {
        let id = RequestId::from_cookie(reply.cookie);
        let structured = self.facts.structured;
        let pending = self.slots.get(id)?;
        self.reading = match (reply.errno, pending.command) {
            (Some(errno), _) => {
                pending.failure.get_or_insert(Failure { errno, message: String::new() });
                Reading::End { id }
            }
            // These have something to tell, which needs chunks.
            (None, command @ command::READ) if structured => {
                return Err(ClientError::WrongReply { command });
            }
            (None, command @ command::BLOCK_STATUS) => {
                return Err(ClientError::WrongReply { command });
            }
            (None, command::READ) => {
                pending.answered = pending.len.into();
                Reading::Data { id, at: pending.offset, left: pending.len, last: true }
            }
            (None, _) => Reading::End { id },
        };
        Ok(Step::On)
    }

    fn chunk(&mut self, header: ChunkHeader) -> Result<Step, ClientError> {
        let ChunkHeader { last, kind, cookie, len_bytes } = header;
        let id = RequestId::from_cookie(cookie);
        let command = self.slots.get(id)?.command;
        let wrong = ClientError::WrongReply { command };
        self.reading = match (kind, command) {
            (chunk_type::OFFSET_DATA, command::READ) => {
                let left = len_bytes.checked_sub(8).filter(|left| *left > 0).ok_or(wrong)?;
                Reading::Offset { id, left, last }
            }
            (chunk_type::BLOCK_STATUS, command::BLOCK_STATUS) => {
                let left = len_bytes.checked_sub(4).ok_or(wrong.clone())?;
                if left == 0 || !index(left).is_multiple_of(EXTENT_LEN) {
                    return Err(wrong);
                }
                Reading::Context { id, left, last }
            }
            (chunk_type::NONE, _)
            | (chunk_type::OFFSET_HOLE, command::READ)
            | (chunk_type::FAILED.., _) => {
                if len_bytes > MAX_WHOLE_BYTES {
                    return Err(ClientError::TooLong { len_bytes });
                }
                Reading::Whole { id, kind, len: index(len_bytes), last }
            }
            _ => return Err(wrong),
        };
        Ok(Step::On)
    }

    fn context(&mut self, id: RequestId, left: u32, last: bool) -> Result<Step, ClientError> {
        let Some(context) = self.input.peek().map(u32::from_be_bytes) else {
            return Ok(Step::Starved);
        };
        self.input.take(4);
        if !self.info.contexts.iter().any(|(it, _)| *it == context) {
            return Err(ClientError::NoContext { id: context });
        }
        let at = self.slots.get(id)?.offset;
        self.reading = Reading::Extents { id, context, at, left, last };
        Ok(Step::On)
    }

    /// A chunk that is here as a whole.
    fn whole(&mut self, id: RequestId, chunk: Chunk) -> Result<Step, ClientError> {
        match chunk {
            Chunk::Hole { at, len_bytes } => {
                self.answer(id, at, len_bytes.into())?;
                return Ok(Step::Told(Event::Hole { id, at, len_bytes }));
            }
            Chunk::Error(errno, message) | Chunk::ErrorAt { errno, message, .. } => {
                self.slots.get(id)?.failure.get_or_insert(Failure { errno, message });
            }
            Chunk::None | Chunk::Data { .. } | Chunk::Status { .. } => {}
        }
        Ok(Step::On)
    }

    /// These bytes are answered, which must have been asked for.
    fn answer(&mut self, id: RequestId, at: u64, len_bytes: u64) -> Result<(), ClientError> {
        let pending = self.slots.get(id)?;
        let end = pending.offset + u64::from(pending.len);
        let inside = at >= pending.offset && at.checked_add(len_bytes).is_some_and(|it| it <= end);
        pending.answered += len_bytes;
        if inside && pending.answered <= pending.len.into() {
            Ok(())
        } else {
            Err(ClientError::OutOfRange { at, len_bytes })
        }
    }

    /// Where the extents that begin at `at` end. Each must begin inside the range.
    fn check_extents(
        &mut self,
        id: RequestId,
        at: u64,
        extents: &[Extent],
    ) -> Result<u64, ClientError> {
        let pending = self.slots.get(id)?;
        let end = pending.offset + u64::from(pending.len);
        let mut next = at;
        for extent in extents {
            let len_bytes = extent.len_bytes;
            if len_bytes == 0 || next >= end {
                return Err(ClientError::OutOfRange { at: next, len_bytes });
            }
            next += len_bytes;
        }
        // To say something about the beginning is enough: the caller asks again.
        pending.answered = pending.len.into();
        Ok(next)
    }
}

fn index(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
