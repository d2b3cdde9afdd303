//! The one loop over the mounts, in the container's process.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use nix::errno::Errno;

use super::alone::Alone;
use super::options::{Options, Propagate, legacy_flags};
use super::resolve::Missing;
use super::sources::{self, Sources, propagate};
use super::targets::{Bound, Reached, Shut};
use super::{Kind, Mount, Plan, copyup, devices};
use crate::cgroups::View;
use crate::error::{Context, Result, fail};
use crate::sys::mount::{self, Attr, MOUNT_ATTR_RDONLY};
use crate::sys::{self, fs, task};
use crate::trace;

/// The container's root directory, attached.
pub struct Root<'a> {
    fd: OwnedFd,
    /// The root of the host's procfs.
    pub(super) proc: BorrowedFd<'a>,
    /// Descriptors that have done their work: they are closed together, since each call counts.
    spent: RefCell<Vec<OwnedFd>>,
    /// What is to be read-only when all is in it, and where it stands.
    filling: Vec<(OwnedFd, String)>,
    /// The bind mounts that links must be kept out of.
    pub(super) bounds: Vec<Bound>,
    /// A link has led a directory or a peer elsewhere: a path without links may lead into it.
    pub(super) displaced: bool,
    /// It is the root of its mount namespace already, and ours.
    pub(super) alone: Option<Alone>,
}

/// How many of them may wait: the container's limit on open files may be ours.
const SPENT_MAX: usize = 64;

/// Attaches the root and makes all mounts and devices inside. The root can still be written to, and the host's paths be
/// reached.
pub fn mount_all<'a>(plan: &Plan, mut sources: Sources, proc: BorrowedFd<'a>) -> Result<Root<'a>> {
    let _phase = trace::phase("root and mounts");
    sources::open_peers(plan, &mut sources)?;
    // What we mount and unmount stays ours, whatever the host has shared; what the host mounts still comes.
    mount::make_all_slave()?;
    let mut root = attach_root(plan, sources.root, proc).with_context(|| sources::root_place(plan))?;
    mount_in(&mut root, plan, sources.mounts)?;
    Ok(root)
}

pub(super) fn mount_in(root: &mut Root, plan: &Plan, mut sources: Vec<Option<OwnedFd>>) -> Result<()> {
    for (i, mount) in plan.mounts.iter().enumerate() {
        let _phase = trace::phase_of("mount", || format!("{} {}", mount.place, mount.destination.display()));
        if let (Some(alone), Kind::Bind { .. }, None) = (&root.alone, &mount.kind, &sources[i]) {
            alone.outside(|| sources::open_run(plan, &plan.mounts[i..], &mut sources[i..]))?;
        }
        let tree = bound(plan, mount, sources[i].take())?;
        let at = || format!("{} {}", mount.place, mount.destination.display());
        match mount.to_fill() {
            Some(writable) => {
                let made = make(root, plan, &writable, tree, true).with_context(at)?;
                root.filling.extend(made.map(|made| (made, at())));
            }
            None => {
                let made = make(root, plan, mount, tree, false).with_context(at)?;
                made.into_iter().for_each(|made| root.spend(made));
            }
        }
    }
    devices::apply(root, plan)?;
    // Where hooks begin, as with runc, whatever was mounted last.
    Ok(task::fchdir(root.fd())?)
}

fn attach_root<'a>(plan: &Plan, tree: Option<OwnedFd>, proc: BorrowedFd<'a>) -> sys::Result<Root<'a>> {
    let _phase = trace::phase_of("attach the root", || plan.path.display());
    let target = fs::open(fs::CWD, &plan.path, fs::O_PATH | fs::O_DIRECTORY, 0)?;
    let open = || sources::open_root_inside(plan, target.as_fd());
    let tree = tree.map_or_else(open, Ok)?;
    mount::move_mount(tree.as_fd(), target.as_fd())?;
    let root = Root::new(tree, proc);
    root.spend(target);
    Ok(root)
}

/// The tree that a bind mount attaches; `None` for other mounts.
fn bound(plan: &Plan, mount: &Mount, opened: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
    match (&mount.kind, opened) {
        (Kind::Bind { source, recursive, .. }, None) => {
            let first = sources::for_bind(plan.propagation, &mount.options.propagation);
            let tree = sources::open_inside(plan, source, *recursive, &first);
            tree.map(Some).with_context(|| sources::place(mount, source))
        }
        (_, opened) => Ok(opened),
    }
}

