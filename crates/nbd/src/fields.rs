use crate::codes::MAX_STRING_BYTES;
use crate::error::DecodeError;
use crate::refusal::Refusal;

/// Takes numbers and strings off the front of a message; `None` if it is too short.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The first word of a message, of 64 bits.
    pub(crate) fn magic(&mut self, expected: u64) -> Result<(), DecodeError> {
        let found = self.u64().ok_or(DecodeError::Malformed("magic"))?;
        if found == expected { Ok(()) } else { Err(DecodeError::Magic { expected, found }) }
    }

    /// The first word of a message, of 32 bits.
    pub(crate) fn magic32(&mut self, expected: u32) -> Result<(), DecodeError> {
        let found = self.u32().ok_or(DecodeError::Malformed("magic"))?.into();
        let expected = expected.into();
        if found == expected { Ok(()) } else { Err(DecodeError::Magic { expected, found }) }
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// A string after its length (32 bits).
    pub(crate) fn string(&mut self) -> Result<String, Refusal> {
        let len = usize::try_from(self.u32().ok_or(Refusal::Invalid)?).unwrap_or(usize::MAX);
        if len > MAX_STRING_BYTES {
            return Err(Refusal::TooBig);
        }
        let bytes = self.bytes(len).ok_or(Refusal::Invalid)?;
        text(bytes)
    }

    pub(crate) fn end(&self) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal::Invalid) }
    }
}

/// A string of the protocol: UTF-8 without NUL.
pub(crate) fn text(bytes: &[u8]) -> Result<String, Refusal> {
    if bytes.len() > MAX_STRING_BYTES {
        return Err(Refusal::TooBig);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(Refusal::Invalid),
    }
}

/// A text for people, whatever it holds.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Nothing here is ever as long as 4 GiB.
pub(crate) fn len_u32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
