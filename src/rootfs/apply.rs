//! The one loop over the mounts, in the container's process.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use nix::errno::Errno;

use super::alone::Alone;
use super::options::{Options, Propagate, legacy_flags};
use super::resolve::{self, Missing};
use super::sources::{self, Sources, propagate};
use super::{Kind, Mount, MountNamespace, Plan, copyup, devices};
use crate::cgroups::v1::View;
use crate::error::{Context, Result, fail};
use crate::sys::mount::{self, Attr, MOUNT_ATTR_RDONLY};
use crate::sys::{self, fs, task};
use crate::trace;

/// The container's root directory, attached.
pub struct Root {
    fd: OwnedFd,
    /// Descriptors that have done their work: they are closed together, since each call counts.
    spent: RefCell<Vec<OwnedFd>>,
    /// What is to be read-only when all is in it, and where it stands.
    filling: Vec<(OwnedFd, String)>,
    /// It is the root of its mount namespace already, and ours.
    pub(super) alone: Option<Alone>,
}

/// How many of them may wait: the container's limit on open files may be ours.
const SPENT_MAX: usize = 64;

/// Attaches the root and makes all mounts and devices inside. The root can still be written to, and the host's paths be
/// reached.
pub fn mount_all(plan: &Plan, mut sources: Sources) -> Result<Root> {
    let _phase = trace::phase("root and mounts");
    if plan.facts.mount_namespace == MountNamespace::New {
        sources::open_peers(plan, &mut sources)?;
    }
    if plan.facts.mount_namespace != MountNamespace::Host {
        // What we mount and unmount stays ours, whatever the host has shared; what the host mounts still comes.
        mount::make_all_slave()?;
    }
    let mut root = attach_root(plan, sources.root).with_context(|| sources::root_place(plan))?;
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
            Some(writable) => fill(root, plan, &writable, at()).with_context(at)?,
            None => make(root, plan, mount, tree).with_context(at)?,
        }
    }
    devices::apply(root, plan)
}

fn attach_root(plan: &Plan, tree: Option<OwnedFd>) -> sys::Result<Root> {
    let _phase = trace::phase_of("attach the root", || plan.path.display());
    let target = fs::open(fs::CWD, &plan.path, fs::O_PATH | fs::O_DIRECTORY, 0)?;
    let open =
        || sources::open_inside(target.as_fd(), Path::new(""), true, &sources::for_root(plan.propagation));
    let tree = tree.map_or_else(open, Ok)?;
    mount::move_mount(tree.as_fd(), target.as_fd())?;
    let root = Root::new(tree);
    root.spend(target);
    Ok(root)
}

/// The tree that a bind mount attaches; `None` for other mounts.
fn bound(plan: &Plan, mount: &Mount, opened: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
    match (&mount.kind, opened) {
        (Kind::Bind { source, recursive, .. }, None) => {
            let first = sources::for_bind(plan.propagation, &mount.options.propagation);
            let tree = sources::open_inside(fs::CWD, source, *recursive, &first);
            tree.map(Some).with_context(|| sources::place(mount, source))
        }
        (_, opened) => Ok(opened),
    }
}

/// Makes a tmpfs that becomes read-only later.
fn fill(root: &mut Root, plan: &Plan, writable: &Mount, place: String) -> Result<()> {
    make(root, plan, writable, None)?;
    let made = resolve::open(root.fd(), &writable.destination)?;
    root.filling.push((made, place));
    Ok(())
}

