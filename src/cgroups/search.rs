//! The search for the cgroup of a container whose record is lost. It is not known any more where the cgroup
//! was created and by which manager: the manager is not in the configuration, and a relative path begins at
//! the cgroup of a caller that has ended. Therefore a process counts in every cgroup whose path contains the
//! names. It may belong to something else; but if none is found, the container certainly has no process.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::request::plain;
use super::{CgroupRecord, Host, Manager, Request, systemd};
use crate::error::{Kind, Notes, Result, fail};
use crate::procstat;
use crate::sys::{fs, task};

/// Returns a process in a cgroup that is named as that of the container `id` with the `linux.cgroupsPath`
/// `path`. `proc` is the host's procfs.
pub(crate) fn find_process(proc: BorrowedFd, id: &str, path: Option<&Path>) -> Result<Option<i32>> {
    // If /proc hides the processes of other users, finding none proves nothing.
    let shown = |pid: i32| fs::read_text(proc, Path::new(&format!("{pid}/cgroup")));
    shown(1).map_err(|e| fail(Kind::Unsupported, format!("not every process is shown to us: {e}")))?;
    let wanted = names(id, path);
    for name in fs::list_dir(proc.as_fd())? {
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        match shown(pid) {
            Ok(text) if is_inside(&text, &wanted) && procstat::runs(pid)? => return Ok(Some(pid)),
            Err(e) if !matches!(e.errno, Errno::ENOENT | Errno::ESRCH) => return Err(e.into()),
            _ => {}
        }
    }
    Ok(None)
}

/// Returns the cgroups that `create` would create for the container `id` with the `linux.cgroupsPath` `path`,
/// one for each manager, if they exist. A path that begins at the caller's cgroup is left out.
pub(crate) fn existing(id: &str, path: Option<&Path>) -> Result<Vec<CgroupRecord>> {
    let host = Host::probe()?;
    let uid = task::euid();
    let rootless = uid != 0 || crate::host::in_user_namespace()?;
    let certain = path.map_or(!rootless, Path::is_absolute);
    let managers = [Manager::Systemd, Manager::Cgroupfs];
    let mut found = Vec::new();
    for manager in managers.into_iter().filter(|manager| certain || *manager == Manager::Systemd) {
        let request = Request { id, path, resources: None, annotations: None, manager, rootless, uid };
        let mut notes = Notes::default();
        // A path that is invalid for a manager was not created by it.
        let Ok(Some(plan)) = super::plan(&request, &host, &mut notes) else { continue };
        let Some(mut claim) = plan.claim(plan.dirs()) else { continue };
        claim.parents.clear();
        if notes.problems.0.is_empty() && super::id(&claim)?.is_some() {
            found.push(claim);
        }
    }
    Ok(found)
}

/// Returns the names at the end of the cgroup's path: those of our own manager, and the one name of systemd's
/// unit.
fn names(id: &str, path: Option<&Path>) -> Vec<PathBuf> {
    let manager = Manager::Systemd;
    let request = Request { id, path, resources: None, annotations: None, manager, rootless: false, uid: 0 };
    let own = path.map_or_else(|| Ok(format!("corten-{id}").into()), plain).ok();
    let unit = systemd::unit_of_path(&request, false).ok().map(|(_, name)| PathBuf::from(name));
    own.into_iter().chain(unit).collect()
}

/// Reports whether a line of /proc/PID/cgroup contains the names of one of `wanted` in a row.
fn is_inside(text: &str, wanted: &[PathBuf]) -> bool {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let parts: Vec<Vec<&str>> = paths.map(|path| path.split('/').collect()).collect();
    wanted.iter().any(|names| {
        let names: Vec<&str> = names.iter().filter_map(|name| name.to_str()).collect();
        !names.is_empty() && parts.iter().any(|path| path.windows(names.len()).any(|part| part == names))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_found_below_any_parent() {
        for (id, path, text, expected) in [
            ("web1", None, "0::/corten-web1\n", true),
            ("web1", None, "0::/user.slice/corten-web1/below\n", true),
            ("web1", None, "0::/user.slice/corten-web10\n", false),
            ("web1", None, "0::/system.slice/corten-web1.scope\n", true),
            ("a+b", None, "0::/system.slice/corten-a\\x2bb.scope\n", true),
            ("web1", Some("/a/b"), "0::/x/a/b\n", true),
            ("web1", Some("/a/b"), "0::/a/x/b\n", false),
            ("web1", Some("/a/b"), "0::/a\n", false),
            ("web1", Some("a/b"), "4:memory:/a/b\n0::/\n", true),
            ("web1", Some("a/b"), "4:name=a:/b\n0::/\n", false),
            ("web1", Some("s.slice:docker:x"), "0::/s.slice/docker-x.scope\n", true),
            ("web1", Some("s.slice:docker:x"), "0::/up/s.slice:docker:x\n", true),
            ("web1", Some("s.slice:docker:x"), "0::/s.slice/docker-y.scope\n", false),
            ("web1", None, "0::/\n", false),
            ("web1", None, "", false),
        ] {
            assert_eq!(is_inside(text, &names(id, path.map(Path::new))), expected, "{path:?} {text}");
        }
    }
}
