//! cgroup v1: each controller in a hierarchy of its own, or together with a few others; on a hybrid host with
//! v2 beside them. The container gets a cgroup of the same name in all.
//!
//! Where v2 is, it knows the container's processes: they are born in its cgroup, killed by `cgroup.kill` and
//! frozen there. Without v2, they are those of the freezer's hierarchy.

mod cgroup;
mod create;
mod devices;
pub(super) mod resources;
pub(super) mod stats;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxCpu, LinuxResources};

pub use cgroup::{Cgroup, enter};
pub(super) use create::create;

use super::devices::Filter;
use super::{Host, Request, Write, v2};
use crate::cgroups::host::Hierarchy;
use crate::error::{Problems, Result};
use crate::state::CgroupRecord;

/// The cgroups to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One for each hierarchy, the one that knows the processes first.
    pub parts: Vec<Part>,
    /// For `devices.allow` and `devices.deny`; `None` if every device is allowed.
    pub devices: Option<Vec<Write>>,
    /// On a hybrid host, the cgroup in v2's hierarchy.
    pub unified: Option<v2::Plan>,
    pub rootless: bool,
    /// The device rules take something away that a container's user could have used without a container.
    pub denies: bool,
}

/// The cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// The cgroup, below the mount: plain names, without a leading slash.
    pub path: PathBuf,
    pub writes: Vec<Write>,
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

    /// Whether it only groups: such a hierarchy belongs to a service manager, and we join it if we may.
    #[must_use]
    pub fn named(&self) -> bool {
        self.controllers.iter().all(|c| c.starts_with("name="))
    }
}

impl Plan {
    /// The container's own directories in v1's hierarchies.
    pub fn dirs(&self) -> impl Iterator<Item = PathBuf> {
        self.parts.iter().map(Part::dir)
    }

    /// Whether the container may run without them.
    #[must_use]
    pub fn optional(&self) -> bool {
        let limits = self.parts.iter().flat_map(|part| &part.writes).any(Write::limits);
        self.rootless && !limits && !self.denies && self.unified.as_ref().is_none_or(v2::Plan::optional)
    }

    /// See [`super::Plan::claim`].
    pub(super) fn claim(&self, mut missing: Vec<PathBuf>) -> Option<CgroupRecord> {
        let mut take = |dir: PathBuf| {
            let found = missing.iter().position(|other| *other == dir)?;
            Some(missing.remove(found))
        };
        let path = self.unified.as_ref().map(v2::Plan::dir).and_then(&mut take).unwrap_or_default();
        let v1: Vec<PathBuf> = self.dirs().filter_map(take).collect();
        let nothing = path.as_os_str().is_empty() && v1.is_empty() && missing.is_empty();
        let manager = "cgroupfs".to_string();
        (!nothing).then_some(CgroupRecord { manager, path, v1, parents: missing, ..CgroupRecord::default() })
    }

    /// The directories of the plan that do not exist yet, outermost first in each hierarchy.
    pub(super) fn missing(&self) -> Vec<PathBuf> {
        let v1 =
            self.parts.iter().flat_map(|part| v2::missing_in(part.dir(), part.path.components().count()));
        self.unified.iter().flat_map(v2::missing).chain(v1).collect()
    }
}

/// What resources come to, in v1's hierarchies and in v2's beside them.
pub(super) fn writes(resources: &LinuxResources, host: &Host, problems: &mut Problems) -> Vec<Write> {
    let (ours, theirs) = split(resources.clone(), host);
    let mut writes = resources::plan(&ours, problems);
    writes.extend(super::resources::plan(&theirs, problems));
    writes
}

/// Whether only v2 has what a write is for.
pub(super) fn is_v2s(write: &Write) -> Result<bool> {
    let host = Host::probe(false)?;
    Ok(write.controller().is_some_and(|name| host.v2_controllers.iter().any(|other| other == name)))
}

