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
use crate::sys::task::Poll;
use crate::sys::{self, fs};

/// v2's files: the counts, those without what happened in cgroups below, the limit, and the most that was in use.
const EVENTS: &str = "memory.events";
const OWN_EVENTS: &str = "memory.events.local";
const LIMIT: &str = "memory.max";
const PEAK: &str = "memory.peak";

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
    /// Memory ran out by the limit of a cgroup below.
    #[serde(rename = "oomBelow", default, skip_serializing_if = "std::ops::Not::not")]
    pub below: bool,
    /// The slice has counted them. systemd had removed the cgroup before its own count was read.
    #[serde(rename = "oomInSlice", default, skip_serializing_if = "std::ops::Not::not")]
    pub in_slice: bool,
    #[serde(rename = "memoryLimit", default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The most that was in use at any time. v2 reports it since Linux 5.19.
    #[serde(rename = "memoryPeak", default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
}

impl fmt::Display for Kills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self {
            Self { above: true, .. } => " on the host or in a cgroup above",
            Self { below: true, .. } => " in a cgroup below",
            _ => "",
        };
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
    explain(|file| cgroup.read(file).ok().flatten(), record.earlier.unwrap_or_default())
}

/// What the kernel has counted in a cgroup since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    pub kills: u64,
    /// How often its limit, or one below, could not be kept. v1 does not count it.
    pub oom: u64,
    /// How often its own limit could not be kept.
    pub own: u64,
}

impl Counts {
    #[must_use]
    pub(crate) fn of(cgroup: &Cgroup) -> Self {
        Self::read(|file| cgroup.read(file).ok().flatten()).unwrap_or_default()
    }

    /// Reads the counts by `read`, which returns the text of a file.
    fn read(read: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let text = read(EVENTS).or_else(|| read("memory.oom_control"))?;
        let own = read(OWN_EVENTS).map_or(0, |text| count(&text, "oom"));
        Some(Self { kills: count(&text, "oom_kill"), oom: count(&text, "oom"), own })
    }

    /// Returns what was counted after the first `earlier` ones.
    fn since(self, earlier: Self) -> Self {
        Self {
            kills: self.kills.saturating_sub(earlier.kills),
            oom: self.oom.saturating_sub(earlier.oom),
            own: self.own.saturating_sub(earlier.own),
        }
    }
}

/// Reads by `read`, which returns the text of a file, how many processes the kernel has killed after the `earlier` ones,
/// and where memory ran out.
fn explain(read: impl Fn(&str) -> Option<String>, earlier: Counts) -> Option<Kills> {
    let new = Some(Counts::read(&read)?.since(earlier)).filter(|new| new.kills > 0)?;
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    if read(EVENTS).is_some() {
        let (limit, peak) = (number(LIMIT), number(PEAK));
        let (above, below) = (new.oom == 0, new.oom > 0 && new.own == 0);
        return Some(Kills { count: new.kills, above, below, in_slice: false, limit, peak });
    }
    // Without a limit v1 shows the largest number of whole pages.
    let limit = number("memory.limit_in_bytes").filter(|limit| *limit < i64::MAX as u64 >> 16 << 16);
    let (above, peak) = (limit.is_none(), number("memory.max_usage_in_bytes"));
    Some(Kills { count: new.kills, above, limit, peak, ..Kills::default() })
}

/// The kills in a cgroup that systemd removes as soon as it is empty, and the counts with it. The files are
/// opened while the container runs, and read when they change and at the moment when the container's first
/// process has ended. systemd usually needs longer to remove them. If it was faster, the count of the slice
/// is left, which contains the kills in all its cgroups, also in those that were removed.
pub(crate) struct Observer {
    files: Vec<Observed>,
    /// What was counted before it was the container's.
    earlier: Counts,
    slice: Option<Slice>,
}

struct Slice {
    events: File,
    /// The count of kills when the cgroup's own count was read last.
    before: u64,
    now: u64,
}

struct Observed {
    name: &'static str,
    file: File,
    /// What was read last.
    text: String,
    removed: bool,
}

impl Observer {
    /// Opens the files of a recorded cgroup. Returns `None` if that is not a unit of systemd.
    #[must_use]
    pub(crate) fn open(record: Option<&CgroupRecord>) -> Option<Self> {
        let record = record.filter(|record| record.unit.is_some())?;
        let cgroup = Cgroup::open(record).ok().flatten()?;
        let open = |name| Some((name, File::from(cgroup.open_file(name).ok().flatten()?)));
        let observed = |(name, file)| Observed { name, file, text: String::new(), removed: false };
        let files = [EVENTS, OWN_EVENTS, LIMIT, PEAK].into_iter().filter_map(open).map(observed).collect();
        let slice = record.path.parent().map(|slice| slice.join(EVENTS));
        let events = slice.and_then(|events| fs::open(fs::CWD, &events, fs::O_RDONLY, 0).ok());
        let slice = events.map(|events| Slice { events: events.into(), before: 0, now: 0 });
        let mut observer = Self { files, earlier: record.earlier.unwrap_or_default(), slice };
        observer.look();
        Some(observer)
    }

