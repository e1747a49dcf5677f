/// A stretch of a mapped device, in stripes that go round its columns. One column is a linear
/// stretch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Length of the stretch, in bytes.
    pub len_bytes: u64,
    /// Length of a stripe, in bytes; means nothing with one column.
    pub stripe_bytes: u64,
    /// Where the stripes lie.
    pub columns: Vec<Column>,
}

/// Consecutive bytes of a device below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Which device, counted from 0.
    pub device: usize,
    /// The first byte on it.
    pub at: u64,
}

impl Segment {
    /// Consecutive bytes of one device.
    pub fn linear(device: usize, at: u64, len_bytes: u64) -> Self {
        Self { len_bytes, stripe_bytes: len_bytes, columns: vec![Column { device, at }] }
    }

    /// A linear stretch is one stripe.
    pub(super) fn stripe(&self) -> u64 {
        if self.columns.len() == 1 { self.len_bytes } else { self.stripe_bytes }
    }

    /// Column, and byte in it, of a byte of the segment.
    pub(super) fn locate(&self, byte: u64) -> (usize, u64) {
        let (stripe, count) = (self.stripe(), self.columns.len() as u64);
        let (number, within) = (byte / stripe, byte % stripe);
        (index(number % count), number / count * stripe + within)
    }

    /// The reverse of [`locate`](Self::locate).
    pub(super) fn byte(&self, column: usize, at: u64) -> u64 {
        let (stripe, count) = (self.stripe(), self.columns.len() as u64);
        (at / stripe * count + column as u64) * stripe + at % stripe
    }

    /// The first byte of a column that lies at or after `byte` of the segment.
    pub(super) fn first_at(&self, column: usize, byte: u64) -> u64 {
        let stripe = self.stripe();
        let (here, at) = self.locate(byte);
        match here.cmp(&column) {
            std::cmp::Ordering::Equal => at,
            // Its stripe of this round is still to come.
            std::cmp::Ordering::Less => at - at % stripe,
            std::cmp::Ordering::Greater => at - at % stripe + stripe,
        }
    }

    /// Bytes that a column has.
    pub(super) fn column_len(&self, column: usize) -> u64 {
        let (stripe, count) = (self.stripe(), self.columns.len() as u64);
        let whole = self.len_bytes / stripe;
        let rest = match (whole % count).cmp(&(column as u64)) {
            std::cmp::Ordering::Greater => stripe,
            std::cmp::Ordering::Equal => self.len_bytes % stripe,
            std::cmp::Ordering::Less => 0,
        };
        whole / count * stripe + rest
    }
}

/// Bytes that are known to fit into memory.
pub(super) fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
