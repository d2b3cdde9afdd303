//! `seccomp(2)`: loads a filter and probes what the kernel knows.

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::{Error, Result, check};

/// The flags of SECCOMP_SET_MODE_FILTER (linux/seccomp.h).
pub(crate) const TSYNC: u64 = 1 << 0;
pub(crate) const LOG: u64 = 1 << 1;
pub(crate) const SPEC_ALLOW: u64 = 1 << 2;
pub(crate) const NEW_LISTENER: u64 = 1 << 3;
pub(crate) const TSYNC_ESRCH: u64 = 1 << 4;
pub(crate) const WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// The most instructions that the kernel accepts (`BPF_MAXINSNS`).
pub(crate) const INSTRUCTIONS_MAX: usize = 4096;

const SET_MODE_FILTER: libc::c_ulong = 1;
const GET_ACTION_AVAIL: libc::c_ulong = 2;

/// Loads a filter for the calling process irrevocably. Returns the listener's descriptor if `flags` contain
/// [`NEW_LISTENER`]. Requires no_new_privs or CAP_SYS_ADMIN in the user namespace of the process.
pub(crate) fn load(filter: &[libc::sock_filter], flags: u64) -> Result<Option<OwnedFd>> {
    let call = || format!("seccomp(SECCOMP_SET_MODE_FILTER, {flags:#x}, {} instructions)", filter.len());
    let len = u16::try_from(filter.len()).map_err(|_| Error::new(call(), Errno::EINVAL))?;
    // The kernel only reads the program, though its structure has a pointer to mutable memory.
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `program` and its `len` instructions live until the call returns.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags as libc::c_ulong, &program) };
    let ret = check(ret, call)?;
    if flags & NEW_LISTENER != 0 {
        // SAFETY: with this flag a successful call returns a new descriptor that nothing else owns.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(ret as i32) }));
    }
    if ret > 0 {
        // With TSYNC a positive value is the thread that could not get the filter. This process has only one
        // thread.
        return Err(Error::new(call(), Errno::ESRCH));
    }
    Ok(None)
}

/// Returns whether the kernel knows an action (`SECCOMP_RET_*`).
#[must_use]
pub fn action_available(action: u32) -> bool {
    // SAFETY: the kernel reads four bytes from `action`, which lives until the call returns.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0 as libc::c_ulong, &action) };
    ret == 0
}

/// Returns whether the kernel knows a flag. It checks the flags before it reads the program, which is missing
/// here.
#[must_use]
pub fn flag_available(flag: u64) -> bool {
    let flags = if flag == WAIT_KILLABLE_RECV { flag | NEW_LISTENER } else { flag };
    let none = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: the call always fails, because a null program cannot be read.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags as libc::c_ulong, none) };
    ret < 0 && Errno::last() == Errno::EFAULT
}
