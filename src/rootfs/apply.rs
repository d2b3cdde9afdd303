//! The one loop over the mounts, in the container's process.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::options::{Options, Propagate, legacy_flags};
use super::resolve::{self, Missing};
use super::sources::{Source, Sources};
use super::{Kind, Mount, MountNamespace, Plan, copyup, devices};
use crate::error::{Context, Result, fail};
use crate::sys::mount::{self, Attr, MOUNT_ATTR_RDONLY, MS_PRIVATE};
use crate::sys::{self, fs};

/// The container's root directory, attached.
pub struct Root {
    fd: OwnedFd,
    /// Descriptors that have done their work: they are closed together, since each call counts.
    spent: RefCell<Vec<OwnedFd>>,
}

/// How many of them may wait: the container's limit on open files may be ours.
const SPENT_MAX: usize = 64;

/// The longest value that fsconfig(2) takes.
const VALUE_MAX: usize = 255;

/// Attaches the root and makes all mounts and devices inside. The root can still be written to, and the host's paths be
/// reached.
pub fn mount_all(plan: &Plan, sources: Sources) -> Result<Root> {
    if plan.facts.mount_namespace == MountNamespace::New {
        // What we mount and unmount stays ours, whatever the host has shared.
        let host = fs::open(fs::CWD, Path::new("/"), fs::O_PATH | fs::O_DIRECTORY, 0)?;
        mount::mount_setattr(host.as_fd(), true, &Attr { propagation: MS_PRIVATE, ..Attr::default() })?;
    }
    let root =
        attach_root(plan, sources.root).with_context(|| format!("root.path {}", plan.path.display()))?;
    for (mount, source) in plan.mounts.iter().zip(sources.mounts) {
        make(&root, plan, mount, source)
            .with_context(|| format!("{} {}", mount.place, mount.destination.display()))?;
    }
    devices::apply(&root, plan)?;
    Ok(root)
}

fn attach_root(plan: &Plan, source: Source) -> sys::Result<Root> {
    let tree = source.into_tree(&plan.path, true, plan.propagation)?;
    let target = fs::open(fs::CWD, &plan.path, fs::O_PATH | fs::O_DIRECTORY, 0)?;
    mount::move_mount(tree.as_fd(), target.as_fd())?;
    Ok(Root { fd: tree, spent: RefCell::new(vec![target]) })
}

fn make(root: &Root, plan: &Plan, mount: &Mount, source: Option<Source>) -> Result<()> {
    let options = &mount.options;
    match (&mount.kind, source) {
        (Kind::Remount, _) => remount(root, mount),
        (Kind::Bind { source: path, recursive, .. }, Some(source)) => {
            let missing = if source.is_directory { Missing::Directory } else { Missing::File };
            let tree = source.into_tree(path, *recursive, plan.propagation)?;
            shape(tree.as_fd(), options)?;
            attach(root, mount, tree, missing)
        }
        (Kind::Cgroup, _) => {
            let tree = cgroup(root, plan, options)?;
            attach(root, mount, tree, Missing::Directory)
        }
        (Kind::New { fstype, source }, _) => {
            if needs_old_call(options) {
                return make_by_old_call(root, mount, fstype, source.as_deref());
            }
            let tree = new(root, fstype, source.as_deref(), options)?;
            if options.copy_up {
                let below = root.target(mount, Missing::Directory)?;
                copyup::copy(below.as_fd(), tree.as_fd()).context("tmpcopyup")?;
                let attr = Attr { set: options.attr.set & MOUNT_ATTR_RDONLY, ..Attr::default() };
                shape_with(tree.as_fd(), false, attr, &[])?;
            }
            shape_with(tree.as_fd(), false, Attr::default(), &options.propagation)?;
            attach(root, mount, tree, Missing::Directory)
        }
        (Kind::Bind { .. }, None) => Err(fail(crate::error::Kind::Os, "its source was not opened")),
    }
}

fn attach(root: &Root, mount: &Mount, tree: OwnedFd, missing: Missing) -> Result<()> {
    let target = root.target(mount, missing)?;
    mount::move_mount(tree.as_fd(), target.as_fd())?;
    root.spend(tree);
    root.spend(target);
    Ok(())
}

/// Gives a mount its attributes, and those of its whole tree, and its propagation: as few calls as say it.
fn shape(tree: BorrowedFd, options: &Options) -> sys::Result<()> {
    if options.attr_all != Attr::default() {
        mount::mount_setattr(tree, true, &options.attr_all)?;
    }
    shape_with(tree, false, options.attr, &options.propagation)
}

fn shape_with(tree: BorrowedFd, recursive: bool, attr: Attr, propagation: &[Propagate]) -> sys::Result<()> {
    if attr != Attr::default() {
        mount::mount_setattr(tree, recursive, &attr)?;
    }
    for propagate in propagation {
        let attr = Attr { propagation: propagate.flag, ..Attr::default() };
        mount::mount_setattr(tree, propagate.recursive, &attr)?;
    }
    Ok(())
}

