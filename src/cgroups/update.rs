//! Changing the limits of a cgroup that is in use: only what differs, in an order that the kernel takes, and all
//! of it or nothing.

use anyhow::{Context, anyhow};
use nix::errno::Errno;

use super::resources::{Absent, Write};
use super::systemd::{self, Told, Unit};
use super::values::{Units, part, present, rises, same};
use super::{Cgroup, devices, v1, v2};
use crate::error::{Kind, Result, fail};
use crate::log;
use crate::sys::{self, fs};

/// A file that will say something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub file: String,
    /// What brings the former state back; `None` for a file that cannot be read.
    pub before: Option<String>,
    pub after: String,
    /// The place in the document that asks for it.
    pub place: String,
}

/// What is to be changed, and how.
#[derive(Debug)]
pub struct Update {
    /// What the systemd that keeps the cgroup is told of it.
    pub told: Option<Told>,
    pub changes: Vec<Change>,
    /// What the files say that systemd may write to as well.
    before: Vec<Found>,
    /// Where the device rules are to be replaced.
    pub devices: Option<Rules>,
}

/// The device rules; `None` if every device is allowed.
#[derive(Debug)]
pub struct Rules {
    pub before: Option<devices::Filter>,
    pub after: Option<devices::Filter>,
}

impl Rules {
    fn apply(&self, cgroup: &Cgroup) -> Result<()> {
        let applied = cgroup.replace_devices(self.after.as_ref()).context("devices");
        // v2 exchanges all at once or nothing, v1 goes rule by rule.
        if applied.is_err() && !cgroup.v1.is_empty() {
            self.undo(cgroup);
        }
        applied
    }

    fn undo(&self, cgroup: &Cgroup) {
        cgroup.replace_devices(self.before.as_ref()).unwrap_or_else(warn);
    }
}

/// What a file says, or the part of it that is for one device, in the form in which it can be written again.
#[derive(Debug)]
struct Found {
    file: String,
    text: String,
}

/// Pairs of files where the first must never be above what the second allows for: memory that is to be swapped
/// out needs room there first, the burst must not exceed the quota.
const BOUNDED: [(&str, &str); 5] = [
    ("memory.max", "memory.swap.max"),
    ("cpu.max.burst", "cpu.max"),
    ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    ("cpu.cfs_burst_us", "cpu.cfs_quota_us"),
    ("cpu.rt_runtime_us", "cpu.rt_period_us"),
];

/// The weight of a group, which it has not while it is idle.
const WEIGHTS: [&str; 2] = ["cpu.weight", "cpu.shares"];

/// Sorts changes so that at no moment one stands against the kernel's rules.
pub fn order(changes: &mut [Change]) {
    for (inner, outer) in BOUNDED {
        let rising = |change: &Change| rises(change.before.as_deref().unwrap_or("max"), &change.after);
        let first = |changes: &[Change]| changes.iter().find(|c| c.file == outer).is_some_and(rising);
        put(changes, inner, outer, first(changes));
    }
    // The weight of an idle group cannot be set.
    let wakes = changes.iter().any(|c| c.file == "cpu.idle" && c.after == "0");
    WEIGHTS.iter().for_each(|weight| put(changes, weight, "cpu.idle", wakes));
}

/// Exchanges two files' changes, if both are there, unless `second` comes first as it is wanted.
fn put(changes: &mut [Change], first: &str, second: &str, second_first: bool) {
    let at = |file: &str| changes.iter().position(|c| c.file == file);
    if let (Some(a), Some(b)) = (at(first), at(second))
        && (b < a) != second_first
    {
        changes.swap(a, b);
    }
}

