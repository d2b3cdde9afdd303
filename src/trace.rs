//! `--trace FILE`: the phases of a command, in a file that Perfetto and `corten trace` read.
//!
//! A phase lasts as long as the value that [`phase`] returns. The processes of a launch record their phases
//! in memory that is made before the clone and that they share, in records of one size. So the container
//! process notes its phases without a descriptor, a file or an allocation, and loses the memory at `execve`.
//! A phase that its process did not end, because it executed or died, ends when the runtime process learns of
//! that. A command that executes its sealed copy passes its start time in argv[0].
//!
//! The runtime process alone opens the file, before anything of the container exists, and writes it at the
//! end. Without `--trace` there is no such memory.
//!
//! With `--debug` a phase is also a record of the log when it begins. `log.rs` explains how the records of the
//! other processes get there. Without `--trace` and `--debug` a phase costs one branch.
//!
//! No annotation requests a trace: a stranger may write an annotation, and the file is made with the caller's
//! rights. An engine's administrator gives the option a directory instead.

mod json;
mod timeline;

use std::borrow::Cow;
use std::ffi::{CString, OsString};
use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

pub(crate) use timeline::timeline;

use crate::error::{Kind, Result, fail};
use crate::log::{self, Level, Line};
use crate::sys::{clock, fs, memory};

/// The beginning of argv[0] with which a command executes its sealed copy. Two times follow, in hexadecimal:
/// when the command began and when it executed the copy. `startup/entry.rs` writes the same.
const CARRIED: &str = "--trace-since=";

/// The words of a record: begin, end, process and lengths of the text, and the text.
const WORDS: usize = 16;
const TEXT: usize = (WORDS - 3) * size_of::<u64>();

/// The number of records. The first one is not a phase: it contains the number of phases and the ids of the
/// processes.
const RECORDS: usize = 1 << 13;

struct Trace {
    records: &'static [AtomicU64],
    file: File,
    /// The option, for warnings.
    place: String,
    /// The time of day minus the clock, as the runtime sees them.
    drift: i64,
}

static TRACE: OnceLock<Trace> = OnceLock::new();

/// True if there is a trace, or if the log has a record for each phase.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// The number of this process: 0 for the runtime.
static PROCESS: AtomicUsize = AtomicUsize::new(0);

/// The nanoseconds by which the clock of this process is ahead of the runtime's, because of a time namespace.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// True once a seccomp filter may forbid to read the clock.
static BLIND: AtomicBool = AtomicBool::new(false);

/// A phase. Dropping it ends the phase.
#[must_use]
pub(crate) struct Phase(usize);

/// Begins a phase.
#[inline]
pub(crate) fn phase(name: &'static str) -> Phase {
    phase_of(name, || "")
}

/// Begins a phase with a detail, such as a path or what was decided. `of` is called only with `--trace` or
/// `--debug`.
#[inline]
pub(crate) fn phase_of<D: Display>(name: &'static str, of: impl FnOnce() -> D) -> Phase {
    if WATCHED.load(Ordering::Relaxed) { begin_phase(name, &of()) } else { Phase(0) }
}

#[cold]
fn begin_phase(name: &'static str, of: &dyn Display) -> Phase {
    log::step(name, of);
    Phase(TRACE.get().map_or(0, |trace| trace.note(None, name, of)))
}

/// Begins a phase that the log has no record of: the wait for a message, which can be a record.
#[inline]
pub(crate) fn wait(name: &'static str) -> Phase {
    Phase(TRACE.get().map_or(0, |trace| trace.note(None, name, &"")))
}

/// Makes phases records of the log, if its level is `debug`. The log has been opened.
pub(crate) fn begin_records() {
    if log::has(Level::Debug) {
        WATCHED.store(true, Ordering::Relaxed);
    }
}

impl Drop for Phase {
    #[inline]
    fn drop(&mut self) {
        if self.0 != 0 {
            end(self.0);
        }
    }
}

#[cold]
fn end(at: usize) {
    let Some(trace) = TRACE.get() else { return };
    // A clone has copies of the phases of its parent, which it must not end.
    if trace.process(at) == PROCESS.load(Ordering::Relaxed) && !BLIND.load(Ordering::Relaxed) {
        trace.word(at, 1).store(now(), Ordering::Release);
    }
}

fn now() -> u64 {
    clock::monotonic().wrapping_add_signed(-AHEAD.load(Ordering::Relaxed))
}

/// A record that was read.
struct Record {
    begin: u64,
    /// 0 if the phase has not ended.
    end: u64,
    process: usize,
    name: String,
    of: String,
}

