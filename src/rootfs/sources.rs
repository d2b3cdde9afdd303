//! The root file system and the sources of bind mounts, each a detached copy of the host's tree.
//!
//! Usually the container's process makes the copy when it attaches it. Its mount namespace has all paths of
//! the host until the change of the root, so each path is walked once, and mounts come into being in the
//! order in which they are listed. A copy that stays a peer of the host's mount is made first of all, while
//! the mounts of the new namespace are peers themselves.
//!
//! The runtime makes the copy ahead only for an idmapped mount, since only the runtime can. That copy
//! contains the mount namespaces that are pinned below the source (bind mounts of /proc/PID/ns/mnt). The
//! mounts of a new namespace are without them, and the kernel attaches them in no newer namespace.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;

use super::mounts::IdMapping;
use super::options::{Link, Propagate};
use super::{Kind, Mount, Plan, resolve};
use crate::error::{Context, Result};
use crate::namespaces::idmap;
use crate::sys::mount::{self, Attr, MS_PRIVATE, MS_SHARED, MS_SLAVE};
use crate::sys::{self, fs};
use crate::trace;

/// The sources that the runtime has opened, as detached trees. The container's process opens the others.
pub(crate) struct Sources {
    pub(super) root: Option<OwnedFd>,
    /// One element for each mount of the plan, in its order.
    pub(super) mounts: Vec<Option<OwnedFd>>,
}

/// The sources that the runtime opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    All,
    /// Those of all bind mounts, without the root.
    Binds,
    /// Those that the container's process cannot open.
    Idmapped,
}

/// Opens sources in the runtime.
pub(crate) fn open_sources(plan: &Plan, proc: BorrowedFd, which: Open) -> Result<Sources> {
    let _phase = trace::phase("open sources");
    let root = (which == Open::All).then(|| open_root(plan)).transpose()?;
    let mounts = plan.mounts.iter().map(|mount| {
        let Kind::Bind { source, recursive, idmap } = &mount.kind else { return Ok(None) };
        if which == Open::Idmapped && idmap.is_none() {
            return Ok(None);
        }
        let first = for_bind(plan.propagation, &mount.options.propagation);
        let opened = open(plan, mount, source, *recursive, &first).with_context(|| place(mount, source))?;
        if let Some(mapping) = idmap
            && !is_copied_link(mount, opened.as_fd())?
        {
            map_ids(&opened, mapping, proc).with_context(|| place(mount, source))?;
        }
        Ok(Some(opened))
    });
    Ok(Sources { root, mounts: mounts.collect::<Result<_>>()? })
}

/// Opens the sources that stay peers of the host's mounts, unless they are open. The mounts of a new namespace are peers of the
/// host's until they are changed, unless the namespace belongs to a new user namespace. The root is opened before them, so
/// that it is the oldest mount.
pub(super) fn open_peers(plan: &Plan, sources: &mut Sources) -> Result<()> {
    for (mount, opened) in plan.mounts.iter().zip(&mut sources.mounts) {
        if let (Kind::Bind { source, recursive, .. }, None) = (&mount.kind, &opened)
            && is_peer(plan.propagation, mount)
        {
            if sources.root.is_none() {
                sources.root = Some(open_root(plan)?);
            }
            *opened = Some(open(plan, mount, source, *recursive, &[]).with_context(|| place(mount, source))?);
        }
    }
    Ok(())
}

fn open_root(plan: &Plan) -> Result<OwnedFd> {
    let tree = copy(plan, &plan.path, true, Link::Followed);
    let tree = tree.and_then(|tree| propagate(tree.as_fd(), &for_root(plan.propagation)).map(|()| tree));
    tree.with_context(|| root_place(plan))
}

/// Returns the place of the root in the configuration, for errors.
pub(super) fn root_place(plan: &Plan) -> String {
    format!("root.path {}", plan.path.display())
}