/// Plans the container's cgroup in all hierarchies.
pub(super) fn plan(
    request: &Request,
    host: &Host,
    filter: Option<Filter>,
    problems: &mut Problems,
) -> Option<Plan> {
    let (ours, theirs) = split(request.resources.cloned().unwrap_or_default(), host);
    let writes = resources::plan(&ours, problems);
    let unified = super::resources::plan(&theirs, problems);
    let below = super::plan_below(request, problems)?;
    let mut parts: Vec<Part> = Vec::new();
    for hierarchy in ordered(&host.v1) {
        let own_name = hierarchy.controllers.join(",");
        let path = below.place(hierarchy.own.as_deref(), &own_name, problems)?;
        let (controllers, mount) = (hierarchy.controllers.clone(), hierarchy.mount.clone());
        let writes = writes.iter().filter(|w| w.controller().is_some_and(|c| hierarchy.has(c)));
        let writes = writes.cloned().collect();
        parts.push(Part { controllers, mount, path, writes });
    }
    for write in writes.iter().filter(|write| write.limits()) {
        let controller = write.controller().unwrap_or_default();
        if !parts.iter().any(|part| part.has(controller)) {
            problems.add(
                &write.place,
                format!("no cgroup hierarchy with the {controller} controller is mounted"),
            );
        }
    }
    let controlled = parts.iter().any(|part| part.has("devices"));
    if !controlled && host.v2_mount.is_none() && filter.is_some() && !request.rootless {
        let why = "no cgroup hierarchy with the devices controller is mounted";
        problems.add("linux.resources.devices", why);
    }
    let denies = filter.as_ref().is_some_and(|filter| !filter.only_allows());
    let devices = filter.as_ref().filter(|_| controlled).map(|filter| devices::lower(filter, problems));
    let unified = match &host.v2_mount {
        None => None,
        Some(mount) => Some(v2::Plan {
            mount: mount.clone(),
            path: below.place(host.own.as_deref(), "v2", problems)?,
            scope: None,
            writes: unified,
            devices: filter.filter(|_| !controlled),
            rootless: request.rootless,
        }),
    };
    Some(Plan { parts, devices, unified, rootless: request.rootless, denies })
}

/// What a container sees of a hierarchy, where all are mounted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The directory's name: `cpu,cpuacct`.
    pub name: String,
    /// Other names for it, of its controllers.
    pub links: Vec<String>,
    /// The host's directory to show there.
    pub dir: PathBuf,
    /// It need not be there.
    pub optional: bool,
    /// The caller's, to show where a rootless container had to do without one of its own.
    pub otherwise: Option<PathBuf>,
}

/// What the container sees of the host's hierarchies; nothing on a host without v1. Without a cgroup of its own
/// it sees its caller's.
#[must_use]
pub fn views(plan: Option<&super::Plan>, host: &Host) -> Vec<View> {
    let name = |mount: &Path| mount.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let plan = match plan {
        Some(super::Plan::V1(plan)) => Some(plan),
        _ => None,
    };
    let own = |mount: &Path, own: Option<&PathBuf>| own.map_or(mount.into(), |own| mount.join(own));
    let without = plan.is_some_and(Plan::optional);
    let mut views: Vec<View> = Vec::new();
    for hierarchy in &host.v1 {
        let name = name(&hierarchy.mount);
        let part = plan.and_then(|plan| plan.parts.iter().find(|part| part.mount == hierarchy.mount));
        let callers = own(&hierarchy.mount, hierarchy.own.as_ref());
        let dir = part.map_or_else(|| callers.clone(), Part::dir);
        let optional = part.is_some_and(Part::named);
        // A hierarchy without controllers has but one name.
        let links = hierarchy.controllers.iter().filter(|c| **c != name && !c.starts_with("name="));
        let otherwise = without.then_some(callers);
        views.push(View { links: links.cloned().collect(), name, dir, optional, otherwise });
    }
    if let Some(mount) = host.v2_mount.as_ref().filter(|_| !views.is_empty()) {
        let unified = plan.and_then(|plan| plan.unified.as_ref());
        let callers = own(mount, host.own.as_ref());
        let dir = unified.map_or_else(|| callers.clone(), v2::Plan::dir);
        let otherwise = without.then_some(callers);
        views.push(View { name: name(mount), links: Vec::new(), dir, optional: false, otherwise });
    }
    views
}

/// The freezer's first: without v2 it is how processes are found and held.
fn ordered(hierarchies: &[Hierarchy]) -> impl Iterator<Item = &Hierarchy> {
    let (first, others): (Vec<_>, Vec<_>) = hierarchies.iter().partition(|h| h.has("freezer"));
    let (named, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|h| h.controllers.iter().all(|c| c.starts_with("name=")));
    first.into_iter().chain(others).chain(named)
}

