//! Exceptions in memory.
