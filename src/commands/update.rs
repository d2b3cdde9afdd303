//! `update`: changes the limits of a container that has not stopped. Only what differs is written, and either
//! all of it or nothing. The kept config.json then contains the new limits.

use std::fmt::Write as _;

use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use crate::cgroups::resources::LIMITS;
use crate::cgroups::{self, Cgroup, Missing, Write, devices, systemd};
use crate::cli::{Globals, Update};
use crate::config;
use crate::error::{Context, Kind, Notes, Result, fail};
use crate::state::{Record, Status};
use crate::{intel_rdt, log};

pub(super) fn run(globals: &Globals, args: &Update) -> Result<()> {
    let (wanted, _) = config::parse_resources(&document(args)?)?;
    config::misspelt(&config::in_resources(&wanted)).into_iter().for_each(log::warn);
    let (dir, record) = super::open_locked(globals, &args.id)?;
    let status = super::status(&dir, &record)?;
    if !matches!(status, Status::Created | Status::Running | Status::Paused) {
        return Err(fail(
            Kind::WrongStatus,
            format!("container not running: cannot update a container that is {status}"),
        ));
    }
    if loses_weight(&wanted) {
        // runc's words, for which programs look.
        log::warn("cpu: unable to apply both cpu.weight and cpu.idle, ignoring cpu.weight");
    }
    let text = dir.load_config()?;
    let mut kept: Value = serde_json::from_str(&text).context("the kept config.json")?;
    let shares = || intel_rdt::Update::prepare(record.intel_rdt.as_ref(), &args.schemas);
    let shares = if args.schemas.is_empty() { None } else { Some(shares()?) };
    let asked = asked(&kept);
    let only_shares = shares.is_some() && wanted == json!({});
    let effective = complete(wanted, &asked);
    let limits = || -> Result<Limits> {
        let before = config::typed_resources(asked.clone())?;
        limits(&record, &config::typed_resources(effective.clone())?, &before, args.dry_run)
    };
    let mut limits = if only_shares { None } else { Some(limits()?) };
    if args.dry_run {
        return super::print(&shown(shares.as_ref(), limits.as_ref())?);
    }
    let undo_shares = || shares.iter().for_each(intel_rdt::Update::undo);
    shares.iter().try_for_each(intel_rdt::Update::apply)?;
    if let Some(Limits { cgroup, update, .. }) = &mut limits {
        cgroups::update::apply(cgroup, update).inspect_err(|_| undo_shares())?;
    }
    if let Some(top) = kept.as_object_mut() {
        let linux = top.entry("linux").or_insert_with(|| json!({}));
        if let Some(limits) = &limits {
            linux["resources"] = kept_resources(asked, effective, &limits.written);
        }
        linux.get_mut("intelRdt").into_iter().for_each(|rdt| intel_rdt::kept(rdt, &args.schemas));
    }
    let saved = serde_json::to_string(&kept).context("JSON").and_then(|text| dir.replace_config(&text));
    if saved.is_err() {
        undo_shares();
        if let Some(Limits { cgroup, update, .. }) = &mut limits {
            cgroups::update::undo(cgroup, update);
        }
    } else {
        log::info(|| format!("container {}: limits changed", record.id));
    }
    saved
}

/// Returns the resources of a configuration, in which null is the same as absent.
pub(crate) fn asked(kept: &Value) -> Value {
    kept.pointer("/linux/resources").filter(|given| !given.is_null()).cloned().unwrap_or_else(|| json!({}))
}

/// A change of limits.
struct Limits {
    cgroup: Cgroup,
    update: cgroups::update::Update,
    /// All that the files then contain: the requested writes, also those to files that are used instead of
    /// others.
    written: Vec<Write>,
}

