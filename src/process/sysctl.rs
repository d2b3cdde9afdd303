//! `linux.sysctl`: kernel parameters of the container's namespaces (config-linux.md#sysctl).
//!
//! Only parameters that belong to a namespace of the container may be set, because any other would change the
//! host. They are written through the host's procfs, which shows each process the parameters of its own
//! namespaces.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Linux;

use crate::error::{Context, Notes, Result};
use crate::namespaces;
use crate::sys::fs;
use crate::trace;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// The place in the document: `linux.sysctl["net.ipv4.ip_forward"]`.
    pub place: String,
    /// The path below /proc/sys.
    pub path: PathBuf,
    pub value: String,
}

impl Sysctl {
    /// Returns the kind of namespace (`CLONE_NEW*`) to which the parameter belongs.
    #[must_use]
    pub fn namespace(&self) -> i32 {
        self.path.to_str().and_then(|path| namespace(path).ok()).unwrap_or_default()
    }
}

/// The parameters of the ipc namespace, in addition to those below fs/mqueue.
const IPC: [&str; 11] = [
    "msg_next_id",
    "msgmax",
    "msgmnb",
    "msgmni",
    "sem",
    "sem_next_id",
    "shm_next_id",
    "shm_rmid_forced",
    "shmall",
    "shmmax",
    "shmmni",
];

/// Checks the parameters and returns them in the order of their names. The order of a hash would vary.
pub(crate) fn plan(linux: Option<&Linux>, namespaces: &namespaces::Plan, notes: &mut Notes) -> Vec<Sysctl> {
    let mut all: Vec<Sysctl> = Vec::new();
    let asked: BTreeMap<_, _> =
        linux.and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten().collect();
    for (key, value) in asked {
        let place = format!("linux.sysctl[{key:?}]");
        let path = path(key);
        if !plain(&path) || key.contains('\0') {
            notes.problem(&place, "is not the name of a parameter");
            continue;
        }
        if let Some(other) = all.iter().find(|other| other.path == Path::new(&path)) {
            notes.problem(&place, format_args!("is another name of {}", other.place));
            continue;
        }
        match namespace(&path) {
            // Those of a joined one would change other containers that are in it, or have theirs below it.
            Ok(libc::CLONE_NEWUSER) if !namespaces.creates(libc::CLONE_NEWUSER) => {
                let what = "needs a new user namespace, or the limits of another one would change";
                notes.problem(&place, what);
            }
            Ok(flag) if namespaces.has(flag) => {
                all.push(Sysctl { place, path: path.into(), value: value.clone() });
            }
            Ok(flag) => {
                let name = namespaces::kind(flag).map_or("", |kind| kind.name);
                notes.problem(&place, format_args!("needs a {name} namespace, or the host's would change"));
            }
            Err(message) => notes.problem(&place, message),
        }
    }
    all.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    all
}

/// Returns the path of a name by the rule of sysctl(8): the first `.` or `/` is the separator, and the other
/// character is then part of a name (`net.ipv4.conf.eno2/100.mtu`, `net/ipv4/conf/eno2.100/mtu`).
fn path(key: &str) -> String {
    match key.find(['.', '/']).map(|at| key.as_bytes()[at]) {
        Some(b'.') => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_string(),
    }
}

fn plain(path: &str) -> bool {
    path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

/// Returns the kind of namespace to which a parameter belongs.
fn namespace(path: &str) -> Result<i32, &'static str> {
    match path.split_once('/') {
        Some(("net", _)) => Ok(libc::CLONE_NEWNET),
        Some(("fs", rest)) if rest.starts_with("mqueue/") => Ok(libc::CLONE_NEWIPC),
        Some(("kernel", name)) if IPC.contains(&name) => Ok(libc::CLONE_NEWIPC),
        Some(("kernel", "domainname")) => Ok(libc::CLONE_NEWUTS),
        // user_namespaces(7): limits for the namespace and all below it. Root of the namespace may set them.
        Some(("user", _)) => Ok(libc::CLONE_NEWUSER),
        Some(("kernel", "hostname")) => Err("is set by the member hostname"),
        _ => Err("does not belong to a namespace: the host's would change"),
    }
}

