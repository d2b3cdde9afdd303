//! What planning has to know of the host: the one prober of /proc and /sys. What later commands ask of a container is
//! in `state`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::error::{Kind, Result, fail};
use crate::sys::{fs, task};
use crate::{process, trace};

/// The oldest kernel that has what corten is built on: `cgroup.kill` and idmapped mounts among the last to come.
const FLOOR: (u32, u32) = (5, 14);

/// The first kernel with `OPEN_TREE_NAMESPACE`.
const TREE_NAMESPACES: (u32, u32) = (7, 0);

/// The host, as the runtime sees it.
pub struct Host {
    /// The root of the host's procfs, of which it is certain that it is one.
    pub proc: OwnedFd,
    /// We are not the host's root: neither its user 0, nor in its user namespace.
    pub rootless: bool,
    /// Our user's id, in our own user namespace.
    pub uid: u32,
    /// We are in a user namespace other than the first.
    pub user_namespace: bool,
    pub process: process::Host,
}

impl Host {
    /// `rootless` is what the command line says, if it says anything; `labelled` that something is to have a label of a
    /// security module.
    pub fn probe(rootless: Option<bool>, labelled: bool) -> Result<Self> {
        let _phase = trace::phase("probe the host");
        let proc = procfs()?;
        let user_namespace = in_user_namespace();
        let uid = task::euid();
        let rootless = rootless.unwrap_or(uid != 0 || user_namespace);
        let process = process::Host::probe(proc.as_fd(), labelled)?;
        Ok(Self { proc, rootless, uid, user_namespace, process })
    }
}

/// Whether the kernel can make a mount namespace of one tree (`OPEN_TREE_NAMESPACE`).
pub fn tree_namespaces() -> Result<bool> {
    Ok(version(&task::kernel_release()?) >= Some(TREE_NAMESPACES))
}

/// The host's /proc, once it is known to be a procfs and its root: what else is mounted there could answer anything.
pub fn procfs() -> Result<OwnedFd> {
    let proc = fs::open(fs::CWD, Path::new("/proc"), fs::O_PATH | fs::O_DIRECTORY, 0)?;
    // PROC_ROOT_INO
    if fs::filesystem_magic(proc.as_fd())? != libc::PROC_SUPER_MAGIC || fs::fstat(proc.as_fd())?.st_ino != 1 {
        return Err(fail(Kind::Unsupported, "/proc is not a procfs"));
    }
    Ok(proc)
}

/// Whether root here is not the host's: then its id map is not the identity on everything.
#[must_use]
pub fn in_user_namespace() -> bool {
    let map = fs::read_text(fs::CWD, Path::new("/proc/self/uid_map")).unwrap_or_default();
    map.split_ascii_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
}

/// An error on a kernel that is too old, before it fails somewhere with an errno that tells nothing.
pub fn check_kernel() -> Result<()> {
    let release = task::kernel_release()?;
    match version(&release) {
        Some(found) if found < FLOOR => {
            let (major, minor) = FLOOR;
            Err(fail(Kind::Unsupported, format!("Linux {release} is older than {major}.{minor}")))
        }
        // What cannot be read is taken for new: the calls will tell.
        _ => Ok(()),
    }
}

/// An error before anything is made, where a call is refused that only later commands need: a seccomp filter around us
/// may not know it, and then nobody could take the container away.
pub fn check_calls() -> Result<()> {
    let own = task::pidfd_open(nix::unistd::getpid().as_raw())?;
    Ok(task::pidfd_send_signal(own.as_fd(), 0)?)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

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