/// Finds out what to change for the `wanted` resources in the container's cgroup, which has those of
/// `before`.
fn limits(
    record: &Record,
    wanted: &LinuxResources,
    before: &LinuxResources,
    dry_run: bool,
) -> Result<Limits> {
    let without = || fail(Kind::Unsupported, "the container has no cgroup to limit");
    let cgroup = super::cgroup(record)?.ok_or_else(without)?;
    let mut notes = Notes::default();
    let mut writes = cgroup.writes_for(wanted, &mut notes);
    let devices = wanted.devices().as_deref().map(|rules| devices::plan(rules, &mut notes));
    // The user's document begins at the resources.
    let places =
        writes.iter_mut().map(|w| &mut w.place).chain(notes.problems.0.iter_mut().map(|p| &mut p.place));
    for place in places {
        *place = place.trim_start_matches("linux.resources.").to_string();
    }
    let warn = |warning: String| log::warn(warning.trim_start_matches("linux.resources.").to_string());
    notes.into_result()?.into_iter().for_each(warn);
    // Problems of the former resources were reported when they were requested.
    let former = || cgroup.writes_for(before, &mut Notes::default());
    let unit = record.cgroup.as_ref().and_then(|cgroup| cgroup.unit.as_ref()).map(|unit| (unit, former()));
    let rules = before.devices().as_deref().unwrap_or(&[]);
    let before = devices::plan(rules, &mut Notes::default());
    // Engines repeat the rules of config.json. A hook or an administrator may have added devices since, and an update by runc
    // never touches the rules.
    let devices = devices.filter(|after| *after != before);
    let devices = devices.map(|after| cgroups::update::Rules { before, after });
    let missing = if dry_run { Missing::Reported } else { Missing::Enabled };
    let update = cgroups::update::prepare(&cgroup, unit, writes.clone(), devices, missing)?;
    let changes = update.changes.iter().map(|change| change.write.clone());
    let written = writes.into_iter().chain(changes).collect();
    Ok(Limits { cgroup, update, written })
}

/// Returns whether the document asks for a weight and for an idle cgroup, which has none.
fn loses_weight(wanted: &Value) -> bool {
    let number = |pointer: &str| {
        let value = wanted.pointer(pointer)?;
        value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
    };
    let idle = [number("/cpu/idle"), number("/unified/cpu.idle")].contains(&Some(1));
    idle && [number("/cpu/shares"), number("/unified/cpu.weight")].iter().flatten().any(|weight| *weight != 0)
}

/// Returns the user's document. As in runc and crun, a file replaces the options for single limits.
fn document(args: &Update) -> Result<String> {
    let Some(path) = &args.resources else { return Ok(args.document.to_string()) };
    if args.document.as_object().is_some_and(|limits| !limits.is_empty()) {
        log::warn("--resources is given: the options for single limits, ignoring".to_string());
    }
    config::read_given(path).context("--resources")
}

/// Members that have a meaning only together: the section, the members of which one is given, and those that
/// are then completed with their former values.
const TOGETHER: [(&str, &[&str], &[&str]); 3] = [
    ("memory", &["limit", "swap"], &["limit", "swap", "checkBeforeUpdate"]),
    ("cpu", &["quota", "period", "burst"], &["quota", "period", "burst"]),
    // The kernel forgets the weight of an idle cgroup.
    ("cpu", &["idle"], &["shares"]),
];

/// Returns the document, completed with members of the present configuration `asked`.
pub(crate) fn complete(mut wanted: Value, asked: &Value) -> Value {
    for limit in LIMITS {
        let Some((section, member)) = limit.member.split_once('.') else { continue };
        if limit.bounds.unset(&wanted[section][member])
            && let Some(section) = wanted[section].as_object_mut()
        {
            section.remove(member);
        }
    }
    if let Some(memory) = wanted.get_mut("memory").and_then(Value::as_object_mut)
        && memory.get("limit") == Some(&json!(-1))
    {
        // As in runc: without a limit of memory, a limit of the sum with swap has no meaning.
        memory.entry("swap").or_insert(json!(-1));
    }
    for (section, given, filled) in TOGETHER {
        let Some(members) = wanted.get_mut(section).and_then(Value::as_object_mut) else { continue };
        // The weight of an idle cgroup cannot be set.
        let idle = given == ["idle"] && members.get("idle") != Some(&json!(0));
        if idle || !given.iter().any(|name| members.contains_key(*name)) {
            continue;
        }
        for name in filled {
            if let Some(kept) = asked[section].get(name) {
                members.entry(*name).or_insert_with(|| kept.clone());
            }
        }
    }
    wanted
}

