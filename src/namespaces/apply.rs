//! Opening, joining and leaving namespaces.

use std::fmt::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{Join, Plan, kind};
use crate::error::{Context, Kind, Result, fail};
use crate::host::Host;
use crate::sys::{fs, task};
use crate::trace;

/// Namespaces that are joined, open, in the order of the plan.
#[derive(Debug, Default)]
pub struct Joined(Vec<(Join, OwnedFd)>);

impl Joined {
    /// The numbers of all descriptors in here.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.0.iter().map(|(_, fd)| fd.as_raw_fd())
    }
}

/// Opens the namespaces to join, on the host's side, and checks that each is of its type (config-linux.md: "The
/// runtime MUST generate an error if path is not associated with a namespace of type type").
///
/// `changes` has the kinds of which something is to be changed, each with its place in the configuration: such a namespace
/// must not be the host's. Without a mount namespace in the plan the runtime's own is opened as well, for the container's
/// process to return to.
pub fn open(plan: &Plan, changes: &[(i32, &str)], proc: BorrowedFd) -> Result<Joined> {
    let _phase = trace::phase("open namespaces");
    let mut joined = Vec::with_capacity(plan.join.len() + 1);
    for join in &plan.join {
        let at = || format!("{}.path {}", join.place, join.path.display());
        let fd = fs::open(fs::CWD, &join.path, fs::O_RDONLY, 0).with_context(at)?;
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

/// Whether a namespace is the host's: the runtime's own, or that of process 1, where the runtime may look. They differ if
/// the runtime is in a namespace of its caller's making.
fn is_hosts(namespace: BorrowedFd, kind: &super::Kind, proc: BorrowedFd) -> Result<bool> {
    let of = |process: &str| fs::open(proc, &Path::new(process).join("ns").join(kind.file), fs::O_RDONLY, 0);
    if same(namespace, of("self")?.as_fd())? {
        return Ok(true);
    }
    of("1").map_or(Ok(false), |first| same(namespace, first.as_fd()))
}

/// Whether two descriptors are of the same namespace.
fn same(a: BorrowedFd, b: BorrowedFd) -> Result<bool> {
    let id = |fd| fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    Ok(id(a)? == id(b)?)
}

/// Joins those of `kinds`.
pub fn join(joined: &Joined, kinds: i32) -> Result<()> {
    for (join, fd) in joined.0.iter().filter(|(join, _)| join.flag & kinds != 0) {
        let _phase = trace::phase_of("join", || join.path.display());
        task::setns(fd.as_fd(), join.flag)
            .with_context(|| format!("{}.path {}", join.place, join.path.display()))?;
        trace::clock_changed();
    }
    Ok(())
}

/// Joins all but the mount namespace, among them a user namespace. Those that belong to it can be joined only from
/// inside, those of the host's only from outside: each is tried before, and what is not permitted once more after.
pub fn join_all(joined: &Joined) -> Result<()> {
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

/// Puts our children into the pid namespace that is joined and into a new time namespace with offsets. The result is
/// what [`return_from`] needs to undo it.
pub fn enter_for_children(plan: &Plan, joined: &Joined, proc: BorrowedFd) -> Result<Vec<(i32, OwnedFd)>> {
    let mut before = Vec::new();
    let mut keep = |flag: i32, file: &str| -> Result<()> {
        before.push((flag, fs::open(proc, &Path::new("self/ns").join(file), fs::O_RDONLY, 0)?));
        Ok(())
    };
    if plan.joins(libc::CLONE_NEWPID) {
        keep(libc::CLONE_NEWPID, "pid_for_children")?;
        join(joined, libc::CLONE_NEWPID)?;
    }
    if !plan.offsets.is_empty() {
        keep(libc::CLONE_NEWTIME, "time")?;
        write_offsets(plan, proc)?;
    }
    Ok(before)
}

/// Does something in the mount namespace of another process, with our own rights.
pub fn in_mount_namespace_of<T>(pid: i32, proc: BorrowedFd, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let theirs = fs::open(proc, Path::new(&format!("{pid}/ns/mnt")), fs::O_RDONLY, 0)?;
    let here = Here::of(proc)?;
    task::setns(theirs.as_fd(), libc::CLONE_NEWNS)?;
    let result = act();
    here.back()?;
    result
}

/// Where a process is that goes into another mount namespace, which makes that one's root its root and its directory.
pub struct Here {
    namespace: OwnedFd,
    root: OwnedFd,
    directory: OwnedFd,
}

impl Here {
    pub fn of(proc: BorrowedFd) -> Result<Self> {
        let open = |dir: BorrowedFd, path: &str, flags: i32| fs::open(dir, Path::new(path), flags, 0);
        let (root, directory) = (open(fs::CWD, "/", fs::O_PATH)?, open(fs::CWD, ".", fs::O_PATH)?);
        Ok(Self { namespace: open(proc, "self/ns/mnt", fs::O_RDONLY)?, root, directory })
    }

    pub fn back(&self) -> Result<()> {
        task::setns(self.namespace.as_fd(), libc::CLONE_NEWNS)?;
        task::fchdir(self.root.as_fd())?;
        task::chroot_here()?;
        Ok(task::fchdir(self.directory.as_fd())?)
    }

    /// All that is open for it.
    pub fn into_descriptors(self) -> [OwnedFd; 3] {
        [self.namespace, self.root, self.directory]
    }
}

/// Makes a time namespace for our children and sets its clocks, which can be done only before anyone is inside.
pub fn write_offsets(plan: &Plan, proc: BorrowedFd) -> Result<()> {
    let _phase = trace::phase("time offsets");
    task::unshare(libc::CLONE_NEWTIME).context("linux.timeOffsets")?;
    let mut text = String::new();
    for offset in &plan.offsets {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {} {}", offset.clock, offset.seconds, offset.nanoseconds);
    }
    fs::write_at(proc, Path::new("self/timens_offsets"), text.as_bytes()).context("linux.timeOffsets")
}

/// Whether we may go back from another pid namespace: not as root of a user namespace that our own does not belong to,
/// as with rootless Podman. A process between enters then, as for a user namespace.
pub fn returns(host: &Host) -> Result<bool> {
    if !host.user_namespace {
        return Ok(true);
    }
    let own = fs::open(host.proc.as_fd(), Path::new("self/ns/pid_for_children"), fs::O_RDONLY, 0)?;
    match task::setns(own.as_fd(), libc::CLONE_NEWPID) {
        Err(e) if e.errno == Errno::EPERM => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// Lets our further children, the hooks, be born where we are.
pub fn return_from(before: Vec<(i32, OwnedFd)>) -> Result<()> {
    for (flag, fd) in before {
        task::setns(fd.as_fd(), flag)?;
    }
    Ok(())
}
