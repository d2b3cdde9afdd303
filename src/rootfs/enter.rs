//! Hiding what the container must not see or change, and making its root file system the root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::apply::Root;
use super::moved::move_over_root;
use super::{MountNamespace, Plan, resolve};
use crate::error::{Context, Kind, Result, fail};
use crate::sys::mount::{
    self, Attr, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
};
use crate::sys::{self, fs, task};
use crate::trace;

const READ_ONLY: Attr = Attr { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0 };

impl Root {
    /// Masks, makes read-only, and changes the root, after which only the container's files can be reached. The working
    /// directory is the new root, whose descriptor is returned.
    pub fn enter(mut self, plan: &Plan) -> Result<OwnedFd> {
        let _phase = trace::phase("enter the root");
        self.close_filled()?;
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

    /// Masks files with the host's /dev/null and directories with one empty file system.
    fn mask(&self, plan: &Plan) -> Result<()> {
        let (mut null, mut empty): (Option<OwnedFd>, Option<OwnedFd>) = (None, None);
        for path in &plan.masked {
            let at = || format!("linux.maskedPaths {}", path.display());
            let _phase = trace::phase_of("mask", || path.display());
            let Some(target) = self.find(path).with_context(at)? else { continue };
            let is_directory = fs::is_directory(target.as_fd())?;
            let first = if is_directory { &mut empty } else { &mut null };
            // Only an attached tree can be copied before Linux 6.15.
            let cover = match first {
                Some(first) => {
                    mount::open_tree_clone(first.as_fd(), Path::new(""), false).map_err(Into::into)
                }
                None if is_directory => empty_directory().map_err(Into::into),
                None => self.on_host(host_null),
            };
            let cover = cover.with_context(at)?;
            mount::move_mount(cover.as_fd(), target.as_fd()).with_context(at)?;
            self.spend(target);
            match first {
                Some(_) => self.spend(cover),
                None => *first = Some(cover),
            }
        }
        [null, empty].into_iter().flatten().for_each(|fd| self.spend(fd));
        Ok(())
    }

    /// What there is at a path; nothing, if nothing.
    fn find(&self, path: &Path) -> sys::Result<Option<OwnedFd>> {
        // Asked twice: one wrong answer would leave a mask out.
        match resolve::open(self.fd(), path).or_else(|_| resolve::open(self.fd(), path)) {
            Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Mounts a path on itself, read-only with all below.
    fn make_read_only(&self, path: &Path) -> sys::Result<()> {
        let _phase = trace::phase_of("make read-only", || path.display());
        let Some(target) = self.find(path)? else { return Ok(()) };
        let copy = mount::open_tree_clone(target.as_fd(), Path::new(""), true)?;
        mount::mount_setattr(copy.as_fd(), true, &READ_ONLY)?;
        mount::move_mount(copy.as_fd(), target.as_fd())?;
        self.spend(copy);
        self.spend(target);
        Ok(())
    }
}

/// The host's /dev/null, not the container's, which may be anything (CVE-2025-31133).
fn host_null() -> Result<OwnedFd> {
    let null = mount::open_tree_clone(fs::CWD, Path::new("/dev/null"), false)?;
    let stat = fs::fstat(null.as_fd())?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
        return Err(fail(Kind::Unsupported, "the host's /dev/null is not the null device"));
    }
    Ok(null)
}

pub(super) fn empty_directory() -> sys::Result<OwnedFd> {
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    mount::new_filesystem("tmpfs", &[("mode", "0555")], attributes)
}

/// Takes away what [`super::mount_all`] attached in the host's mount namespace: one mount, or more if the configuration
/// has mounts on the root. `under` is the mount that was there before: an engine's own, perhaps, which stays.
pub fn detach(rootfs: &Path, under: u64) -> Result<()> {
    loop {
        match fs::mount_id(fs::CWD, rootfs) {
            Ok(now) if now == under => return Ok(()),
            Err(e) if fs::absent(fs::CWD, rootfs, &e) => return Ok(()),
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
