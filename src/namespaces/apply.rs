//! Opening, joining and leaving namespaces.

use std::fmt::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{Join, KINDS, Plan, kind};
use crate::error::{Context, Kind, Result, fail};
use crate::sys::{fs, task};
use crate::{log, trace};

/// The open files of the namespaces to join, in the order of the plan.
#[derive(Debug, Default)]
pub(crate) struct Joined(Vec<(Join, OwnedFd)>);

impl Joined {
    /// Returns the user namespace, if one is joined.
    pub(crate) fn user(&self) -> Option<BorrowedFd<'_>> {
        self.0.iter().find(|(join, _)| join.flag == libc::CLONE_NEWUSER).map(|(_, fd)| fd.as_fd())
    }

    /// Returns the namespaces with their descriptors.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Join, BorrowedFd<'_>)> {
        self.0.iter().map(|(join, fd)| (join, fd.as_fd()))
    }

    /// Returns the numbers of all descriptors in it.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.0.iter().map(|(_, fd)| fd.as_raw_fd())
    }
}

/// Opens the namespaces to join, on the host's side, and checks the type of each (config-linux.md: "The runtime MUST generate
/// an error if path is not associated with a namespace of type type").
///
/// `changes` has the kinds of namespaces that the container changes, each with its place in the configuration. Such a
/// namespace must not be the host's. Without a mount namespace in the plan the runtime's own is opened as well, because the
/// container process returns to it.
pub(crate) fn open(plan: &Plan, changes: &[(i32, &str)], proc: BorrowedFd) -> Result<Joined> {
    let _phase = trace::phase("open namespaces");
    let mut joined = Vec::with_capacity(plan.join.len() + 1);
    for join in &plan.join {
        let at = || format!("{}.path {}", join.place, join.path.display());
        // A fifo in its place must not block.
        let fd = fs::open(fs::CWD, &join.path, fs::O_RDONLY | libc::O_NONBLOCK, 0).with_context(at)?;
        let found = task::namespace_type(fd.as_fd()).ok();
        let Some(kind) = kind(join.flag).filter(|kind| found == Some(kind.flag)) else {
            let wanted = kind(join.flag).map_or("known", |kind| kind.name);
            return Err(fail(Kind::Config, format!("{}: is not a {wanted} namespace", at())));
        };
        if let Some((_, place)) = changes.iter().find(|(flag, _)| *flag == kind.flag)
            && is_hosts(fd.as_fd(), kind, proc)?
        {
            let text = format!("{}: is the host's {} namespace, which {place} would change", at(), kind.name);
            return Err(fail(Kind::Config, text));
        }
        joined.push((join.clone(), fd));
    }
    if !plan.has(libc::CLONE_NEWNS) {
        let path = PathBuf::from("self/ns/mnt");
        let fd = fs::open(proc, &path, fs::O_RDONLY, 0)?;
        joined.push((Join { flag: libc::CLONE_NEWNS, path, place: "the runtime's".into() }, fd));
    }
    Ok(Joined(joined))
}

/// Returns whether a namespace is the host's: the runtime's own, or that of process 1 if the runtime may open it. The two
/// differ if the runtime's caller has made a namespace for it.
fn is_hosts(namespace: BorrowedFd, kind: &super::Kind, proc: BorrowedFd) -> Result<bool> {
    let of = |process: &str| fs::open(proc, &Path::new(process).join("ns").join(kind.file), fs::O_RDONLY, 0);
    if same(namespace, of("self")?.as_fd())? {
        return Ok(true);
    }
    of("1").map_or(Ok(false), |first| same(namespace, first.as_fd()))
}

/// Returns whether two descriptors refer to the same namespace.
fn same(a: BorrowedFd, b: BorrowedFd) -> Result<bool> {
    let id = |fd| fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    Ok(id(a)? == id(b)?)
}

/// Joins the namespaces of these kinds.
pub(crate) fn join(joined: &Joined, kinds: i32) -> Result<()> {
    for (join, fd) in joined.0.iter().filter(|(join, _)| join.flag & kinds != 0) {
        let _phase = trace::phase_of("join", || {
            format!("the namespaces {} at {}", super::shown(join.flag), join.path.display())
        });
        task::setns(fd.as_fd(), join.flag)
            .with_context(|| format!("{}.path {}", join.place, join.path.display()))?;
        trace::clock_changed();
    }
    Ok(())
}

