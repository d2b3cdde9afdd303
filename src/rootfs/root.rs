//! The container's root directory, with what the steps that work on it have to remember for each other.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::resolve::Closed;
use super::sources::{self, propagate};
use crate::error::{Context, Result};
use crate::namespaces::Here;
use crate::sys::mount::{
    self, Attr, Depth, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MS_PRIVATE,
};
use crate::sys::{self, fs, task};

/// The container's root directory, attached.
pub(crate) struct Root<'a> {
    fd: OwnedFd,
    /// The root of the host's procfs.
    pub(super) proc: BorrowedFd<'a>,
    /// Descriptors that are no longer needed. They are closed together, because each system call counts.
    finished: RefCell<Vec<OwnedFd>>,
    /// Mounts that become read-only as soon as everything is in them, each with its place in the configuration.
    pub(super) filling: Vec<(OwnedFd, String)>,
    /// The bind mounts that no link may lead into.
    pub(super) bounds: Vec<Bound>,
    /// A link has led a directory or a peer elsewhere, so that a path without links may lead into it.
    pub(super) displaced: bool,
    /// The device nodes that the runtime has made ahead, while they are attached.
    pub(super) nodes: Option<OwnedFd>,
    /// The process is in a root-only mount namespace.
    pub(super) root_only: Option<RootOnly>,
}

/// The most descriptors that wait to be closed: the container's limit on open files may hold already.
const FINISHED_MAX: usize = 64;

/// A bind mount that is attached.
pub(super) struct Bound {
    pub(super) closed: Closed,
    pub(super) place: String,
    /// It is a peer of the host's mount: what is mounted in it appears on the host.
    pub(super) peer: bool,
}

/// The root-only mount namespace that the process is in, and the host's, which it came from.
pub(super) struct RootOnly {
    pub(super) host: Here,
    pub(super) own: OwnedFd,
}

impl RootOnly {
    /// Calls `act` in the host's mount namespace. Afterwards the working directory is the root.
    pub(super) fn outside<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.host.back()?;
        let result = act();
        task::setns(self.own.as_fd(), libc::CLONE_NEWNS)?;
        result
    }
}

impl<'a> Root<'a> {
    pub(super) fn new(fd: OwnedFd, proc: BorrowedFd<'a>, root_only: Option<RootOnly>) -> Self {
        let (finished, filling, bounds) = (RefCell::default(), Vec::new(), Vec::new());
        Self { fd, proc, finished, filling, bounds, displaced: false, nodes: None, root_only }
    }

    /// Returns a copy of the host's tree at a path. It is never a peer of the host's mount: what would be mounted on it, a
    /// second mask for example, would appear there.
    pub(super) fn copy_of_host(&self, path: &Path, depth: Depth) -> Result<OwnedFd> {
        let copy = || Ok(mount::open_tree_clone(fs::CWD, path, depth)?);
        let Some(root_only) = &self.root_only else { return copy() };
        let tree = root_only.outside(copy)?;
        propagate(tree.as_fd(), &[sources::ALL_SLAVE])?;
        Ok(tree)
    }

    #[must_use]
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes another mount the root.
    pub(super) fn replace(&mut self, tree: OwnedFd) {
        let before = std::mem::replace(&mut self.fd, tree);
        self.close_later(before);
    }

    /// Makes the mounts read-only that had to be filled first.
    pub(super) fn close_filled(&mut self) -> Result<()> {
        let read_only = Attr { set: MOUNT_ATTR_RDONLY, ..Attr::default() };
        for (fd, place) in std::mem::take(&mut self.filling) {
            mount::mount_setattr(fd.as_fd(), Depth::One, &read_only).context(place)?;
            self.close_later(fd);
        }
        Ok(())
    }

    /// Keeps a descriptor that is no longer needed until several can be closed together.
    pub(super) fn close_later(&self, fd: OwnedFd) {
        let mut finished = self.finished.borrow_mut();
        finished.push(fd);
        if finished.len() >= FINISHED_MAX {
            fs::close_together(finished.split_off(0));
        }
    }

    /// Closes all other descriptors.
    pub(super) fn into_fd(self) -> OwnedFd {
        let mut finished = self.finished.into_inner();
        if let Some(RootOnly { host, own }) = self.root_only {
            finished.extend(host.into_descriptors().into_iter().chain([own]));
        }
        fs::close_together(finished);
        self.fd
    }
}

/// The attributes of a mount of device nodes.
pub(super) const NODES: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;

/// The attributes of a device node of the host that is bind-mounted. The device can be written to, but the container cannot
/// change the mode and the owner of the host's node. What the host mounts on its node later does not appear on the
/// container's.
pub(super) const HOSTS_NODE: Attr =
    Attr { set: NODES | MOUNT_ATTR_RDONLY, clear: 0, propagation: MS_PRIVATE };

/// Makes an empty file system. It has room for its root directory only: a process that may mount can make it writable again.
pub(super) fn empty_directory() -> sys::Result<OwnedFd> {
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    let options = [("mode", "0555"), ("nr_inodes", "1"), ("nr_blocks", "1")];
    mount::new_filesystem("tmpfs", &options, attributes)
}
