//! The creation of a cgroup in a hierarchy of v1 with its limits, before a process is in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use nix::errno::Errno;

use super::Part;
use super::resources::{check_kept, forgettable};
use crate::cgroups::directory::{Directory, TRIES, denied, open_dir, read_file, read_list};
use crate::cgroups::resources::Write;
use crate::cgroups::{Plan, v2};
use crate::error::{Kind, Notes, Result, fail};
use crate::sys::{self, fs};
use crate::trace;

/// Creates the cgroup in one hierarchy, and sets its limits. The directories that it creates are added to
/// `made`. Returns `None` for a hierarchy of a service manager that we may not join.
pub(in crate::cgroups) fn create(
    part: &Part,
    plan: &Plan,
    made: &mut Vec<PathBuf>,
    notes: &mut Notes,
) -> Result<Option<Directory>> {
    let fresh = match make(part, made) {
        Err(e) if part.named() && denied(&e) => return Ok(None),
        made => made?,
    };
    let path = part.dir();
    let directory = Directory { dir: open_dir(fs::CWD, &path)?, path, made: Vec::new() };
    limit(&directory, part, plan, fresh, made, notes)?;
    Ok(Some(directory))
}

/// Creates the directory and its missing parents. Returns whether it is new.
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
    Err(anyhow!("{} was removed {TRIES} times while it was being created", dir.display()).context(place()))
}

/// Sets the limits and the device rules of a cgroup.
fn limit(
    directory: &Directory,
    part: &Part,
    plan: &Plan,
    fresh: bool,
    made: &[PathBuf],
    notes: &mut Notes,
) -> Result<()> {
    check_unused(directory, part, fresh)?;
    if part.has("cpuset") {
        inherit(part, made).with_context(|| format!("cpuset of {}", directory.path.display()))?;
    }
    share_realtime(part, made)?;
    set(directory, &part.writes)?;
    // A new cgroup has the rules of its parent.
    if part.device_rules.is_empty() || (plan.devices.is_none() && fresh) {
        return Ok(());
    }
    let denies = plan.devices.as_ref().is_some_and(|filter| !filter.only_allows());
    match set_devices(directory, &part.device_rules) {
        Err(e) if plan.rootless && !denies && denied(&e) => {
            notes.warn(format!("{e:#}, ignoring"));
            Ok(())
        }
        other => other,
    }
}

/// Refuses a cgroup that has processes, since a container must not share it, and a frozen one.
fn check_unused(directory: &Directory, part: &Part, fresh: bool) -> Result<()> {
    let refuse = |word: &str| {
        let path = directory.path.display();
        Err(fail(Kind::Config, format!("linux.cgroupsPath {path}: {word}")))
    };
    if !fresh && directory.pids().is_ok_and(|pids| !pids.is_empty()) {
        return refuse(v2::NOT_EMPTY);
    }
    // A new cgroup below a frozen one is frozen too.
    if part.has("freezer") && (!fresh || part.path.components().count() > 1) {
        let state = read_file(directory.dir(), "freezer.state")?;
        if state.trim() != "THAWED" {
            return refuse(v2::UNEXPECTEDLY_FROZEN);
        }
    }
    Ok(())
}

/// Gives the cgroups without processors or memory nodes those of their parents. Without any, no process can
/// be in them.
fn inherit(part: &Part, made: &[PathBuf]) -> Result<()> {
    let _phase = trace::phase("inherit the cpuset");
    let made: BTreeSet<&PathBuf> = made.iter().collect();
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let mut path = part.mount.clone();
        let mut above = String::new();
        for step in &part.path {
            let parent = path.join(name);
            path.push(step);
            let own = path.join(name);
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

/// Sets limits. If the cgroup has had others before, a limit may contradict an old one that is changed later
/// in the list. Therefore a limit that fails with EINVAL is written again at the end.
fn set(directory: &Directory, writes: &[Write]) -> Result<()> {
    let mut again = Vec::new();
    for write in writes {
        match v2::apply(directory, write) {
            Err(e) if sys::errno(&e) == Some(Errno::EINVAL) => again.push(write),
            other => other?,
        }
    }
    again.into_iter().try_for_each(|write| v2::apply(directory, write))?;
    for write in writes.iter().filter(|w| forgettable(&w.file) && w.limits()) {
        check_kept(&read_list(directory.dir(), &write.file)?, write)?;
    }
    Ok(())
}

/// Gives the parents that were created here the realtime budget that the container is to have. A new cgroup
/// has none, and its children cannot get more than it has.
fn share_realtime(part: &Part, made: &[PathBuf]) -> Result<()> {
    let shared: Vec<&Write> = part.writes.iter().filter(|w| w.file.starts_with("cpu.rt_")).collect();
    let mut above = part.mount.clone();
    for name in part.path.parent().filter(|_| !shared.is_empty()).into_iter().flatten() {
        above.push(name);
        if made.contains(&above) {
            shared.iter().try_for_each(|write| {
                let _phase = trace::phase_of("write", || format!("{} = {}", write.file, write.value));
                fs::write_at(fs::CWD, &above.join(&write.file), write.value.to_string().as_bytes())
                    .with_context(|| write.place.clone())
            })?;
        }
    }
    Ok(())
}

/// Writes device rules. Consecutive rules for the same file share one open(2).
fn set_devices(directory: &Directory, rules: &[Write]) -> Result<()> {
    let _phase = trace::phase("device rules");
    for rules in rules.chunk_by(|a, b| a.file == b.file) {
        let _phase = trace::phase_of("write", || format!("{}, rules: {}", rules[0].file, rules.len()));
        let values: Vec<String> = rules.iter().map(|rule| rule.value.to_string()).collect();
        let values = values.iter().map(String::as_bytes);
        let place = || rules[0].place.clone();
        let written = fs::write_each(directory.dir(), Path::new(&rules[0].file), values);
        directory.named(written.map_err(Into::into)).with_context(place)?;
    }
    Ok(())
}
