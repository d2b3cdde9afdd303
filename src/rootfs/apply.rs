//! The loop that makes all mounts, in the container process, in the order in which they are listed, which
//! mountinfo shows. It copies the sources when it needs each of them (`sources.rs` has the reasons and the
//! exceptions).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use nix::errno::Errno;

use super::options::{self, Options, Propagate, legacy_flags};
use super::resolve::Missing;
use super::root::Root;
use super::sources::{self, Runtime, Sources, propagate};
use super::targets::{Covered, Reached, Shut};
use super::{Kind, Mount, Plan, copyup, devices, pivot};
use crate::cgroups::View;
use crate::error::{Context, Result, fail};
use crate::sys::mount::{
    self, Attr, Depth, MOUNT_ATTR_ATIME_MASK, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
};
use crate::sys::{self, fs, task};
use crate::{host, trace};

/// When the calls that make a mount return a descriptor of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Descriptor {
    Always,
    /// Only if they have one anyway.
    IfOpen,
}

/// Attaches the root and makes all mounts and devices inside. Afterwards the root is still writable, and the host's paths can
/// still be reached.
pub(crate) fn mount_all<'a>(
    plan: &Plan,
    mut sources: Sources,
    proc: BorrowedFd<'a>,
    runtime: &Runtime,
) -> Result<Root<'a>> {
    let _phase = trace::phase("root and mounts");
    sources::open_peers(plan, &mut sources)?;
    // The container's mounts do not propagate to the host, even from shared mounts. Mounts of the host still propagate here.
    mount::make_all_slave().map_err(pivot::explain)?;
    let mut root = attach_root(plan, &mut sources, proc).with_context(|| sources::root_place(plan))?;
    root.nodes = sources.nodes.take();
    mount_in(&mut root, plan, sources, runtime)?;
    Ok(root)
}

pub(super) fn mount_in(root: &mut Root, plan: &Plan, sources: Sources, runtime: &Runtime) -> Result<()> {
    let (mut opened, by_runtime) = (sources.mounts, sources.by_runtime);
    for (i, mount) in plan.mounts.iter().enumerate() {
        let _phase = trace::phase_of("mount", || mount.shown());
        if let (Some(root_only), Kind::Bind { .. }, None) = (&root.root_only, &mount.kind, &opened[i]) {
            root_only.outside(|| sources::open_run(plan, &plan.mounts[i..], &mut opened[i..]))?;
        }
        let tree = match opened[i].take() {
            None if sources::is_late(plan, mount, by_runtime) => Some((runtime.open)(i)?),
            other => bind_source(plan, mount, other)?,
        };
        let at = || format!("{} {}", mount.place, mount.destination.display());
        let writable = mount.to_fill();
        let descriptor = if writable.is_some() { Descriptor::Always } else { Descriptor::IfOpen };
        let made = make(root, plan, writable.as_ref().unwrap_or(mount), tree, descriptor, runtime);
        match made.with_context(at)? {
            Some(made) if writable.is_some() => root.filling.push((made, at())),
            made => made.into_iter().for_each(|made| root.close_later(made)),
        }
    }
    devices::apply(root, plan, runtime)?;
    root.detach_nodes()?;
    // The working directory of hooks, as with runc.
    Ok(task::fchdir(root.fd())?)
}

fn attach_root<'a>(plan: &Plan, sources: &mut Sources, proc: BorrowedFd<'a>) -> sys::Result<Root<'a>> {
    let _phase = trace::phase_of("attach the root", || plan.path.display());
    let target = sources.root_target.take().map_or_else(|| sources::open_root_target(plan), Ok)?;
    let open = || sources::open_root_inside(plan, target.as_fd());
    let tree = sources.root.take().map_or_else(open, Ok)?;
    mount::move_mount(tree.as_fd(), target.as_fd())?;
    let root = Root::new(tree, proc, None);
    root.close_later(target);
    Ok(root)
}

/// Returns the tree that a bind mount attaches, or `None` for other mounts.
fn bind_source(plan: &Plan, mount: &Mount, opened: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
    match (&mount.kind, opened) {
        (Kind::Bind { source, recursive, .. }, None) => {
            let tree = sources::open_inside(plan, mount, source, Depth::recursive_if(*recursive));
            tree.map(Some).with_context(|| sources::place(mount, source))
        }
        (_, opened) => Ok(opened),
    }
}

