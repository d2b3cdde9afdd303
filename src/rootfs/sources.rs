//! The root file system and the sources of bind mounts, each a detached copy of the host's tree.
//!
//! Usually the container process makes the copy when it attaches it. Its mount namespace has all paths of
//! the host until the change of the root, so each path is walked once, and mounts come into being in the
//! order in which they are listed. A copy that stays a peer of the host's mount is made first of all, while
//! the mounts of the new namespace are peers themselves.
//!
//! The runtime makes the copy ahead only for an idmapped mount, since only the runtime can. That copy
//! contains the mount namespaces that are pinned below the source (bind mounts of /proc/PID/ns/mnt). The
//! mounts of a new namespace are without them, and the kernel attaches them in no newer namespace.
//!
//! With a user namespace the runtime makes all copies, since the container process may lack access to the
//! paths of the host. It makes them in the container's mount namespace.
//!
//! A source in the root file system can be a mount of the container that is listed before. If the runtime has
//! to copy it, the container process asks for it when all earlier mounts exist ([`Runtime`]).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;

use super::mounts::IdMapping;
use super::options::{Link, Propagate};
use super::{Kind, Mount, Plan, resolve};
use crate::error::{Context, Kind as Reason, Result, fail};
use crate::namespaces::idmap;
use crate::sys::mount::{self, Attr, Depth, MS_PRIVATE, MS_SHARED, MS_SLAVE};
use crate::sys::{self, fs};
use crate::trace;

/// The sources that the runtime has opened, as detached trees. The container process opens the others.
pub(crate) struct Sources {
    pub(super) root: Option<OwnedFd>,
    /// The directory that the root is attached to, if the runtime has opened it.
    pub(super) root_target: Option<OwnedFd>,
    /// One element for each mount of the plan, in its order.
    pub(super) mounts: Vec<Option<OwnedFd>>,
    /// The device nodes that the runtime has made ahead.
    pub(super) nodes: Option<OwnedFd>,
    pub(super) by_runtime: Open,
}

/// What the container process asks of the runtime while it mounts.
pub(crate) struct Runtime<'a> {
    /// Returns the source of the mount with this index, which [`open_late`] opens there.
    pub(crate) open: &'a dyn Fn(usize) -> Result<OwnedFd>,
    /// Logs a warning.
    pub(crate) warn: &'a dyn Fn(String) -> Result<()>,
}

/// The sources that the runtime opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    All,
    /// Those of all bind mounts, without the root.
    Binds,
    /// Those that the container process cannot open.
    Idmapped,
}

/// Opens sources in the runtime, with [`Open::All`] in the container's mount namespace. `joined_user` is the user namespace that
/// the container joins.
pub(crate) fn open_sources(
    plan: &Plan,
    proc: BorrowedFd,
    which: Open,
    joined_user: Option<BorrowedFd>,
) -> Result<Sources> {
    let _phase = trace::phase("open sources");
    let (mut root, mut root_target) = (None, None);
    if which == Open::All {
        root = Some(open_root(plan)?);
        root_target = Some(open_root_target(plan).with_context(|| root_place(plan))?);
    }
    let mounts = plan.mounts.iter().map(|mount| {
        let wanted = match &mount.kind {
            Kind::Bind { idmap, .. } => which != Open::Idmapped || idmap.is_some(),
            _ => false,
        };
        let open = || open_by_runtime(plan, mount, proc, joined_user).with_context(|| source_place(mount));
        (wanted && !is_late(plan, mount, which)).then(open).transpose()
    });
    let mounts = mounts.collect::<Result<_>>()?;
    Ok(Sources { root, root_target, mounts, nodes: None, by_runtime: which })
}

/// Opens the source of the mount with this index for the container process, which waits for it. The calling runtime is in
/// the container's mount namespace. The error lacks the place of the source: [`late_place`].
pub(crate) fn open_late(
    plan: &Plan,
    index: usize,
    proc: BorrowedFd,
    joined_user: Option<BorrowedFd>,
) -> Result<OwnedFd> {
    let _phase = trace::phase("open a source in the root");
    let mount = plan.mounts.get(index).context("a mount that is not known")?;
    open_by_runtime(plan, mount, proc, joined_user)
}

/// Returns the place of the source of the mount with this index in the configuration, for errors.
pub(crate) fn late_place(plan: &Plan, index: usize) -> String {
    plan.mounts.get(index).map(source_place).unwrap_or_default()
}

fn source_place(mount: &Mount) -> String {
    match &mount.kind {
        Kind::Bind { source, .. } => place(mount, source),
        _ => mount.place.clone(),
    }
}

