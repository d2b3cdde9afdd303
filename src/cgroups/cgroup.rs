//! A container's cgroup on the host: what launching and later commands do with it.
//!
//! The container has one directory in v2's hierarchy, or one of the same name in each of v1's hierarchies, or
//! both. If it has one in v2's, that one knows the processes: they are cloned into it, frozen and killed
//! there. Without v2 it is the one in the freezer's hierarchy. Every other question goes to the directory
//! that has the file in question.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;

use super::directory::{self, Directory, remove_parents};
use super::{CgroupRecord, Host, Missing, Plan, Write, device_program, devices, v1, v2};
use crate::error::{Kind, Notes, Result, fail};
use crate::sys::{self, fs};
use crate::trace;

/// Reports whether everything in a recorded cgroup is frozen. A cgroup that no longer exists is not.
pub fn frozen(record: &CgroupRecord) -> Result<bool> {
    // `list` asks this of many containers in a row, so that only the one file is opened.
    let unified = Some(&record.path).filter(|path| !path.as_os_str().is_empty());
    let files = [(unified, "cgroup.events", "frozen 1"), (record.v1.first(), "freezer.state", "FROZEN")];
    for (dir, file, frozen) in files {
        let Some(dir) = dir else { continue };
        match fs::read_text(fs::CWD, &dir.join(file)) {
            Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENODEV) => {}
            text => return Ok(text?.lines().any(|line| line == frozen)),
        }
    }
    Ok(false)
}

/// Reports whether a process is in a recorded cgroup or below it. A cgroup that no longer exists has none.
pub(crate) fn populated(record: &CgroupRecord) -> Result<bool> {
    Cgroup::open(record)?.map_or(Ok(false), |cgroup| cgroup.populated())
}

/// Returns the current value of [`CgroupRecord::id`], or `None` if the directory does not exist.
pub(crate) fn id(record: &CgroupRecord) -> Result<Option<u64>> {
    let Some(dir) = record.dirs().next() else { return Ok(None) };
    Ok(fs::existing(fs::CWD, dir, || fs::stat_at(fs::CWD, dir))?.map(|stat| stat.st_ino))
}

/// Returns whether the recorded cgroup was removed and another one created at its path.
pub(crate) fn is_anothers(record: &CgroupRecord) -> Result<bool> {
    Ok(match record.id {
        Some(ours) => id(record)?.is_some_and(|now| now != ours),
        None => false,
    })
}

/// Removes a recorded cgroup if it has no process and no sub-cgroup. Returns whether it no longer exists.
#[must_use]
pub(crate) fn remove_empty(record: &CgroupRecord) -> bool {
    let _phase = trace::phase("remove the empty cgroup");
    let left = record.dirs().filter(|dir| !directory::remove_empty(dir)).count();
    left == 0
}

/// A container's cgroup on the host.
#[derive(Debug)]
pub struct Cgroup {
    /// The directory in v2's hierarchy.
    pub unified: Option<Directory>,
    /// The directories in v1's hierarchies, the freezer's first. Empty on a host that has only v2.
    pub v1: Vec<Directory>,
}

/// A sub-cgroup of the container's: for the named controllers, or for all if none is named.
#[derive(Debug, PartialEq, Eq)]
pub struct SubCgroup {
    pub controllers: Vec<String>,
    pub path: PathBuf,
}

/// Creates the cgroup and sets its limits, except for v2's device filter ([`attach_filter`]). Returns `None`
/// if a rootless container is refused a cgroup and can run without one. After an error nothing that was
/// created remains.
pub fn create(plan: &Plan, notes: &mut Notes) -> Result<Option<Cgroup>> {
    let _phase = trace::phase_of("cgroup", || {
        let dirs: Vec<_> = plan.dirs().iter().map(|dir| dir.display().to_string()).collect();
        format!("by cgroupfs: {}", dirs.join(" "))
    });
    let mut made = Vec::new();
    let created = create_all(plan, &mut made, notes);
    if created.is_err() {
        remove_parents(&made);
    }
    let created = unless_denied(created, plan.optional(), notes).map_err(|e| explain(e, plan))?;
    Ok(created.filter(|cgroup| cgroup.unified.is_some() || !cgroup.v1.is_empty()))
}

