//! The container's terminal: a pair from its own devpts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::apply::Root;
use super::resolve::{self, Missing};
use super::targets::Shut;
use crate::error::{Context, Kind, Result, fail};
use crate::sys::{fs, mount, tty};

/// The two ends of a pseudo-terminal.
pub struct Terminal {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

const PTMX: &str = "/dev/pts/ptmx";
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Opens a new pair in the container whose root directory is `root`. That the file is what it should be is checked, and
/// the slave is opened by the master, not by its name: the container may have prepared both (CVE-2025-52565).
pub fn terminal(root: BorrowedFd) -> Result<Terminal> {
    let open = || -> Result<Terminal> {
        let master = resolve::open_with(root, Path::new(PTMX), fs::O_RDWR | libc::O_NOCTTY)?;
        let device = fs::fstat(master.as_fd())?.st_rdev;
        if device != libc::makedev(5, 2) || fs::filesystem_magic(master.as_fd())? != DEVPTS_MAGIC {
            return Err(fail(Kind::Config, "is not a devpts multiplexer"));
        }
        let slave = tty::open_slave(master.as_fd())?;
        Ok(Terminal { master, slave })
    };
    open().with_context(|| format!("process.terminal: {PTMX}"))
}

impl Root {
    /// Opens the container's terminal and makes it its /dev/console.
    pub fn console(&self) -> Result<Terminal> {
        let terminal = terminal(self.fd())?;
        let bind = || -> Result<()> {
            let tree = mount::open_tree_clone(terminal.slave.as_fd(), Path::new(""), false)?;
            let target = self.reach(Path::new("/dev/console"), Some(Missing::File), Shut::Peers)?;
            Ok(mount::move_mount(tree.as_fd(), target.fd.as_fd())?)
        };
        bind().context("process.terminal: /dev/console")?;
        Ok(terminal)
    }
}
