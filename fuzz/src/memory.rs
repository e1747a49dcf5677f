use std::alloc::System;

use cap::Cap;

/// All the memory that a target may take at a time. What a number on a disk or from a client
/// claims is often more.
const MOST_BYTES: usize = 192 << 20;

/// An allocation beyond the limit fails, and that ends the program: libFuzzer then shows the input.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MOST_BYTES);
