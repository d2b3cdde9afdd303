//! Changing the limits of a cgroup that is in use: only what differs is written, in an order that the kernel
//! accepts, and either all of it or nothing. If a step fails, all steps before it are rolled back, including
//! the device rules.

use anyhow::{Context, anyhow};
use nix::errno::Errno;

use super::compare::{Compared, present, rises};
use super::directory::warn_undone;
use super::resources::{Absent, Write};
use super::systemd::{self, Unit};
use super::value::Value;
use super::{Cgroup, Missing, devices, refused, v1, v2};
use crate::error::{Kind, Result, fail};
use crate::sys::{self, fs};

/// What an update changes, and what brings the former state back.
#[derive(Debug)]
pub(crate) struct Update {
    /// The properties to change, if systemd keeps the cgroup.
    pub unit: Option<systemd::Update>,
    pub changes: Vec<Compared>,
    /// What the files contained before that systemd may write to as well.
    before: Vec<Compared>,
    /// The device rules, if they are replaced.
    pub devices: Option<Rules>,
}

/// The device rules. `None` allows every device.
#[derive(Debug)]
pub(crate) struct Rules {
    pub before: Option<devices::Filter>,
    pub after: Option<devices::Filter>,
}

impl Rules {
    fn apply(&self, cgroup: &Cgroup) -> Result<()> {
        let applied = cgroup.replace_devices(self.after.as_ref()).context("devices");
        // v2 replaces its program at once, v1 its rules one by one.
        if applied.is_err() && !cgroup.v1.is_empty() {
            self.undo(cgroup);
        }
        applied
    }

    fn undo(&self, cgroup: &Cgroup) {
        warn_undone(cgroup.replace_devices(self.before.as_ref()));
    }
}

/// Pairs of files where the value of the first must never exceed what the value of the second allows. Memory
/// that is swapped out needs room in the swap limit. A burst must not exceed the quota.
const BOUNDED: [(&str, &str); 5] = [
    ("memory.max", "memory.swap.max"),
    ("cpu.max.burst", "cpu.max"),
    ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    ("cpu.cfs_burst_us", "cpu.cfs_quota_us"),
    ("cpu.rt_runtime_us", "cpu.rt_period_us"),
];

/// The weight of a cgroup. It cannot be read or written while the cgroup is idle.
const WEIGHTS: [&str; 2] = ["cpu.weight", "cpu.shares"];

/// Returns whether a write sets `cpu.idle` to `value`.
fn sets_idle(write: &Write, value: i128) -> bool {
    write.file == "cpu.idle" && write.value.parsed("cpu.idle") == Value::Number(value)
}

/// Sorts changes so that each one passes the kernel's rules when it is made.
fn order(changes: &mut [Compared]) {
    for (inner, outer) in BOUNDED {
        let rising = |change: &Compared| {
            rises(outer, change.present.as_ref().unwrap_or(&Value::Max), &change.write.value)
        };
        let outer_first = changes.iter().find(|change| change.write.file == outer).is_some_and(rising);
        swap_unless(changes, inner, outer, outer_first);
    }
    let wakes = changes.iter().any(|change| sets_idle(&change.write, 0));
    WEIGHTS.iter().for_each(|weight| swap_unless(changes, weight, "cpu.idle", wakes));
}

/// Exchanges the changes of two files, unless they are in the requested order already.
fn swap_unless(changes: &mut [Compared], first: &str, second: &str, second_first: bool) {
    let at = |file: &str| changes.iter().position(|change| change.write.file == file);
    if let (Some(a), Some(b)) = (at(first), at(second))
        && (b < a) != second_first
    {
        changes.swap(a, b);
    }
}

/// Drops each write that a later one overrides, and the weight of a cgroup that becomes idle.
fn effective(writes: Vec<Write>) -> Vec<Write> {
    let idle = writes.iter().any(|write| sets_idle(write, 1));
    let mut kept: Vec<Write> = Vec::new();
    for write in writes {
        kept.retain(|w| w.file != write.file || !write.value.replaces(&w.file, &w.value));
        if !(idle && WEIGHTS.contains(&write.file.as_str())) {
            kept.push(write);
        }
    }
    kept
}