    /// Reports whether the count of kills was removed.
    fn removed(&self) -> bool {
        self.files.first().is_none_or(|events| events.name != EVENTS || events.removed)
    }

    /// Returns what to poll.
    #[must_use]
    pub(crate) fn interest(&self) -> Poll<'_> {
        // A removed file is ready all the time.
        let events = self.files.first().filter(|_| !self.removed());
        events.map_or(Poll::NONE, |events| Poll::change(events.file.as_fd()))
    }

    /// Reads the files again, the count of kills first. What was read before is kept if they no longer exist.
    pub(crate) fn look(&mut self) {
        // Read before the cgroup's own count, so that no kill in the cgroup is in the slice's count alone.
        if let Some(slice) = &mut self.slice {
            slice.now = read(&slice.events).ok().flatten().map_or(slice.now, |text| count(&text, "oom_kill"));
        }
        for observed in &mut self.files {
            match read(&observed.file) {
                Ok(Some(text)) => observed.text = text,
                Ok(None) | Err(_) => observed.removed = true,
            }
        }
        let removed = self.removed();
        if let Some(slice) = self.slice.as_mut().filter(|_| !removed) {
            slice.before = slice.now;
        }
    }

    /// Returns the kills that were seen.
    #[must_use]
    pub(crate) fn kills(&self) -> Option<Kills> {
        let text = |name: &str| {
            self.files.iter().find(|observed| observed.name == name).map(|observed| observed.text.clone())
        };
        explain(text, self.earlier).or_else(|| {
            let slice = self.slice.as_ref().filter(|_| self.removed())?;
            let limit = text(LIMIT).and_then(|text| text.trim().parse().ok());
            let new = slice.now.saturating_sub(slice.before);
            (new > 0).then(|| Kills { count: new, in_slice: true, limit, ..Kills::default() })
        })
    }
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
        let (file, notice) = match cgroup.open_file(EVENTS)? {
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
        let text = read(&self.file).context("the cgroup's count of kills for want of memory")?;
        Ok(text.unwrap_or_default())
    }
}

/// Reads a file of a cgroup again. Returns `None` if the cgroup has been removed.
fn read(file: &File) -> sys::Result<Option<String>> {
    let mut text = [0u8; 512];
    match file.read_at(&mut text, 0) {
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(sys::Error::of_std("read", &e)),
        Ok(n) => Ok(Some(String::from_utf8_lossy(&text[..n]).into_owned())),
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
                    ("memory.events.local", v2(1)),
                    ("memory.max", "8388608\n".into()),
                    ("memory.peak", "8388608\n".into()),
                ],
                "out of memory (limit 8 MiB, peak 8 MiB)",
            ),
            (
                vec![
                    ("memory.events", v2(2)),
                    ("memory.events.local", v2(1)),
                    ("memory.max", "1572864\n".into()),
                ],
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
                    ("memory.events", v2(3)),
                    ("memory.events.local", v2(0)),
                    ("memory.max", "8388608\n".into()),
                ],
                "out of memory in a cgroup below (limit 8 MiB)",
            ),
            (
                vec![("memory.events", v2(1)), ("memory.max", "max\n".into())],
                "out of memory in a cgroup below",
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
            assert_eq!(explain(read, Counts::default()).unwrap().to_string(), expected);
            assert_eq!(explain(read, Counts::read(read).unwrap()), None);
        }
    }

    #[test]
    fn what_was_counted_earlier_explains_no_later_kill() {
        let earlier = Counts { kills: 1, oom: 4, own: 2 };
        for (oom, own, expected) in [
            (4, 2, "out of memory on the host or in a cgroup above"),
            (5, 2, "out of memory in a cgroup below"),
            (5, 3, "out of memory"),
        ] {
            let read = |file: &str| match file {
                "memory.events" => Some(format!("oom {oom}\noom_kill 2\n")),
                "memory.events.local" => Some(format!("oom {own}\noom_kill 0\n")),
                _ => None,
            };
            let kills = explain(read, earlier).unwrap();
            assert_eq!((kills.count, kills.to_string().as_str()), (1, expected));
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
