//! Mounts that are added to a running container, and removed from it.
//!
//! The sources are opened as at `create`, so that a container with a user namespace gets them with the host's
//! flags locked (`launch/inside.rs`). The targets are opened in the container's mount namespace, where its
//! processes may change the files meanwhile. Therefore more is refused than at `create`: no link is followed,
//! and only the last name of a destination is made. An error removes what was attached and made before.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::apply::{explain, shape_bind};
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

/// Where a mount goes.
struct Place {
    parent: OwnedFd,
    name: PathBuf,
    /// What exists there.
    target: Option<OwnedFd>,
}

/// What has been done so far, and is undone after an error.
#[derive(Default)]
struct Done {
    attached: Vec<OwnedFd>,
    /// Directories, names in them, and whether the name is that of a directory.
    made: Vec<(OwnedFd, PathBuf, bool)>,
}

/// Attaches the sources of the plan's bind mounts below `root`, the container's. `proc` is the host's procfs, and `warn` logs a
/// warning.
pub(crate) fn add(
    plan: &Plan,
    sources: Sources,
    root: BorrowedFd,
    proc: BorrowedFd,
    warn: &dyn Fn(String) -> Result<()>,
) -> Result<()> {
    let opened = |(mount, source): (_, Option<OwnedFd>)| {
        let source = source.ok_or_else(|| fail(Reason::Os, "its source was not opened"));
        source.map(|source| (mount, source)).with_context(|| at(mount))
    };
    let all = plan.mounts.iter().zip(sources.mounts).map(opened).collect::<Result<Vec<_>>>()?;
    // A file system of the container may never answer. The runtime then kills this process, which undoes nothing.
    // Therefore all paths are walked before anything is made or attached.
    let mut places = Vec::new();
    for (index, (mount, source)) in all.iter().enumerate() {
        let find = || {
            if !sources::is_copied_link(mount, source.as_fd())? {
                shape_bind(source.as_fd(), mount, warn)?;
            }
            Place::find(root, mount, source.as_fd(), &all[..index])
        };
        places.push(find().with_context(|| at(mount))?);
    }
    let mut done = Done::default();
    let result = done.all(all, places);
    result.map_err(|error| match done.undo(proc) {
        Ok(()) => error,
        Err(e) => fail(crate::error::kind(&error), format!("{error:#} (and then, undoing: {e})")),
    })
}

/// Unmounts the topmost mount at each destination, the last one first.
pub(crate) fn remove(plan: &Plan, root: BorrowedFd, proc: BorrowedFd) -> Result<()> {
    let find = |mount: &Mount| {
        let (parent, name) = parent(root, &mount.destination)?;
        let found = resolve::open_one(parent.as_fd(), &name).map_err(refuse_links)?;
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

impl Place {
    /// Opens the place of a mount. A destination inside an earlier mount of the list, which is not attached yet, is opened in
    /// that mount.
    fn find(
        root: BorrowedFd,
        mount: &Mount,
        source: BorrowedFd,
        earlier: &[(&Mount, OwnedFd)],
    ) -> Result<Self> {
        let path = resolve::words(&mount.destination);
        let mut inside = None;
        for (earlier, tree) in earlier.iter().rev() {
            let rest = path.strip_prefix(resolve::words(&earlier.destination)).ok();
            if let Some(rest) = rest.filter(|_| inside.is_none())
                && !sources::is_copied_link(earlier, tree.as_fd())?
            {
                inside = Some((tree.as_fd(), rest));
            }
        }
        let link = sources::is_copied_link(mount, source)?;
        match inside {
            Some((_, rest)) if rest.as_os_str().is_empty() && link => {
                return Err(sys::Error::new(format!("symlinkat({path:?})"), Errno::EEXIST).into());
            }
            // On top of the earlier mount. The name is not used.
            Some((tree, rest)) if rest.as_os_str().is_empty() => {
                let (parent, name) = (fs::dup(tree)?, path.clone());
                return Ok(Self { parent, name, target: Some(fs::dup(tree)?) });
            }
            _ => {}
        }
        let (root, path) = inside.unwrap_or((root, &path));
        let (parent, name) = parent(root, path)?;
        let target = match resolve::open_one(parent.as_fd(), &name) {
            Err(e) if e.errno == Errno::ENOENT && (link || !mount.options.keep_target) => None,
            found => Some(found?),
        };
        if let Some(target) = &target
            && !mount.options.keep_target
            && !link
            && fs::fstat(target.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFLNK
        {
            return Err(refuse_links(sys::Error::new("openat2()", Errno::ELOOP)));
        }
        Ok(Self { parent, name, target })
    }
}

impl Done {
    /// Makes what is missing, then attaches.
    fn all(&mut self, all: Vec<(&Mount, OwnedFd)>, mut places: Vec<Place>) -> Result<()> {
        for ((mount, source), place) in all.iter().zip(&mut places) {
            self.make(mount, source.as_fd(), place).with_context(|| at(mount))?;
        }
        for ((mount, source), place) in all.into_iter().zip(places) {
            let Some(target) = place.target else { continue };
            mount::move_mount(source.as_fd(), target.as_fd())
                .map_err(|e| explain(e, source.as_fd(), target.as_fd()))
                .with_context(|| at(mount))?;
            self.attached.push(source);
        }
        Ok(())
    }

    /// Makes the mount point if it is missing, or the link that is copied. A link has no target afterwards.
    fn make(&mut self, mount: &Mount, source: BorrowedFd, place: &mut Place) -> Result<()> {
        let again = |place: &Place| fs::dup(place.parent.as_fd());
        if sources::is_copied_link(mount, source)? {
            place.target = None;
            let target = fs::readlinkat(source, Path::new(""))?;
            if resolve::make_link(place.parent.as_fd(), &place.name, &target)? {
                self.made.push((again(place)?, place.name.clone(), false));
            }
        } else if place.target.is_none() {
            let directory = fs::is_directory(source)?;
            let kind = if directory { Missing::Directory } else { Missing::File };
            let parent = again(place)?;
            resolve::make_one(parent.as_fd(), &place.name, kind)?;
            let target = resolve::open_one(parent.as_fd(), &place.name);
            self.made.push((parent, place.name.clone(), directory));
            place.target = Some(target?);
        }
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
        // Each is tried, also after an error.
        let removed = self.made.iter().rev().map(unlink).collect::<Vec<_>>();
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

fn refuse_links(error: sys::Error) -> anyhow::Error {
    if error.errno == Errno::ELOOP {
        return fail(
            Reason::Config,
            format!("there is a link, and none is followed in a running container: {error}"),
        );
    }
    error.into()
}
