//! The JSON documents that engines and users write, and our own record.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use corten::testing::cgroups::{self, Manager, Plan, Write};
use corten::testing::config::{self, Config, Version};
use corten::testing::error::{Notes, Result};
use corten::testing::fuzzing::{self, BusValue};
use corten::testing::host::{self, Host};
use corten::testing::plan;
use corten::testing::process::{self, capabilities::Held, lsm};
use corten::testing::state::{self, Record, Status};
use oci_spec::runtime::{LinuxResources, Spec};
use serde_json::{Value, json};

const ALL: u64 = (1 << 41) - 1;
const OWN: &str = include_str!("../../tests/golden/full/config.json");

/// A host with cgroup v1, and v2 beside it.
const V1: &str = "30 1 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
31 1 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
32 1 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 1 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
34 1 0:34 / /sys/fs/cgroup/net rw - cgroup cgroup rw,net_cls,net_prio
35 1 0:35 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio
36 1 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
40 1 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
const OWN_CGROUPS: &str = "8:cpu,cpuacct:/u\n7:cpuset:/u\n6:memory:/u\n5:devices:/u\n4:net_cls,net_prio:/u\n3:blkio:/u\n\
    2:pids:/u\n0::/u\n";

struct Setting {
    host: Host,
    cgroups: cgroups::Host,
    manager: Manager,
}

/// Returns hosts of each kind. Nothing in them depends on the machine.
fn settings() -> &'static [Setting] {
    static SETTINGS: OnceLock<Vec<Setting>> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let v2 = || cgroups::Host {
            v2_mount: Some("/sys/fs/cgroup".into()),
            own: Some("user.slice/session.scope".into()),
            resctrl: Some("/sys/fs/resctrl".into()),
            ..cgroups::Host::default()
        };
        let v1 = cgroups::Host {
            v2_controllers: ["hugetlb", "rdma"].map(Into::into).into(),
            ..cgroups::Host::parse(V1.as_bytes(), OWN_CGROUPS.as_bytes())
        };
        let setting = |manager, uid, cgroups, labels| Setting {
            host: Host {
                proc: host::procfs().unwrap_or_else(|e| panic!("{e}")),
                rootless: uid != 0,
                uid,
                user_namespace: false,
                process: process::Host {
                    capabilities: Held { bounding: ALL, permitted: ALL },
                    lsm: lsm::Host { apparmor: labels, selinux: labels, strict: uid != 0 },
                },
            },
            cgroups,
            manager,
        };
        vec![
            setting(Manager::Cgroupfs, 0, v2(), true),
            setting(Manager::Systemd, 1000, v2(), false),
            setting(Manager::Cgroupfs, 0, v1, false),
            setting(Manager::Disabled, 0, cgroups::Host::default(), false),
        ]
    })
}

/// Returns the plan or its notes, and the warnings, as text.
fn planned(config: &Config, setting: &Setting) -> String {
    let request = plan::Request {
        id: "c1",
        bundle: Path::new("/bundle"),
        manager: setting.manager,
        no_pivot: false,
        no_new_keyring: false,
        tree_namespaces: true,
        cgroups: &setting.cgroups,
        notify_socket: None,
    };
    let plan = plan::create(&config.spec, &request, &setting.host);
    let warnings = plan.as_ref().map_or(&[][..], |(_, warnings)| warnings);
    for warning in config.warnings.iter().chain(warnings) {
        assert!(warning.ends_with("ignoring"), "a warning of something else: {warning}");
    }
    match plan {
        Ok((plan, warnings)) => {
            let scope = plan.cgroup.as_ref().and_then(Plan::scope);
            for (name, value) in scope.iter().flat_map(|scope| &scope.properties) {
                let told = vec![BusValue::str(name), value.clone().variant()];
                let read = fuzzing::read_message(&fuzzing::write_message(&told));
                assert_eq!(read.map_err(|e| format!("{e:#}")), Ok(Some(told)), "told to systemd");
            }
            format!("{}{warnings:?}", plan.print())
        }
        Err(e) => format!("{e:#}"),
    }
}

