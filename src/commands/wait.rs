//! `wait`: waits until a container has stopped, and ends with its exit status.

use std::os::fd::AsFd;

use super::ended;
use crate::cli::Globals;
use crate::error::{Kind, Result, fail};
use crate::state::{self, Status};
use crate::sys::task;

pub(super) fn run(globals: &Globals, id: &str) -> Result<u8> {
    let (dir, record) = super::open(globals, id)?;
    let seen = match state::pidfd(&record)? {
        Some(process) => {
            task::poll_readable(&[process.as_fd()], None)?;
            ended::status_of(&record, process.as_fd())
        }
        None => None,
    };
    let kept = || ended::known(&dir.load().unwrap_or(record), Status::Stopped)?.status;
    seen.or_else(kept).ok_or_else(|| {
        let hint = "from Linux 6.15 on it is known to a wait that begins before the end";
        fail(
            Kind::Unsupported,
            format!("the container has stopped, and only its parent knows the status (hint: {hint})"),
        )
    })
}