/// Joins all namespaces except the mount namespace. One of them is a user namespace. The namespaces that it owns can be joined
/// only from inside, those of the host only from outside. Therefore each is tried before, and again after if it was not
/// permitted.
pub(crate) fn join_all(joined: &Joined) -> Result<()> {
    let (mut user, mut later) = (0, 0);
    for (join_, _) in &joined.0 {
        match join_.flag {
            libc::CLONE_NEWUSER => {
                user = join_.flag;
                continue;
            }
            libc::CLONE_NEWNS => continue,
            _ => {}
        }
        match join(joined, join_.flag) {
            Err(e) if crate::sys::errno(&e) == Some(Errno::EPERM) => later |= join_.flag,
            other => other?,
        }
    }
    join(joined, user)?;
    join(joined, later)
}

/// The namespaces of a process that every process of its pid namespace can read, without any right and whether or not the
/// process is dumpable, through `/proc/PID/mountinfo` and `/proc/PID/net` (the kernel's fs/proc_namespace.c and
/// fs/proc/proc_net.c). Therefore a process enters these before it is visible in a pid namespace that has other processes.
pub(crate) const SHOWN: i32 = libc::CLONE_NEWNS | libc::CLONE_NEWNET;

/// Puts further children into the joined pid namespace and into a new time namespace with offsets. With a pid namespace,
/// enters a joined network namespace first ([`SHOWN`]). Returns the way back.
pub(crate) fn enter_for_children(plan: &Plan, joined: &Joined, proc: BorrowedFd) -> Result<Back> {
    let early = early(plan);
    let offsets = open_offsets(plan, proc)?;
    let time = if offsets.is_some() { libc::CLONE_NEWTIME } else { 0 };
    let back = Back::from(early | time, proc)?;
    let mut entered = false;
    let mut enter = || {
        for kind in [libc::CLONE_NEWNET, libc::CLONE_NEWPID] {
            join(joined, early & kind)?;
            entered = true;
        }
        offsets.iter().try_for_each(|file| write_offsets(plan, file.as_fd()))
    };
    match enter() {
        Ok(()) => Ok(back),
        Err(e) => {
            if entered {
                back.go();
            }
            Err(e)
        }
    }
}

/// Returns the kinds of joined namespaces that the runtime enters for its child. A mount namespace is never among them,
/// because the container is assembled outside of it.
#[must_use]
pub(crate) fn early(plan: &Plan) -> i32 {
    let kinds = if plan.joins(libc::CLONE_NEWPID) { libc::CLONE_NEWNET | libc::CLONE_NEWPID } else { 0 };
    plan.join.iter().fold(0, |early, join| early | join.flag & kinds)
}

/// The way back from namespaces that the runtime enters to clone a process there. Meanwhile the runtime resolves no path. It is
/// not dumpable, and it is never in the container's pid namespace itself.
#[derive(Default)]
pub(crate) struct Back {
    here: Option<Here>,
    others: Vec<(i32, OwnedFd)>,
}

impl Back {
    /// Opens what the runtime needs to go back from namespaces of these kinds.
    pub(crate) fn from(kinds: i32, proc: BorrowedFd) -> Result<Self> {
        let here = if kinds & libc::CLONE_NEWNS == 0 { None } else { Some(Here::of(proc)?) };
        let others = KINDS.iter().filter(|kind| kind.flag & kinds & !libc::CLONE_NEWNS != 0);
        let open = |kind: &super::Kind| {
            // A joined pid namespace holds for children only.
            let file = if kind.flag == libc::CLONE_NEWPID { "pid_for_children" } else { kind.file };
            Ok((kind.flag, fs::open(proc, &Path::new("self/ns").join(file), fs::O_RDONLY, 0)?))
        };
        Ok(Self { here, others: others.map(open).collect::<Result<_>>()? })
    }