/// Opens the sources of the bind mounts at the beginning of `mounts`, in the host's mount namespace.
pub(super) fn open_run(plan: &Plan, mounts: &[Mount], sources: &mut [Option<OwnedFd>]) -> Result<()> {
    for (mount, opened) in mounts.iter().zip(sources) {
        let Kind::Bind { source, recursive, .. } = &mount.kind else { break };
        let first = for_bind(plan.propagation, &mount.options.propagation);
        *opened = Some(open(plan, mount, source, *recursive, &first).with_context(|| place(mount, source))?);
    }
    Ok(())
}

/// Returns the place of a source in the configuration, for errors.
pub(super) fn place(mount: &Mount, source: &Path) -> String {
    format!("{}.source {}", mount.place, source.display())
}

impl Sources {
    /// Returns the detached trees, the root's first, for [`Sources::receive`] in another process.
    pub(crate) fn trees(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.root].into_iter().chain(&self.mounts).flatten().map(AsFd::as_fd)
    }

    /// Receives the sources of a plan, all of which another process has opened, one by one.
    pub(crate) fn receive(plan: &Plan, mut next: impl FnMut() -> Result<OwnedFd>) -> Result<Self> {
        let root = Some(next()?);
        let mounts = plan.mounts.iter().map(|mount| mount.is_bind().then(&mut next).transpose());
        Ok(Self { root, mounts: mounts.collect::<Result<_>>()? })
    }

    /// Returns the numbers of all descriptors in it.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.trees().map(|tree| tree.as_raw_fd())
    }
}

fn open(
    plan: &Plan,
    mount: &Mount,
    path: &Path,
    recursive: bool,
    first: &[Propagate],
) -> sys::Result<OwnedFd> {
    let _phase = trace::phase_of("open the source", || path.display());
    open_as(plan, mount, path, recursive, first)
}

/// Copies a source and gives the copy its first propagation.
fn open_as(
    plan: &Plan,
    mount: &Mount,
    path: &Path,
    recursive: bool,
    first: &[Propagate],
) -> sys::Result<OwnedFd> {
    let tree = copy(plan, path, recursive, mount.options.source_link())?;
    if !is_copied_link(mount, tree.as_fd())? {
        propagate(tree.as_fd(), first)?;
    }
    Ok(tree)
}

/// Returns whether an opened source is no tree, but a link that the container gets a copy of.
pub(super) fn is_copied_link(mount: &Mount, source: BorrowedFd) -> sys::Result<bool> {
    Ok(mount.options.copy_link && fs::fstat(source)?.st_mode & libc::S_IFMT == libc::S_IFLNK)
}

/// Makes a copy in the container's mount namespace, whose mounts are slaves or private already.
pub(super) fn open_inside(plan: &Plan, mount: &Mount, path: &Path, recursive: bool) -> sys::Result<OwnedFd> {
    let first = for_bind(plan.propagation, &mount.options.propagation);
    open_as(plan, mount, path, recursive, first.strip_prefix(&[ALL_SLAVE]).unwrap_or(&first))
}

/// Makes a copy of the root file system, whose directory is open, in the container's mount namespace.
pub(super) fn open_root_inside(plan: &Plan, directory: BorrowedFd) -> sys::Result<OwnedFd> {
    let tree = mount::open_tree_clone(directory, Path::new(""), true)?;
    let first = for_root(plan.propagation);
    propagate(tree.as_fd(), first.strip_prefix(&[ALL_SLAVE]).unwrap_or(&first))?;
    Ok(tree)
}

/// Copies a source. A source below the root file system belongs to the image. Its links lead neither out of the root nor into
/// mounts that are made there already, for example a procfs that is not masked yet. runc and crun follow such links on the
/// host, so that an image can show any file of the host to its container.
///
/// A link at the end is returned as it is if it is to be copied. If it is to be kept, the tree consists of the link.
fn copy(plan: &Plan, path: &Path, recursive: bool, link: Link) -> sys::Result<OwnedFd> {
    let Some(rest) = below_root(plan, path) else {
        if link == Link::Followed {
            return mount::open_tree_clone(fs::CWD, path, recursive);
        }
        let found = fs::open(fs::CWD, path, fs::O_PATH | fs::O_NOFOLLOW, 0)?;
        return copy_found(found, recursive, link);
    };
    if leads_out(rest) {
        return Err(sys::Error::new(format!("openat2({rest:?})"), Errno::EXDEV));
    }
    let root = fs::open(fs::CWD, &plan.path, fs::O_PATH | fs::O_DIRECTORY, 0)?;
    if link != Link::Followed {
        return copy_found(resolve::open_link_on_mount(root.as_fd(), rest)?, recursive, link);
    }
    let found = match resolve::open_plain(root.as_fd(), rest) {
        Err(e) if e.errno == Errno::ELOOP => resolve::open_on_mount(root.as_fd(), rest)?,
        found => found?,
    };
    mount::open_tree_clone(found.as_fd(), Path::new(""), recursive)
}

