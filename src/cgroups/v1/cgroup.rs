//! A container's cgroups that exist in v1's hierarchies.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nix::errno::Errno;

use super::devices::List;
use crate::cgroups::devices::{DeviceRules, Filter};
use crate::cgroups::{Below, Host, Write, tree, v2};
use crate::error::{Kind, Problems, Result, fail};
use crate::state::CgroupRecord;
use crate::sys::{self, fs};
use crate::trace;

/// How long the processes may take to stand still before they are killed all the same.
const STILL: Duration = Duration::from_millis(500);

/// A container's cgroups on the host.
#[derive(Debug)]
pub struct Cgroup {
    /// Where there is v2 too: it knows the processes.
    pub unified: Option<v2::Cgroup>,
    /// The others, the freezer's first.
    pub dirs: Vec<PathBuf>,
}

/// Moves the calling process into cgroups, by [`Cgroup::doors`].
pub fn enter(doors: Vec<OwnedFd>) -> Result<()> {
    let _phase = trace::phase("enter cgroups");
    for door in &doors {
        fs::write_open(door.as_fd(), b"0").context("joining the cgroup")?;
    }
    fs::close_together(doors);
    Ok(())
}

/// What gives a filter's rules to a cgroup, whatever rules it has had.
fn device_writes(filter: Option<&Filter>) -> Result<Vec<Write>> {
    let Some(filter) = filter else {
        return Ok(vec![Write::new("devices.allow", "a", "linux.resources.devices")]);
    };
    let mut problems = Problems::default();
    let writes = super::devices::lower(filter, &mut problems);
    problems.into_result().map(|()| writes)
}

/// Whether there is such a file. One that cannot be looked at for another reason is not taken for one that is gone: its
/// cgroup would be left behind, its limit not be set.
fn exists(path: &Path) -> sys::Result<bool> {
    match fs::open(fs::CWD, path, fs::O_PATH, 0) {
        Err(e) if fs::absent(fs::CWD, path, &e) => Ok(false),
        other => other.map(|_| true),
    }
}

fn no_such(dir: &Path) -> anyhow::Error {
    fail(Kind::Usage, format!("there is no such cgroup, {}", dir.display()))
}

