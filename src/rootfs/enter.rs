//! Hiding what the container must not see or change, and making its root file system the root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::apply::Root;
use super::moved::move_over_root;
use super::resolve::Missing;
use super::targets::Shut;
use super::{MountNamespace, Plan};
use crate::error::{Context, Kind, Result, fail};
use crate::sys::mount::{
    self, Attr, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
};
use crate::sys::{self, credentials, fs, task};
use crate::trace;

const READ_ONLY: Attr = Attr { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0 };
/// What a device node of the host's gets that is bind-mounted.
pub(super) const NODE: Attr = Attr { set: MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, clear: 0, propagation: 0 };

impl Root {
    /// Masks, makes read-only, and changes the root, after which only the container's files can be reached. The working
    /// directory is the new root, whose descriptor is returned.
    pub fn enter(mut self, plan: &Plan) -> Result<OwnedFd> {
        let _phase = trace::phase("enter the root");
        self.close_filled()?;
        self.make_cwd(plan)?;
        self.mask(plan)?;
        for path in &plan.readonly_paths {
            self.make_read_only(path).with_context(|| format!("linux.readonlyPaths {}", path.display()))?;
        }
        if plan.readonly {
            mount::mount_setattr(self.fd(), false, &READ_ONLY).context("root.readonly")?;
        }
        match plan.facts.mount_namespace {
            MountNamespace::Host => {
                task::fchdir(self.fd())?;
                task::chroot_here()?;
            }
            _ if self.alone.is_some() => task::chdir_root()?,
            _ if plan.facts.no_pivot => move_over_root(self.fd()).context("--no-pivot")?,
            _ => {
                let _phase = trace::phase("pivot_root");
                // With both paths the same, the old root comes to lie on the new one, and is what "." then unmounts.
                task::fchdir(self.fd())?;
                mount::pivot_root_here()?;
                mount::detach_here()?;
                task::chdir_root()?;
            }
        }
        if let Some(propagate) = plan.propagation {
            let attr = Attr { propagation: propagate.flag, ..Attr::default() };
            mount::mount_setattr(self.fd(), false, &attr).context("linux.rootfsPropagation")?;
        }
        Ok(self.into_fd())
    }

    /// Makes the working directory where that could be a volume whose mounts appear on the host: only here is it known which
    /// these are. Otherwise it is made when the process goes there.
    fn make_cwd(&self, plan: &Plan) -> Result<()> {
        let Some(cwd) = plan.cwd.as_ref().filter(|_| self.has_peers()) else { return Ok(()) };
        let umask = credentials::umask(0);
        let made = self.reach(cwd, Some(Missing::Directory), Shut::Peers);
        credentials::umask(umask);
        self.spend(made.with_context(|| format!("process.cwd {}", cwd.display()))?.fd);
        Ok(())
    }

    /// Masks files with the host's /dev/null and directories with one empty file system.
    fn mask(&self, plan: &Plan) -> Result<()> {
        let (mut null, mut empty): (Option<OwnedFd>, Option<OwnedFd>) = (None, None);
        for path in &plan.masked {
            let at = || format!("linux.maskedPaths {}", path.display());
            let _phase = trace::phase_of("mask", || path.display());
            let Some(target) = self.find(path).with_context(at)? else { continue };
            // It would lie on the root, with everything below still in reach by the descriptor of the root.
            if target.is_root() {
                return Err(fail(Kind::Config, "leads to /, which cannot be masked")).with_context(at);
            }
            let is_directory = fs::is_directory(target.fd.as_fd())?;
            let first = if is_directory { &mut empty } else { &mut null };
            // Only an attached tree can be copied before Linux 6.15.
            let cover = match first {
                Some(first) => {
                    mount::open_tree_clone(first.as_fd(), Path::new(""), false).map_err(Into::into)
                }
                None if is_directory => empty_directory().map_err(Into::into),
                None => self.host_null(),
            };
            let cover = cover.with_context(at)?;
            mount::move_mount(cover.as_fd(), target.fd.as_fd()).with_context(at)?;
            self.spend(target.fd);
            match first {
                Some(_) => self.spend(cover),
                None => *first = Some(cover),
            }
        }
        [null, empty].into_iter().flatten().for_each(|fd| self.spend(fd));
        Ok(())
    }

    /// Mounts a path on itself, read-only with all below. The root is a mount already, and nothing can lie on it.
    fn make_read_only(&self, path: &Path) -> Result<()> {
        let _phase = trace::phase_of("make read-only", || path.display());
        let Some(target) = self.find(path)? else { return Ok(()) };
        if target.is_root() {
            return Ok(mount::mount_setattr(self.fd(), true, &READ_ONLY)?);
        }
        let copy = mount::open_tree_clone(target.fd.as_fd(), Path::new(""), true)?;
        mount::mount_setattr(copy.as_fd(), true, &READ_ONLY)?;
        mount::move_mount(copy.as_fd(), target.fd.as_fd())?;
        self.spend(copy);
        self.spend(target.fd);
        Ok(())
    }

    /// The host's /dev/null, not the container's, which may be anything (CVE-2025-31133).
    fn host_null(&self) -> Result<OwnedFd> {
        let null = self.of_host(Path::new("/dev/null"), false)?;
        let stat = fs::fstat(null.as_fd())?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
            return Err(fail(Kind::Unsupported, "the host's /dev/null is not the null device"));
        }
        mount::mount_setattr(null.as_fd(), false, &NODE)?;
        Ok(null)
    }
}

/// An empty file system with room for its root directory only: who may mount can make it writable again.
pub(super) fn empty_directory() -> sys::Result<OwnedFd> {
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    let options = [("mode", "0555"), ("nr_inodes", "1"), ("nr_blocks", "1")];
    mount::new_filesystem("tmpfs", &options, attributes)
}

/// Takes away what [`super::mount_all`] attached in the host's mount namespace: one mount, or more if the configuration
/// has mounts on the root. `under` is the mount that was there before: an engine's own, perhaps, which stays.
pub fn detach(rootfs: &Path, under: u64) -> Result<()> {
    loop {
        match fs::mount_id(fs::CWD, rootfs) {
            Ok(now) if now == under => return Ok(()),
            Err(e) if e.errno == Errno::ENOENT => return Ok(()),
            Err(e) => return Err(e.into()),
            Ok(_) => mount::detach(rootfs)?,
        }
    }
}

/// What is mounted where in a namespace that is joined, before we are in it.
pub struct Before {
    root: u64,
    under: u64,
}

impl Before {
    /// Of the namespace that the process is in. Nothing, where there is no such directory: nothing can be mounted on it
    /// then.
    #[must_use]
    pub fn of(rootfs: &Path) -> Option<Self> {
        let id = |path| fs::mount_id(fs::CWD, path).ok();
        Some(Self { root: id(Path::new("/"))?, under: id(rootfs)? })
    }

    /// [`detach`], unless the namespace's root has been changed: then the mounts are its root.
    pub fn restore(&self, rootfs: &Path) -> Result<()> {
        if fs::mount_id(fs::CWD, Path::new("/"))? == self.root { detach(rootfs, self.under) } else { Ok(()) }
    }
}
