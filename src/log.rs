//! The log: records in the two formats of logrus, and the message on stderr. docs/log.md describes it for users.
//!
//! Podman reads the whole file as one JSON value, and containerd reads its last `error` record. A failed
//! command therefore writes exactly one record, unless `--debug` or `--log-level info` asks for more. Warnings
//! are collected and written at the end: in that record, or each in its own if the command succeeds. Only
//! `main` calls [`error`] and [`flush`].
//!
//! With `--debug` each phase of a command is a record when it begins (`trace.rs`). A process in a container
//! has no descriptor of the log: it would be a file of the host within the container's reach. Its records are
//! messages on its channel to the runtime process ([`forward`]), which it needs anyway until `execve`. The
//! alternatives were refused: in memory that both share, as the trace has it, the records of a process that
//! hangs would never be seen; and an inherited pipe, which runc uses, is one more descriptor. What arrives is
//! escaped by the runtime process. A process under a seccomp filter writes nothing any more ([`mute`]), and
//! neither does one of `create` that has reported that it is ready.

mod line;
mod sinks;

use std::fmt::{Display, Write as _};
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) use line::Line;
use serde::Serialize;
use sinks::Sink;

use crate::error::{self, Problems, Result};
use crate::sys;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

impl Format {
    #[must_use]
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// The levels of the log. Each includes the levels before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Error,
    #[default]
    Warning,
    Info,
    Debug,
}

impl Level {
    #[must_use]
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "error" | "fatal" | "panic" => Some(Self::Error),
            "warning" | "warn" => Some(Self::Warning),
            "info" => Some(Self::Info),
            "debug" | "trace" => Some(Self::Debug),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// `--log`, `--log-format`, `--log-level` and `--debug`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub file: Option<PathBuf>,
    pub format: Format,
    pub level: Level,
}

struct Log {
    sink: Sink,
    format: Format,
    warnings: Vec<String>,
}

static LOG: Mutex<Log> = Mutex::new(Log { sink: Sink::Stderr, format: Format::Text, warnings: Vec::new() });

/// The [`Level`]. It is not in [`LOG`], so that a record that nobody asks for costs no lock.
static LEVEL: AtomicU8 = AtomicU8::new(Level::Warning as u8);

fn log() -> MutexGuard<'static, Log> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether the log has records of this level.
#[inline]
pub(crate) fn has(level: Level) -> bool {
    LEVEL.load(Ordering::Relaxed) >= level as u8
}

/// Opens the log. It is called before anything that can fail, so that the log contains every failure.
pub(crate) fn init(options: &Options) -> Result<()> {
    let mut log = log();
    log.format = options.format;
    LEVEL.store(options.level as u8, Ordering::Relaxed);
    if let Some(destination) = &options.file {
        log.sink = Sink::open(destination)?;
    }
    Ok(())
}

/// Adds a warning. The command continues.
pub(crate) fn warn(text: impl Into<String>) {
    log().warnings.push(text.into());
}

/// Writes a record about what a command has done at once, if the level is `info` or `debug`.
pub(crate) fn info(text: impl FnOnce() -> String) {
    if has(Level::Info) {
        write(Level::Info, &text(), None);
    }
}

/// Writes a record at once if the level is `debug`.
pub(crate) fn debug(text: impl FnOnce() -> String) {
    if has(Level::Debug) {
        step(&text(), &"");
    }
}

/// Writes the record of a phase, which is its name and its detail, if the level is `debug`. A text that is
/// too long is truncated. A process that forwards its records allocates nothing here: its limits may already
/// be those of the container.
pub(crate) fn step(name: &str, of: &dyn Display) {
    if !has(Level::Debug) {
        return;
    }
    let mut line = Line::<LONGEST>::new();
    // Writing to a Line cannot fail.
    let _ = line.write_str(name);
    let name = line.len();
    let _ = write!(line, " {of}");
    if line.len() == name + 1 {
        line.truncate(name);
    }
    let forwarded = log().sink.forward(line.bytes());
    if !forwarded {
        write(Level::Debug, &line.text(), None);
    }
}

