//! Shares of the processor's caches and of memory bandwidth, by Intel's Resource Director Technology and the
//! like, which the kernel shows as the file system resctrl (config-linux.md#intelrdt).
//!
//! A directory of resctrl is a class of processes with its `schemata`. A directory in a class's `mon_groups`
//! counts for some of these processes. [`plan`] is pure: it names the class and its lines. [`claim`] compares
//! the plan with an existing class, which is never written to, and returns the record of what is to be
//! created. [`make`] creates it, and removes from the record what another process has created meanwhile.
//!
//! The container process and exec's process write themselves into `tasks` by descriptors that the runtime
//! process has opened ([`join`]), before they do anything else. Their children inherit the class. `delete`
//! removes what is on record. A class that others still use is left, with a warning, because its removal
//! would move them into the default class.

mod record;
mod schemata;
pub(crate) mod stats;
mod update;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use nix::errno::Errno;
use oci_spec::runtime::LinuxIntelRdt;

use crate::error::{Context, Kind, Notes, Result, fail};
use crate::log;
use crate::procstat;
use crate::sys::{self, fs};
use crate::trace;

pub(crate) use record::ClassRecord;
pub(crate) use update::{Update, kept};

const PLACE: &str = "linux.intelRdt";

/// The directories of resctrl that are not classes.
const RESERVED: [&str; 3] = ["info", "mon_data", "mon_groups"];

/// The class that the container is to be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The mount point of resctrl.
    pub mount: PathBuf,
    /// The class's directory, which is the mount point for the default class.
    pub group: PathBuf,
    /// The configuration names the class, so that other containers may share it.
    pub named: bool,
    /// The lines for `schemata`. Each list is one write, since the kernel does not accept a domain twice in
    /// one write.
    pub writes: Vec<Vec<Line>>,
    /// The monitoring group of the container alone.
    pub monitor: Option<PathBuf>,
    /// Members of old configurations, with events of which the machine must count at least one.
    pub events: Vec<(&'static str, &'static [&'static str])>,
}

/// A line for `schemata`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub place: String,
    pub text: String,
}

impl AsRef<str> for Line {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// Decides the container's class. `mount` is the mount point of resctrl, if it is mounted.
pub(crate) fn plan(asked: &LinuxIntelRdt, id: &str, mount: Option<&Path>, notes: &mut Notes) -> Option<Plan> {
    let before = notes.problems.0.len();
    let mount = mount.unwrap_or_else(|| {
        let hint = "(hint: mount -t resctrl resctrl /sys/fs/resctrl; only some processors have it)";
        notes.problem(PLACE, format!("no resctrl file system is mounted {hint}"));
        Path::new("")
    });
    let named = given(asked.clos_id());
    let name = named.unwrap_or(id);
    if let Err(message) = check_name(name) {
        let place = if named.is_some() { "linux.intelRdt.closID" } else { PLACE };
        notes.problem(place, format!("the class {name:?} {message}"));
    }
    let group = if name == "/" { mount.to_path_buf() } else { mount.join(name) };
    let mut first = Vec::new();
    if let Some(text) = given(asked.l3_cache_schema()) {
        first.extend(cache_lines("linux.intelRdt.l3CacheSchema", text, notes));
    }
    if let Some(text) = given(asked.mem_bw_schema()) {
        first.extend(bandwidth_line("linux.intelRdt.memBwSchema", text, notes));
    }
    let texts = asked.schemata().iter().flatten().enumerate();
    let last = texts.filter_map(|(i, text)| line(format!("linux.intelRdt.schemata[{i}]"), text, notes));
    let writes = [first, last.collect()].into_iter().filter(|lines: &Vec<Line>| !lines.is_empty()).collect();
    let events = old_events(asked);
    let monitors = *asked.enable_monitoring() == Some(true) || !events.is_empty();
    let monitor = monitors.then(|| group.join("mon_groups").join(id));
    let plan = Plan { mount: mount.into(), group, named: named.is_some(), writes, monitor, events };
    (notes.problems.0.len() == before).then_some(plan)
}

/// Returns the events that configurations before 1.3 name. The kernel always counts all events that it can.
fn old_events(asked: &LinuxIntelRdt) -> Vec<(&'static str, &'static [&'static str])> {
    #[allow(deprecated)]
    let old = [
        (*asked.enable_cmt(), "linux.intelRdt.enableCMT", &["llc_occupancy"][..]),
        (*asked.enable_mbm(), "linux.intelRdt.enableMBM", &["mbm_total_bytes", "mbm_local_bytes"]),
    ];
    let old = old.into_iter().filter(|(on, ..)| *on == Some(true));
    old.map(|(_, place, events)| (place, events)).collect()
}

/// Returns a member that is set. Go writes an unset member as an empty string.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn check_name(name: &str) -> Result<(), &'static str> {
    match name {
        "/" => Ok(()),
        "." | ".." => Err("is not the name of a directory"),
        name if name.contains(['/', '\n', '\0']) => Err("has a slash, a line break or a NUL in its name"),
        name if name.len() > 255 => Err("has a name of more than 255 bytes"),
        name if RESERVED.contains(&name) => Err("would be a directory that resctrl has for itself"),
        _ => Ok(()),
    }
}

/// Returns the lines of `l3CacheSchema`. Lines for the bandwidth do not belong there and are dropped.
fn cache_lines(place: &str, text: &str, notes: &mut Notes) -> Vec<Line> {
    let mut lines = Vec::new();
    for text in text.lines().filter(|line| !line.is_empty()) {
        if text.trim_start().starts_with("MB:") {
            notes.warn(format!("{place}: {text:?} belongs in memBwSchema, ignoring"));
        } else {
            lines.extend(line(place.into(), text, notes));
        }
    }
    if lines.is_empty() && !notes.problems.0.iter().any(|problem| problem.place == place) {
        notes.problem(place, "has no line for a cache");
    }
    lines
}

fn bandwidth_line(place: &str, text: &str, notes: &mut Notes) -> Option<Line> {
    if !text.starts_with("MB:") {
        notes.problem(place, "must begin with \"MB:\"");
        return None;
    }
    line(place.into(), text, notes)
}

fn line(place: String, text: &str, notes: &mut Notes) -> Option<Line> {
    let wrong = if text.contains('\n') { Some("has a line break") } else { None };
    let wrong =
        wrong.or(schemata::name(text).is_none().then_some("is not of the form NAME:DOMAIN=VALUE;..."));
    match wrong {
        Some(wrong) => notes.problem(place, format!("{text:?} {wrong}")),
        None => return Some(Line { place, text: text.into() }),
    }
    None
}

impl Plan {
    fn lines(&self) -> Vec<Line> {
        self.writes.iter().flatten().cloned().collect()
    }

