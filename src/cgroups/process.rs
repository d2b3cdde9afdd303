//! The cgroups that a container's process is in now, according to the kernel: where `exec` puts one more
//! process, and which frozen cgroup holds a process.

use std::os::fd::BorrowedFd;
use std::path::{Component, Path, PathBuf};

use super::hierarchies::{CGROUP, Host};
use super::{Cgroup, CgroupRecord, Directory};
use crate::error::{Context, Kind, Result, fail};
use crate::sys::{fs, task};

/// Returns the cgroups for one more process of the container, whose first process is `pid` and `target`. They
/// are those on record, or those that the first process is in, if an administrator has moved it. They are
/// never the caller's, which do not have the container's limits. `proc` is the host's procfs.
pub(crate) fn current(
    record: &CgroupRecord,
    pid: i32,
    target: BorrowedFd,
    proc: BorrowedFd,
) -> Result<Cgroup> {
    let file = fs::open(proc, Path::new(&format!("{pid}/cgroup")), fs::O_RDONLY, 0)?;
    let text = String::from_utf8_lossy(&fs::read_whole(file, 1 << 20)?).into_owned();
    let open = |record: &CgroupRecord| match Cgroup::open(record)? {
        Some(cgroup) if cgroup.v1.len() != record.v1.len() => Ok(None),
        opened => Ok::<_, anyhow::Error>(opened),
    };
    if stays(record, &text)
        && let Some(cgroup) = open(record)?
    {
        return Ok(cgroup);
    }
    let moved = located(record, &Host::of_process(pid, proc)?)?;
    // The process still lives. Therefore the lines that were read are its own.
    task::pidfd_send_signal(target, 0)?;
    open(&moved)?
        .ok_or_else(|| fail(Kind::Os, format!("{}: the cgroup does not exist any more", moved.shown())))
}

/// Reports whether the text of `/proc/PID/cgroup` alone shows that the process is in the recorded cgroups or
/// below them. It does so only if the hierarchies have their usual mount points.
fn stays(record: &CgroupRecord, text: &str) -> bool {
    let is_in = |dir: &Path, v1: bool| {
        let Ok(below) = dir.strip_prefix(CGROUP) else { return false };
        let mut rest = below.components();
        let first = rest.next().map(Component::as_os_str).and_then(|name| name.to_str());
        text.lines().any(|line| {
            let Some((names, path)) = line.split_once(':').and_then(|(_, rest)| rest.split_once(":/")) else {
                return false;
            };
            let mounted = if v1 { Some(names.trim_start_matches("name=")) } else { Some("unified") };
            let path = Path::new(path);
            names.is_empty() != v1
                && (!v1 && path.starts_with(below) || mounted == first && path.starts_with(rest.as_path()))
        })
    };
    (record.path.as_os_str().is_empty() || is_in(&record.path, false))
        && record.v1.iter().all(|dir| is_in(dir, true))
}

/// Returns the recorded cgroups, and in each hierarchy where the process is in another one, that one. `host`
/// has the process's cgroups.
fn located(record: &CgroupRecord, host: &Host) -> Result<CgroupRecord> {
    let own = |dir: &PathBuf, mount: Option<&Path>, own: Option<&PathBuf>| match (mount, own) {
        (Some(mount), Some(own)) if mount.join(own).starts_with(dir) => Ok(dir.clone()),
        (Some(mount), Some(own)) => Ok(mount.join(own)),
        _ => Err(fail(
            Kind::Os,
            format!("{}: no mount here shows the cgroup of the container's process", dir.display()),
        )),
    };
    let path = match record.path.as_os_str().is_empty() {
        true => PathBuf::new(),
        false => own(&record.path, host.v2_mount.as_deref(), host.own.as_ref())?,
    };
    let v1 = record.v1.iter().map(|dir| {
        let hierarchy = host.v1.iter().find(|hierarchy| dir.starts_with(&hierarchy.mount));
        own(dir, hierarchy.map(|h| h.mount.as_path()), hierarchy.and_then(|h| h.own.as_ref()))
    });
    // The recorded inode number belongs to the recorded cgroups only.
    Ok(CgroupRecord { path, v1: v1.collect::<Result<_>>()?, id: None, ..record.clone() })
}

/// Returns the cgroup of v2 below `above` that the process is in, or `None` if it is not below. systemd in a
/// container moves itself into a sub-cgroup, because a cgroup that enables controllers for its children
/// cannot have processes.
pub(crate) fn current_below(above: &Path, pid: i32, proc: BorrowedFd) -> Result<Option<Directory>> {
    let host = Host::of_process(pid, proc)?;
    let path = host.v2_mount.zip(host.own).map(|(mount, own)| mount.join(own));
    path.filter(|path| path.starts_with(above)).map_or(Ok(None), |path| Directory::open(&path))
}

