//! Signals: dispositions, the mask, and reading them from a descriptor.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::SfdFlags;

use super::{Error, Result, check, retry};

pub use nix::sys::signalfd::SignalFd;

/// Every signal whose disposition can be changed, for [`reset`]: all but SIGKILL and SIGSTOP.
pub const ALL: u64 = !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));

/// Sets the dispositions of those signals of `ignored` (bit 0 is signal 1) back to the default and unblocks all
/// signals, as a program expects at its start: execve(2) itself resets what has a handler, but not what is ignored.
pub fn reset(ignored: u64) -> Result<()> {
    for number in (1..=64).filter(|n| ignored >> (n - 1) & 1 == 1) {
        set_action(number, libc::SIG_DFL)?;
    }
    unblock_all()
}

/// `rt_sigaction(2)` with `SIG_DFL` or `SIG_IGN`. The raw call: glibc's refuses the signals 32 and 33, which a caller built
/// with it may leave ignored.
fn set_action(number: i32, handler: libc::sighandler_t) -> Result<()> {
    // The kernel's structure: handler, flags, restorer where there is one, mask.
    let action = [handler, 0, 0, 0, 0];
    let none = std::ptr::null_mut::<usize>();
    // SAFETY: `action` is at least as large as the kernel's structure on every architecture and outlives the call; neither
    // handler runs code of ours.
    let ret = unsafe { libc::syscall(libc::SYS_rt_sigaction, number, action.as_ptr(), none, 8) };
    check(ret, || format!("rt_sigaction({number})")).map(drop)
}

/// Makes children that have ended wait to be reaped. execve(2) keeps a SIGCHLD that the caller ignores; then the kernel
/// reaps them itself and their statuses are lost (waitid(2), ECHILD).
///
/// No other inherited disposition changes what a command does: signals that the caller ignores or blocks do not end it
/// either, which is the caller's choice. Hooks and the container's program inherit none of them ([`reset`]).
pub fn keep_children() -> Result<()> {
    set_action(libc::SIGCHLD, libc::SIG_DFL)
}

/// Makes a write to a pipe that nobody reads an error instead of our end.
pub fn ignore_pipe() -> Result<()> {
    set_action(libc::SIGPIPE, libc::SIG_IGN)
}

/// Unblocks all signals.
pub fn unblock_all() -> Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|e| Error::new("rt_sigprocmask()", e))
}

/// Blocks all signals, so that they are read from [`signalfd`] instead of acting.
pub fn block_all() -> Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
        .map_err(|e| Error::new("rt_sigprocmask()", e))
}

/// The signals by which users and service managers ask a process to end.
pub const ENDS: &[Signal] = &[Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// A descriptor from which those of `signals` that are blocked can be read, or all where none is named.
pub fn signalfd(signals: &[Signal]) -> Result<SignalFd> {
    let set = if signals.is_empty() { SigSet::all() } else { signals.iter().copied().collect() };
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|e| Error::new("signalfd()", e))
}

/// The next waiting signal's number, if there is one.
pub fn next(signalfd: &SignalFd) -> Result<Option<i32>> {
    let info = retry(|| signalfd.read_signal().map_err(|e| Error::new("read(signalfd)", e)))?;
    Ok(info.map(|info| info.ssi_signo as i32))
}
