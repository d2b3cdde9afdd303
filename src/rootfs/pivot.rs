//! Masked and read-only paths, and the change of the root.
//!
//! A container that joins a mount namespace, or has none, is assembled in a private mount namespace like any
//! other. Its process enters the other one last, with a detached copy of the finished tree ([`Root::leave`]).
//! Processes there never see a procfs that is not masked yet. No path is resolved that they could have
//! prepared. An error before that leaves nothing to undo in their namespace. In a joined mount namespace the
//! tree is attached on "/", and pivot_root follows.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use anyhow::anyhow;
use nix::errno::Errno;

use super::no_pivot::move_over_root;
use super::resolve::{self, Missing};
use super::root::{Root, empty_directory};
use super::targets::Shut;
use super::{MountNamespace, Plan, null, sources};
use crate::error::{Context, Kind, Result, fail};
use crate::namespaces::{self, Joined};
use crate::sys::mount::{self, Attr, Depth, MOUNT_ATTR_RDONLY};
use crate::sys::{self, credentials, fs, task};
use crate::trace;

const READ_ONLY: Attr = Attr { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0 };

impl Root<'_> {
    /// Masks paths, makes paths read-only, and changes the root. Afterwards only the container's files can be reached. Returns
    /// the descriptor of the new root, which also is the working directory. `joined` has the mount namespace that the
    /// container ends in, if that is not this one.
    pub(crate) fn enter(mut self, plan: &Plan, joined: &Joined) -> Result<OwnedFd> {
        let _phase = trace::phase("enter the root");
        self.make_cwd(plan)?;
        self.restrict(plan)?;
        if plan.readonly {
            mount::mount_setattr(self.fd(), Depth::One, &READ_ONLY).context("root.readonly")?;
        }
        if plan.facts.mount_namespace != MountNamespace::New {
            self.leave(joined)?;
        }
        match plan.facts.mount_namespace {
            MountNamespace::Host => attach_on_host(plan, self.fd())?,
            _ if self.root_only.is_some() => task::chdir_root()?,
            _ if plan.facts.no_pivot => move_over_root(self.fd(), self.proc).context("--no-pivot")?,
            MountNamespace::New => pivot().map_err(explain)?,
            MountNamespace::Joined => attach_on_root(self.fd())?,
        }
        if let Some(propagate) = plan.propagation {
            let attr = Attr { propagation: propagate.flag, ..Attr::default() };
            mount::mount_setattr(self.fd(), Depth::One, &attr).context("linux.rootfsPropagation")?;
        }
        Ok(self.into_fd())
    }

    /// Masks paths, and makes paths read-only, also the mounts that had to be filled before.
    pub(super) fn restrict(&mut self, plan: &Plan) -> Result<()> {
        self.close_filled()?;
        self.mask(plan)?;
        for path in &plan.readonly_paths {
            self.make_read_only(path).with_context(|| format!("linux.readonlyPaths {}", path.display()))?;
        }
        Ok(())
    }

    /// Leaves the private mount namespace for the one that the container ends in, with a detached copy of the finished root. If
    /// a procfs were attached there before its masks, other processes could open it in between, and a mask does not close
    /// open files.
    fn leave(&mut self, joined: &Joined) -> Result<()> {
        let _phase = trace::phase("leave the private mount namespace");
        let finished = mount::open_tree_clone(self.fd(), Path::new(""), Depth::Recursive)?;
        namespaces::join(joined, libc::CLONE_NEWNS)?;
        self.replace(finished);
        Ok(())
    }

    /// Makes the working directory, if something becomes read-only that could contain it, or if a volume shares its mounts with
    /// the host: only here is it known which volumes do. Otherwise the directory is made when the process changes to it.
    fn make_cwd(&self, plan: &Plan) -> Result<()> {
        let closes = |cwd: &Path| {
            plan.readonly
                || !self.filling.is_empty()
                || plan.readonly_paths.iter().any(|path| resolve::words(cwd).starts_with(path))
        };
        let wanted = plan.cwd.as_ref().filter(|cwd| self.has_peers() || closes(cwd));
        let Some(cwd) = wanted.filter(|cwd| resolve::open(self.fd(), cwd).is_err()) else { return Ok(()) };
        let umask = credentials::umask(0);
        let made = self.reach(cwd, Some(Missing::Directory), Shut::Peers);
        credentials::umask(umask);
        self.close_later(made.with_context(|| format!("process.cwd {}", cwd.display()))?.fd);
        Ok(())
    }

    /// Masks files with the host's /dev/null and directories with one empty file system.
    fn mask(&self, plan: &Plan) -> Result<()> {
        let (mut null, mut empty): (Option<OwnedFd>, Option<OwnedFd>) = (None, None);
        for path in &plan.masked {
            let at = || format!("linux.maskedPaths {}", path.display());
            let _phase = trace::phase_of("mask", || path.display());
            let Some(target) = self.find(path).with_context(at)? else { continue };
            // A mask on the root would leave everything within reach through the descriptor of the root.
            if target.is_root() {
                return Err(fail(Kind::Config, "leads to /, which cannot be masked")).with_context(at);
            }
            let is_directory = fs::is_directory(target.fd.as_fd())?;
            let first = if is_directory { &mut empty } else { &mut null };
            // Only an attached tree can be copied before Linux 6.15.
            let cover = match first {
                Some(first) => {
                    mount::open_tree_clone(first.as_fd(), Path::new(""), Depth::One).map_err(Into::into)
                }
                None if is_directory => empty_directory().map_err(Into::into),
                None => self.host_null(),
            };
            let cover = cover.with_context(at)?;
            mount::move_mount(cover.as_fd(), target.fd.as_fd()).with_context(at)?;
            self.close_later(target.fd);
            match first {
                Some(_) => self.close_later(cover),
                None => *first = Some(cover),
            }
        }
        [null, empty].into_iter().flatten().for_each(|fd| self.close_later(fd));
        Ok(())
    }

    /// Mounts a path on itself, read-only with all mounts below. The root is a mount already, and nothing can be mounted on it.
    fn make_read_only(&self, path: &Path) -> Result<()> {
        let _phase = trace::phase_of("make read-only", || path.display());
        let Some(target) = self.find(path)? else { return Ok(()) };
        if target.is_root() {
            return Ok(mount::mount_setattr(self.fd(), Depth::Recursive, &READ_ONLY)?);
        }
        let copy = mount::open_tree_clone(target.fd.as_fd(), Path::new(""), Depth::Recursive)?;
        mount::mount_setattr(copy.as_fd(), Depth::Recursive, &READ_ONLY)?;
        mount::move_mount(copy.as_fd(), target.fd.as_fd())?;
        self.close_later(copy);
        self.close_later(target.fd);
        Ok(())
    }

    /// Returns a copy of the host's /dev/null.
    pub(super) fn host_null(&self) -> Result<OwnedFd> {
        null::mask(self.copy_of_host(Path::new(null::PATH), Depth::One)?)
    }
}