/// Drops what a later write to the same place overrides, and a weight that the kernel does not take or tell while the
/// group is idle.
fn effective(writes: Vec<Write>) -> Vec<Write> {
    let idle = writes.iter().any(|w| w.file == "cpu.idle" && w.value == "1");
    let mut kept: Vec<Write> = Vec::new();
    for write in writes {
        kept.retain(|w| w.file != write.file || part(&w.file, &w.value) != part(&write.file, &write.value));
        if !(idle && WEIGHTS.contains(&write.file.as_str())) {
            kept.push(write);
        }
    }
    kept
}

/// What a cgroup says where a write is asked for.
pub struct Applied {
    pub write: Write,
    /// `None`: there is no such file, or it cannot be read.
    pub found: Option<String>,
    pub same: bool,
}

/// Compares what is asked with what the cgroup says.
pub fn look(cgroup: &Cgroup, writes: Vec<Write>) -> Result<Vec<Applied>> {
    let units = Units::probe();
    let mut all = Vec::new();
    for mut write in effective(writes) {
        let (found, same) = match find(cgroup, &write)? {
            None if needless(&write) => continue,
            None => (None, false),
            Some(Target { file, value, text }) => {
                let found = text.map(|text| present(&file, &value, &text));
                let same = found.as_ref().is_some_and(|found| same(&file, &value, found, units));
                (write.file, write.value) = (file, value);
                (found, same)
            }
        };
        all.push(Applied { write, found, same });
    }
    Ok(all)
}

/// Compares what is asked with what the cgroup has. Nothing is changed by it, but that with `enable` controllers
/// that are needed, and not enabled yet on the way to the cgroup, are.
pub fn compare(cgroup: &Cgroup, writes: Vec<Write>, enable: bool) -> Result<Vec<Change>> {
    let mut changes: Vec<Change> = Vec::new();
    let units = Units::probe();
    for write in effective(writes) {
        let Some(Target { file, value, text }) = resolve(cgroup, &write, enable)? else { continue };
        let before = text.map(|text| present(&file, &value, &text));
        if before.as_ref().is_some_and(|before| same(&file, &value, before, units)) {
            continue;
        }
        if let Some(floor) = write.floor {
            v2::check_floor(cgroup.read(floor)?.as_deref(), &value, &write.place)?;
        }
        changes.push(Change { file, before, after: value, place: write.place });
    }
    order(&mut changes);
    Ok(changes)
}

/// A file that a write is for.
struct Target {
    file: String,
    value: String,
    /// What it says; `None` for one that is only written.
    text: Option<String>,
}

/// The file, if it is there.
fn target(cgroup: &Cgroup, file: &str, value: &str) -> Result<Option<Target>> {
    let text = match cgroup.read(file) {
        Err(e) if sys::errno(&e) == Some(Errno::EINVAL) => None,
        other => match other? {
            None => return Ok(None),
            text => text,
        },
    };
    Ok(Some(Target { file: file.into(), value: value.into(), text }))
}

/// The file that a write is for in this cgroup.
fn find(cgroup: &Cgroup, write: &Write) -> Result<Option<Target>> {
    match (target(cgroup, &write.file, &write.value)?, &write.absent) {
        (None, Absent::Instead { file, value }) => target(cgroup, file, value),
        (found, _) => Ok(found),
    }
}

/// Whether nothing is lost where the file of a write does not exist.
fn needless(write: &Write) -> bool {
    match write.absent {
        Absent::NoLimit => true,
        Absent::NoSwap => !v2::host_swaps(),
        Absent::Fails | Absent::Instead { .. } => false,
    }
}

/// The file to write. `None`: there is nothing to do.
fn resolve(cgroup: &Cgroup, write: &Write, enable: bool) -> Result<Option<Target>> {
    let found = find(cgroup, write)?;
    if found.is_some() || needless(write) {
        return Ok(found);
    }
    if write.controller().is_some() {
        cgroup.enable(write, enable)?;
        if !enable {
            let (file, value) = (write.file.clone(), write.value.clone());
            return Ok(Some(Target { file, value, text: None }));
        }
    }
    let missing = || {
        let (place, file) = (&write.place, &write.file);
        let (whose, word) = match &cgroup.unified {
            Some(unified) if cgroup.v1.is_empty() => (unified.path.display().to_string(), "has no file"),
            _ => ("none of the container's cgroups".into(), "has a file"),
        };
        fail(Kind::Unsupported, format!("{place}: {whose} {word} {file}"))
    };
    find(cgroup, write)?.ok_or_else(missing).map(Some)
}

