//! `pause`: freezes every process in the container's cgroup until `resume`.

use std::time::{Duration, Instant};

use crate::cgroups::Cgroup;
use crate::cli::Globals;
use crate::error::{Kind, Result, fail};
use crate::log;
use crate::state::Status;

/// How long the kernel may take to freeze or thaw a container. A process in a system call that cannot be
/// interrupted is frozen when the call ends.
pub(super) const FREEZE: Duration = Duration::from_secs(10);

pub(super) fn run(globals: &Globals, id: &str) -> Result<()> {
    let may = |status: Status| matches!(status, Status::Created | Status::Running);
    freezable(globals, id, "pause", may, |cgroup| cgroup.freeze(Instant::now() + FREEZE))
}

/// Calls `act` with the cgroup of a container if `may` allows its status. No other command changes the
/// container meanwhile.
pub(super) fn freezable(
    globals: &Globals,
    id: &str,
    verb: &str,
    may: fn(Status) -> bool,
    act: fn(&Cgroup) -> Result<()>,
) -> Result<()> {
    let (dir, record) = super::open_locked(globals, id)?;
    let status = super::status(&dir, &record)?;
    if !may(status) {
        // runc's words come first: engines look for them.
        let first = match status {
            Status::Stopped => "container not running: ",
            _ if verb == "resume" => "container not paused: ",
            _ => "",
        };
        return Err(fail(Kind::WrongStatus, format!("{first}cannot {verb} a container that is {status}")));
    }
    let without = || fail(Kind::Unsupported, "the container has no cgroup to freeze");
    act(&super::cgroup(&record)?.ok_or_else(without)?)?;
    log::info(|| format!("container {id}: {verb}d"));
    Ok(())
}