impl Trace {
    fn word(&self, record: usize, word: usize) -> &AtomicU64 {
        &self.records[record * WORDS + word]
    }

    /// Records the begin of a phase, which is now if it is `None`. Returns the number of the record, or 0 if there is no room.
    #[cold]
    fn note(&self, begin: Option<u64>, name: &str, of: &dyn Display) -> usize {
        if BLIND.load(Ordering::Relaxed) {
            return 0;
        }
        // Not read by the caller, because the filter may forbid it.
        let begin = begin.unwrap_or_else(now);
        let at = self.word(0, 0).fetch_add(1, Ordering::Relaxed) as usize + 1;
        if at >= RECORDS {
            return 0;
        }
        let mut text = Line::<TEXT>::new();
        // Writing to a Line cannot fail.
        let _ = text.write_str(name);
        let name = text.len();
        let _ = write!(text, "{of}");
        for (i, bytes) in text.padded().chunks_exact(size_of::<u64>()).enumerate() {
            let word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
            self.word(at, 3 + i).store(word, Ordering::Relaxed);
        }
        let process = PROCESS.load(Ordering::Relaxed);
        self.word(at, 2).store((process << 16 | name << 8 | text.len()) as u64, Ordering::Relaxed);
        self.word(at, 0).store(begin, Ordering::Release);
        at
    }

    /// Records a phase that has ended.
    fn span(&self, begin: u64, end: u64, name: &str) {
        match self.note(Some(begin), name, &"") {
            0 => {}
            at => self.word(at, 1).store(end, Ordering::Release),
        }
    }

    /// Returns the number of the process that wrote a record.
    fn process(&self, at: usize) -> usize {
        self.word(at, 2).load(Ordering::Acquire) as usize >> 16
    }

    /// Reads a record. Returns `None` if its process has died while it wrote the record.
    fn record(&self, at: usize) -> Option<Record> {
        let word = |i| self.word(at, i).load(Ordering::Acquire);
        let (begin, end, process, shape) = (word(0), word(1), self.process(at), word(2) as usize);
        let text: Vec<u8> = (3..WORDS).flat_map(|i| word(i).to_ne_bytes()).collect();
        let part = |range| String::from_utf8_lossy(text.get(range).unwrap_or_default()).into_owned();
        let (name, len) = (shape >> 8 & 0xff, shape & 0xff);
        (begin != 0).then(|| Record { begin, end, process, name: part(0..name), of: part(name..len) })
    }

    fn count(&self) -> usize {
        self.word(0, 0).load(Ordering::Acquire) as usize
    }

    fn numbers(&self) -> std::ops::Range<usize> {
        1..(self.count() + 1).min(RECORDS)
    }

    /// Ends the open phases of `processes`, which have called execve or died and cannot do it themselves.
    fn close(&self, processes: std::ops::Range<usize>) {
        let end = now();
        for at in self.numbers() {
            let word = self.word(at, 1);
            if word.load(Ordering::Acquire) == 0 && processes.contains(&self.process(at)) {
                word.store(end, Ordering::Release);
            }
        }
    }
}

/// Begins the trace. `since` is the time at which this process began. A sealed copy reads the time at which
/// the command began from argv[0]. If the trace cannot be written, a warning says so and the command
/// continues.
pub(crate) fn begin(path: &Path, since: u64, args: &[OsString]) {
    let before = args.first().and_then(|name| name.to_str()?.strip_prefix(CARRIED)).map(|times| {
        let (first, sealed) = times.split_once(',').unwrap_or_default();
        let time = |text| u64::from_str_radix(text, 16).unwrap_or(since).min(since);
        time(first)..time(sealed)
    });
    let first = before.as_ref().map_or(since, |before| before.start);
    if let Some(trace) = start(path, format!("--trace {}", path.display()), first) {
        if let Some(before) = before {
            trace.span(before.start, before.end, "start, to be executed again");
            trace.span(before.end, since, "execute the sealed copy");
        }
        trace.span(since, now(), "open the trace");
    }
}

/// Opens the file, allocates the memory, and begins the outermost phase. If `path` is a directory, the file
/// in it is named after this process, because an engine passes the same option to all commands.
fn start(path: &Path, place: String, since: u64) -> Option<&'static Trace> {
    let file = format!("corten-{}.trace", std::process::id());
    let opened = if path.is_dir() { open(&path.join(file)) } else { open(path) };
    let opened = opened.and_then(|file| Ok((file, memory::shared(RECORDS * WORDS)?)));
    match opened {
        Ok((file, records)) => {
            let trace = TRACE.get_or_init(|| Trace { records, file, place, drift: drift() });
            WATCHED.store(true, Ordering::Relaxed);
            trace.word(0, 1).store(std::process::id().into(), Ordering::Relaxed);
            trace.note(Some(since), "corten", &"");
            Some(trace)
        }
        Err(e) => {
            log::warn(format!("{place}: {e:#}, ignoring"));
            None
        }
    }
}