/// Explains EINVAL of a mount(2) on "/" and of pivot_root(2): the kernel makes neither in a chroot whose root is no mount
/// point. Of pivot_root it is also the error for an initramfs, and for a chroot that lies on a shared mount.
pub(super) fn explain(error: sys::Error) -> anyhow::Error {
    const HINT: &str = "make it the root by pivot_root(8) instead of chroot(8)";
    let is_mount = fs::mounted_at(fs::CWD, Path::new("/")) != Ok(0);
    match error.errno {
        Errno::EINVAL if !is_mount => {
            let first = "bind-mount that directory on itself, and";
            anyhow!("{error}: / is not a mount point, as in a chroot (hint: {first} {HINT})")
        }
        Errno::EINVAL => anyhow!(
            "{error}: / is an initramfs (hint: --no-pivot), or a chroot on a mount that is shared (hint: {HINT})"
        ),
        _ => error.into(),
    }
}

/// Makes the attached mount of the container's root, which is the working directory since everything was mounted, the root of
/// the mount namespace. Because both paths of pivot_root(2) are the same, the old root is stacked on the new one, and "."
/// unmounts it. Of another directory the kernel returns EINVAL, since that is no mount.
fn pivot() -> sys::Result<()> {
    let _phase = trace::phase("pivot_root");
    mount::pivot_root_here()?;
    mount::detach_here()?;
    task::chdir_root()
}

/// Attaches the detached tree `root` in the joined mount namespace, and makes it the root there. Processes there may have
/// prepared every path, even with file systems of their own that never answer. Therefore only "/" is opened.
fn attach_on_root(root: BorrowedFd) -> sys::Result<()> {
    // No mount that is made here propagates to another namespace.
    mount::make_all_slave()?;
    let old = fs::open(fs::CWD, Path::new("/"), fs::O_PATH | fs::O_DIRECTORY, 0)?;
    mount::move_mount(root, old.as_fd())?;
    task::fchdir(root)?;
    pivot().inspect_err(|_| {
        // "." is the tree. It must not stay in a namespace of other processes, and detaching it must not detach mounts of the
        // host. The error of pivot_root is the one to report.
        let _ = sources::propagate(root, &[sources::ALL_SLAVE]).and_then(|()| mount::detach_here());
    })
}

