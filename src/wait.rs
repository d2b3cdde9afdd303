//! The wait for something that the kernel does not report: attempts with pauses between them.

use std::time::{Duration, Instant};

use crate::error::Result;

/// The usual pause after the first attempt.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_micros(200);

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Calls `done` until it returns true. Returns false if the deadline passes first. The first pause is `pause`
/// long. Each other is twice as long as the one before it, from [`FIRST_PAUSE`] to [`LONGEST_PAUSE`].
pub(crate) fn until(
    deadline: Instant,
    mut pause: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<bool> {
    while !done()? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }
    Ok(true)
}