/// Writes the parameters. `proc` is the root of a procfs. The caller is in the container's namespaces.
pub(crate) fn apply(sysctls: &[Sysctl], proc: BorrowedFd) -> Result<()> {
    for sysctl in sysctls {
        let path = Path::new("sys").join(&sysctl.path);
        let _phase = trace::phase_of("sysctl", || sysctl.path.display());
        fs::write_at(proc, &path, sysctl.value.as_bytes()).with_context(|| sysctl.place.clone())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespaces::Join;

    #[test]
    fn only_parameters_of_the_containers_namespaces_can_be_set() {
        let join = Join { flag: libc::CLONE_NEWUSER, path: "/u".into(), place: String::new() };
        let own = namespaces::Plan {
            create: libc::CLONE_NEWNET | libc::CLONE_NEWIPC,
            join: vec![join],
            ..Default::default()
        };
        for (key, expected) in [
            ("net.ipv4.ip_forward", Ok("net/ipv4/ip_forward")),
            ("net/ipv4/conf/eno2.100/rp_filter", Ok("net/ipv4/conf/eno2.100/rp_filter")),
            ("net.ipv4.conf.eno2/100.rp_filter", Ok("net/ipv4/conf/eno2.100/rp_filter")),
            ("kernel.shmmax", Ok("kernel/shmmax")),
            ("kernel/shm_rmid_forced", Ok("kernel/shm_rmid_forced")),
            ("fs.mqueue.msg_max", Ok("fs/mqueue/msg_max")),
            ("kernel.domainname", Err("needs a uts namespace, or the host's would change")),
            (
                "user.max_net_namespaces",
                Err("needs a new user namespace, or the limits of another one would change"),
            ),
            ("kernel.hostname", Err("is set by the member hostname")),
            ("vm.swappiness", Err("does not belong to a namespace: the host's would change")),
            ("kernel.core_pattern", Err("does not belong to a namespace: the host's would change")),
            ("net/../kernel/core_pattern", Err("is not the name of a parameter")),
            ("net./../kernel", Err("is not the name of a parameter")),
            ("net", Err("does not belong to a namespace: the host's would change")),
            ("", Err("is not the name of a parameter")),
        ] {
            let linux: Linux = serde_json::from_value(serde_json::json!({"sysctl": {key: "1"}})).unwrap();
            let mut notes = Notes::default();
            let plan = plan(Some(&linux), &own, &mut notes);
            match expected {
                Ok(path) => {
                    assert_eq!((plan[0].path.to_str(), notes.problems.0.len()), (Some(path), 0), "{key}")
                }
                Err(message) => assert_eq!(notes.problems.0[0].message, message, "{key}"),
            }
        }
    }

    #[test]
    fn the_limits_of_a_new_user_namespace_can_be_set() {
        let own = namespaces::Plan { create: libc::CLONE_NEWUSER, ..Default::default() };
        let linux =
            serde_json::json!({"sysctl": {"user.max_net_namespaces": "1", "user/max_inotify_watches": "2"}});
        let linux: Linux = serde_json::from_value(linux).unwrap();
        let mut notes = Notes::default();
        let plan = plan(Some(&linux), &own, &mut notes);
        let paths: Vec<_> = plan.iter().map(|sysctl| sysctl.path.to_str().unwrap()).collect();
        assert_eq!(
            (paths, notes.problems.0.len()),
            (vec!["user/max_inotify_watches", "user/max_net_namespaces"], 0)
        );
    }

    #[test]
    fn parameters_are_in_the_order_of_their_names_and_occur_once() {
        let own = namespaces::Plan { create: libc::CLONE_NEWNET, ..Default::default() };
        let text = r#"{"sysctl": {"vm.c": "1", "vm.a": "1", "net.x": "1", "vm.b": "1", "net/x": "2", "net.b": "3"}}"#;
        // A hash's order is another one each time.
        for _ in 0..20 {
            let linux: Linux = serde_json::from_str(text).unwrap();
            let mut notes = Notes::default();
            let plan = plan(Some(&linux), &own, &mut notes);
            let places: Vec<&str> = notes.problems.0.iter().map(|problem| problem.place.as_str()).collect();
            let wrong = ["net/x", "vm.a", "vm.b", "vm.c"].map(|name| format!("linux.sysctl[\"{name}\"]"));
            assert_eq!(places, wrong);
            assert_eq!(notes.problems.0[0].message, "is another name of linux.sysctl[\"net.x\"]");
            let values: Vec<&str> = plan.iter().map(|sysctl| sysctl.value.as_str()).collect();
            assert_eq!(values, ["3", "1"]);
        }
    }
}
