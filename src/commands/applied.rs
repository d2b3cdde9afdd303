//! `state --applied`: compares the configuration with what the kernel shows now, so that a user can see that
//! nothing was dropped. A difference is an error whatever its cause, also if the program itself has given up
//! rights since.

use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::Spec;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cgroups::{Cgroup, devices, update};
use crate::cli::{Globals, Shown};
use crate::config;
use crate::error::{Context, Kind, Notes, Result, fail};
use crate::intel_rdt::ClassRecord;
use crate::process::capabilities::{self, Held, Sets};
use crate::process::credentials;
use crate::process::{self, lsm};
use crate::state::{Record, Status, document};
use crate::sys::fs;
use crate::{host, intel_rdt, log, namespaces};

/// One setting of the configuration.
#[derive(Serialize)]
struct Row {
    /// The place in config.json.
    place: String,
    /// The file in which the kernel shows it.
    file: String,
    asked: Value,
    applied: Value,
    ok: bool,
}

impl Row {
    fn new(place: impl Into<String>, file: impl Into<String>, asked: Value, applied: Value) -> Self {
        let ok = asked == applied;
        Self { place: place.into(), file: file.into(), asked, applied, ok }
    }

    /// Returns one line.
    fn text(&self) -> String {
        let plain = |value: &Value| match value {
            Value::Null => "nothing".into(),
            Value::String(text) => text.clone(),
            Value::Array(values) if values.is_empty() => "none".into(),
            Value::Array(values) => {
                let words = values.iter().map(|value| value.as_str().map_or(value.to_string(), String::from));
                words.collect::<Vec<_>>().join(" ")
            }
            other => other.to_string(),
        };
        let (asked, has) = (plain(&self.asked), plain(&self.applied));
        log::one_line(&format!("{}: asked {asked}, has {has} ({})", self.place, self.file))
    }
}

pub(super) fn run(globals: &Globals, id: &str, shown: Shown) -> Result<()> {
    let (dir, mut record) = super::open(globals, id)?;
    let status = super::status(&dir, &record)?;
    super::ended::complete(&mut record, status);
    let spec = config::parse(dir.load_config()?)?.spec;
    let mut rows = Vec::new();
    if let Some(cgroup) = super::cgroup(&record)? {
        cgroup_rows(&cgroup, &spec, &mut rows)?;
    }
    if let Some(class) = &record.intel_rdt {
        let pid = record.pid.filter(|_| status != Status::Stopped);
        class_rows(class, &record.id, pid, &spec, &mut rows)?;
    }
    if let Some(pid) = record.pid.filter(|_| !matches!(status, Status::Stopped | Status::Creating)) {
        let process = Process::read(pid)?;
        namespace_rows(&process, &record, &spec, &mut rows)?;
        // Before `start` the process still has the runtime's rights.
        let starts = matches!(status, Status::Running | Status::Paused);
        if let Some(plan) = planned(&spec).filter(|_| starts) {
            credential_rows(&process, &plan, &mut rows);
            attribute_rows(&process, &plan, &spec, &mut rows)?;
        }
    }
    let different: Vec<&Row> = rows.iter().filter(|row| !row.ok).collect();
    if shown == Shown::Settings {
        let mut state = serde_json::to_value(document(&record, status)).context("JSON")?;
        state["applied"] = serde_json::to_value(&rows).context("JSON")?;
        super::print(&(serde_json::to_string_pretty(&state).context("JSON")? + "\n"))?;
    } else if different.is_empty() {
        super::print(&format!("{} settings compared: all are applied as asked\n", rows.len()))?;
    } else {
        super::print(&different.iter().map(|row| row.text() + "\n").collect::<String>())?;
    }
    if different.is_empty() {
        return Ok(());
    }
    let places: Vec<&str> = different.iter().map(|row| row.place.as_str()).collect();
    Err(fail(Kind::Os, format!("not applied as asked: {}", places.join(", "))))
}

/// Plans the process as the configuration asks for it, even if the runtime could not apply all of it.
fn planned(spec: &Spec) -> Option<process::Plan> {
    let host = process::Host {
        capabilities: Held::IN_USER_NAMESPACE,
        lsm: lsm::Host { apparmor: true, selinux: true, strict: false },
    };
    let (linux, mut notes) = (spec.linux().as_ref(), Notes::default());
    process::plan(spec.process().as_ref()?, linux, None, host, "process", &mut notes)
}

