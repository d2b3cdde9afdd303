//! What `delete` and `gc` have in common: finding out what is left of a container, and removing it.

use oci_spec::runtime::Linux;

use super::start::Later;
use crate::error::{Context, Kind, Result, fail};
use crate::state::{Dir, Record};
use crate::{cgroups, config, host, launch, log, procstat};

/// What the directory of a container shows.
pub(super) enum Found {
    Record(Box<Record>),
    /// `create` was killed before it made anything.
    Nothing,
    /// There was a record, which is gone or damaged. The error says which.
    Lost(anyhow::Error),
}

pub(super) fn look(dir: &Dir) -> Result<Found> {
    match dir.find_record() {
        Ok(Some(record)) => Ok(Found::Record(Box::new(record))),
        Ok(None) if dir.lost_record()? => Ok(Found::Lost(fail(Kind::Os, "there is no state.json"))),
        Ok(None) => Ok(Found::Nothing),
        Err(e) if e.is::<serde_json::Error>() => Ok(Found::Lost(e)),
        Err(e) => Err(e),
    }
}

/// Fails if the directory may not be a container's. The user has not named this one, and no other directory may be taken
/// for one.
pub(super) fn check(dir: &Dir, found: &Found) -> Result<()> {
    if !matches!(found, Found::Record(_)) && !dir.is_ours()? {
        return Err(fail(Kind::Config, "the directory is not one of a container (hint: is --root right?)"));
    }
    Ok(())
}

/// Removes a container that is locked.
pub(super) fn remove(dir: Dir, mut record: Record) -> Result<()> {
    // Without a process no hook has run either.
    let reads = record.delete_reads_config && record.pid.is_some();
    let poststop = if reads { Later::read(&dir).map(|later| later.poststop) } else { Ok(Vec::new()) };
    let poststop = poststop.unwrap_or_else(|e| {
        // A damaged configuration must not make it impossible to delete the container.
        log::warn(format!("hooks.poststop: {e:#}, ignoring"));
        Vec::new()
    });
    if record.boot_id != procstat::boot_id()? {
        // A reboot has removed all of it, and what lies at its paths now belongs to others.
        (record.pid, record.cgroup, record.intel_rdt, record.under_root) = (None, None, None, None);
    }
    launch::destroy(dir, &record, &poststop)?;
    log::info(|| format!("container {}: removed", record.id));
    Ok(())
}

const LOST: &str =
    "the record is lost, and what may still run is not known (hint: end that, and remove the directory)";

/// Returns `linux` of the kept configuration of a container without a record.
pub(super) fn kept_linux(dir: &Dir) -> Result<Option<Linux>> {
    let config = dir.load_config().and_then(config::parse).context(LOST)?;
    Ok(config.spec.linux().clone())
}

/// Fails if a process may run that belongs to a container without a record. The kept configuration says in which cgroup it
/// would be.
pub(super) fn check_nothing_runs(dir: &Dir) -> Result<()> {
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
