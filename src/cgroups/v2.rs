//! The creation of a cgroup of v2 with its limits, before a process is in it.
//!
//! These rules of the kernel shape it (cgroups(7)). A controller must be enabled in every ancestor's
//! `cgroup.subtree_control`, from the top down. A cgroup with processes of its own cannot enable one, except
//! for the root. The files of a removed cgroup return ENODEV. A container cannot interfere by what it does in
//! its own sub-tree, since only the directories above it are opened: from the mount down, one name at a time,
//! without following links.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use nix::errno::Errno;

use super::directory::{Directory, TRIES, open_dir, read_file, read_list, vanished};
use super::resources::{Absent, Write};
use super::{Value, refused, systemd};
use crate::error::{Kind, Result, fail};
use crate::sys::{self, fs};
use crate::{host, trace};

/// Controllers that are enabled wherever they are available, even if nothing is limited. Without them there
/// are no statistics, which `docker stats` and the like read from our cgroup themselves.
const ACCOUNTING: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// The controllers that a threaded cgroup can have (cgroups(7)). The others are domain controllers.
const THREADED: [&str; 4] = ["cpu", "cpuset", "perf_event", "pids"];

/// The controllers that a container's cgroup gets in addition to those of its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Controllers {
    /// Those that have statistics.
    #[default]
    Accounting,
    /// Every controller that the host has. A container that can create cgroups, for containers of its own, can
    /// only use the controllers that its cgroup has.
    All,
}

/// The cgroup to create in v2's hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The mount point of cgroup v2.
    pub mount: PathBuf,
    /// The cgroup, below the mount: plain names, without a leading slash.
    pub path: PathBuf,
    /// The unit, if systemd creates the cgroup.
    pub scope: Option<systemd::Scope>,
    pub controllers: Controllers,
    pub writes: Vec<Write>,
}

impl Plan {
    /// Returns the cgroup's directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.mount.join(&self.path)
    }
}

/// Returns the directories of the plan that do not exist yet, outermost first.
#[must_use]
pub(crate) fn missing(plan: &Plan) -> Vec<PathBuf> {
    // systemd creates and removes the slices above as it needs them.
    let ours = if plan.scope.is_some() { 1 } else { plan.path.components().count() };
    missing_in(plan.dir(), ours)
}

/// Returns those of a directory and its `count - 1` nearest parents that do not exist, outermost first.
pub(super) fn missing_in(dir: PathBuf, count: usize) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = dir.ancestors().take(count).map(Into::into).collect();
    dirs.reverse();
    let first = dirs.iter().position(|dir| fs::open(fs::CWD, dir, fs::O_PATH, 0).is_err());
    first.map_or_else(Vec::new, |first| dirs.split_off(first))
}

/// Creates the cgroup and sets its limits, but not its device filter. After an error nothing that was created
/// remains. Controllers that were enabled in ancestors stay enabled, since other cgroups may use them by now.
pub(super) fn create(plan: &Plan) -> Result<Directory> {
    let mut made = Vec::new();
    let mut tries = 0;
    let result = loop {
        tries += 1;
        match make_directories(plan, &mut made) {
            Err(e) if vanished(&e) && tries < TRIES => undo(&mut made),
            other => break other,
        }
    };
    let path = plan.dir();
    let result = result.and_then(|dir| {
        if made.last() != Some(&path) {
            check_unused(dir.as_fd(), plan)?;
        }
        let directory = Directory { dir, path, made: made.clone() };
        plan.writes.iter().try_for_each(|write| apply(&directory, write))?;
        Ok(directory)
    });
    result.inspect_err(|_| undo(&mut made))
}

/// Sets the limits of the cgroup that systemd has created, in which the process waits. systemd puts no
/// process into a slice, so that it is moved there here.
pub(super) fn limit(plan: &Plan, pid: i32) -> Result<Directory> {
    let dir = make_directories(plan, &mut Vec::new())?;
    let directory = Directory { dir, path: plan.dir(), made: Vec::new() };
    // In a frozen cgroup the process could never go on.
    refuse_state(directory.dir(), plan, &[FROZEN])?;
    plan.writes.iter().try_for_each(|write| apply(&directory, write))?;
    if plan.scope.as_ref().is_some_and(|scope| scope.unit.is_slice()) {
        write_value(directory.dir(), "cgroup.procs", &pid.to_string()).context("linux.cgroupsPath")?;
    }
    if directory.pids()?.contains(&pid) {
        return Ok(directory);
    }
    let message =
        "systemd has put the process into another cgroup (hint: is systemd in another cgroup namespace?)";
    Err(fail(Kind::Unsupported, format!("linux.cgroupsPath {}: {message}", plan.dir().display())))
}