/// Adds rows for the cgroup's files and its device rules.
fn cgroup_rows(cgroup: &Cgroup, spec: &Spec, rows: &mut Vec<Row>) -> Result<()> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    // `create` has reported the problems.
    let mut notes = Notes::default();
    let writes = resources.map_or_else(Vec::new, |r| cgroup.writes_for(r, &mut notes));
    for compared in update::compare(cgroup, writes)? {
        let ok = compared.same();
        let asked = json!(compared.write.value.to_string());
        let applied = json!(compared.present.map(|present| present.to_string()));
        let (place, file) = (compared.write.place, compared.write.file);
        rows.push(Row { place, file, asked, applied, ok });
    }
    let rules = resources.and_then(|r| r.devices().as_deref()).unwrap_or(&[]);
    let filter = devices::plan(rules, &mut notes);
    let rules = cgroup.devices(filter.as_ref())?;
    rows.push(Row {
        place: "linux.resources.devices".into(),
        file: rules.file.into(),
        asked: json!(rules.asked),
        applied: json!(rules.applied),
        ok: rules.same,
    });
    Ok(())
}

/// Adds rows for the lines of the resctrl class, and for the membership of the container's first process.
fn class_rows(
    class: &ClassRecord,
    id: &str,
    pid: Option<i32>,
    spec: &Spec,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let mut notes = Notes::default();
    let asked = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
    let plan = |asked| intel_rdt::plan(asked, id, Some(&class.mount), &mut notes);
    let file = |dir: &Path, name: &str| dir.join(name).display().to_string();
    for (line, found, ok) in asked.and_then(plan).map_or(Ok(Vec::new()), |plan| plan.applied())? {
        let (asked, applied) = (json!(line.text), json!(found));
        rows.push(Row { place: line.place, file: file(&class.group, "schemata"), asked, applied, ok });
    }
    let groups =
        [("linux.intelRdt", Some(&class.group)), ("linux.intelRdt.enableMonitoring", class.monitor.as_ref())];
    for (place, dir) in groups {
        let Some((dir, pid)) = dir.zip(pid) else { continue };
        let tasks = fs::read_text(fs::CWD, &dir.join("tasks"))?;
        let found = tasks.lines().find_map(|line| line.parse().ok().filter(|found: &i32| *found == pid));
        rows.push(Row::new(place, file(dir, "tasks"), json!(pid), json!(found)));
    }
    Ok(())
}

/// The container's first process as /proc shows it.
struct Process {
    pid: i32,
    text: String,
    status: credentials::Status,
    proc: std::os::fd::BorrowedFd<'static>,
}

impl Process {
    fn read(pid: i32) -> Result<Self> {
        let proc = host::procfs()?;
        let text = fs::read_text(proc.as_fd(), Path::new(&format!("{pid}/status")))?;
        let status = credentials::Status::parse(&text).with_context(|| format!("/proc/{pid}/status"))?;
        Ok(Self { pid, text, status, proc })
    }

    fn file(&self, name: &str) -> Result<String> {
        Ok(fs::read_text(self.proc.as_fd(), Path::new(&format!("{}/{name}", self.pid)))?)
    }

    fn field(&self, name: &str) -> Option<&str> {
        field(&self.text, name)
    }

