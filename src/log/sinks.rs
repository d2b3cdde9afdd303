//! Where records go: stderr, a file, the journal of systemd, syslog, or the runtime process.
//!
//! The forms of `--log` are crun's: `file:PATH`, `journald:IDENTIFIER`, `syslog:IDENTIFIER`, or a path. The
//! journal gets its native protocol (systemd's "Native Journal Protocol"), with the members of a record as
//! fields. Syslog gets the message in the format of RFC 3164, as syslog(3) of the C library writes it.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Format, Level, Record, date, one_line};
use crate::error::{Context, Kind, Result, fail};
use crate::sys::{self, socket};

const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";

/// The time limit for a service that does not read. Then the record is lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most bytes of a message to a service. The kernel refuses a datagram that is larger than the buffer of
/// its socket, which is 208 KiB by default.
const LONGEST: usize = 64 << 10;

/// The facility of messages to syslog: LOG_USER.
const FACILITY: u8 = 1 << 3;

pub(super) enum Sink {
    Stderr,
    File(File),
    Journal(Service),
    Syslog(Service),
    /// The runtime process, at the other end of the channel of this process.
    Channel {
        fd: RawFd,
        tag: u8,
    },
}

/// A connection to a service, and the name under which records are found there.
pub(super) struct Service {
    socket: OwnedFd,
    id: String,
}

impl Sink {
    /// Opens what `--log` names.
    pub(super) fn open(destination: &Path) -> Result<Self> {
        let bytes = destination.as_os_str().as_bytes();
        let after = |word: &str| bytes.strip_prefix(word.as_bytes());
        if let Some(id) = after("journald:") {
            return Service::connect("journald", id, JOURNAL).map(Self::Journal);
        }
        if let Some(id) = after("syslog:") {
            return Service::connect("syslog", id, SYSLOG).map(Self::Syslog);
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(after("file:").unwrap_or(bytes)));
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.map_err(|e| sys::Error::of_std(format!("open({path:?})"), &e)).context("--log")?;
        Ok(Self::File(file))
    }

    /// Writes a record. An error of the log must not make a container fail.
    pub(super) fn write(&mut self, record: &Record, format: Format) {
        match self {
            Self::Stderr => drop(std::io::stderr().write_all(line(record, format).as_bytes())),
            // One write(2), because several processes append to the file.
            Self::File(file) => drop(file.write_all(line(record, format).as_bytes())),
            Self::Journal(service) => service.send(&entry(record, &service.id)),
            Self::Syslog(service) => service.send(&message(record, &service.id)),
            Self::Channel { .. } => {}
        }
    }

    /// Sends a text to the runtime process. Returns false if this is the runtime process.
    pub(super) fn forward(&self, text: &[u8]) -> bool {
        let Self::Channel { fd, tag } = *self else { return false };
        // If the other end is closed, no process is left to read the record.
        let _ = socket::send_parts(fd, [&[tag], text]);
        true
    }
}

impl Service {
    fn connect(name: &str, id: &[u8], path: &str) -> Result<Self> {
        let id = String::from_utf8_lossy(id).into_owned();
        if id.is_empty() || id.chars().any(char::is_control) {
            let what = "is not followed by an identifier of printable characters";
            return Err(fail(Kind::Usage, format!("--log {}: {what}", one_line(&format!("{name}:{id}")))));
        }
        let connected = socket::connect_datagram(&socket::Address::Path(path.into()));
        let socket = connected
            .map_err(|e| sys::Error::new(format!("connect({path:?})"), e.errno))
            .with_context(|| format!("--log {name}:{id}"))?;
        Ok(Self { socket, id })
    }

    fn send(&self, message: &str) {
        let _ = socket::write_before(self.socket.as_fd(), message.as_bytes(), Instant::now() + PATIENCE);
    }
}

fn line(record: &Record, format: Format) -> String {
    let line = match format {
        Format::Json => serde_json::to_string(record).unwrap_or_else(|_| record.text()),
        Format::Text => record.text(),
    };
    line + "\n"
}

/// The severity of a level, which the journal calls priority.
fn severity(level: &str) -> u8 {
    match Level::parse(level) {
        Some(Level::Error) | None => 3,
        Some(Level::Warning) => 4,
        Some(Level::Info) => 6,
        Some(Level::Debug) => 7,
    }
}

/// Returns the entry of the journal: a field a line, and no field with a newline in it. The last fields are left out of an
/// entry that is too long.
fn entry(record: &Record, id: &str) -> String {
    let mut text = format!("PRIORITY={}\nSYSLOG_IDENTIFIER={id}\n", severity(record.level));
    let mut field = |name: &str, value: &str| {
        if text.len() < 2 * LONGEST {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name}={}", short(&one_line(value)));
        }
    };
    field("MESSAGE", &record.msg);
    for (name, value) in [
        ("CORTEN_KIND", record.kind),
        ("CORTEN_SYSCALL", record.syscall.as_deref()),
        ("CORTEN_ERRNO", record.errno.as_deref()),
        ("CORTEN_PROCESS", record.process),
    ] {
        value.into_iter().for_each(|value| field(name, value));
    }
    record.pointers.iter().for_each(|pointer| field("CORTEN_POINTER", pointer));
    record.warnings.iter().for_each(|warning| field("CORTEN_WARNING", warning));
    text
}

/// Returns the message for syslog.
fn message(record: &Record, id: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = format!("<{}>{} ", FACILITY | severity(record.level), stamp(now));
    // Writing to a String cannot fail.
    let _ = write!(text, "{id}[{}]: {}: {}", std::process::id(), record.level, short(&record.msg));
    if !record.warnings.is_empty() {
        let _ = write!(text, " (warnings: {})", short(&one_line(&record.warnings.join("; "))));
    }
    if let Some(process) = record.process {
        let _ = write!(text, " ({process})");
    }
    text
}

/// Returns the time as RFC 3164 writes it, in UTC.
fn stamp(since_epoch: Duration) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let seconds = since_epoch.as_secs();
    let (_, month, day) = date(seconds / 86_400);
    let at = (month as usize - 1) * 3;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{} {day:>2} {hour:02}:{minute:02}:{second:02}", &MONTHS[at..at + 3])
}

/// Returns as much of a text as a message may have.
fn short(text: &str) -> &str {
    let cut = (0..=text.len().min(LONGEST)).rev().find(|at| text.is_char_boundary(*at));
    &text[..cut.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_syslog_has_the_format_of_rfc_3164() {
        for (seconds, expected) in [(0, "Jan  1 00:00:00"), (1_735_689_599, "Dec 31 23:59:59")] {
            assert_eq!(stamp(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn no_text_adds_a_field_to_an_entry_of_the_journal() {
        let mut record = Record::new(Level::Error, "ä".repeat(LONGEST));
        record.pointers = vec!["/linux/sysctl/a\nPRIORITY=0".into()];
        record.warnings = vec!["b\nc".into(), "d".into()];
        record.kind = Some("config");
        let text = entry(&record, "x");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["PRIORITY=3", "SYSLOG_IDENTIFIER=x"]);
        assert_eq!(lines[2].len(), "MESSAGE=".len() + LONGEST);
        let rest = [
            "CORTEN_KIND=config",
            "CORTEN_POINTER=/linux/sysctl/a\\nPRIORITY=0",
            "CORTEN_WARNING=b\\nc",
            "CORTEN_WARNING=d",
        ];
        assert_eq!(lines[3..], rest);
    }
}
