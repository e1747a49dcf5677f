pub(crate) const SECTOR_BYTES: usize = 512;

/// For each sector of a device what it may hold after a kill, oldest first; the last is what it holds
/// now.
#[derive(Clone, Debug)]
pub(crate) struct Sectors(Vec<Vec<u64>>);

/// What each sector held at some moment, as a place in its list.
pub(crate) type Moment = Vec<u64>;

impl Sectors {
    /// Of a device with this content.
    pub(crate) fn of(content: &[u8]) -> Self {
        Self(content.chunks(SECTOR_BYTES).map(|sector| vec![tag(sector)]).collect())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn now(&self, sector: usize) -> u64 {
        *self.0[sector].last().expect("never empty")
    }

    /// Something was sent to be written: it may be there from now on.
    pub(crate) fn write(&mut self, sector: usize, tag: u64) {
        self.0[sector].push(tag);
    }

    pub(crate) fn moment(&self) -> Moment {
        (0..self.count()).map(|sector| self.now(sector)).collect()
    }

    /// What was there at that moment is durable: nothing older comes back.
    pub(crate) fn durable(&mut self, sector: usize, then: u64) {
        let values = &mut self.0[sector];
        let since = values.iter().rposition(|value| *value == then).unwrap_or(0);
        values.drain(..since);
    }

    /// Takes the share of another one that only it wrote to.
    pub(crate) fn take(&mut self, other: &Self, owns: impl Fn(usize) -> bool) {
        for sector in (0..self.count()).filter(|sector| owns(*sector)) {
            self.0[sector].clone_from(&other.0[sector]);
        }
    }

    /// Compares what was found after a kill, which is what counts from now on.
    #[track_caller]
    pub(crate) fn settle(&mut self, device: &str, content: &[u8]) {
        assert_eq!(content.len(), self.count() * SECTOR_BYTES, "{device}: its size");
        for (n, (sector, allowed)) in content.chunks(SECTOR_BYTES).zip(&mut self.0).enumerate() {
            let found = tag(sector);
            assert!(
                allowed.contains(&found),
                "{device}, sector {n}: found {found:#x}, expected one of {allowed:#x?}"
            );
            *allowed = vec![found];
        }
    }
}

/// The number that a sector is full of.
pub(crate) fn tag(sector: &[u8]) -> u64 {
    let first: [u8; 8] = sector[..8].try_into().expect("eight bytes");
    assert!(sector.chunks(8).all(|word| word == first), "a torn sector");
    u64::from_le_bytes(first)
}