/// Removes the created directories, innermost first. It is best effort, since the error that leads here says
/// more.
fn undo(made: &mut Vec<PathBuf>) {
    while let Some(dir) = made.pop() {
        let _ = fs::rmdirat(fs::CWD, &dir);
    }
}

/// Walks from the mount to the cgroup, creates the missing directories, and enables controllers on the way.
fn make_directories(plan: &Plan, made: &mut Vec<PathBuf>) -> Result<OwnedFd> {
    let mut dir = open_dir(fs::CWD, &plan.mount)?;
    if fs::filesystem_magic(dir.as_fd())? != libc::CGROUP2_SUPER_MAGIC {
        return Err(anyhow!("{}: is not a cgroup v2 file system", plan.mount.display()));
    }
    let mut path = plan.mount.clone();
    let offered = read_file(dir.as_fd(), "cgroup.controllers")?;
    let mut wanted = available(&offered, plan)?;
    let mut fresh = false;
    for (depth, name) in plan.path.iter().enumerate() {
        let name = Path::new(name);
        let parent = path.clone();
        path.push(name);
        let place = || format!("linux.cgroupsPath {}", path.display());
        // A cgroup of systemd's exists by now.
        let is_new = plan.scope.is_none() && make(dir.as_fd(), name).with_context(place)?;
        if is_new {
            made.push(path.clone());
        }
        // A new cgroup inherits the frozen state of its parent. (The root cgroup cannot be frozen.) This must
        // fail before controllers are enabled in the parent: they stay enabled, and then no process can be in
        // the parent any more.
        if is_new && !fresh && depth > 0 {
            refuse_state(dir.as_fd(), plan, &[FROZEN])?;
        }
        enable(dir.as_fd(), &parent, &mut wanted, fresh)?;
        fresh = is_new;
        dir = open_dir(dir.as_fd(), name).with_context(place)?;
        let is_ours = is_new || depth + 1 == plan.path.iter().count();
        // Below the root, and wherever a domain controller is enabled, every cgroup is a domain.
        if depth > 0 && is_ours && wanted.iter().all(|controller| THREADED.contains(&controller.0)) {
            make_valid(dir.as_fd()).with_context(place)?;
        }
    }
    Ok(dir)
}

/// Whether a missing controller that an update needs is enabled, or only reported if it is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Enabled,
    Reported,
}

/// Enables the controller that a write needs, on the way to a cgroup that exists, or only checks that it is
/// available.
pub(super) fn require_controller(cgroup: &Path, write: &Write, missing: Missing) -> Result<()> {
    let mount = super::Host::probe()?.v2_mount.unwrap_or_default();
    let Ok(path) = cgroup.strip_prefix(&mount) else { return Ok(()) };
    let (path, writes) = (path.to_path_buf(), vec![write.clone()]);
    let plan = &Plan { mount, path, writes, scope: None, controllers: Controllers::default() };
    if missing == Missing::Reported {
        let offered = read_file(open_dir(fs::CWD, &plan.mount)?.as_fd(), "cgroup.controllers")?;
        return available(&offered, plan).map(drop);
    }
    let mut made = Vec::new();
    let walked = make_directories(plan, &mut made);
    // A directory that was created here had been deleted by another command, and must not exist again.
    undo(&mut made);
    walked.map(drop)
}

/// Creates a directory. Returns false if it exists already.
fn make(dir: BorrowedFd, name: &Path) -> sys::Result<bool> {
    let _phase = trace::phase_of("make the cgroup", || name.display());
    match fs::mkdirat(dir, name, 0o755) {
        Ok(()) => Ok(true),
        Err(e) if e.errno == Errno::EEXIST => Ok(false),
        Err(e) => Err(e),
    }
}

/// A controller, and the place in config.json that needs it; `None` if no limit needs it.
pub(super) type Wanted<'a> = (&'a str, Option<&'a str>);

/// Returns the controllers to enable, of those that the mounted hierarchy offers. It is an error of the user if
/// a needed controller is not among them.
fn available<'a>(offered: &'a str, plan: &'a Plan) -> Result<Vec<Wanted<'a>>> {
    let (present, absent) = sorted(offered, plan);
    match absent.iter().find_map(|(name, place)| place.map(|place| (name, place))) {
        Some((name, place)) => Err(unavailable(place, name, &plan.mount, &plan.mount)),
        None => Ok(present),
    }
}

