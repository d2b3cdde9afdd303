//! The null device of a container: as the mask of a file, and as a standard stream.
//!
//! Root of a container without a user namespace owns the host's /dev/null. It could change the mode of each mask and of each
//! standard stream that is the host's node, and so close /dev/null to the users of the host. A mask is therefore on a read-only
//! mount, where the device can be read and written, and a stream is a node of the container.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::root::{HOSTS_NODE, NODES};
use crate::error::{Context, Kind, Result, fail};
use crate::sys::mount::{self, Depth};
use crate::sys::{self, credentials, fs, tty};

pub(super) const PATH: &str = "/dev/null";
const NUMBER: u64 = libc::makedev(1, 3);

/// Returns whether a file is the null device.
pub(crate) fn is_null(stat: &libc::stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == NUMBER
}

/// Makes a mask of a detached copy of the host's /dev/null. The container's could be any file (CVE-2025-31133).
pub(super) fn mask(copy: OwnedFd) -> Result<OwnedFd> {
    if !is_null(&fs::fstat(copy.as_fd())?) {
        return Err(fail(Kind::Unsupported, "the host's /dev/null is not the null device"));
    }
    mount::mount_setattr(copy.as_fd(), Depth::One, &HOSTS_NODE)?;
    Ok(copy)
}

/// The owner that the kernel shows if the user namespace does not map it (`overflowuid`). No user in the namespace has the
/// rights of that owner.
const UNMAPPED: u32 = 65534;

/// Opens the container's null device instead of the host's, whose attributes are `host`. The calling process has the root
/// directory of the container and the rights of its root. An image or another process may have any file at /dev/null: then a
/// new node is made, which nobody else sees. Returns `None` if a user namespace prevents that, and does not map the owner of
/// the host's node.
pub(crate) fn of_container(host: &libc::stat, proc: BorrowedFd) -> Result<Option<OwnedFd>> {
    let own = || {
        let file = fs::openat2(fs::CWD, Path::new(PATH), fs::O_PATH, 0, fs::RESOLVE_NO_MAGICLINKS).ok()?;
        let is_null = fs::fstat(file.as_fd()).is_ok_and(|stat| is_null(&stat));
        if is_null { fs::reopen(proc, file.as_fd(), libc::O_RDWR).ok() } else { None }
    };
    match own().map_or_else(new, Ok) {
        Err(e) if e.errno == Errno::EPERM && host.st_uid == UNMAPPED => Ok(None),
        file => file.context("/dev/null is not the null device").map(Some),
    }
}

/// Replaces the standard streams of this process that are the null device by a new node. A restored container gets them.
pub(crate) fn replace_streams() -> Result<()> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut null = None;
    for stream in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        if is_null(&fs::fstat(stream)?) {
            let null = match &null {
                Some(null) => null,
                None => null.insert(new().context("a null device for the container's streams")?),
            };
            tty::replace(null.as_fd(), stream.as_raw_fd())?;
        }
    }
    Ok(())
}

/// Makes and opens a node on a file system of its own.
fn new() -> sys::Result<OwnedFd> {
    let (name, umask) = (Path::new("null"), credentials::umask(0));
    let made = mount::new_filesystem("tmpfs", &[], NODES).and_then(|tmpfs| {
        fs::mknodat(tmpfs.as_fd(), name, libc::S_IFCHR | 0o666, NUMBER)?;
        fs::open(tmpfs.as_fd(), name, libc::O_RDWR | libc::O_NOCTTY, 0)
    });
    credentials::umask(umask);
    made
}
