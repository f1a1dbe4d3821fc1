//! Standard error that never blocks for long: a log whose reader has stopped must not stop the router.
//!
//! A pipe takes 64 kB and then blocks its writer, with the lock of standard error held, so that every thread that logs
//! would stop. Here a write waits a moment for room and then fails; after that writes fail at once until there is room.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a write waits for a reader.
const PATIENCE: Duration = Duration::from_millis(50);

/// A pipe that can be written takes this many bytes without blocking (`PIPE_BUF`).
const PIECE: usize = 4_096;

/// Whether the reader had stopped at the last write.
static STALLED: AtomicBool = AtomicBool::new(false);

/// Standard error, locked.
pub(crate) fn stderr() -> Impatient<io::StderrLock<'static>> {
    Impatient { to: io::stderr().lock(), stalled: &STALLED }
}

/// A writer that fails with [`io::ErrorKind::TimedOut`] in place of waiting for a reader that has stopped.
pub(crate) struct Impatient<W> {
    to: W,
    stalled: &'static AtomicBool,
}

impl<W: Write + AsFd> Write for Impatient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let patience = if self.stalled.load(Ordering::Relaxed) { Duration::ZERO } else { PATIENCE };
        let timeout = Timespec::try_from(patience).ok();
        let asked = poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], timeout.as_ref());
        // What cannot be asked is written as ever.
        let has_room = asked.map_or(true, |ready| ready > 0);
        self.stalled.store(!has_room, Ordering::Relaxed);
        if !has_room {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.to.write(&bytes[..bytes.len().min(PIECE)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_pipe_that_nobody_reads_fails_and_works_again_when_somebody_does() {
        static STALLED: AtomicBool = AtomicBool::new(false);
        let (mut reader, writer) = io::pipe().unwrap();
        let mut log = Impatient { to: writer, stalled: &STALLED };
        let line = [b'x'; 1_000];
        let written = (0..).take_while(|_| log.write_all(&line).is_ok()).count();
        assert!((4..10_000).contains(&written), "{written}");
        assert_eq!(log.write_all(&line).unwrap_err().kind(), io::ErrorKind::TimedOut);
        reader.read_exact(&mut vec![0; 3_000]).unwrap();
        reader.read_exact(&mut vec![0; (written - 3) * 1_000]).unwrap();
        log.write_all(&[b'y'; 20_000]).unwrap();
    }
}