/// Reads config.json: the plan is always the same, and the text gives the same plan as its repaired value.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = || config::parse(text.into()).map_err(|e| format!("{e:#}"));
    let first = read();
    assert_eq!(first, read(), "read in two ways");
    let Ok(first) = first else { return };
    let again = read();
    for setting in settings() {
        let plans = [&first, again.as_ref().unwrap_or(&first)].map(|config| planned(config, setting));
        assert_eq!(plans[0], plans[1], "planned in two ways");
    }
    if let Ok(Value::Object(mut top)) = serde_json::from_str(text) {
        // Members outside of Linux can have any value of the right type, so the order of the readings is
        // changed.
        top.insert("windows".into(), json!(5));
        let repaired = config::parse(Value::Object(top).to_string()).unwrap_or_else(|e| panic!("{e:#}"));
        let linux_only = |mut spec: Spec| {
            spec.set_windows(None).set_solaris(None).set_vm(None).set_zos(None);
            spec
        };
        assert_eq!(linux_only(first.spec), linux_only(repaired.spec), "repaired into another one");
        assert_eq!((first.version, first.warnings), (repaired.version, repaired.warnings));
    }
}

/// Reads the process object of exec, which inherits missing members from the container.
pub fn process(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let own = config::parse(OWN.into()).unwrap_or_else(|e| panic!("{e:#}")).spec;
    let Some(own) = own.process() else { return };
    for version in [Version::NEWEST, Version { major: 1, minor: 0, patch: 2 }] {
        let read = || config::parse_process(text, version).map_err(|e| format!("{e:#}"));
        let first = read();
        assert_eq!(first, read(), "read in two ways");
        let Ok((mut process, _)) = first else { continue };
        let given = process.clone();
        fuzzing::inherit(&mut process, own);
        let planned = |process| {
            let mut notes = Notes::default();
            let host = settings()[0].host.process;
            let plan = process::plan(process, None, None, host, "process", &mut notes);
            assert_eq!(plan.is_none(), !notes.problems.0.is_empty(), "{}", notes.problems);
            (plan, notes)
        };
        let plan = planned(&process);
        assert_eq!(plan, planned(&process), "planned in two ways");
        let (Some(plan), Some(own)) = (plan.0, planned(own).0) else { continue };
        if given.capabilities().is_none() {
            assert_eq!(plan.capabilities, own.capabilities);
        }
        if given.no_new_privileges().is_none() {
            assert_eq!(plan.no_new_privs, own.no_new_privs);
        }
        if given.rlimits().is_none() {
            assert_eq!(plan.rlimits, own.rlimits);
        }
    }
}

/// Reads state.json: a record that is written can be read again, and its view for others is JSON.
pub fn state(data: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(data) else { return };
    let written = serde_json::to_vec(&record).unwrap_or_else(|e| panic!("{e}"));
    let again: Record = serde_json::from_slice(&written).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(record, again);
    for status in [Status::Creating, Status::Created, Status::Running, Status::Paused, Status::Stopped] {
        let shown =
            serde_json::to_string(&state::document(&record, status)).unwrap_or_else(|e| panic!("{e}"));
        for text in [shown, state::spec_state(&record, status, record.pid)] {
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert_eq!(value["id"], record.id.as_str());
            assert_eq!(value["status"], status.to_string());
        }
    }
}

/// Returns the writes for resources on a host, or `None` if the resources have problems.
fn writes(resources: &LinuxResources, setting: &Setting) -> Option<Vec<Write>> {
    let mut notes = Notes::default();
    let request = cgroups::Request {
        id: "c1",
        path: None,
        resources: Some(resources),
        annotations: None,
        manager: setting.manager,
        rootless: setting.host.rootless,
        uid: setting.host.uid,
    };
    let plan = cgroups::plan(&request, &setting.cgroups, &mut notes).ok()??;
    let unified = plan.unified.into_iter().flat_map(|plan| plan.writes);
    let writes = plan.v1.into_iter().flat_map(|part| part.writes).chain(unified).collect();
    notes.problems.0.is_empty().then_some(writes)
}