/// Returns the controllers to enable: those that the mounted hierarchy offers, and the others.
pub(super) fn sorted<'a>(offered: &'a str, plan: &'a Plan) -> (Vec<Wanted<'a>>, Vec<Wanted<'a>>) {
    let offered: Vec<&str> = offered.split_whitespace().collect();
    let mut wanted: Vec<Wanted> = Vec::new();
    for write in plan.writes.iter().filter(|w| w.limits()) {
        if let Some(name) = write.controller().filter(|name| !wanted.iter().any(|w| w.0 == *name)) {
            wanted.push((name, Some(&write.place)));
        }
    }
    let others = match plan.controllers {
        Controllers::Accounting => &ACCOUNTING[..],
        Controllers::All => &offered,
    };
    for name in others {
        if !wanted.iter().any(|w| w.0 == *name) {
            wanted.push((name, None));
        }
    }
    wanted.into_iter().partition(|w| offered.contains(&w.0))
}

/// Returns the error for a controller that `dir` does not have. If that is `mount`, the host does not offer it.
pub(super) fn unavailable(place: &str, controller: &str, dir: &Path, mount: &Path) -> anyhow::Error {
    let hint = if dir == mount {
        "cgroup v1 has it, the kernel lacks it, or the cgroup namespace was not given it; see /proc/cgroups"
    } else {
        "it must be delegated: Delegate=yes in the unit of systemd above, or cgroup.subtree_control"
    };
    // crun's words, for which its users look.
    let what = format!("the requested cgroup controller `{controller}` is not available");
    fail(Kind::Unsupported, format!("{place}: {what} in {} (hint: {hint})", dir.display()))
}

/// Enables the controllers for `dir`'s children that are not enabled yet. A controller that no limit needs and
/// that cannot be enabled is dropped from `wanted`.
fn enable(dir: BorrowedFd, path: &Path, wanted: &mut Vec<Wanted>, fresh: bool) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let now = if fresh { String::new() } else { read_file(dir, "cgroup.subtree_control")? };
    let enabled: Vec<&str> = now.split_whitespace().collect();
    let mut missing: Vec<Wanted> = wanted.iter().copied().filter(|w| !enabled.contains(&w.0)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    // The kernel refuses to enable memory and io here, but would enable cpu and pids: then this cgroup
    // becomes "domain threaded", and no cgroup below it can hold a container any more.
    if !fresh && has_own_processes(dir)? {
        if let Some((name, Some(place))) = missing.iter().find(|w| w.1.is_some()) {
            return Err(occupied(place, name, path));
        }
        wanted.retain(|w| !missing.contains(w));
        return Ok(());
    }
    if write_controllers(dir, &missing).is_ok() {
        return Ok(());
    }
    // Enabling all of them at once has failed. Each needed controller must be enabled; the others may fail.
    missing.sort_by_key(|w| w.1.is_none());
    for controller in missing {
        match (write_controllers(dir, &[controller]), controller) {
            (Ok(()), _) => {}
            (Err(_), (name, None)) => wanted.retain(|w| w.0 != name),
            (Err(e), (name, Some(place))) => return Err(not_enabled(dir, path, name, place, e)),
        }
    }
    Ok(())
}

/// Returns the error about a controller that a cgroup cannot enable because of its own processes.
pub(super) fn occupied(place: &str, controller: &str, path: &Path) -> anyhow::Error {
    let why = format!("has processes of its own, and therefore cannot enable the {controller} controller");
    fail(Kind::Unsupported, format!("{place}: {} {why}", path.display()))
}

/// Reports whether a cgroup has processes of its own that forbid it to enable controllers. They do not in the
/// root. In a threaded cgroup, or the root of threaded cgroups, they forbid only what the kernel refuses anyway.
pub(super) fn has_own_processes(dir: BorrowedFd) -> Result<bool> {
    let procs = read_list(dir, "cgroup.procs");
    if procs.is_ok_and(|text| text.is_empty()) {
        return Ok(false);
    }
    Ok(kind(dir)? == "domain")
}

/// Returns the text of `cgroup.type`. The root has no such file.
fn kind(dir: BorrowedFd) -> Result<String> {
    match read_file(dir, "cgroup.type") {
        Err(e) if sys::errno(&e) == Some(Errno::ENOENT) => Ok(String::new()),
        kind => Ok(kind?.trim_end().to_string()),
    }
}

/// Makes a cgroup threaded if it cannot be a domain. Below a threaded cgroup, or one with threaded cgroups below
/// it, only threaded cgroups can have processes (cgroups(7), "thread mode").
fn make_valid(dir: BorrowedFd) -> Result<()> {
    if kind(dir)? == "domain invalid" {
        write_value(dir, "cgroup.type", "threaded")?;
    }
    Ok(())
}

