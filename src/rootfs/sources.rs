//! What is opened on the host's side, before there is a container: the root file system and the sources of bind mounts.
//!
//! Each is a detached copy of the host's tree, so that nobody can exchange it between here and its attaching, and an
//! idmapped mount can be made by who has the right. Copies need CAP_SYS_ADMIN over our mount namespace: without, as a
//! user, the path is opened and checked here, and opened once more in the container's mount namespace, where a
//! descriptor of ours would refer to a mount of another namespace; if it is not the same file by then, that is an error.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::mounts::IdMapping;
use super::options::Propagate;
use super::{Kind, MountNamespace, Plan};
use crate::error::{Context, Result};
use crate::namespaces::idmap;
use crate::sys::mount::{self, Attr, MS_PRIVATE, MS_SHARED, MS_SLAVE};
use crate::sys::{self, fs};

/// The host's part of a plan, open.
pub struct Sources {
    pub(super) root: Source,
    /// Of each mount that has one, in the plan's order.
    pub(super) mounts: Vec<Option<Source>>,
    /// The mount that the root file system lies on before we attach ours, where that must be undone.
    pub under_root: Option<u64>,
}

/// A part of the host's tree.
pub(super) struct Source {
    pub(super) tree: Tree,
    pub(super) is_directory: bool,
}

pub(super) enum Tree {
    /// A detached copy.
    Copy(OwnedFd),
    /// To be copied later, if it still is this file.
    Checked { device: u64, inode: u64 },
}

/// Opens the sources.
pub fn open_sources(plan: &Plan, proc: BorrowedFd) -> Result<Sources> {
    let at = || format!("root.path {}", plan.path.display());
    let root = open(&plan.path, true, true, &for_root(plan.propagation)).with_context(at)?;
    let under_root = match plan.facts.mount_namespace {
        MountNamespace::Host => Some(fs::mount_id(fs::CWD, &plan.path).with_context(at)?),
        _ => None,
    };
    let mut mounts = Vec::with_capacity(plan.mounts.len());
    for mount in &plan.mounts {
        let Kind::Bind { source, recursive, idmap } = &mount.kind else {
            mounts.push(None);
            continue;
        };
        let place = || format!("{}.source {}", mount.place, source.display());
        let first = for_bind(plan.propagation, &mount.options.propagation);
        let opened = open(source, *recursive, false, &first).with_context(place)?;
        if let Some(mapping) = idmap {
            map_ids(&opened, mapping, proc).with_context(place)?;
        }
        mounts.push(Some(opened));
    }
    Ok(Sources { root, mounts, under_root })
}

impl Sources {
    /// The detached trees, the root's first, for another process's [`Sources::receive`]. All are, where they are opened
    /// by whom this is for: the host's root.
    pub fn trees(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let all = [&self.root].into_iter().chain(self.mounts.iter().flatten());
        all.filter_map(|source| match &source.tree {
            Tree::Copy(tree) => Some(tree.as_fd()),
            Tree::Checked { .. } => None,
        })
    }

    /// The sources of a plan that another process has opened, one by one.
    pub fn receive(plan: &Plan, mut next: impl FnMut() -> Result<OwnedFd>) -> Result<Self> {
        let mut source = || -> Result<Source> {
            let tree = next()?;
            let (_, is_directory) = kind(&tree, false)?;
            Ok(Source { tree: Tree::Copy(tree), is_directory })
        };
        let root = source()?;
        let mounts = plan.mounts.iter().map(|mount| mount.is_bind().then(&mut source).transpose());
        Ok(Self { root, mounts: mounts.collect::<Result<_>>()?, under_root: None })
    }

    /// The numbers of all descriptors in here.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        let all = self.mounts.iter().flatten().chain([&self.root]);
        all.filter_map(|source| match &source.tree {
            Tree::Copy(tree) => Some(tree.as_raw_fd()),
            Tree::Checked { .. } => None,
        })
    }
}

