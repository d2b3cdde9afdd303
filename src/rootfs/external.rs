//! The mounts of a container that CRIU must not save: what they show belongs to the host.
//!
//! A checkpoint names them, by their mount points. Before a restore, the mounts of the configuration are made
//! as for `create`, by the same code, in a mount namespace that only the CRIU process has. That makes the
//! mount points in the root file system, and CRIU binds each external mount from there.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{Kind, Open, Plan, Runtime, apply, resolve, sources};
use crate::error::{Context, Result};
use crate::namespaces::IdMap;
use crate::sys::mount::{self, Attr, Depth, MOUNT_ATTR_RDONLY, MS_PRIVATE};
use crate::sys::mountinfo::{self, Mount};
use crate::sys::{fs, task};
use crate::trace;

/// The name of an external mount that masks a file.
const NULL_NAME: &str = "/dev/null";

/// An external mount of a container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct External {
    /// The mount point in the container.
    pub point: PathBuf,
    /// Its name in the images, which is the mount point or [`NULL_NAME`].
    pub name: PathBuf,
}

/// Returns the external mounts of a container. `root` is the root directory of its first process, and `mountinfo` what that
/// process sees.
pub(crate) fn external(plan: &Plan, root: BorrowedFd, mountinfo: &[u8]) -> Result<Vec<External>> {
    let outside = Outside::find(plan, root, mountinfo)?;
    let mut masks = Vec::new();
    for path in &plan.masked {
        if let Some((id, false)) = mounted(root, path)? {
            masks.push(id);
        }
    }
    let external = mountinfo::parse(mountinfo).filter_map(|mount| {
        let point = mount.point();
        match masks.contains(&mount.id) {
            true => Some(External { point, name: NULL_NAME.into() }),
            false => outside.has(mount.id).then(|| External { name: point.clone(), point }),
        }
    });
    Ok(external.collect())
}

/// The mounts that show what is the host's.
struct Outside {
    /// Whether a mount of the configuration is outside, by the ids of mounts.
    known: BTreeMap<u64, bool>,
    parents: BTreeMap<u64, u64>,
}

impl Outside {
    /// Finds them below `root`. `mountinfo` is that of a process that sees them.
    fn find(plan: &Plan, root: BorrowedFd, mountinfo: &[u8]) -> Result<Self> {
        let mut outside = BTreeMap::new();
        for mount in &plan.mounts {
            let is_outside = match mount.kind {
                // CRIU would mount the hierarchy anew (`stage`).
                Kind::Bind { .. } | Kind::Cgroup => true,
                Kind::New { .. } => false,
                Kind::Remount => continue,
            };
            // One that the container has unmounted does not matter any more.
            if let Some((id, _)) = mounted(root, &mount.destination)? {
                outside.insert(id, is_outside);
            }
        }
        for device in &plan.devices {
            if let Some((id, false)) = mounted(root, &device.path)? {
                outside.insert(id, true);
            }
        }
        let parents = mountinfo::parse(mountinfo).map(|mount| (mount.id, mount.parent)).collect();
        Ok(Self { known: outside, parents })
    }

    fn has(&self, id: u64) -> bool {
        nearest(id, &self.parents, &self.known)
    }
}

/// Returns the id of the mount whose root is at a path in the container, and whether it is a directory.
fn mounted(root: BorrowedFd, path: &Path) -> Result<Option<(u64, bool)>> {
    let Ok(found) = resolve::open(root, path) else { return Ok(None) };
    if fs::mounted_at(found.as_fd(), Path::new(""))? == 0 {
        return Ok(None);
    }
    Ok(Some((fs::mount_id(found.as_fd(), Path::new(""))?, fs::is_directory(found.as_fd())?)))
}

/// Returns whether the nearest mount of the configuration, from this one upwards, is outside.
fn nearest(mut id: u64, parents: &BTreeMap<u64, u64>, outside: &BTreeMap<u64, bool>) -> bool {
    // A circle is impossible, but what is read is another process's.
    for _ in 0..=parents.len() {
        match (outside.get(&id), parents.get(&id)) {
            (Some(is_outside), _) => return *is_outside,
            (None, Some(parent)) => id = *parent,
            (None, None) => return false,
        }
    }
    false
}

/// The name of the directory on the stage that has the bare root file system.
const BARE: &str = "root";

/// The name of the file on the stage that masks files.
const NULL: &str = "null";

/// The directory that the stage is mounted over. Processes in a user namespace must reach the stage, and may not search the
/// directory of the container's state.
const STAGE: &str = "/dev/shm";

