//! A mount namespace that has the root file system from the beginning and nothing else (`OPEN_TREE_NAMESPACE`, Linux 7.0).
//! None of the host's mounts is copied for the container to leave, which takes time for each: there is no root to change and
//! none to unmount.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::sources::{self, open_binds, propagate};
use super::{Plan, Root, apply, enter};
use crate::error::Result;
use crate::namespaces::Here;
use crate::sys::{fs, mount, task};
use crate::trace;

/// [`mount_all`](super::mount_all) in such a namespace, which the calling process, in the host's, enters. Nothing, if that
/// does not work for whatever reason: then the process is where it was. `plan` is one that
/// [can be alone](Plan::can_be_alone).
pub fn mount_alone(plan: &Plan, proc: BorrowedFd) -> Result<Option<Root>> {
    let _phase = trace::phase("root and mounts, alone");
    let Ok((here, namespace, null, sources)) = (|| -> Result<_> {
        let sources = open_binds(plan, proc, true)?;
        let null = if plan.masked.is_empty() { None } else { Some(enter::host_null()?) };
        Ok((Here::of(proc)?, mount::open_tree_namespace(&plan.path)?, null, sources))
    })() else {
        return Ok(None);
    };
    if task::setns(namespace.as_fd(), libc::CLONE_NEWNS).is_err() {
        return Ok(None);
    }
    let made = (|| {
        let mut root = Root::new(fs::open(fs::CWD, Path::new("/"), fs::O_PATH | fs::O_DIRECTORY, 0)?);
        (root.alone, root.null) = (true, null);
        propagate(root.fd(), &sources::for_root(plan.propagation))?;
        apply::mount_in(&mut root, plan, sources)?;
        Ok::<_, anyhow::Error>(root)
    })();
    match made {
        Ok(root) => {
            here.into_descriptors().into_iter().chain([namespace]).for_each(|fd| root.spend(fd));
            Ok(Some(root))
        }
        // A pinned mount namespace below a source, for one.
        Err(_) => here.back().map(|()| None),
    }
}
