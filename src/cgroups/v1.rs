//! cgroup v1: each hierarchy has one controller or a few. On a hybrid host v2 is mounted in addition. The
//! container gets a cgroup of the same name in all hierarchies. Hosts with v2 alone run nothing of this.
//!
//! The limits are planned as files of v1 from the same table as v2's. The process is cloned into v2's cgroup
//! if there is one, and enters the others by descriptors that the runtime process has opened, before it does
//! anything else. Its cgroup namespace is made after that.
//!
//! Later commands ask for a file by its name, and the first of the container's cgroups that has the file
//! answers. `events`, `update` and `state --applied` are therefore the same code for both versions.

mod create;
pub(super) mod devices;
pub(super) mod freezer;
pub(super) mod resources;
pub(super) mod stats;

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxCpu, LinuxResources};

pub(super) use create::create;

use super::devices::Filter;
use super::request::Place;
use super::{Host, Write};
use crate::cgroups::hierarchies::Hierarchy;
use crate::error::{Notes, Result};

/// The cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub controllers: Vec<String>,
    /// The mount point of the hierarchy.
    pub mount: PathBuf,
    /// The cgroup, below the mount: plain names, without a leading slash.
    pub path: PathBuf,
    pub writes: Vec<Write>,
    /// What to write to `devices.allow` and `devices.deny`, if this hierarchy has the devices controller.
    pub device_rules: Vec<Write>,
}

impl Part {
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.mount.join(&self.path)
    }

    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// Reports whether the hierarchy has no controllers. Such a hierarchy belongs to a service manager, and
    /// the container joins it only if that is permitted.
    #[must_use]
    pub fn named(&self) -> bool {
        self.controllers.iter().all(|c| c.starts_with("name="))
    }
}

/// Returns the writes that resources ask for in v1's hierarchies, and in v2's. Without v1 all are for v2.
pub(super) fn writes(resources: &LinuxResources, host: &Host, notes: &mut Notes) -> (Vec<Write>, Vec<Write>) {
    if host.v1.is_empty() {
        return (Vec::new(), super::resources::plan(resources, notes));
    }
    let (ours, theirs) = split(resources.clone(), host);
    (resources::plan(&ours, notes), super::resources::plan(&theirs, notes))
}

/// Reports whether only v2 has the controller that a write is for.
pub(super) fn is_v2s(write: &Write) -> Result<bool> {
    let host = Host::probe()?;
    Ok(write.controller().is_some_and(|name| host.v2_controllers.iter().any(|other| other == name)))
}

/// Plans the container's cgroup in each of v1's hierarchies, with the writes for its controllers.
pub(super) fn plan(
    wanted: &Place,
    host: &Host,
    writes: Vec<Write>,
    filter: Option<&Filter>,
    notes: &mut Notes,
) -> Option<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for hierarchy in ordered(&host.v1) {
        let own_name = hierarchy.controllers.join(",");
        let path = wanted.below(hierarchy.own.as_deref(), &own_name, notes)?;
        let (controllers, mount) = (hierarchy.controllers.clone(), hierarchy.mount.clone());
        let writes = writes.iter().filter(|w| w.controller().is_some_and(|c| hierarchy.has(c)));
        let writes = writes.cloned().collect();
        parts.push(Part { controllers, mount, path, writes, device_rules: Vec::new() });
    }
    for write in writes.iter().filter(|write| write.limits()) {
        let controller = write.controller().unwrap_or_default();
        if !parts.iter().any(|part| part.has(controller)) {
            notes.problem(
                &write.place,
                format!("no cgroup hierarchy with the {controller} controller is mounted"),
            );
        }
    }
    if let Some(part) = parts.iter_mut().find(|part| part.has("devices")) {
        part.device_rules = devices::lower(filter, notes);
    }
    Some(parts)
}

/// Returns the freezer's hierarchy first, since without v2 it is used to find and freeze the processes, and
/// hierarchies without controllers last.
fn ordered(hierarchies: &[Hierarchy]) -> impl Iterator<Item = &Hierarchy> {
    let (first, others): (Vec<_>, Vec<_>) = hierarchies.iter().partition(|h| h.has("freezer"));
    let (named, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|h| h.controllers.iter().all(|c| c.starts_with("name=")));
    first.into_iter().chain(others).chain(named)
}

