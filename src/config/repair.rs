//! Repairs what the types of oci-spec refuse or lose although the runtime-spec allows it. The repair changes
//! the JSON value before it is converted. Each function works around one defect of these types, and can be
//! removed when the types are corrected.

use oci_spec::runtime::{Capability, LinuxSeccomp, Spec};
use serde_json::{Map, Value, json};

use super::version::Version;
use crate::error::Notes;
use crate::suggest;

/// The outcome of a repair.
#[derive(Default)]
pub(super) struct Found {
    pub(super) changed: bool,
    pub(super) notes: Notes,
}

/// Reports whether a configuration may have lost a member when it was converted.
pub(super) fn doubtful(spec: &Spec, text: &str) -> bool {
    let Some(linux) = spec.linux() else { return false };
    // An absent limit reads as 0, which is a limit.
    let pids = linux.resources().as_ref().and_then(|r| r.pids().as_ref());
    let no_pids = pids.is_some_and(|pids| pids.limit() == 0);
    // The types know these members only under names that the specification does not have.
    let monitoring =
        linux.intel_rdt().is_some() && ["enableCMT", "enableMBM"].iter().any(|n| text.contains(n));
    no_pids || monitoring
}

/// Removes the optional members that are empty strings. In Go, in which the specification's types are written,
/// an empty string means absent, and clients in other languages write it.
pub(super) fn remove_empty(spec: &mut Spec) {
    spec.hostname_mut().take_if(|name| name.is_empty());
    spec.domainname_mut().take_if(|name| name.is_empty());
    let Some(linux) = spec.linux_mut() else { return };
    linux.cgroups_path_mut().take_if(|path| path.as_os_str().is_empty());
    linux.seccomp_mut().iter_mut().for_each(remove_empty_of_seccomp);
}

/// Removes the optional members of a seccomp profile that are empty strings.
pub(super) fn remove_empty_of_seccomp(profile: &mut LinuxSeccomp) {
    if profile.listener_path().as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        profile.set_listener_path(None);
    }
    if profile.listener_metadata().as_ref().is_some_and(String::is_empty) {
        profile.set_listener_metadata(None);
    }
}

/// Repairs a configuration by the rules of the version that it declares.
pub(super) fn configuration(value: &mut Value, found: &mut Found) {
    // The version decides whether an unknown capability is an error. A wrong version is reported by the caller.
    let declared = value.get("ociVersion").and_then(Value::as_str).unwrap_or_default();
    let version = Version::parse(declared).unwrap_or(Version::NEWEST);
    spec(value, version, found);
}

fn spec(value: &mut Value, version: Version, found: &mut Found) {
    drop_nulls(value, found);
    let Some(top) = value.as_object_mut() else { return };
    // The sections of other platforms may contain anything.
    for foreign in ["solaris", "windows", "vm", "zos"] {
        found.changed |= top.remove(foreign).is_some();
    }
    if let Some(process) = top.get_mut("process") {
        repair_process(process, "process.", version, found);
    }
    let Some(linux) = top.get_mut("linux").and_then(Value::as_object_mut) else { return };
    if let Some(resources) = linux.get_mut("resources").and_then(Value::as_object_mut) {
        repair_resources(resources, found);
    }
    if let Some(rdt) = linux.get_mut("intelRdt").and_then(Value::as_object_mut) {
        rename(rdt, "enableCMT", "enableCmt", found);
        rename(rdt, "enableMBM", "enableMbm", found);
    }
}

/// Repairs a process document. The names of its places begin with `prefix`.
pub(super) fn process(value: &mut Value, prefix: &str, version: Version, found: &mut Found) {
    drop_nulls(value, found);
    repair_process(value, prefix, version, found);
}

/// Repairs a `linux.resources` document.
pub(super) fn resources(value: &mut Value) {
    let mut found = Found::default();
    drop_nulls(value, &mut found);
    if let Some(resources) = value.as_object_mut() {
        repair_resources(resources, &mut found);
    }
}

fn repair_resources(resources: &mut Map<String, Value>, found: &mut Found) {
    absent_pids_limit(resources, found);
    huge_limits(resources, found);
    empty_device_types(resources, found);
}

fn repair_process(value: &mut Value, prefix: &str, version: Version, found: &mut Found) {
    let Some(process) = value.as_object_mut() else { return };
    // An absent user means uid and gid 0 in every other runtime.
    if !process.contains_key("user") {
        process.insert("user".into(), json!({}));
        found.changed = true;
    }
    unknown_capabilities(process, prefix, version, found);
    scheduler_flags(process, found);
    idle_priority(process, found);
    cpu_lists(process, found);
}

/// Removes members that are null. In Go, in which the specification's types are written, null means absent.
fn drop_nulls(value: &mut Value, found: &mut Found) {
    match value {
        Value::Object(members) => {
            let before = members.len();
            members.retain(|_, member| !member.is_null());
            found.changed |= members.len() != before;
            members.values_mut().for_each(|member| drop_nulls(member, found));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| drop_nulls(item, found)),
        _ => {}
    }
}

