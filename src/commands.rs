//! The verbs, a file each: load the state, decide, act, save. They write to standard output; only `main`
//! prints errors. Their rows are in [`verbs`].

mod applied;
mod check;
pub(crate) mod checkpoint;
mod create;
mod delete;
mod ended;
mod events;
pub(crate) mod exec;
mod features;
mod gc;
mod kill;
mod leftover;
mod list;
mod mounts;
mod pause;
mod ps;
mod restore;
mod resume;
mod run;
mod seccomp;
mod spec;
mod start;
mod state;
mod trace;
pub(crate) mod update;
mod verbs;
mod wait;

use std::borrow::Cow;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::time::Duration;

pub use verbs::VERBS;

use crate::SPEC_VERSION;
use crate::cgroups::{self, Cgroup, CgroupRecord};
use crate::cli::{Call, Command, Globals};
use crate::error::{Context, Kind, Result, fail};
use crate::state::{Dir, Record, Status};
use crate::{host, sys};

/// The time limit for the lock. A command holds it for a short time only.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a command and returns the exit code.
pub(crate) fn run(command: Command) -> Result<u8> {
    match command {
        Command::Help(text) => print(&text).map(|()| 0).context("help"),
        Command::Version => print(&version()).map(|()| 0).context("version"),
        Command::Verb(Call { globals, verb, label, work }) => {
            let _phase = crate::trace::phase_of("command", || label.clone());
            // The other commands need no more of the kernel than the one of these that made the container.
            if matches!(verb, "create" | "run" | "exec") {
                host::check_kernel().context(label.clone())?;
            }
            work(&globals).context(label)
        }
    }
}

/// What corten supports, in crun's words: scripts look for them in `--version`.
const FEATURES: &str = "+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF";

/// Returns the text of `--version`, in the lines that Docker reads.
fn version() -> String {
    format!(
        "corten version {}\ncommit: {}\nspec: {SPEC_VERSION}\n{FEATURES}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("CORTEN_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown"),
    )
}

/// Writes to standard output. A reader that has closed its end is an ordinary error, not a panic.
fn print(text: &str) -> Result<()> {
    let _phase = crate::trace::phase("print");
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| sys::Error::of_std("write(stdout)", &e).into())
}

/// Errors about some of many containers, which do not stop the command.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn add(&mut self, id: &str, error: &anyhow::Error) {
        self.0.push(format!("container {id:?}: {error:#}"));
    }

    /// Returns one error, so that the log has one record.
    fn into_result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(fail(Kind::Os, self.0.join("; "))) }
    }
}

/// Reads a regular expression that selects containers by their ids, as crun's `--regex` does: it matches anywhere in an id
/// unless it has anchors.
fn pattern(text: &str) -> Result<regex::Regex> {
    regex::Regex::new(text).map_err(|e| fail(Kind::Usage, format!("--regex {text:?}: {e}")))
}

/// Opens a container for a command that only reads. The directory stays open until the process ends, which
/// saves two calls of close(2).
fn open(globals: &Globals, id: &str) -> Result<(ManuallyDrop<Dir>, Record)> {
    let dir = crate::state::open(&crate::state::root(globals.root.as_deref())?, id)?;
    let record = dir.load()?;
    Ok((ManuallyDrop::new(dir), record))
}

/// Locks a container for a command that changes it, then reads its record. Until the lock is held, another
/// command may change the record.
fn open_locked(globals: &Globals, id: &str) -> Result<(Dir, Record)> {
    let dir = crate::state::open(&crate::state::root(globals.root.as_deref())?, id)?;
    dir.lock(PATIENCE)?;
    let record = dir.load()?;
    Ok((dir, record))
}

fn status(dir: &Dir, record: &Record) -> Result<Status> {
    let _phase = crate::trace::phase("derive the status");
    dir.status(record, frozen)
}

/// Reports whether a cgroup exists and is frozen.
fn frozen(cgroup: &CgroupRecord) -> bool {
    cgroups::frozen(cgroup).unwrap_or(false)
}

/// Opens the container's cgroup; `None` if it has none or the cgroup no longer exists.
fn cgroup(record: &Record) -> Result<Option<Cgroup>> {
    Ok(record.cgroup.as_ref().map(Cgroup::open).transpose()?.flatten())
}

/// Formats rows as Go's text/tabwriter does for runc: columns at least 12 wide, with three blanks between
/// them.
fn table<const N: usize>(rows: &[[Cow<str>; N]]) -> String {
    let mut widths = [12; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count() + 3);
        }
    }
    let mut out = String::new();
    for row in rows {
        for (i, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if i + 1 < row.len() {
                out.extend(std::iter::repeat_n(' ', widths[i] - cell.chars().count()));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_those_of_runc() {
        let rows =
            [["ID", "PID", "OWNER"], ["a-long-container-id", "7", "root"]].map(|row| row.map(Cow::from));
        let expected = "ID                    PID         OWNER\na-long-container-id   7           root\n";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn the_version_has_the_lines_that_docker_reads() {
        let text = version();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("corten version "));
        assert!(lines[1].starts_with("commit: "));
        assert_eq!(lines[2], "spec: 1.3.0");
        // Docker takes the last line with the word for the version.
        assert!(lines[3].starts_with('+') && lines[1..].iter().all(|line| !line.contains("version")));
    }
}