/// Returns the contents of the files after the writes: by file, device and number.
fn said(writes: &[Write]) -> BTreeMap<(String, String), String> {
    let mut said = BTreeMap::new();
    for write in writes {
        let text = write.value.to_string();
        let mut words = text.split_whitespace().peekable();
        // A list of processors is one word, whatever it looks like.
        let several = !write.file.starts_with("cpuset.") && text.split_whitespace().count() > 1;
        let named = write.file == "net_prio.ifpriomap" || text.contains('=');
        let device = words.next_if(|word| several && (word.contains(':') || (named && !word.contains('='))));
        let device = device.unwrap_or_default();
        let mut rest = Vec::new();
        for word in words {
            match word.split_once('=').filter(|_| !device.is_empty()) {
                Some((name, value)) => {
                    said.insert((write.file.clone(), format!("{device} {name}")), value.to_string());
                }
                None => rest.push(word),
            }
        }
        if !rest.is_empty() {
            said.insert((write.file.clone(), device.into()), rest.join(" "));
        }
    }
    said
}

fn parsed(resources: &Value) -> Result<LinuxResources> {
    config::parse_resources(&resources.to_string()).map(|(_, typed)| typed)
}

/// Returns the kept configuration, as far as it can be read and planned.
fn kept(resources: Value) -> Option<Value> {
    let text =
        json!({"ociVersion": "1.3.0", "root": {"path": "r"}, "linux": {"resources": resources}}).to_string();
    let config = config::parse(text).ok()?;
    let resources =
        config.spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    let planned = settings()[..3].iter().any(|setting| writes(&resources, setting).is_some());
    planned.then(|| serde_json::from_str(&config.text).unwrap_or_default())
}

/// Reads the document of `update`, as `resources`, for a container that was created with `linux.resources`.
pub fn update(data: &[u8]) {
    let Ok(document) = serde_json::from_slice::<Value>(data) else { return };
    let asked = document.pointer("/linux/resources").cloned().unwrap_or_else(|| json!({}));
    let Some(before) = kept(asked) else { return };
    let Ok((wanted, _)) = config::parse_resources(&document["resources"].to_string()) else { return };
    let asked = fuzzing::asked(&before);
    // The kernel refuses a device's number without a name, or a name without its device. Then nothing is
    // kept.
    let named = |resources: &Value| {
        let texts = ["/unified/io.max", "/unified/io.latency"].map(|key| resources.pointer(key));
        let mut lines = texts.into_iter().flatten().filter_map(Value::as_str).flat_map(str::lines);
        lines.all(|line| {
            let mut words = line.split_whitespace();
            words.next().is_none_or(|word| word.contains(':')) && words.all(|word| word.contains('='))
        })
    };
    if !named(&asked) || !named(&wanted) {
        return;
    }
    let was = parsed(&asked).unwrap_or_else(|e| panic!("what was created with is not read: {e:#}"));
    let effective = fuzzing::complete(wanted.clone(), &asked);
    let sets = parsed(&effective).unwrap_or_else(|e| panic!("what is set is not read: {e:#}"));
    for setting in &settings()[..3] {
        let (Some(was), Some(sets)) = (writes(&was, setting), writes(&sets, setting)) else { continue };
        let merged = fuzzing::kept(asked.clone(), effective.clone(), &sets);
        let will_be = parsed(&merged).unwrap_or_else(|e| panic!("what is kept is not read: {e:#}"));
        let Some(will_be) = writes(&will_be, setting) else {
            panic!("what is kept could not be created: {merged}");
        };
        let (was, sets, will_be) = (said(&was), said(&sets), said(&will_be));
        for (part, value) in &sets {
            assert_eq!(will_be.get(part), Some(value), "{part:?} is kept otherwise than set: {merged}");
        }
        // If memory is unlimited, swap is too, as it is without any value.
        let default = [("memory.swap.max", "max"), ("memory.memsw.limit_in_bytes", "-1")];
        for (part, value) in was.iter().filter(|(part, _)| !sets.contains_key(*part)) {
            if default.contains(&(&*part.0, &**value)) && !will_be.contains_key(part) {
                continue;
            }
            assert_eq!(will_be.get(part), Some(value), "{part:?} is kept otherwise than it was: {merged}");
        }
    }
}
