//! System calls: thin wrappers with the kernel's names, which take borrowed descriptors, return owned ones,
//! and name the call in their errors. Nothing here knows the runtime-spec.
//!
//! The rule: a wrapper calls nix where nix has the call, and the kernel itself where nix lacks it or where
//! the reason is beside the call. In a clone the C library's view of the process is that of before (its
//! thread id, its list of threads). So no wrapper may rely on it between clone3 and execve.

pub(crate) mod args;
pub(crate) mod bpf;
pub(crate) mod clock;
pub(crate) mod credentials;
pub(crate) mod fs;
pub(crate) mod landlock;
pub(crate) mod memory;
pub(crate) mod mount;
pub(crate) mod mountinfo;
pub(crate) mod net;
pub(crate) mod netlink;
pub(crate) mod netns;
pub(crate) mod pidfd;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod seccomp;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod task;
mod text;
pub(crate) mod tty;

use std::ffi::CString;
use std::fmt;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

pub(crate) use text::text;

/// A failed system call: the call as one would write it, and the kernel's errno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub call: String,
    pub errno: Errno,
}

impl Error {
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        Self { call: call.into(), errno }
    }

    /// Converts an error of std, which prints the errno in words of its own: `(os error 2)`.
    pub(crate) fn of_std(call: impl Into<String>, error: &std::io::Error) -> Self {
        Self::new(call, Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, text(self.errno))
    }
}

impl std::error::Error for Error {}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Returns the errno of the system call at the root of an error chain, if there is one.
#[must_use]
pub(crate) fn errno(error: &anyhow::Error) -> Option<Errno> {
    error.downcast_ref::<Error>().map(|e| e.errno)
}

/// Turns a raw return value into a result. `call` is evaluated only for an error.
fn check(ret: libc::c_long, call: impl FnOnce() -> String) -> Result<libc::c_long> {
    if ret < 0 { Err(Error::new(call(), Errno::last())) } else { Ok(ret) }
}

/// Turns the raw return value of a call that returns a new descriptor into a result.
fn check_fd(ret: libc::c_long, call: impl FnOnce() -> String) -> Result<OwnedFd> {
    let fd = check(ret, call)?;
    // SAFETY: the kernel has just returned this descriptor to us, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Repeats a call as long as signals interrupt it.
fn retry<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(e) if e.errno == Errno::EINTR => {}
            other => return other,
        }
    }
}

/// Returns a path as a C string. A NUL in it is an error: the kernel would see another path.
fn cstring(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::new(format!("{path:?}"), Errno::EINVAL))
}
