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
pub struct Context {
    name: String,
    /// Of what: a context that a client has chosen ends with that, also where another one of its name comes.
    of: u64,
}

impl Context {
    /// `base:allocation`: what is a hole and what reads as zeroes.
    pub fn base_allocation() -> Self {
        Self::named("base:allocation".into())
    }

    /// `qemu:allocation-depth`: the flags are the depth of the layer that holds the bytes, from 1
    /// on; 0 if none does.
    pub fn allocation_depth() -> Self {
        Self::named("qemu:allocation-depth".into())
    }

    /// `qemu:dirty-bitmap:NAME`: flag 1 is set where the bytes have changed.
    pub fn dirty_bitmap(name: &str) -> Self {
        Self::named(format!("qemu:dirty-bitmap:{name}"))
    }

    fn named(name: String) -> Self {
        Self { name, of: 0 }
    }

    /// The same name, of the thing with this number.
    #[must_use]
    pub fn of(self, of: u64) -> Self {
        Self { of, ..self }
    }

    /// The whole name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Is it meant by `query`? A query is a whole name, or what one begins with up to a colon.
    pub fn is_listed_by(&self, query: &str) -> bool {
        self.name == query || query.ends_with(':') && self.name.starts_with(query)
    }
}