fn open_by_runtime(
    plan: &Plan,
    mount: &Mount,
    proc: BorrowedFd,
    joined_user: Option<BorrowedFd>,
) -> Result<OwnedFd> {
    let Kind::Bind { source, recursive, idmap } = &mount.kind else {
        return Err(fail(Reason::Os, format!("{} has no source", mount.place)));
    };
    let first = first_of_bind(plan, mount);
    let opened = open(plan, mount, source, Depth::recursive_if(*recursive), &first)?;
    if let Some(mapping) = idmap
        && !is_copied_link(mount, opened.as_fd())?
    {
        map_ids(&opened, mapping, proc, joined_user)?;
    }
    Ok(opened)
}

/// Returns whether the runtime opens the source of a mount only when the container process asks for it.
pub(super) fn is_late(plan: &Plan, mount: &Mount, by_runtime: Open) -> bool {
    let Kind::Bind { idmap, .. } = &mount.kind else { return false };
    let opens = match by_runtime {
        Open::All => true,
        // Without a container process that mounts.
        Open::Binds => false,
        Open::Idmapped => idmap.is_some(),
    };
    opens && is_in_root(plan, mount)
}

/// Returns whether the source of a mount is the root file system or in it, where it can be an earlier mount of the container.
pub(super) fn is_in_root(plan: &Plan, mount: &Mount) -> bool {
    matches!(&mount.kind, Kind::Bind { source, .. } if source.starts_with(&plan.path))
}

/// Opens the sources that stay peers of the host's mounts, unless they are open. The mounts of a new namespace are peers of the
/// host's until they are changed, unless the namespace belongs to a new user namespace. The root is opened before them, so
/// that it is the oldest mount.
pub(super) fn open_peers(plan: &Plan, sources: &mut Sources) -> Result<()> {
    for (mount, opened) in plan.mounts.iter().zip(&mut sources.mounts) {
        if let (Kind::Bind { source, recursive, .. }, None) = (&mount.kind, &opened)
            && is_peer(plan, mount)
        {
            if sources.root.is_none() {
                sources.root = Some(open_root(plan)?);
            }
            *opened = Some(
                open(plan, mount, source, Depth::recursive_if(*recursive), &[])
                    .with_context(|| place(mount, source))?,
            );
        }
    }
    Ok(())
}

fn open_root(plan: &Plan) -> Result<OwnedFd> {
    let tree = copy(plan, &plan.path, Depth::Recursive, Link::Followed);
    let tree = tree.and_then(|tree| propagate(tree.as_fd(), &for_root(plan.propagation)).map(|()| tree));
    tree.with_context(|| root_place(plan))
}

/// Returns the place of the root in the configuration, for errors.
pub(super) fn root_place(plan: &Plan) -> String {
    format!("root.path {}", plan.path.display())
}

/// Returns the sources on the host that do not exist or are out of reach, and the root, each with its place. A
/// source in the root file system may be an earlier mount of the container.
pub(crate) fn missing(plan: &Plan) -> Vec<(String, sys::Error)> {
    let mut missing = Vec::new();
    missing.extend(open_root_target(plan).err().map(|e| (root_place(plan), e)));
    for mount in &plan.mounts {
        let Kind::Bind { source, .. } = &mount.kind else { continue };
        // `create` makes that of the notification socket.
        if is_in_root(plan, mount) || plan.facts.notify_socket.as_ref() == Some(source) {
            continue;
        }
        let link = if mount.options.source_link() == Link::Followed { 0 } else { fs::O_NOFOLLOW };
        let opened = fs::open(fs::CWD, source, fs::O_PATH | link, 0);
        missing.extend(opened.err().map(|e| (place(mount, source), e)));
    }
    missing
}

/// Opens the sources of the bind mounts at the beginning of `mounts`, in the host's mount namespace.
pub(super) fn open_run(plan: &Plan, mounts: &[Mount], sources: &mut [Option<OwnedFd>]) -> Result<()> {
    for (mount, opened) in mounts.iter().zip(sources) {
        let Kind::Bind { source, recursive, .. } = &mount.kind else { break };
        let first = first_of_bind(plan, mount);
        let tree = open(plan, mount, source, Depth::recursive_if(*recursive), &first);
        *opened = Some(tree.with_context(|| place(mount, source))?);
    }
    Ok(())
}

/// Returns the place of a source in the configuration, for errors.
pub(super) fn place(mount: &Mount, source: &Path) -> String {
    format!("{}.source {}", mount.place, source.display())
}