/// Makes one mount. Returns it if its descriptor is at hand; with `keep` it always is.
fn make(
    root: &mut Root,
    plan: &Plan,
    mount: &Mount,
    tree: Option<OwnedFd>,
    keep: bool,
) -> Result<Option<OwnedFd>> {
    let options = &mount.options;
    match (&mount.kind, tree) {
        (Kind::Remount, _) => remount(root, mount).map(|()| None),
        (Kind::Bind { .. }, Some(tree)) => {
            shape(tree.as_fd(), options)?;
            let is_directory = fs::is_directory(tree.as_fd())?;
            let target = root.target(mount, if is_directory { Missing::Directory } else { Missing::File })?;
            let linked = target.linked;
            let made = attach(root, tree, target)?;
            root.note(plan, mount, made.as_fd(), is_directory, linked)?;
            Ok(Some(made))
        }
        (Kind::Cgroup, _) if plan.facts.cgroup_views.is_empty() => cgroup(root, plan, mount),
        (Kind::Cgroup, _) => cgroups_v1(root, &plan.facts.cgroup_views, mount),
        (Kind::New { fstype, source }, _) if options.copy_up => {
            let data: Vec<&str> = options.data.iter().map(String::as_str).collect();
            let tree = detached(root, fstype, source.as_deref(), options, &data)?;
            let target = root.target(mount, Missing::Directory)?;
            copyup::copy(target.fd.as_fd(), tree.as_fd(), &data, root.proc).context("tmpcopyup")?;
            shape_with(tree.as_fd(), false, Attr::default(), &options.propagation)?;
            attach(root, tree, target).map(Some)
        }
        (Kind::New { fstype, source }, _) => new(root, mount, fstype, source.as_deref(), keep),
        (Kind::Bind { .. }, None) => Err(fail(crate::error::Kind::Os, "its source was not opened")),
    }
}

/// Attaches a tree. What is attached on the root is the root from then on: else all that comes after would be hidden.
fn attach(root: &mut Root, tree: OwnedFd, target: Reached) -> Result<OwnedFd> {
    mount::move_mount(tree.as_fd(), target.fd.as_fd())
        .map_err(|e| explain(e, tree.as_fd(), target.fd.as_fd()))?;
    if target.is_root() {
        root.replace(fs::dup(tree.as_fd())?);
    }
    root.spend(target.fd);
    Ok(tree)
}

/// A directory cannot be mounted on a file, nor a file on a directory, for which the kernel has a bare EINVAL, and
/// mount(2) ENOTDIR: those words are where Docker adds its own explanation. For a source's pinned mount namespaces it
/// has ELOOP.
fn explain(error: sys::Error, tree: BorrowedFd, target: BorrowedFd) -> anyhow::Error {
    if error.errno == Errno::ELOOP {
        return anyhow!("a mount namespace is pinned below the source and cannot come along: {error}");
    }
    match (fs::is_directory(tree), fs::is_directory(target)) {
        (Ok(true), Ok(false)) => {
            anyhow!("the source is a directory, the destination is not a directory: {error}")
        }
        (Ok(false), Ok(true)) => anyhow!("the source is not a directory, the destination is one: {error}"),
        _ => error.into(),
    }
}

/// Gives a mount its attributes, and those of its whole tree, and its propagation: as few calls as say it.
fn shape(tree: BorrowedFd, options: &Options) -> sys::Result<()> {
    if options.attr_all != Attr::default() {
        mount::mount_setattr(tree, true, &options.attr_all)?;
    }
    shape_with(tree, false, options.attr, &options.propagation)
}

fn shape_with(tree: BorrowedFd, recursive: bool, attr: Attr, steps: &[Propagate]) -> sys::Result<()> {
    if attr != Attr::default() {
        mount::mount_setattr(tree, recursive, &attr)?;
    }
    propagate(tree, steps)
}

/// A new file system, by one call of mount(2) on the target's descriptor. With fsopen(2) each option and each step is a
/// call; but only that tells which option the file system refuses, takes more than a page of them, and gives a descriptor
/// of the mount, which is wanted on the root, with `keep`, and for a propagation.
fn new(
    root: &mut Root,
    mount: &Mount,
    fstype: &str,
    source: Option<&str>,
    keep: bool,
) -> Result<Option<OwnedFd>> {
    let options = &mount.options;
    let (target, mode) = root.place(mount, fstype)?;
    let data: Vec<&str> = mode.iter().chain(&options.data).map(String::as_str).collect();
    let (device, joined) = (Path::new(source.unwrap_or("none")), data.join(","));
    let keep = keep || !options.propagation.is_empty();
    let long =
        |option: &&str| option.split_once('=').is_some_and(|(_, value)| value.len() > mount::FSCONFIG_MAX);
    let only_mount = options.legacy != 0 || data.iter().any(long);
    let one_call = mount::fits(&joined) && !target.is_root() && (!keep || only_mount);
    let made = if one_call {
        mount::mount_at(Some(device), target.fd.as_fd(), Some(fstype), legacy_flags(options), &joined)
    } else if options.legacy == 0 {
        Err(sys::Error::new(format!("mount({fstype:?})"), Errno::EINVAL))
    } else {
        let what = "silent and iversion go neither with options longer than a page nor with a mount on /";
        return Err(fail(crate::error::Kind::Unsupported, what));
    };
    match made {
        // EACCES: the target is closed to us, a directory of an id without a mapping. The new calls need not enter it.
        Err(e) if matches!(e.errno, Errno::EINVAL | Errno::EACCES) && options.legacy == 0 => {
            let tree = match detached(root, fstype, source, options, &data) {
                // It was refused for its length: what mount(2) has said is the reason.
                Err(refused) if refused.errno == Errno::E2BIG && one_call => return Err(e.into()),
                tree => tree?,
            };
            shape_with(tree.as_fd(), false, Attr::default(), &options.propagation)?;
            return attach(root, tree, target).map(Some);
        }
        made => made?,
    }
    let made = keep.then(|| made_on(root, mount, target.fd.as_fd())).transpose()?;
    root.spend(target.fd);
    if let Some(made) = &made {
        shape_with(made.as_fd(), false, Attr::default(), &options.propagation)?;
    }
    Ok(made)
}