/// The cgroup to take instead of one in a hierarchy with these controllers.
fn place_below(dir: &Path, controllers: &[String], wanted: &[Below]) -> Result<PathBuf> {
    let meant = |below: &&Below| {
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

impl Cgroup {
    /// The cgroups on record; `None` if all are gone.
    pub(in crate::cgroups) fn open(record: &CgroupRecord) -> Result<Option<Self>> {
        let unified = match record.path.as_os_str().is_empty() {
            true => None,
            false => v2::Cgroup::open(&record.path)?,
        };
        let mut dirs = Vec::new();
        for dir in &record.v1 {
            if exists(dir)? {
                dirs.push(dir.clone());
            }
        }
        Ok((unified.is_some() || !dirs.is_empty()).then_some(Self { unified, dirs }))
    }

    /// These cgroups, but for some or all controllers those at a path below; an error tells what is not there.
    pub(in crate::cgroups) fn below(&self, wanted: &[Below]) -> Result<Self> {
        let host = Host::probe(false)?;
        let controllers = |dir: &Path| {
            let hierarchy = host.v1.iter().find(|hierarchy| dir.starts_with(&hierarchy.mount));
            hierarchy.map_or(&[][..], |hierarchy| &hierarchy.controllers)
        };
        let ours = self.dirs.iter().flat_map(|dir| controllers(dir));
        let ours: Vec<&String> = ours.chain(self.unified.iter().flat_map(|_| &host.v2_controllers)).collect();
        if let Some(name) =
            wanted.iter().flat_map(|below| &below.controllers).find(|name| !ours.contains(name))
        {
            let why = format!("the container has no cgroup with the controller {name:?}");
            return Err(fail(Kind::Usage, why));
        }
        let mut dirs = Vec::new();
        for dir in &self.dirs {
            let below = place_below(dir, controllers(dir), wanted)?;
            tree::Cgroup::open_v1(&below)?.ok_or_else(|| no_such(&below))?;
            dirs.push(below);
        }
        let unified = match &self.unified {
            None => None,
            Some(above) => {
                let below = place_below(&above.path, &host.v2_controllers, wanted)?;
                Some(v2::Cgroup::open(&below)?.ok_or_else(|| no_such(&below))?)
            }
        };
        Ok(Self { unified, dirs })
    }

    pub(in crate::cgroups) fn record(&self) -> CgroupRecord {
        CgroupRecord {
            manager: "cgroupfs".into(),
            path: self.unified.as_ref().map(|cgroup| cgroup.path.clone()).unwrap_or_default(),
            v1: self.dirs.clone(),
            ..CgroupRecord::default()
        }
    }

    /// By which a process enters, each with the right of whoever has opened them.
    pub fn doors(&self) -> Result<Vec<OwnedFd>> {
        let open = |dir: &PathBuf| fs::open(fs::CWD, &dir.join("cgroup.procs"), fs::O_WRONLY, 0);
        Ok(self.dirs.iter().map(open).collect::<sys::Result<_>>()?)
    }

    /// The cgroup that has a file of that name.
    pub(in crate::cgroups) fn holder(&self, file: &str) -> Result<Option<tree::Cgroup>> {
        let unified = self.unified.as_ref().map(|cgroup| cgroup.path.as_path());
        for dir in self.dirs.iter().map(PathBuf::as_path).chain(unified) {
            if exists(&dir.join(file))? {
                return tree::Cgroup::open_v1(dir);
            }
        }
        Ok(None)
    }

    /// Gives the rules anew. v1 has no way to exchange all of them at once: what differs is written where it is known,
    /// else all, one after the other.
    pub(in crate::cgroups) fn replace_devices(&self, filter: Option<&Filter>) -> Result<()> {
        let Some(holder) = self.holder("devices.allow")? else {
            let unified = self.unified.as_ref().map(v2::Cgroup::dir);
            return Ok(
                unified.map_or(Ok(()), |dir| v2::replace_device_program(dir, filter, v2::Replaced::Ours))?
            );
        };
        let writes = device_writes(filter)?;
        let now = List::parse(&holder.read("devices.list")?.unwrap_or_default());
        let steps = now.steps(&List::of(&writes)).unwrap_or(writes);
        steps.iter().try_for_each(|write| holder.write(&write.file, &write.value.to_string()))
    }

    /// The device rules that are in force, beside those of a filter.
    pub(in crate::cgroups) fn devices(&self, filter: Option<&Filter>) -> Result<DeviceRules> {
        let Some(text) =
            self.holder("devices.list")?.map_or(Ok(None), |holder| holder.read("devices.list"))?
        else {
            let unified = self.unified.as_ref().map(|cgroup| v2::device_rules(cgroup.dir(), filter));
            return Ok(unified.unwrap_or_else(|| DeviceRules::none(filter)));
        };
        let (asked, now) = (List::of(&device_writes(filter)?), List::parse(&text));
        let (same, file) = (now.looks_like(&asked), "devices.list");
        Ok(DeviceRules { file, asked: asked.words(), applied: now.words(), same })
    }

    /// Acts on the cgroup that knows the processes, without v2.
    fn lead<T>(&self, act: impl FnOnce(&tree::Cgroup) -> Result<T>) -> Result<Option<T>> {
        let Some(first) = self.dirs.first() else { return Ok(None) };
        tree::Cgroup::open_v1(first)?.map(|found| act(&found)).transpose()
    }

    pub fn pids(&self) -> Result<Vec<i32>> {
        match &self.unified {
            Some(cgroup) => cgroup.pids(),
            None => Ok(self.lead(tree::Cgroup::pids)?.unwrap_or_default()),
        }
    }

    pub fn signal_all(&self, signal: i32) -> Result<usize> {
        match &self.unified {
            Some(cgroup) => cgroup.signal_all(signal),
            None => Ok(self.lead(|found| found.signal_all(signal))?.unwrap_or(0)),
        }
    }

    /// Kills everything inside. Frozen, nobody forks away; but who is frozen does not die either, and the container may
    /// have frozen cgroups below.
    pub fn kill(&self) -> Result<()> {
        if let Some(cgroup) = &self.unified {
            cgroup.kill()?;
            return self.lead(tree::Cgroup::thaw_all).map(drop);
        }
        for _ in 0..100 {
            let still = self.has_freezer() && self.await_freezer(Instant::now() + STILL)?;
            let sent = self.signal_all(libc::SIGKILL);
            self.lead(tree::Cgroup::thaw_all)?;
            if sent? == 0 || still {
                break;
            }
        }
        Ok(())
    }

    pub fn populated(&self) -> Result<bool> {
        match &self.unified {
            Some(cgroup) => cgroup.populated(),
            None => Ok(!self.pids()?.is_empty()),
        }
    }

    pub fn wait_empty(&self, deadline: Instant) -> Result<bool> {
        if let Some(cgroup) = &self.unified {
            return cgroup.wait_empty(deadline);
        }
        // v1 has no file that tells.
        let mut pause = Duration::from_micros(200);
        while self.populated()? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(true)
    }

    pub fn frozen(&self) -> Result<bool> {
        match &self.unified {
            Some(cgroup) => cgroup.frozen(),
            None => Ok(self.freezer_state()?.is_some_and(|state| state == "FROZEN")),
        }
    }

    /// Freezes or thaws, and waits until it is so. After an error it is as it was before.
    pub fn freeze(&self, freeze: bool, deadline: Instant) -> Result<()> {
        if let Some(cgroup) = &self.unified {
            return cgroup.freeze(freeze, deadline);
        }
        let path = self.dirs.first().map(|dir| dir.display().to_string()).unwrap_or_default();
        if !self.has_freezer() {
            return Err(anyhow!("no cgroup hierarchy with the freezer controller is mounted"));
        }
        let (frozen, back) = if freeze {
            let late = || anyhow!("{path}: did not freeze in time, thawed again");
            (self.await_freezer(deadline).and_then(|frozen| frozen.then_some(()).ok_or_else(late)), "THAWED")
        } else {
            (self.thaw(&path), "FROZEN")
        };
        frozen.inspect_err(|_| tree::warn_undone(self.set_freezer(back)))
    }

    fn thaw(&self, path: &str) -> Result<()> {
        self.set_freezer("THAWED")?;
        match self.freezer_state()?.as_deref() {
            None | Some("THAWED") => Ok(()),
            Some(_) => Err(anyhow!("{path}: did not thaw (hint: a cgroup above it may be frozen)")),
        }
    }

    fn has_freezer(&self) -> bool {
        matches!(self.freezer_state(), Ok(Some(_)))
    }

    fn freezer(&self) -> Option<PathBuf> {
        self.dirs.first().map(|dir| dir.join("freezer.state"))
    }

    /// What the freezer says; `None` without one.
    fn freezer_state(&self) -> Result<Option<String>> {
        let Some(file) = self.freezer() else { return Ok(None) };
        match fs::read_text(fs::CWD, &file) {
            Err(e) if e.errno == Errno::ENODEV || fs::absent(fs::CWD, &file, &e) => Ok(None),
            other => Ok(Some(other?.trim().to_string())),
        }
    }

    /// Tells the freezer what to do, if there is one.
    fn set_freezer(&self, state: &str) -> Result<()> {
        let Some(file) = self.freezer() else { return Ok(()) };
        match fs::write_at(fs::CWD, &file, state.as_bytes()) {
            Err(e) if e.errno == Errno::ENODEV || fs::absent(fs::CWD, &file, &e) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Freezes, and waits until all stand still; false if the deadline passes first.
    fn await_freezer(&self, deadline: Instant) -> Result<bool> {
        let mut pause = Duration::from_micros(200);
        loop {
            // Said again each time: the kernel then looks anew at those who could not be frozen.
            self.set_freezer("FROZEN")?;
            match self.freezer_state()?.as_deref() {
                None | Some("FROZEN") => return Ok(true),
                Some(_) if Instant::now() >= deadline => return Ok(false),
                Some(_) => {}
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Removes the cgroups and all below them, once nothing runs in them any more.
    pub fn remove(self, deadline: Instant) -> Result<()> {
        let unified = self.unified.map(|cgroup| cgroup.remove(deadline));
        let others = self.dirs.iter().map(|dir| {
            if tree::remove_empty(dir) {
                return Ok(());
            }
            tree::Cgroup::open_v1(dir)?.map_or(Ok(()), |found| found.remove(deadline))
        });
        // All are tried, and the first error is told.
        let results: Vec<Result<()>> = unified.into_iter().chain(others).collect();
        results.into_iter().collect()
    }
}