/// Decides what to change for `wanted` in a cgroup that may be kept by a unit's systemd, and then was asked to be as the
/// writes beside it. Nothing is changed yet but as [`compare`] says.
pub fn plan(
    cgroup: &Cgroup,
    unit: Option<(&Unit, Vec<Write>)>,
    wanted: Vec<Write>,
    devices: Option<Rules>,
    enable: bool,
) -> Result<Update> {
    let changes = compare(cgroup, wanted.clone(), enable)?;
    let mut update = Update { told: None, changes, before: Vec::new(), devices };
    if let Some((unit, former)) = unit {
        let found = |applied: Applied| Some(Found { file: applied.write.file, text: applied.found? });
        update.told = systemd::compare(unit, &wanted)?;
        let looked = [look(cgroup, former)?, look(cgroup, wanted)?];
        update.before = looked.into_iter().flatten().filter_map(found).collect();
    }
    Ok(update)
}

/// Makes the changes: all of them, or when one fails, none.
pub fn apply(cgroup: &Cgroup, update: &mut Update) -> Result<()> {
    let mut done = Vec::new();
    let told = match &mut update.told {
        Some(told) => tell(cgroup, told, &update.changes, &update.before),
        None => Ok(()),
    };
    let written = told.and_then(|()| write_all(cgroup, &update.changes, &mut done));
    let result = written.and_then(|()| update.devices.as_ref().map_or(Ok(()), |rules| rules.apply(cgroup)));
    if result.is_err() {
        take_back(cgroup, update.told.as_mut(), done, &update.before);
    }
    result
}

/// Tells systemd. First, for it rounds, and writes to other files too: those are then put back, and what is ours to
/// write is written exactly.
fn tell(cgroup: &Cgroup, told: &mut Told, changes: &[Change], before: &[Found]) -> Result<()> {
    told.tell()?;
    let of_us = |found: &Found| {
        let same = |c: &Change| c.file == found.file && part(&c.file, &c.after) == part(&c.file, &found.text);
        // The kernel forgets the weight of an idle group, and takes none.
        let idle = |c: &Change| c.file == "cpu.idle" && c.after == "1" && found.file == "cpu.weight";
        changes.iter().any(|c| same(c) || idle(c))
    };
    let altered = altered(cgroup, before.iter().filter(|found| !of_us(found)))?;
    altered.iter().try_for_each(|change| write_back(cgroup, &change.file, &change.after))
}

/// Makes the changes, and keeps those made. One may stand against another that is yet to come, as v1's period against
/// the quota, which the kernel compares with those of the cgroup above: such a one has a second try.
fn write_all<'a>(cgroup: &Cgroup, changes: &'a [Change], done: &mut Vec<&'a Change>) -> Result<()> {
    let mut write = |change: &'a Change| {
        cgroup.write(&change.file, &change.after).with_context(|| change.place.clone())?;
        done.push(change);
        check_kept(cgroup, change)
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

/// Newer kernels take a limit for kernel memory and forget it.
fn check_kept(cgroup: &Cgroup, change: &Change) -> Result<()> {
    if v1::resources::forgettable(&change.file) && change.after != "-1" {
        let now = cgroup.read(&change.file)?.unwrap_or_default();
        v1::resources::check_kept(&now, &change.after, &change.place)?;
    }
    Ok(())
}

