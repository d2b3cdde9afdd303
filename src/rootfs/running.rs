//! Mounts that are added to a running container, and removed from it.
//!
//! The sources are opened in the host's mount namespace, as at `create`. The targets are opened in the
//! container's, where its processes may change the files meanwhile. Therefore more is refused than at
//! `create`: no link is followed, and only the last name of a destination is made. An error removes what was
//! attached and made before.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::apply::{explain, shape};
use super::resolve::{self, Missing};
use super::sources::{self, Sources};
use super::{Kind, Mount, Plan, mounts};
use crate::error::{Context, Kind as Reason, Notes, Result, fail};
use crate::sys::{self, fs, mount};

/// What is done with mounts of a running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add,
    Remove,
}

/// Reports the mounts of a plan that cannot be changed in a running container.
pub(crate) fn check(plan: &Plan, change: Change, notes: &mut Notes) {
    for mount in &plan.mounts {
        if change == Change::Add && !mount.is_bind() {
            let what = "only a bind mount can be added to a running container";
            notes.problem(format_args!("{}.type", mount.place), what);
        }
        if matches!(&mount.kind, Kind::Bind { idmap: Some(mapping), .. } if mapping.is_of_joined()) {
            let what = "idmap needs mappings: the container has joined a user namespace";
            notes.problem(format_args!("{}.options", mount.place), what);
        }
        if mounts::names(&mount.destination, "/") || mount.destination.file_name().is_none() {
            notes.problem(format_args!("{}.destination", mount.place), "is the root of the container");
        }
    }
}

/// What has been done so far, and is undone after an error.
#[derive(Default)]
struct Done {
    attached: Vec<OwnedFd>,
    /// Directories, names in them, and whether the name is that of a directory.
    made: Vec<(OwnedFd, PathBuf, bool)>,
}

/// Attaches the sources of the plan's bind mounts below `root`, the container's. `proc` is the host's procfs.
pub(crate) fn add(plan: &Plan, sources: Sources, root: BorrowedFd, proc: BorrowedFd) -> Result<()> {
    let mut done = Done::default();
    let mut all = plan.mounts.iter().zip(sources.mounts);
    let result = all.try_for_each(|(mount, source)| {
        let source = source.ok_or_else(|| fail(Reason::Os, "its source was not opened"));
        source.and_then(|source| done.attach(root, mount, source)).with_context(|| at(mount))
    });
    result.map_err(|error| match done.undo(proc) {
        Ok(()) => error,
        Err(e) => fail(Reason::Os, format!("{error:#} (and then, undoing: {e})")),
    })
}

/// Unmounts the topmost mount at each destination, the last one first.
pub(crate) fn remove(plan: &Plan, root: BorrowedFd, proc: BorrowedFd) -> Result<()> {
    let find = |mount: &Mount| {
        let (parent, name) = parent(root, &mount.destination)?;
        let found = open_end(parent.as_fd(), &name).map_err(refuse_links)?;
        let id = |file: BorrowedFd| fs::mount_id(file, Path::new(""));
        if id(found.as_fd())? == id(parent.as_fd())? {
            return Err(fail(Reason::Config, "is not a mount point"));
        }
        Ok(found)
    };
    // All are found before one is removed.
    let found: Vec<_> =
        plan.mounts.iter().map(|mount| find(mount).with_context(|| at(mount))).collect::<Result<_>>()?;
    for (mount, found) in plan.mounts.iter().zip(found).rev() {
        mount::detach_open(proc, found.as_fd()).with_context(|| at(mount))?;
    }
    Ok(())
}

fn at(mount: &Mount) -> String {
    format!("{} {}", mount.place, mount.destination.display())
}

impl Done {
    fn attach(&mut self, root: BorrowedFd, mount: &Mount, source: OwnedFd) -> Result<()> {
        let (parent, name) = parent(root, &mount.destination)?;
        if sources::is_copied_link(mount, source.as_fd())? {
            let target = fs::readlinkat(source.as_fd(), Path::new(""))?;
            fs::symlinkat(&target, parent.as_fd(), &name)?;
            self.made.push((parent, name, false));
            return Ok(());
        }
        shape(source.as_fd(), &mount.options)?;
        let directory = fs::is_directory(source.as_fd())?;
        let target = match open_end(parent.as_fd(), &name) {
            Err(e) if e.errno == Errno::ENOENT && !mount.options.keep_target => {
                let kind = if directory { Missing::Directory } else { Missing::File };
                resolve::make_one(parent.as_fd(), &name, kind)?;
                let target = open_end(parent.as_fd(), &name);
                self.made.push((parent, name, directory));
                target?
            }
            found => found?,
        };
        let link = fs::fstat(target.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFLNK;
        if link && !mount.options.keep_target {
            return Err(refuse_links(sys::Error::new("openat2()", Errno::ELOOP)));
        }
        mount::move_mount(source.as_fd(), target.as_fd())
            .map_err(|e| explain(e, source.as_fd(), target.as_fd()))?;
        self.attached.push(source);
        Ok(())
    }

    fn undo(self, proc: BorrowedFd) -> sys::Result<()> {
        let detached = self
            .attached
            .iter()
            .rev()
            .map(|mount| mount::detach_open(proc, mount.as_fd()))
            .collect::<Vec<_>>();
        let unlink = |(dir, name, directory): &(OwnedFd, PathBuf, bool)| {
            if *directory { fs::rmdirat(dir.as_fd(), name) } else { fs::unlinkat(dir.as_fd(), name) }
        };
        let removed = self.made.iter().rev().map(unlink);
        detached.into_iter().chain(removed).collect()
    }
}

/// Opens the directory of a destination, on whose way there must be no link, and returns it with the last name.
fn parent(root: BorrowedFd, destination: &Path) -> Result<(OwnedFd, PathBuf)> {
    let (Some(parent), Some(name)) = (destination.parent(), destination.file_name()) else {
        return Err(fail(Reason::Config, "is the root of the container"));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new("/") } else { parent };
    Ok((resolve::open_plain(root, parent).map_err(refuse_links)?, name.into()))
}

/// Opens a name in a directory. A link is opened itself.
fn open_end(parent: BorrowedFd, name: &Path) -> sys::Result<OwnedFd> {
    let resolve = fs::RESOLVE_BENEATH | fs::RESOLVE_NO_MAGICLINKS;
    fs::openat2(parent, name, fs::O_PATH | fs::O_NOFOLLOW, 0, resolve)
}

fn refuse_links(error: sys::Error) -> anyhow::Error {
    if error.errno == Errno::ELOOP {
        return fail(
            Reason::Config,
            format!("there is a link, and none is followed in a running container: {error}"),
        );
    }
    error.into()
}
