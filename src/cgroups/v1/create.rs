//! Making the container's cgroups in v1's hierarchies, with their limits, before anyone is inside.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use nix::errno::Errno;

use super::resources::{check_kept, forgettable};
use super::{Cgroup, Part, Plan, file};
use crate::cgroups::resources::Write;
use crate::cgroups::tree::{self, open_dir, read_file, read_list};
use crate::cgroups::v2;
use crate::error::{Kind, Result, fail};
use crate::sys::{self, fs};
use crate::trace;

/// How often a directory may vanish under our hands, because another container was the last in it.
const TRIES: u32 = 10;

/// Makes the cgroups. `None` if a rootless container has to do without and can. On error nothing that was made
/// remains.
pub(in crate::cgroups) fn create(plan: &Plan, warnings: &mut Vec<String>) -> Result<Option<Cgroup>> {
    let mut made = Vec::new();
    match create_all(plan, &mut made, warnings) {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(e) => {
            super::super::remove_parents(&made);
            if denied(&e) && plan.optional() {
                warnings.push(format!("the container gets no cgroup: {e:#}, ignoring"));
                return Ok(None);
            }
            Err(e)
        }
    }
}

/// Whether that is not ours to change.
fn denied(error: &anyhow::Error) -> bool {
    matches!(sys::errno(error), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS))
}

