//! Sealing: a container must not be able to write to the runtime's executable. In CVE-2019-5736 a process in
//! the container opened it through /proc/PID/exe and wrote to it.
//!
//! `create`, `run` and `exec` first execute themselves again, from a detached read-only copy of the
//! executable's mount. /proc/PID/exe then leads to a read-only mount that nobody else can reach or change. If
//! mounts may not be copied, they run from a sealed memfd. They skip this if the executable can never be
//! written to already.
//!
//! The executable for musl on x86-64 and aarch64 does it in its first instructions (`entry.rs`). On other
//! targets, and if the entry fails, this module seals, and reports what is wrong.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::error::{Context, Result};
use crate::host;
use crate::process::env;
use crate::sys::mount::{self, Depth};
use crate::sys::{self, args, fs, task};
use crate::trace;

/// Executes the sealed copy, unless this process runs from it already or its file can never be written to.
pub(crate) fn ensure() -> Result<()> {
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
    let copy = mount::open_tree_clone(fs::CWD, path, Depth::One)?;
    let attr = mount::Attr { set: mount::MOUNT_ATTR_RDONLY, ..mount::Attr::default() };
    mount::mount_setattr(copy.as_fd(), Depth::One, &attr)?;
    Ok(copy)
}
