//! The root-only mount namespace, which consists of the root file system and nothing else
//! (`OPEN_TREE_NAMESPACE`, Linux 7.0).
//!
//! The container process enters it and mounts there. The kernel copies none of the host's mounts into it,
//! which would take time for each. No root is changed, and none is unmounted. For a series of sources of bind
//! mounts the process returns to the host's mount namespace once, which costs two more setns(2). The mounts
//! are thereby made in the order in which they are listed, here too.
//!
//! If any step fails, the process returns for good and the ordinary path is used instead. Only the ordinary
//! path reports errors.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::root::{Root, RootOnly};
use super::sources::{self, Runtime, Sources, propagate};
use super::{Plan, apply};
use crate::error::Result;
use crate::namespaces::Here;
use crate::sys::{fs, mount, task};
use crate::trace;

/// Does the work of [`mount_all`](super::mount_all) in a root-only mount namespace, which the calling process enters from
/// the host's. Returns `None` if that fails for any reason: then the process is back where it was. `plan` must be one that
/// [can do with it](Plan::can_be_root_only).
pub(crate) fn mount_root_only<'a>(
    plan: &Plan,
    proc: BorrowedFd<'a>,
    runtime: &Runtime,
) -> Result<Option<Root<'a>>> {
    let _phase = trace::phase("root and mounts, root-only");
    let Ok(own) = mount::open_tree_namespace(&plan.path) else { return Ok(None) };
    let host = Here::of(proc)?;
    if task::setns(own.as_fd(), libc::CLONE_NEWNS).is_err() {
        return Ok(None);
    }
    let fd = fs::open(fs::CWD, Path::new("/"), fs::O_PATH | fs::O_DIRECTORY, 0)?;
    let mut root = Root::new(fd, proc, Some(RootOnly { host, own }));
    let made = propagate(root.fd(), &sources::for_root(plan.propagation))
        .map_err(Into::into)
        .and_then(|()| apply::mount_in(&mut root, plan, Sources::none(plan), runtime));
    match (made, &root.root_only) {
        (Ok(()), _) => Ok(Some(root)),
        // For example, a mount namespace is pinned below a source.
        (Err(_), Some(root_only)) => root_only.host.back().map(|()| None),
        (Err(e), None) => Err(e),
    }
}