    /// Returns each line, the class's line for the same resource, and whether the class has the value.
    pub fn applied(&self) -> Result<Vec<(Line, Option<String>, bool)>> {
        let lines = self.lines();
        if lines.is_empty() {
            return Ok(Vec::new());
        }
        let (present, step) = (fs::read_text(fs::CWD, &self.group.join("schemata"))?, step(&self.mount));
        let row = |(i, line): (usize, &Line)| {
            let found = schemata::name(&line.text).and_then(|name| schemata::line_of(&present, name));
            let holds = schemata::holds(&line.text, &lines[i + 1..], &present, step);
            (line.clone(), found.map(Into::into), holds)
        };
        Ok(lines.iter().enumerate().map(row).collect())
    }

    /// Refuses an existing class with other values, since it must not be changed. The clause names only
    /// `l3CacheSchema` and `memBwSchema`, but a line of `schemata` would change the class for others too.
    fn compare(&self) -> Result<()> {
        match self.applied()?.into_iter().find(|(.., holds)| !holds) {
            None => Ok(()),
            Some((line, found, _)) => {
                let found = found.map_or("no such line".into(), |found| format!("{found:?}"));
                let message = format!("{:?} is wanted, and the class {}", line.text, self.group.display());
                Err(fail(Kind::Config, format!("{}: {message} has {found}", line.place)))
            }
        }
    }

