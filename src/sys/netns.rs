//! A new network namespace that another process makes, while this one works on.
//!
//! The kernel needs 0.3 ms to make one, a tenth of a `run`, and a container's can be made as soon as its
//! configuration is read. The other process shares the memory and the descriptors of this one. It costs a tenth of the
//! time that it saves.
//!
//! It is no thread: it has a stack of its own, calls only the kernel, and writes only its result. So the invariant of one
//! thread holds for all other code. It has ended before [`clone3`](super::task::clone3) is called.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;

use super::raw::call;

const OWN: &CStr = c"self/ns/net";

/// What the two processes share.
#[repr(C, align(16))]
struct Shared {
    stack: [u8; 4096],
    /// The root of a procfs.
    proc: c_int,
    /// The descriptor of the namespace, or -1.
    made: AtomicI32,
}

/// A network namespace that is being made.
pub(crate) struct NewNetwork {
    /// The process that makes it, until it is reaped.
    pid: Cell<Option<i32>>,
    shared: *mut Shared,
}

impl NewNetwork {
    /// Begins to make it. `proc` is the root of a procfs that shows this process. Returns `None` if no process can be
    /// created.
    pub(crate) fn begin(proc: BorrowedFd) -> Option<Self> {
        let shared = Shared { stack: [0; 4096], proc: proc.as_raw_fd(), made: AtomicI32::new(-1) };
        let new = Self { pid: Cell::new(None), shared: Box::into_raw(Box::new(shared)) };
        // SAFETY: the stack grows down from its end, and is the new process's alone. `shared` is freed only after that
        // process has ended (`await_end`). What it does meanwhile is described at `make`.
        let pid = unsafe {
            let top = (&raw mut (*new.shared).stack).add(1);
            libc::clone(make, top.cast(), libc::CLONE_VM | libc::CLONE_FILES, new.shared.cast())
        };
        new.pid.set(Some(pid));
        if pid > 0 { Some(new) } else { new.pid.take().and(None) }
    }

    /// Waits until it is made. Returns `None` if it could not be made, and on the second call.
    pub(crate) fn finish(&self) -> Option<OwnedFd> {
        if !self.await_end() {
            return None;
        }
        // SAFETY: the process has ended.
        let fd = unsafe { (*self.shared).made.swap(-1, Ordering::Relaxed) };
        // SAFETY: the process has opened it for us, and the number is returned only once.
        (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Waits for the end of the process. Returns false if its end cannot be known.
    fn await_end(&self) -> bool {
        let Some(pid) = self.pid.get() else { return true };
        // It sends no signal at its end, therefore only __WALL finds it.
        // SAFETY: the kernel writes nothing without an address for the status.
        while unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) } < 0 {
            if Errno::last() != Errno::EINTR {
                return false;
            }
        }
        self.pid.set(None);
        true
    }
}

impl Drop for NewNetwork {
    fn drop(&mut self) {
        drop(self.finish());
        if self.pid.get().is_none() {
            // SAFETY: it is from `Box::into_raw`, and the process that also uses it has ended.
            drop(unsafe { Box::from_raw(self.shared) });
        }
    }
}

/// The other process. Its errno and its allocator are those of the first process, which runs at the same time, so it must
/// call neither the C library nor anything that allocates. It must not panic.
extern "C" fn make(shared: *mut c_void) -> c_int {
    // SAFETY: it is that of `begin`, which lives until this process has ended. The other process only reads `proc`, which
    // never changes, and `made`, which is atomic.
    let (proc, made) = unsafe {
        let shared = shared.cast::<Shared>();
        ((*shared).proc, &(*shared).made)
    };
    // SAFETY: the arguments are numbers and a string with its NUL.
    unsafe {
        if call(libc::SYS_unshare, [libc::CLONE_NEWNET as usize, 0, 0, 0, 0]) == 0 {
            let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
            let fd = call(libc::SYS_openat, [proc as usize, OWN.as_ptr() as usize, flags, 0, 0]);
            made.store(fd.max(-1) as c_int, Ordering::Relaxed);
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
        assert!(new.finish().is_none());
        assert_eq!(task::namespace_type(fd.as_fd()).unwrap(), libc::CLONE_NEWNET);
        let own = fs::inode_at(proc.as_fd(), "self/ns/net".as_ref()).unwrap();
        assert_ne!(fs::fstat(fd.as_fd()).unwrap().st_ino, own);
    }
}
