//! `gc`: removes containers that no engine can still use, after a crash of an engine or of corten.
//!
//! It removes only what certainly is a leftover. A container that `create` has finished belongs to its
//! engine, even after it has stopped. A container that is locked belongs to the command that holds the lock.
//! A container that `create` has not finished, and that is not locked, is the leftover of a crash: `destroy`
//! removes what its record names, also processes. Of a container that was made before the machine was booted,
//! only the record is left.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Failures;
use super::leftover::{self, Found};
use crate::cli::{Gc, Globals};
use crate::error::{Context, Kind, Result, kind};
use crate::state::{self, Dir, Entry, Record, Status};

/// Readers hold the lock for less than this; a longer hold means that a command is working on the container.
const BRIEF: Duration = Duration::from_millis(50);

/// The reason why a container is a leftover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Why {
    InterruptedCreate,
    InterruptedDelete,
    OtherBoot,
    LostRecord,
    Stopped,
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Self::InterruptedCreate => "its create was interrupted",
            Self::InterruptedDelete => "its delete was interrupted",
            Self::OtherBoot => "it was made before the machine was booted",
            Self::LostRecord => "its record is lost, and nothing of it runs",
            Self::Stopped => "it has stopped",
        }
    }
}

/// A line of what `--format json` prints.
#[derive(Serialize)]
struct Removed {
    id: String,
    reason: Why,
}

pub(super) fn run(globals: &Globals, args: Gc) -> Result<()> {
    let root = state::root(globals.root.as_deref())?;
    let boot = crate::procstat::boot_id()?;
    let (mut failures, mut removed, mut printed) = (Failures::default(), Vec::new(), Ok(()));
    for entry in state::entries(&root)? {
        let (id, done) = match entry {
            Entry::Container(id) => (id.clone(), container(&root, &id, args, boot)),
            Entry::Deleted(id) => (id.clone(), deleted(&root, &id, args.dry_run)),
        };
        match done {
            Ok(Some(reason)) if args.json => removed.push(Removed { id, reason }),
            Ok(Some(reason)) if printed.is_ok() => {
                printed = super::print(&format!("{id}: {}\n", reason.text()));
            }
            Ok(_) => {}
            Err(e) => failures.add(&id, &e),
        }
    }
    if args.json {
        printed = super::print(&(serde_json::to_string(&removed).context("JSON")? + "\n"));
    }
    failures.into_result().and(printed)
}

fn deleted(root: &Path, id: &str, dry_run: bool) -> Result<Option<Why>> {
    if !state::deleted_is_left(root, id)? {
        return Ok(None);
    }
    if !dry_run {
        state::purge_deleted(root, id)?;
    }
    Ok(Some(Why::InterruptedDelete))
}

/// Returns why a container is a leftover, or `None` if it is not. `boot` is the id of this boot of the machine. `stopped` is
/// called only if its result decides.
fn judge(found: &Found, boot: &str, stopped: impl FnOnce(&Record) -> Result<bool>) -> Result<Option<Why>> {
    Ok(match found {
        Found::Nothing => Some(Why::InterruptedCreate),
        Found::Lost(_) => Some(Why::LostRecord),
        Found::Record(record) if record.boot_id != boot => Some(Why::OtherBoot),
        Found::Record(record) if !record.created_done => Some(Why::InterruptedCreate),
        Found::Record(record) => stopped(record)?.then_some(Why::Stopped),
    })
}

