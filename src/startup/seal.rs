//! Sealing: a container must not reach the runtime's executable file (CVE-2019-5736: a process in the container opened the
//! runtime through /proc/PID/exe and wrote to it).
//!
//! The runtime executes a detached read-only copy of the mount instead of the file itself. A file that is opened through
//! /proc/PID/exe then lies on a read-only mount that no other process can reach and change. Where that is not permitted, the
//! executable runs from a sealed copy in memory. Only the commands that put a process into a container pay for it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::error::{Context, Result};
use crate::host;
use crate::process::env;
use crate::sys::{self, args, fs, mount, task};
use crate::trace;

/// Executes the runtime again from a sealed copy, unless it already runs from one.
pub fn ensure() -> Result<()> {
    let _phase = trace::phase("seal");
    let own = Path::new("/proc/self/exe");
    // If /proc belongs to another pid namespace, that is the better error.
    if fs::never_written(own).map_err(|e| host::procfs().err().unwrap_or_else(|| e.into()))? {
        return Ok(());
    }
    let file = match read_only_copy(own) {
        Ok(file) => file,
        // A user may not copy mounts.
        Err(_) => fs::sealed_copy(own).context("copying our executable into memory")?,
    };
    Err(task::fexecve(file.as_fd(), &trace::carried(args::get()), &env::own()))
        .context("executing our sealed copy")
}

fn read_only_copy(path: &Path) -> sys::Result<OwnedFd> {
    let copy = mount::open_tree_clone(fs::CWD, path, false)?;
    let attr = mount::Attr { set: mount::MOUNT_ATTR_RDONLY, ..mount::Attr::default() };
    mount::mount_setattr(copy.as_fd(), false, &attr)?;
    Ok(copy)
}
