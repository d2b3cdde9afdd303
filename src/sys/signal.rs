//! Signals: dispositions, the mask, and a descriptor from which they are read.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::SfdFlags;

use super::{Error, Result, check, retry};

pub(crate) use nix::sys::signalfd::SignalFd;

/// Every signal whose disposition can be changed, for [`reset`]: all except SIGKILL and SIGSTOP.
pub(crate) const ALL: u64 = !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));

/// Restores the default disposition of the signals in `ignored` (bit 0 is signal 1) and unblocks all signals,
/// as a program expects at its start. execve(2) itself resets only signals that have a handler.
pub(crate) fn reset(ignored: u64) -> Result<()> {
    for number in (1..=64).filter(|n| ignored >> (n - 1) & 1 == 1) {
        set_action(number, libc::SIG_DFL)?;
    }
    unblock_all()
}

/// Sets the disposition of a signal to `SIG_DFL` or `SIG_IGN` (`rt_sigaction(2)`). The raw call, because
/// glibc refuses the signals 32 and 33, which a caller that uses glibc may have left ignored.
fn set_action(number: i32, handler: libc::sighandler_t) -> Result<()> {
    // The kernel's structure: handler, flags, on some architectures a restorer, mask.
    let action = [handler, 0, 0, 0, 0];
    let none = std::ptr::null_mut::<usize>();
    // SAFETY: `action` is at least as large as the kernel's structure on every architecture and outlives the
    // call. Neither disposition runs code of this process.
    let ret = unsafe { libc::syscall(libc::SYS_rt_sigaction, number, action.as_ptr(), none, 8) };
    check(ret, || format!("rt_sigaction({number})")).map(drop)
}

/// Makes the kernel keep the statuses of children until they are reaped. If the caller of corten ignores
/// SIGCHLD, execve(2) keeps that. Then the kernel reaps the children itself and their statuses are lost
/// (waitid(2), ECHILD).
///
/// No other inherited disposition changes the result of a command. Signals that the caller ignores or blocks
/// do not end corten either, which is the caller's choice. Hooks and the container's program inherit none of
/// them ([`reset`]).
pub(crate) fn keep_children() -> Result<()> {
    set_action(libc::SIGCHLD, libc::SIG_DFL)
}

/// Makes a write to a pipe without a reader an error, instead of a signal that ends this process.
pub(crate) fn ignore_pipe() -> Result<()> {
    set_action(libc::SIGPIPE, libc::SIG_IGN)
}

/// Unblocks all signals.
pub(crate) fn unblock_all() -> Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|e| Error::new("rt_sigprocmask()", e))
}

/// Blocks all signals, so that they are read from [`signalfd`] and have no other effect.
pub(crate) fn block_all() -> Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
        .map_err(|e| Error::new("rt_sigprocmask()", e))
}

/// The signals by which users and service managers ask a process to end.
pub(crate) const ENDS: &[Signal] = &[Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// Returns a descriptor from which blocked signals are read: those in `signals`, or all if the slice is
/// empty.
pub(crate) fn signalfd(signals: &[Signal]) -> Result<SignalFd> {
    let set = if signals.is_empty() { SigSet::all() } else { signals.iter().copied().collect() };
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|e| Error::new("signalfd()", e))
}

/// Returns the number of the next pending signal, or `None`.
pub(crate) fn next(signalfd: &SignalFd) -> Result<Option<i32>> {
    let info = retry(|| signalfd.read_signal().map_err(|e| Error::new("read(signalfd)", e)))?;
    Ok(info.map(|info| info.ssi_signo as i32))
}
