//! `pause`: everything in the container's cgroup stands still until `resume`.

use std::time::{Duration, Instant};

use crate::cgroups::Cgroup;
use crate::cli::Globals;
use crate::error::{Kind, Result, fail};
use crate::state::Status;

/// How long the kernel may take to stop all of a container, or to let it go on. A process in the middle of a
/// system call that cannot be interrupted stops at its end.
pub(super) const FREEZE: Duration = Duration::from_secs(10);

pub(super) fn run(globals: &Globals, id: &str) -> Result<()> {
    let may = |status: Status| matches!(status, Status::Created | Status::Running);
    freezable(globals, id, "pause", may, |cgroup| cgroup.freeze(true, Instant::now() + FREEZE))
}

/// Does `act` to the cgroup of a container whose status allows it, while no other command changes the container.
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
        return Err(fail(Kind::WrongStatus, format!("cannot {verb} a container that is {status}")));
    }
    let without = || fail(Kind::Unsupported, "the container has no cgroup to freeze");
    act(&super::cgroup(&record)?.ok_or_else(without)?)
}