    /// Checks that the machine counts the events.
    fn check_events(&self) -> Result<()> {
        if self.monitor.is_some() && !is_dir(&self.mount.join("mon_groups")) {
            let text = "linux.intelRdt.enableMonitoring: resctrl has no monitoring on this machine";
            return Err(fail(Kind::Unsupported, text));
        }
        let counted = stats::read(&self.mount.join("info/L3_MON/mon_features")).unwrap_or_default();
        for (place, events) in &self.events {
            if !counted.lines().any(|event| events.contains(&event)) {
                return Err(fail(Kind::Unsupported, format!("{place}: this machine does not count it")));
            }
        }
        Ok(())
    }
}

fn is_dir(path: &Path) -> bool {
    fs::open(fs::CWD, path, fs::O_PATH | fs::O_DIRECTORY, 0).is_ok()
}

/// Returns the step of which bandwidths are multiples.
fn step(mount: &Path) -> u64 {
    stats::number(&mount.join("info/MB/bandwidth_gran")).unwrap_or(1)
}

/// Compares the plan with the existing classes, and returns the record of what is to be created.
pub(crate) fn claim(plan: &Plan) -> Result<ClassRecord> {
    plan.check_events()?;
    let shown = plan.group.display();
    let mut made = Vec::new();
    match (is_dir(&plan.group), plan.named) {
        (true, true) => plan.compare()?,
        (true, false) => {
            let hint = "(hint: closID names a class to share)";
            return Err(fail(Kind::Config, format!("{PLACE}: the class {shown} exists already {hint}")));
        }
        (false, true) if plan.writes.is_empty() => {
            let why = "does not exist, and there is no schema to make it with";
            return Err(fail(Kind::Config, format!("linux.intelRdt.closID: the class {shown} {why}")));
        }
        (false, _) => made.push(plan.group.clone()),
    }
    if let Some(dir) = &plan.monitor {
        if is_dir(dir) {
            let text = format!("linux.intelRdt.enableMonitoring: {} exists already", dir.display());
            return Err(fail(Kind::Config, text));
        }
        made.push(dir.clone());
    }
    Ok(ClassRecord {
        mount: plan.mount.clone(),
        group: plan.group.clone(),
        monitor: plan.monitor.clone(),
        made,
    })
}

/// Creates the recorded directories. A directory that another container has created by now is removed from
/// the record.
pub(crate) fn make(plan: &Plan, record: &mut ClassRecord) -> Result<()> {
    let _phase = trace::phase("resctrl class");
    for dir in record.made.clone() {
        let is_class = dir == plan.group;
        let place = if is_class { PLACE } else { "linux.intelRdt.enableMonitoring" };
        match fs::mkdirat(fs::CWD, &dir, 0o755) {
            Ok(()) if is_class => {
                plan.writes.iter().try_for_each(|lines| write(&plan.mount, &plan.group, lines))?;
            }
            Ok(()) => {}
            Err(e) => {
                if e.errno == Errno::EEXIST {
                    record.made.retain(|made| *made != dir);
                }
                if e.errno != Errno::EEXIST || !is_class || !plan.named {
                    return Err(explained(&plan.mount, e).context(place));
                }
                plan.compare()?;
            }
        }
    }
    Ok(())
}

/// Writes lines to a class's `schemata` in one write, so that all of them are applied or none.
fn write(mount: &Path, group: &Path, lines: &[Line]) -> Result<()> {
    let text: String = lines.iter().map(|line| format!("{}\n", line.text)).collect();
    let written = fs::write_at(fs::CWD, &group.join("schemata"), text.as_bytes());
    let place = || lines.first().map(|line| line.place.clone()).unwrap_or_default();
    written.map_err(|e| explained(mount, e)).with_context(place)
}

/// Adds resctrl's own message to an error, since EINVAL alone has many reasons.
fn explained(mount: &Path, error: sys::Error) -> anyhow::Error {
    match stats::read(&mount.join("info/last_cmd_status")).filter(|said| said != "ok") {
        Some(said) => anyhow!("{error} (resctrl: {said})"),
        None => error.into(),
    }
}

/// Opens the files by which a process joins the class, and then its monitoring group, which accepts only
/// members of the class.
pub(crate) fn join_fds(record: &ClassRecord) -> Result<Vec<OwnedFd>> {
    let dirs = std::iter::once(&record.group).chain(&record.monitor);
    let open = |dir: &PathBuf| fs::open(fs::CWD, &dir.join("tasks"), fs::O_WRONLY, 0);
    dirs.map(open).collect::<sys::Result<_>>().context(PLACE)
}

/// Moves the calling process into the groups of [`join_fds`]. It writes 0, since its id may be one of another
/// pid namespace.
pub(crate) fn join(join_fds: Vec<OwnedFd>) -> Result<()> {
    for tasks in &join_fds {
        fs::write_open(tasks.as_fd(), b"0\n").context("linux.intelRdt: joining the class")?;
    }
    fs::close_together(join_fds);
    Ok(())
}

/// Removes the directories that were created for the container. A class with other processes is left, because
/// its removal would move them to the default class. Other containers can share every class by its name, also
/// one that is named by a container's id.
pub(crate) fn remove(record: &ClassRecord) -> Result<()> {
    for dir in record.made.iter().rev() {
        if *dir == record.group && has_processes(dir)? {
            let hint = "(hint: rmdir it when they have ended)";
            log::warn(format!(
                "{PLACE}: other processes are still in the class {} {hint}, ignoring",
                dir.display()
            ));
            continue;
        }
        match fs::rmdirat(fs::CWD, dir) {
            Err(e) if e.errno == Errno::ENOENT => {}
            other => other.context(PLACE)?,
        }
    }
    Ok(())
}

fn has_processes(dir: &Path) -> Result<bool> {
    let tasks = match fs::read_text(fs::CWD, &dir.join("tasks")) {
        Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENODEV) => return Ok(false),
        other => other?,
    };
    for pid in tasks.lines().filter_map(|line| line.parse().ok()) {
        if procstat::runs(pid)? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