fn container(root: &Path, id: &str, args: Gc, boot: &str) -> Result<Option<Why>> {
    let gone = |e: &anyhow::Error| kind(e) == Kind::NotFound;
    let dir = match state::open(root, id) {
        Err(e) if gone(&e) => return Ok(None),
        other => other?,
    };
    let look = || -> Result<(Found, Option<Why>)> {
        let found = leftover::look(&dir)?;
        let stopped = |record: &Record| Ok(args.stopped && super::status(&dir, record)? == Status::Stopped);
        let why = judge(&found, boot, stopped)?;
        Ok((found, why))
    };
    // Without the lock first, so that a container that stays is not disturbed.
    if look()?.1.is_none() {
        return Ok(None);
    }
    match dir.lock(BRIEF) {
        Err(e) if gone(&e) || kind(&e) == Kind::WrongStatus => return Ok(None),
        other => other?,
    }
    let (found, Some(why)) = look()? else { return Ok(None) };
    leftover::check(&dir, &found)?;
    if let Found::Lost(_) = found {
        leftover::check_nothing_runs(&dir)?;
    }
    if args.dry_run {
        return Ok(Some(why));
    }
    match found {
        Found::Record(record) => {
            let record = without_others(&dir, *record)?;
            leftover::remove(dir, record)?;
        }
        Found::Nothing | Found::Lost(_) => dir.remove()?,
    }
    Ok(Some(why))
}

/// Returns the record without what another container uses too: after the crash, a `create` may have got the same cgroup or
/// root.
fn without_others(dir: &Dir, mut record: Record) -> Result<Record> {
    let mut others = dir.others()?;
    others.retain(|other| other.boot_id == record.boot_id);
    others.iter().for_each(|other| remove_shared(&mut record, other));
    Ok(record)
}

fn remove_shared(record: &mut Record, other: &Record) {
    if let (Some(ours), Some(theirs)) = (&record.cgroup, &other.cgroup)
        && ours.contains(theirs)
    {
        record.cgroup = None;
    }
    if other.under_root.is_some() && other.rootfs == record.rootfs {
        record.under_root = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::CgroupRecord;

    fn record(done: bool, boot: &str) -> Found {
        Found::Record(Box::new(Record { created_done: done, boot_id: boot.into(), ..Record::default() }))
    }

    #[test]
    fn only_certain_leftovers_are_removed() {
        let lost = || Found::Lost(anyhow::Error::msg("lost"));
        for (found, stopped, expected) in [
            (Found::Nothing, false, Some(Why::InterruptedCreate)),
            (lost(), false, Some(Why::LostRecord)),
            (record(false, "now"), false, Some(Why::InterruptedCreate)),
            (record(true, "then"), false, Some(Why::OtherBoot)),
            (record(false, "then"), false, Some(Why::OtherBoot)),
            (record(true, "now"), false, None),
            (record(true, "now"), true, Some(Why::Stopped)),
        ] {
            assert_eq!(judge(&found, "now", |_| Ok(stopped)).unwrap(), expected);
        }
    }

    #[test]
    fn a_cgroup_or_root_of_another_container_is_kept() {
        let cgroup = |path: &str, v1: &str| {
            let v1 = if v1.is_empty() { Vec::new() } else { vec![v1.into()] };
            Some(CgroupRecord { path: path.into(), v1, ..CgroupRecord::default() })
        };
        for (ours, theirs, kept) in [
            (cgroup("/g/a", ""), cgroup("/g/b", ""), true),
            (cgroup("/g/a", ""), cgroup("/g/a", ""), false),
            (cgroup("/g/a", ""), cgroup("/g/a/b", ""), false),
            (cgroup("/g/a", ""), cgroup("/g/ab", ""), true),
            (cgroup("/g/a/b", ""), cgroup("/g/a", ""), true),
            (cgroup("", "/m/a"), cgroup("", "/m/a"), false),
            (cgroup("", "/m/a"), cgroup("/m/b", ""), true),
            (cgroup("/g/a", ""), None, true),
        ] {
            let mut record = Record { cgroup: ours, ..Record::default() };
            let shown = format!("{record:?} {theirs:?}");
            remove_shared(&mut record, &Record { cgroup: theirs, ..Record::default() });
            assert_eq!(record.cgroup.is_some(), kept, "{shown}");
        }
        for (rootfs, kept) in [("/a", false), ("/b", true)] {
            let of =
                |rootfs: &str| Record { rootfs: rootfs.into(), under_root: Some(7), ..Record::default() };
            let mut record = of("/a");
            remove_shared(&mut record, &of(rootfs));
            assert_eq!(record.under_root.is_some(), kept);
        }
    }
}
