//! The device nodes of a container with a user namespace, where the kernel lets no process make any. The
//! runtime makes them ahead, with the owner and the permissions of the configuration.
//!
//! They are made in a file system of their own that has no path on the host. It is attached in the
//! container's mount namespace, over the container's state directory, only while the container process
//! takes a copy of each node. Before Linux 6.15 the kernel copies no mount that is not attached. What the
//! container gets is the nodes alone: no mount there has the directory.
//!
//! One descriptor goes to the container process, since the nodes of a privileged container can be more than
//! a process may have open. The default devices are not among them. The host's nodes of these are open to
//! everybody, and the common container has no others.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::root::{NODES, Root};
use super::sources::Sources;
use super::{Device, Plan};
use crate::error::{Context, Result};
use crate::log;
use crate::namespaces::idmap::{self, IdMap};
use crate::sys::mount::{self, Depth};
use crate::sys::{self, credentials, fs, task};
use crate::trace;

impl Plan {
    /// Returns whether the runtime makes this node.
    pub(super) fn is_ahead(&self, device: &Device) -> bool {
        self.facts.makes_nodes && !device.default && !device.is_fifo() && !self.must_exist(device)
    }

    /// Returns whether the runtime makes any node.
    pub(super) fn has_nodes_ahead(&self) -> bool {
        self.devices.iter().any(|device| self.is_ahead(device))
    }
}

/// Returns the name of a node among the nodes that were made ahead.
fn name(index: usize) -> PathBuf {
    index.to_string().into()
}

impl Sources {
    /// Makes the nodes, in the runtime, which has entered the container's mount namespace. `maps` are the user and group id
    /// maps of the container's user namespace. `directory` is one of the host that nothing of the container is in.
    pub(crate) fn make_nodes(&mut self, plan: &Plan, maps: [&[IdMap]; 2], directory: &Path) -> Result<()> {
        if !plan.has_nodes_ahead() {
            return Ok(());
        }
        let _phase = trace::phase("make device nodes");
        // The container's root may search it, and nothing more.
        let mut options = vec![("source", "devices"), ("mode", "711")];
        options.extend(plan.facts.mount_label.as_deref().map(|label| ("context", label)));
        let nodes = mount::new_filesystem("tmpfs", &options, NODES)?;
        let umask = credentials::umask(0);
        let mut ahead = plan.devices.iter().enumerate().filter(|(_, device)| plan.is_ahead(device));
        let made = ahead.try_for_each(|(index, device)| {
            make(nodes.as_fd(), &name(index), device, maps).with_context(|| device.shown())
        });
        credentials::umask(umask);
        made?;
        // If the container joins a user namespace, the mounts here can be peers of the host's.
        mount::make_all_slave()?;
        let directory = fs::open(fs::CWD, directory, fs::O_PATH | fs::O_DIRECTORY, 0)?;
        mount::move_mount(nodes.as_fd(), directory.as_fd())?;
        self.nodes = Some(nodes);
        Ok(())
    }
}

/// Makes one node. It is left out if the runtime may not make it.
fn make(dir: BorrowedFd, name: &Path, device: &Device, maps: [&[IdMap]; 2]) -> Result<()> {
    match fs::mknodat(dir, name, device.mode(), device.number()) {
        // Without CAP_MKNOD, or forbidden by the device filter of a container around the runtime.
        Err(e) if e.errno == Errno::EPERM => return Ok(()),
        made => made?,
    }
    // Without a mapping, the owner is the host's root, who is nobody in the container.
    let mapped = |map, id: Option<u32>, member| {
        let host = idmap::to_host(map, id.unwrap_or(0));
        if let (Some(id), None) = (id, host) {
            let what = "is not mapped in the container's user namespace, and the node belongs to nobody";
            log::warn(format!("{}.{member}: {id} {what}", device.place));
        }
        host.unwrap_or(0)
    };
    let (uid, gid) = (mapped(maps[0], device.uid, "uid"), mapped(maps[1], device.gid, "gid"));
    Ok(fs::chown(dir, name, uid, gid)?)
}

impl Root<'_> {
    /// Returns a copy of a node that the runtime has made ahead, or `None` if it could not make that node.
    pub(super) fn ahead(&self, index: usize) -> Result<Option<OwnedFd>> {
        let Some(nodes) = &self.nodes else { return Ok(None) };
        match mount::open_tree_clone(nodes.as_fd(), &name(index), Depth::One) {
            Err(e) if e.errno == Errno::ENOENT => Ok(None),
            copy => Ok(Some(copy?)),
        }
    }

    /// Detaches the nodes. The copies of them remain. Afterwards the working directory is that of the detached file system.
    pub(super) fn detach_nodes(&mut self) -> sys::Result<()> {
        let Some(nodes) = self.nodes.take() else { return Ok(()) };
        task::fchdir(nodes.as_fd())?;
        mount::detach_here()
    }
}