/// Returns the error about a needed controller that could not be enabled.
fn not_enabled(dir: BorrowedFd, path: &Path, name: &str, place: &str, error: sys::Error) -> anyhow::Error {
    if !THREADED.contains(&name) && kind(dir).is_ok_and(|kind| kind.contains("threaded")) {
        let why =
            format!("cgroups below {} are threaded, and cannot have the {name} controller", path.display());
        return fail(Kind::Config, format!("linux.cgroupsPath: {why}, which {place} needs"));
    }
    let offered = read_file(dir, "cgroup.controllers");
    if offered.is_ok_and(|text| !text.split_whitespace().any(|word| word == name)) {
        return unavailable(place, name, path, Path::new(""));
    }
    anyhow!(error).context(format!("{place}: {}", path.display()))
}

fn write_controllers(dir: BorrowedFd, controllers: &[Wanted]) -> sys::Result<()> {
    let _phase = trace::phase("enable controllers");
    let words: Vec<String> = controllers.iter().map(|(name, _)| format!("+{name}")).collect();
    fs::write_at(dir, Path::new("cgroup.subtree_control"), words.join(" ").as_bytes())
}

/// Refuses a cgroup that has processes, since a container must not share it, and a frozen one, in which the
/// container process could never report (runtime.md#create allows to refuse). A new cgroup below a frozen
/// one is frozen too.
pub(super) fn check_unused(dir: BorrowedFd, plan: &Plan) -> Result<()> {
    refuse_state(dir, plan, &[POPULATED, FROZEN])
}

/// A line of `cgroup.events`, and runc's words for the state that it reports.
const POPULATED: (&str, &str) = ("populated 1", NOT_EMPTY);
const FROZEN: (&str, &str) = ("frozen 1", UNEXPECTEDLY_FROZEN);
pub(super) const NOT_EMPTY: &str = "container's cgroup is not empty: it has processes already";
pub(super) const UNEXPECTEDLY_FROZEN: &str = "container's cgroup unexpectedly frozen";

/// Refuses a cgroup whose `cgroup.events` contains one of these lines.
fn refuse_state(dir: BorrowedFd, plan: &Plan, states: &[(&str, &str)]) -> Result<()> {
    let events = read_file(dir, "cgroup.events")?;
    for (state, word) in states {
        if events.lines().any(|line| line == *state) {
            let path = plan.dir();
            return Err(fail(Kind::Config, format!("linux.cgroupsPath {}: {word}", path.display())));
        }
    }
    Ok(())
}

/// Sets one limit.
pub(super) fn apply(directory: &Directory, write: &Write) -> Result<()> {
    let dir = directory.dir();
    if let Some(floor) = write.floor {
        check_floor(Some(&read_file(dir, floor.file)?), write)?;
    }
    let result = write_value(dir, &write.file, &write.value.to_string());
    let Err(e) = result else { return Ok(()) };
    if !fs::absent(dir, Path::new(&write.file), &e) {
        let read = |file: &str| directory.read(file);
        return Err(refused::explain(e.into(), write, read));
    }
    match &write.absent {
        Absent::NoLimit => Ok(()),
        Absent::NoSwap if !host_swaps() => Ok(()),
        Absent::Instead { file, value } => {
            write_value(dir, file, &value.to_string()).with_context(|| write.place.clone())
        }
        Absent::Fails | Absent::NoSwap => {
            let (place, file) = (&write.place, &write.file);
            Err(fail(Kind::Unsupported, format!("{place}: {} has no file {file}", directory.path.display())))
        }
    }
}

/// Refuses a limit below the usage, which `used`, the text of a file, shows. The message has runc's words.
pub(super) fn check_floor(used: Option<&str>, write: &Write) -> Result<()> {
    let used: u64 = used.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let low = |limit: &i128| *limit < used.into();
    let Value::Number(limit @ 0..) = write.value else { return Ok(()) };
    if !low(&limit) {
        return Ok(());
    }
    let total = write.floor.and_then(|floor| floor.total).map(i128::from).filter(low);
    let (what, limit) = total.map_or(("memory", limit), |total| ("memory+swap", total));
    let message = format!("rejecting {what} limit {limit}, which is below the usage, {used}");
    Err(fail(Kind::Config, format!("{}: {message}", write.place)))
}

fn write_value(dir: BorrowedFd, file: &str, value: &str) -> sys::Result<()> {
    let _phase = trace::phase_of("write", || format!("{file} = {value}"));
    fs::write_at(dir, Path::new(file), value.as_bytes())
}

/// Reports whether the host has active swap. /proc/swaps has a heading, and then a line for each swap area.
pub(super) fn host_swaps() -> bool {
    host::procfs().and_then(|proc| read_list(proc, "swaps")).is_ok_and(|text| text.lines().count() > 1)
}
