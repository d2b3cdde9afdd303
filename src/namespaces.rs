//! Namespaces: which ones are new, which ones are joined, and by which processes.
//!
//! Two processes suffice if one `clone3(2)` can make everything. A third makes the network namespace beside
//! them, to save time ([`Plan::network_first`]). A joined pid namespace and time offsets hold
//! for children only, so the runtime process enters them itself, clones and returns. With the pid namespace
//! it enters the joined network namespace, which would show the host to the processes there ([`SHOWN`]).
//!
//! An intermediate process is needed when a user namespace is joined, or when a new user namespace is made
//! beside joined namespaces or time offsets ([`Stages`]). `launch/create.rs` adds the case of a runtime
//! process that is in a user namespace itself. The intermediate process enters, clones the container process
//! as its sibling, and ends.

mod apply;
mod first;
pub(crate) mod idmap;
pub(crate) mod netdev;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use crate::error::Notes;

pub(crate) use apply::{
    Back, Here, Joined, SHOWN, early, enter_for_children, in_mount_namespace_of, in_network_namespace_of,
    join, join_all, open, open_offsets, write_offsets,
};
pub(crate) use first::First;
pub(crate) use idmap::IdMap;

/// A kind of namespace: the kernel's flag, the specification's name, and the file in `/proc/PID/ns`.
pub(crate) struct Kind {
    pub flag: i32,
    pub name: &'static str,
    pub file: &'static str,
    typ: LinuxNamespaceType,
}

/// All kinds, in the order in which namespaces are joined. The user namespace gives the rights over the others. The mount
/// namespace comes last, since without it the host's paths are gone.
pub(crate) const KINDS: [Kind; 8] = [
    Kind { flag: libc::CLONE_NEWUSER, name: "user", file: "user", typ: LinuxNamespaceType::User },
    Kind { flag: libc::CLONE_NEWCGROUP, name: "cgroup", file: "cgroup", typ: LinuxNamespaceType::Cgroup },
    Kind { flag: libc::CLONE_NEWIPC, name: "ipc", file: "ipc", typ: LinuxNamespaceType::Ipc },
    Kind { flag: libc::CLONE_NEWUTS, name: "uts", file: "uts", typ: LinuxNamespaceType::Uts },
    Kind { flag: libc::CLONE_NEWNET, name: "network", file: "net", typ: LinuxNamespaceType::Network },
    Kind { flag: libc::CLONE_NEWPID, name: "pid", file: "pid", typ: LinuxNamespaceType::Pid },
    Kind { flag: libc::CLONE_NEWTIME, name: "time", file: "time", typ: LinuxNamespaceType::Time },
    Kind { flag: libc::CLONE_NEWNS, name: "mount", file: "mnt", typ: LinuxNamespaceType::Mount },
];

/// Returns the names of all kinds, sorted.
#[must_use]
pub(crate) fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    names.sort_unstable();
    names
}

/// Returns the kind with this flag.
#[must_use]
pub(crate) fn kind(flag: i32) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.flag == flag)
}

/// Returns the names of these kinds, for the trace and the log.
#[must_use]
pub(crate) fn shown(kinds: i32) -> String {
    let names = KINDS.iter().filter(|kind| kinds & kind.flag != 0).map(|kind| kind.name);
    names.collect::<Vec<_>>().join(" ")
}

/// A namespace to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    pub flag: i32,
    pub path: PathBuf,
    /// Its place in config.json: `linux.namespaces[2]`.
    pub place: String,
}

/// The offset of a clock in a new time namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offset {
    pub clock: String,
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// The processes of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stages {
    /// The runtime clones the container process.
    Direct,
    /// The runtime clones an intermediate process. That enters the namespaces that must be entered first, clones the
    /// container process as its sibling, and ends.
    Intermediate,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// `CLONE_NEW*` of the new namespaces.
    pub create: i32,
    /// In the order of [`KINDS`].
    pub join: Vec<Join>,
    pub uid_map: Vec<IdMap>,
    pub gid_map: Vec<IdMap>,
    pub offsets: Vec<Offset>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// The network interfaces to move into the container.
    pub devices: Vec<netdev::Device>,
}

impl Plan {
    /// Returns whether a new namespace of this kind is made.
    #[must_use]
    pub fn creates(&self, flag: i32) -> bool {
        self.create & flag != 0
    }

    /// Returns whether a namespace of this kind is joined.
    #[must_use]
    pub fn joins(&self, flag: i32) -> bool {
        self.join.iter().any(|join| join.flag == flag)
    }

