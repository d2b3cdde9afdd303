//! A mount namespace that has the root file system from the beginning and nothing else (`OPEN_TREE_NAMESPACE`, Linux 7.0).
//! None of the host's mounts is copied for the container to leave, which takes time for each: there is no root to change and
//! none to unmount. For what is the host's the process goes back for a moment, so that mounts come into being in the order in
//! which they are listed, here too.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::sources::{self, propagate};
use super::{Plan, Root, apply};
use crate::error::Result;
use crate::namespaces::Here;
use crate::sys::{fs, mount, task};
use crate::trace;

/// Where the process has come from, and where it is.
pub(super) struct Alone {
    host: Here,
    own: OwnedFd,
}

impl Alone {
    /// Does something in the host's mount namespace. Afterwards the working directory is the root.
    pub(super) fn outside<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.host.back()?;
        let result = act();
        task::setns(self.own.as_fd(), libc::CLONE_NEWNS)?;
        result
    }

    pub(super) fn into_descriptors(self) -> impl Iterator<Item = OwnedFd> {
        self.host.into_descriptors().into_iter().chain([self.own])
    }
}

/// [`mount_all`](super::mount_all) in such a namespace, which the calling process, in the host's, enters. Nothing, if that
/// does not work for whatever reason: then the process is where it was. `plan` is one that
/// [can be alone](Plan::can_be_alone).
pub fn mount_alone<'a>(plan: &Plan, proc: BorrowedFd<'a>) -> Result<Option<Root<'a>>> {
    let _phase = trace::phase("root and mounts, alone");
    let Ok(own) = mount::open_tree_namespace(&plan.path) else { return Ok(None) };
    let host = Here::of(proc)?;
    if task::setns(own.as_fd(), libc::CLONE_NEWNS).is_err() {
        return Ok(None);
    }
    let mut root = Root::new(fs::open(fs::CWD, Path::new("/"), fs::O_PATH | fs::O_DIRECTORY, 0)?, proc);
    root.alone = Some(Alone { host, own });
    let made = propagate(root.fd(), &sources::for_root(plan.propagation))
        .map_err(Into::into)
        .and_then(|()| apply::mount_in(&mut root, plan, plan.mounts.iter().map(|_| None).collect()));
    match (made, &root.alone) {
        (Ok(()), _) => Ok(Some(root)),
        // A pinned mount namespace below a source, for one.
        (Err(_), Some(alone)) => alone.host.back().map(|()| None),
        (Err(e), None) => Err(e),
    }
}