/// Creates the file, or opens one that contains a trace. No other file is overwritten.
fn open(path: &Path) -> Result<File> {
    let flags = fs::O_RDWR | fs::O_CREAT | fs::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = File::from(fs::open(fs::CWD, path, flags, 0o600)?);
    let mut head = Vec::new();
    if !file.metadata()?.is_file() {
        return Err(fail(Kind::Usage, "is not a regular file"));
    }
    (&file).take(json::HEAD.len() as u64).read_to_end(&mut head)?;
    if !head.is_empty() && head != json::HEAD.as_bytes() {
        return Err(fail(Kind::Usage, "is there already, and is not a trace"));
    }
    file.set_len(0)?;
    std::io::Seek::rewind(&mut file)?;
    Ok(file)
}

/// Returns the arguments for the sealed copy, with the times that [`begin`] reads.
#[must_use]
pub(crate) fn carried(args: &'static [CString]) -> Cow<'static, [CString]> {
    let Some(trace) = TRACE.get() else { return args.into() };
    let since = trace.word(1, 0).load(Ordering::Relaxed);
    let name = CString::new(format!("{CARRIED}{since:016x},{:016x}", now()));
    [name.unwrap_or_default()].into_iter().chain(args.iter().skip(1).cloned()).collect::<Vec<_>>().into()
}

/// Begins the phases of a new clone, which calls this.
pub(crate) fn in_clone() {
    if let Some(trace) = TRACE.get() {
        PROCESS.fetch_add(1, Ordering::Relaxed);
        clock_changed();
        // The runtime ends this phase (`gone`).
        trace.note(None, "the container's process", &"");
    }
}

/// Records the id of a process that was just cloned. If it replaces an intermediate process, that process has
/// ended.
pub(crate) fn cloned(pid: i32) {
    let Some(trace) = TRACE.get() else { return };
    let count =
        (0..json::PROCESSES).take_while(|i| trace.word(0, 1 + i).load(Ordering::Relaxed) != 0).count();
    if count < json::PROCESSES {
        trace.close(1..count);
        trace.word(0, 1 + count).store(pid as u64, Ordering::Relaxed);
    }
}

/// Ends the phases of all clones: they have executed the program or died.
pub(crate) fn gone() {
    if let Some(trace) = TRACE.get() {
        trace.close(1..json::PROCESSES);
    }
}

/// Measures the clock again, because the process may have entered a time namespace.
pub(crate) fn clock_changed() {
    if let Some(trace) = TRACE.get() {
        let ahead = trace.drift - drift();
        // A smaller difference is the usual drift between the two clocks.
        AHEAD.store(if ahead.abs() < 1_000_000 { 0 } else { ahead }, Ordering::Relaxed);
    }
}

/// Returns the time of day minus the clock. Of five measurements the fastest counts, because it was not
/// interrupted.
fn drift() -> i64 {
    let look = || {
        let (before, day, after) = (clock::monotonic(), clock::realtime(), clock::monotonic());
        (after - before, day as i64 - before as i64)
    };
    (0..5).map(|_| look()).min().map_or(0, |(_, drift)| drift)
}

/// Prepares for the seccomp filter that will be loaded. The trace stops in this process unless the filter allows it to read
/// the clock. Without a vDSO that is a system call. The log stops, because it would make calls that the filter may answer
/// with the end of the process.
pub(crate) fn before_filter(may_read_clock: impl FnOnce() -> bool) {
    log::mute();
    if TRACE.get().is_some() && !may_read_clock() {
        blind();
    }
}

/// Stops the trace in this process, a clone. The trace would take its phases for those of the process that waits for it.
pub(crate) fn blind() {
    BLIND.store(true, Ordering::Relaxed);
}

/// Writes the trace, also after an error.
pub(crate) fn finish() {
    let Some(trace) = TRACE.get() else { return };
    if let Err(e) = (&trace.file).write_all(json::document(trace, now()).as_bytes()) {
        log::warn(format!("{}: {e}, ignoring", trace.place));
    }
    let lost = trace.count().saturating_sub(RECORDS - 1);
    if lost != 0 {
        log::warn(format!("{}: the last {lost} phases had no room, ignoring", trace.place));
    }
}
