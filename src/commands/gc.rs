//! `gc`: removes what belongs to no container that anybody could still ask for, after a crash of an engine or of ours.
//!
//! What is certain counts, and nothing else. A container that `create` has finished is its engine's, also when it has
//! stopped; one that another command is at work on is that command's. One that `create` has not finished, and nobody is
//! at work on (the lock tells), is a crash's: `destroy` takes away what its record names, leftover processes among them.
//! Of one that was made before the machine was booted only the record is left.

use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::Linux;
use serde::Serialize;

use super::{Failures, delete};
use crate::cli::{Gc, Globals};
use crate::error::{Context, Kind, Result, fail, kind};
use crate::state::{Dir, Entry, Record, Status};
use crate::{cgroups, config, host, state};

/// Whoever holds a lock longer than those who only look is at work.
const BRIEF: Duration = Duration::from_millis(50);

/// Why something is nobody's.
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
    fn words(self) -> &'static str {
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

#[inline(never)]
pub(super) fn run(globals: &Globals, args: Gc) -> Result<()> {
    let root = state::root(globals.root.as_deref())?;
    let boot = crate::procstat::boot_id()?;
    let (mut failures, mut removed, mut told) = (Failures::default(), Vec::new(), Ok(()));
    for entry in state::entries(&root)? {
        let (id, done) = match entry {
            Entry::Container(id) => (id.clone(), container(&root, &id, args, boot)),
            Entry::Deleted(id) => (id.clone(), deleted(&root, &id, args.dry_run)),
        };
        match done {
            Ok(Some(reason)) if args.json => removed.push(Removed { id, reason }),
            Ok(Some(reason)) if told.is_ok() => told = super::print(&format!("{id}: {}\n", reason.words())),
            Ok(_) => {}
            Err(e) => failures.add(&id, &e),
        }
    }
    if args.json {
        told = super::print(&(serde_json::to_string(&removed).context("JSON")? + "\n"));
    }
    failures.into_result().and(told)
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

/// What the directory tells of its container.
enum Found {
    Record(Box<Record>, Option<Status>),
    /// `create` was killed before it made anything.
    Nothing,
    /// There was a record.
    Lost,
}

/// The status is asked for only where it decides.
fn look(dir: &Dir, boot: &str, stopped: bool) -> Result<Found> {
    match dir.find_record() {
        Ok(Some(record)) => {
            let asked = stopped && record.created_done && record.boot_id == boot;
            let status = asked.then(|| super::status(dir, &record)).transpose()?;
            Ok(Found::Record(Box::new(record), status))
        }
        Ok(None) if dir.lost_record()? => Ok(Found::Lost),
        Ok(None) => Ok(Found::Nothing),
        Err(e) if e.is::<serde_json::Error>() => Ok(Found::Lost),
        Err(e) => Err(e),
    }
}

/// `None` if it is somebody's. `boot` is this boot of the machine.
fn judge(found: &Found, boot: &str) -> Option<Why> {
    match found {
        Found::Nothing => Some(Why::InterruptedCreate),
        Found::Lost => Some(Why::LostRecord),
        Found::Record(record, _) if record.boot_id != boot => Some(Why::OtherBoot),
        Found::Record(record, _) if !record.created_done => Some(Why::InterruptedCreate),
        Found::Record(_, status) => (*status == Some(Status::Stopped)).then_some(Why::Stopped),
    }
}

fn container(root: &Path, id: &str, args: Gc, boot: &str) -> Result<Option<Why>> {
    let gone = |e: &anyhow::Error| kind(e) == Kind::NotFound;
    let dir = match state::open(root, id) {
        Err(e) if gone(&e) => return Ok(None),
        other => other?,
    };
    // The locks of those that are left alone are left alone too.
    if judge(&look(&dir, boot, args.stopped)?, boot).is_none() {
        return Ok(None);
    }
    match dir.lock(BRIEF) {
        Err(e) if gone(&e) || kind(&e) == Kind::WrongStatus => return Ok(None),
        other => other?,
    }
    let found = look(&dir, boot, args.stopped)?;
    let Some(why) = judge(&found, boot) else { return Ok(None) };
    check(&dir, matches!(found, Found::Record(..)))?;
    if matches!(found, Found::Lost) {
        nothing_runs(&dir)?;
    }
    if args.dry_run {
        return Ok(Some(why));
    }
    match found {
        Found::Record(record, _) => {
            let record = without_others(&dir, *record)?;
            delete::take(dir, record)?;
        }
        Found::Nothing | Found::Lost => dir.remove()?,
    }
    Ok(Some(why))
}

/// Nobody has named this one: what is not a container's of ours must not be taken for one.
pub(super) fn check(dir: &Dir, has_record: bool) -> Result<()> {
    if !has_record && !dir.is_ours()? {
        return Err(fail(Kind::Config, "the directory is not one of a container (hint: is --root right?)"));
    }
    Ok(())
}

const LOST: &str =
    "the record is lost, and what may still run is not known (hint: end that, and remove the directory)";

/// What the kept configuration says of a container without a record.
pub(super) fn kept_linux(dir: &Dir) -> Result<Option<Linux>> {
    let config = dir.load_config().and_then(config::parse).context(LOST)?;
    Ok(config.spec.linux().clone())
}

/// Whether nothing can run of a container without a record. Its kept configuration tells where it would.
pub(super) fn nothing_runs(dir: &Dir) -> Result<()> {
    let linux = kept_linux(dir)?;
    let path = linux.as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    match cgroups::search::find_process(host::procfs()?, dir.id(), path).context(LOST)? {
        None => Ok(()),
        Some(pid) => {
            let text = format!("the record is lost, and process {pid} is in its cgroup (hint: end it first)");
            Err(fail(Kind::WrongStatus, text))
        }
    }
}

/// The record without what another container has as well: a `create` may have come after the crash that was told to use
/// the same cgroup or root.
fn without_others(dir: &Dir, mut record: Record) -> Result<Record> {
    let mut others = dir.others()?;
    others.retain(|other| other.boot_id == record.boot_id);
    others.iter().for_each(|other| leave(&mut record, other));
    Ok(record)
}

fn leave(record: &mut Record, other: &Record) {
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

    fn record(done: bool, boot: &str) -> Box<Record> {
        Box::new(Record { created_done: done, boot_id: boot.into(), ..Record::default() })
    }

    #[test]
    fn only_what_is_nobodys_is_taken() {
        for (found, expected) in [
            (Found::Nothing, Some(Why::InterruptedCreate)),
            (Found::Lost, Some(Why::LostRecord)),
            (Found::Record(record(false, "now"), None), Some(Why::InterruptedCreate)),
            (Found::Record(record(true, "then"), None), Some(Why::OtherBoot)),
            (Found::Record(record(false, "then"), None), Some(Why::OtherBoot)),
            (Found::Record(record(true, "now"), None), None),
            (Found::Record(record(true, "now"), Some(Status::Running)), None),
            (Found::Record(record(true, "now"), Some(Status::Paused)), None),
            (Found::Record(record(true, "now"), Some(Status::Created)), None),
            (Found::Record(record(true, "now"), Some(Status::Stopped)), Some(Why::Stopped)),
        ] {
            assert_eq!(judge(&found, "now"), expected);
        }
    }

    #[test]
    fn what_another_has_as_well_is_left_to_it() {
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
            leave(&mut record, &Record { cgroup: theirs, ..Record::default() });
            assert_eq!(record.cgroup.is_some(), kept, "{shown}");
        }
        for (rootfs, kept) in [("/a", false), ("/b", true)] {
            let of =
                |rootfs: &str| Record { rootfs: rootfs.into(), under_root: Some(7), ..Record::default() };
            let mut record = of("/a");
            leave(&mut record, &of(rootfs));
            assert_eq!(record.under_root.is_some(), kept);
        }
    }
}
