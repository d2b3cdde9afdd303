//! Signals: dispositions, the mask, and reading them from a descriptor.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use super::{Error, Result, check, check_fd, retry};

/// Every signal whose disposition can be changed, for [`reset`]: all but SIGKILL and SIGSTOP.
pub const ALL: u64 = !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));

/// Sets the dispositions of those signals of `ignored` (bit 0 is signal 1) back to the default and unblocks all
/// signals, as a program expects at its start: execve(2) itself resets what has a handler, but not what is ignored.
pub fn reset(ignored: u64) -> Result<()> {
    for number in (1..=64).filter(|n| ignored >> (n - 1) & 1 == 1) {
        default_action(number)?;
    }
    unblock_all()
}

/// `rt_sigaction(2)`, raw: glibc's refuses the signals 32 and 33, which a caller built with it may leave ignored.
fn default_action(number: i32) -> Result<()> {
    // The kernel's structure: handler, flags, restorer where there is one, mask. All zero is the default action.
    let default = [0u64; 4];
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: `default` is at least as large as the kernel's structure on every architecture and outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), none, 8) };
    check(ret, || format!("rt_sigaction({number})")).map(drop)
}

/// Makes children that have ended wait to be reaped. execve(2) keeps a SIGCHLD that the caller ignores; then the kernel
/// reaps them itself and their statuses are lost (waitid(2), ECHILD).
///
/// No other inherited disposition changes what a command does: signals that the caller ignores or blocks do not end it
/// either, which is the caller's choice. Hooks and the container's program inherit none of them ([`reset`]).
pub fn keep_children() -> Result<()> {
    default_action(libc::SIGCHLD)
}

/// Makes a write to a pipe that nobody reads an error instead of our end.
pub fn ignore_pipe() -> Result<()> {
    // SAFETY: the action runs no code of ours.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(Error::new("rt_sigaction(SIGPIPE)", Errno::last())) } else { Ok(()) }
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
pub fn signalfd(signals: &[Signal]) -> Result<OwnedFd> {
    let set = if signals.is_empty() { SigSet::all() } else { signals.iter().copied().collect() };
    // SAFETY: the mask is a live sigset_t.
    let ret = unsafe { libc::signalfd(-1, set.as_ref(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check_fd(ret.into(), || "signalfd()".into())
}

/// The next waiting signal's number, if there is one.
pub fn next(signalfd: BorrowedFd) -> Result<Option<i32>> {
    // SAFETY: all-zero bytes are a valid signalfd_siginfo.
    let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    let read = retry(|| {
        // SAFETY: the kernel writes at most the size passed, into a live structure of that size.
        let n = unsafe { libc::read(signalfd.as_raw_fd(), (&raw mut info).cast(), size_of_val(&info)) };
        check(n as libc::c_long, || "read(signalfd)".into())
    });
    match read {
        Ok(_) => Ok(Some(info.ssi_signo as i32)),
        Err(e) if e.errno == Errno::EAGAIN => Ok(None),
        Err(e) => Err(e),
    }
}