    /// Returns whether the container has a namespace of this kind that can be another than the runtime's.
    #[must_use]
    pub fn has(&self, flag: i32) -> bool {
        self.creates(flag) || self.joins(flag)
    }

    /// Returns whether the network namespace can be made before the others ([`NewNetwork`](crate::sys::netns::NewNetwork)). One
    /// that belongs to a user namespace is made in that. In a pid namespace of others the process must be born in its network
    /// namespace: they could look at the host's by /proc. For time offsets the runtime leaves its time namespace and comes
    /// back, which the kernel refuses to a process that shares its memory.
    #[must_use]
    pub fn network_first(&self) -> bool {
        let beside =
            self.has(libc::CLONE_NEWUSER) || self.joins(libc::CLONE_NEWPID) || !self.offsets.is_empty();
        self.creates(libc::CLONE_NEWNET) && !beside
    }

    /// Returns the kinds of new namespaces, which always include a mount namespace. A container that belongs into an existing
    /// mount namespace is assembled in a private one first, where no other process sees it before everything is masked.
    #[must_use]
    pub fn made(&self) -> i32 {
        self.create | libc::CLONE_NEWNS
    }

    #[must_use]
    pub fn stages(&self) -> Stages {
        let before_user = !self.join.is_empty() || !self.offsets.is_empty();
        if self.joins(libc::CLONE_NEWUSER) || (self.creates(libc::CLONE_NEWUSER) && before_user) {
            Stages::Intermediate
        } else {
            Stages::Direct
        }
    }

    /// Returns the names of the container's own namespaces, for the record.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        KINDS.iter().filter(|kind| self.has(kind.flag)).map(|kind| kind.name.to_string()).collect()
    }
}

/// Plans the namespaces (config-linux.md#namespaces), the id mappings, the clock offsets and the names.
pub(crate) fn plan(spec: &Spec, notes: &mut Notes) -> Plan {
    let mut plan =
        Plan { hostname: spec.hostname().clone(), domainname: spec.domainname().clone(), ..Plan::default() };
    if let Some(linux) = spec.linux() {
        list(linux, &mut plan, notes);
        user(linux, &mut plan, notes);
        offsets(linux, &mut plan, notes);
        if let Some(text) = spec.annotations().as_ref().and_then(|annotations| annotations.get(OFFSET)) {
            annotated_offset(text, &mut plan, notes);
        }
        plan.devices = netdev::plan(linux, plan.has(libc::CLONE_NEWNET), notes);
    }
    for (name, value) in [("hostname", &plan.hostname), ("domainname", &plan.domainname)] {
        let Some(value) = value else { continue };
        if !plan.has(libc::CLONE_NEWUTS) {
            notes.problem(name, "needs a uts namespace, or the host's name would change");
        }
        // __NEW_UTS_LEN
        if value.len() > 64 || value.contains('\0') {
            notes.problem(name, "is longer than 64 bytes or contains a NUL");
        }
    }
    plan
}

/// Checks the combinations with a mount namespace, or without one, that are not possible.
pub(crate) fn check_mounts(plan: &Plan, no_pivot: bool, notes: &mut Notes) {
    let user = plan.has(libc::CLONE_NEWUSER);
    let joined = plan.join.iter().find(|join| join.flag == libc::CLONE_NEWNS);
    match joined {
        // CAP_SYS_ADMIN in the new user namespace gives no right in the one that owns the older mount namespace.
        Some(join) if plan.creates(libc::CLONE_NEWUSER) => notes.problem(
            format_args!("{}.path", join.place),
            "a mount namespace cannot be joined from a new user namespace, which has no rights in it",
        ),
        // --no-pivot would unmount the mounts of other processes there, and by propagation those of the host.
        Some(join) if no_pivot => notes.problem(
            format_args!("{}.path", join.place),
            "--no-pivot would unmount what is in the mount namespace (hint: leave --no-pivot out)",
        ),
        None if user && !plan.creates(libc::CLONE_NEWNS) => notes.problem("linux.namespaces", "a user namespace needs a mount namespace: it has no rights in the host's"),
        // The host's root stays below the container's. Only pivot_root(2) passes on the lock (MNT_LOCKED) that keeps root of
        // the user namespace from unmounting the mount on top.
        None if user && no_pivot => notes.problem(
            "linux.namespaces",
            "with a user namespace, --no-pivot leaves the host's root within reach (hint: leave --no-pivot out)",
        ),
        _ => {}
    }
}

