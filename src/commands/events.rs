//! `events`: the statistics of a container, once or repeatedly, and an event when the kernel kills a process
//! in it because memory ran out.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cgroups::oom::Watch;
use crate::cgroups::{Cgroup, stats};
use crate::cli::{Events, Globals};
use crate::error::{Context, Kind, Result, fail};
use crate::state::{self, Record};
use crate::sys::{self, fs, task};
use crate::{host, intel_rdt};

pub(super) fn run(globals: &Globals, args: &Events) -> Result<()> {
    let (_dir, record) = super::open(globals, &args.id)?;
    let stopped = || fail(Kind::WrongStatus, "container not running");
    let process = state::pidfd(&record)?.ok_or_else(stopped)?;
    let without = || fail(Kind::Unsupported, "the container has no cgroup that counts what it uses");
    let cgroup = super::cgroup(&record)?.ok_or_else(without)?;
    let stats = || print_event("stats", &record, Some(figures(&cgroup, &record)?));
    if args.stats {
        return stats();
    }
    let mut memory = Watch::open(&cgroup)?;
    let mut next = Instant::now() + args.interval;
    loop {
        let soon = memory.as_ref().and_then(Watch::recheck_after).map(|time| Instant::now() + time);
        let until = soon.map_or(next, |soon| soon.min(next));
        let ended = wait(process.as_fd(), memory.as_ref().and_then(Watch::notice), until)?;
        if let Some(memory) = &mut memory {
            // Before the end of the container, since the kill may be its cause.
            for _ in 0..memory.new_kills()? {
                print_event("oom", &record, None)?;
            }
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            stats()?;
            next = Instant::now() + args.interval;
        }
    }
}

/// An event. The members are printed in this order, which is runc's: programs look for the beginning of the
/// line.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

/// Prints an event as one line of JSON.
fn print_event(kind: &str, record: &Record, data: Option<Value>) -> Result<()> {
    let event = Event { kind, id: &record.id, data };
    super::print(&(serde_json::to_string(&event).context("JSON")? + "\n"))
}

fn figures(cgroup: &Cgroup, record: &Record) -> Result<Value> {
    let read = |file: &str| match cgroup.read(file) {
        // The cgroup was removed, or the kernel is configured not to count pressure.
        Err(e) if matches!(sys::errno(&e), Some(Errno::ENODEV | Errno::EOPNOTSUPP)) => Ok(None),
        other => other,
    };
    let mut figures = stats::stats(read, &huge_page_sizes())?;
    figures["intel_rdt"] = record.intel_rdt.as_ref().map_or_else(|| json!({}), intel_rdt::stats::stats);
    figures["network_interfaces"] = interfaces(record);
    Ok(figures)
}

/// Returns the statistics of the container's network interfaces, unless it shares the host's.
fn interfaces(record: &Record) -> Value {
    let Some(pid) = record.pid.filter(|_| record.namespaces.iter().any(|name| name == "network")) else {
        return Value::Null;
    };
    // The process may end at any moment. Then there are none.
    let text = host::procfs().and_then(|proc| Ok(fs::read_text(proc, Path::new(&format!("{pid}/net/dev")))?));
    text.map_or(Value::Null, |text| stats::interfaces(&text))
}

/// Returns the sizes of huge pages as they are in the names of cgroup files.
fn huge_page_sizes() -> Vec<String> {
    let names = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut sizes: Vec<u64> = names
        .filter_map(|entry| {
            entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    sizes.into_iter().map(size_name).collect()
}

fn size_name(kilobytes: u64) -> String {
    match kilobytes {
        n if n >= 1 << 20 => format!("{}GB", n >> 20),
        n if n >= 1 << 10 => format!("{}MB", n >> 10),
        n => format!("{n}KB"),
    }
}

/// Waits for the end of the process, for the signal of a kill, or until a time. Returns whether the process
/// has ended.
fn wait(process: BorrowedFd, notice: Option<(BorrowedFd, PollFlags)>, until: Instant) -> Result<bool> {
    let mut fds = vec![PollFd::new(process, PollFlags::POLLIN)];
    fds.extend(notice.map(|(fd, flags)| PollFd::new(fd, flags)));
    task::poll_until(&mut fds, Some(until))?;
    Ok(fds[0].any().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_named_as_in_files() {
        for (kilobytes, expected) in [(64, "64KB"), (2048, "2MB"), (1 << 20, "1GB"), (32 << 10, "32MB")] {
            assert_eq!(size_name(kilobytes), expected);
        }
    }
}