/// Compares the writes with the cgroup's files. Leaves out a write whose file does not exist if it limits
/// nothing.
pub(crate) fn compare(cgroup: &Cgroup, writes: Vec<Write>) -> Result<Vec<Compared>> {
    let (mut all, missing) = find_all(cgroup, writes)?;
    all.extend(missing.into_iter().map(|write| Compared { write, present: None }));
    Ok(all)
}

/// Compares the writes, and returns those apart that limit something and whose file does not exist.
fn find_all(cgroup: &Cgroup, writes: Vec<Write>) -> Result<(Vec<Compared>, Vec<Write>)> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for write in effective(writes) {
        match find(cgroup, &write)? {
            Some(compared) => found.push(compared),
            None if is_needless(&write) => {}
            None => missing.push(write),
        }
    }
    Ok((found, missing))
}

/// Returns the writes that change something, in the order in which to make them. With
/// [`Missing::Enabled`], controllers that they need are enabled on the way to the cgroup. Nothing else is
/// changed.
fn differing(cgroup: &Cgroup, writes: Vec<Write>, controllers: Missing) -> Result<Vec<Compared>> {
    let (mut changes, missing) = find_all(cgroup, writes)?;
    changes.retain(|change| !change.same());
    for Compared { write, .. } in &changes {
        if let Some(floor) = write.floor {
            v2::check_floor(cgroup.read(floor.file)?.as_deref(), write)?;
        }
    }
    for write in missing {
        let enabled = enabled(cgroup, write, controllers)?;
        changes.extend(Some(enabled).filter(|change| !change.same()));
    }
    order(&mut changes);
    Ok(changes)
}

/// Compares a write with its file, or with the one that is used instead. Returns `None` if neither exists.
fn find(cgroup: &Cgroup, write: &Write) -> Result<Option<Compared>> {
    let read = |file: &str, value: &Value| -> Result<Option<Compared>> {
        let text = match cgroup.read(file) {
            // The file can only be written.
            Err(e) if sys::errno(&e) == Some(Errno::EINVAL) => None,
            other => match other? {
                None => return Ok(None),
                text => text,
            },
        };
        let present = text.map(|text| present(file, value, &text));
        let write = Write { file: file.into(), value: value.clone(), ..write.clone() };
        Ok(Some(Compared { write, present }))
    };
    match (read(&write.file, &write.value)?, &write.absent) {
        (None, Absent::Instead { file, value }) => read(file, value),
        (found, _) => Ok(found),
    }
}

/// Returns whether nothing is lost if the file of a write does not exist.
fn is_needless(write: &Write) -> bool {
    match write.absent {
        Absent::NoLimit => true,
        Absent::NoSwap => !v2::host_swaps(),
        Absent::Fails | Absent::Instead { .. } => false,
    }
}

/// Compares a write with its file, after the controller that provides the file was enabled. With
/// [`Missing::Reported`], it only finds out whether there is such a controller.
fn enabled(cgroup: &Cgroup, write: Write, controllers: Missing) -> Result<Compared> {
    if write.controller().is_some() {
        cgroup.require_controller(&write, controllers)?;
        if controllers == Missing::Reported {
            return Ok(Compared { write, present: None });
        }
    }
    let missing = || {
        let (place, file) = (&write.place, &write.file);
        let why = match &cgroup.unified {
            Some(unified) if cgroup.v1.is_empty() => format!("{} has no file {file}", unified.path.display()),
            _ => format!("none of the container's cgroups has a file {file}"),
        };
        fail(Kind::Unsupported, format!("{place}: {why}"))
    };
    find(cgroup, &write)?.ok_or_else(missing)
}

