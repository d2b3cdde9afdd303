//! The targets inside the root file system at which something is attached, masked or made.
//!
//! The image may have a link anywhere on the way to a target. A link may lead through the image and into new
//! mounts of corten, as /var/run does. It must not lead a mount into a volume that is shared back, because
//! the mount would appear on the host, and stay. It must not lead a device node into any volume, nor anything
//! to the root. A path that config.json names without a link is used, also inside a shared volume.
//!
//! The alternative, which was refused, attaches such volumes as private mounts and lets them join the host's
//! peer groups last (`MOVE_MOUNT_SET_GROUP`). It needs Linux 5.15, a call for each mount below the volume,
//! and loses what the host mounts in between.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::resolve::{self, Closed, End, Missing, Walked};
use super::root::{Bound, Root};
use super::{Kind, Mount, Plan, mounts, sources};
use crate::error::{Context, Kind as Reason, Result, fail};
use crate::sys::{self, fs};

/// The mounts that no link may lead into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shut {
    /// The bind mounts that are peers of the host's mounts.
    Peers,
    /// All bind mounts.
    Binds,
    /// All bind mounts. In addition, no link of the image is followed to another place.
    Links,
}

/// A target that was reached.
pub(super) struct Reached {
    pub(super) fd: OwnedFd,
    /// The place inside the root, without links.
    pub(super) path: PathBuf,
    /// Links of the image led there.
    pub(super) linked: bool,
}

/// The directory that a new file system covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Covered {
    /// It existed.
    OfImage,
    /// It was made as the mount point.
    New,
}

impl Reached {
    pub(super) fn is_root(&self) -> bool {
        self.path == Path::new("/")
    }
}

/// The files of procfs that engines cover with their own, as LXCFS does. runc allows the same ones.
const COVERED: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS_MAGIC: i64 = 0x1cd1;

