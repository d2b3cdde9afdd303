//! Clocks, in nanoseconds. The C library reads them through the vDSO, without a system call on common
//! hardware.

use nix::time::{ClockId, clock_gettime};

/// Returns `CLOCK_MONOTONIC`. A time namespace can have an offset to it.
#[must_use]
pub(crate) fn monotonic() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Returns `CLOCK_BOOTTIME`, which counts from the boot.
#[must_use]
pub(crate) fn boottime() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

/// Returns `CLOCK_REALTIME`, which is the same in every namespace.
#[must_use]
pub(crate) fn realtime() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

/// The nanoseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// A moment in the time zone of the host, to the minute. The month counts from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Local {
    pub year: i32,
    pub month: u32,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
}

/// Returns a moment, given in seconds after 1970, in the time zone that TZ or /etc/localtime names.
#[must_use]
pub(crate) fn local(seconds: u64) -> Local {
    // libc deprecates the name of this type.
    let time = seconds as _;
    // SAFETY: zeros are a valid `tm`: numbers, and a null pointer that is only given back.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values of this function. The call may read TZ from the environment, which no other
    // thread changes: there is none.
    unsafe { libc::localtime_r(&raw const time, &raw mut tm) };
    Local {
        year: tm.tm_year + 1900,
        month: tm.tm_mon as u32,
        day: tm.tm_mday as u32,
        hour: tm.tm_hour as u32,
        minute: tm.tm_min as u32,
    }
}

fn read(clock: ClockId) -> u64 {
    // These clocks always exist.
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * SECOND + time.tv_nsec() as u64)
}