impl Sources {
    /// Returns the sources of a plan if the runtime opens none.
    pub(super) fn none(plan: &Plan) -> Self {
        let mounts = plan.mounts.iter().map(|_| None).collect();
        Self { root: None, root_target: None, mounts, nodes: None, by_runtime: Open::Idmapped }
    }

    /// Returns whether the container process will ask for further sources.
    pub(crate) fn asks(&self, plan: &Plan) -> bool {
        plan.mounts.iter().any(|mount| is_late(plan, mount, self.by_runtime))
    }

    /// Returns the descriptors, the root's first, for [`Sources::receive`] in another process.
    pub(crate) fn trees(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let first = [&self.root, &self.root_target].into_iter();
        first.chain(&self.mounts).chain([&self.nodes]).flatten().map(AsFd::as_fd)
    }

    /// Receives the sources of a plan, [`Open::All`] or [`Open::Binds`] of which another process has opened, one by one.
    pub(crate) fn receive(
        plan: &Plan,
        which: Open,
        mut next: impl FnMut() -> Result<OwnedFd>,
    ) -> Result<Self> {
        let all = which == Open::All;
        let root = all.then(&mut next).transpose()?;
        let root_target = all.then(&mut next).transpose()?;
        let given = |mount: &Mount| mount.is_bind() && !is_late(plan, mount, which);
        let mounts = plan.mounts.iter().map(|mount| given(mount).then(&mut next).transpose());
        let mounts = mounts.collect::<Result<_>>()?;
        let nodes = (all && plan.has_nodes_ahead()).then(&mut next).transpose()?;
        Ok(Self { root, root_target, mounts, nodes, by_runtime: which })
    }

    /// Returns the numbers of all descriptors in it.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.trees().map(|tree| tree.as_raw_fd())
    }
}

/// Copies a source and gives the copy its first propagation.
fn open(plan: &Plan, mount: &Mount, path: &Path, depth: Depth, first: &[Propagate]) -> sys::Result<OwnedFd> {
    let _phase = trace::phase_of("open the source", || path.display());
    open_as(plan, mount, path, depth, first)
}

fn open_as(
    plan: &Plan,
    mount: &Mount,
    path: &Path,
    depth: Depth,
    first: &[Propagate],
) -> sys::Result<OwnedFd> {
    let tree = copy(plan, path, depth, mount.options.source_link())?;
    if !is_copied_link(mount, tree.as_fd())? {
        propagate(tree.as_fd(), first)?;
    }
    Ok(tree)
}

/// Returns whether an opened source is no tree, but a link that the container gets a copy of.
pub(super) fn is_copied_link(mount: &Mount, source: BorrowedFd) -> sys::Result<bool> {
    Ok(mount.options.copy_link && fs::fstat(source)?.st_mode & libc::S_IFMT == libc::S_IFLNK)
}

/// Makes a copy in the container's mount namespace, where the mounts of the host are slaves or private already. Those in the
/// root file system can be peers: the container's own earlier mounts.
pub(super) fn open_inside(plan: &Plan, mount: &Mount, source: &Path, depth: Depth) -> sys::Result<OwnedFd> {
    let first = first_of_bind(plan, mount);
    let done = if is_in_root(plan, mount) { &[][..] } else { &[ALL_SLAVE][..] };
    open_as(plan, mount, source, depth, first.strip_prefix(done).unwrap_or(&first))
}

/// Opens the directory that the root is attached to, in the mount namespace of the calling process.
pub(super) fn open_root_target(plan: &Plan) -> sys::Result<OwnedFd> {
    fs::open(fs::CWD, &plan.path, fs::O_PATH | fs::O_DIRECTORY, 0)
}

/// Makes a copy of the root file system, whose directory is open, in the container's mount namespace.
pub(super) fn open_root_inside(plan: &Plan, directory: BorrowedFd) -> sys::Result<OwnedFd> {
    let tree = mount::open_tree_clone(directory, Path::new(""), Depth::Recursive)?;
    let first = for_root(plan.propagation);
    propagate(tree.as_fd(), first.strip_prefix(&[ALL_SLAVE]).unwrap_or(&first))?;
    Ok(tree)
}

