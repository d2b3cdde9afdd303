//! Signals: dispositions, the mask, and reading them from a descriptor.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};

use super::{Error, Result, check, check_fd, retry};

/// Sets the dispositions that differ from the default back to it, and unblocks all signals, as a program
/// expects at its start. Rust's std ignores SIGPIPE, and a caller may have ignored others.
pub fn reset() -> Result<()> {
    for number in 1..=64 {
        // SAFETY: plain data; the kernel reads `default` and writes `old`, both of the type it expects.
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(number, std::ptr::null(), &raw mut old) == 0
                && old.sa_sigaction != libc::SIG_DFL
            {
                let default: libc::sigaction = std::mem::zeroed();
                libc::sigaction(number, &raw const default, std::ptr::null_mut());
            }
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|e| Error::new("rt_sigprocmask()", e))
}

/// Blocks all signals, so that they are read from [`signalfd`] instead of acting.
pub fn block_all() -> Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
        .map_err(|e| Error::new("rt_sigprocmask()", e))
}

/// Restores the default action of SIGPIPE.
pub fn default_sigpipe() -> Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    unsafe { sigaction(Signal::SIGPIPE, &default) }.map(drop).map_err(|e| Error::new("rt_sigaction()", e))
}

/// A descriptor from which all blocked signals can be read.
pub fn signalfd() -> Result<OwnedFd> {
    let all = SigSet::all();
    // SAFETY: the mask is a live sigset_t.
    let ret = unsafe { libc::signalfd(-1, all.as_ref(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
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
