//! cgroup v2 by its files: making a cgroup with its limits, before anyone is inside.
//!
//! Kernel rules that shape this: a controller must be enabled in every ancestor's `cgroup.subtree_control`,
//! from the top down; a cgroup with processes of its own cannot enable one (but for the root); a cgroup that
//! is being removed answers ENODEV. What a container may do in its own sub-tree does not matter here: only
//! directories above it are opened, from the mount down, one name at a time and without following links.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use nix::errno::Errno;

use super::resources::{Absent, Write};
pub use super::tree::Cgroup;
use super::tree::{open_dir, read_file, read_list, vanished};
use super::{Value, devices, systemd};
use crate::error::{Kind, Result, fail};
use crate::sys::{self, bpf, fs};
use crate::{host, trace};

/// Controllers that are enabled wherever they are available, though nothing is limited: without them there
/// are no figures, and `docker stats` and its like read them from our cgroup themselves.
const ACCOUNTING: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// How often a directory may vanish under our hands, because another container was the last in it.
const TRIES: u32 = 10;

/// The cgroup to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where cgroup v2 is mounted.
    pub mount: PathBuf,
    /// The cgroup, below the mount: plain names, without a leading slash.
    pub path: PathBuf,
    /// systemd makes it, as this unit.
    pub scope: Option<systemd::Scope>,
    pub writes: Vec<Write>,
    /// `None` if every device is allowed.
    pub devices: Option<devices::Filter>,
    pub rootless: bool,
}

impl Plan {
    /// The cgroup's directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.mount.join(&self.path)
    }

    /// Whether the container may run without it.
    #[must_use]
    pub fn optional(&self) -> bool {
        self.rootless
            && self.scope.is_none()
            && !self.writes.iter().any(Write::limits)
            && self.devices.as_ref().is_none_or(devices::Filter::only_allows)
    }
}

/// The directories of the plan that do not exist yet, outermost first: what [`create`] is about to make, for
/// a record of it that outlives a crash.
#[must_use]
pub fn missing(plan: &Plan) -> Vec<PathBuf> {
    // Slices come and go as systemd sees fit.
    let ours = if plan.scope.is_some() { 1 } else { plan.path.components().count() };
    missing_in(plan.dir(), ours)
}

/// Those of a directory and the `count - 1` above it.
pub(super) fn missing_in(dir: PathBuf, count: usize) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = dir.ancestors().take(count).map(Into::into).collect();
    dirs.reverse();
    let first = dirs.iter().position(|dir| fs::open(fs::CWD, dir, fs::O_PATH, 0).is_err());
    first.map_or_else(Vec::new, |first| dirs.split_off(first))
}

/// Makes the cgroup and sets its limits, but for the devices ([`watch`]). `None` if a rootless container has to do without and can. On error
/// nothing that was made remains; controllers that were enabled in ancestors stay so, since others may use
/// them by now.
pub fn create(plan: &Plan, warnings: &mut Vec<String>) -> Result<Option<Cgroup>> {
    let mut made = Vec::new();
    let mut tries = 0;
    let result = loop {
        tries += 1;
        match make_directories(plan, &mut made) {
            Err(e) if vanished(&e) && tries < TRIES => undo(&mut made),
            other => break other,
        }
    };
    let result = result.and_then(|dir| {
        let fresh = made.last() == Some(&plan.dir());
        if !fresh {
            check_unused(dir.as_fd(), plan)?;
        }
        if !plan.writes.is_empty() {
            let path = plan.dir();
            plan.writes.iter().try_for_each(|write| apply(dir.as_fd(), write, &path))?;
        }
        Ok(dir)
    });
    match result {
        Ok(dir) => Ok(Some(Cgroup { dir, path: plan.dir(), made })),
        Err(e) => {
            undo(&mut made);
            let denied = matches!(sys::errno(&e), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS));
            if denied && plan.optional() {
                warnings.push(format!("the container gets no cgroup: {e:#}, ignoring"));
                return Ok(None);
            }
            Err(e)
        }
    }
}

/// Sets the limits of the cgroup that systemd has made, where the process waits to go on; into a slice's it is put here,
/// since systemd puts none there.
pub fn limit(plan: &Plan, pid: i32) -> Result<Cgroup> {
    let path = plan.dir();
    let dir = make_directories(plan, &mut Vec::new())?;
    // Frozen, it could never go on.
    refuse_state(dir.as_fd(), plan, &[("frozen 1", "is frozen")])?;
    plan.writes.iter().try_for_each(|write| apply(dir.as_fd(), write, &path))?;
    let cgroup = Cgroup { dir, path, made: Vec::new() };
    if plan.scope.as_ref().is_some_and(|scope| scope.unit.is_slice()) {
        write_value(cgroup.dir(), "cgroup.procs", &pid.to_string()).context("linux.cgroupsPath")?;
    }
    if cgroup.pids()?.contains(&pid) {
        return Ok(cgroup);
    }
    let message =
        "systemd has put the process into another cgroup (hint: is systemd in another cgroup namespace?)";
    Err(fail(Kind::Unsupported, format!("linux.cgroupsPath {}: {message}", plan.dir().display())))
}