/// Returns the cgroup of a process if it is frozen.
pub(crate) fn frozen_cgroup(pid: i32, proc: BorrowedFd) -> Result<Option<PathBuf>> {
    let host = Host::of_process(pid, proc)?;
    let v2 = host.v2_mount.zip(host.own).map(|(mount, own)| (mount.join(own), "cgroup.events"));
    let freezers = host.v1.into_iter().filter(|hierarchy| hierarchy.has("freezer"));
    let v1 = freezers.filter_map(|h| Some((h.mount.join(h.own?), "freezer.state")));
    for (dir, file) in v2.into_iter().chain(v1) {
        let text = fs::read_text(fs::CWD, &dir.join(file)).with_context(|| dir.display().to_string())?;
        if text.lines().any(|line| matches!(line, "frozen 1" | "FROZEN" | "FREEZING")) {
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::hierarchies::Hierarchy;

    fn record(path: &str, v1: &[&str]) -> CgroupRecord {
        CgroupRecord {
            path: path.into(),
            v1: v1.iter().map(PathBuf::from).collect(),
            ..CgroupRecord::default()
        }
    }

    #[test]
    fn usual_mount_points_are_recognised() {
        let cpu = "/sys/fs/cgroup/cpu,cpuacct/a/c";
        let hybrid = "3:cpu,cpuacct:/a/c\n1:name=systemd:/a/c\n0::/a/c\n";
        for (path, v1, text, expected) in [
            ("/sys/fs/cgroup/a/c", &[][..], "0::/a/c\n", true),
            ("/sys/fs/cgroup/a/c", &[], "0::/a/c/in/side\n", true),
            ("/sys/fs/cgroup/a/c", &[], "0::/a/cc\n", false),
            ("/sys/fs/cgroup/a/c", &[], "0::/a\n", false),
            ("/sys/fs/cgroup/a/c", &[], "0::/\n", false),
            ("/sys/fs/cgroup/a/c", &[], "0::/../a/c\n", false),
            ("/mnt/a/c", &[], "0::/a/c\n", false),
            ("/sys/fs/cgroup/a/c", &[], "", false),
            ("/sys/fs/cgroup/unified/a/c", &[cpu, "/sys/fs/cgroup/systemd/a/c"], hybrid, true),
            ("", &[cpu], hybrid, true),
            ("", &["/sys/fs/cgroup/cpu,cpuacct/a/d"], hybrid, false),
            ("", &["/sys/fs/cgroup/memory/a/c"], hybrid, false),
            ("/sys/fs/cgroup/unified/a/d", &[cpu], hybrid, false),
        ] {
            assert_eq!(stays(&record(path, v1), text), expected, "{path} {v1:?} {text}");
        }
    }

    #[test]
    fn a_process_that_was_moved_is_followed() {
        let host = |v2: Option<&str>, cpu: Option<&str>| Host {
            v2_mount: Some("/cg/unified".into()),
            own: v2.map(PathBuf::from),
            v1: vec![Hierarchy {
                controllers: vec!["cpu".into()],
                mount: "/cg/cpu".into(),
                own: cpu.map(PathBuf::from),
            }],
            ..Host::default()
        };
        let (v2, cpu) = ("/cg/unified/a/c", "/cg/cpu/a/c");
        for (host, v1, expected) in [
            (host(Some("a/c"), None), &[][..], Some((v2, vec![]))),
            (host(Some("a/c/in"), Some("a/c/in")), &[cpu], Some((v2, vec![cpu]))),
            (host(Some("b"), Some("a/c")), &[cpu], Some(("/cg/unified/b", vec![cpu]))),
            (host(Some("a/c"), Some("")), &[cpu], Some((v2, vec!["/cg/cpu/"]))),
            (host(None, Some("a/c")), &[cpu], None),
            (host(Some("a/c"), None), &[cpu], None),
            (host(Some("a/c"), Some("a/c")), &["/cg/memory/a/c"], None),
        ] {
            let found = located(&record(v2, v1), &host).ok().map(|place| (place.path, place.v1));
            let expected =
                expected.map(|(path, v1)| (PathBuf::from(path), v1.into_iter().map(Into::into).collect()));
            assert_eq!(found, expected, "{host:?} {v1:?}");
        }
    }
}
