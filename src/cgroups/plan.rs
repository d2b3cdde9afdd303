//! Which cgroup a container gets, with which limits. This is decided from the configuration, the command line
//! and the host's hierarchies, without touching anything.

use std::path::PathBuf;

use oci_spec::runtime::LinuxDeviceCgroup;

use super::request::{Manager, Request};
use super::v2::Controllers;
use super::{CgroupRecord, Host, Write, devices, resources, systemd, v1, v2};
use crate::error::{Kind, Notes, Result, fail};
use crate::trace;

/// The cgroup to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The cgroup in v2's hierarchy.
    pub unified: Option<v2::Plan>,
    /// The cgroup in each of v1's hierarchies, the freezer's first. Empty on a host that has only v2.
    pub v1: Vec<v1::Part>,
    /// Which devices may be used; `None` if every device is allowed.
    pub devices: Option<devices::Filter>,
    pub rootless: bool,
}

impl Plan {
    /// Returns the container's own directory in every hierarchy, v2's first.
    #[must_use]
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.unified.iter().map(v2::Plan::dir).chain(self.v1.iter().map(v1::Part::dir)).collect()
    }

    /// Gives the container every controller, since it can create cgroups below its own.
    pub(crate) fn give_all_controllers(&mut self) {
        self.unified.iter_mut().for_each(|unified| unified.controllers = Controllers::All);
    }

    /// Returns the directories of the plan that do not exist yet, outermost first in each hierarchy. They are
    /// recorded before they are created, so that the record of them outlives a crash.
    #[must_use]
    pub fn missing(&self) -> Vec<PathBuf> {
        let _phase = trace::phase("look for the cgroup");
        let v1 = self.v1.iter().flat_map(|part| v2::missing_in(part.dir(), part.path.components().count()));
        self.unified.iter().flat_map(v2::missing).chain(v1).collect()
    }

    /// Returns the record of what is about to be created: of the container's own directories and of their
    /// parents, those that are `missing`. A directory that exists belongs to another container until it has
    /// been found to be unused.
    #[must_use]
    pub fn claim(&self, mut missing: Vec<PathBuf>) -> Option<CgroupRecord> {
        let mut take = |dir: PathBuf| {
            let found = missing.iter().position(|other| *other == dir)?;
            Some(missing.remove(found))
        };
        let path = self.unified.as_ref().map(v2::Plan::dir).and_then(&mut take).unwrap_or_default();
        let v1: Vec<PathBuf> = self.v1.iter().map(v1::Part::dir).filter_map(take).collect();
        let nothing = path.as_os_str().is_empty() && v1.is_empty() && missing.is_empty();
        let unit = self.scope().map(|scope| scope.unit.clone());
        let manager = if unit.is_some() { "systemd" } else { "cgroupfs" }.into();
        let own = CgroupRecord { manager, path, v1, parents: missing, unit, ..CgroupRecord::default() };
        (!nothing).then_some(own)
    }

    /// Returns the unit that systemd is to create. Its cgroup is created around the container process,
    /// which has to wait for it.
    #[must_use]
    pub fn scope(&self) -> Option<&systemd::Scope> {
        self.unified.as_ref()?.scope.as_ref()
    }

    /// Reports whether the container may run without a cgroup: rootless, without the right to create cgroups,
    /// and with nothing to limit.
    #[must_use]
    pub fn optional(&self) -> bool {
        let denies = self.devices.as_ref().is_some_and(|filter| !filter.only_allows());
        let limits = self.v1.iter().flat_map(|part| &part.writes).any(Write::limits);
        self.unified_is_optional() && !denies && !limits
    }

    /// Reports whether the container may run without a cgroup in v2's hierarchy.
    pub(super) fn unified_is_optional(&self) -> bool {
        let limits = self.unified.iter().flat_map(|unified| &unified.writes).any(Write::limits);
        let denies = self.program().is_some_and(|filter| !filter.only_allows());
        self.rootless && self.scope().is_none() && !limits && !denies
    }

    /// Returns the filter for v2's device program. Where v1's devices controller is mounted, its rules do
    /// that work.
    pub(super) fn program(&self) -> Option<&devices::Filter> {
        let controlled = self.v1.iter().any(|part| part.has("devices"));
        self.devices.as_ref().filter(|_| !controlled)
    }
}

/// Decides which cgroup the container gets; `None` if none.
///
/// A wrong value is added to `notes`, and the plan is then not to be carried out.
pub fn plan(request: &Request, host: &Host, notes: &mut Notes) -> Result<Option<Plan>> {
    let rules = request.resources.and_then(|r| r.devices().as_deref()).unwrap_or(&[]);
    let devices = devices::plan(rules, notes);
    if request.manager == Manager::Disabled {
        let lower = if host.v1.is_empty() { resources::plan } else { v1::resources::plan };
        let writes = request.resources.map_or_else(Vec::new, |r| lower(r, notes));
        plan_without(&writes, rules, notes);
        return Ok(None);
    }
    let systemd = request.manager == Manager::Systemd;
    if systemd && !host.v1.is_empty() {
        let why = "--systemd-cgroup needs a host with cgroup v2 alone, and this host uses v1 \
                   (hint: without the option, corten makes the cgroups of v1 itself)";
        return Err(fail(Kind::Unsupported, why));
    }
    let (v1, writes) = request.resources.map_or_else(Default::default, |r| v1::writes(r, host, notes));
    if host.v2_mount.is_none() && host.v1.is_empty() {
        if !systemd && request.rootless && !writes.iter().any(Write::limits) {
            notes.warn("no cgroup hierarchy is mounted: the container gets no cgroup, ignoring");
            return Ok(None);
        }
        return Err(fail(
            Kind::Unsupported,
            "no cgroup hierarchy is mounted (hint: --cgroup-manager=disabled does without)",
        ));
    }
    Ok(place(request, host, (v1, writes), devices, notes))
}