/// The most bytes of the text of a `debug` record.
const LONGEST: usize = 1024;

/// Sends the records of this process, which is a clone that becomes a program of a container, on its channel
/// from now on. `tag` is the byte before the text.
pub(crate) fn forward(channel: RawFd, tag: u8) {
    let inherited = std::mem::replace(&mut log().sink, Sink::Channel { fd: channel, tag });
    // Its descriptor is closed together with all others, by one call.
    std::mem::forget(inherited);
}

/// Writes a record that `process` has forwarded.
pub(crate) fn forwarded(process: &'static str, text: &str) {
    if has(Level::Debug) {
        write(Level::Debug, text, Some(process));
    }
}

/// Ends the records of this process.
pub(crate) fn mute() {
    LEVEL.store(Level::Error as u8, Ordering::Relaxed);
}

fn write(level: Level, text: &str, process: Option<&'static str>) {
    let record = Record { process, ..Record::new(level, one_line(text)) };
    log().write(&record);
}

/// Writes the warnings of a command that succeeded.
pub(crate) fn flush() {
    let mut log = log();
    let warnings = std::mem::take(&mut log.warnings);
    if !has(Level::Warning) {
        return;
    }
    for text in warnings {
        let text = one_line(&text);
        if log.is_for_people() {
            let _ = std::io::stderr().write_all(format!("warning: {text}\n").as_bytes());
        } else {
            log.write(&Record::new(Level::Warning, text));
        }
    }
}

/// Reports a failure: one record in the log, and the message on stderr, because engines match on it. The word
/// before it is for programs that look for an error. If stderr itself is the log, in JSON, it has the record
/// only, as with runc and crun.
pub(crate) fn error(error: &anyhow::Error) {
    let mut log = log();
    let warnings = std::mem::take(&mut log.warnings);
    let message = one_line(&format!("{error:#}"));
    if !log.is_for_people() {
        log.write(&Record::of_error(error, message.clone(), warnings));
        if matches!(log.sink, Sink::Stderr) {
            return;
        }
    }
    let mut stderr = std::io::stderr();
    let lines = several(error).filter(|_| stderr.is_terminal());
    let text = format!("error: {}\n", lines.unwrap_or(message));
    // If stderr cannot be written to, there is no place left to report that.
    let _ = stderr.write_all(text.as_bytes());
}

/// Returns the message of an error that has several problems, with a line for each. It is for terminals only:
/// engines look for words in one line.
fn several(error: &anyhow::Error) -> Option<String> {
    let problems = &error.root_cause().downcast_ref::<Problems>()?.0;
    if problems.len() < 2 {
        return None;
    }
    let mut text: String =
        error.chain().take_while(|e| !e.is::<Problems>()).map(|e| one_line(&format!("{e}: "))).collect();
    // Writing to a String cannot fail.
    let _ = write!(text, "{} errors:", problems.len());
    for problem in problems {
        let _ = write!(text, "\n  {}", one_line(&format!("{}: {}", problem.place, problem.message)));
    }
    Some(text)
}

/// A record of the log. The members have this order in the file.
#[derive(Serialize)]
struct Record {
    level: &'static str,
    msg: String,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// The places of the problems in the document, as RFC 6901 pointers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pointers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    syscall: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// The process that the record is from, if that is not the runtime process.
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<&'static str>,
}

impl Record {
    fn new(level: Level, msg: String) -> Self {
        Self {
            level: level.name(),
            msg,
            time: now(),
            kind: None,
            pointers: Vec::new(),
            syscall: None,
            errno: None,
            warnings: Vec::new(),
            process: None,
        }
    }

