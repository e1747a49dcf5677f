use super::memory::{Memory, usual_bytes};

/// How a service behaves. Sizes are in bytes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServiceOptions {
    /// For the whole server: what clients ask for, copying, a merge's window, writes that wait, and buffers
    /// that are kept. At least [`MIN_MEMORY_BYTES`](super::memory::MIN_MEMORY_BYTES).
    pub memory_bytes: u64,
    /// Of that, for origin writes that wait to be written together; at most an eighth of it.
    pub write_back_bytes: u64,
    /// Most data in one window of a merge; at most 64 MiB, and a 16th of the memory.
    pub window_bytes: u64,
    /// Most bytes a second that a merge moves.
    pub rate_bytes_per_second: Option<u64>,
    /// NBD connections at a time.
    pub connections: usize,
    /// For requests of one connection; one request may take 32 MiB in any case.
    pub connection_bytes: u64,
    /// Writes are refused, and so is what changes a snapshot.
    pub read_only: bool,
    /// A second name of the origin among the exports.
    pub alias: Option<String>,
    /// The export that clients get who name none. By default the origin; but where that is open for reading alone,
    /// and the service is not, its only snapshot.
    pub default_export: Option<String>,
    /// It ends when the last client has gone. The first one must have come, and have had an export.
    pub ends_with_last_client: bool,
    /// As the status calls the origin.
    pub origin: String,
    /// As the status says: of the program.
    pub version: String,
}

impl Default for ServiceOptions {
    /// A quarter of the machine's memory (or of its control group's), but not more than 1 GiB; 32 MiB for
    /// writes that wait; windows of 16 MiB; 256 connections with 64 MiB each.
    fn default() -> Self {
        Self {
            memory_bytes: usual_bytes(),
            write_back_bytes: 32 << 20,
            window_bytes: 16 << 20,
            rate_bytes_per_second: None,
            connections: 256,
            connection_bytes: 64 << 20,
            read_only: false,
            alias: None,
            default_export: None,
            ends_with_last_client: false,
            origin: String::new(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

/// Setters: one for each field.
impl ServiceOptions {
    /// Sets [`memory_bytes`](Self::memory_bytes).
    #[must_use]
    pub fn memory_bytes(self, memory_bytes: u64) -> Self {
        Self { memory_bytes, ..self }
    }

    /// Sets [`write_back_bytes`](Self::write_back_bytes).
    #[must_use]
    pub fn write_back_bytes(self, write_back_bytes: u64) -> Self {
        Self { write_back_bytes, ..self }
    }

    /// Sets [`window_bytes`](Self::window_bytes).
    #[must_use]
    pub fn window_bytes(self, window_bytes: u64) -> Self {
        Self { window_bytes, ..self }
    }

    /// Sets [`rate_bytes_per_second`](Self::rate_bytes_per_second).
    #[must_use]
    pub fn rate_bytes_per_second(self, rate_bytes_per_second: Option<u64>) -> Self {
        Self { rate_bytes_per_second, ..self }
    }

    /// Sets [`connections`](Self::connections).
    #[must_use]
    pub fn connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// Sets [`connection_bytes`](Self::connection_bytes).
    #[must_use]
    pub fn connection_bytes(self, connection_bytes: u64) -> Self {
        Self { connection_bytes, ..self }
    }

    /// Sets [`read_only`](Self::read_only).
    #[must_use]
    pub fn read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    /// Sets [`alias`](Self::alias).
    #[must_use]
    pub fn alias(self, alias: Option<String>) -> Self {
        Self { alias, ..self }
    }

    /// Sets [`default_export`](Self::default_export).
    #[must_use]
    pub fn default_export(self, default_export: Option<String>) -> Self {
        Self { default_export, ..self }
    }

    /// Sets [`ends_with_last_client`](Self::ends_with_last_client).
    #[must_use]
    pub fn ends_with_last_client(self, ends_with_last_client: bool) -> Self {
        Self { ends_with_last_client, ..self }
    }

    /// Sets [`origin`](Self::origin).
    #[must_use]
    pub fn origin(self, origin: impl Into<String>) -> Self {
        Self { origin: origin.into(), ..self }
    }

    /// Sets [`version`](Self::version).
    #[must_use]
    pub fn version(self, version: impl Into<String>) -> Self {
        Self { version: version.into(), ..self }
    }

    pub(super) fn memory(&self) -> Memory {
        Memory::of(self.memory_bytes, self.write_back_bytes)
    }
}