/// Removes what was made, innermost first. Best effort: this happens on the way out of an error, which tells
/// more.
fn undo(made: &mut Vec<PathBuf>) {
    while let Some(dir) = made.pop() {
        let _ = fs::unlinkat(fs::CWD, &dir, true);
    }
}

/// Walks from the mount to the cgroup, makes what is missing, enables controllers on the way.
fn make_directories(plan: &Plan, made: &mut Vec<PathBuf>) -> Result<OwnedFd> {
    let mut dir = open_dir(fs::CWD, &plan.mount)?;
    if fs::filesystem_magic(dir.as_fd())? != libc::CGROUP2_SUPER_MAGIC {
        return Err(anyhow!("{}: is not a cgroup v2 file system", plan.mount.display()));
    }
    let mut path = plan.mount.clone();
    let mut wanted = available(dir.as_fd(), plan)?;
    let mut fresh = false;
    for (depth, name) in plan.path.iter().enumerate() {
        let name = Path::new(name);
        let parent = path.clone();
        path.push(name);
        let place = || format!("linux.cgroupsPath {}", path.display());
        // What systemd is to make is there by now.
        let is_new = plan.scope.is_none() && make(dir.as_fd(), name).with_context(place)?;
        if is_new {
            made.push(path.clone());
        }
        // The first new one is frozen if what it is in is (the root never is). This must fail before controllers are
        // enabled there: they stay, and then no process can be in that cgroup any more.
        if is_new && !fresh && depth > 0 {
            refuse_state(dir.as_fd(), plan, &[("frozen 1", "is frozen")])?;
        }
        enable(dir.as_fd(), &parent, &mut wanted, fresh)?;
        fresh = is_new;
        dir = open_dir(dir.as_fd(), name).with_context(place)?;
    }
    Ok(dir)
}

/// Enables what a write needs on the way to a cgroup that exists; without `enable`, only finds out whether it is
/// available at all.
pub(super) fn enable_for(cgroup: &Path, write: &Write, enable: bool) -> Result<()> {
    let mount = super::Host::probe(false)?.v2_mount.unwrap_or_default();
    let Ok(path) = cgroup.strip_prefix(&mount) else { return Ok(()) };
    let (path, writes) = (path.to_path_buf(), vec![write.clone()]);
    let plan = &Plan { mount, path, writes, devices: None, rootless: false, scope: None };
    if !enable {
        return available(open_dir(fs::CWD, &plan.mount)?.as_fd(), plan).map(drop);
    }
    let mut made = Vec::new();
    let walked = make_directories(plan, &mut made);
    // It was deleted meanwhile: not ours to make anew.
    undo(&mut made);
    walked.map(drop)
}

/// Makes a directory; false if it is there already.
fn make(dir: BorrowedFd, name: &Path) -> sys::Result<bool> {
    let _phase = trace::phase_of("make the cgroup", || name.display());
    match fs::mkdirat(dir, name, 0o755) {
        Ok(()) => Ok(true),
        Err(e) if e.errno == Errno::EEXIST => Ok(false),
        Err(e) => Err(e),
    }
}

/// A controller, and the place that needs it; `None` if it is only wanted for its figures.
type Wanted<'a> = (&'a str, Option<&'a str>);

/// The controllers to enable. One that is needed and not there is the user's error.
fn available<'a>(mount: BorrowedFd, plan: &'a Plan) -> Result<Vec<Wanted<'a>>> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for write in plan.writes.iter().filter(|w| w.limits()) {
        if let Some(name) = write.controller().filter(|name| !wanted.iter().any(|w| w.0 == *name)) {
            wanted.push((name, Some(&write.place)));
        }
    }
    for name in ACCOUNTING {
        if !wanted.iter().any(|w| w.0 == name) {
            wanted.push((name, None));
        }
    }
    let offered = read_file(mount, "cgroup.controllers")?;
    let offered: Vec<&str> = offered.split_whitespace().collect();
    let (present, absent): (Vec<Wanted>, Vec<Wanted>) =
        wanted.into_iter().partition(|w| offered.contains(&w.0));
    match absent.iter().find_map(|(name, place)| place.map(|place| (name, place))) {
        Some((name, place)) => Err(unavailable(place, name, &plan.mount)),
        None => Ok(present),
    }
}

