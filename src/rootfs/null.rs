//! The host's null device as a container gets it: as the mask of a file, and as a standard stream.
//!
//! The container's own /dev/null could be any file (CVE-2025-31133). Root of a container without a user namespace owns the
//! host's node. On a read-only mount it can read and write the device, but not change the node's mode, owner or times, which
//! would close /dev/null to the users of the host.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::resolve;
use super::root::HOSTS_NODE;
use crate::error::{Kind, Result, fail};
use crate::sys::mount::{self, Depth};
use crate::sys::{self, fs, tty};
use crate::trace;

pub(super) const PATH: &str = "/dev/null";

/// Returns whether a file is the null device.
pub(crate) fn is_null(stat: &libc::stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3)
}

/// Gives a detached copy of the host's /dev/null the attributes for a container.
pub(super) fn for_container(copy: OwnedFd) -> Result<OwnedFd> {
    if !is_null(&fs::fstat(copy.as_fd())?) {
        return Err(fail(Kind::Unsupported, "the host's /dev/null is not the null device"));
    }
    mount::mount_setattr(copy.as_fd(), Depth::One, &HOSTS_NODE)?;
    Ok(copy)
}

/// Opens the container's /dev/null, in a process whose root is the container's. Returns `None` if that is no null device: an
/// image or another process in the container may have any file there.
pub(crate) fn of_container(proc: BorrowedFd) -> Option<OwnedFd> {
    let root = fs::open(fs::CWD, Path::new("/"), fs::O_PATH | fs::O_DIRECTORY, 0).ok()?;
    let found = resolve::open(root.as_fd(), Path::new(PATH)).ok()?;
    let is_null = fs::fstat(found.as_fd()).is_ok_and(|stat| is_null(&stat));
    if is_null { fs::reopen(proc, found.as_fd(), libc::O_RDWR).ok() } else { None }
}

/// Replaces the standard streams of this process that are the null device, before a container's process inherits them. That
/// process then takes [the container's](of_container), whose path programs can see and open. This one remains where the
/// container has another file there.
///
/// Without the right to copy mounts they stay. Such a user is not root of the host, so root of the container does not own the
/// node.
pub(crate) fn replace_streams(proc: BorrowedFd) -> Result<()> {
    let _phase = trace::phase("standard streams");
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut null = Vec::new();
    for stream in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        if is_null(&fs::fstat(stream)?) {
            null.push(stream);
        }
    }
    if null.is_empty() {
        return Ok(());
    }
    let copy = || for_container(mount::open_tree_clone(fs::CWD, Path::new(PATH), Depth::One)?);
    let copy = match copy() {
        Err(e) if matches!(sys::errno(&e), Some(Errno::EPERM | Errno::ENOSYS)) => return Ok(()),
        copy => copy?,
    };
    let file = fs::reopen(proc, copy.as_fd(), libc::O_RDWR)?;
    null.into_iter().try_for_each(|stream| tty::replace(file.as_fd(), stream.as_raw_fd()))?;
    // The kernel takes long to close the last descriptor of a detached mount. It does so when this process ends.
    std::mem::forget(copy);
    Ok(())
}