/// Returns the resources to keep: `asked`, changed by `effective`. The writes for `effective` are `written`.
/// Keys of `unified` override all other members when the configuration is read again. Therefore those of
/// `asked` are updated too.
pub(crate) fn kept_resources(asked: Value, effective: Value, written: &[Write]) -> Value {
    let (former, latter) = (asked["unified"].clone(), effective["unified"].clone());
    let mut kept = merged(asked, effective);
    let keys = kept.get_mut("unified").and_then(Value::as_object_mut).into_iter().flatten();
    for (file, value) in keys.filter(|(_, value)| value.is_string()) {
        let lines = |value: &Value| -> Vec<cgroups::Value> {
            value.as_str().into_iter().flat_map(str::lines).map(Into::into).collect()
        };
        let (mut old, new) = (lines(&former[file]), lines(&latter[file]));
        for write in written.iter().filter(|write| write.file == *file) {
            old = old.into_iter().map(|line| line.then(file, &write.value)).collect();
        }
        old.retain(|line| !new.iter().any(|other| other.replaces(file, line)));
        let lines: Vec<String> = old.iter().chain(&new).map(ToString::to_string).collect();
        *value = lines.join("\n").into();
    }
    kept
}

/// The members that identify an entry of a list.
const KEYS: [&str; 4] = ["pageSize", "major", "minor", "name"];

/// Merges `wanted` into `asked`, also entries of a list that have the same identity. The list of devices is
/// replaced, because the order of its rules matters.
fn merged(asked: Value, wanted: Value) -> Value {
    match (asked, wanted) {
        (Value::Object(mut old), Value::Object(new)) => {
            for (key, value) in new {
                let before = old.remove(&key).filter(|_| key != "devices");
                old.insert(key, before.map_or(value.clone(), |before| merged(before, value)));
            }
            Value::Object(old)
        }
        (Value::Array(mut old), Value::Array(new)) => {
            let identity = |entry: &Value| KEYS.map(|key| entry.get(key).cloned());
            if new.iter().any(|entry| identity(entry).iter().all(Option::is_none)) {
                return Value::Array(new);
            }
            for mut entry in new {
                let (same, others) = old.into_iter().partition(|other| identity(other) == identity(&entry));
                old = others;
                let before = Vec::into_iter(same).reduce(merged);
                if let (Some(Value::Object(before)), Value::Object(entry)) = (&before, &mut entry) {
                    // A weight of 0 is unset here too.
                    entry.retain(|name, value| {
                        let weight = ["weight", "leafWeight"].contains(&name.as_str());
                        !(weight && *value == json!(0) && before.contains_key(name))
                    });
                }
                old.push(before.map_or(entry.clone(), |before| merged(before, entry)));
            }
            Value::Array(old)
        }
        (_, new) => new,
    }
}