impl Root<'_> {
    /// Opens a path. If it does not exist, makes it as `missing` says, or fails with ENOENT.
    pub(super) fn reach(&self, path: &Path, mut missing: Option<Missing>, shut: Shut) -> Result<Reached> {
        // Without a link the path is the place, unless a link has led a volume there.
        let certain = if shut == Shut::Links { self.bounds.is_empty() } else { !self.displaced };
        let plain = match missing.filter(|_| certain) {
            Some(last) => resolve::open_or_make_plain(self.fd(), path, last),
            None => resolve::open_plain(self.fd(), path),
        };
        match plain {
            Ok(fd) if certain => return Ok(Reached { fd, path: resolve::words(path), linked: false }),
            // There is a link. The links that the kernel makes lead to existing files.
            Err(e) if e.errno == Errno::ELOOP && shut == Shut::Links => missing = None,
            Err(e) if e.errno != Errno::ELOOP && missing.is_none() => return Err(e.into()),
            _ => {}
        }
        self.walk(path, missing, shut, End::Followed)
    }

    /// Opens an existing path. A link at its end is opened itself.
    fn reach_link(&self, path: &Path) -> Result<Reached> {
        self.walk(path, None, Shut::Peers, End::Kept)
    }

    fn walk(&self, path: &Path, missing: Option<Missing>, shut: Shut, end: End) -> Result<Reached> {
        let bounds = || self.bounds.iter().filter(|bound| shut != Shut::Peers || bound.peer);
        let closed: Vec<Closed> = bounds().map(|bound| bound.closed.clone()).collect();
        match resolve::walk(self.fd(), path, missing, &closed, end)? {
            Walked::At { path, linked: true, .. } if shut == Shut::Links => {
                let what =
                    format!("a link in the image leads to {}, and none is followed here", path.display());
                Err(fail(Reason::Config, what))
            }
            Walked::At { fd, path, linked } => Ok(Reached { fd, path, linked }),
            Walked::Astray(index) => {
                let bound = bounds().nth(index).context("a mount that is not known")?;
                Err(refuse(bound))
            }
        }
    }

    /// Returns whether mounts in one of the bind mounts appear on the host.
    pub(super) fn has_peers(&self) -> bool {
        self.bounds.iter().any(|bound| bound.peer)
    }

    /// Opens the destination of a mount, and makes it if it does not exist.
    pub(super) fn target(&self, mount: &Mount, missing: Missing) -> Result<Reached> {
        let reached = match &mount.kind {
            // Programs trust what they read in these. Therefore no link of the image may lead them elsewhere (CVE-2019-19921).
            Kind::New { fstype, .. } if fstype == "proc" || fstype == "sysfs" => self
                .reach(&mount.destination, Some(missing), Shut::Links)
                .map_err(|e| match sys::errno(&e) {
                    // The directory could not be made.
                    Some(Errno::ENOSPC | Errno::EROFS | Errno::EACCES | Errno::EPERM | Errno::EDQUOT) => e,
                    _ => e.context(format!("filesystem {fstype:?} must be mounted on ordinary directory")),
                })
                .map_err(unmade)?,
            _ if mount.options.keep_target => {
                let reached = self.reach_link(&mount.destination).context("dest-nofollow")?;
                // The kernel makes the links in these. crun refuses the same file systems.
                let magic = fs::filesystem_magic(reached.fd.as_fd())?;
                if [libc::PROC_SUPER_MAGIC, libc::SYSFS_MAGIC, DEVPTS_MAGIC].contains(&magic) {
                    let what = "dest-nofollow: a place in procfs, sysfs or devpts cannot be covered";
                    return Err(fail(Reason::Config, what));
                }
                reached
            }
            _ => self.reach(&mount.destination, Some(missing), Shut::Peers).map_err(unmade)?,
        };
        self.check(mount, &reached)?;
        Ok(reached)
    }

    /// Opens the destination of a new tmpfs. Also returns whether the image has it: a directory that is made here has
    /// nothing that a tmpfs takes over.
    pub(super) fn tmpfs_target(&self, mount: &Mount) -> Result<(Reached, Covered)> {
        match self.find(&mount.destination)? {
            Some(reached) => {
                self.check(mount, &reached)?;
                Ok((reached, Covered::OfImage))
            }
            None => Ok((self.target(mount, Missing::Directory)?, Covered::New)),
        }
    }

    /// Opens the destination of a new file system. Also returns the option that a tmpfs gets in addition to its own: the mode of
    /// the directory that it covers, as with other runtimes, unless that directory is new.
    pub(super) fn new_target(&self, mount: &Mount, fstype: &str) -> Result<(Reached, Option<String>)> {
        if fstype != "tmpfs"
            || mount.options.keep_target
            || mount.options.data.iter().any(|option| option.starts_with("mode="))
        {
            return Ok((self.target(mount, Missing::Directory)?, None));
        }
        let (reached, covered) = self.tmpfs_target(mount)?;
        if covered == Covered::New {
            return Ok((reached, None));
        }
        let mode = fs::fstat(reached.fd.as_fd())?.st_mode & 0o7777;
        Ok((reached, Some(format!("mode={mode:o}"))))
    }

    /// Makes a link of the container. One with the same target may exist.
    pub(super) fn link(&self, destination: &Path, target: &Path) -> Result<()> {
        let (Some(parent), Some(name)) = (destination.parent(), destination.file_name().map(Path::new))
        else {
            return Err(fail(Reason::Config, "copy-symlink: the destination has no name for a link"));
        };
        // As for device nodes: no link of the image leads to a place in a volume, where the link would be made on the host.
        let parent = self.reach(parent, Some(Missing::Directory), Shut::Binds)?;
        resolve::make_link(parent.fd.as_fd(), name, target).map(drop)
    }

    /// Opens a path, or returns `None` if it does not exist. It is opened a second time after an error: one wrong ENOENT would
    /// leave a mask out.
    pub(super) fn find(&self, path: &Path) -> Result<Option<Reached>> {
        let reach = || self.reach(path, None, Shut::Peers);
        match reach().or_else(|_| reach()) {
            Err(e) if matches!(sys::errno(&e), Some(Errno::ENOENT | Errno::ENOTDIR)) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Refuses the root and procfs if only a link leads there.
    fn check(&self, mount: &Mount, reached: &Reached) -> Result<()> {
        let refuse = |what: String| Err(fail(Reason::Config, what));
        // Everything after a mount on the root must be inside that mount. Therefore the path and the place must agree.
        if reached.is_root() != mounts::names(&mount.destination, "/") {
            return refuse(format!("a link in the image leads to {}", reached.path.display()));
        }
        if !reached.linked {
            return Ok(());
        }
        let of_procfs = fs::filesystem_magic(reached.fd.as_fd())? == libc::PROC_SUPER_MAGIC;
        if (of_procfs || reached.path.starts_with("/proc")) && !self.may_be_covered(reached.fd.as_fd())? {
            return refuse(format!("a link in the image leads to {}, in /proc", reached.path.display()));
        }
        Ok(())
    }

    fn may_be_covered(&self, file: BorrowedFd) -> Result<bool> {
        let identity = |file: BorrowedFd| -> sys::Result<_> {
            let stat = fs::fstat(file)?;
            Ok((fs::mount_id(file, Path::new(""))?, stat.st_dev, stat.st_ino))
        };
        let wanted = identity(file)?;
        let same = |path: &str| {
            let found = resolve::open(self.fd(), Path::new(path));
            found.and_then(|found| identity(found.as_fd())).is_ok_and(|found| found == wanted)
        };
        Ok(COVERED.iter().any(|path| same(path)))
    }

    /// Records a bind mount that was attached if links must be kept out of it: a directory, a peer of the host's mount, or a
    /// mount that a link has led elsewhere.
    pub(super) fn note(
        &mut self,
        plan: &Plan,
        mount: &Mount,
        tree: BorrowedFd,
        directory: bool,
        linked: bool,
    ) -> sys::Result<()> {
        let peer = sources::is_peer(plan, mount);
        if directory || peer || linked {
            let id = fs::mount_id(tree, Path::new(""))?;
            let closed = Closed { mount: id, destination: resolve::words(&mount.destination) };
            self.bounds.push(Bound { closed, place: mount.place.clone(), peer });
            self.displaced |= linked && (directory || peer);
        }
        Ok(())
    }
}

/// Adds to the error of a mount point that could not be made why it had to be.
fn unmade(error: anyhow::Error) -> anyhow::Error {
    match sys::errno(&error) {
        Some(Errno::EROFS) => {
            error.context("the mount point does not exist, and its file system is read-only")
        }
        Some(Errno::EACCES) => {
            error.context("the mount point does not exist, and the container's root may not make it")
        }
        _ => error,
    }
}

/// Returns the error for a link that leads into a bind mount.
fn refuse(bound: &Bound) -> anyhow::Error {
    let (place, destination) = (&bound.place, bound.closed.destination.display());
    let why = match bound.peer {
        true => "whose mounts appear on the host (rootfsPropagation and the mount are shared)",
        false => "a volume, where nothing is made or changed",
    };
    fail(Reason::Config, format!("a link in the image leads into {place} {destination}, {why}"))
}