/// Copies a source that was opened without following a link at its end.
fn copy_found(found: OwnedFd, recursive: bool, link: Link) -> sys::Result<OwnedFd> {
    if link == Link::Copied && fs::fstat(found.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFLNK {
        return Ok(found);
    }
    mount::open_tree_clone(found.as_fd(), Path::new(""), recursive)
}

/// Returns the part of a path that is inside the root file system, where each name may be a link of the image.
fn below_root<'a>(plan: &Plan, path: &'a Path) -> Option<&'a Path> {
    let rest = path.strip_prefix(&plan.path).ok()?;
    matches!(rest.components().next(), Some(Component::Normal(_))).then_some(rest)
}

/// Returns whether a path has more `..` than names before them.
fn leads_out(path: &Path) -> bool {
    let mut depth = 0;
    path.components().any(|component| {
        depth += if component == Component::ParentDir { -1 } else { 1 };
        depth < 0
    })
}

/// Changes the propagation of a tree, step by step.
pub(super) fn propagate(tree: BorrowedFd, steps: &[Propagate]) -> sys::Result<()> {
    steps.iter().try_for_each(|step| {
        let attr = Attr { propagation: step.flag, ..Attr::default() };
        mount::mount_setattr(tree, step.recursive, &attr)
    })
}

pub(super) const ALL_SLAVE: Propagate = Propagate { flag: MS_SLAVE, recursive: true };
const ALL_PRIVATE: Propagate = Propagate { flag: MS_PRIVATE, recursive: true };

/// Returns the first propagation of the copy of the root file system. `root` is `rootfsPropagation`. By default later mounts of
/// the host propagate to the copy, and none propagate back. A shared root gets a peer group of its own later
/// ([`Root::enter`](super::Root::enter)): as a peer of the host's mount it would show all mounts of the container there.
pub(super) fn for_root(root: Option<Propagate>) -> Vec<Propagate> {
    match root.map(|root| root.flag) {
        Some(MS_SHARED) => vec![ALL_SLAVE, Propagate { flag: MS_PRIVATE, recursive: false }],
        Some(MS_PRIVATE) => vec![ALL_PRIVATE],
        _ => vec![ALL_SLAVE],
    }
}

/// Returns the propagation of the copy of a bind mount's source, before the propagation `own` of its options. The copy stays in
/// the host's peer group only if both the root and the mount are "shared". Engines send that for volumes whose mounts must
/// appear on the host.
pub(super) fn for_bind(root: Option<Propagate>, own: &[Propagate]) -> Vec<Propagate> {
    let has = |flag| own.iter().any(|own| own.flag == flag);
    match root.map(|root| root.flag) {
        Some(MS_SHARED) if has(MS_SHARED) => Vec::new(),
        Some(MS_PRIVATE) if !has(MS_SLAVE) => vec![ALL_PRIVATE],
        _ => vec![ALL_SLAVE],
    }
}

/// Returns whether a bind mount stays in the peer group of the host's mount.
pub(super) fn is_peer(root: Option<Propagate>, mount: &Mount) -> bool {
    mount.is_bind() && for_bind(root, &mount.options.propagation).is_empty()
}

fn map_ids(tree: &OwnedFd, mapping: &IdMapping, proc: BorrowedFd) -> Result<()> {
    let namespace = idmap::user_namespace(proc, &mapping.uid_map, &mapping.gid_map)?;
    Ok(mount::mount_idmap(tree.as_fd(), mapping.recursive, namespace.as_fd())?)
}