/// Divides the resources into those for v1's controllers, and those whose controller only v2's hierarchy has.
fn split(mut ours: LinuxResources, host: &Host) -> (LinuxResources, LinuxResources) {
    let only_v2 = |v1: &str, v2: &str| {
        !host.v1.iter().any(|h| h.has(v1)) && host.v2_controllers.iter().any(|name| name == v2)
    };
    let mut theirs = LinuxResources::default();
    theirs.set_devices(None);
    if only_v2("memory", "memory") {
        theirs.set_memory(*ours.memory());
        ours.set_memory(None);
    }
    if only_v2("pids", "pids") {
        theirs.set_pids(*ours.pids());
        ours.set_pids(None);
    }
    if only_v2("blkio", "io") {
        theirs.set_block_io(ours.block_io().clone());
        ours.set_block_io(None);
    }
    if only_v2("hugetlb", "hugetlb") {
        theirs.set_hugepage_limits(ours.hugepage_limits().clone());
        ours.set_hugepage_limits(None);
    }
    if only_v2("rdma", "rdma") {
        theirs.set_rdma(ours.rdma().clone());
        ours.set_rdma(None);
    }
    if let Some(unified) = ours.unified().clone().filter(|_| host.v2_mount.is_some()) {
        let has = |key: &str| match key.split_once('.') {
            Some(("cgroup", _)) => true,
            Some((controller, _)) => host.v2_controllers.iter().any(|name| name == controller),
            None => false,
        };
        let (v2, v1): (HashMap<_, _>, HashMap<_, _>) = unified.into_iter().partition(|(key, _)| has(key));
        theirs.set_unified(Some(v2));
        ours.set_unified(Some(v1));
    }
    if let Some(cpu) = ours.cpu().clone() {
        let (v1, v2) = split_cpu(cpu, only_v2("cpu", "cpu"), only_v2("cpuset", "cpuset"));
        ours.set_cpu(Some(v1));
        theirs.set_cpu(Some(v2));
    }
    (ours, theirs)
}