/// Makes one mount and returns its descriptor as requested.
fn make(
    root: &mut Root,
    plan: &Plan,
    mount: &Mount,
    tree: Option<OwnedFd>,
    descriptor: Descriptor,
    runtime: &Runtime,
) -> Result<Option<OwnedFd>> {
    let options = &mount.options;
    match (&mount.kind, tree) {
        (Kind::Remount, _) => remount(root, mount).map(|()| None),
        (Kind::Bind { .. }, Some(link)) if sources::is_copied_link(mount, link.as_fd())? => {
            root.link(&mount.destination, &fs::readlinkat(link.as_fd(), Path::new(""))?)?;
            root.close_later(link);
            Ok(None)
        }
        (Kind::Bind { .. }, Some(tree)) => {
            shape_bind(tree.as_fd(), mount, runtime.warn)?;
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
            let (target, covered) = root.tmpfs_target(mount)?;
            if covered == Covered::OfImage {
                copyup::copy(target.fd.as_fd(), tree.as_fd(), &data, root.proc).context("tmpcopyup")?;
            }
            shape_with(tree.as_fd(), Attr::default(), &options.propagation)?;
            attach(root, tree, target).map(Some)
        }
        (Kind::New { fstype, source }, _) => match new(root, mount, fstype, source.as_deref(), descriptor) {
            Err(e)
                if fstype == "sysfs"
                    && !plan.facts.network_namespace
                    && sys::errno(&e) == Some(Errno::EPERM) =>
            {
                hosts_sysfs(root, mount, e)
            }
            made => made,
        },
        (Kind::Bind { .. }, None) => Err(fail(crate::error::Kind::Os, "its source was not opened")),
    }
}

/// Attaches a tree. A tree on the root becomes the root, since it would hide everything that is mounted later.
fn attach(root: &mut Root, tree: OwnedFd, target: Reached) -> Result<OwnedFd> {
    mount::move_mount(tree.as_fd(), target.fd.as_fd())
        .map_err(|e| explain(e, tree.as_fd(), target.fd.as_fd()))?;
    if target.is_root() {
        root.replace(fs::dup(tree.as_fd())?);
    }
    root.close_later(target.fd);
    Ok(tree)
}

/// Explains the kernel's errors. A directory cannot be mounted on a file, nor a file on a directory: the kernel returns only
/// EINVAL, where mount(2) returns ENOTDIR. dockerd looks for the text of ENOTDIR, "not a directory", to add its own
/// explanation. It looks for that of EISDIR, "is a directory", before, and takes the error for one of the program. ELOOP is
/// the error for mount namespaces that are pinned below a source.
pub(super) fn explain(error: sys::Error, tree: BorrowedFd, target: BorrowedFd) -> anyhow::Error {
    if error.errno == Errno::ELOOP {
        return anyhow!("a mount namespace is pinned below the source and cannot come along: {error}");
    }
    match (fs::is_directory(tree), fs::is_directory(target)) {
        (Ok(true), Ok(false)) => {
            anyhow!("the destination is not a directory but a file, unlike the source: {error}")
        }
        (Ok(false), Ok(true)) => {
            anyhow!("the source is not a directory but a file, unlike the destination: {error}")
        }
        _ => error.into(),
    }
}

/// Sets the attributes of a mount, those of its whole tree, and its propagation, with as few calls as possible.
pub(super) fn shape(tree: BorrowedFd, options: &Options) -> sys::Result<()> {
    if options.attr_all != Attr::default() {
        mount::mount_setattr(tree, Depth::Recursive, &options.attr_all)?;
    }
    shape_with(tree, options.attr, &options.propagation)
}

/// Shapes the tree of a bind mount. A user namespace cannot clear the flags of the host's mount (mount_namespaces(7)). They
/// stay, with a warning: engines send `rw` for every volume that is not to be read-only.
pub(super) fn shape_bind(tree: BorrowedFd, mount: &Mount, warn: &dyn Fn(String) -> Result<()>) -> Result<()> {
    let refused = match shape(tree, &mount.options) {
        Err(e) if e.errno == Errno::EPERM => e,
        other => return Ok(other?),
    };
    let mut options = mount.options.clone();
    let locked = mount::flags(tree)? & options.attr.clear;
    if locked == 0 {
        return Err(refused.into());
    }
    options.attr.clear &= !locked;
    shape(tree, &options)?;
    for (_, name) in CLEARING.iter().filter(|(flag, _)| locked & flag != 0) {
        let why = "the host's mount has the opposite, which a user namespace cannot change";
        warn(format!("{}.options: {name:?} has no effect: {why}", mount.place))?;
    }
    Ok(())
}