/// Finds out what has to change in a cgroup for the writes in `wanted`. If systemd keeps the cgroup, `unit`
/// is its unit and the writes that the cgroup was asked for before. Changes nothing itself, except that
/// [`differing`] may enable controllers.
pub(crate) fn prepare(
    cgroup: &Cgroup,
    unit: Option<(&Unit, Vec<Write>)>,
    wanted: Vec<Write>,
    devices: Option<Rules>,
    controllers: Missing,
) -> Result<Update> {
    let changes = differing(cgroup, wanted.clone(), controllers)?;
    let mut update = Update { unit: None, changes, before: Vec::new(), devices };
    if let Some((unit, former)) = unit {
        update.unit = systemd::Update::prepare(unit, &wanted)?;
        update.before = [compare(cgroup, former)?, compare(cgroup, wanted)?].concat();
    }
    Ok(update)
}

/// Makes all changes. If one fails, the former state is restored.
pub(crate) fn apply(cgroup: &Cgroup, update: &mut Update) -> Result<()> {
    let mut done = Vec::new();
    let unit = match &mut update.unit {
        Some(unit) => update_unit(cgroup, unit, &update.changes, &update.before),
        None => Ok(()),
    };
    let written = unit.and_then(|()| write_all(cgroup, &update.changes, &mut done));
    let result = written.and_then(|()| update.devices.as_ref().map_or(Ok(()), |rules| rules.apply(cgroup)));
    if result.is_err() {
        restore(cgroup, update.unit.as_mut(), done, &update.before);
    }
    result
}

/// Changes the properties of the unit. This comes first, because systemd rounds values and writes to files
/// that no change is for. Those files are restored here, and [`write_all`] then writes the exact values.
fn update_unit(
    cgroup: &Cgroup,
    unit: &mut systemd::Update,
    changes: &[Compared],
    before: &[Compared],
) -> Result<()> {
    unit.apply()?;
    let is_changed = |found: &Compared| {
        let file = &found.write.file;
        let same = |write: &Write| write.file == *file && write.value.replaces(file, &found.write.value);
        // The kernel forgets the weight of an idle cgroup, and accepts none.
        let idle = |write: &Write| file == "cpu.weight" && sets_idle(write, 1);
        changes.iter().any(|change| same(&change.write) || idle(&change.write))
    };
    let altered = altered(cgroup, before.iter().filter(|found| !is_changed(found)))?;
    altered.iter().try_for_each(|change| write_back(cgroup, &change.write.file, &change.write.value))
}

/// Makes the changes, and adds each to `done`. A change that fails with EINVAL is tried again after the
/// others, which it may depend on: the kernel compares v1's period and quota with those of the parent cgroup.
fn write_all<'a>(cgroup: &Cgroup, changes: &'a [Compared], done: &mut Vec<&'a Compared>) -> Result<()> {
    let mut write = |change: &'a Compared| {
        let Write { file, value, .. } = &change.write;
        let written = cgroup.write(file, &value.to_string());
        written.map_err(|e| refused::explain(e, &change.write, |file| cgroup.read(file)))?;
        done.push(change);
        check_kept(cgroup, &change.write)
    };
    let mut again = Vec::new();
    for change in changes {
        match write(change) {
            Err(e) if sys::errno(&e) == Some(Errno::EINVAL) => again.push(change),
            other => other?,
        }
    }
    again.into_iter().try_for_each(write)
}

/// Fails if the kernel has accepted a limit for kernel memory without keeping it, as newer kernels do.
fn check_kept(cgroup: &Cgroup, write: &Write) -> Result<()> {
    if v1::resources::forgettable(&write.file) {
        v1::resources::check_kept(&cgroup.read(&write.file)?.unwrap_or_default(), write)?;
    }
    Ok(())
}

/// Returns the changes that restore the files which no longer contain what they did `before`.
fn altered<'a>(cgroup: &Cgroup, before: impl Iterator<Item = &'a Compared>) -> Result<Vec<Compared>> {
    let mut changes: Vec<Compared> = Vec::new();
    for Compared { write: Write { file, value, .. }, present: former } in before {
        let Some(former) = former else { continue };
        let now = cgroup.read(file)?.map(|text| present(file, value, &text));
        let known = changes.iter().any(|change| change.write.file == *file && change.write.value == *former);
        if !known && now.as_ref() != Some(former) {
            changes.push(Compared { write: Write::new(file, former.clone(), ""), present: now });
        }
    }
    order(&mut changes);
    Ok(changes)
}

