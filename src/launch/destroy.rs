//! Taking a container away: after an error of `create`, at the end of `run`, and by `delete`. It can be done again
//! after having been interrupted anywhere, and leaves the record as long as anything else remains.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::cgroups::{self, Cgroup, CgroupRecord};
use crate::error::{Context, Kind, Result, fail};
use crate::hooks::{self, Hook};
use crate::state::{Dir, Record, Status, spec_state};
use crate::sys::task;
use crate::{intel_rdt, log, rootfs, state, trace};

/// How long killed processes may take to end: one in the middle of writing to a slow disk takes its time.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one that is on its way out is waited for.
const GRACE: Duration = Duration::from_millis(200);

/// Kills what runs in the container and removes all that was made for it. Then the poststop hooks run, whose failures
/// are only told (runtime.md#lifecycle).
pub fn destroy(dir: Dir, record: &Record, poststop: &[Hook]) -> Result<()> {
    let _phase = trace::phase("destroy");
    let deadline = Instant::now() + PATIENCE;
    let pidfd = state::pidfd(record)?;
    if let Some(cgroup) = &record.cgroup {
        take_cgroup(&dir, cgroup, &record.created, pidfd.is_some(), deadline)?;
    }
    if let Some(pidfd) = pidfd {
        kill_and_wait(record, &pidfd, deadline)?;
    }
    if let Some(class) = &record.intel_rdt {
        intel_rdt::remove(class)?;
    }
    if let Some(under) = record.under_root {
        rootfs::detach(&record.rootfs, under, record.root_mount)?;
    }
    dir.remove()?;
    let state = spec_state(record, Status::Stopped, None);
    hooks::run_all(poststop, state.as_bytes()).into_iter().for_each(log::warn);
    Ok(())
}

/// Takes the container away after an error, which tells more than what goes wrong in the undoing.
pub fn undo(dir: Dir, record: &Record, poststop: &[Hook]) {
    if let Err(e) = destroy(dir, record, poststop) {
        log::warn(format!("undoing: {e:#} (hint: delete --force tries again), ignoring"));
    }
}

fn late() -> anyhow::Error {
    fail(Kind::Os, "processes of the container do not end (hint: try again later)")
}

/// Destroys a cgroup that the configuration of a container names whose record is lost.
pub fn destroy_cgroup(dir: &Dir, cgroup: &CgroupRecord) -> Result<()> {
    // When it was created is not known: every other container counts.
    take_cgroup(dir, cgroup, "", false, Instant::now() + PATIENCE)
}

/// Kills what runs in the cgroup of the container that was `created` then, and removes it. `runs`: the container's first
/// process does.
fn take_cgroup(dir: &Dir, cgroup: &CgroupRecord, created: &str, runs: bool, deadline: Instant) -> Result<()> {
    let anothers = cgroups::is_anothers(cgroup)?;
    // Usually nothing is left in it, and the kernel removes only what is empty.
    let removed = !anothers && !runs && cgroups::remove_empty(cgroup);
    let found = if removed || anothers { None } else { Cgroup::open(cgroup)? };
    let populated = found.as_ref().map_or(Ok(false), Cgroup::populated)?;
    let why_not = match &found {
        Some(found) if populated => sharer(dir, cgroup, found, created, runs)?,
        None if anothers => Some("it is a new one of the same name".into()),
        _ => None,
    };
    if let Some(why_not) = why_not {
        log::warn(format!("cgroup {} is not removed: {why_not}", cgroup.shown()));
        return Ok(());
    }
    if let Some(found) = found.as_ref().filter(|_| populated) {
        kill_in(found, cgroup, deadline)?;
    }
    if let Some(unit) = &cgroup.unit {
        // First, for it removes the directories too, once they are empty.
        cgroups::systemd::stop(unit)?;
    }
    if let Some(found) = found {
        found.remove(deadline)?;
    }
    cgroups::remove_parents(&cgroup.parents);
    Ok(())
}

/// Returns why the processes in the cgroup are not this container's, by the other containers' records: `create` accepts an
/// empty cgroup that exists, for one that of a container which has stopped. Fails if another container is in a cgroup
/// below, since the kernel kills both at once.
fn sharer(
    dir: &Dir,
    cgroup: &CgroupRecord,
    found: &Cgroup,
    created: &str,
    runs: bool,
) -> Result<Option<String>> {
    // `create` refuses a cgroup with processes, so that another container can only be below.
    if runs && !found.divided()? {
        return Ok(None);
    }
    let Some(other) = dir.shares_cgroup(cgroup, created, runs, cgroups::populated)? else { return Ok(None) };
    if other.cgroup.is_some_and(|theirs| theirs.contains(cgroup)) {
        return Ok(Some(format!("container {:?} has it too", other.id)));
    }
    let text = format!("container {:?} is in a cgroup below (hint: delete it first)", other.id);
    Err(fail(Kind::WrongStatus, text)).with_context(|| cgroup.shown().to_string())
}

/// Since Linux 7.0 such a process is in its cgroup until then.
const UNREAPED: &str = "the container's first process waits until processes that were put beside it are reaped \
                        (hint: the caller of exec --detach does that)";

/// Kills all in a cgroup and waits for its end.
fn kill_in(cgroup: &Cgroup, record: &CgroupRecord, deadline: Instant) -> Result<()> {
    let _phase = trace::phase("kill and wait");
    cgroup.kill()?;
    if cgroup.wait_empty(deadline)? {
        return Ok(());
    }
    // The kernel lists none that is ending.
    let ending = cgroup.pids().is_ok_and(|pids| pids.is_empty());
    let error = if ending { fail(Kind::Os, UNREAPED) } else { late() };
    Err(error).with_context(|| record.shown().to_string())
}

/// Kills the container's first process and waits for its end.
fn kill_and_wait(record: &Record, pidfd: &OwnedFd, deadline: Instant) -> Result<()> {
    let _phase = trace::phase("kill and wait");
    match task::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(e) if e.errno == Errno::ESRCH => return Ok(()),
        other => other?,
    }
    // The first process of a pid namespace stays until whoever has put others there has reaped them. It runs nothing
    // more then, and those who reap may be waiting for us.
    let ended = |until: Instant| -> Result<bool> {
        Ok(task::poll_readable(&[pidfd.as_fd()], Some(until.min(deadline)))?.contains(&true))
    };
    if ended(Instant::now() + GRACE)? || state::pidfd(record)?.is_none() || ended(deadline)? {
        return Ok(());
    }
    Err(late())
}