    /// Returns the id in the container's user namespace for an id of the host.
    fn inside(&self, map: &str, id: u32) -> Value {
        let row = |line: &str| {
            let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
            let (inside, outside, size) = (numbers.next()??, numbers.next()??, numbers.next()??);
            u64::from(id).checked_sub(outside).filter(|n| *n < size).map(|n| inside + n)
        };
        self.file(map).map_or(Value::Null, |text| json!(text.lines().find_map(row)))
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Adds a row for each type of namespace, which is the container's own, one that was joined, or the
/// runtime's.
fn namespace_rows(process: &Process, record: &Record, spec: &Spec, rows: &mut Vec<Row>) -> Result<()> {
    let plan = namespaces::plan(spec, &mut Notes::default());
    let recorded = |kind: &namespaces::Kind| record.namespaces.iter().any(|name| name == kind.name);
    for kind in &namespaces::KINDS {
        let of =
            |who: &str| fs::readlinkat(process.proc.as_fd(), Path::new(&format!("{who}/ns/{}", kind.file)));
        let (own, theirs) = (of("self")?, of(&process.pid.to_string())?);
        let file = format!("/proc/{}/ns/{}", process.pid, kind.file);
        let (place, asked, ok) = match plan.join.iter().find(|join| join.flag == kind.flag) {
            Some(join) => {
                let named = fs::open(fs::CWD, &join.path, fs::O_RDONLY, 0).map(|fd| fs::fstat(fd.as_fd()));
                // The path may not exist any more, although the namespace does.
                let Ok(Ok(named)) = named else { continue };
                let asked = format!("{}:[{}]", kind.file, named.st_ino);
                let ok = theirs == Path::new(&asked);
                (join.place.clone(), asked, ok)
            }
            // The record also has the time namespace that CRIU makes for the clocks.
            None if plan.creates(kind.flag) || recorded(kind) => {
                (format!("linux.namespaces.{}", kind.name), "its own".into(), own != theirs)
            }
            None => (format!("linux.namespaces.{}", kind.name), own.display().to_string(), own == theirs),
        };
        rows.push(Row { place, file, asked: json!(asked), applied: json!(theirs), ok });
    }
    Ok(())
}

/// Adds rows for the user, the groups and the capabilities.
fn credential_rows(process: &Process, plan: &process::Plan, rows: &mut Vec<Row>) {
    let file = format!("/proc/{}/status", process.pid);
    let mut row = |place: &str, field: &str, asked: Value, applied: Value| {
        rows.push(Row::new(format!("process.{place}"), format!("{file} {field}"), asked, applied));
    };
    let (status, user) = (&process.status, &plan.user);
    row("user.uid", "Uid", json!(user.uid), process.inside("uid_map", status.uids[1]));
    row("user.gid", "Gid", json!(user.gid), process.inside("gid_map", status.gids[1]));
    let mut groups = user.additional_gids.clone();
    groups.sort_unstable();
    groups.dedup();
    let mut held: Vec<Value> = status.groups.iter().map(|gid| process.inside("gid_map", *gid)).collect();
    held.sort_by_key(Value::as_u64);
    held.dedup();
    if !user.keep_groups {
        row("user.additionalGids", "Groups", json!(groups), json!(held));
    }
    if let Some(mask) = user.umask {
        let found = process.field("Umask").and_then(|text| u32::from_str_radix(text, 8).ok());
        row("user.umask", "Umask", json!(mask), json!(found));
    }
    let wanted = after_execve(&plan.capabilities, user.uid == 0, plan.no_new_privs);
    for (name, field, asked, applied) in [
        ("bounding", "CapBnd", wanted.bounding, status.bounding),
        ("permitted", "CapPrm", wanted.permitted, status.permitted),
        ("effective", "CapEff", wanted.effective, status.effective),
        ("inheritable", "CapInh", wanted.inheritable, status.inheritable),
        ("ambient", "CapAmb", wanted.ambient, status.ambient),
    ] {
        let names = |mask: u64| json!(capabilities::names(mask));
        row(&format!("capabilities.{name}"), field, names(asked), names(applied));
    }
}

/// Returns the capability sets after execve(2) of a program without file capabilities (capabilities(7),
/// "Transformation of capabilities during execve()").
fn after_execve(sets: &Sets, root: bool, no_new_privs: bool) -> Sets {
    let gained = sets.bounding | sets.inheritable;
    let permitted = match (root, no_new_privs) {
        (true, false) => gained | sets.ambient,
        (true, true) => (gained | sets.ambient) & sets.permitted,
        (false, _) => sets.ambient,
    };
    Sets { permitted, effective: permitted, ..*sets }
}

/// Adds rows for the other attributes of the process.
fn attribute_rows(process: &Process, plan: &process::Plan, spec: &Spec, rows: &mut Vec<Row>) -> Result<()> {
    let file = |name: &str| format!("/proc/{}/{name}", process.pid);
    let number = |name: &str| process.field(name).and_then(|text| text.parse::<u64>().ok());
    rows.push(Row::new(
        "process.noNewPrivileges",
        file("status NoNewPrivs"),
        json!(plan.no_new_privs),
        json!(number("NoNewPrivs") == Some(1)),
    ));
    let profile = spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some());
    // A filter of the runtime is inherited.
    let own = fs::read_text(process.proc.as_fd(), Path::new("self/status"))?;
    let mode = if profile { "2" } else { field(&own, "Seccomp").unwrap_or("0") };
    rows.push(Row::new(
        "linux.seccomp",
        file("status Seccomp"),
        json!(mode.parse::<u64>().ok()),
        json!(number("Seccomp")),
    ));
    // prlimit(2) returns another user's limits only with CAP_SYS_RESOURCE.
    let limits = process.file("limits")?;
    for limit in &plan.rlimits {
        let show = |(soft, hard): (u64, u64)| json!({"soft": soft, "hard": hard});
        let place = format!("{} {}", limit.place, limit.name);
        let asked = show((limit.limit.soft, limit.limit.hard));
        let found = json!(rlimit(&limits, limit.resource).map(show));
        rows.push(Row::new(place, file("limits"), asked, found));
    }
    if let Some(score) = plan.oom_score_adj {
        let found = process.file("oom_score_adj")?.trim().parse::<i32>().ok();
        rows.push(Row::new("process.oomScoreAdj", file("oom_score_adj"), json!(score), json!(found)));
    }
    for (place, name, label) in [
        ("process.apparmorProfile", "attr/apparmor/current", &plan.labels.apparmor),
        ("process.selinuxLabel", "attr/current", &plan.labels.selinux),
    ] {
        let Some(label) = label else { continue };
        // Without the module the file does not exist.
        let found = process.file(name).ok();
        // AppArmor adds its mode: "docker-default (enforce)".
        let found = found.as_deref().map(|text| text.trim_end_matches(['\0', '\n']));
        let found = found.map(|text| text.rsplit_once(" (").map_or(text, |(name, _)| name));
        rows.push(Row::new(place, file(name), json!(label), json!(found)));
    }
    if let Some(label) =
        spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref()).filter(|l| !l.is_empty())
    {
        // The option is in quotes where it has a comma.
        let mounts = process.file("mountinfo")?.replace('"', "");
        let found = mounts.contains(&format!("context={label}")).then_some(label);
        rows.push(Row::new("linux.mountLabel", file("mountinfo"), json!(label), json!(found)));
    }
    Ok(())
}

