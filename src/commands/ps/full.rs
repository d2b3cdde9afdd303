//! The text of `ps -ef` for a container's processes. It is that of procps(1), which need not be installed, and which would read
//! every process of the host.

use std::path::Path;

use crate::error::{Context, Result};
use crate::host;
use crate::process::credentials::Status;
use crate::procstat;
use crate::state;
use crate::sys::clock::{self, Local};
use crate::sys::fs;

/// The kernel's ticks in a second of its interface (USER_HZ).
const TICKS: u64 = 100;

/// What a row shows.
#[derive(Clone, Debug, Default)]
struct Row {
    uid: u32,
    pid: i32,
    parent: i32,
    /// The processor time in percent of the time since the start.
    percent: u64,
    started: Local,
    terminal: u32,
    /// The processor time in seconds.
    seconds: u64,
    command: String,
}

/// Returns the heading, and a line for each process that still exists.
pub(super) fn table(pids: &[i32]) -> Result<String> {
    let max = fs::read_text(host::procfs()?, Path::new("sys/kernel/pid_max"))?;
    let max: u32 = max.trim().parse().context("/proc/sys/kernel/pid_max")?;
    let width = (max - 1).to_string().len().max(5);
    let mut text = line("UID", ["PID", "PPID"], width, ["C", "STIME", "TTY", "TIME", "CMD"]);
    let now = clock::local(clock::realtime() / clock::SECOND);
    for pid in pids {
        if let Some(row) = read(*pid)? {
            text.push_str(&row.line(width, &now));
        }
    }
    Ok(text)
}

fn line(user: &str, [pid, parent]: [&str; 2], width: usize, [c, stime, tty, time, cmd]: [&str; 5]) -> String {
    format!("{user:<8} {pid:>width$} {parent:>width$} {c:>2} {stime:>5} {tty:<8} {time:>8} {cmd}\n")
}

/// Reads a process, unless it has ended and was reaped.
fn read(pid: i32) -> Result<Option<Row>> {
    let proc = host::procfs()?;
    let file = |name: &str| {
        let path = format!("{pid}/{name}");
        fs::existing(proc, Path::new(&path), || fs::read_text(proc, Path::new(&path)))
    };
    let (Some(stat), Some(status)) = (file("stat")?, file("status")?) else { return Ok(None) };
    let arguments = file("cmdline")?.unwrap_or_default();
    let (Some(parsed), Some((name, fields))) = (procstat::parse_stat(&stat), procstat::fields(&stat)) else {
        return Ok(None);
    };
    let fields: Vec<&str> = fields.collect();
    // The first is the file's third.
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let used = number(14) + number(15);
    let (now, boot) = (clock::boottime(), clock::realtime().saturating_sub(clock::boottime()));
    let age = (now / clock::SECOND).saturating_sub(parsed.start_time / TICKS);
    Ok(Some(Row {
        uid: Status::parse(&status).map_or(0, |status| status.uids[1]),
        pid,
        parent: number(4) as i32,
        percent: (used * 100 / TICKS).checked_div(age).unwrap_or(0).min(99),
        started: clock::local(boot / clock::SECOND + parsed.start_time / TICKS),
        terminal: number(7) as u32,
        seconds: used / TICKS,
        command: command(name, &arguments, parsed.dead()),
    }))
}

impl Row {
    fn line(&self, width: usize, now: &Local) -> String {
        let started = match &self.started {
            Local { year, .. } if *year != now.year => year.to_string(),
            Local { month, day, .. } if (*month, *day) != (now.month, now.day) => {
                format!("{}{day:02}", MONTHS[*month as usize % MONTHS.len()])
            }
            Local { hour, minute, .. } => format!("{hour:02}:{minute:02}"),
        };
        let (minutes, seconds) = (self.seconds / 60, self.seconds % 60);
        let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
        let days = if days == 0 { String::new() } else { format!("{days}-") };
        line(
            &user(self.uid),
            [&self.pid.to_string(), &self.parent.to_string()],
            width,
            [
                &self.percent.to_string(),
                &started,
                &terminal(self.terminal),
                &format!("{days}{hours:02}:{minutes:02}:{seconds:02}"),
                &self.command,
            ],
        )
    }
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Returns the host's name of a user, cut off at the width of the column.
fn user(uid: u32) -> String {
    let name = state::owner(uid).name;
    if name.chars().count() <= 8 { name } else { name.chars().take(7).chain(['+']).collect() }
}

/// Returns the name of a terminal by its device number (the kernel's devices.txt).
fn terminal(device: u32) -> String {
    let (major, minor) = (libc::major(device.into()), libc::minor(device.into()));
    match (major, minor) {
        (4, 0..64) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 1) => "console".into(),
        (136..=143, _) => format!("pts/{}", (major - 136) * 256 + minor),
        _ => "?".into(),
    }
}

/// Returns the command line on one line, or the name of a process without one.
fn command(name: &str, arguments: &str, dead: bool) -> String {
    let printable =
        |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    let words: Vec<String> = arguments.trim_end_matches('\0').split('\0').map(printable).collect();
    match (dead, arguments.is_empty()) {
        (true, _) => format!("[{}] <defunct>", printable(name)),
        (false, true) => format!("[{}]", printable(name)),
        (false, false) => words.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_form_of_procps() {
        let at = |year, month, day, hour| Local { year, month, day, hour, minute: 7 };
        let now = at(2026, 10, 30, 8);
        let row = Row {
            uid: 4_000_000_000,
            pid: 7,
            parent: 1,
            percent: 3,
            command: "a b".into(),
            ..Row::default()
        };
        let (pts, tty) = (libc::makedev(136, 2) as u32, libc::makedev(4, 65) as u32);
        for (started, terminal, seconds, expected) in [
            (now.clone(), 0, 59, "4000000+     7     1  3 08:07 ?        00:00:59 a b\n"),
            (at(2026, 10, 9, 1), pts, 86_399, "4000000+     7     1  3 Nov09 pts/2    23:59:59 a b\n"),
            (at(2025, 10, 30, 8), tty, 90_061, "4000000+     7     1  3  2025 ttyS1    1-01:01:01 a b\n"),
        ] {
            let row = Row { started, terminal, seconds, ..row.clone() };
            assert_eq!(row.line(5, &now), expected);
        }
    }

    #[test]
    fn a_command_is_one_line() {
        for (arguments, dead, expected) in [
            ("sh\0-c\0a\nb\x1b[2J\0", false, "sh -c a?b?[2J"),
            ("", false, "[a b]"),
            ("", true, "[a b] <defunct>"),
        ] {
            assert_eq!(command("a b", arguments, dead), expected);
        }
    }
}
