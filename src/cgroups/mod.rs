//! Control groups: which one a container gets, with which limits, and what is done with it later.
//!
//! [`Host::probe`] finds the cgroup v2 hierarchy wherever it is mounted, [`plan`] turns the spec's words into
//! writes and a device filter without touching anything, [`create`] makes the directories, sets the limits
//! while the cgroup is empty and gives the descriptor that the container's first process is born into.
//! [`Cgroup`] is what later commands open again: kill, freeze, list, wait, remove.

mod backend;
pub mod compare;
pub mod dbus;
pub mod devices;
mod host;
mod lower;
pub mod oom;
mod process;
pub mod resources;
pub mod search;
pub mod stats;
pub mod systemd;
mod tree;
pub mod update;
pub mod v1;
pub mod v2;
pub mod value;

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};

use crate::error::{Kind, Problems, Result, fail};
use crate::state::CgroupRecord;

pub use backend::{
    Below, Cgroup, create, delegate, frozen, id, is_anothers, limit, missing, populated, remove_empty, watch,
};
pub use host::{Host, unescape};
pub use process::{below, beside, freezing};
pub use resources::Write;
pub use tree::remove_parents;
pub use value::Value;

/// Who makes cgroups on this host: `--cgroup-manager`, `--systemd-cgroup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manager {
    /// We do, by mkdir.
    #[default]
    Cgroupfs,
    /// systemd does, asked over D-Bus.
    Systemd,
    /// No one: the container stays in its caller's cgroup.
    Disabled,
}

/// What the bundle and the command line say about the container's cgroup.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub id: &'a str,
    /// `linux.cgroupsPath`.
    pub path: Option<&'a Path>,
    /// `linux.resources`.
    pub resources: Option<&'a LinuxResources>,
    /// `annotations`: systemd's properties are among them.
    pub annotations: Option<&'a HashMap<String, String>>,
    pub manager: Manager,
    pub rootless: bool,
    /// Our user's id, in our own user namespace.
    pub uid: u32,
}

/// The cgroup to make, by the kind of host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    V2(v2::Plan),
    /// v1, and v2 beside it.
    V1(v1::Plan),
}

impl Plan {
    /// The container's own directories, in every hierarchy.
    #[must_use]
    pub fn dirs(&self) -> Vec<PathBuf> {
        match self {
            Self::V2(plan) => vec![plan.dir()],
            Self::V1(plan) => plan.unified.iter().map(v2::Plan::dir).chain(plan.dirs()).collect(),
        }
    }

    /// The record of what is about to be made: of the container's own directories and those above, such as are
    /// `missing`. One that is there already is another's, until it has been found to be free.
    #[must_use]
    pub fn claim(&self, mut missing: Vec<PathBuf>) -> Option<CgroupRecord> {
        let path = match self {
            Self::V2(plan) => plan.dir(),
            Self::V1(plan) => return plan.claim(missing),
        };
        let unit = self.scope().map(|scope| scope.unit.clone());
        let manager = if unit.is_some() { "systemd" } else { "cgroupfs" }.into();
        missing.contains(&path).then(|| {
            missing.retain(|dir| *dir != path);
            CgroupRecord { manager, path, parents: missing, unit, ..CgroupRecord::default() }
        })
    }

    /// The unit that systemd is to make. Its cgroup is made around the container's process, which has to wait for it.
    #[must_use]
    pub fn scope(&self) -> Option<&systemd::Scope> {
        match self {
            Self::V2(plan) => plan.scope.as_ref(),
            Self::V1(_) => None,
        }
    }

    /// Whether the container may run without it: rootless, with no right to make cgroups, and nothing to
    /// limit.
    #[must_use]
    pub fn optional(&self) -> bool {
        match self {
            Self::V2(plan) => plan.optional(),
            Self::V1(plan) => plan.optional(),
        }
    }
}

