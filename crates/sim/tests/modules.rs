//! The unit tests of those modules that need nothing of the code under test. Here, because a library that is
//! compiled once more for its own unit tests compiles all of that code once more.
#![allow(dead_code, unreachable_pub, reason = "only the tests are run")]

#[path = "../src/random.rs"]
mod random;
#[path = "../src/naive.rs"]
mod naive;
#[path = "../src/scheduler.rs"]
mod scheduler;
#[path = "../src/survivors.rs"]
mod survivors;