/// Adds runc's words for a cgroup that the caller may not create.
pub(super) fn explain(error: anyhow::Error, plan: &Plan) -> anyhow::Error {
    if !directory::denied(&error) {
        return error;
    }
    let rule = "rootless needs no limits + no cgrouppath when no permission is granted for cgroups";
    let hint = match sys::errno(&error) {
        Some(Errno::EROFS) => " (hint: the cgroup file system is mounted read-only; mount it with rw)".into(),
        _ if plan.rootless => format!(" (hint: {rule})"),
        _ => String::new(),
    };
    error.context(format!("unable to apply cgroup configuration{hint}"))
}

fn create_all(plan: &Plan, made: &mut Vec<PathBuf>, notes: &mut Notes) -> Result<Cgroup> {
    let unified = match &plan.unified {
        Some(unified) => unless_denied(v2::create(unified), plan.unified_is_optional(), notes)?,
        None => None,
    };
    made.extend(unified.iter().flat_map(|directory| directory.made.iter().cloned()));
    let mut v1 = Vec::new();
    for part in &plan.v1 {
        v1.extend(v1::create(part, plan, made, notes)?);
    }
    Ok(Cgroup { unified, v1 })
}

/// Turns an error about missing rights into a warning if the container can run without the cgroup.
fn unless_denied<T>(created: Result<T>, optional: bool, notes: &mut Notes) -> Result<Option<T>> {
    match created {
        Err(e) if optional && directory::denied(&e) => {
            notes.warn(format!("the container gets no cgroup: {e:#}, ignoring"));
            Ok(None)
        }
        created => created.map(Some),
    }
}

/// Attaches v2's device filter. The container's program and the hooks must not run before it.
pub fn attach_filter(cgroup: &Cgroup, plan: &Plan, notes: &mut Notes) -> Result<()> {
    let _phase = trace::phase_of("device filter", || match plan.program() {
        Some(filter) => format!("of {} rules", filter.rules.len()),
        None if plan.devices.is_some() => "by the rules of v1".into(),
        None => "that allows all".into(),
    });
    let (Some(directory), Some(unified)) = (&cgroup.unified, &plan.unified) else { return Ok(()) };
    let (place, filter) = ("linux.resources.devices", plan.program());
    // A program of systemd's stays beside ours, if the configuration has asked systemd for one.
    let fresh = unified.scope.is_some() || directory.made.last() == Some(&directory.path);
    let old = if fresh { device_program::Replaced::None } else { device_program::Replaced::All };
    match device_program::replace(directory.dir(), filter, old) {
        Err(e) if e.errno == Errno::EPERM && plan.rootless => match filter {
            Some(filter) if !filter.only_allows() => Err(e).context(place),
            _ => {
                notes.warn(format!("{place}: {e}, ignoring"));
                Ok(())
            }
        },
        result => result.context(place),
    }
}

/// Sets the limits of the cgroup that systemd has created around the process `pid`.
pub(crate) fn limit(plan: &Plan, pid: i32) -> Result<Cgroup> {
    let _phase = trace::phase("limit the cgroup");
    let unified = plan.unified.as_ref();
    let unified = unified.ok_or_else(|| fail(Kind::Unsupported, "systemd creates cgroups of v2 only"))?;
    Ok(Cgroup { unified: Some(v2::limit(unified, pid)?), v1: Vec::new() })
}

/// Gives the cgroup to a user, except for the files that set its own limits. v1's
/// controllers are not safe in the hands of a user.
pub fn delegate(cgroup: &Cgroup, uid: u32, gid: u32) -> Result<()> {
    let _phase = trace::phase("delegate the cgroup");
    cgroup.unified.as_ref().map_or(Ok(()), |directory| directory.delegate(uid, gid))
}

impl Cgroup {
    /// Opens the recorded cgroup. Returns `None` if it no longer exists, also if another was created at the
    /// same path.
    pub fn open(record: &CgroupRecord) -> Result<Option<Self>> {
        let _phase = trace::phase("open the cgroup");
        let unified = match record.path.as_os_str().is_empty() {
            true => None,
            false => Directory::open(&record.path)?,
        };
        let mut v1 = Vec::new();
        for dir in &record.v1 {
            v1.extend(Directory::open_v1(dir)?);
        }
        let exists = (unified.is_some() || !v1.is_empty()) && !is_anothers(record)?;
        Ok(exists.then_some(Self { unified, v1 }))
    }

