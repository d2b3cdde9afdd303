//! The namespaces of a container's first process that its mounts are changed in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;

use crate::error::{Kind, Result, fail};
use crate::sys::{self, fs, task};

/// The mount namespace of a container's first process, and its user namespace if the container has one.
///
/// The process may have entered others since: every program may make a user namespace, and a mount namespace
/// in that. Mounts there are not protected from the program, and what the runtime makes there would be made
/// with rights that the program lacks. Therefore the owner of the mount namespace is checked. The descriptors
/// are those that are entered later, so that the process cannot change them after the check.
pub(crate) struct First {
    pub(crate) mount: OwnedFd,
    pub(crate) user: Option<OwnedFd>,
}

impl First {
    /// Opens the namespaces of process `pid`, whose pidfd is `process`. `kinds` are those that the container has of its own.
    pub(crate) fn open(pid: i32, process: BorrowedFd, kinds: i32, proc: BorrowedFd) -> Result<Self> {
        let open = |name: &str| fs::open(proc, Path::new(name), fs::O_RDONLY, 0);
        let of_process = |kind: &str| open(&format!("{pid}/ns/{kind}"));
        let mount = of_process("mnt")?;
        let has_user = kinds & libc::CLONE_NEWUSER != 0;
        let user = has_user.then(|| of_process("user")).transpose()?;
        // The id may belong to another process once this one has ended.
        if task::poll_readable(&[process], Some(Instant::now()))?.contains(&true) {
            return Err(fail(Kind::WrongStatus, "container not running"));
        }
        let own = match open("self/ns/user") {
            // A kernel without user namespaces.
            Err(e) if e.errno == Errno::ENOENT => return Ok(Self { mount, user }),
            own => own?,
        };
        let same = |a: BorrowedFd, b: BorrowedFd| -> sys::Result<bool> {
            let (a, b) = (fs::fstat(a)?, fs::fstat(b)?);
            Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
        };
        let owner = visible(task::namespace_owner(mount.as_fd()))?;
        let expected = match (&user, &owner) {
            (_, None) => false,
            (None, Some(owner)) => same(owner.as_fd(), own.as_fd())?,
            (Some(user), Some(owner)) => {
                let parent = visible(task::namespace_parent(user.as_fd()))?;
                let below = parent.map_or(Ok(false), |parent| same(parent.as_fd(), own.as_fd()))?;
                below && same(owner.as_fd(), user.as_fd())?
            }
        };
        if !expected {
            let what = "the container's first process has entered a mount namespace of its own making, \
                        whose user namespace is not the container's";
            return Err(fail(Kind::Unsupported, what));
        }
        Ok(Self { mount, user })
    }
}

/// Returns `None` for a user namespace that is neither the caller's nor below it: the kernel does not give that away.
fn visible(found: sys::Result<OwnedFd>) -> sys::Result<Option<OwnedFd>> {
    match found {
        Err(e) if e.errno == Errno::EPERM => Ok(None),
        found => found.map(Some),
    }
}