/// Opens what mount(2) has just mounted on `below`. Only its path leads there, and who shares the directory may have
/// renamed something: then the path leads to no mount, which is an error.
fn made_on(root: &Root, mount: &Mount, below: BorrowedFd) -> Result<OwnedFd> {
    let id = |file: BorrowedFd| fs::mount_id(file, Path::new(""));
    let made = root.reach(&mount.destination, None, Shut::Peers)?.fd;
    if id(made.as_fd())? == id(below)? {
        return Err(sys::Error::new(format!("mount({:?})", mount.destination), Errno::ESTALE).into());
    }
    Ok(made)
}

/// A new file system that is attached nowhere yet, with its attributes from the beginning. An option that is too long is
/// told after those that are wrong.
fn detached(
    root: &Root,
    fstype: &str,
    source: Option<&str>,
    options: &Options,
    data: &[&str],
) -> sys::Result<OwnedFd> {
    let owned = mount::fsopen(fstype)?;
    let context = owned.as_fd();
    if let Some(source) = source {
        mount::fsconfig_string(context, "source", source)?;
    }
    let attributes = options.attributes();
    if attributes & MOUNT_ATTR_RDONLY != 0 {
        mount::fsconfig_flag(context, "ro")?;
    }
    for name in &options.superblock {
        mount::fsconfig_flag(context, name)?;
    }
    let mut too_long = Ok(());
    for option in data {
        match option.split_once('=') {
            // Only mount(2), which parts its options at commas, wants a label with commas in quotes.
            Some((key, value)) if key.ends_with("context") => {
                mount::fsconfig_string(context, key, value.trim_matches('"'))?;
            }
            Some((key, value)) if value.len() > mount::FSCONFIG_MAX => {
                let call = format!("fsconfig({key}=, {} bytes)", value.len());
                too_long = Err(sys::Error::new(call, Errno::E2BIG));
            }
            Some((key, value)) => mount::fsconfig_string(context, key, value)?,
            None => mount::fsconfig_flag(context, option)?,
        }
    }
    too_long?;
    mount::fsconfig_create(context)?;
    let tree = mount::fsmount(context, attributes)?;
    root.spend(owned);
    Ok(tree)
}

/// Changes what is mounted at the destination: with `bind` the mount, else the file system. Writable then, it
/// stays so.
fn remount(root: &mut Root, mount: &Mount) -> Result<()> {
    let options = &mount.options;
    // A link could choose which mount is changed: a volume's, which is read-only, or the host's own file system.
    let target = root.reach(&mount.destination, None, Shut::Links)?.fd;
    let writable = match options.bind {
        Some(_) => (options.attr.clear | options.attr_all.clear) & MOUNT_ATTR_RDONLY != 0,
        None => options.attributes() & MOUNT_ATTR_RDONLY == 0,
    };
    if writable && !root.filling.is_empty() {
        let id = fs::mount_id(target.as_fd(), Path::new(""))?;
        root.filling.retain(|(fd, _)| fs::mount_id(fd.as_fd(), Path::new("")).ok() != Some(id));
    }
    if options.bind.is_none() {
        let flags = legacy_flags(options) | libc::MS_REMOUNT;
        mount::mount_at(None, target.as_fd(), None, flags, &options.data.join(","))?;
    }
    Ok(shape(target.as_fd(), options)?)
}