/// A new file system, detached, with its attributes from the beginning.
fn new(root: &Root, fstype: &str, source: Option<&str>, options: &Options) -> sys::Result<OwnedFd> {
    let owned = mount::fsopen(fstype)?;
    let context = owned.as_fd();
    if let Some(source) = source {
        mount::fsconfig_string(context, "source", source)?;
    }
    let mut attributes = options.attr.set | options.attr_all.set;
    if options.copy_up {
        attributes &= !MOUNT_ATTR_RDONLY;
    } else if attributes & MOUNT_ATTR_RDONLY != 0 {
        mount::fsconfig_flag(context, "ro")?;
    }
    for name in &options.superblock {
        mount::fsconfig_flag(context, name)?;
    }
    for option in &options.data {
        match option.split_once('=') {
            Some((key, value)) => mount::fsconfig_string(context, key, value)?,
            None => mount::fsconfig_flag(context, option)?,
        }
    }
    mount::fsconfig_create(context)?;
    let tree = mount::fsmount(context, attributes)?;
    root.spend(owned);
    Ok(tree)
}

fn needs_old_call(options: &Options) -> bool {
    let long = |option: &String| option.split_once('=').is_some_and(|(_, value)| value.len() > VALUE_MAX);
    options.legacy != 0 || options.data.iter().any(long)
}

/// With mount(2), which takes flags and long values that fsconfig(2) does not.
fn make_by_old_call(root: &Root, mount: &Mount, fstype: &str, source: Option<&str>) -> Result<()> {
    let target = root.target(mount, Missing::Directory)?;
    let options = &mount.options;
    let source = Path::new(source.unwrap_or("none"));
    mount::mount(Some(source), target.as_fd(), Some(fstype), legacy_flags(options), &options.data.join(","))?;
    let made = resolve::open(root.fd(), &mount.destination)?;
    Ok(shape_with(made.as_fd(), false, Attr::default(), &options.propagation)?)
}

/// Changes what is mounted at the destination: with `bind` the mount, else the file system.
fn remount(root: &Root, mount: &Mount) -> Result<()> {
    let options = &mount.options;
    let target = resolve::open(root.fd(), &mount.destination)?;
    if options.bind.is_none() {
        let flags = legacy_flags(options) | libc::MS_REMOUNT;
        mount::mount(None, target.as_fd(), None, flags, &options.data.join(","))?;
    }
    Ok(shape(target.as_fd(), options)?)
}

/// The cgroup hierarchy. In a cgroup namespace of its own the container sees its own part of it. Without, a new file
/// system would show the same as the host's, and the making of it would reset the hierarchy's own options; so the
/// host's mount is shown.
fn cgroup(root: &Root, plan: &Plan, options: &Options) -> Result<OwnedFd> {
    let facts = &plan.facts;
    let part = |path: &Option<PathBuf>| -> Result<OwnedFd> {
        let none = || fail(crate::error::Kind::Unsupported, "no cgroup v2 hierarchy is mounted on the host");
        let tree = mount::open_tree_clone(fs::CWD, path.as_ref().ok_or_else(none)?, true)?;
        shape(tree.as_fd(), options)?;
        Ok(tree)
    };
    if !facts.cgroup_namespace {
        return part(&facts.cgroup_mount);
    }
    let context_free = Options { data: Vec::new(), superblock: Vec::new(), ..options.clone() };
    match new(root, "cgroup2", Some("cgroup"), &context_free) {
        Err(e) if matches!(e.errno, Errno::EPERM | Errno::EBUSY) && facts.cgroup.is_some() => {
            part(&facts.cgroup)
        }
        other => {
            let tree = other?;
            shape_with(tree.as_fd(), false, Attr::default(), &options.propagation)?;
            Ok(tree)
        }
    }
}

impl Root {
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Takes a descriptor that is not needed any more.
    pub(super) fn spend(&self, fd: OwnedFd) {
        let mut spent = self.spent.borrow_mut();
        spent.push(fd);
        if spent.len() >= SPENT_MAX {
            fs::close_together(spent.split_off(0));
        }
    }

    /// Closes what is spent.
    pub(super) fn close_spent(&self) {
        fs::close_together(self.spent.take());
    }

    /// Where a mount goes, made if it is missing.
    fn target(&self, mount: &Mount, missing: Missing) -> Result<OwnedFd> {
        // What programs take for the kernel's word must not lie where a link of the image's leads (CVE-2019-19921).
        if let Kind::New { fstype, .. } = &mount.kind
            && matches!(fstype.as_str(), "proc" | "sysfs")
            && let Some(found) = existing(self.fd(), &mount.destination)?
        {
            if fs::fstat(found.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFLNK {
                let text = format!("a symbolic link is no place for {fstype}");
                return Err(fail(crate::error::Kind::Config, text));
            }
            return Ok(found);
        }
        Ok(resolve::open_or_make(self.fd(), &mount.destination, missing)?)
    }
}

/// What is at a path, a link itself.
fn existing(root: BorrowedFd, path: &Path) -> sys::Result<Option<OwnedFd>> {
    match resolve::open_with(root, path, fs::O_PATH | fs::O_NOFOLLOW) {
        Err(e) if e.errno == Errno::ENOENT => Ok(None),
        other => other.map(Some),
    }
}