/// Attaches the detached tree `root` at its path on the host and changes to it.
fn attach_on_host(plan: &Plan, root: BorrowedFd) -> Result<()> {
    let target = fs::open(fs::CWD, &plan.path, fs::O_PATH | fs::O_DIRECTORY, 0)
        .with_context(|| sources::root_place(plan))?;
    mount::move_mount(root, target.as_fd()).with_context(|| sources::root_place(plan))?;
    task::fchdir(root)?;
    Ok(task::chroot_here()?)
}

/// Returns the id of the mount at the root file system's path, 0 if there is none, if the container is to be attached there
/// on the host.
pub(crate) fn under_root(plan: &Plan) -> Result<Option<u64>> {
    let at_path = || fs::mounted_at(fs::CWD, &plan.path).with_context(|| sources::root_place(plan));
    (plan.facts.mount_namespace == MountNamespace::Host).then(at_path).transpose()
}

/// Returns the id of the mount that is the root of the container's first process `pid`.
///
/// It is `None` with a new user namespace, which the kernel does not make for a process in a chroot, if the caller may not look
/// into the process, and without statx(2): the C library then returns ENOTSUP or ENOSYS.
pub(crate) fn root_mount(plan: &Plan, pid: i32, proc: BorrowedFd) -> Result<Option<u64>> {
    if plan.facts.mount_namespace == MountNamespace::Host {
        return under_root(plan);
    }
    if plan.facts.user_namespace {
        return Ok(None);
    }
    match fs::mounted_at(proc, Path::new(&format!("{pid}/root"))) {
        Err(e) if matches!(e.errno, Errno::EACCES | Errno::EPERM | Errno::ENOTSUP | Errno::ENOSYS) => {
            Ok(None)
        }
        id => Ok(Some(id?)),
    }
}

/// Changes from the root of the mount namespace, which setns(2) leads to, to that of the container's first process `pid`, whose
/// pidfd is `process`, unless they are the same: the mount `id`.
///
/// They differ if the container was made in a chroot: the change of the root replaces only the mount that is the root of the
/// calling process, and the namespace keeps the host's. They also differ if the container has mounted something on its root.
pub(crate) fn change_to_root_of(pid: i32, process: BorrowedFd, id: u64, proc: BorrowedFd) -> Result<()> {
    if fs::mounted_at(fs::CWD, Path::new("/"))? == id {
        return Ok(());
    }
    task::fchdir(root_of(pid, process, proc)?.as_fd())?;
    Ok(task::chroot_here()?)
}

/// Returns the root directory of the container's first process `pid`, whose pidfd is `process`.
pub(crate) fn root_of(pid: i32, process: BorrowedFd, proc: BorrowedFd) -> Result<OwnedFd> {
    let root = fs::open(proc, Path::new(&format!("{pid}/root")), fs::O_PATH | fs::O_DIRECTORY, 0)?;
    // The process id may belong to another process once this one has ended.
    if task::poll_readable(&[process], Some(Instant::now()))?.contains(&true) {
        return Err(fail(Kind::WrongStatus, "container not running"));
    }
    Ok(root)
}

/// Detaches the container's root from the host. `under` is the id of the mount that was there before, for example an engine's
/// own. `own` is the id of the container's, unless `create` was interrupted. No other mount is detached: the engine may have
/// unmounted its own and mounted another one since.
pub(crate) fn detach(rootfs: &Path, under: u64, own: Option<u64>) -> Result<()> {
    let Some(now) = fs::existing(fs::CWD, rootfs, || fs::mounted_at(fs::CWD, rootfs))? else { return Ok(()) };
    if now == 0 || now == under {
        return Ok(());
    }
    if own.is_some_and(|own| own != now) {
        let text =
            "another mount lies where the container's root file system is mounted (hint: unmount it first)";
        return Err(fail(Kind::Os, format!("{}: {text}", rootfs.display())));
    }
    // The volumes in it may be peers of the host's mounts, which must stay mounted.
    let tree = fs::open(fs::CWD, rootfs, fs::O_PATH | fs::O_DIRECTORY, 0)?;
    sources::propagate(tree.as_fd(), &[sources::ALL_SLAVE])?;
    // umount2(2) must not follow a link that appears now, but the path in the configuration may end in a link.
    Ok(mount::detach(&fs::real_path(rootfs)?)?)
}