/// Checks that a new user namespace maps the ids of its first process: root, or else `user`, the user and group of the
/// container's program.
pub(crate) fn check_first_user(plan: &Plan, user: Option<(u32, u32)>, notes: &mut Notes) {
    let rows = [
        ("linux.uidMappings", &plan.uid_map, user.map(|(uid, _)| uid), "process.user.uid"),
        ("linux.gidMappings", &plan.gid_map, user.map(|(_, gid)| gid), "process.user.gid"),
    ];
    for (place, map, id, of) in rows {
        let mapped = |id: u32| idmap::to_host(map, id).is_some();
        // An empty map is reported already.
        if !plan.creates(libc::CLONE_NEWUSER) || map.is_empty() || mapped(0) || id.is_some_and(mapped) {
            continue;
        }
        match id {
            None | Some(0) => notes.problem(place, "maps no root, which the process is"),
            Some(id) => notes.problem(place, format_args!("maps neither root nor {id}, which is {of}")),
        }
    }
}

/// Reports the ids of the program's user that a new user namespace does not map. If it does not map root either,
/// [`check_first_user`] has reported the user and the group.
pub(crate) fn check_ids(plan: &Plan, uid: u32, gid: u32, groups: &[u32], notes: &mut Notes) {
    if !plan.creates(libc::CLONE_NEWUSER) {
        return;
    }
    let groups = groups.iter().enumerate().map(|(i, gid)| (format!("additionalGids[{i}]"), *gid));
    let gids = std::iter::once(("gid".to_string(), gid)).chain(groups);
    let check = |(member, id): (String, u32), map: &[IdMap], of: &str, notes: &mut Notes| {
        let first = !member.starts_with("additional");
        if map.is_empty() || idmap::to_host(map, id).is_some() || first && idmap::to_host(map, 0).is_none() {
            return;
        }
        let ranges: Vec<String> = map.iter().map(IdMap::inside).collect();
        let ranges = ranges.join(", ");
        notes.problem(
            format_args!("process.user.{member}"),
            format_args!("{id} is not mapped: {of} has {ranges}"),
        );
    };
    check(("uid".into(), uid), &plan.uid_map, "linux.uidMappings", notes);
    gids.for_each(|gid| check(gid, &plan.gid_map, "linux.gidMappings", notes));
}

fn list(linux: &Linux, plan: &mut Plan, notes: &mut Notes) {
    let mut seen = 0;
    for (i, namespace) in linux.namespaces().as_deref().unwrap_or_default().iter().enumerate() {
        let place = format!("linux.namespaces[{i}]");
        let Some(kind) = KINDS.iter().find(|kind| kind.typ == namespace.typ()) else {
            notes.problem(format_args!("{place}.type"), "is not known");
            continue;
        };
        if seen & kind.flag != 0 {
            notes.problem(format_args!("{place}.type"), format_args!("{:?} is listed twice", kind.name));
        }
        seen |= kind.flag;
        match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            None => plan.create |= kind.flag,
            Some(path) => {
                if !path.is_absolute() || path.as_os_str().as_bytes().contains(&0) {
                    notes.problem(
                        format_args!("{place}.path"),
                        format_args!("{path:?} is not an absolute path"),
                    );
                }
                plan.join.push(Join { flag: kind.flag, path: path.clone(), place });
            }
        }
    }
    let rank = |flag| KINDS.iter().position(|kind| kind.flag == flag);
    plan.join.sort_by_key(|join| rank(join.flag));
}

fn user(linux: &Linux, plan: &mut Plan, notes: &mut Notes) {
    plan.uid_map = idmap::plan(linux.uid_mappings().as_deref(), "linux.uidMappings", notes);
    plan.gid_map = idmap::plan(linux.gid_mappings().as_deref(), "linux.gidMappings", notes);
    for (place, map) in [("linux.uidMappings", &plan.uid_map), ("linux.gidMappings", &plan.gid_map)] {
        if map.is_empty() && plan.creates(libc::CLONE_NEWUSER) {
            notes.problem(place, "must not be empty: a new user namespace without mappings has no root");
        }
        // For a joined user namespace engines send its mappings as a description.
        if !map.is_empty() && !plan.has(libc::CLONE_NEWUSER) {
            notes.problem(place, "needs a user namespace");
        }
    }
}