    /// Returns the sub-cgroups at `wanted` for the controllers named there, and this cgroup for all others.
    /// Fails if a sub-cgroup does not exist.
    pub fn sub_cgroup(&self, wanted: &[SubCgroup]) -> Result<Self> {
        let mut named = wanted.iter().flat_map(|below| &below.controllers);
        if self.v1.is_empty() && named.clone().next().is_some() {
            return Err(fail(Kind::Usage, "controllers cannot be named on cgroup v2"));
        }
        let host = if self.v1.is_empty() { Host::default() } else { Host::probe()? };
        let hierarchies = self.v1.iter().map(|directory| host.controllers(&directory.path));
        let unified = self.unified.iter().map(|_| &host.v2_controllers[..]);
        let ours: Vec<&String> = hierarchies.chain(unified).flatten().collect();
        if let Some(name) = named.find(|name| !ours.contains(name)) {
            let why = format!("unknown controller {name:?}: the container has no cgroup with it");
            return Err(fail(Kind::Usage, why));
        }
        let mut v1 = Vec::new();
        for directory in &self.v1 {
            let below = sub_path(&directory.path, host.controllers(&directory.path), wanted)?;
            v1.push(Directory::open_v1(&below)?.ok_or_else(|| no_such(&below))?);
        }
        let unified = match &self.unified {
            None => None,
            Some(above) => {
                let below = sub_path(&above.path, &host.v2_controllers, wanted)?;
                Some(Directory::open(&below)?.ok_or_else(|| no_such(&below))?)
            }
        };
        Ok(Self { unified, v1 })
    }

    /// Returns what later commands need in order to find it, without the parents that were created for it.
    #[must_use]
    pub fn record(&self) -> CgroupRecord {
        CgroupRecord {
            manager: "cgroupfs".into(),
            path: self.unified.as_ref().map(|directory| directory.path.clone()).unwrap_or_default(),
            v1: self.v1.iter().map(|directory| directory.path.clone()).collect(),
            ..CgroupRecord::default()
        }
    }