/// Returns the text that `--dry-run` prints.
fn shown(shares: Option<&intel_rdt::Update>, limits: Option<&Limits>) -> Result<String> {
    let mut out = String::new();
    for change in limits.iter().flat_map(|limits| &limits.update.unit).flat_map(|unit| &unit.changes) {
        let [before, after] = [&change.before, &change.after].map(systemd::shown);
        let _ = writeln!(out, "systemd {}: {before} -> {after}", change.name);
    }
    let changes = limits.iter().flat_map(|limits| &limits.update.changes);
    for change in shares.iter().flat_map(|update| &update.changes).chain(changes) {
        let before = change.present.as_ref().map_or_else(|| "?".into(), ToString::to_string);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}: {before} -> {}", change.write.file, change.write.value);
    }
    let Some((cgroup, rules)) =
        limits.and_then(|limits| Some((&limits.cgroup, limits.update.devices.as_ref()?)))
    else {
        return Ok(out);
    };
    let _ = match (cgroup.v1.is_empty(), &rules.after) {
        (false, after) => {
            let rules = cgroup.devices(after.as_ref())?;
            writeln!(out, "devices: {} -> {}", rules.applied, rules.asked)
        }
        (true, Some(filter)) => {
            writeln!(out, "devices: a program of {} instructions", filter.compile().len())
        }
        (true, None) => writeln!(out, "devices: every device allowed"),
    };
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_idle_cgroup_loses_its_weight() {
        for (wanted, expected) in [
            (r#"{"cpu":{"idle":1,"shares":200}}"#, true),
            (r#"{"unified":{"cpu.idle":"1","cpu.weight":"8"}}"#, true),
            (r#"{"cpu":{"idle":1}}"#, false),
            (r#"{"cpu":{"idle":1,"shares":0}}"#, false),
            (r#"{"cpu":{"idle":0,"shares":200}}"#, false),
            (r#"{"unified":{"cpu.weight":"8"}}"#, false),
        ] {
            assert_eq!(loses_weight(&read(wanted)), expected, "{wanted}");
        }
    }

    #[test]
    fn null_resources_are_absent() {
        for kept in ["{}", r#"{"linux":null}"#, r#"{"linux":{}}"#, r#"{"linux":{"resources":null}}"#] {
            assert_eq!(asked(&read(kept)), read("{}"), "{kept}");
        }
        assert_eq!(asked(&read(r#"{"linux":{"resources":{"pids":null}}}"#)), read(r#"{"pids":null}"#));
    }

    #[test]
    fn absent_zero_and_minus_one_differ() {
        let asked =
            r#"{"memory":{"limit":100,"swap":300},"cpu":{"quota":50,"period":200,"shares":512,"burst":5}}"#;
        for (wanted, expected) in [
            ("{}", "{}"),
            (r#"{"memory":{"limit":0}}"#, r#"{"memory":{}}"#),
            (r#"{"memory":{"limit":50}}"#, r#"{"memory":{"limit":50,"swap":300}}"#),
            (r#"{"memory":{"swap":400}}"#, r#"{"memory":{"limit":100,"swap":400}}"#),
            (r#"{"memory":{"limit":-1}}"#, r#"{"memory":{"limit":-1,"swap":-1}}"#),
            (r#"{"memory":{"reservation":7}}"#, r#"{"memory":{"reservation":7}}"#),
            (r#"{"cpu":{"quota":90}}"#, r#"{"cpu":{"quota":90,"period":200,"burst":5}}"#),
            (r#"{"cpu":{"quota":0,"burst":0}}"#, r#"{"cpu":{"quota":50,"period":200,"burst":0}}"#),
            (r#"{"cpu":{"cpus":"0","mems":" "}}"#, r#"{"cpu":{"cpus":"0"}}"#),
            (r#"{"cpu":{"realtimePeriod":0,"realtimeRuntime":0}}"#, r#"{"cpu":{}}"#),
            (r#"{"memory":{"swappiness":18446744073709551615,"kernel":0}}"#, r#"{"memory":{}}"#),
            (r#"{"cpu":{"idle":0}}"#, r#"{"cpu":{"idle":0,"shares":512}}"#),
            (r#"{"cpu":{"idle":1}}"#, r#"{"cpu":{"idle":1}}"#),
            (r#"{"pids":{"limit":0}}"#, r#"{"pids":{"limit":0}}"#),
        ] {
            assert_eq!(complete(read(wanted), &read(asked)), read(expected), "{wanted}");
        }
    }

    #[test]
    fn unified_keys_are_kept_as_they_were_last_written() {
        let both = json!("8:1 rbps=1\n8:0 wbps=3 rbps=1");
        for (asked, wanted, file, written, expected) in [
            (
                json!({"memory.max": "5", "a.b": "3"}),
                "{}",
                "memory.max",
                "7",
                json!({"memory.max": "7", "a.b": "3"}),
            ),
            (json!({"a.b": "5"}), r#"{"unified":{"a.b":"6"}}"#, "a.b", "6", json!({"a.b": "6"})),
            (json!({"io.max": "8:0 rbps=1"}), "{}", "io.max", "8:0 rbps=2", json!({"io.max": "8:0 rbps=2"})),
            (json!({"io.max": "8:0 rbps=1"}), "{}", "io.max", "8:1 rbps=2", json!({"io.max": "8:0 rbps=1"})),
            (json!({"io.max": "8:0 rbps=1"}), "{}", "io.max", "8:0 wbps=2", json!({"io.max": "8:0 rbps=1"})),
            (
                json!({"io.max": "8:0 rbps=1\n8:1 rbps=1"}),
                r#"{"unified":{"io.max":"8:1 rbps=2"}}"#,
                "io.max",
                "8:1 rbps=2",
                json!({"io.max": "8:0 rbps=1\n8:1 rbps=2"}),
            ),
            (
                json!({"io.max": both}),
                "{}",
                "io.max",
                "8:0 wbps=2",
                json!({"io.max": "8:1 rbps=1\n8:0 wbps=2 rbps=1"}),
            ),
        ] {
            let asked = json!({"unified": asked});
            let writes = [Write::new("pids.max", "1", ""), Write::new(file, written, "")];
            let kept = kept_resources(asked, read(wanted), &writes);
            assert_eq!(kept["unified"], expected, "{file} {written}");
        }
    }

    #[test]
    fn new_resources_are_merged_into_the_kept_ones() {
        for (asked, wanted, expected) in [
            (
                r#"{"memory":{"limit":1}}"#,
                r#"{"pids":{"limit":2}}"#,
                r#"{"memory":{"limit":1},"pids":{"limit":2}}"#,
            ),
            (
                r#"{"memory":{"limit":1,"swap":3}}"#,
                r#"{"memory":{"limit":2}}"#,
                r#"{"memory":{"limit":2,"swap":3}}"#,
            ),
            (
                r#"{"devices":[{"allow":true}]}"#,
                r#"{"devices":[{"allow":false}]}"#,
                r#"{"devices":[{"allow":false}]}"#,
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":1},{"pageSize":"1GB","limit":2}]}"#,
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":3}]}"#,
                r#"{"hugepageLimits":[{"pageSize":"1GB","limit":2},{"pageSize":"2MB","limit":3}]}"#,
            ),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},{"major":8,"minor":1,"rate":2}]}}"#,
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":1,"rate":9}]}}"#,
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},{"major":8,"minor":1,"rate":9}]}}"#,
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":1},{"pageSize":"2MB","limit":2}]}"#,
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":3}]}"#,
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":3}]}"#,
            ),
            (r#"{"x":["a","b"]}"#, r#"{"x":["c","d"]}"#, r#"{"x":["c","d"]}"#),
            // The other members of a device stay.
            (
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":200,"leafWeight":100}]}}"#,
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":50}]}}"#,
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":200,"leafWeight":50}]}}"#,
            ),
            (
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":200}]}}"#,
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":0,"leafWeight":0}]}}"#,
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":200,"leafWeight":0}]}}"#,
            ),
            (
                r#"{"unified":{"a.b":"1"}}"#,
                r#"{"unified":{"c.d":"2"}}"#,
                r#"{"unified":{"a.b":"1","c.d":"2"}}"#,
            ),
        ] {
            assert_eq!(merged(read(asked), read(wanted)), read(expected), "{wanted}");
        }
    }
}