/// Flags of a mount that a user namespace cannot clear, each with the option that asks for it.
const CLEARING: [(u64, &str); 4] = [
    (MOUNT_ATTR_RDONLY, "rw"),
    (MOUNT_ATTR_NOSUID, "suid"),
    (MOUNT_ATTR_NODEV, "dev"),
    (MOUNT_ATTR_NOEXEC, "exec"),
];

fn shape_with(tree: BorrowedFd, attr: Attr, steps: &[Propagate]) -> sys::Result<()> {
    if attr != Attr::default() {
        mount::mount_setattr(tree, Depth::One, &attr)?;
    }
    propagate(tree, steps)
}

/// Mounts a new file system by one call of mount(2) on the target's descriptor. With fsopen(2) each option and each step is a
/// call. But only fsopen(2) reports which option the file system refuses, accepts more than a page of options, and returns a
/// descriptor of the mount. The descriptor is needed on the root, with [`Descriptor::Always`], and to set the propagation.
fn new(
    root: &mut Root,
    mount: &Mount,
    fstype: &str,
    source: Option<&str>,
    descriptor: Descriptor,
) -> Result<Option<OwnedFd>> {
    let options = &mount.options;
    let (target, mode) = root.new_target(mount, fstype)?;
    let data: Vec<&str> = mode.iter().chain(&options.data).map(String::as_str).collect();
    let (device, joined) = (Path::new(source.unwrap_or("none")), data.join(","));
    let keep = descriptor == Descriptor::Always || !options.propagation.is_empty();
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
        // EACCES: the target is a directory that belongs to an unmapped id. The new calls need not enter it.
        // EBUSY: the same file system is mounted there, as cgroup2 is in a bound /sys. Only mount(2) refuses that.
        Err(e) if matches!(e.errno, Errno::EINVAL | Errno::EACCES | Errno::EBUSY) && options.legacy == 0 => {
            let tree = match detached(root, fstype, source, options, &data) {
                Err(refused) if one_call && e.errno == Errno::EINVAL && !tells_more(&refused) => {
                    return Err(in_one_string(e.into(), options));
                }
                tree => tree.map_err(|e| in_one_string(e.into(), options))?,
            };
            shape_with(tree.as_fd(), Attr::default(), &options.propagation)?;
            return attach(root, tree, target).map(Some);
        }
        Err(e) if e.errno == Errno::ENODEV => {
            return Err(anyhow::Error::new(e).context(format!("{fstype:?} is no file system of this kernel")));
        }
        Err(e) if e.errno == Errno::ENOTDIR => {
            return Err(anyhow::Error::new(e).context("the destination is not a directory but a file"));
        }
        made => made?,
    }
    let made = keep.then(|| made_on(root, mount, target.fd.as_fd())).transpose()?;
    root.close_later(target.fd);
    if let Some(made) = &made {
        shape_with(made.as_fd(), Attr::default(), &options.propagation)?;
    }
    Ok(made)
}

/// Adds to an error that several options are one string.
fn in_one_string(error: anyhow::Error, options: &Options) -> anyhow::Error {
    let found = options.data.iter().find_map(|option| Some((option, options::in_one_string(option)?)));
    match found {
        Some((option, list)) => error.context(format!("options: {option:?} is one string (hint: {list})")),
        None => error,
    }
}

/// Returns whether an error of the new calls names the reason for which mount(2) has returned EINVAL. The error of mount(2)
/// has all options. E2BIG is the length of an option, which only fsconfig(2) limits. A file system without the new calls
/// (overlay before Linux 6.5) parses its options only at the end, and its messages are in the kernel's log.
fn tells_more(refused: &sys::Error) -> bool {
    refused.errno != Errno::E2BIG && !mount::is_bare_create(refused)
}