/// Decides which cgroup the container gets; `None` if none.
///
/// A wrong value is noted in `problems`, and the plan is then not to be carried out.
pub fn plan(
    request: &Request,
    host: &Host,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Result<Option<Plan>> {
    let lower = if host.v1.is_empty() { resources::plan } else { v1::resources::plan };
    let rules = request.resources.and_then(|r| r.devices().as_deref()).unwrap_or(&[]);
    let devices = devices::plan(rules, problems);
    match request.manager {
        Manager::Disabled => {
            let writes = request.resources.map_or_else(Vec::new, |r| lower(r, problems));
            plan_without(&writes, rules, problems, warnings);
            return Ok(None);
        }
        Manager::Systemd if !host.v1.is_empty() => {
            let why = "the systemd cgroup manager needs a host with cgroup v2 only";
            return Err(fail(Kind::Unsupported, why));
        }
        Manager::Cgroupfs if !host.v1.is_empty() => {
            return Ok(v1::plan(request, host, devices, problems).map(Plan::V1));
        }
        Manager::Systemd | Manager::Cgroupfs => {}
    }
    let writes = request.resources.map_or_else(Vec::new, |r| lower(r, problems));
    let systemd = request.manager == Manager::Systemd;
    let Some(mount) = host.v2_mount.clone() else {
        if !systemd && request.rootless && !writes.iter().any(Write::limits) {
            warnings.push("no cgroup hierarchy is mounted: the container gets no cgroup, ignoring".into());
            return Ok(None);
        }
        return Err(fail(
            Kind::Unsupported,
            "no cgroup hierarchy is mounted (hint: --cgroup-manager=disabled does without)",
        ));
    };
    let placed = if systemd {
        systemd::plan(request, host, &writes, problems).map(|(scope, path)| (Some(scope), path))
    } else {
        let below = plan_below(request, problems);
        below.and_then(|below| below.place(host.own.as_deref(), "", problems)).map(|path| (None, path))
    };
    let rootless = request.rootless;
    Ok(placed.map(|(scope, path)| Plan::V2(v2::Plan { mount, path, scope, writes, devices, rootless })))
}

/// Without a cgroup nothing can be limited, and nobody watches over devices.
fn plan_without(
    writes: &[Write],
    rules: &[LinuxDeviceCgroup],
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) {
    for write in writes.iter().filter(|w| w.limits()) {
        problems.add(&write.place, "cannot be set: cgroups are disabled");
    }
    // Engines send a list with every container, also where they ask for no cgroup.
    if !rules.is_empty() {
        warnings.push("linux.resources.devices: cgroups are disabled, ignoring".into());
    }
}

/// The cgroup's path, before it is known from where.
struct Place {
    path: PathBuf,
    absolute: bool,
}

/// The cgroup's path below the mount.
///
/// As config-linux.md#cgroups-path says, an absolute path begins at the mount. A relative one runc takes from
/// our own cgroup's parent, and so do we: our own has processes inside and so cannot share out controllers to
/// children. The same place serves a rootless container without a path, since there its user may have a
/// delegated cgroup. As root such a container gets a directory at the top, of one level, so that no shared
/// parent is left behind.
fn plan_below(request: &Request, problems: &mut Problems) -> Option<Place> {
    let default = format!("corten-{}", request.id);
    let path = match request.path {
        Some(path) => plain(path).map_err(|message| problems.add(PATH, message)).ok()?,
        None => PathBuf::from(default),
    };
    Some(Place { path, absolute: request.path.map_or(!request.rootless, Path::is_absolute) })
}

/// Its place in config.json.
const PATH: &str = "linux.cgroupsPath";

impl Place {
    /// The path below the mount of a hierarchy (v1's have names) where our own cgroup is `own`.
    fn place(&self, own: Option<&Path>, hierarchy: &str, problems: &mut Problems) -> Option<PathBuf> {
        if self.absolute {
            return Some(self.path.clone());
        }
        let Some(own) = own else {
            let blank = if hierarchy.is_empty() { "" } else { " " };
            let what = format!("mounted{blank}{hierarchy} hierarchy");
            problems.add(PATH, format!("is relative, but our own cgroup lies outside the {what}"));
            return None;
        };
        let parent = own.parent().unwrap_or(Path::new(""));
        Some(parent.join(&self.path))
    }
}

/// A path as plain names only. Nothing is normalised away silently but `.` and repeated slashes.
fn plain(path: &Path) -> Result<PathBuf, &'static str> {
    if path.as_os_str().is_empty() {
        return Err("is empty");
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err("has a NUL byte");
    }
    let mut names = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => return Err("has a \"..\""),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if names.as_os_str().is_empty() { Err("is the root of the hierarchy") } else { Ok(names) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::kind;

    fn host(own: Option<&str>) -> Host {
        Host { v2_mount: Some("/sys/fs/cgroup".into()), own: own.map(PathBuf::from), ..Host::default() }
    }

    fn request(path: Option<&str>) -> Request<'_> {
        let path = path.map(Path::new);
        let manager = Manager::Cgroupfs;
        Request { id: "web1", path, resources: None, annotations: None, manager, rootless: false, uid: 0 }
    }

    fn planned(request: &Request, host: &Host) -> (Option<Plan>, Problems, Vec<String>) {
        let (mut problems, mut warnings) = (Problems::default(), Vec::new());
        let plan = plan(request, host, &mut problems, &mut warnings).unwrap();
        (plan, problems, warnings)
    }

    #[test]
    fn paths_are_placed() {
        let own = Some("user.slice/session.scope");
        for (path, rootless, own, expected) in [
            (Some("/default/web1"), false, own, "default/web1"),
            (Some("/default//./web1/"), false, None, "default/web1"),
            (Some("a/b"), false, own, "user.slice/a/b"),
            (Some("a/b"), false, Some("one"), "a/b"),
            (Some("a/b"), false, Some(""), "a/b"),
            (Some("system.slice:docker:x"), false, own, "user.slice/system.slice:docker:x"),
            (None, false, own, "corten-web1"),
            (None, false, None, "corten-web1"),
            (None, true, own, "user.slice/corten-web1"),
            (Some("/x"), true, own, "x"),
        ] {
            let (plan, problems, _) = planned(&Request { rootless, ..request(path) }, &host(own));
            assert_eq!(problems.0, [], "{path:?}");
            let expected = Path::new("/sys/fs/cgroup").join(expected);
            assert_eq!(plan.unwrap().dirs(), [expected], "{path:?}");
        }
    }

    #[test]
    fn bad_paths_are_refused() {
        for (path, own, word) in [
            (Some(""), Some("a"), "empty"),
            (Some("/"), Some("a"), "root of"),
            (Some("."), Some("a"), "root of"),
            (Some("/a/../b"), Some("a"), ".."),
            (Some("../b"), Some("a"), ".."),
            (Some("/a\0b"), Some("a"), "NUL"),
            (Some("a"), None, "outside"),
        ] {
            let (plan, problems, _) = planned(&request(path), &host(own));
            assert_eq!(plan, None, "{path:?}");
            assert_eq!(problems.0.len(), 1, "{path:?}");
            assert_eq!(problems.0[0].place, "linux.cgroupsPath");
            assert!(problems.0[0].message.contains(word), "{path:?}: {}", problems.0[0].message);
        }
    }

    #[test]
    fn managers_differ() {
        let resources: LinuxResources =
            serde_json::from_str(r#"{"memory":{"limit":5},"pids":{"limit":-1},"devices":[{"allow":false}]}"#)
                .unwrap();
        let limited = Request { resources: Some(&resources), ..request(None) };
        let disabled = Request { manager: Manager::Disabled, ..limited };
        let (plan_, problems, warnings) = planned(&disabled, &host(None));
        assert_eq!(plan_, None);
        assert_eq!(problems.to_string(), "linux.resources.memory.limit: cannot be set: cgroups are disabled");
        assert_eq!(warnings, ["linux.resources.devices: cgroups are disabled, ignoring"]);
        assert_eq!(planned(&Request { resources: None, ..disabled }, &host(None)).1, Problems::default());

        let refused = |request: &Request, host: &Host| {
            let error = plan(request, host, &mut Problems::default(), &mut Vec::new()).unwrap_err();
            assert_eq!(kind(&error), Kind::Unsupported);
            error.to_string()
        };
        let nowhere = Host::default();
        let systemd = Request { manager: Manager::Systemd, rootless: true, uid: 1000, ..request(None) };
        assert!(refused(&systemd, &nowhere).contains("no cgroup hierarchy"));
        let Some(Plan::V2(plan_)) = planned(&systemd, &host(None)).0 else { panic!() };
        assert!(plan_.scope.is_some() && !plan_.optional());
        assert!(refused(&request(None), &nowhere).contains("no cgroup hierarchy"));
        assert!(refused(&Request { rootless: true, ..limited }, &nowhere).contains("no cgroup hierarchy"));
        let (plan_, _, warnings) = planned(&Request { rootless: true, ..request(None) }, &nowhere);
        assert_eq!((plan_, warnings.len()), (None, 1));
    }

    #[test]
    fn a_rootless_container_without_limits_needs_no_cgroup() {
        for (resources, rootless, expected) in [
            ("{}", true, true),
            ("{}", false, false),
            (r#"{"pids":{"limit":-1}}"#, true, true),
            (r#"{"pids":{"limit":5}}"#, true, false),
            (r#"{"devices":[{"allow":false,"access":"rwm"}]}"#, true, true),
            (r#"{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"b"}]}"#, true, false),
        ] {
            let parsed: LinuxResources = serde_json::from_str(resources).unwrap();
            let request = Request { resources: Some(&parsed), rootless, ..request(Some("/x")) };
            let (plan, _, _) = planned(&request, &host(None));
            assert_eq!(plan.unwrap().optional(), expected, "{resources} {rootless}");
        }
    }
}
