//! Clocks, in nanoseconds. The C library reads them through the vDSO, without a system call on common
//! hardware.

use nix::time::{ClockId, clock_gettime};

/// Returns `CLOCK_MONOTONIC`. A time namespace can have an offset to it.
#[must_use]
pub(crate) fn monotonic() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Returns `CLOCK_REALTIME`, which is the same in every namespace.
#[must_use]
pub(crate) fn realtime() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

fn read(clock: ClockId) -> u64 {
    // These clocks always exist.
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
