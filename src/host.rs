//! The facts about the host that a plan depends on, and the verified procfs. Facts about a container are in
//! `state`.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;

use crate::error::{Kind, Result, fail};
use crate::process::capabilities::Held;
use crate::process::credentials::Status;
use crate::process::lsm;
use crate::sys::{fs, task};
use crate::{process, sys, trace};

/// The oldest supported kernel. Among its newest features that corten requires are `cgroup.kill` and idmapped
/// mounts.
const FLOOR: (u32, u32) = (5, 14);

/// The first kernel with `OPEN_TREE_NAMESPACE`.
const TREE_NAMESPACES: (u32, u32) = (7, 0);

/// The facts about the host, as the runtime sees it.
pub struct Host {
    /// The root of the verified procfs: see [`procfs`].
    pub proc: BorrowedFd<'static>,
    /// The runtime is not the host's root: it has another user id, or is in another user namespace.
    pub rootless: bool,
    /// The effective user id, in the runtime's user namespace.
    pub uid: u32,
    /// The runtime is in a user namespace other than the initial one.
    pub user_namespace: bool,
    pub process: process::Host,
}

impl Host {
    /// Probes the host. `rootless` is the value of the option `--rootless`, if given. `labels` is absent if
    /// no label of a security module is requested. Otherwise it says whether a label for a module that the
    /// kernel does not run is an error.
    pub fn probe(rootless: Option<bool>, labels: Option<bool>) -> Result<Self> {
        let _phase = trace::phase("probe the host");
        let proc = procfs()?;
        let user_namespace = in_user_namespace()?;
        let uid = task::euid();
        let rootless = rootless.unwrap_or(uid != 0 || user_namespace);
        let process = process(proc, labels)?;
        Ok(Self { proc, rootless, uid, user_namespace, process })
    }
}

/// Probes the facts about the calling process and the security modules. `labels` is that of [`Host::probe`].
fn process(proc: BorrowedFd, labels: Option<bool>) -> Result<process::Host> {
    let own = Status::read(proc)?;
    if own.pid_namespaces != 1 {
        // The id of this process there equals its own id by chance.
        return Err(other_namespace());
    }
    let capabilities = Held { bounding: own.bounding, permitted: own.permitted };
    let lsm = labels.map_or(Ok(lsm::Host::default()), |strict| lsm::Host::probe(proc, strict))?;
    Ok(process::Host { capabilities, lsm })
}

/// Returns whether the kernel can create a mount namespace from one tree (`OPEN_TREE_NAMESPACE`).
pub(crate) fn tree_namespaces() -> Result<bool> {
    Ok(version(&task::kernel_release()?) >= Some(TREE_NAMESPACES))
}

/// Returns the root of /proc, verified to be a procfs that shows this process under the id that it has for
/// itself.
///
/// In the procfs of another pid namespace, process ids belong to unrelated processes. A new pid namespace has
/// such a /proc until another one is mounted. `thread-self` exists only in the root of a procfs, and contains
/// the id that the reader has there. It does not exist for a reader outside of the namespace. The two ids can
/// be equal by chance: [`Host::probe`] excludes that for the commands that write to /proc. The descriptor
/// stays open, so a later mount on /proc has no effect.
pub fn procfs() -> Result<BorrowedFd<'static>> {
    static PROC: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(proc) = PROC.get() {
        return Ok(proc.as_fd());
    }
    let proc = fs::open(fs::CWD, Path::new("/proc"), fs::O_PATH | fs::O_DIRECTORY, 0)?;
    if fs::filesystem_magic(proc.as_fd())? != libc::PROC_SUPER_MAGIC {
        return Err(fail(Kind::Unsupported, "/proc is not a procfs"));
    }
    match fs::readlinkat(proc.as_fd(), Path::new("thread-self")) {
        Ok(own) if own.ends_with(task::own_id().to_string()) => {}
        Err(e) if e.errno != Errno::ENOENT => return Err(e.into()),
        _ => return Err(other_namespace()),
    }
    Ok(PROC.get_or_init(|| proc).as_fd())
}

/// Returns the error for a procfs that shows the processes of another pid namespace.
fn other_namespace() -> anyhow::Error {
    fail(Kind::Unsupported, "/proc is that of another pid namespace (hint: mount -t proc proc /proc)")
}

/// Reports whether fewer processes run than there are processors for this one. The answer is a guess, which must decide only
/// about time.
pub(crate) fn has_idle_processor() -> bool {
    // The fourth field of proc_loadavg(5) is the number of processes that run or wait for a processor, and that of all.
    let text = procfs().ok().and_then(|proc| fs::read_text(proc, Path::new("loadavg")).ok());
    let running = text.and_then(|text| text.split(' ').nth(3)?.split_once('/')?.0.parse::<usize>().ok());
    running.is_some_and(|running| running < task::processors())
}

/// Returns whether this process is in a user namespace other than the initial one.
///
/// The id map does not show it: a namespace whose map is the identity has no more rights on the host than any
/// other. Nor do the ioctls of ioctl_ns(2): they refuse a parent that is out of reach in the same way as the
/// parent of the initial one.
pub(crate) fn in_user_namespace() -> Result<bool> {
    /// `PROC_USER_INIT_INO` of the kernel's proc_ns.h. The numbers of namespaces created later begin at
    /// 0xf0000000.
    const INITIAL: u64 = 0xefff_fffd;
    match fs::inode_at(procfs()?, Path::new("self/ns/user")) {
        // The kernel has no user namespaces.
        Err(e) if e.errno == Errno::ENOENT => Ok(false),
        inode => Ok(inode? != INITIAL),
    }
}

/// Returns an error if the kernel is too old. Otherwise a later call would fail with an errno that explains
/// nothing.
pub(crate) fn check_kernel() -> Result<()> {
    let release = task::kernel_release()?;
    match version(&release) {
        Some(found) if found < FLOOR => {
            let (major, minor) = FLOOR;
            Err(fail(Kind::Unsupported, format!("Linux {release} is older than {major}.{minor}")))
        }
        // A release that cannot be parsed counts as new. The later calls show whether it is.
        _ => Ok(()),
    }
}

/// Returns an error if a call is refused that only later commands need. A seccomp filter around the runtime
/// may not know the call. Then the container could be created, but not removed.
pub(crate) fn check_calls() -> Result<()> {
    let own = task::pidfd_open(nix::unistd::getpid().as_raw())?;
    Ok(task::pidfd_send_signal(own.as_fd(), 0)?)
}

/// Returns the path of a program in the caller's PATH.
pub(crate) fn in_path(name: impl AsRef<Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let executable = |path: &PathBuf| {
        let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
        let is_file =
            |path| sys::process::stat_mode(path).is_ok_and(|mode| mode & libc::S_IFMT == libc::S_IFREG);
        sys::process::may_execute(&path).is_ok() && is_file(&path)
    };
    std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(&name)).find(executable)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_path() {
        assert!(in_path("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(in_path("no-such-program"), None);
    }

    #[test]
    fn releases_have_versions() {
        for (release, expected) in [
            ("5.14.0-427.el9.x86_64", Some((5, 14))),
            ("6.18.44-x", Some((6, 18))),
            ("7.0", Some((7, 0))),
            ("6.1-rc1", Some((6, 1))),
            ("next", None),
            ("", None),
        ] {
            assert_eq!(version(release), expected, "{release:?}");
        }
        assert!(version("5.13.9") < Some(FLOOR) && version("5.14") >= Some(FLOOR));
    }
}
