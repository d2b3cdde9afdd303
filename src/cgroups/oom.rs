//! Processes that the kernel has killed because memory ran out: how many, and how to wait for the next.
//!
//! Each kill changes v2's memory.events, which poll(2) reports. v1 counts the kills in memory.oom_control and
//! signals an eventfd (the kernel's cgroup-v1/memory, "OOM Control"). It does so before it has killed a
//! process, and also if it is configured not to kill. Therefore the count is read again for a while after a
//! signal.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::parse::{flat, of};
use super::{Cgroup, CgroupRecord};
use crate::error::{Context, Result};
use crate::sys;

/// How long after a signal a kill may be counted.
const SETTLED: Duration = Duration::from_secs(1);
/// How often the count is read until then.
const RECHECK: Duration = Duration::from_millis(10);
/// How often the count is read if the kernel signals nothing.
const WITHOUT_NOTICE: Duration = Duration::from_millis(200);

/// Reports whether the kernel has killed a process in a recorded cgroup because memory ran out. Returns false
/// if the cgroup cannot be read.
#[must_use]
pub(crate) fn has_killed(record: &CgroupRecord) -> bool {
    let Ok(Some(cgroup)) = Cgroup::open(record) else { return false };
    let kills = |file: &str| cgroup.read(file).ok().flatten().map(|text| count(&text, "oom_kill"));
    kills("memory.events").or_else(|| kills("memory.oom_control")).is_some_and(|kills| kills > 0)
}

/// Returns the memory limit of a recorded cgroup, as the kernel writes it.
pub(crate) fn limit(record: &CgroupRecord) -> Option<String> {
    let cgroup = Cgroup::open(record).ok()??;
    let files = ["memory.max", "memory.limit_in_bytes"];
    files.iter().find_map(|file| cgroup.read(file).ok()?).map(|text| text.trim().to_string())
}

/// The kills in a cgroup, counted from now on.
pub(crate) struct Watch {
    file: File,
    kills: u64,
    notice: Notice,
}

/// How the kernel signals a possible kill.
enum Notice {
    /// By POLLPRI on the file itself.
    Change,
    /// By an eventfd. After a signal, a kill may be counted until this moment.
    Event(EventFd, Option<Instant>),
    /// Not at all: we lack the right to register, or this kernel has no such event.
    Never,
}

impl Watch {
    /// Opens the count. Returns `None` if the cgroup has no memory controller.
    pub(crate) fn open(cgroup: &Cgroup) -> Result<Option<Self>> {
        let (file, notice) = match cgroup.open_file("memory.events")? {
            Some(file) => (File::from(file), Notice::Change),
            None => match cgroup.open_file("memory.oom_control")? {
                None => return Ok(None),
                Some(file) => {
                    let file = File::from(file);
                    let event = event_of(cgroup, &file)?;
                    (file, event.map_or(Notice::Never, |event| Notice::Event(event, None)))
                }
            },
        };
        let mut watch = Self { file, kills: 0, notice };
        watch.kills = count(&watch.read()?, "oom_kill");
        Ok(Some(watch))
    }

    /// Returns the descriptor and the event to wait for, if the kernel signals kills.
    #[must_use]
    pub(crate) fn notice(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.notice {
            Notice::Change => Some((self.file.as_fd(), PollFlags::POLLPRI)),
            Notice::Event(event, _) => Some((event.as_fd(), PollFlags::POLLIN)),
            Notice::Never => None,
        }
    }

    /// Returns after how long the count has to be read without a signal.
    #[must_use]
    pub(crate) fn recheck_after(&self) -> Option<Duration> {
        match &self.notice {
            Notice::Event(_, Some(_)) => Some(RECHECK),
            Notice::Never => Some(WITHOUT_NOTICE),
            Notice::Change | Notice::Event(_, None) => None,
        }
    }

    /// Returns how many processes were killed since the last call. Returns 1 if the killer is disabled and
    /// all processes wait for memory.
    pub(crate) fn new_kills(&mut self) -> Result<u64> {
        let noticed = match &self.notice {
            // Usually it is not readable.
            Notice::Event(event, _) => event.read().is_ok(),
            Notice::Change | Notice::Never => false,
        };
        let text = self.read()?;
        let kills = count(&text, "oom_kill");
        let new = kills.saturating_sub(std::mem::replace(&mut self.kills, kills));
        let Notice::Event(_, until) = &mut self.notice else { return Ok(new) };
        if new > 0 || until.is_some_and(|until| until < Instant::now()) {
            // The memory that ran out may be that of a parent, and the killed process may be in another
            // cgroup.
            *until = None;
        }
        if noticed && new == 0 {
            if count(&text, "oom_kill_disable") == 1 && count(&text, "under_oom") == 1 {
                return Ok(1);
            }
            *until = Some(Instant::now() + SETTLED);
        }
        Ok(new)
    }

    fn read(&self) -> Result<String> {
        let mut text = [0u8; 512];
        match self.file.read_at(&mut text, 0) {
            // The cgroup is gone.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(String::new()),
            other => {
                let n = other
                    .map_err(|e| sys::Error::of_std("read", &e))
                    .context("the cgroup's count of kills for want of memory")?;
                Ok(String::from_utf8_lossy(&text[..n]).into_owned())
            }
        }
    }
}

/// Registers an eventfd that v1's memory controller signals.
fn event_of(cgroup: &Cgroup, file: &File) -> Result<Option<EventFd>> {
    let Some(holder) = cgroup.holder("memory.oom_control")? else { return Ok(None) };
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
    let event = event.map_err(|e| sys::Error::new("eventfd2()", e))?;
    let words = format!("{} {}", event.as_fd().as_raw_fd(), file.as_raw_fd());
    match holder.write("cgroup.event_control", &words).map_err(|e| (sys::errno(&e), e)) {
        Ok(()) => Ok(Some(event)),
        // A kernel without the file, or one that denies it to us. A kernel with PREEMPT_RT has the file and
        // returns EOPNOTSUPP.
        Err((Some(Errno::ENOENT | Errno::EACCES | Errno::EPERM | Errno::EOPNOTSUPP), _)) => Ok(None),
        Err((_, e)) => Err(e),
    }
}

fn count(text: &str, name: &str) -> u64 {
    of(&flat(text), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted() {
        for (text, expected) in [
            ("low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 7\n", 1),
            ("oom_kill 12", 12),
            ("oom_kill_disable 1\nunder_oom 0\noom_kill 4\n", 4),
            ("oom 4\n", 0),
            ("", 0),
        ] {
            assert_eq!(count(text, "oom_kill"), expected, "{text:?}");
        }
    }
}