    /// Returns the descriptor for `CLONE_INTO_CGROUP`, which is v2's.
    #[must_use]
    pub fn cgroup_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(Directory::dir)
    }

    /// Opens the files by which a process that was cloned into [`Cgroup::cgroup_fd`] joins v1's hierarchies
    /// ([`join`]).
    pub fn join_fds(&self) -> Result<Vec<OwnedFd>> {
        self.v1.iter().map(Directory::open_procs).collect()
    }

    /// Opens the file by which a process that was cloned outside joins v2's hierarchy. No path is resolved
    /// for it.
    pub fn unified_join_fd(&self) -> Result<Option<OwnedFd>> {
        self.unified.as_ref().map(Directory::open_procs).transpose()
    }

    /// Returns the writes to this cgroup's files that `resources` ask for. With v1 it first looks up which
    /// hierarchy of the host has which controller. Errors go to `notes`.
    pub(crate) fn writes_for(&self, resources: &LinuxResources, notes: &mut Notes) -> Vec<Write> {
        let host = if self.v1.is_empty() { Ok(Host::default()) } else { Host::probe() };
        match host {
            Ok(host) => {
                let (v1, unified) = v1::writes(resources, &host, notes);
                [v1, unified].concat()
            }
            Err(e) => {
                notes.problem("linux.resources", format!("{e:#}"));
                Vec::new()
            }
        }
    }

    /// Returns the directory that has a file of that name. A host with v2 alone has no other directory to
    /// look in.
    pub(super) fn holder(&self, file: &str) -> Result<Option<&Directory>> {
        if self.v1.is_empty() {
            return Ok(self.unified.as_ref());
        }
        for directory in self.v1.iter().chain(&self.unified) {
            if directory.has(file)? {
                return Ok(Some(directory));
            }
        }
        Ok(None)
    }

    /// Returns the text of one of its files, or `None` if there is no such file.
    pub fn read(&self, file: &str) -> Result<Option<String>> {
        self.holder(file)?.map_or(Ok(None), |directory| directory.read(file))
    }

    /// Opens one of its files for reading. Returns `None` if there is no such file.
    pub fn open_file(&self, file: &str) -> Result<Option<OwnedFd>> {
        self.holder(file)?.map_or(Ok(None), |directory| directory.open_file(file))
    }

    /// Writes to one of its files.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        match self.holder(file)? {
            Some(directory) => directory.write(file, value),
            None => Err(fail(Kind::Unsupported, format!("no cgroup hierarchy has {file}"))),
        }
    }

    /// Enables the controller of a file, or only checks that the host has it.
    pub(super) fn require_controller(&self, write: &Write, missing: Missing) -> Result<()> {
        match &self.unified {
            Some(unified) if self.v1.is_empty() || v1::is_v2s(write)? => {
                v2::require_controller(&unified.path, write, missing)
            }
            // A controller of v1 is enabled where it is mounted.
            _ => Ok(()),
        }
    }

    /// Returns why the kernel refuses to clone a process into it, if that is for the number of tasks in it, or
    /// in a cgroup of v2 above it.
    pub(crate) fn full(&self) -> Option<String> {
        let number = |dir: &Path, file| fs::read_text(fs::CWD, &dir.join(file)).ok()?.trim().parse().ok();
        let own = &self.unified.as_ref()?.path;
        own.ancestors().find_map(|dir| {
            let (tasks, most): (u64, u64) = (number(dir, "pids.current")?, number(dir, "pids.max")?);
            let whose = if dir == own { "the container's own" } else { "a parent cgroup's" };
            let which = format!("pids.max of {} is {most}", dir.display());
            (tasks >= most).then(|| format!("{whose} limit on tasks is reached: {which} (hint: pids.limit)"))
        })
    }

    /// Returns the directory of v1's devices controller.
    fn device_rules(&self) -> Result<Option<&Directory>> {
        for directory in &self.v1 {
            if directory.has("devices.list")? {
                return Ok(Some(directory));
            }
        }
        Ok(None)
    }

    /// Replaces the device filter; `None` allows every device.
    pub fn replace_devices(&self, filter: Option<&devices::Filter>) -> Result<()> {
        match (self.device_rules()?, &self.unified) {
            (Some(directory), _) => v1::devices::replace(directory, filter),
            (None, Some(unified)) => {
                Ok(device_program::replace(unified.dir(), filter, device_program::Replaced::Ours)?)
            }
            (None, None) => Ok(()),
        }
    }

    /// Compares the device rules in force with those of a filter.
    pub fn devices(&self, filter: Option<&devices::Filter>) -> Result<devices::DeviceRules> {
        match (self.device_rules()?, &self.unified) {
            (Some(directory), _) => v1::devices::compare(directory, filter),
            (None, Some(unified)) => Ok(device_program::compare(unified.dir(), filter)),
            (None, None) => Ok(devices::DeviceRules::none(filter)),
        }
    }

    /// Returns the directory that knows the container's processes.
    fn leader(&self) -> Option<&Directory> {
        self.unified.as_ref().or(self.v1.first())
    }

    /// Returns the ids of all processes in it and below it, as our own pid namespace knows them.
    pub fn pids(&self) -> Result<Vec<i32>> {
        self.leader().map_or(Ok(Vec::new()), Directory::pids)
    }

    /// Kills every process in it and below it, also processes that are forked at the same time. Does not wait
    /// for their end.
    pub fn kill(&self) -> Result<()> {
        match (&self.unified, self.v1.first()) {
            (Some(unified), freezer) => {
                unified.kill()?;
                freezer.map_or(Ok(()), Directory::thaw_all)
            }
            (None, Some(freezer)) => v1::freezer::kill(freezer),
            (None, None) => Ok(()),
        }
    }

    /// Sends a signal to every process in it and below it. Returns how many were reached.
    pub fn signal_all(&self, signal: i32) -> Result<usize> {
        self.leader().map_or(Ok(0), |directory| directory.signal_all(signal))
    }

    /// Reports whether a process that is not a zombie is in it or below it.
    pub fn populated(&self) -> Result<bool> {
        match (&self.unified, self.v1.first()) {
            (Some(unified), _) => unified.populated(),
            (None, Some(first)) => Ok(!first.pids()?.is_empty()),
            (None, None) => Ok(false),
        }
    }

    /// Returns whether it has sub-cgroups.
    pub fn divided(&self) -> Result<bool> {
        // Each sub-cgroup has a "..".
        self.leader().map_or(Ok(false), |directory| Ok(fs::fstat(directory.dir())?.st_nlink > 2))
    }

    /// Freezes it, and waits until that is done. After an error it is thawed again.
    pub fn freeze(&self, deadline: Instant) -> Result<()> {
        match (&self.unified, self.v1.first()) {
            (Some(unified), _) => unified.freeze(deadline),
            (None, Some(freezer)) => v1::freezer::freeze(freezer, deadline),
            (None, None) => Ok(()),
        }
    }

    /// Thaws it, and waits until that is done. After an error it is frozen again.
    pub fn thaw(&self, deadline: Instant) -> Result<()> {
        match (&self.unified, self.v1.first()) {
            (Some(unified), _) => unified.thaw(deadline),
            (None, Some(freezer)) => v1::freezer::thaw(freezer),
            (None, None) => Ok(()),
        }
    }

    /// Waits until no process is in it or below it. Returns false if the deadline passes first.
    pub fn wait_empty(&self, deadline: Instant) -> Result<bool> {
        match (&self.unified, self.v1.first()) {
            (Some(unified), _) => unified.wait_empty(deadline),
            (None, Some(first)) => v1::freezer::wait_empty(first, deadline),
            (None, None) => Ok(true),
        }
    }

    /// Removes it and its sub-cgroups, once no process is in them any more.
    pub fn remove(self, deadline: Instant) -> Result<()> {
        let unified = self.unified.into_iter().map(|directory| directory.remove(deadline));
        let v1 = self.v1.into_iter().map(|directory| {
            if directory::remove_empty(&directory.path) { Ok(()) } else { directory.remove(deadline) }
        });
        // Every directory is tried, and the first error is returned.
        let results: Vec<Result<()>> = unified.chain(v1).collect();
        results.into_iter().collect()
    }
}