    fn of_error(error: &anyhow::Error, msg: String, warnings: Vec<String>) -> Self {
        let problems = error.downcast_ref::<Problems>().map_or(&[][..], |p| &p.0);
        let call = error.downcast_ref::<sys::Error>();
        Self {
            kind: Some(error::kind(error).name()),
            pointers: problems.iter().map(|p| error::pointer(&p.place)).collect(),
            syscall: call.map(|e| e.call.split('(').next().unwrap_or_default().to_string()),
            errno: call.map(|e| format!("{:?}", e.errno)),
            warnings,
            ..Self::new(Level::Error, msg)
        }
    }

    /// Returns the record as the text formatter of logrus writes it.
    fn text(&self) -> String {
        let mut line = format!("time={:?} level={} msg={:?}", self.time, self.level, self.msg);
        if !self.warnings.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(line, " warnings={:?}", self.warnings.join("; "));
        }
        if let Some(process) = self.process {
            let _ = write!(line, " process={process}");
        }
        line
    }
}

impl Log {
    /// Returns whether the log is the messages on stderr.
    fn is_for_people(&self) -> bool {
        matches!(self.sink, Sink::Stderr) && self.format == Format::Text
    }

    fn write(&mut self, record: &Record) {
        self.sink.write(record, self.format);
    }
}

