use std::collections::BTreeMap;

use bytes::Bytes;

/// What a disk holds: bytes that survive a power cut, and writes that may or may not.
#[derive(Clone, Debug)]
pub(crate) struct Medium {
    durable: Vec<u8>,
    volatile: Vec<Write>,
    /// A length that a power cut may take back, if the disk has grown.
    grown_to: Option<usize>,
    block_bytes: usize,
}

#[derive(Clone, Debug)]
struct Write {
    id: u64,
    at: usize,
    data: Bytes,
}

/// A block with volatile writes, and what it may hold after a power cut besides what is durable,
/// oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// First byte.
    pub(crate) at: usize,
    /// Its later contents.
    pub(crate) versions: Vec<Box<[u8]>>,
}

impl Medium {
    /// Of this durable content. Writes are torn between blocks of `block_bytes`.
    pub(crate) fn new(durable: Vec<u8>, block_bytes: usize) -> Self {
        Self { durable, volatile: Vec::new(), grown_to: None, block_bytes }
    }

    /// A write has reached the disk's cache.
    pub(crate) fn write(&mut self, id: u64, at: usize, data: Bytes) {
        self.volatile.push(Write { id, at, data });
    }

    /// A flush has made everything durable but the writes `open`, which had not completed when it
    /// was asked for.
    pub(crate) fn flush(&mut self, open: &[u64]) {
        if let Some(len) = self.grown_to.take() {
            self.durable.resize(len, 0);
        }
        for write in std::mem::take(&mut self.volatile) {
            if open.contains(&write.id) {
                self.volatile.push(write);
            } else {
                let end = write.at + write.data.len();
                self.durable[write.at..end].copy_from_slice(&write.data);
            }
        }
    }

    /// The volatile writes are lost, growth is not.
    pub(crate) fn lose(&mut self) {
        if let Some(len) = self.grown_to.take() {
            self.durable.resize(len, 0);
        }
        self.volatile.clear();
    }

    /// The disk has become longer. That is durable at once, or with the next flush.
    pub(crate) fn grow(&mut self, len: usize, durable: bool) {
        match durable {
            true => self.durable.resize(len, 0),
            false => self.grown_to = Some(len),
        }
    }

    /// What reads see.
    pub(crate) fn seen(&self) -> Vec<u8> {
        let mut seen = self.durable.clone();
        seen.resize(self.len(), 0);
        for write in &self.volatile {
            seen[write.at..write.at + write.data.len()].copy_from_slice(&write.data);
        }
        seen
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.grown_to.unwrap_or(self.durable.len())
    }

    /// Writes that are not durable, by their numbers.
    pub(crate) fn volatile(&self) -> impl Iterator<Item = u64> {
        self.volatile.iter().map(|write| write.id)
    }

    /// True if a power cut may take growth back.
    pub(crate) fn may_shrink(&self) -> bool {
        self.grown_to.is_some()
    }

    /// The blocks that may hold something else than what is durable.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let size = self.block_bytes;
        let mut blocks: BTreeMap<usize, Vec<Box<[u8]>>> = BTreeMap::new();
        for write in &self.volatile {
            let end = write.at + write.data.len();
            let mut at = write.at;
            while at < end {
                let block = at - at % size;
                let stop = end.min(block + size);
                let versions = blocks.entry(block).or_default();
                let mut content = versions.last().cloned().unwrap_or_else(|| {
                    let mut old = vec![0; size.min(self.len() - block)];
                    let kept = self.durable.get(block..).unwrap_or_default();
                    let len = kept.len().min(old.len());
                    old[..len].copy_from_slice(&kept[..len]);
                    old.into()
                });
                content[at - block..stop - block]
                    .copy_from_slice(&write.data[at - write.at..stop - write.at]);
                versions.push(content);
                at = stop;
            }
        }
        blocks.into_iter().map(|(at, versions)| Block { at, versions }).collect()
    }

    /// The content after a power cut that left, of each of these blocks, the version with this
    /// number; 0 is what is durable. Growth survives with `grown`.
    pub(crate) fn survivor<'a>(
        &self,
        chosen: impl Iterator<Item = (&'a Block, usize)>,
        grown: bool,
    ) -> Vec<u8> {
        let mut content = self.durable.clone();
        if grown {
            content.resize(self.len(), 0);
        }
        for (block, version) in chosen {
            if let Some(data) = version.checked_sub(1).and_then(|n| block.versions.get(n)) {
                // Without its growth a disk has no room for what lies past that.
                let end = content.len().min(block.at + data.len());
                if block.at < end {
                    content[block.at..end].copy_from_slice(&data[..end - block.at]);
                }
            }
        }
        content
    }
}
