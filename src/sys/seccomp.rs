//! `seccomp(2)`.

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::{Error, Result, check};

/// The flags of SECCOMP_SET_MODE_FILTER (linux/seccomp.h).
pub const TSYNC: u64 = 1 << 0;
pub const LOG: u64 = 1 << 1;
pub const SPEC_ALLOW: u64 = 1 << 2;
pub const NEW_LISTENER: u64 = 1 << 3;
pub const TSYNC_ESRCH: u64 = 1 << 4;
pub const WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;

const SET_MODE_FILTER: libc::c_ulong = 1;
const GET_ACTION_AVAIL: libc::c_ulong = 2;

/// Puts a filter on the calling process for good; the listener's descriptor where `flags` ask for one. Needs
/// no_new_privs or CAP_SYS_ADMIN in the process's user namespace.
pub fn load(filter: &[libc::sock_filter], flags: u64) -> Result<Option<OwnedFd>> {
    let call = || format!("seccomp(SECCOMP_SET_MODE_FILTER, {flags:#x}, {} instructions)", filter.len());
    let len = u16::try_from(filter.len()).map_err(|_| Error::new(call(), Errno::EINVAL))?;
    // The kernel only reads the program, though its structure has a pointer to mutable memory.
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `program` and the `len` instructions that it points to live until the call returns.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags as libc::c_ulong, &program) };
    let ret = check(ret, call)?;
    if flags & NEW_LISTENER != 0 {
        // SAFETY: with this flag a successful call returns a new descriptor, which nothing else owns.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(ret as i32) }));
    }
    if ret > 0 {
        // With TSYNC: the thread that could not be given the filter. There is none, for we have one thread.
        return Err(Error::new(call(), Errno::ESRCH));
    }
    Ok(None)
}

/// Whether the kernel knows an action, by its return value.
#[must_use]
pub fn action_available(action: u32) -> bool {
    // SAFETY: the kernel reads four bytes at the pointer, which lives until the call returns.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0 as libc::c_ulong, &action) };
    ret == 0
}

/// Whether the kernel knows a flag: it looks at the flags before it looks at the program, which is not there.
#[must_use]
pub fn flag_available(flag: u64) -> bool {
    let flags = if flag == WAIT_KILLABLE_RECV { flag | NEW_LISTENER } else { flag };
    let none = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: a null program cannot be read and is never loaded: the call fails whatever the flag.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags as libc::c_ulong, none) };
    ret < 0 && Errno::last() == Errno::EFAULT
}