/// Makes what CRIU needs for a restore, in the mount namespace that the calling process has for it alone. The mounts of
/// the configuration are at the root file system's path. A new file system, the stage, has the root file system alone
/// ([`bare`]), and a copy of each mount: no other process can change the paths there. `maps` are the id maps of the
/// container's user namespace, and `state` is the directory of its state. Returns the root of the stage. The umask is 0.
///
/// The calling process is in the container's cgroup. The mount of a cgroup hierarchy is made in a cgroup namespace, as in
/// `create`: outside of one, the kernel would take its options for the whole host, and drop nsdelegate and
/// memory_recursiveprot, which CRIU does not set either.
pub(crate) fn stage(
    plan: &Plan,
    proc: BorrowedFd,
    joined_user: Option<BorrowedFd>,
    maps: [&[IdMap]; 2],
    state: &Path,
    warn: &dyn Fn(String) -> Result<()>,
) -> Result<OwnedFd> {
    let _phase = trace::phase("make the mounts for CRIU");
    let mut opened = sources::open_sources(plan, proc, Open::Idmapped, joined_user)?;
    opened.make_nodes(plan, maps, state)?;
    let late = |index| {
        sources::open_late(plan, index, proc, joined_user).with_context(|| sources::late_place(plan, index))
    };
    let outside = fs::open(proc, Path::new("self/ns/cgroup"), fs::O_RDONLY, 0)?;
    if plan.facts.cgroup_namespace {
        task::unshare(libc::CLONE_NEWCGROUP)?;
    }
    let mut root = apply::mount_all(plan, opened, proc, &Runtime { open: &late, warn })?;
    // Those in a bind mount show what is the host's, as that does.
    root.restrict(plan)?;
    task::setns(outside.as_fd(), libc::CLONE_NEWCGROUP)?;
    let bare = mount::open_tree_clone(root.fd(), Path::new(""), Depth::One)?;
    let set = if plan.readonly { MOUNT_ATTR_RDONLY } else { 0 };
    mount::mount_setattr(
        bare.as_fd(),
        Depth::One,
        &Attr { set, propagation: MS_PRIVATE, ..Attr::default() },
    )?;
    let mountinfo = mountinfo::read(proc)?;
    let mounts = below_root(plan, &mountinfo)?;
    let stage = mount::new_filesystem("tmpfs", &[("mode", "0711")], 0)?;
    let directory = fs::open(fs::CWD, Path::new(STAGE), fs::O_PATH | fs::O_DIRECTORY, 0)
        .context("the directory for CRIU's mounts")?;
    mount::move_mount(stage.as_fd(), directory.as_fd())?;
    attach_in(stage.as_fd(), Path::new(BARE), bare.as_fd())?;
    attach_in(stage.as_fd(), Path::new(NULL), root.host_null()?.as_fd())?;
    let outside = Outside::find(plan, root.fd(), &mountinfo)?;
    // A mount of the container's own would be one of the host's namespaces here, such as its procfs.
    for (mount, point) in mounts.into_iter().filter(|(mount, _)| outside.has(mount.id)) {
        let found = resolve::open(root.fd(), &point)?;
        if fs::mount_id(found.as_fd(), Path::new(""))? != mount.id {
            // A later mount covers it.
            continue;
        }
        let copy = mount::open_tree_clone(found.as_fd(), Path::new(""), Depth::One)?;
        attach_in(stage.as_fd(), Path::new(&mount.id.to_string()), copy.as_fd())?;
    }
    Ok(stage)
}

/// Makes a directory, with the mode if the umask is 0. Returns a descriptor of it.
pub(crate) fn directory_in(parent: BorrowedFd, name: &Path, mode: u32) -> Result<OwnedFd> {
    fs::mkdirat(parent, name, mode)?;
    Ok(fs::open(parent, name, fs::O_RDONLY | fs::O_DIRECTORY | fs::O_NOFOLLOW, 0)?)
}

/// Attaches a tree at a name that it makes.
pub(crate) fn attach_in(parent: BorrowedFd, name: &Path, tree: BorrowedFd) -> Result<()> {
    if fs::is_directory(tree)? {
        fs::mkdirat(parent, name, 0o700)?;
    } else {
        fs::mknodat(parent, name, libc::S_IFREG | 0o600, 0)?;
    }
    let target = fs::open(parent, name, fs::O_PATH | fs::O_NOFOLLOW, 0)?;
    Ok(mount::move_mount(tree, target.as_fd())?)
}

/// Returns the mounts below the root file system's path, and the mount point of each in the container.
fn below_root<'a>(plan: &Plan, mountinfo: &'a [u8]) -> Result<Vec<(Mount<'a>, PathBuf)>> {
    let root = fs::real_path(&plan.path)?;
    let below = |mount: Mount<'a>| {
        let point = Path::new("/").join(mount.point().strip_prefix(&root).ok()?);
        (point != Path::new("/")).then_some((mount, point))
    };
    Ok(mountinfo::parse(mountinfo).filter_map(below).collect())
}

/// Returns the path of a file on the stage. The kernel shows mounts at their real paths.
pub(crate) fn on_stage(name: &Path) -> Result<PathBuf> {
    Ok(fs::real_path(Path::new(STAGE))?.join(name))
}

/// Returns the path of the bare root file system that [`stage`] has made.
pub(crate) fn bare() -> Result<PathBuf> {
    on_stage(Path::new(BARE))
}

/// Returns the mounts that [`stage`] has made: the name in the images, and the path of the copy on the stage.
/// `mountinfo` is that of the process that has made them.
pub(crate) fn staged(plan: &Plan, mountinfo: &[u8]) -> Result<Vec<(PathBuf, PathBuf)>> {
    let directory = on_stage(Path::new(""))?;
    let copies: Vec<PathBuf> = mountinfo::parse(mountinfo).map(|mount| mount.point()).collect();
    let all = below_root(plan, mountinfo)?.into_iter();
    let all = all.map(|(mount, point)| (point, directory.join(mount.id.to_string())));
    let null = (PathBuf::from(NULL_NAME), directory.join(NULL));
    Ok(all.filter(|(_, copy)| copies.contains(copy)).chain([null]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_outside_if_the_nearest_of_the_configuration_is() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 4), (6, 1), (7, 8), (8, 7)]);
        // 2 is a bind mount with 3 below it; 4 is a new file system in that, with 5 below it.
        let outside = BTreeMap::from([(2, true), (4, false)]);
        let found = [1, 2, 3, 4, 5, 6, 7].map(|id| nearest(id, &parents, &outside));
        assert_eq!(found, [false, true, true, false, false, false, false]);
    }
}