fn open(path: &Path, recursive: bool, directory: bool, first: &[Propagate]) -> sys::Result<Source> {
    match mount::open_tree_clone(fs::CWD, path, recursive) {
        Err(e) if e.errno == Errno::EPERM => {
            let file = fs::open(fs::CWD, path, fs::O_PATH, 0)?;
            let (stat, is_directory) = kind(&file, directory)?;
            Ok(Source { tree: Tree::Checked { device: stat.st_dev, inode: stat.st_ino }, is_directory })
        }
        tree => {
            let tree = tree?;
            let (_, is_directory) = kind(&tree, directory)?;
            detach_from_host(&tree, first)?;
            Ok(Source { tree: Tree::Copy(tree), is_directory })
        }
    }
}

fn kind(file: &OwnedFd, directory: bool) -> sys::Result<(libc::stat, bool)> {
    let stat = fs::fstat(file.as_fd())?;
    let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if directory && !is_directory {
        return Err(sys::Error::new("fstat()", Errno::ENOTDIR));
    }
    Ok((stat, is_directory))
}

const ALL_SLAVE: Propagate = Propagate { flag: MS_SLAVE, recursive: true };
const ALL_PRIVATE: Propagate = Propagate { flag: MS_PRIVATE, recursive: true };

/// What the copy of the root file system gets first, with `rootfsPropagation` being `root`: by default it receives what
/// the host mounts later and gives nothing back. If it is to be shared, that begins a group of its own later
/// ([`Root::enter`](super::Root::enter)): as a peer of the host's mount it would show all our mounts there.
pub(super) fn for_root(root: Option<Propagate>) -> Vec<Propagate> {
    match root.map(|root| root.flag) {
        Some(MS_SHARED) => vec![ALL_SLAVE, Propagate { flag: MS_PRIVATE, recursive: false }],
        Some(MS_PRIVATE) => vec![ALL_PRIVATE],
        _ => vec![ALL_SLAVE],
    }
}

/// What the copy of a bind mount's source gets before the propagation `own` of its options. It stays in the host's peer
/// group only if both the root and the mount say "shared": that is what engines send for volumes whose mounts are to
/// arrive at the host.
pub(super) fn for_bind(root: Option<Propagate>, own: &[Propagate]) -> Vec<Propagate> {
    let says = |flag| own.iter().any(|own| own.flag == flag);
    match root.map(|root| root.flag) {
        Some(MS_SHARED) if says(MS_SHARED) => Vec::new(),
        Some(MS_PRIVATE) if !says(MS_SLAVE) => vec![ALL_PRIVATE],
        _ => vec![ALL_SLAVE],
    }
}

fn detach_from_host(tree: &OwnedFd, first: &[Propagate]) -> sys::Result<()> {
    first.iter().try_for_each(|propagate| {
        let attr = Attr { propagation: propagate.flag, ..Attr::default() };
        mount::mount_setattr(tree.as_fd(), propagate.recursive, &attr)
    })
}

fn map_ids(source: &Source, mapping: &IdMapping, proc: BorrowedFd) -> Result<()> {
    let Tree::Copy(tree) = &source.tree else {
        return Err(sys::Error::new("open_tree()", Errno::EPERM)).context("an idmapped mount needs root");
    };
    let namespace = idmap::user_namespace(proc, &mapping.uid_map, &mapping.gid_map)?;
    Ok(mount::mount_idmap(tree.as_fd(), mapping.recursive, namespace.as_fd())?)
}

impl Source {
    /// The detached tree, for whoever attaches it: the container's process.
    pub(super) fn into_tree(self, path: &Path, recursive: bool, first: &[Propagate]) -> sys::Result<OwnedFd> {
        let (device, inode) = match self.tree {
            Tree::Copy(tree) => return Ok(tree),
            Tree::Checked { device, inode } => (device, inode),
        };
        let tree = mount::open_tree_clone(fs::CWD, path, recursive)?;
        let stat = fs::fstat(tree.as_fd())?;
        if (stat.st_dev, stat.st_ino) != (device, inode) {
            return Err(sys::Error::new(format!("open_tree({path:?})"), Errno::ESTALE));
        }
        detach_from_host(&tree, first)?;
        Ok(tree)
    }
}