/// The cgroup hierarchy. In a cgroup namespace of its own the container sees its own part of it. Without, a new file
/// system would show the same as the host's, and the making of it would reset the hierarchy's own options; so the
/// host's mount is shown.
fn cgroup(root: &mut Root, plan: &Plan, mount: &Mount) -> Result<Option<OwnedFd>> {
    let facts = &plan.facts;
    let part = |root: &mut Root, path: &Option<PathBuf>| {
        let none = || fail(crate::error::Kind::Unsupported, "no cgroup v2 hierarchy is mounted on the host");
        let tree = root.of_host(path.as_ref().ok_or_else(none)?, true)?;
        shape(tree.as_fd(), &mount.options)?;
        let target = root.target(mount, Missing::Directory)?;
        attach(root, tree, target).map(Some)
    };
    if !facts.cgroup_namespace {
        return part(root, &facts.cgroup_mount);
    }
    match new(root, mount, "cgroup2", Some("cgroup"), false) {
        Err(e) if matches!(sys::errno(&e), Some(Errno::EPERM | Errno::EBUSY)) && facts.cgroup.is_some() => {
            part(root, &facts.cgroup)
        }
        other => other,
    }
}

/// The hierarchies of cgroup v1, in a tmpfs as on the host: of each the container's own part.
fn cgroups_v1(root: &mut Root, views: &[View], mount: &Mount) -> Result<Option<OwnedFd>> {
    let options = &mount.options;
    let attributes = options.attributes();
    let parameters = [("source", "cgroup"), ("mode", "755"), ("size", "64k")];
    let tmpfs = mount::new_filesystem("tmpfs", &parameters, attributes & !MOUNT_ATTR_RDONLY)?;
    for view in views {
        fs::mkdirat(tmpfs.as_fd(), Path::new(&view.name), 0o755)?;
        for link in &view.links {
            fs::symlinkat(Path::new(&view.name), tmpfs.as_fd(), Path::new(link))?;
        }
    }
    let target = root.target(mount, Missing::Directory)?;
    let tmpfs = attach(root, tmpfs, target)?;
    for view in views {
        // Asked twice: one wrong answer would show another cgroup, or none.
        let host = |dir: &Path| root.of_host(dir, false).or_else(|_| root.of_host(dir, false));
        let tree = match (host(&view.dir), &view.otherwise) {
            (Err(e), Some(callers)) if sys::errno(&e) == Some(Errno::ENOENT) => host(callers)?,
            // A service manager's hierarchy that we may not make anything in.
            (Err(e), None) if view.optional && sys::errno(&e) == Some(Errno::ENOENT) => continue,
            (other, _) => other?,
        };
        shape(tree.as_fd(), options)?;
        let place = fs::open(tmpfs.as_fd(), Path::new(&view.name), fs::O_PATH | fs::O_DIRECTORY, 0)?;
        mount::move_mount(tree.as_fd(), place.as_fd())?;
        root.spend(tree);
        root.spend(place);
    }
    let attr = Attr { set: attributes & MOUNT_ATTR_RDONLY, ..Attr::default() };
    shape_with(tmpfs.as_fd(), false, attr, &options.propagation)?;
    Ok(Some(tmpfs))
}

impl<'a> Root<'a> {
    pub(super) fn new(fd: OwnedFd, proc: BorrowedFd<'a>) -> Self {
        Self {
            fd,
            proc,
            spent: RefCell::default(),
            filling: Vec::new(),
            bounds: Vec::new(),
            displaced: false,
            alone: None,
        }
    }

    /// A copy of what the host has at a path, never a peer of the host's mount: what would be mounted on it would appear
    /// there, a second mask for one.
    pub(super) fn of_host(&self, path: &Path, recursive: bool) -> Result<OwnedFd> {
        let tree = self.on_host(|| Ok(mount::open_tree_clone(fs::CWD, path, recursive)?))?;
        if self.alone.is_some() {
            propagate(tree.as_fd(), &[sources::ALL_SLAVE])?;
        }
        Ok(tree)
    }

    /// Does something where the host's paths are.
    pub(super) fn on_host<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.alone {
            Some(alone) => alone.outside(act),
            None => act(),
        }
    }

    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Takes another mount for the root.
    pub(super) fn replace(&mut self, tree: OwnedFd) {
        let before = std::mem::replace(&mut self.fd, tree);
        self.spend(before);
    }

    /// Makes read-only what had to be filled first.
    pub(super) fn close_filled(&mut self) -> Result<()> {
        let read_only = Attr { set: MOUNT_ATTR_RDONLY, ..Attr::default() };
        for (fd, place) in std::mem::take(&mut self.filling) {
            mount::mount_setattr(fd.as_fd(), false, &read_only).context(place)?;
            self.spend(fd);
        }
        Ok(())
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
    pub(super) fn into_fd(mut self) -> OwnedFd {
        let alone = self.alone.take();
        alone.into_iter().flat_map(Alone::into_descriptors).for_each(|fd| self.spend(fd));
        fs::close_together(self.spent.into_inner());
        self.fd
    }
}
