use std::io;
use std::ops::Range;

use crate::device::{Buffer, Device};

/// The first bytes of a device that are looked at, and the last ones. Nearly all superblocks lie there.
const HEAD_BYTES: u64 = (1 << 20) + (64 << 10);
const TAIL_BYTES: u64 = 2 << 20;

/// Superblocks that lie elsewhere: LUKS2's second header, VMFS, copies of bcachefs.
const ELSEWHERE: [u64; 2] = [2 << 20, 4 << 20];
const ELSEWHERE_BYTES: u64 = 4096;

/// The places of a device where magics are known, as they were read.
#[derive(Debug)]
pub struct Sample {
    len_bytes: u64,
    regions: Vec<(u64, Buffer)>,
}

impl Sample {
    /// The ranges to read of a device of this length.
    pub fn places(len_bytes: u64) -> Vec<Range<u64>> {
        let tail = len_bytes.saturating_sub(TAIL_BYTES);
        let elsewhere = ELSEWHERE.map(|at| at..at + ELSEWHERE_BYTES);
        let ranges = [0..HEAD_BYTES, tail..len_bytes].into_iter().chain(elsewhere);
        let cut = ranges.map(|it| it.start.min(len_bytes)..it.end.min(len_bytes));
        cut.filter(|it| it.start < it.end).collect()
    }

    /// Of the part `within` of a device, as if it were one.
    ///
    /// # Errors
    ///
    /// Any error of the device.
    pub async fn read<D: Device>(device: &D, within: Range<u64>) -> io::Result<Self> {
        let len_bytes = within.end.saturating_sub(within.start);
        let mut sample = Self { len_bytes, regions: Vec::new() };
        for range in Self::places(len_bytes) {
            sample.add(device, within.start, range).await?;
        }
        Ok(sample)
    }

    /// With only these ranges. Those that cannot be read are left out.
    pub(super) async fn of_ranges<D: Device>(
        device: &D,
        within: Range<u64>,
        ranges: impl IntoIterator<Item = Range<u64>>,
    ) -> Self {
        let len_bytes = within.end.saturating_sub(within.start);
        let mut sample = Self { len_bytes, regions: Vec::new() };
        for range in ranges {
            let range = range.start..range.end.min(len_bytes);
            if range.start < range.end {
                // What cannot be read is not known.
                let _ = sample.add(device, within.start, range).await;
            }
        }
        sample
    }

    async fn add<D: Device>(
        &mut self,
        device: &D,
        start: u64,
        range: Range<u64>,
    ) -> io::Result<()> {
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let bytes = device.read(start + range.start, len).await?;
        self.regions.push((range.start, bytes));
        Ok(())
    }

    /// The length of the device.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// `len` bytes from `at` on; `None` if the device ends before, or that place was not read.
    pub(super) fn get(&self, at: u64, len: usize) -> Option<&[u8]> {
        self.regions.iter().find_map(|(start, bytes)| {
            let from = usize::try_from(at.checked_sub(*start)?).ok()?;
            bytes.get(from..from.checked_add(len)?)
        })
    }

    pub(super) fn has(&self, at: u64, bytes: &[u8]) -> bool {
        self.get(at, bytes.len()) == Some(bytes)
    }

    fn array<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        self.get(at, N)?.try_into().ok()
    }

    pub(super) fn u8(&self, at: u64) -> Option<u8> {
        self.array::<1>(at).map(|[byte]| byte)
    }

    pub(super) fn le16(&self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(super) fn le32(&self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(super) fn le64(&self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub(super) fn be16(&self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    pub(super) fn be32(&self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }
}