/// Mounts the host's /sys, read-only with all mounts below, as crun does. A new sysfs belongs to the network namespace, and the
/// kernel has refused it: only the user namespace that owns the network namespace may mount it. A container with a network
/// namespace of its own would see the interfaces of another one, so there it is an error.
fn hosts_sysfs(root: &mut Root, mount: &Mount, refused: anyhow::Error) -> Result<Option<OwnedFd>> {
    if !host::in_user_namespace()? {
        return Err(refused);
    }
    let tree = root.copy_of_host(Path::new("/sys"), Depth::Recursive)?;
    if fs::filesystem_magic(tree.as_fd())? != SYSFS_MAGIC {
        return Err(refused);
    }
    // Nothing becomes looser than on the host. Only an access-time mode needs bits that are cleared.
    let mut options = mount.options.clone();
    for attr in [&mut options.attr, &mut options.attr_all] {
        attr.clear &= MOUNT_ATTR_ATIME_MASK;
    }
    options.attr_all.set |= MOUNT_ATTR_RDONLY;
    propagate(tree.as_fd(), &[sources::ALL_PRIVATE])?;
    shape(tree.as_fd(), &options)?;
    let target = root.target(mount, Missing::Directory)?;
    attach(root, tree, target).map(Some)
}

const SYSFS_MAGIC: i64 = 0x6265_6572;

/// Opens the mount that mount(2) has just made on `below`. Only its path leads there. If a process that shares the directory
/// has renamed something, the path leads to no mount, which is an error.
fn made_on(root: &Root, mount: &Mount, below: BorrowedFd) -> Result<OwnedFd> {
    let id = |file: BorrowedFd| fs::mount_id(file, Path::new(""));
    let made = root.reach(&mount.destination, None, Shut::Peers)?.fd;
    if id(made.as_fd())? == id(below)? {
        return Err(sys::Error::new(format!("mount({:?})", mount.destination), Errno::ESTALE).into());
    }
    Ok(made)
}

/// Makes a new file system with its attributes, not attached anywhere. An option that is too long is reported only if all
/// others are accepted.
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
            // Only mount(2), which splits its options at commas, needs quotes around a label with commas.
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
    root.close_later(owned);
    Ok(tree)
}

/// Changes the options of the mount at the destination, or without `bind` those of its file system. If that makes it writable,
/// it does not become read-only at the end.
fn remount(root: &mut Root, mount: &Mount) -> Result<()> {
    let options = &mount.options;
    // A link of the image could choose the mount to change: a read-only volume, or the host's own file system.
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

/// Mounts the cgroup hierarchy. In a new cgroup namespace the container sees its own part of it. Without one, a new file system
/// would show the whole hierarchy, and making it would reset the hierarchy's options. Therefore the host's mount is shown.
fn cgroup(root: &mut Root, plan: &Plan, mount: &Mount) -> Result<Option<OwnedFd>> {
    let facts = &plan.facts;
    let part = |root: &mut Root, path: &Option<PathBuf>| {
        let none = || fail(crate::error::Kind::Unsupported, "no cgroup v2 hierarchy is mounted on the host");
        let tree = root.copy_of_host(path.as_ref().ok_or_else(none)?, Depth::Recursive)?;
        shape(tree.as_fd(), &mount.options)?;
        let target = root.target(mount, Missing::Directory)?;
        attach(root, tree, target).map(Some)
    };
    if !facts.cgroup_namespace {
        return part(root, &facts.cgroup_mount);
    }
    match new(root, mount, "cgroup2", Some("cgroup"), Descriptor::IfOpen) {
        Err(e) if matches!(sys::errno(&e), Some(Errno::EPERM | Errno::EBUSY)) && facts.cgroup.is_some() => {
            part(root, &facts.cgroup)
        }
        other => other,
    }
}

/// Mounts the container's own part of each hierarchy of cgroup v1, in a tmpfs as on the host.
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
        // Opened a second time after an error: a wrong ENOENT would show another cgroup, or none.
        let host =
            |dir: &Path| root.copy_of_host(dir, Depth::One).or_else(|_| root.copy_of_host(dir, Depth::One));
        let tree = match (host(&view.dir), &view.otherwise) {
            (Err(e), Some(callers)) if sys::errno(&e) == Some(Errno::ENOENT) => host(callers)?,
            // The hierarchy of a service manager, in which corten may not make a cgroup.
            (Err(e), None) if view.optional && sys::errno(&e) == Some(Errno::ENOENT) => continue,
            (other, _) => other?,
        };
        shape(tree.as_fd(), options)?;
        let place = fs::open(tmpfs.as_fd(), Path::new(&view.name), fs::O_PATH | fs::O_DIRECTORY, 0)?;
        mount::move_mount(tree.as_fd(), place.as_fd())?;
        root.close_later(tree);
        root.close_later(place);
    }
    let attr = Attr { set: attributes & MOUNT_ATTR_RDONLY, ..Attr::default() };
    shape_with(tmpfs.as_fd(), attr, &options.propagation)?;
    Ok(Some(tmpfs))
}