fn make(root: &mut Root, plan: &Plan, mount: &Mount, tree: Option<OwnedFd>) -> Result<()> {
    let options = &mount.options;
    match (&mount.kind, tree) {
        (Kind::Remount, _) => remount(root, mount),
        (Kind::Bind { .. }, Some(tree)) => {
            shape(tree.as_fd(), options)?;
            let is_directory = fs::is_directory(tree.as_fd())?;
            let target = root.target(mount, if is_directory { Missing::Directory } else { Missing::File })?;
            attach(root, mount, tree, target)
        }
        (Kind::Cgroup, _) if plan.facts.cgroup_views.is_empty() => cgroup(root, plan, mount),
        (Kind::Cgroup, _) => cgroups_v1(root, &plan.facts.cgroup_views, mount),
        (Kind::New { fstype, source }, _) if options.copy_up => {
            let data: Vec<&str> = options.data.iter().map(String::as_str).collect();
            let tree = detached(root, fstype, source.as_deref(), options, &data)?;
            let target = root.target(mount, Missing::Directory)?;
            copyup::copy(target.as_fd(), tree.as_fd(), &data).context("tmpcopyup")?;
            shape_with(tree.as_fd(), false, Attr::default(), &options.propagation)?;
            attach(root, mount, tree, target)
        }
        (Kind::New { fstype, source }, _) => new(root, mount, fstype, source.as_deref()),
        (Kind::Bind { .. }, None) => Err(fail(crate::error::Kind::Os, "its source was not opened")),
    }
}

/// Attaches a tree. What is attached on the root is the root from then on: else all that comes after would be hidden.
fn attach(root: &mut Root, mount: &Mount, tree: OwnedFd, target: OwnedFd) -> Result<()> {
    mount::move_mount(tree.as_fd(), target.as_fd()).map_err(|e| explain(e, tree.as_fd(), target.as_fd()))?;
    root.spend(target);
    let done = match mount.is_on_root() {
        true => std::mem::replace(&mut root.fd, tree),
        false => tree,
    };
    root.spend(done);
    Ok(())
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
/// call; but only that tells which option the file system refuses, and takes more than a page of them.
fn new(root: &mut Root, mount: &Mount, fstype: &str, source: Option<&str>) -> Result<()> {
    let options = &mount.options;
    let (target, mode) = root.place(mount, fstype)?;
    let data: Vec<&str> = mode.iter().chain(&options.data).map(String::as_str).collect();
    let (device, joined) = (Path::new(source.unwrap_or("none")), data.join(","));
    // A mount on the root must be had as a descriptor: no path leads to it from below.
    let one_call = mount::fits(&joined) && !mount.is_on_root();
    let made = if one_call {
        root.mount(Some(device), target.as_fd(), Some(fstype), legacy_flags(options), &joined)
    } else if options.legacy == 0 {
        Err(sys::Error::new(format!("mount({fstype:?})"), Errno::EINVAL))
    } else {
        let what = "silent and iversion go neither with options longer than a page nor with a mount on /";
        return Err(fail(crate::error::Kind::Unsupported, what));
    };
    match made {
        Err(e) if e.errno == Errno::EINVAL && options.legacy == 0 => {
            let tree = match detached(root, fstype, source, options, &data) {
                // It was refused for its length: what mount(2) has said is the reason.
                Err(refused) if refused.errno == Errno::E2BIG && one_call => return Err(e.into()),
                tree => tree?,
            };
            shape_with(tree.as_fd(), false, Attr::default(), &options.propagation)?;
            return attach(root, mount, tree, target);
        }
        made => made?,
    }
    root.spend(target);
    if options.propagation.is_empty() {
        return Ok(());
    }
    let made = resolve::open(root.fd(), &mount.destination)?;
    Ok(shape_with(made.as_fd(), false, Attr::default(), &options.propagation)?)
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
    let target = resolve::open(root.fd(), &mount.destination)?;
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
        root.mount(None, target.as_fd(), None, flags, &options.data.join(","))?;
    }
    Ok(shape(target.as_fd(), options)?)
}

