//! Processes killed for want of memory: how many, and when to look.
//!
//! v2's memory.events is changed by each kill, and poll(2) tells. v1 counts the kills in memory.oom_control and gives
//! notice by an eventfd (the kernel's cgroup-v1/memory, "OOM Control"), but before it has killed anyone, or if it is
//! told not to kill: so the count is looked at again for a while.

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

/// How long after a notice a kill may come to be counted.
const SETTLED: Duration = Duration::from_secs(1);
/// How often to look meanwhile, and where the kernel gives no notice at all.
const SOON: Duration = Duration::from_millis(10);
const UNTOLD: Duration = Duration::from_millis(200);

/// Whether the kernel has killed for want of memory in a cgroup on record. One that cannot be asked says no.
#[must_use]
pub fn has_killed(record: &CgroupRecord) -> bool {
    let Ok(Some(cgroup)) = Cgroup::open(record) else { return false };
    let kills = |file: &str| cgroup.read(file).ok().flatten().map(|text| count(&text, "oom_kill"));
    kills("memory.events").or_else(|| kills("memory.oom_control")).is_some_and(|kills| kills > 0)
}

/// The memory of a cgroup, under watch.
pub struct Watch {
    file: File,
    kills: u64,
    notice: Notice,
}

/// How the kernel tells that there may be news.
enum Notice {
    /// By the file itself.
    Change,
    /// By an eventfd. After a notice a kill may come until this moment.
    Event(EventFd, Option<Instant>),
    /// It does not: we may not ask for it, or this kernel has no such thing.
    Never,
}

impl Watch {
    /// `None` without a memory controller.
    pub fn open(cgroup: &Cgroup) -> Result<Option<Self>> {
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

    /// What to wait for, if the kernel gives notice.
    #[must_use]
    pub fn notice(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.notice {
            Notice::Change => Some((self.file.as_fd(), PollFlags::POLLPRI)),
            Notice::Event(event, _) => Some((event.as_fd(), PollFlags::POLLIN)),
            Notice::Never => None,
        }
    }

    /// After how long to look without one.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        match &self.notice {
            Notice::Event(_, Some(_)) => Some(SOON),
            Notice::Never => Some(UNTOLD),
            Notice::Change | Notice::Event(_, None) => None,
        }
    }

    /// How many processes were killed since it was last asked; one if all have to wait, since the killer is disabled.
    pub fn news(&mut self) -> Result<u64> {
        let noticed = match &self.notice {
            // Not ready, mostly.
            Notice::Event(event, _) => event.read().is_ok(),
            Notice::Change | Notice::Never => false,
        };
        let text = self.read()?;
        let kills = count(&text, "oom_kill");
        let new = kills.saturating_sub(std::mem::replace(&mut self.kills, kills));
        let Notice::Event(_, until) = &mut self.notice else { return Ok(new) };
        if new > 0 || until.is_some_and(|until| until < Instant::now()) {
            // What ran out may be the memory of a cgroup above, which has killed elsewhere.
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
                let n = other.context("the cgroup's count of kills for want of memory")?;
                Ok(String::from_utf8_lossy(&text[..n]).into_owned())
            }
        }
    }
}

/// The eventfd that v1's cgroup of `file` signals.
fn event_of(cgroup: &Cgroup, file: &File) -> Result<Option<EventFd>> {
    let Some(holder) = cgroup.holder("memory.oom_control")? else { return Ok(None) };
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
    let event = event.map_err(|e| sys::Error::new("eventfd2()", e))?;
    let words = format!("{} {}", event.as_fd().as_raw_fd(), file.as_raw_fd());
    match holder.write("cgroup.event_control", &words).map_err(|e| (sys::errno(&e), e)) {
        Ok(()) => Ok(Some(event)),
        // A kernel without it, or with another's rights; one with PREEMPT_RT has it and refuses.
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
