//! Sealing: a container must not be able to write to the runtime's executable. In CVE-2019-5736 a process in
//! the container opened it through /proc/PID/exe and wrote to it.
//!
//! A command that puts a process into a container executes a detached read-only copy of its mount instead of
//! the file itself. /proc/PID/exe then leads to a read-only mount that nobody else can reach or change. If
//! mounts may not be copied, the command runs from a sealed copy in memory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::error::{Context, Result};
use crate::host;
use crate::process::env;
use crate::sys::{self, args, fs, mount, task};
use crate::trace;

/// Executes the sealed copy, unless this process runs from it already or its file can never be written to.
pub fn ensure() -> Result<()> {
    let _phase = trace::phase("seal");
    let own = Path::new("/proc/self/exe");
    // If /proc belongs to another pid namespace, that is the better error.
    if fs::never_written(own).map_err(|e| host::procfs().err().unwrap_or_else(|| e.into()))? {
        return Ok(());
    }
    let file = match read_only_copy(own) {
        Ok(file) => file,
        // An unprivileged user may not copy mounts.
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
