//! A new network namespace that another process makes, while this one works on.
//!
//! The kernel needs 0.3 ms to make one, a tenth of a `run`, and a container's can be made as soon as its
//! configuration is read. The other process shares the memory and the descriptors of this one, so it costs a tenth of the
//! time that it saves.
//!
//! It is no thread: it has a stack of its own, makes system calls only, and writes nothing but its result. It holds no
//! lock and no part of a change in memory. Therefore everything that is sound in a process of one thread remains sound
//! beside it, [`clone3`](super::task::clone3) too.

use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::raw::call;
use super::task::unshare;

const OWN: &CStr = c"self/ns/net";

/// What the two processes share.
#[repr(C, align(16))]
struct Shared {
    stack: [u8; 4096],
    /// The root of a procfs.
    proc: c_int,
    /// The descriptor of the namespace, or -1.
    made: c_int,
}

/// A network namespace that is being made.
pub(crate) struct NewNetwork {
    /// The process that makes it, until it is reaped.
    pid: Option<i32>,
    shared: *mut Shared,
}

impl NewNetwork {
    /// Begins to make it. `proc` is the root of a procfs that shows this process. Returns `None` if no process can be
    /// created, or if unshare(2) is refused by a filter: then only a clone can make the namespace.
    pub(crate) fn begin(proc: BorrowedFd) -> Option<Self> {
        unshare(0).ok()?;
        let shared = Box::new(Shared { stack: [0; 4096], proc: proc.as_raw_fd(), made: -1 });
        let shared = Box::into_raw(shared);
        // SAFETY: the stack grows down from its end, and is the new process's alone. `make` needs a small part of it, and
        // no signal can add a frame. `shared` is freed only after that process has ended.
        let pid = unsafe {
            let top = (&raw mut (*shared).stack).add(1);
            libc::clone(make, top.cast(), libc::CLONE_VM | libc::CLONE_FILES, shared.cast())
        };
        let new = Self { pid: (pid > 0).then_some(pid), shared };
        new.pid.is_some().then_some(new)
    }

    /// Waits until it is made. Returns `None` if it could not be made.
    pub(crate) fn finish(mut self) -> Option<OwnedFd> {
        self.take()
    }

    fn take(&mut self) -> Option<OwnedFd> {
        while let Some(pid) = self.pid {
            // It sends no signal at its end, therefore only __WALL finds it.
            // SAFETY: the kernel writes nothing without an address for the status.
            match unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) } {
                -1 if Errno::last() == Errno::EINTR => {}
                -1 => return None,
                _ => self.pid = None,
            }
        }
        // SAFETY: the process has ended, so this is the only access.
        let made = unsafe { std::mem::replace(&mut (*self.shared).made, -1) };
        // SAFETY: the process has opened it for us, and it is taken once.
        (made >= 0).then(|| unsafe { OwnedFd::from_raw_fd(made) })
    }
}

impl Drop for NewNetwork {
    fn drop(&mut self) {
        drop(self.take());
        // It stays if the end of the process cannot be known.
        if self.pid.is_none() {
            // SAFETY: it is from `Box::into_raw`, and the process that also uses it has ended.
            drop(unsafe { Box::from_raw(self.shared) });
        }
    }
}

/// The other process. Its errno and its allocator are those of the first process, which runs at the same time, so it must
/// call neither the C library nor anything that allocates. It must not panic.
///
/// It dies with the first process, whose lock and pipes it would keep open. A signal from the terminal must not stop it, because
/// the first process may have blocked that signal and would wait.
extern "C" fn make(shared: *mut c_void) -> c_int {
    let shared = shared.cast::<Shared>();
    let (all, kill) = (u64::MAX, libc::SIGKILL as usize);
    // SAFETY: the pointers are to a set of eight bytes, which is the kernel's size, and to a string with its NUL. `shared` is
    // that of `begin`, and lives until this process has ended. The other process does not access it before that.
    unsafe {
        call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, (&raw const all) as usize, 0, 8, 0]);
        call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, kill, 0, 0, 0]);
        if call(libc::SYS_unshare, [libc::CLONE_NEWNET as usize, 0, 0, 0, 0]) == 0 {
            let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
            let fd = call(libc::SYS_openat, [(*shared).proc as usize, OWN.as_ptr() as usize, flags, 0, 0]);
            (*shared).made = fd.max(-1) as c_int;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::{fs, task};

    /// A test has other threads, and the process is none of them.
    #[test]
    fn the_namespace_is_a_new_one() {
        if task::euid() != 0 {
            return;
        }
        let proc = fs::open(fs::CWD, "/proc".as_ref(), fs::O_RDONLY, 0).unwrap();
        let new = NewNetwork::begin(proc.as_fd()).unwrap();
        let fd = new.finish().unwrap();
        assert_eq!(task::namespace_type(fd.as_fd()).unwrap(), libc::CLONE_NEWNET);
        let own = fs::inode_at(proc.as_fd(), "self/ns/net".as_ref()).unwrap();
        assert_ne!(fs::fstat(fd.as_fd()).unwrap().st_ino, own);
    }
}