/// What brings back the files that no longer say what was found.
fn altered<'a>(cgroup: &Cgroup, before: impl Iterator<Item = &'a Found>) -> Result<Vec<Change>> {
    let mut changes: Vec<Change> = Vec::new();
    for Found { file, text } in before {
        let now = cgroup.read(file)?.map(|now| present(file, text, &now));
        let known = changes.iter().any(|c| c.file == *file && c.after == *text);
        if !known && now.as_ref() != Some(text) {
            changes.push(Change {
                file: file.clone(),
                before: now,
                after: text.clone(),
                place: String::new(),
            });
        }
    }
    order(&mut changes);
    Ok(changes)
}

/// Writes what a file has said.
fn write_back(cgroup: &Cgroup, file: &str, text: &str) -> Result<()> {
    // No bytes would be no write.
    let written = cgroup.write(file, if text.is_empty() { "\n" } else { text });
    match (written, &cgroup.unified) {
        // Linux 6.12 takes no list of processors or nodes away where processes are inside: all that there are is the same.
        (Err(e), Some(v2))
            if cgroup.v1.is_empty() && text.is_empty() && sys::errno(&e) == Some(Errno::ENOSPC) =>
        {
            let above = v2.path.parent().unwrap_or(&v2.path).join(format!("{file}.effective"));
            cgroup.write(file, fs::read_text(fs::CWD, &above)?.trim())
        }
        (result, _) => result,
    }
}

/// Takes back all that [`apply`] has made.
pub fn undo(cgroup: &Cgroup, update: &mut Update) {
    take_back(cgroup, update.told.as_mut(), &update.changes, &update.before);
    update.devices.iter().for_each(|rules| rules.undo(cgroup));
}

/// Takes back what systemd was told, and changes that were made in this order.
fn take_back<'a>(
    cgroup: &Cgroup,
    told: Option<&mut Told>,
    changes: impl IntoIterator<Item = &'a Change, IntoIter: DoubleEndedIterator>,
    before: &[Found],
) {
    let by_systemd = told.map(|told| told.take_back().unwrap_or_else(warn)).is_some();
    let undo = |change: &Change| match &change.before {
        Some(before) => write_back(cgroup, &change.file, before),
        None => Err(anyhow!("{}: {:?} cannot be taken back", change.file, change.after)),
    };
    let mut again = Vec::new();
    for change in changes.into_iter().rev() {
        match undo(change) {
            Err(e) if sys::errno(&e) == Some(Errno::EINVAL) => again.push(change),
            undone => undone.unwrap_or_else(warn),
        }
    }
    again.into_iter().for_each(|change| undo(change).unwrap_or_else(warn));
    if by_systemd {
        let restore = |change: &Change| write_back(cgroup, &change.file, &change.after);
        let restored = altered(cgroup, before.iter());
        restored.map_or_else(warn, |changes| changes.iter().for_each(|c| restore(c).unwrap_or_else(warn)));
    }
}

pub(super) fn warn(error: anyhow::Error) {
    log::warn(format!("undoing: {error:#}, ignoring"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(file: &str, before: &str, after: &str) -> Change {
        let before = Some(before.to_string());
        Change { file: file.into(), before, after: after.into(), place: String::new() }
    }

    #[test]
    fn changes_come_in_an_order_that_passes() {
        for (changes, expected) in [
            // Room to swap into comes before the need for it, and goes after.
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
            // An idle group has no weight to set.
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
            let mut sorted: Vec<Change> = changes.iter().map(|(f, b, a)| change(f, b, a)).collect();
            order(&mut sorted);
            let files: Vec<&str> = sorted.iter().map(|c| c.file.as_str()).collect();
            assert_eq!(files, expected, "{changes:?}");
        }
    }

    #[test]
    fn the_last_of_several_words_counts() {
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
            let writes = super::super::resources::plan(&resources, &mut crate::error::Problems::default());
            let kept: Vec<String> =
                effective(writes).iter().map(|w| format!("{}={}", w.file, w.value)).collect();
            assert_eq!(kept, expected, "{json}");
        }
    }
}