/// Removes unknown capabilities: with a warning since version 1.1.0 (config.md#linux-process), with an error
/// before.
fn unknown_capabilities(process: &mut Map<String, Value>, prefix: &str, version: Version, found: &mut Found) {
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else { return };
    for set in ["bounding", "effective", "inheritable", "permitted", "ambient"] {
        let Some(names) = sets.get_mut(set).and_then(Value::as_array_mut) else { continue };
        let mut index = 0;
        names.retain(|name| {
            let place = format!("{prefix}capabilities.{set}[{index}]");
            index += 1;
            // A value that is not a string stays. Its type is refused later.
            let known = !name.is_string() || serde_json::from_value::<Capability>(name.clone()).is_ok();
            if !known && version.tolerates_capabilities() {
                found.notes.warn(format!("{place}: unknown capability {name}{}, ignoring", meant(name)));
            } else if !known {
                found.notes.problem(place, format!("unknown capability {name}{}", meant(name)));
            }
            found.changed |= !known;
            known
        });
    }
}

/// Returns the capability that a misspelt one probably means, as a hint.
fn meant(name: &Value) -> String {
    let name = name.as_str().unwrap_or_default();
    let long = if name.starts_with("CAP_") { name.to_string() } else { format!("CAP_{name}") };
    let known: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
    let meant = suggest::nearest(&long, known.iter().map(String::as_str)).filter(|meant| {
        // Short names are near to each other: CAP_NEW is not CAP_BPF.
        meant.len().abs_diff(long.len()) <= 1 && long.len() > 9
    });
    meant.map(|meant| format!(" (hint: did you mean {meant}?)")).unwrap_or_default()
}

fn scheduler_flags(process: &mut Map<String, Value>, found: &mut Found) {
    let flags = process.get_mut("scheduler").and_then(|s| s.get_mut("flags")).and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        let theirs = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
            Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
            _ => continue,
        };
        *flag = theirs.into();
        found.changed = true;
    }
}

/// Adds the level of the class that has no levels (ioprio_set(2)).
fn idle_priority(process: &mut Map<String, Value>, found: &mut Found) {
    let Some(priority) = process.get_mut("ioPriority").and_then(Value::as_object_mut) else { return };
    if priority.get("class") == Some(&json!("IOPRIO_CLASS_IDLE")) && !priority.contains_key("priority") {
        priority.insert("priority".into(), json!(0));
        found.changed = true;
    }
}

/// Removes blanks from CPU lists, and empty lists, which the types do not accept.
fn cpu_lists(process: &mut Map<String, Value>, found: &mut Found) {
    let Some(affinity) = process.get_mut("execCPUAffinity").and_then(Value::as_object_mut) else { return };
    for name in ["initial", "final"] {
        let Some(list) = affinity.get(name).and_then(Value::as_str) else { continue };
        // A blank between two digits stays and is refused later.
        let trim =
            |part: &str, by: char| part.split(by).map(str::trim).collect::<Vec<_>>().join(&by.to_string());
        let compact = trim(&trim(list, '-'), ',');
        if compact.is_empty() {
            affinity.remove(name);
        } else if compact.len() == list.len() {
            continue;
        } else {
            affinity.insert(name.into(), compact.into());
        }
        found.changed = true;
    }
}

fn absent_pids_limit(resources: &mut Map<String, Value>, found: &mut Found) {
    if resources.get("pids").is_some_and(|pids| pids.is_object() && pids.get("limit").is_none()) {
        resources.remove("pids");
        found.changed = true;
    }
}

/// Lowers limits that do not fit into the signed type. The greatest signed number is above all possible
/// memory too.
fn huge_limits(resources: &mut Map<String, Value>, found: &mut Found) {
    let limits = resources.get_mut("hugepageLimits").and_then(Value::as_array_mut);
    for limit in limits.into_iter().flatten().filter_map(|l| l.get_mut("limit")) {
        if limit.as_u64().is_some_and(|bytes| i64::try_from(bytes).is_err()) {
            *limit = i64::MAX.into();
            found.changed = true;
        }
    }
}

/// Removes the types of device rules that are empty strings, as [`remove_empty`] does.
fn empty_device_types(resources: &mut Map<String, Value>, found: &mut Found) {
    let rules = resources.get_mut("devices").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten().filter_map(Value::as_object_mut) {
        if rule.get("type") == Some(&json!("")) {
            rule.remove("type");
            found.changed = true;
        }
    }
}

fn rename(members: &mut Map<String, Value>, from: &str, to: &str, found: &mut Found) {
    if let Some(member) = members.remove(from) {
        members.insert(to.into(), member);
        found.changed = true;
    }
}