/// Decides the path in each hierarchy, and which writes go there.
fn place(
    request: &Request,
    host: &Host,
    (v1, writes): (Vec<Write>, Vec<Write>),
    devices: Option<devices::Filter>,
    notes: &mut Notes,
) -> Option<Plan> {
    let rootless = request.rootless;
    if request.manager == Manager::Systemd {
        let mount = host.v2_mount.clone()?;
        let (scope, path) = systemd::plan(request, host, &writes, notes)?;
        let unified =
            v2::Plan { mount, path, scope: Some(scope), controllers: Controllers::default(), writes };
        return Some(Plan { unified: Some(unified), v1: Vec::new(), devices, rootless });
    }
    let wanted = request.place(notes)?;
    let v1 = v1::plan(&wanted, host, v1, devices.as_ref(), notes)?;
    let controlled = host.v2_mount.is_some() || v1.iter().any(|part| part.has("devices"));
    if !controlled && devices.is_some() && !rootless {
        let why = "no cgroup hierarchy with the devices controller is mounted";
        notes.problem("linux.resources.devices", why);
    }
    let unified = match &host.v2_mount {
        None => None,
        Some(mount) => {
            let hierarchy = if host.v1.is_empty() { "" } else { "v2" };
            let path = wanted.below(host.own.as_deref(), hierarchy, notes)?;
            let controllers = Controllers::default();
            Some(v2::Plan { mount: mount.clone(), path, scope: None, controllers, writes })
        }
    };
    Some(Plan { unified, v1, devices, rootless })
}

/// Without a cgroup nothing can be limited, and no device is filtered.
fn plan_without(writes: &[Write], rules: &[LinuxDeviceCgroup], notes: &mut Notes) {
    for write in writes.iter().filter(|w| w.limits()) {
        notes.problem(&write.place, "cannot be set: cgroups are disabled");
    }
    // Engines send a list with every container, also where they ask for no cgroup.
    if !rules.is_empty() {
        notes.warn("linux.resources.devices: cgroups are disabled, ignoring");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use oci_spec::runtime::LinuxResources;

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

    fn planned(request: &Request, host: &Host) -> (Option<Plan>, Notes) {
        let mut notes = Notes::default();
        let plan = plan(request, host, &mut notes).unwrap();
        (plan, notes)
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
            let (plan, notes) = planned(&Request { rootless, ..request(path) }, &host(own));
            assert_eq!(notes.problems.0, [], "{path:?}");
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
            let (plan, notes) = planned(&request(path), &host(own));
            assert_eq!(plan, None, "{path:?}");
            assert_eq!(notes.problems.0.len(), 1, "{path:?}");
            assert_eq!(notes.problems.0[0].place, "linux.cgroupsPath");
            assert!(notes.problems.0[0].message.contains(word), "{path:?}: {}", notes.problems.0[0].message);
        }
    }

    #[test]
    fn managers_differ() {
        let resources: LinuxResources =
            serde_json::from_str(r#"{"memory":{"limit":5},"pids":{"limit":-1},"devices":[{"allow":false}]}"#)
                .unwrap();
        let limited = Request { resources: Some(&resources), ..request(None) };
        let disabled = Request { manager: Manager::Disabled, ..limited };
        let (plan_, notes) = planned(&disabled, &host(None));
        assert_eq!(plan_, None);
        assert_eq!(
            notes.problems.to_string(),
            "linux.resources.memory.limit: cannot be set: cgroups are disabled"
        );
        assert_eq!(notes.warnings, ["linux.resources.devices: cgroups are disabled, ignoring"]);
        assert_eq!(planned(&Request { resources: None, ..disabled }, &host(None)).1, Notes::default());

        let refused = |request: &Request, host: &Host| {
            let error = plan(request, host, &mut Notes::default()).unwrap_err();
            assert_eq!(kind(&error), Kind::Unsupported);
            error.to_string()
        };
        let nowhere = Host::default();
        let systemd = Request { manager: Manager::Systemd, rootless: true, uid: 1000, ..request(None) };
        assert!(refused(&systemd, &nowhere).contains("no cgroup hierarchy"));
        let plan_ = planned(&systemd, &host(None)).0.unwrap();
        assert!(plan_.scope().is_some() && !plan_.optional());
        assert!(refused(&request(None), &nowhere).contains("no cgroup hierarchy"));
        assert!(refused(&Request { rootless: true, ..limited }, &nowhere).contains("no cgroup hierarchy"));
        let (plan_, notes) = planned(&Request { rootless: true, ..request(None) }, &nowhere);
        assert_eq!((plan_, notes.warnings.len()), (None, 1));
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
            let (plan, _) = planned(&request, &host(None));
            assert_eq!(plan.unwrap().optional(), expected, "{resources} {rootless}");
        }
    }
}