/// Returns the soft and the hard limit in the text of `/proc/PID/limits`. It has a heading and then a line
/// for each resource, in the order of their numbers, with a name of 25 columns.
fn rlimit(text: &str, resource: u32) -> Option<(u64, u64)> {
    let line = text.lines().nth(resource as usize + 1)?;
    let mut words = line.get(25..)?.split_whitespace();
    let mut number = || match words.next()? {
        "unlimited" => Some(u64::MAX),
        word => word.parse().ok(),
    };
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rlimits_are_read_by_number() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max cpu time              unlimited            unlimited            seconds   \n\
            Max file size             1024                 unlimited            bytes     \n";
        for (resource, expected) in [(0, Some((u64::MAX, u64::MAX))), (1, Some((1024, u64::MAX))), (2, None)]
        {
            assert_eq!(rlimit(text, resource), expected);
        }
    }

    #[test]
    fn execve_changes_the_sets() {
        let sets = |bounding, permitted, inheritable, ambient| Sets {
            bounding,
            permitted,
            effective: permitted,
            inheritable,
            ambient,
        };
        for (before, root, no_new_privs, permitted) in [
            // Root gets all that the bounding set allows, but with no_new_privs nothing new.
            (sets(0b1111, 0b11, 0, 0), true, false, 0b1111),
            (sets(0b1111, 0b11, 0, 0), true, true, 0b11),
            (sets(0b01, 0b11, 0, 0), true, false, 0b01),
            // Anybody else keeps what is ambient.
            (sets(0b1111, 0b11, 0b11, 0b01), false, false, 0b01),
            (sets(0b1111, 0b11, 0, 0), false, true, 0),
        ] {
            let after = after_execve(&before, root, no_new_privs);
            assert_eq!((after.permitted, after.effective), (permitted, permitted), "{before:?} {root}");
            assert_eq!((after.bounding, after.ambient), (before.bounding, before.ambient));
        }
    }
}
