//! The container's first process, found by its record.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::record::Record;
use crate::error::Result;
use crate::procstat::{Stat, boot_id, exit_of_zombie, read_stat};
use crate::sys::{self, task::Exit};

/// Returns the container's first process, even if it has ended, until its parent has reaped it.
fn unreaped(record: &Record) -> Result<Option<Stat>> {
    let Some(pid) = record.pid else { return Ok(None) };
    let Some(stat) = read_stat(pid)? else { return Ok(None) };
    let same = record.start_time == Some(stat.start_time);
    Ok(if same && record.boot_id == boot_id()? { Some(stat) } else { None })
}

/// Returns the container's first process, unless it has ended.
pub(super) fn alive(record: &Record) -> Result<Option<Stat>> {
    Ok(unreaped(record)?.filter(|stat| !stat.dead()))
}

/// Returns a descriptor of the container's first process, unless it has ended. Unlike its id, the descriptor
/// never refers to another process.
pub(crate) fn pidfd(record: &Record) -> Result<Option<OwnedFd>> {
    Ok(first_process(record)?.map(|(fd, _)| fd))
}

/// Returns a descriptor of the container's first process ([`pidfd`]), and what procfs then shows of it.
pub(crate) fn first_process(record: &Record) -> Result<Option<(OwnedFd, Stat)>> {
    Ok(opened(record)?.filter(|(_, stat)| !stat.dead()))
}

/// Returns a descriptor of the container's first process, even if it has ended, until its parent has reaped it.
pub(crate) fn pidfd_until_reaped(record: &Record) -> Result<Option<OwnedFd>> {
    Ok(opened(record)?.map(|(fd, _)| fd))
}

fn opened(record: &Record) -> Result<Option<(OwnedFd, Stat)>> {
    let Some(pid) = record.pid.filter(|pid| *pid > 0) else { return Ok(None) };
    match sys::task::pidfd_open(pid) {
        // The descriptor was opened first. If the id belongs to the recorded process now, it did so then.
        Ok(fd) => Ok(unreaped(record)?.map(|stat| (fd, stat))),
        // EINVAL, or ENOENT on newer kernels: the id belongs to a thread of another process by now.
        Err(e) if matches!(e.errno, Errno::ESRCH | Errno::EINVAL | Errno::ENOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Returns how the container's first process has ended, if the kernel still knows it: until the process is
/// reaped, and then by a descriptor that was opened before, since Linux 6.15.
pub(crate) fn exit_of_first(record: &Record, pidfd: Option<&OwnedFd>) -> Result<Option<Exit>> {
    let zombie = match (record.pid, unreaped(record)?) {
        (Some(pid), Some(stat)) => exit_of_zombie(pid, &stat)?,
        _ => None,
    };
    Ok(zombie.or_else(|| sys::pidfd::exit_of_reaped(pidfd?.as_fd())))
}
