//! The subcommands, a file each: load the state, decide, act, save. Standard output is theirs; errors are `main`'s.
//! Each `run` stays a function of its own, so that a verb comes to its own code and stack only.

mod applied;
mod create;
mod delete;
mod events;
pub(crate) mod exec;
mod features;
mod gc;
mod kill;
mod list;
mod pause;
mod plan;
mod ps;
mod resume;
mod run;
mod seccomp;
mod spec;
mod start;
mod state;
mod trace;
pub(crate) mod update;

use std::io::Write;
use std::mem::ManuallyDrop;

use nix::errno::Errno;

pub use features::{Seccomp, document as features_document};

use crate::SPEC_VERSION;
use crate::cgroups::{self, Cgroup, CgroupRecord};
use crate::cli::{Command, Globals};
use crate::error::{Context, Kind, Result, fail};
use crate::state::{Dir, Record, Status};
use crate::{host, sys};

/// Runs a command. The result is the exit code: that of the payload, where one is waited for.
pub fn run(globals: &Globals, command: Command) -> Result<u8> {
    let name = label(&command);
    let _phase = crate::trace::phase_of("command", || name.clone());
    // The other commands need no more than the one of these that has made the container.
    if matches!(command, Command::Create(_) | Command::Run(_) | Command::Exec(_) | Command::Plan(_)) {
        host::check_kernel()?;
    }
    let result = match command {
        Command::Help(text) => print(&text).map(|()| 0),
        Command::Version => print(&version()).map(|()| 0),
        Command::State(id) => state::run(globals, &id).map(|()| 0),
        Command::Applied(id) => applied::run(globals, &id).map(|()| 0),
        Command::Kill(args) => kill::run(globals, &args).map(|()| 0),
        Command::List(args) => list::run(globals, &args).map(|()| 0),
        Command::Ps(args) => ps::run(globals, &args).map(|()| 0),
        Command::Spec(args) => spec::run(&args).map(|()| 0),
        Command::Features => features::run().map(|()| 0),
        Command::Create(args) => create::run(globals, &args).map(|()| 0),
        Command::Start(id) => start::run(globals, &id).map(|()| 0),
        Command::Run(args) => run::run(globals, &args),
        Command::Exec(args) => exec::run(globals, &args),
        Command::Delete(args) => delete::run(globals, &args).map(|()| 0),
        Command::Gc(args) => gc::run(globals, args).map(|()| 0),
        Command::Pause(id) => pause::run(globals, &id).map(|()| 0),
        Command::Resume(id) => resume::run(globals, &id).map(|()| 0),
        Command::Update(args) => update::run(globals, &args).map(|()| 0),
        Command::Events(args) => events::run(globals, &args).map(|()| 0),
        Command::Plan(args) => plan::run(globals, &args).map(|()| 0),
        Command::Explain(args) => seccomp::run(&args).map(|()| 0),
        Command::Trace(path) => trace::run(&path).map(|()| 0),
    };
    result.context(name)
}

/// What an error's line begins with: the verb, and the container where there is one.
fn label(command: &Command) -> String {
    let (verb, id) = match command {
        Command::Help(_) => ("help", ""),
        Command::Version => ("version", ""),
        Command::Create(args) => ("create", args.id.as_str()),
        Command::Start(id) => ("start", id.as_str()),
        Command::State(id) | Command::Applied(id) => ("state", id.as_str()),
        Command::Kill(args) => ("kill", args.id.as_str()),
        Command::Delete(args) => ("delete", args.id.as_deref().unwrap_or("--all")),
        Command::Gc(_) => ("gc", ""),
        Command::Run(args) => ("run", args.create.id.as_str()),
        Command::Exec(args) => ("exec", args.id.as_str()),
        Command::List(_) => ("list", ""),
        Command::Ps(args) => ("ps", args.id.as_str()),
        Command::Spec(_) => ("spec", ""),
        Command::Features => ("features", ""),
        Command::Pause(id) => ("pause", id.as_str()),
        Command::Resume(id) => ("resume", id.as_str()),
        Command::Update(args) => ("update", args.id.as_str()),
        Command::Events(args) => ("events", args.id.as_str()),
        Command::Plan(_) => ("plan", ""),
        Command::Explain(_) => ("seccomp explain", ""),
        Command::Trace(_) => ("trace", ""),
    };
    if id.is_empty() { verb.into() } else { format!("{verb} {id}") }
}

/// `--version`, in the lines that Docker reads.
fn version() -> String {
    format!(
        "corten version {}\ncommit: {}\nspec: {SPEC_VERSION}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("CORTEN_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown"),
    )
}

/// Writes to standard output. A reader that has gone away is an error like any other, not a panic.
fn print(text: &str) -> Result<()> {
    let _phase = crate::trace::phase("print");
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| {
        let errno = Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
        sys::Error::new("write(stdout)", errno).into()
    })
}

/// What has gone wrong with some of many containers, which was no reason to stop.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn add(&mut self, id: &str, error: &anyhow::Error) {
        self.0.push(format!("container {id:?}: {error:#}"));
    }

    /// One error, for the log is to have one record.
    fn into_result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(fail(Kind::Os, self.0.join("; "))) }
    }
}

/// Opens a container for a command that only reads. The directory stays open until the process ends: two calls of close(2)
/// less.
fn open(globals: &Globals, id: &str) -> Result<(ManuallyDrop<Dir>, Record)> {
    let dir = crate::state::open(&crate::state::root(globals.root.as_deref())?, id)?;
    let record = dir.load()?;
    Ok((ManuallyDrop::new(dir), record))
}

/// Locks a container for a command that changes it, and reads its record, which another command may change until then.
fn open_locked(globals: &Globals, id: &str) -> Result<(Dir, Record)> {
    let dir = crate::state::open(&crate::state::root(globals.root.as_deref())?, id)?;
    dir.lock(start::PATIENCE)?;
    let record = dir.load()?;
    Ok((dir, record))
}

fn status(dir: &Dir, record: &Record) -> Result<Status> {
    let _phase = crate::trace::phase("derive the status");
    dir.status(record, frozen)
}

/// Whether a cgroup is frozen; one that is gone is not.
fn frozen(cgroup: &CgroupRecord) -> bool {
    cgroups::frozen(cgroup).unwrap_or(false)
}

/// The container's cgroup, if it has one that is not gone.
fn cgroup(record: &Record) -> Result<Option<Cgroup>> {
    Ok(record.cgroup.as_ref().map(Cgroup::open).transpose()?.flatten())
}

/// Rows as text/tabwriter of Go sets them for runc: columns at least 12 wide, three blanks between them.
fn table(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count() + 3).max(12);
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
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let rows = [row(&["ID", "PID", "OWNER"]), row(&["a-long-container-id", "7", "root"])];
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
    }
}