fn offsets(linux: &Linux, plan: &mut Plan, notes: &mut Notes) {
    // Sorted, so that the plan does not depend on the order of a hash map.
    let offsets: BTreeMap<_, _> = linux.time_offsets().iter().flatten().collect();
    for (clock, offset) in offsets {
        let place = format!("linux.timeOffsets.{clock}");
        if clock != "monotonic" && clock != "boottime" {
            notes.problem(&place, "is not a clock that can be offset (hint: monotonic, boottime)");
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds > 999_999_999 {
            notes.problem(format_args!("{place}.nanosecs"), format_args!("{nanoseconds} is above 999999999"));
        }
        plan.offsets.push(Offset { clock: clock.clone(), seconds: offset.secs().unwrap_or(0), nanoseconds });
    }
    if !plan.offsets.is_empty() && !plan.creates(libc::CLONE_NEWTIME) {
        notes.problem("linux.timeOffsets", "needs a new time namespace");
    }
}

/// crun's annotation from the time before `linux.timeOffsets`, which replaces it.
pub(crate) const OFFSET: &str = "run.oci.timens_offset";

/// Plans the offset of the annotation: the name or the number of a clock, seconds and nanoseconds.
fn annotated_offset(text: &str, plan: &mut Plan, notes: &mut Notes) {
    let place = format!("annotations[{OFFSET:?}]");
    if !plan.offsets.is_empty() || !plan.creates(libc::CLONE_NEWTIME) {
        notes.warn(format!("{place}: needs a new time namespace without linux.timeOffsets, ignoring"));
        return;
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let offset = match words.as_slice() {
        [clock, seconds, nanoseconds] => {
            let clock = match *clock {
                "monotonic" | "1" => Some("monotonic"),
                "boottime" | "7" => Some("boottime"),
                _ => None,
            };
            clock.zip(seconds.parse().ok()).zip(nanoseconds.parse().ok().filter(|n| *n <= 999_999_999))
        }
        _ => None,
    };
    match offset {
        Some(((clock, seconds), nanoseconds)) => {
            plan.offsets.push(Offset { clock: clock.into(), seconds, nanoseconds });
        }
        None => notes.problem(place, format_args!("{text:?} is not a clock, seconds and nanoseconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> (Plan, String) {
        let spec: Spec = serde_json::from_str(json).unwrap();
        let mut notes = Notes::default();
        let plan = plan(&spec, &mut notes);
        (plan, notes.problems.to_string())
    }

    #[test]
    fn the_network_namespace_comes_first_unless_something_hinders_it() {
        for (first, namespaces, extra) in [
            (true, r#"{"type": "network"}, {"type": "pid"}"#, ""),
            (true, r#"{"type": "network"}, {"type": "time", "path": "/t"}"#, ""),
            (false, r#"{"type": "pid"}"#, ""),
            (false, r#"{"type": "network", "path": "/n"}"#, ""),
            (false, r#"{"type": "network"}, {"type": "user"}"#, ""),
            (false, r#"{"type": "network"}, {"type": "pid", "path": "/p"}"#, ""),
            (
                false,
                r#"{"type": "network"}, {"type": "time"}"#,
                r#", "timeOffsets": {"monotonic": {"secs": 5}}"#,
            ),
        ] {
            let (plan, _) = check(&format!(
                r#"{{"ociVersion": "1.2.0", "linux": {{"namespaces": [{namespaces}]{extra}}}}}"#
            ));
            assert_eq!(plan.network_first(), first, "{namespaces}");
        }
    }

    #[test]
    fn crun_s_annotation_offsets_a_clock() {
        let time = r#"{"type": "time"}"#;
        let offset = |clock: &str| vec![Offset { clock: clock.into(), seconds: -5, nanoseconds: 7 }];
        for (namespace, extra, text, expected, problem) in [
            (time, "", "boottime -5 7", offset("boottime"), ""),
            (time, "", "1 -5 7", offset("monotonic"), ""),
            (time, "", "7 -5 7", offset("boottime"), ""),
            // linux.timeOffsets replaces it, and without a time namespace it has no effect.
            (
                time,
                r#", "timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 7}}"#,
                "boottime 1 0",
                offset("monotonic"),
                "",
            ),
            (r#"{"type": "uts"}"#, "", "boottime 1 0", vec![], ""),
            (time, "", "realtime 1 0", vec![], r#""realtime 1 0" is not a clock, seconds and nanoseconds"#),
            (time, "", "boottime 1", vec![], r#""boottime 1" is not a clock, seconds and nanoseconds"#),
            (
                time,
                "",
                "boottime 1 1000000000",
                vec![],
                r#""boottime 1 1000000000" is not a clock, seconds and nanoseconds"#,
            ),
        ] {
            let (plan, problems) = check(&format!(
                r#"{{"ociVersion": "1.0.2", "annotations": {{"run.oci.timens_offset": "{text}"}},
                    "linux": {{"namespaces": [{namespace}]{extra}}}}}"#
            ));
            let place = if problem.is_empty() { "" } else { "annotations[\"run.oci.timens_offset\"]: " };
            assert_eq!((plan.offsets, problems), (expected, format!("{place}{problem}")), "{text}");
        }
    }

    #[test]
    fn an_intermediate_process_is_used_only_where_the_kernel_forces_it() {
        let map = r#""uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
                     "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]"#;
        for (namespaces, extra, expected) in [
            (r#"{"type": "pid"}, {"type": "mount"}"#, String::new(), Stages::Direct),
            (
                r#"{"type": "pid", "path": "/p"}, {"type": "network", "path": "/n"}"#,
                String::new(),
                Stages::Direct,
            ),
            (
                r#"{"type": "time"}"#,
                r#", "timeOffsets": {"boottime": {"secs": 1}}"#.to_string(),
                Stages::Direct,
            ),
            (r#"{"type": "user"}, {"type": "pid"}"#, format!(", {map}"), Stages::Direct),
            (
                r#"{"type": "user"}, {"type": "network", "path": "/n"}"#,
                format!(", {map}"),
                Stages::Intermediate,
            ),
            (
                r#"{"type": "user"}, {"type": "time"}"#,
                format!(r#", {map}, "timeOffsets": {{"boottime": {{"secs": 1}}}}"#),
                Stages::Intermediate,
            ),
            (r#"{"type": "user", "path": "/u"}, {"type": "pid"}"#, String::new(), Stages::Intermediate),
        ] {
            let (plan, problems) = check(&format!(
                r#"{{"ociVersion": "1.0.2", "linux": {{"namespaces": [{namespaces}]{extra}}}}}"#
            ));
            assert_eq!((plan.stages(), problems.as_str()), (expected, ""), "{namespaces}");
        }
    }

    #[test]
    fn the_first_user_of_a_new_user_namespace_is_mapped() {
        let rows = |container: u32| vec![IdMap { container, host: 5000, size: 10 }];
        for (uids, gids, user, expected) in [
            (0, 0, Some((70, 80)), ""),
            (1000, 1000, Some((1000, 1009)), ""),
            (1000, 0, Some((1000, 0)), ""),
            (1000, 0, Some((0, 0)), "linux.uidMappings: maps no root, which the process is"),
            (0, 1000, None, "linux.gidMappings: maps no root, which the process is"),
            (
                1000,
                1000,
                Some((1010, 999)),
                "linux.uidMappings: maps neither root nor 1010, which is process.user.uid; \
                 linux.gidMappings: maps neither root nor 999, which is process.user.gid",
            ),
        ] {
            let create = libc::CLONE_NEWUSER;
            let plan = Plan { create, uid_map: rows(uids), gid_map: rows(gids), ..Plan::default() };
            let mut notes = Notes::default();
            check_first_user(&plan, user, &mut notes);
            assert_eq!(notes.problems.to_string(), expected);
        }
    }

    #[test]
    fn namespaces_are_joined_in_the_kernels_order() {
        let (plan, problems) = check(
            r#"{"ociVersion": "1.0.2", "hostname": "h", "linux": {"namespaces": [{"type": "mount", "path": "/m"},
                {"type": "uts", "path": "/u"}, {"type": "ipc", "path": ""}, {"type": "user", "path": "/w"}]}}"#,
        );
        assert_eq!(problems, "");
        assert_eq!(plan.create, libc::CLONE_NEWIPC);
        let order: Vec<&str> = plan.join.iter().map(|join| join.place.as_str()).collect();
        assert_eq!(order, ["linux.namespaces[3]", "linux.namespaces[1]", "linux.namespaces[0]"]);
        assert_eq!(plan.names(), ["user", "ipc", "uts", "mount"]);
    }

    #[test]
    fn problems_are_reported_with_their_place() {
        for (json, expected) in [
            (
                r#"{"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": "pid"}, {"type": "pid", "path": "x"}]}}"#,
                "linux.namespaces[1].type: \"pid\" is listed twice; \
                 linux.namespaces[1].path: \"x\" is not an absolute path",
            ),
            (
                r#"{"ociVersion": "1.0.2", "hostname": "h", "linux": {}}"#,
                "hostname: needs a uts namespace, or the host's name would change",
            ),
            (
                r#"{"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": "user"}],
                    "timeOffsets": {"realtime": {"nanosecs": 1000000000}}}}"#,
                "linux.uidMappings: must not be empty: a new user namespace without mappings has no root; \
                 linux.gidMappings: must not be empty: a new user namespace without mappings has no root; \
                 linux.timeOffsets.realtime: is not a clock that can be offset (hint: monotonic, boottime); \
                 linux.timeOffsets.realtime.nanosecs: 1000000000 is above 999999999; \
                 linux.timeOffsets: needs a new time namespace",
            ),
        ] {
            assert_eq!(check(json).1, expected);
        }
    }
}