/// Moves the calling process into the cgroups of [`Cgroup::join_fds`].
pub(crate) fn join(join_fds: Vec<OwnedFd>) -> Result<()> {
    let _phase = trace::phase("enter cgroups");
    for procs in &join_fds {
        fs::write_open(procs.as_fd(), b"0").context("joining the cgroup")?;
    }
    fs::close_together(join_fds);
    Ok(())
}

fn no_such(dir: &Path) -> anyhow::Error {
    let missing = sys::text(Errno::ENOENT);
    // runc's words, for which programs look.
    fail(Kind::Usage, format!("error adding pid of the process to cgroups {}: {missing}", dir.display()))
}

/// Returns the path to use instead of `dir`, which is in the hierarchy with these controllers.
fn sub_path(dir: &Path, controllers: &[String], wanted: &[SubCgroup]) -> Result<PathBuf> {
    let meant = |below: &&SubCgroup| {
        below.controllers.is_empty() || below.controllers.iter().any(|name| controllers.contains(name))
    };
    let mut paths: Vec<&PathBuf> = wanted.iter().filter(meant).map(|below| &below.path).collect();
    paths.dedup();
    match paths[..] {
        [] => Ok(dir.into()),
        [path] => Ok(dir.join(path)),
        _ => Err(fail(
            Kind::Usage,
            format!("{} are one hierarchy, and have one cgroup", controllers.join(", ")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of the kernel's form in plain directories show how its numbers are read.
    #[test]
    fn the_nearest_cgroup_without_room_for_a_task_is_found() {
        let top = std::env::temp_dir().join(format!("corten-full-{}", std::process::id()));
        let inner = top.join("slice/c1");
        std::fs::create_dir_all(&inner).unwrap();
        let fill = |dir: &Path, current: &str, max: &str| {
            std::fs::write(dir.join("pids.current"), current).unwrap();
            std::fs::write(dir.join("pids.max"), max).unwrap();
        };
        let dir = directory::open_dir(fs::CWD, &inner).unwrap();
        let unified = Some(Directory { dir, path: inner.clone(), made: Vec::new() });
        let cgroup = Cgroup { unified, v1: Vec::new() };
        assert_eq!(cgroup.full(), None);
        fill(&inner, "2\n", "3\n");
        fill(&top, "9\n", "max\n");
        assert_eq!(cgroup.full(), None);
        let says = |whose: &str, dir: &Path, most: u64| {
            let text = cgroup.full().unwrap();
            let which = format!("pids.max of {} is {most}", dir.display());
            assert!(text.starts_with(whose) && text.contains(&which), "{text}");
        };
        fill(&top, "9\n", "9\n");
        says("a parent cgroup's limit", &top, 9);
        fill(&inner, "4\n", "3\n");
        says("the container's own limit", &inner, 3);
        std::fs::remove_dir_all(top).unwrap();
    }
}