/// Writes what a file contained before.
fn write_back(cgroup: &Cgroup, file: &str, value: &Value) -> Result<()> {
    let text = value.to_string();
    // A write of no bytes has no effect.
    let written = cgroup.write(file, if text.is_empty() { "\n" } else { &text });
    match (written, &cgroup.unified) {
        // Since Linux 6.12 the list of CPUs or nodes cannot be emptied while processes are inside. The list
        // of all that the parent has means the same.
        (Err(e), Some(v2))
            if cgroup.v1.is_empty() && text.is_empty() && sys::errno(&e) == Some(Errno::ENOSPC) =>
        {
            let parents = v2.path.parent().unwrap_or(&v2.path).join(format!("{file}.effective"));
            cgroup.write(file, fs::read_text(fs::CWD, &parents)?.trim())
        }
        (result, _) => result,
    }
}

/// Undoes all that [`apply`] has changed.
pub(crate) fn undo(cgroup: &Cgroup, update: &mut Update) {
    restore(cgroup, update.unit.as_mut(), &update.changes, &update.before);
    update.devices.iter().for_each(|rules| rules.undo(cgroup));
}

/// Restores the properties of the unit, and the files of changes that were made in this order.
fn restore<'a>(
    cgroup: &Cgroup,
    unit: Option<&mut systemd::Update>,
    changes: impl IntoIterator<Item = &'a Compared, IntoIter: DoubleEndedIterator>,
    before: &[Compared],
) {
    let by_systemd = unit.map(|unit| warn_undone(unit.undo())).is_some();
    let undo = |Compared { write, present }: &Compared| match present {
        Some(before) => write_back(cgroup, &write.file, before),
        None => {
            let text = write.value.to_string();
            Err(anyhow!("{}: {text:?} cannot be taken back", write.file))
        }
    };
    let mut again = Vec::new();
    for change in changes.into_iter().rev() {
        match undo(change) {
            Err(e) if sys::errno(&e) == Some(Errno::EINVAL) => again.push(change),
            undone => warn_undone(undone),
        }
    }
    again.into_iter().for_each(|change| warn_undone(undo(change)));
    if by_systemd {
        let write = |change: &Compared| write_back(cgroup, &change.write.file, &change.write.value);
        let altered = altered(cgroup, before.iter());
        warn_undone(altered.map(|changes| changes.iter().for_each(|change| warn_undone(write(change)))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_the_usage_is_rejected_in_the_words_of_runc() {
        for (memory, expected) in [
            (r#"{"limit":1024,"checkBeforeUpdate":true}"#, "rejecting memory limit 1024"),
            (r#"{"limit":1024,"swap":2048,"checkBeforeUpdate":true}"#, "rejecting memory+swap limit 2048"),
            (r#"{"limit":1024,"swap":9999,"checkBeforeUpdate":true}"#, "rejecting memory limit 1024"),
            (r#"{"limit":4096,"swap":9999,"checkBeforeUpdate":true}"#, ""),
            (r#"{"limit":-1,"checkBeforeUpdate":true}"#, ""),
        ] {
            let resources = serde_json::from_str(&format!(r#"{{"memory":{memory}}}"#)).unwrap();
            let writes = crate::cgroups::resources::plan(&resources, &mut crate::error::Notes::default());
            let limit = writes.iter().find(|write| write.file == "memory.max").unwrap();
            let error = v2::check_floor(Some("4096\n"), limit).map_err(|e| e.to_string()).err();
            let prefix = format!("linux.resources.memory.limit: {expected}, which is below the usage, 4096");
            assert_eq!(error.as_deref(), Some(prefix.as_str()).filter(|_| !expected.is_empty()), "{memory}");
        }
    }

    fn change(file: &str, before: &str, after: &str) -> Compared {
        Compared { write: Write::new(file, after, ""), present: Some(before.into()) }
    }

    #[test]
    fn changes_are_made_in_an_order_that_the_kernel_accepts() {
        for (changes, expected) in [
            // The swap limit is raised before the memory limit, and lowered after it.
            (
                &[("memory.swap.max", "5", "9"), ("memory.max", "5", "9")][..],
                &["memory.swap.max", "memory.max"][..],
            ),
            (&[("memory.swap.max", "9", "5"), ("memory.max", "9", "5")], &["memory.max", "memory.swap.max"]),
            (
                &[("memory.max", "5", "9"), ("memory.swap.max", "5", "max")],
                &["memory.swap.max", "memory.max"],
            ),
            (
                &[("memory.memsw.limit_in_bytes", "9", "5"), ("memory.limit_in_bytes", "9", "5")],
                &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
            ),
            // The kernel refuses a burst above the quota.
            (&[("cpu.max", "50 100", "90 100"), ("cpu.max.burst", "0", "80")], &["cpu.max", "cpu.max.burst"]),
            (&[("cpu.max", "90 100", "50 100"), ("cpu.max.burst", "80", "9")], &["cpu.max.burst", "cpu.max"]),
            (
                &[("cpu.max", "50 100", "max 100"), ("cpu.max.burst", "0", "80")],
                &["cpu.max", "cpu.max.burst"],
            ),
            // The weight of an idle cgroup cannot be set.
            (&[("cpu.weight", "1", "5"), ("cpu.idle", "0", "1")], &["cpu.weight", "cpu.idle"]),
            (&[("cpu.weight", "1", "5"), ("cpu.idle", "1", "0")], &["cpu.idle", "cpu.weight"]),
            (&[("cpu.shares", "3", "5"), ("cpu.idle", "1", "0")], &["cpu.idle", "cpu.shares"]),
            (
                &[("cpu.cfs_quota_us", "90", "50"), ("cpu.cfs_burst_us", "80", "9")],
                &["cpu.cfs_burst_us", "cpu.cfs_quota_us"],
            ),
            (
                &[("cpu.cfs_quota_us", "50", "-1"), ("cpu.cfs_burst_us", "0", "80")],
                &["cpu.cfs_quota_us", "cpu.cfs_burst_us"],
            ),
            (
                &[("cpu.rt_period_us", "90", "50"), ("cpu.rt_runtime_us", "80", "9")],
                &["cpu.rt_runtime_us", "cpu.rt_period_us"],
            ),
            (&[("pids.max", "1", "5"), ("memory.max", "1", "5")], &["pids.max", "memory.max"]),
        ] {
            let mut sorted: Vec<Compared> = changes.iter().map(|(f, b, a)| change(f, b, a)).collect();
            order(&mut sorted);
            let files: Vec<&str> = sorted.iter().map(|c| c.write.file.as_str()).collect();
            assert_eq!(files, expected, "{changes:?}");
        }
    }

    #[test]
    fn the_last_of_several_writes_counts() {
        for (json, expected) in [
            (r#"{"memory":{"limit":5},"unified":{"memory.max":"9"}}"#, &["memory.max=9"][..]),
            (r#"{"cpu":{"shares":512,"idle":1}}"#, &["cpu.idle=1"]),
            (r#"{"cpu":{"shares":1024,"idle":0}}"#, &["cpu.weight=100", "cpu.idle=0"]),
            (
                r#"{"unified":{"io.max":"8:0 rbps=1\n8:0 wbps=2\n8:0 rbps=3"}}"#,
                &["io.max=8:0 wbps=2", "io.max=8:0 rbps=3"],
            ),
        ] {
            let resources = serde_json::from_str(json).unwrap();
            let writes = super::super::resources::plan(&resources, &mut crate::error::Notes::default());
            let kept: Vec<String> =
                effective(writes).iter().map(|w| format!("{}={}", w.file, w.value)).collect();
            assert_eq!(kept, expected, "{json}");
        }
    }
}
