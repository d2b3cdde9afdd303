//! Clocks, in nanoseconds. The C library asks the kernel's vDSO: no system call on usual hardware.

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`, which a time namespace may have shifted.
#[must_use]
pub fn monotonic() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// `CLOCK_REALTIME`, the same in every namespace.
#[must_use]
pub fn realtime() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

fn read(clock: ClockId) -> u64 {
    // These clocks always exist.
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