/// Divides the members between `cpu` and `cpuset`, which are two controllers.
fn split_cpu(cpu: LinuxCpu, time_in_v2: bool, sets_in_v2: bool) -> (LinuxCpu, LinuxCpu) {
    let mut sets = LinuxCpu::default();
    sets.set_cpus(cpu.cpus().clone()).set_mems(cpu.mems().clone());
    let mut time = cpu.clone();
    time.set_cpus(None).set_mems(None);
    match (time_in_v2, sets_in_v2) {
        (false, false) => (cpu, LinuxCpu::default()),
        (true, true) => (LinuxCpu::default(), cpu),
        (true, false) => (sets, time),
        (false, true) => (time, sets),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cgroups::{self, Manager, Request};

    fn host() -> Host {
        let hierarchy = |controllers: &str, own: Option<&str>| Hierarchy {
            controllers: controllers.split(',').map(Into::into).collect(),
            mount: format!("/cg/{controllers}").into(),
            own: own.map(PathBuf::from),
        };
        Host {
            v2_mount: Some("/cg/unified".into()),
            own: Some("own/x".into()),
            v1: vec![
                hierarchy("name=systemd", Some("s/x")),
                hierarchy("cpu,cpuacct", Some("c/x")),
                hierarchy("memory", Some("")),
                hierarchy("devices", Some("d")),
                hierarchy("freezer", Some("f/y/x")),
            ],
            v2_controllers: vec!["hugetlb".into(), "pids".into()],
            resctrl: None,
        }
    }

    fn planned(host: &Host, path: Option<&str>, resources: &str) -> (Option<cgroups::Plan>, Notes) {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let (path, mut notes) = (path.map(Path::new), Notes::default());
        let resources = Some(&resources);
        let manager = Manager::Cgroupfs;
        let request =
            Request { id: "c", path, resources, annotations: None, manager, rootless: false, uid: 0 };
        let plan = cgroups::plan(&request, host, &mut notes).unwrap();
        (plan, notes)
    }

    #[test]
    fn each_hierarchy_gets_the_path() {
        for (path, expected) in [
            (
                Some("/a/b"),
                ["freezer/a/b", "cpu,cpuacct/a/b", "memory/a/b", "devices/a/b", "name=systemd/a/b"],
            ),
            (
                None,
                [
                    "freezer/corten-c",
                    "cpu,cpuacct/corten-c",
                    "memory/corten-c",
                    "devices/corten-c",
                    "name=systemd/corten-c",
                ],
            ),
            (Some("a"), ["freezer/f/y/a", "cpu,cpuacct/c/a", "memory/a", "devices/a", "name=systemd/s/a"]),
        ] {
            let plan = planned(&host(), path, "{}").0.unwrap();
            let dirs: Vec<PathBuf> = plan.v1.iter().map(Part::dir).collect();
            assert_eq!(dirs, expected.map(|dir| Path::new("/cg").join(dir)), "{path:?}");
        }
        let mut hidden = host();
        hidden.v1[2].own = None;
        let (plan, notes) = planned(&hidden, Some("a"), "{}");
        assert!(
            plan.is_none() && notes.problems.to_string().contains("mounted memory hierarchy"),
            "{notes:?}"
        );
    }

    #[test]
    fn each_write_goes_where_its_controller_is() {
        let resources = r#"{"cpu":{"shares":2,"quota":-1},"memory":{"limit":9},"pids":{"limit":3},
            "hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#;
        let (plan, notes) = planned(&host(), Some("/a"), resources);
        assert_eq!(notes.problems.0, []);
        let plan = plan.unwrap();
        let files = |writes: &[Write]| writes.iter().map(|w| w.file.clone()).collect::<Vec<_>>();
        let parts: Vec<Vec<String>> = plan.v1.iter().map(|part| files(&part.writes)).collect();
        let empty: [&str; 0] = [];
        assert_eq!(parts[0], empty);
        assert_eq!(parts[1], ["cpu.shares", "cpu.cfs_quota_us"]);
        assert_eq!(parts[2], ["memory.limit_in_bytes"]);
        // v1's hierarchy filters the devices.
        assert!(plan.program().is_none() && plan.devices.is_some());
        assert_eq!(plan.v1.iter().filter(|part| !part.device_rules.is_empty()).count(), 1);
        let unified = plan.unified.unwrap();
        assert_eq!(files(&unified.writes), ["pids.max", "hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"]);
    }

    #[test]
    fn keys_of_v2_go_to_v2() {
        let resources = r#"{"unified":{"cgroup.max.depth":"3","hugetlb.2MB.max":"0"}}"#;
        let (plan, notes) = planned(&host(), Some("/a"), resources);
        assert_eq!(notes.problems.0, []);
        let files: Vec<String> = plan.unwrap().unified.unwrap().writes.into_iter().map(|w| w.file).collect();
        assert_eq!(files, ["cgroup.max.depth", "hugetlb.2MB.max"]);
        let resources = r#"{"unified":{"cgroup.max.depth":"3","memory.max":"5"}}"#;
        let (_, notes) = planned(&host(), Some("/a"), resources);
        assert_eq!(notes.problems.0.len(), 1, "{notes:?}");
        assert_eq!(notes.problems.0[0].place, "linux.resources.unified[\"memory.max\"]");
    }

    #[test]
    fn a_limit_without_its_controller_is_refused() {
        let without = Host { v2_controllers: Vec::new(), ..host() };
        for (resources, place) in [
            (r#"{"cpu":{"cpus":"0"}}"#, "linux.resources.cpu.cpus"),
            (r#"{"pids":{"limit":3}}"#, "linux.resources.pids.limit"),
            (r#"{"blockIO":{"weight":100}}"#, "linux.resources.blockIO.weight"),
        ] {
            let (_, notes) = planned(&without, Some("/a"), resources);
            assert_eq!(notes.problems.0.len(), 1, "{notes:?}");
            assert_eq!(notes.problems.0[0].place, place);
        }
        assert_eq!(planned(&without, Some("/a"), r#"{"pids":{"limit":-1}}"#).1, Notes::default());
    }
}
