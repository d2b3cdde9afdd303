//! How a container's first process has ended: what the runtime that waited for it saw, and what others can
//! still find out.
//!
//! The kernel gives the exit status to the parent, which reaps the process: `run`, or the engine. Others read
//! it from the zombie before that, and from Linux 6.15 on by a pidfd that they opened before the end. The
//! kills for want of memory are in the cgroup as long as that exists.

use std::os::fd::BorrowedFd;

use nix::sys::signal::Signal;

use super::PATIENCE;
use crate::cgroups::oom::OutOfMemory;
use crate::error::{Kind, Result, kind};
use crate::state::{Dir, Exit, Record, Status};
use crate::sys::{process, task};
use crate::{log, procstat};

/// Returns how the process has ended that this command waited for.
pub(super) fn of(record: &Record, exit: task::Exit) -> Exit {
    let failed = exit.status() != 0;
    let out_of_memory = record.cgroup.as_ref().filter(|_| failed).and_then(OutOfMemory::read);
    Exit { out_of_memory, time: Some(log::now()), ..seen(exit) }
}

fn seen(exit: task::Exit) -> Exit {
    let signal = match exit {
        task::Exit::Code(_) => None,
        task::Exit::Signal(signal) => Some(name(signal)),
    };
    Exit { status: Some(exit.status()), signal, ..Exit::default() }
}

fn name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| signal.to_string(), |signal| signal.as_str().into())
}

/// Puts it on the record of a container that stays.
pub(super) fn keep(dir: &Dir, exit: Exit) -> Result<()> {
    // Another command may have deleted the container during the wait.
    let kept = dir.lock(PATIENCE).and_then(|()| {
        // The record of another command counts, if it has written one meanwhile.
        let mut record = dir.load()?;
        record.exit = Some(exit);
        dir.save(&record)
    });
    match kept {
        Err(e) if kind(&e) == Kind::NotFound => Ok(()),
        kept => kept,
    }
}

/// Returns what is known of the end of a stopped container.
pub(super) fn known(record: &Record, status: Status) -> Option<Exit> {
    if status != Status::Stopped || record.exit.is_some() {
        return record.exit.clone();
    }
    if procstat::boot_id().ok() != Some(&record.boot_id) {
        return None;
    }
    let exit =
        Exit { out_of_memory: record.cgroup.as_ref().and_then(OutOfMemory::read), ..of_zombie(record) };
    (exit != Exit::default()).then_some(exit)
}

fn of_zombie(record: &Record) -> Exit {
    let status = record.pid.zip(record.start_time);
    let status = status.and_then(|(pid, start_time)| procstat::zombie_status(pid, start_time).ok().flatten());
    status.map_or_else(Exit::default, |status| seen(task::Exit::of_status(status)))
}

/// Returns the exit status of a process that has ended, if it can be known.
pub(super) fn status_of(record: &Record, pidfd: BorrowedFd) -> Option<u8> {
    let reaped = || process::reaped_status(pidfd).map(|status| task::Exit::of_status(status).status());
    // It may be reaped between the two.
    reaped().or_else(|| of_zombie(record).status).or_else(reaped)
}

/// Returns why the process has ended, where its exit status does not say that.
pub(super) fn explain(exit: &Exit, filtered: bool) -> Option<String> {
    match (exit.signal.as_deref(), exit.out_of_memory) {
        (Some("SIGKILL"), Some(memory)) => Some(format!("killed: {memory}")),
        (_, Some(memory)) => {
            let who = match memory.kills {
                1 => "a process of the container was".into(),
                kills => format!("{kills} processes of the container were"),
            };
            Some(format!("{who} killed: {memory}"))
        }
        (Some("SIGSYS"), None) if filtered => {
            let hint = "corten seccomp explain --bundle DIR lists what it forbids";
            Some(format!("killed: its seccomp profile forbids a system call (hint: {hint})"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_the_status_does_not_show_is_explained() {
        let memory = |kills| Some(OutOfMemory { kills, limit: Some(8 << 20), peak: Some(8 << 20) });
        let without = Some(OutOfMemory { kills: 1, limit: None, peak: None });
        let signal = |name: &str| Some(name.to_string());
        for (signal, out_of_memory, filtered, expected) in [
            (None, None, true, None),
            (signal("SIGKILL"), None, true, None),
            (signal("SIGKILL"), memory(1), true, Some("killed: out of memory (limit 8 MiB, peak 8 MiB)")),
            (signal("SIGKILL"), without, true, Some("killed: out of memory (no limit of its own)")),
            (
                None,
                memory(1),
                false,
                Some("a process of the container was killed: out of memory (limit 8 MiB, peak 8 MiB)"),
            ),
            (
                signal("SIGTERM"),
                memory(2),
                false,
                Some("2 processes of the container were killed: out of memory (limit 8 MiB, peak 8 MiB)"),
            ),
            (signal("SIGSYS"), None, false, None),
            (
                signal("SIGSYS"),
                None,
                true,
                Some(
                    "killed: its seccomp profile forbids a system call \
                     (hint: corten seccomp explain --bundle DIR lists what it forbids)",
                ),
            ),
        ] {
            let exit = Exit { signal, out_of_memory, ..Exit::default() };
            assert_eq!(explain(&exit, filtered).as_deref(), expected, "{exit:?}");
        }
    }
}