    /// Goes back, or ends the runtime.
    pub(crate) fn go(self) {
        or_end(|| {
            self.here.as_ref().map_or(Ok(()), Here::back)?;
            self.others.iter().try_for_each(|(flag, fd)| Ok(task::setns(fd.as_fd(), *flag)?))
        });
        let here = self.here.into_iter().flat_map(Here::into_descriptors);
        fs::close_together(here.chain(self.others.into_iter().map(|(_, fd)| fd)).collect());
    }
}

/// Goes back to the runtime's own namespaces, or ends the runtime, with which its children die. All that it did otherwise, also
/// to roll back, would use the paths of another mount namespace.
fn or_end(back: impl Fn() -> Result<()>) {
    // The second attempt is for a kernel that was short of memory.
    if let Err(e) = back().or_else(|_| back()) {
        log::error(&e.context("going back to the runtime's own namespaces"));
        task::exit_now(1);
    }
}

/// Calls `act` in the mount namespace of another process, with the runtime's rights.
pub(crate) fn in_mount_namespace_of<T>(
    pid: i32,
    proc: BorrowedFd,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let theirs = fs::open(proc, Path::new(&format!("{pid}/ns/mnt")), fs::O_RDONLY, 0)?;
    let here = Here::of(proc)?;
    task::setns(theirs.as_fd(), libc::CLONE_NEWNS)?;
    let result = act();
    or_end(|| here.back());
    result
}

/// Calls `act` in the network namespace of another process, with the runtime's rights.
pub(crate) fn in_network_namespace_of<T>(
    pid: i32,
    proc: BorrowedFd,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let theirs = fs::open(proc, Path::new(&format!("{pid}/ns/net")), fs::O_RDONLY, 0)?;
    let back = Back::from(libc::CLONE_NEWNET, proc)?;
    task::setns(theirs.as_fd(), libc::CLONE_NEWNET)?;
    let result = act();
    back.go();
    result
}

/// The mount namespace, root and working directory of a process that enters another mount namespace, which changes all three.
pub(crate) struct Here {
    namespace: OwnedFd,
    root: OwnedFd,
    directory: OwnedFd,
}

impl Here {
    pub(crate) fn of(proc: BorrowedFd) -> Result<Self> {
        let open = |dir: BorrowedFd, path: &str, flags: i32| fs::open(dir, Path::new(path), flags, 0);
        let root = open(fs::CWD, "/", fs::O_PATH)?;
        // The directory can be inaccessible, as a user's FUSE mount is to root. Then "/" replaces it: no relative path is
        // resolved later.
        let directory = open(fs::CWD, ".", fs::O_PATH).or_else(|_| open(fs::CWD, "/", fs::O_PATH))?;
        Ok(Self { namespace: open(proc, "self/ns/mnt", fs::O_RDONLY)?, root, directory })
    }

    pub(crate) fn back(&self) -> Result<()> {
        task::setns(self.namespace.as_fd(), libc::CLONE_NEWNS)?;
        task::fchdir(self.root.as_fd())?;
        task::chroot_here()?;
        Ok(task::fchdir(self.directory.as_fd())?)
    }

    /// Returns all its descriptors.
    pub(crate) fn into_descriptors(self) -> [OwnedFd; 3] {
        [self.namespace, self.root, self.directory]
    }
}

/// Opens the file that sets the clocks of a new time namespace, if the plan has offsets. It must be opened while
/// this process owns it: the files in /proc/PID of a process that is not dumpable belong to root (proc(5)).
pub(crate) fn open_offsets(plan: &Plan, proc: BorrowedFd) -> Result<Option<OwnedFd>> {
    if plan.offsets.is_empty() {
        return Ok(None);
    }
    let open = fs::open(proc, Path::new("self/timens_offsets"), fs::O_WRONLY, 0);
    open.map(Some).context("linux.timeOffsets")
}

/// Makes a time namespace for further children and sets its clocks. The clocks can be set only while no process is inside.
pub(crate) fn write_offsets(plan: &Plan, file: BorrowedFd) -> Result<()> {
    let _phase = trace::phase("time offsets");
    task::unshare(libc::CLONE_NEWTIME).context("linux.timeOffsets")?;
    let mut text = String::new();
    for offset in &plan.offsets {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {} {}", offset.clock, offset.seconds, offset.nanoseconds);
    }
    fs::write_open(file, text.as_bytes()).context("linux.timeOffsets")
}
