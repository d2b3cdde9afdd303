//! Processes that the kernel has killed because memory ran out: how many, and how to wait for the next.
//!
//! Each kill changes v2's memory.events, which poll(2) reports. v1 counts the kills in memory.oom_control and
//! signals an eventfd (the kernel's cgroup-v1/memory, "OOM Control"). It does so before it has killed a
//! process, and also if it is configured not to kill. Therefore the count is read again for a while after a
//! signal.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};

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

/// The processes in a cgroup that the kernel has killed because memory ran out, and the memory in numbers of
/// bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kills {
    #[serde(rename = "oomKills")]
    pub count: u64,
    /// Memory ran out on the host or in a cgroup above, not by the cgroup's own limit.
    #[serde(rename = "oomAbove", default, skip_serializing_if = "std::ops::Not::not")]
    pub above: bool,
    #[serde(rename = "memoryLimit", default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The most that was in use at any time. v2 reports it since Linux 5.19.
    #[serde(rename = "memoryPeak", default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
}

impl fmt::Display for Kills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.above { " on the host or in a cgroup above" } else { "" };
        write!(f, "out of memory{place}")?;
        let figures = [("limit", self.limit), ("peak", self.peak)];
        let figures =
            figures.into_iter().filter_map(|(name, bytes)| Some(format!("{name} {}", size(bytes?))));
        let figures: Vec<String> = figures.collect();
        if figures.is_empty() { Ok(()) } else { write!(f, " ({})", figures.join(", ")) }
    }
}

/// Formats a number of bytes with at most one decimal.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((power, unit)) = units.into_iter().find(|(power, _)| bytes >> power > 0) else {
        return format!("{bytes} bytes");
    };
    let tenths = (u128::from(bytes) * 10 + (1 << (power - 1))) >> power;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

/// Returns how many processes the kernel has killed in a recorded cgroup since the container was created,
/// because memory ran out. Returns `None` if it has killed none, or if the cgroup cannot be read.
#[must_use]
pub(crate) fn kills(record: &CgroupRecord) -> Option<Kills> {
    let cgroup = Cgroup::open(record).ok().flatten()?;
    let read = |file: &str| cgroup.read(file).ok().flatten();
    let counted = counted(read)?.checked_sub(record.earlier_kills).filter(|kills| *kills > 0)?;
    Some(found(counted, read))
}

/// Returns how many processes the kernel has killed in a cgroup since it was created.
#[must_use]
pub(crate) fn kills_until_now(cgroup: &Cgroup) -> u64 {
    counted(|file| cgroup.read(file).ok().flatten()).unwrap_or(0)
}

/// Reads a count of kills by `read`, which returns the text of a file.
fn counted(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    read("memory.events").or_else(|| read("memory.oom_control")).map(|text| count(&text, "oom_kill"))
}

/// Adds the figures to a count of kills.
fn found(kills: u64, read: impl Fn(&str) -> Option<String>) -> Kills {
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    if let Some(events) = read("memory.events") {
        let limit = number("memory.max");
        // The kernel counts in `oom` how often this limit, or one below, could not be kept.
        let above = limit.is_none() || count(&events, "oom") == 0;
        return Kills { count: kills, above, limit, peak: number("memory.peak") };
    }
    // Without a limit v1 shows the largest number of whole pages.
    let limit = number("memory.limit_in_bytes").filter(|limit| *limit < i64::MAX as u64 >> 16 << 16);
    Kills { count: kills, above: limit.is_none(), limit, peak: number("memory.max_usage_in_bytes") }
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

    #[test]
    fn kills_are_explained_by_the_limit_that_was_reached() {
        let v2 = |oom: u32| format!("low 0\nhigh 0\nmax 3\noom {oom}\noom_kill 2\n");
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n".to_string();
        for (files, expected) in [
            (
                vec![
                    ("memory.events", v2(1)),
                    ("memory.max", "8388608\n".into()),
                    ("memory.peak", "8388608\n".into()),
                ],
                "out of memory (limit 8 MiB, peak 8 MiB)",
            ),
            (
                vec![("memory.events", v2(1)), ("memory.max", "1572864\n".into())],
                "out of memory (limit 1.5 MiB)",
            ),
            (
                vec![
                    ("memory.events", v2(0)),
                    ("memory.max", "8388608\n".into()),
                    ("memory.peak", "4096\n".into()),
                ],
                "out of memory on the host or in a cgroup above (limit 8 MiB, peak 4 KiB)",
            ),
            (
                vec![("memory.events", v2(0)), ("memory.max", "max\n".into())],
                "out of memory on the host or in a cgroup above",
            ),
            (
                vec![
                    ("memory.oom_control", v1.clone()),
                    ("memory.limit_in_bytes", "8388608\n".into()),
                    ("memory.max_usage_in_bytes", "8388608\n".into()),
                ],
                "out of memory (limit 8 MiB, peak 8 MiB)",
            ),
            (
                vec![("memory.oom_control", v1), ("memory.limit_in_bytes", "9223372036854771712\n".into())],
                "out of memory on the host or in a cgroup above",
            ),
        ] {
            let read =
                |name: &str| files.iter().find(|(file, _)| *file == name).map(|(_, text)| text.clone());
            assert!(counted(read) > Some(0));
            assert_eq!(found(1, read).to_string(), expected);
        }
    }

    #[test]
    fn sizes_have_at_most_one_decimal() {
        for (bytes, expected) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (8 << 20, "8 MiB"),
            ((8 << 20) - 4096, "8 MiB"),
            ((8 << 20) + (1 << 19), "8.5 MiB"),
            (3 << 30, "3 GiB"),
            (u64::MAX, "17179869184 GiB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }
}
