/// Extent flag of `base:allocation`: nothing is allocated here.
pub const HOLE: u32 = 1 << 0;
/// Extent flag of `base:allocation`: reads as zeroes.
pub const ZERO: u32 = 1 << 1;

/// Consecutive bytes of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// In bytes.
    pub len_bytes: u64,
    /// What they mean is up to the context.
    pub flags: u32,
}

/// The name of a kind of metadata, such as `base:allocation` or `qemu:dirty-bitmap:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context(String);

impl Context {
    /// `base:allocation`: what is a hole and what reads as zeroes.
    pub fn base_allocation() -> Self {
        Self("base:allocation".into())
    }

    /// `qemu:allocation-depth`: the flags are the depth of the layer that holds the bytes, from 1
    /// on; 0 if none does.
    pub fn allocation_depth() -> Self {
        Self("qemu:allocation-depth".into())
    }

    /// `qemu:dirty-bitmap:NAME`: flag 1 is set where the bytes have changed.
    pub fn dirty_bitmap(name: &str) -> Self {
        Self(format!("qemu:dirty-bitmap:{name}"))
    }

    /// The whole name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Is it meant by `query`? A query is a whole name, or what one begins with up to a colon.
    pub fn is_listed_by(&self, query: &str) -> bool {
        self.0 == query || query.ends_with(':') && self.0.starts_with(query)
    }
}
