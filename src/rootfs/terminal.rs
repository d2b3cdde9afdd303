//! The container's terminal: a pair of its own devpts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::resolve::{self, Missing};
use super::root::Root;
use super::targets::Shut;
use crate::error::{Context, Kind, Result, fail};
use crate::sys::mount::{self, Depth};
use crate::sys::{fs, tty};

/// The two ends of a pseudo-terminal.
pub(crate) struct Terminal {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

const PTMX: &str = "/dev/pts/ptmx";
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Opens a new pair in the container whose root directory is `root`. The container may have prepared both names
/// (CVE-2025-52565). Therefore the multiplexer is opened only after it is known to be one, and the slave is opened through the
/// master, not by its name. `proc` is the root of a verified procfs.
pub(crate) fn terminal(root: BorrowedFd, proc: BorrowedFd) -> Result<Terminal> {
    let open = || -> Result<Terminal> {
        let found = resolve::open(root, Path::new(PTMX))?;
        let stat = fs::fstat(found.as_fd())?;
        let is_ptmx = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(5, 2);
        if !is_ptmx || fs::filesystem_magic(found.as_fd())? != DEVPTS_MAGIC {
            return Err(fail(Kind::Config, "is not a devpts multiplexer"));
        }
        let master = fs::reopen(proc, found.as_fd(), fs::O_RDWR)?;
        let slave = tty::open_slave(master.as_fd())?;
        Ok(Terminal { master, slave })
    };
    open().with_context(|| format!("process.terminal: {PTMX}"))
}

impl Root<'_> {
    /// Opens the container's terminal and mounts it on the container's /dev/console.
    pub(crate) fn console(&self) -> Result<Terminal> {
        let terminal = terminal(self.fd(), self.proc)?;
        let bind = || -> Result<()> {
            let tree = mount::open_tree_clone(terminal.slave.as_fd(), Path::new(""), Depth::One)?;
            let target = self.reach(Path::new("/dev/console"), Some(Missing::File), Shut::Peers)?;
            Ok(mount::move_mount(tree.as_fd(), target.fd.as_fd())?)
        };
        bind().context("process.terminal: /dev/console")?;
        Ok(terminal)
    }
}