fn create_all(plan: &Plan, made: &mut Vec<PathBuf>, warnings: &mut Vec<String>) -> Result<Cgroup> {
    let unified = plan.unified.as_ref().map(|unified| v2::create(unified, warnings));
    let unified = unified.transpose()?.flatten();
    made.extend(unified.iter().flat_map(|cgroup| cgroup.made.iter().cloned()));
    let mut dirs = Vec::new();
    for part in &plan.parts {
        match make(part, made) {
            Ok(fresh) => {
                dirs.push(part.dir());
                limit(part, plan, fresh, made, warnings)?;
            }
            Err(e) if part.named() && denied(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Cgroup { unified, dirs })
}

/// Makes the directory, and those above it that are missing; tells whether it is new.
fn make(part: &Part, made: &mut Vec<PathBuf>) -> Result<bool> {
    let _phase = trace::phase_of("make the cgroup", || part.dir().display().to_string());
    let dir = part.dir();
    let place = || format!("linux.cgroupsPath {}", dir.display());
    for _ in 0..TRIES {
        match fs::mkdirat(fs::CWD, &dir, 0o755) {
            Ok(()) => {
                made.push(dir);
                return Ok(true);
            }
            Err(e) if e.errno == Errno::EEXIST => return Ok(false),
            Err(e) if e.errno != Errno::ENOENT => return Err(anyhow!(e).context(place())),
            Err(_) => {}
        }
        let mut above = part.mount.clone();
        for name in part.path.parent().into_iter().flatten() {
            above.push(name);
            match fs::mkdirat(fs::CWD, &above, 0o755) {
                Ok(()) => made.push(above.clone()),
                Err(e) if matches!(e.errno, Errno::EEXIST | Errno::ENOENT) => {}
                Err(e) => return Err(anyhow!(e).context(place())),
            }
        }
    }
    Err(anyhow!("those who remove {} do not rest", dir.display()).context(place()))
}

/// Sets the limits and the device rules of a cgroup.
fn limit(part: &Part, plan: &Plan, fresh: bool, made: &[PathBuf], warnings: &mut Vec<String>) -> Result<()> {
    let path = part.dir();
    check_unused(part, &path, fresh)?;
    if part.has("cpuset") {
        inherit(part, made).with_context(|| format!("cpuset of {}", path.display()))?;
    }
    share_realtime(part, made)?;
    if !part.writes.is_empty() {
        let dir = open_dir(fs::CWD, &path)?;
        set(dir.as_fd(), &part.writes, &path)?;
    }
    if !part.has("devices") {
        return Ok(());
    }
    let all = [Write::new("devices.allow", "a", "linux.resources.devices")];
    let rules = match &plan.devices {
        // A new one has what the one above it has.
        None if fresh => return Ok(()),
        None => &all[..],
        Some(rules) => rules,
    };
    match set_devices(&path, rules) {
        Err(e) if plan.rootless && !plan.denies && denied(&e) => {
            warnings.push(format!("{e:#}, ignoring"));
            Ok(())
        }
        other => other,
    }
}

/// A container must not share its cgroup with processes that are there already, nor begin frozen.
fn check_unused(part: &Part, path: &Path, fresh: bool) -> Result<()> {
    let refuse = |word: &str| {
        Err(fail(Kind::Config, format!("linux.cgroupsPath: the cgroup {} {word}", path.display())))
    };
    if !fresh && tree::Cgroup::open_v1(path)?.is_some_and(|found| found.pids().is_ok_and(|p| !p.is_empty())) {
        return refuse("has processes in it already");
    }
    // A new cgroup below a frozen one is frozen too.
    if part.has("freezer") && (!fresh || part.path.components().count() > 1) {
        let state = read_file(fs::CWD, &file(path, "freezer.state").to_string_lossy())?;
        if state.trim() != "THAWED" {
            return refuse("is frozen");
        }
    }
    Ok(())
}

/// Gives processors and memory nodes to the cgroups that have none, from those above: without, nothing can
/// run in them.
fn inherit(part: &Part, made: &[PathBuf]) -> Result<()> {
    let _phase = trace::phase("inherit the cpuset");
    let made: BTreeSet<&PathBuf> = made.iter().collect();
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let mut path = part.mount.clone();
        let mut above = String::new();
        for step in &part.path {
            let parent = file(&path, name);
            path.push(step);
            let own = file(&path, name);
            let empty = made.contains(&path) || fs::read_text(fs::CWD, &own)?.trim().is_empty();
            if !empty {
                above.clear();
                continue;
            }
            if above.is_empty() {
                above = fs::read_text(fs::CWD, &parent)?.trim().to_string();
            }
            let _phase = trace::phase_of("write", || format!("{} = {above}", own.display()));
            fs::write_at(fs::CWD, &own, above.as_bytes())?;
        }
    }
    Ok(())
}

/// Sets limits. In a cgroup that has had others before, one may be against another until that is changed too:
/// such a one has a second try.
fn set(dir: BorrowedFd, writes: &[Write], path: &Path) -> Result<()> {
    let mut again = Vec::new();
    for write in writes {
        match v2::apply(dir, write, path) {
            Err(e) if sys::errno(&e) == Some(Errno::EINVAL) => again.push(write),
            other => other?,
        }
    }
    again.into_iter().try_for_each(|write| v2::apply(dir, write, path))?;
    for write in writes.iter().filter(|w| forgettable(&w.file) && w.limits()) {
        check_kept(&read_list(dir, &write.file)?, write)?;
    }
    Ok(())
}

/// Gives realtime to the cgroups above that we have made, as much as the container is to have: a new one has none, and
/// can give none.
fn share_realtime(part: &Part, made: &[PathBuf]) -> Result<()> {
    let shared: Vec<&Write> = part.writes.iter().filter(|w| w.file.starts_with("cpu.rt_")).collect();
    let mut above = part.mount.clone();
    for name in part.path.parent().filter(|_| !shared.is_empty()).into_iter().flatten() {
        above.push(name);
        if made.contains(&above) {
            shared.iter().try_for_each(|write| {
                let _phase = trace::phase_of("write", || format!("{} = {}", write.file, write.value));
                fs::write_at(fs::CWD, &file(&above, &write.file), write.value.to_string().as_bytes())
                    .with_context(|| write.place.clone())
            })?;
        }
    }
    Ok(())
}

/// Writes device rules, each file opened once for as many as follow each other.
fn set_devices(path: &Path, rules: &[Write]) -> Result<()> {
    let _phase = trace::phase("device rules");
    for rules in rules.chunk_by(|a, b| a.file == b.file) {
        let _phase = trace::phase_of("write", || format!("{}, rules: {}", rules[0].file, rules.len()));
        let values: Vec<String> = rules.iter().map(|rule| rule.value.to_string()).collect();
        let values = values.iter().map(String::as_bytes);
        let place = || rules[0].place.clone();
        fs::write_each(fs::CWD, &file(path, &rules[0].file), values).with_context(place)?;
    }
    Ok(())
}