/// Copies a source. A source below the root file system belongs to the image. Its links lead neither out of the root nor into
/// mounts that are made there already, for example a procfs that is not masked yet. runc and crun follow such links on the
/// host, so that an image can show any file of the host to its container.
///
/// A link at the end is returned as it is if it is to be copied. If it is to be kept, the tree consists of the link.
fn copy(plan: &Plan, path: &Path, depth: Depth, link: Link) -> sys::Result<OwnedFd> {
    let Some(rest) = below_root(plan, path) else {
        if link == Link::Followed {
            return mount::open_tree_clone(fs::CWD, path, depth);
        }
        let found = fs::open(fs::CWD, path, fs::O_PATH | fs::O_NOFOLLOW, 0)?;
        return copy_found(found, depth, link);
    };
    if leads_out(rest) {
        return Err(sys::Error::new(format!("openat2({rest:?})"), Errno::EXDEV));
    }
    let root = fs::open(fs::CWD, &plan.path, fs::O_PATH | fs::O_DIRECTORY, 0)?;
    if link != Link::Followed {
        return copy_found(resolve::open_link_on_mount(root.as_fd(), rest)?, depth, link);
    }
    let found = match resolve::open_plain(root.as_fd(), rest) {
        Err(e) if e.errno == Errno::ELOOP => resolve::open_on_mount(root.as_fd(), rest)?,
        found => found?,
    };
    mount::open_tree_clone(found.as_fd(), Path::new(""), depth)
}

/// Copies a source that was opened without following a link at its end.
fn copy_found(found: OwnedFd, depth: Depth, link: Link) -> sys::Result<OwnedFd> {
    if link == Link::Copied && fs::fstat(found.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFLNK {
        return Ok(found);
    }
    mount::open_tree_clone(found.as_fd(), Path::new(""), depth)
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
        mount::mount_setattr(tree, Depth::recursive_if(step.recursive), &attr)
    })
}

pub(super) const ALL_SLAVE: Propagate = Propagate { flag: MS_SLAVE, recursive: true };
pub(super) const ALL_PRIVATE: Propagate = Propagate { flag: MS_PRIVATE, recursive: true };

/// Returns the first propagation of the copy of the root file system. `root` is `rootfsPropagation`. By default no later mount
/// of the host appears in the container, as with other runtimes; the specification names no default. A shared root gets a
/// peer group of its own later ([`Root::enter`](super::Root::enter)): as a peer of the host's mount it would show all mounts
/// of the container there.
pub(super) fn for_root(root: Option<Propagate>) -> Vec<Propagate> {
    match root.map(|root| root.flag) {
        Some(MS_SHARED) => vec![ALL_SLAVE, Propagate { flag: MS_PRIVATE, recursive: false }],
        Some(MS_PRIVATE) | None => vec![ALL_PRIVATE],
        _ => vec![ALL_SLAVE],
    }
}

/// Returns the propagation of the copy of a bind mount's source, before the propagation `own` of its options. The copy stays in
/// the host's peer group only if both the root and the mount are "shared". Engines send that for volumes whose mounts must
/// appear on the host. If neither has a propagation, the copy is private, which is also what engines mean by none.
fn for_bind(root: Option<Propagate>, own: &[Propagate]) -> Vec<Propagate> {
    let has = |flag| own.iter().any(|own| own.flag == flag);
    match root.map(|root| root.flag) {
        None if own.is_empty() => vec![ALL_PRIVATE],
        Some(MS_SHARED) if has(MS_SHARED) => Vec::new(),
        Some(MS_PRIVATE) if !has(MS_SLAVE) => vec![ALL_PRIVATE],
        _ => vec![ALL_SLAVE],
    }
}

/// Returns the first propagation of the copy of a mount's source. A source in the root file system is none of the host's: its
/// copy never is a peer, not even of an earlier mount of the container that is one.
fn first_of_bind(plan: &Plan, mount: &Mount) -> Vec<Propagate> {
    match for_bind(plan.propagation, &mount.options.propagation) {
        first if first.is_empty() && is_in_root(plan, mount) => vec![ALL_SLAVE],
        first => first,
    }
}

/// Returns whether a bind mount stays in the peer group of the host's mount.
pub(super) fn is_peer(plan: &Plan, mount: &Mount) -> bool {
    mount.is_bind() && first_of_bind(plan, mount).is_empty()
}

fn map_ids(
    tree: &OwnedFd,
    mapping: &IdMapping,
    proc: BorrowedFd,
    joined_user: Option<BorrowedFd>,
) -> Result<()> {
    let idmap = |namespace: BorrowedFd| {
        let done = mount::mount_idmap(tree.as_fd(), Depth::recursive_if(mapping.recursive), namespace);
        done.map_err(|e| match e.errno {
            Errno::EINVAL => {
                anyhow::Error::new(e).context("its file system, or one below, has no idmapped mounts")
            }
            _ => e.into(),
        })
    };
    if let (Some(joined), true) = (joined_user, mapping.is_of_joined()) {
        return idmap(joined);
    }
    let namespace = idmap::user_namespace(proc, &mapping.uid_map, &mapping.gid_map)?;
    idmap(namespace.as_fd())
}
