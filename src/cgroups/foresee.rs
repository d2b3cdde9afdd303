//! What would hinder the creation of a container's cgroup, without changing anything.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::cgroup::explain;
use super::directory::{denied, open_dir, read_file};
use super::{Plan, Value, systemd, v2};
use crate::cpu_list::{self, LARGEST};
use crate::error::{Kind, Result, fail};
use crate::sys::{fs, process};

/// What would hinder the creation of a cgroup.
#[derive(Debug, Default)]
pub(crate) struct Hindrances {
    /// The creation fails.
    pub(crate) errors: Vec<anyhow::Error>,
    /// The container gets no cgroup, or less than it asks for.
    pub(crate) warnings: Vec<anyhow::Error>,
}

/// Looks for what would hinder [`create`](super::create).
pub(crate) fn hindrances(plan: &Plan) -> Hindrances {
    let mut found = Hindrances::default();
    if let Some(unified) = &plan.unified {
        let way = match &unified.scope {
            Some(scope) => offered(unified, &mut found).and_then(|_| systemd::connect(&scope.unit).map(drop)),
            None => on_the_way(unified, &mut found),
        };
        note(way, plan, &mut found);
        found.errors.extend(unified.writes.iter().filter_map(beyond_the_host));
    }
    for part in &plan.v1 {
        note(writable_above(&part.dir()), plan, &mut found);
        found.errors.extend(part.writes.iter().filter_map(beyond_the_host));
    }
    found
}

/// Sorts an error as [`create`](super::create) would treat it.
fn note(result: Result<()>, plan: &Plan, found: &mut Hindrances) {
    match result {
        // One directory is enough.
        Err(e) if denied(&e) && plan.optional() => {
            if found.warnings.is_empty() {
                found.warnings.push(e.context("the container gets no cgroup"));
            }
        }
        Err(e) => found.errors.push(explain(e, plan)),
        Ok(()) => {}
    }
}

/// Reports every controller that a limit needs and that the mounted hierarchy does not have. Returns the others.
fn offered(plan: &v2::Plan, found: &mut Hindrances) -> Result<Vec<(String, String)>> {
    let dir = open_dir(fs::CWD, &plan.mount)?;
    let offered = read_file(dir.as_fd(), "cgroup.controllers")?;
    let (present, absent) = v2::sorted(&offered, plan);
    let missing = absent
        .iter()
        .filter_map(|(name, place)| Some(v2::unavailable((*place)?, name, &plan.mount, &plan.mount)));
    found.errors.extend(missing);
    let needed = present.iter().filter_map(|(name, place)| Some((name.to_string(), (*place)?.to_string())));
    Ok(needed.collect())
}

/// Walks to the cgroup as far as the directories exist.
fn on_the_way(plan: &v2::Plan, found: &mut Hindrances) -> Result<()> {
    let mut needed = offered(plan, found)?;
    let (mut dir, mut path) = (open_dir(fs::CWD, &plan.mount)?, plan.mount.clone());
    for name in &plan.path {
        let controllers = read_file(dir.as_fd(), "cgroup.controllers")?;
        let enabled = read_file(dir.as_fd(), "cgroup.subtree_control")?;
        let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
        let mut occupied = None;
        for (controller, place) in std::mem::take(&mut needed) {
            if has(&enabled, &controller) {
                needed.push((controller, place));
            } else if !has(&controllers, &controller) {
                found.errors.push(v2::unavailable(&place, &controller, &path, &plan.mount));
            } else if *occupied.get_or_insert(v2::has_own_processes(dir.as_fd())?) {
                found.errors.push(v2::occupied(&place, &controller, &path));
            } else {
                may_write(&path.join("cgroup.subtree_control")).map_err(|e| e.context(place.clone()))?;
                needed.push((controller, place));
            }
        }
        let next = path.join(name);
        match fs::existing(dir.as_fd(), Path::new(name), || open_dir(dir.as_fd(), Path::new(name)))? {
            Some(below) => (dir, path) = (below, next),
            None => return may_write(&path),
        }
    }
    v2::check_unused(dir.as_fd(), plan)
}

/// Checks that the caller may make directories in the nearest parent that exists.
fn writable_above(dir: &Path) -> Result<()> {
    let exists = |dir: &&Path| fs::stat_at(fs::CWD, dir).is_ok();
    dir.ancestors().find(exists).map_or(Ok(()), may_write)
}

/// Fails if the caller may not make files in a directory, or write to a file.
fn may_write(path: &Path) -> Result<()> {
    match process::may_write(&CString::new(path.as_os_str().as_bytes())?) {
        // A seccomp profile around the runtime may not know the call. Then nothing is known.
        Err(e) if matches!(e.errno, Errno::ENOSYS | Errno::EPERM) => Ok(()),
        other => Ok(other?),
    }
}

/// Returns the error about CPUs or memory nodes that the host does not have.
fn beyond_the_host(write: &super::Write) -> Option<anyhow::Error> {
    let (online, what) = match write.file.as_str() {
        "cpuset.cpus" => ("/sys/devices/system/cpu/online", "CPUs"),
        "cpuset.mems" => ("/sys/devices/system/node/online", "memory nodes"),
        _ => return None,
    };
    let text = fs::read_text(fs::CWD, &PathBuf::from(online)).ok()?;
    let message = beyond(&write.value, text.trim(), what)?;
    Some(fail(Kind::Unsupported, format!("{}: {message}", write.place)))
}

fn beyond(value: &Value, online: &str, what: &str) -> Option<String> {
    let list = |text: &str| cpu_list::parse(text, LARGEST).ok().flatten();
    let (asked, there) = (list(&value.to_string())?, list(online)?.members());
    let missing = asked.members().iter().any(|n| !there.contains(n));
    missing.then(|| format!("{asked}: this host has the {what} {online}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_compared_with_what_is_online() {
        for (asked, online, expected) in [
            ("0-1", "0-3", None),
            ("0,3", "0-3", None),
            ("0-4", "0-3", Some("0-4: this host has the CPUs 0-3")),
            ("2", "0-1,3", Some("2: this host has the CPUs 0-1,3")),
            ("", "0-1", None),
        ] {
            let value = Value::Text(asked.into());
            assert_eq!(beyond(&value, online, "CPUs").as_deref(), expected, "{asked}");
        }
    }
}