/// The cgroup hierarchy. In a cgroup namespace of its own the container sees its own part of it. Without, a new file
/// system would show the same as the host's, and the making of it would reset the hierarchy's own options; so the
/// host's mount is shown.
fn cgroup(root: &mut Root, plan: &Plan, mount: &Mount) -> Result<()> {
    let facts = &plan.facts;
    let part = |root: &mut Root, path: &Option<PathBuf>| -> Result<()> {
        let none = || fail(crate::error::Kind::Unsupported, "no cgroup v2 hierarchy is mounted on the host");
        let tree = root.of_host(path.as_ref().ok_or_else(none)?, true)?;
        shape(tree.as_fd(), &mount.options)?;
        let target = root.target(mount, Missing::Directory)?;
        attach(root, mount, tree, target)
    };
    if !facts.cgroup_namespace {
        return part(root, &facts.cgroup_mount);
    }
    match new(root, mount, "cgroup2", Some("cgroup")) {
        Err(e) if matches!(sys::errno(&e), Some(Errno::EPERM | Errno::EBUSY)) && facts.cgroup.is_some() => {
            part(root, &facts.cgroup)
        }
        other => other,
    }
}

/// The hierarchies of cgroup v1, in a tmpfs as on the host: of each the container's own part.
fn cgroups_v1(root: &mut Root, views: &[View], mount: &Mount) -> Result<()> {
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
    attach(root, mount, fs::dup(tmpfs.as_fd())?, target)?;
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
    root.spend(tmpfs);
    Ok(())
}

impl Root {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, spent: RefCell::default(), filling: Vec::new(), alone: None }
    }

    /// A copy of what the host has at a path.
    pub(super) fn of_host(&self, path: &Path, recursive: bool) -> Result<OwnedFd> {
        self.on_host(|| Ok(mount::open_tree_clone(fs::CWD, path, recursive)?))
    }

    /// Does something where the host's paths are.
    pub(super) fn on_host<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.alone {
            Some(alone) => alone.outside(act),
            None => act(),
        }
    }

    /// `mount(2)`. Where no /proc is the host's, the directory is the working directory.
    fn mount(
        &self,
        source: Option<&Path>,
        target: BorrowedFd,
        fstype: Option<&str>,
        flags: u64,
        data: &str,
    ) -> sys::Result<()> {
        if self.alone.is_none() {
            return mount::mount(source, &fs::proc_fd(target), fstype, flags, data);
        }
        task::fchdir(target)?;
        mount::mount(source, Path::new("."), fstype, flags, data)
    }

    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
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

    /// Where a new file system goes, and the option that a tmpfs gets besides its own: the mode of the directory that it
    /// covers, as other runtimes have it, unless that is new.
    fn place(&self, mount: &Mount, fstype: &str) -> Result<(OwnedFd, Option<String>)> {
        if fstype == "tmpfs"
            && !mount.options.data.iter().any(|option| option.starts_with("mode="))
            && let Ok(target) = resolve::open(self.fd(), &mount.destination)
        {
            let mode = fs::fstat(target.as_fd())?.st_mode & 0o7777;
            return Ok((target, Some(format!("mode={mode:o}"))));
        }
        Ok((self.target(mount, Missing::Directory)?, None))
    }

    /// Where a mount goes, made if it is missing.
    fn target(&self, mount: &Mount, missing: Missing) -> Result<OwnedFd> {
        // What programs take for the kernel's word must not lie where a link of the image's leads (CVE-2019-19921).
        if let Kind::New { fstype, .. } = &mount.kind
            && matches!(fstype.as_str(), "proc" | "sysfs")
        {
            return directory(self.fd(), &mount.destination)
                .with_context(|| format!("only a directory is a place for {fstype}"));
        }
        Ok(resolve::open_or_make(self.fd(), &mount.destination, missing)?)
    }
}

/// A directory that is no link, made if it is missing.
fn directory(root: BorrowedFd, path: &Path) -> Result<OwnedFd> {
    match resolve::open_with(root, path, fs::O_PATH | fs::O_DIRECTORY | fs::O_NOFOLLOW) {
        Err(e) if e.errno == Errno::ENOENT => Ok(resolve::open_or_make(root, path, Missing::Directory)?),
        other => Ok(other?),
    }
}