fn unavailable(place: &str, controller: &str, dir: &Path) -> anyhow::Error {
    let message = format!("{place}: the {controller} controller is not available in {}", dir.display());
    fail(Kind::Unsupported, message)
}

/// Enables in `dir`'s children what is not enabled yet. What only figures want, and cannot have, is no
/// longer wanted below.
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
    // The kernel refuses to share out a controller of memory or IO here, but would take cpu and pids: then
    // this cgroup becomes "domain threaded", and none below it can hold a container any more.
    if !fresh && has_own_processes(dir)? {
        if let Some((name, Some(place))) = missing.iter().find(|w| w.1.is_some()) {
            let why = format!("has processes of its own, and so cannot share out the {name} controller");
            return Err(fail(Kind::Unsupported, format!("{place}: {} {why}", path.display())));
        }
        wanted.retain(|w| !missing.contains(w));
        return Ok(());
    }
    if write_controllers(dir, &missing).is_ok() {
        return Ok(());
    }
    // Together they failed. What is needed must pass; of the others each may.
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

/// Whether a cgroup has processes directly inside, and is not the root, to which no such rule applies (it
/// alone has no `cgroup.type`).
fn has_own_processes(dir: BorrowedFd) -> Result<bool> {
    let procs = read_list(dir, "cgroup.procs");
    if procs.is_ok_and(|text| text.is_empty()) {
        return Ok(false);
    }
    match fs::open(dir, Path::new("cgroup.type"), fs::O_PATH, 0) {
        Ok(_) => Ok(true),
        Err(e) if e.errno == Errno::ENOENT => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Why a controller that is needed could not be enabled.
fn not_enabled(dir: BorrowedFd, path: &Path, name: &str, place: &str, error: sys::Error) -> anyhow::Error {
    let offered = read_file(dir, "cgroup.controllers");
    if offered.is_ok_and(|text| !text.split_whitespace().any(|word| word == name)) {
        return unavailable(place, name, path);
    }
    anyhow!(error).context(format!("{place}: {}", path.display()))
}

fn write_controllers(dir: BorrowedFd, controllers: &[Wanted]) -> sys::Result<()> {
    let _phase = trace::phase("enable controllers");
    let words: Vec<String> = controllers.iter().map(|(name, _)| format!("+{name}")).collect();
    fs::write_at(dir, Path::new("cgroup.subtree_control"), words.join(" ").as_bytes())
}

/// A container must not share its cgroup with processes that are there already, nor be born frozen: it could
/// never answer (runtime.md#create lets us refuse). A new cgroup below a frozen one is frozen too.
fn check_unused(dir: BorrowedFd, plan: &Plan) -> Result<()> {
    refuse_state(dir, plan, &[("populated 1", "has processes in it already"), ("frozen 1", "is frozen")])
}

/// Refuses a cgroup of which `cgroup.events` says one of these lines.
fn refuse_state(dir: BorrowedFd, plan: &Plan, states: &[(&str, &str)]) -> Result<()> {
    let events = read_file(dir, "cgroup.events")?;
    for (state, word) in states {
        if events.lines().any(|line| line == *state) {
            let path = plan.dir();
            return Err(fail(
                Kind::Config,
                format!("linux.cgroupsPath: the cgroup {} {word}", path.display()),
            ));
        }
    }
    Ok(())
}

/// Sets one limit.
pub(super) fn apply(dir: BorrowedFd, write: &Write, path: &Path) -> Result<()> {
    if let Some(file) = write.floor {
        check_floor(Some(&read_file(dir, file)?), write)?;
    }
    let result = write_value(dir, &write.file, &write.value.to_string());
    let Err(e) = result else { return Ok(()) };
    if !fs::absent(dir, Path::new(&write.file), &e) {
        return Err(anyhow!(e).context(write.place.clone()));
    }
    match &write.absent {
        Absent::NoLimit => Ok(()),
        Absent::NoSwap if !host_swaps() => Ok(()),
        Absent::Instead { file, value } => {
            write_value(dir, file, &value.to_string()).with_context(|| write.place.clone())
        }
        Absent::Fails | Absent::NoSwap => {
            let (place, file) = (&write.place, &write.file);
            Err(fail(Kind::Unsupported, format!("{place}: {} has no file {file}", path.display())))
        }
    }
}

/// Refuses a limit below what `used`, the text of a file, says to be in use.
pub(super) fn check_floor(used: Option<&str>, write: &Write) -> Result<()> {
    let used: u64 = used.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    match write.value {
        Value::Number(limit @ 0..) if limit < used.into() => {
            let place = &write.place;
            Err(fail(Kind::Config, format!("{place}: {limit} is below the usage, {used}")))
        }
        _ => Ok(()),
    }
}

fn write_value(dir: BorrowedFd, file: &str, value: &str) -> sys::Result<()> {
    let _phase = trace::phase_of("write", || format!("{file} = {value}"));
    fs::write_at(dir, Path::new(file), value.as_bytes())
}

/// Whether any swap is active: the list has a heading and then a line for each.
pub(super) fn host_swaps() -> bool {
    host::procfs().and_then(|proc| read_list(proc, "swaps")).is_ok_and(|text| text.lines().count() > 1)
}

/// Attaches the device filter, in the place of those of an earlier user of the cgroup.
pub fn watch(cgroup: &Cgroup, plan: &Plan, warnings: &mut Vec<String>) -> Result<()> {
    let place = "linux.resources.devices";
    // Beside a program of systemd's, if the configuration has asked it for one.
    let fresh = plan.scope.is_some() || cgroup.made.last() == Some(&cgroup.path);
    let old = if fresh { Replaced::None } else { Replaced::All };
    match replace_device_program(cgroup.dir(), plan.devices.as_ref(), old) {
        Err(e) if e.errno == Errno::EPERM && plan.rootless => match &plan.devices {
            Some(filter) if !filter.only_allows() => Err(anyhow!(e).context(place)),
            _ => {
                warnings.push(format!("{place}: {e}, ignoring"));
                Ok(())
            }
        },
        result => result.context(place),
    }
}

/// The name that tells our programs from others'.
const PROGRAM: [u8; 16] = *b"corten_devices\0\0";

/// Whose device programs a new one takes the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The cgroup is new: there are none but the maker's.
    None,
    /// Those of ours. Others', such as systemd's, hold beside it.
    Ours,
    /// All, as an earlier user of the cgroup may have left them.
    All,
}

/// Puts one program in the place of those that are attached. With at most one of them, as is the rule, no
/// moment passes in which none or both hold; `None` takes the filter away.
pub fn replace_device_program(
    dir: BorrowedFd,
    filter: Option<&devices::Filter>,
    replaced: Replaced,
) -> sys::Result<()> {
    let old = match replaced {
        Replaced::None => Vec::new(),
        Replaced::Ours => attached(dir, |program| program.name == PROGRAM)?,
        Replaced::All => attached(dir, |_| true)?,
    };
    let mut leftover = &old[..];
    if let Some(filter) = filter {
        let program = bpf::load_device_program(&filter.compile(), &PROGRAM)?;
        let place = match &old[..] {
            [one] => {
                leftover = &[];
                Some(one.as_fd())
            }
            _ => None,
        };
        bpf::attach_device_program(dir, program.as_fd(), place)?;
    }
    for program in leftover {
        bpf::detach_device_program(dir, program.as_fd())?;
    }
    Ok(())
}

/// The device program in force, beside that of a filter.
pub(super) fn device_rules(dir: BorrowedFd, filter: Option<&devices::Filter>) -> devices::DeviceRules {
    let (applied, same) = match device_program_is(dir, filter) {
        Ok((0, same)) => ("none".to_string(), same),
        Ok((1, true)) => ("a program".to_string(), true),
        Ok((count, _)) => (format!("{count} programs, not as asked"), false),
        Err(e) => (e.to_string(), false),
    };
    let none = devices::DeviceRules::none(filter);
    devices::DeviceRules { file: "bpf(PROG_QUERY)", applied, same, ..none }
}

/// The device programs of a cgroup that are wanted.
fn attached(dir: BorrowedFd, wanted: impl Fn(bpf::Program) -> bool) -> sys::Result<Vec<OwnedFd>> {
    let mut programs = Vec::new();
    for id in bpf::device_programs(dir)? {
        let program = bpf::program_by_id(id)?;
        if wanted(bpf::program_info(program.as_fd())?) {
            programs.push(program);
        }
    }
    Ok(programs)
}

/// How many device programs are attached, and whether they are what the filter comes to: one program, this one, or none
/// where every device is allowed.
fn device_program_is(dir: BorrowedFd, filter: Option<&devices::Filter>) -> sys::Result<(usize, bool)> {
    let attached = bpf::device_programs(dir)?;
    let Some(filter) = filter else { return Ok((attached.len(), attached.is_empty())) };
    let [id] = attached[..] else { return Ok((attached.len(), false)) };
    let wanted = bpf::load_device_program(&filter.compile(), &PROGRAM)?;
    let tag = |program: &OwnedFd| bpf::program_info(program.as_fd()).map(|program| program.tag);
    Ok((1, tag(&bpf::program_by_id(id)?)? == tag(&wanted)?))
}
