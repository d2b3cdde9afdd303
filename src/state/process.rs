//! The container's own process, found again by its record.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::record::Record;
use crate::error::Result;
use crate::procstat::{Stat, boot_id, read_stat};
use crate::sys;

/// The container's own process, unless it has ended.
pub(super) fn alive(record: &Record) -> Result<Option<Stat>> {
    let Some(pid) = record.pid else { return Ok(None) };
    let Some(stat) = read_stat(pid)? else { return Ok(None) };
    let same = record.start_time == Some(stat.start_time) && !stat.dead();
    Ok(if same && record.boot_id == boot_id()? { Some(stat) } else { None })
}

/// A descriptor of the container's process, unless it has ended. What is done through it cannot hit a stranger.
pub fn pidfd(record: &Record) -> Result<Option<OwnedFd>> {
    let Some(pid) = record.pid.filter(|pid| *pid > 0) else { return Ok(None) };
    match sys::task::pidfd_open(pid) {
        // The descriptor was taken first: if the process is the recorded one now, it was then.
        Ok(fd) => Ok(alive(record)?.map(|_| fd)),
        // EINVAL, and ENOENT on newer kernels: the number is by now that of another process's thread.
        Err(e) if matches!(e.errno, Errno::ESRCH | Errno::EINVAL | Errno::ENOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
