use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Messages that wait; more are only counted.
const MOST_WAITING: usize = 256;

/// Lines on their way to somewhere that may stop taking them, such as a pipe to a log daemon. A thread of
/// their own writes them, so the sender waits for nobody.
#[derive(Debug)]
pub(crate) struct Messages(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<String>,
    /// Lines that found no room.
    lost: u64,
    /// One is being written.
    is_writing: bool,
}

impl Messages {
    /// Starts the thread.
    pub(crate) fn to(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let messages = Self(shared.clone());
        thread::Builder::new().name("messages".into()).spawn(move || {
            loop {
                let line = shared.next();
                // If nobody can be told, nobody can be told that either.
                let _ = out.write_all(line.as_bytes());
                shared.lock().is_writing = false;
                shared.changed.notify_all();
            }
        })?;
        Ok(messages)
    }

    /// A line, with its end.
    pub(crate) fn send(&self, line: String) {
        let mut queue = self.0.lock();
        match queue.lines.len() < MOST_WAITING {
            true => queue.lines.push_back(line),
            false => queue.lost += 1,
        }
        drop(queue);
        self.0.changed.notify_all();
    }

    /// Returns when everything is written, or after so long.
    pub(crate) fn flush(&self, most: Duration) {
        let waits = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        let queue = self.0.lock();
        drop(self.0.changed.wait_timeout_while(queue, most, waits));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A thread that panicked in between left nothing half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next line to write; waits for one.
    fn next(&self) -> String {
        let queue = self.lock();
        let is_empty = |queue: &mut Queue| queue.lines.is_empty();
        let waited = self.changed.wait_while(queue, is_empty);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        queue.is_writing = true;
        let line = queue.lines.pop_front().unwrap_or_default();
        match std::mem::take(&mut queue.lost) {
            0 => line,
            lost => format!("{line}dmsnap: {lost} messages were lost: stderr was not read\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes nothing before it is opened.
    #[derive(Clone, Default)]
    struct Door(Arc<(Mutex<(bool, String)>, Condvar)>);

    impl Door {
        fn open(&self) {
            self.0.0.lock().expect("whole").0 = true;
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            self.0.0.lock().expect("whole").1.clone()
        }
    }

    impl Write for Door {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.0.0.lock().expect("whole");
            let mut state = self.0.1.wait_while(state, |(open, _)| !*open).expect("whole");
            state.1.push_str(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_stops_nobody_and_hears_how_much_was_lost() {
        let door = Door::default();
        let messages = Messages::to(door.clone()).expect("a thread");
        messages.send("first\n".into());
        // Whether the thread has taken it or not: it does not come back for the next one.
        messages.flush(Duration::from_millis(50));
        for n in 0..MOST_WAITING + 3 {
            messages.send(format!("{n}\n"));
        }
        messages.flush(Duration::from_millis(50));
        assert_eq!(door.text(), "");
        door.open();
        messages.flush(Duration::from_secs(60));
        let text = door.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["first", "0"]);
        assert_eq!(lines[2], "dmsnap: 3 messages were lost: stderr was not read");
        assert_eq!(lines.len(), 2 + MOST_WAITING);
    }
}