/// Escapes the control characters of a text, and the marks that change the direction of writing. Names in
/// messages come from users, and a message must stay on one line, in the order in which it is written.
#[must_use]
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_direction_mark(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Returns whether a character has Unicode's property Bidi_Control.
fn is_direction_mark(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// Returns the current time in the format of RFC 3339.
#[must_use]
pub(crate) fn now() -> String {
    // A clock that is before 1970 counts as 1970.
    rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Formats the time since 1970-01-01T00:00:00Z in UTC, with nanoseconds.
#[must_use]
pub(crate) fn rfc3339(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let nanos = since_epoch.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Returns year, month and day in the Gregorian calendar, `days` after 1970-01-01. The calculation lets a
/// year begin in March, so that a leap day is its last day.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let from_march_of_0 = days + 719_468;
    let (era, day) = (from_march_of_0 / DAYS_OF_400_YEARS, from_march_of_0 % DAYS_OF_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, each five months have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Kind, Notes, fail};
    use nix::errno::Errno;

    #[test]
    fn times_have_the_format_of_rfc_3339() {
        for (seconds, nanos, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, 1, "2000-02-28T23:59:59.000000001Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000000000Z"),
            (1_709_164_800, 0, "2024-02-29T00:00:00.000000000Z"),
            (1_735_689_599, 999_999_999, "2024-12-31T23:59:59.999999999Z"),
            (1_735_689_600, 0, "2025-01-01T00:00:00.000000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
            (253_402_300_799, 5, "9999-12-31T23:59:59.000000005Z"),
        ] {
            assert_eq!(rfc3339(Duration::new(seconds, nanos)), expected);
        }
    }

    #[test]
    fn a_text_of_a_user_neither_ends_the_line_nor_turns_it() {
        for (text, expected) in [
            ("Zürich 東京 שלום", "Zürich 東京 שלום"),
            ("a\nb\u{1b}[1m", "a\\nb\\u{1b}[1m"),
            ("a\u{202e}b\u{2066}c", "a\\u{202e}b\\u{2066}c"),
            ("\u{200e}\u{200f}\u{61c}", "\\u{200e}\\u{200f}\\u{61c}"),
            ("\u{200d}\u{202f}", "\u{200d}\u{202f}"),
        ] {
            assert_eq!(one_line(text), expected);
        }
    }

    #[test]
    fn every_day_of_400_years_follows_the_day_before() {
        let mut last = (1969, 12, 31);
        for days in 0..146_097 {
            let today = date(days);
            let next = today == (last.0, last.1, last.2 + 1)
                || today == (last.0, last.1 + 1, 1) && last.2 >= 28
                || today == (last.0 + 1, 1, 1) && (last.1, last.2) == (12, 31);
            assert!(next, "{today:?} after {last:?}");
            last = today;
        }
        assert_eq!(last, (2369, 12, 31));
    }

    fn json(error: &anyhow::Error, warnings: Vec<String>) -> serde_json::Value {
        let record = Record::of_error(error, one_line(&format!("{error:#}")), warnings);
        let mut value = serde_json::to_value(&record).unwrap();
        assert!(value.as_object_mut().unwrap().remove("time").is_some());
        value
    }

    #[test]
    fn records_of_errors_have_members_for_programs() {
        let mut notes = Notes::default();
        notes.problem("mounts[3].destination", "is empty");
        notes.problem("process.cwd", "must be absolute");
        let config = notes.into_result().unwrap_err().context("create web1");
        let call = anyhow::Error::new(sys::Error::new("mount(\"/a\")", Errno::ENOENT)).context("mounts[1]");
        for (error, warnings, expected) in [
            (
                config,
                vec!["x, ignoring".to_string()],
                serde_json::json!({"level": "error", "kind": "config",
                    "msg": "create web1: mounts[3].destination: is empty; process.cwd: must be absolute",
                    "pointers": ["/mounts/3/destination", "/process/cwd"], "warnings": ["x, ignoring"]}),
            ),
            (
                call,
                vec![],
                serde_json::json!({"level": "error", "kind": "os", "syscall": "mount", "errno": "ENOENT",
                    "msg": "mounts[1]: mount(\"/a\"): no such file or directory"}),
            ),
            (
                fail(Kind::NotFound, "container \"a\nb\" does not exist"),
                vec![],
                serde_json::json!({"level": "error", "kind": "not found",
                    "msg": "container \"a\\nb\" does not exist"}),
            ),
        ] {
            assert_eq!(json(&error, warnings), expected);
        }
    }

    /// Returns the cells of the first column of the table below a heading of docs/log.md.
    fn documented(heading: &str) -> Vec<&'static str> {
        let (_, page) = include_str!("../docs/log.md").split_once(heading).unwrap();
        let page = page.split("\n## ").next().unwrap();
        let cell = |line: &'static str| line.strip_prefix("| `")?.split_once('`').map(|(cell, _)| cell);
        page.lines().filter_map(cell).collect()
    }

    #[test]
    fn the_page_of_the_log_has_every_kind_and_member() {
        use Kind::{Config, Exists, Hook, NotFound, Os, Unsupported, Usage, WrongStatus};
        let all = [Config, Usage, NotFound, Exists, WrongStatus, Unsupported, Hook, Os];
        // A new kind does not compile until it is here, and then it must be in the list and in the table.
        for kind in all {
            match kind {
                Config | Usage | NotFound | Exists | WrongStatus | Unsupported | Hook | Os => {}
            }
        }
        assert_eq!(documented("\n## Kinds\n"), all.map(Kind::name));
        let error = anyhow::Error::new(sys::Error::new("mount()", Errno::ENOENT));
        let mut record = Record::of_error(&error, "x".into(), vec!["x".into()]);
        record.pointers = vec!["/x".into()];
        record.process = Some("container");
        let text = serde_json::to_string(&record).unwrap();
        let members = documented("\n## Members of a record\n");
        let places: Vec<_> = members.iter().map(|name| text.find(&format!("\"{name}\":"))).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{members:?} in {text}");
        assert_eq!(members.len(), serde_json::to_value(&record).unwrap().as_object().unwrap().len());
    }

    #[test]
    fn text_records_have_the_format_of_logrus() {
        let mut record = Record::new(Level::Error, "exec: \"x\": not found".into());
        record.time = "2024-01-01T00:00:00.000000000Z".into();
        assert_eq!(
            record.text(),
            r#"time="2024-01-01T00:00:00.000000000Z" level=error msg="exec: \"x\": not found""#
        );
        record.warnings = vec!["a".into(), "b".into()];
        assert!(record.text().ends_with(r#" warnings="a; b""#));
        record.process = Some("container");
        assert!(record.text().ends_with(r#" warnings="a; b" process=container"#));
    }
}