/// The resources that v1's controllers give, and those for which only v2's hierarchy has one.
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

/// Time and sets are two controllers.
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

/// The name of the file of a cgroup, for a write by path.
fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::{self, Manager};

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

    fn planned(host: &Host, path: Option<&str>, resources: &str) -> (Option<Plan>, Problems) {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let (path, mut problems) = (path.map(Path::new), Problems::default());
        let resources = Some(&resources);
        let manager = Manager::Cgroupfs;
        let request =
            Request { id: "c", path, resources, annotations: None, manager, rootless: false, uid: 0 };
        let plan = cgroups::plan(&request, host, &mut problems, &mut Vec::new()).unwrap();
        let plan = plan.map(|plan| match plan {
            cgroups::Plan::V1(plan) => plan,
            cgroups::Plan::V2(plan) => panic!("{plan:?}"),
        });
        (plan, problems)
    }

    #[test]
    fn every_hierarchy_has_its_path() {
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
            let dirs: Vec<PathBuf> = plan.dirs().collect();
            assert_eq!(dirs, expected.map(|dir| Path::new("/cg").join(dir)), "{path:?}");
        }
        let mut hidden = host();
        hidden.v1[2].own = None;
        let (plan, problems) = planned(&hidden, Some("a"), "{}");
        assert!(plan.is_none() && problems.to_string().contains("mounted memory hierarchy"), "{problems}");
    }

    #[test]
    fn each_write_goes_where_its_controller_is() {
        let resources = r#"{"cpu":{"shares":2,"quota":-1},"memory":{"limit":9},"pids":{"limit":3},
            "hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#;
        let (plan, problems) = planned(&host(), Some("/a"), resources);
        assert_eq!(problems.0, []);
        let plan = plan.unwrap();
        let files = |writes: &[Write]| writes.iter().map(|w| w.file.clone()).collect::<Vec<_>>();
        let parts: Vec<Vec<String>> = plan.parts.iter().map(|part| files(&part.writes)).collect();
        let empty: [&str; 0] = [];
        assert_eq!(parts[0], empty);
        assert_eq!(parts[1], ["cpu.shares", "cpu.cfs_quota_us"]);
        assert_eq!(parts[2], ["memory.limit_in_bytes"]);
        let unified = plan.unified.unwrap();
        assert_eq!(files(&unified.writes), ["pids.max", "hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"]);
        // v1's hierarchy sees to the devices.
        assert!(unified.devices.is_none() && plan.devices.is_some());
    }

    #[test]
    fn v2s_own_words_go_to_v2() {
        let resources = r#"{"unified":{"cgroup.max.depth":"3","hugetlb.2MB.max":"0"}}"#;
        let (plan, problems) = planned(&host(), Some("/a"), resources);
        assert_eq!(problems.0, []);
        let files: Vec<String> = plan.unwrap().unified.unwrap().writes.into_iter().map(|w| w.file).collect();
        assert_eq!(files, ["cgroup.max.depth", "hugetlb.2MB.max"]);
        let resources = r#"{"unified":{"cgroup.max.depth":"3","memory.max":"5"}}"#;
        let (_, problems) = planned(&host(), Some("/a"), resources);
        assert_eq!(problems.0.len(), 1, "{problems}");
        assert_eq!(problems.0[0].place, "linux.resources.unified[\"memory.max\"]");
    }

    #[test]
    fn an_absent_controller_cannot_limit() {
        let without = Host { v2_controllers: Vec::new(), ..host() };
        for (resources, place) in [
            (r#"{"cpu":{"cpus":"0"}}"#, "linux.resources.cpu.cpus"),
            (r#"{"pids":{"limit":3}}"#, "linux.resources.pids.limit"),
            (r#"{"blockIO":{"weight":100}}"#, "linux.resources.blockIO.weight"),
        ] {
            let (_, problems) = planned(&without, Some("/a"), resources);
            assert_eq!(problems.0.len(), 1, "{problems}");
            assert_eq!(problems.0[0].place, place);
        }
        assert_eq!(planned(&without, Some("/a"), r#"{"pids":{"limit":-1}}"#).1, Problems::default());
    }
}
