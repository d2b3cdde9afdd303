//! The command line: argv in, plain values out.
//!
//! The options are const tables. A first walk over argv ([`words`]) gives every option the one form
//! `--name=value`, because engines send all the forms that Go's flag package takes: `--k v`, `--k=v`, `-k v` with a
//! long name, `--switch=true`, an empty value for "not set". clap then checks, converts and writes the help, and is
//! given only the verb that is on the command line: building them all would cost as much as the rest of `state`.

mod read;
pub mod table;
mod update;
mod words;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use table::{GLOBALS, Known, Operands, base, build, verb, with_all_verbs};
use words::{Stop, normalise};

use crate::cgroups::Manager;
use crate::error::{Kind, Result, fail};
use crate::{log, trace};

/// Options before the verb.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    pub root: Option<PathBuf>,
    pub log: log::Options,
    pub cgroup_manager: Manager,
    /// `None`: find out.
    pub rootless: Option<bool>,
    /// A label for a security module that the kernel does not run is an error.
    pub strict_labels: bool,
}

/// `create`, and the part of `run` that is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Create {
    pub id: String,
    pub bundle: PathBuf,
    /// Read instead of the bundle's config.json.
    pub config: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    pub preserve_fds: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub create: Create,
    pub detach: bool,
    pub keep: bool,
    pub no_subreaper: bool,
}

/// `USER[:GROUP]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    Ids {
        uid: u32,
        gid: Option<u32>,
    },
    /// One of both is a name, which only the container's own files explain.
    Named(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exec {
    pub id: String,
    pub args: Vec<String>,
    pub process: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub tty: bool,
    pub detach: bool,
    pub env: Vec<String>,
    pub user: Option<User>,
    pub additional_gids: Vec<u32>,
    pub cwd: Option<String>,
    pub caps: Vec<String>,
    pub no_new_privs: bool,
    pub apparmor: Option<String>,
    pub process_label: Option<String>,
    pub preserve_fds: u32,
    pub cgroup: Vec<String>,
    pub ignore_paused: bool,
    pub no_subreaper: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kill {
    pub id: String,
    pub signal: String,
    pub all: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delete {
    /// `None` is `--all`.
    pub id: Option<String>,
    pub force: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gc {
    /// Stopped containers too.
    pub stopped: bool,
    pub dry_run: bool,
    pub json: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    pub format: Format,
    pub quiet: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ps {
    pub id: String,
    pub format: Format,
    /// For ps(1).
    pub options: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    pub bundle: PathBuf,
    pub rootless: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    pub id: String,
    /// A `linux.resources` document to read; `-` is standard input.
    pub resources: Option<PathBuf>,
    /// What the options for single limits say, as such a document.
    pub document: serde_json::Value,
    /// `--l3-cache-schema` and `--mem-bw-schema`.
    pub schemas: Vec<(&'static str, String)>,
    pub dry_run: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    pub id: String,
    /// Only one record.
    pub stats: bool,
    pub interval: std::time::Duration,
}

/// `seccomp explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explain {
    /// Its `linux.seccomp` is the profile.
    pub bundle: Option<PathBuf>,
    /// A file that has nothing but a profile.
    pub profile: Option<PathBuf>,
    pub dump: bool,
    pub syscalls: Vec<String>,
}

/// What to do. A variant for each verb, and the two questions that need none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Help(String),
    Version,
    Create(Create),
    Start(String),
    State(String),
    /// `state --applied`.
    Applied(String),
    Kill(Kill),
    Delete(Delete),
    Gc(Gc),
    Pause(String),
    Resume(String),
    Update(Update),
    Events(Events),
    Run(Run),
    Exec(Exec),
    List(List),
    Ps(Ps),
    Spec(Spec),
    Features,
    Plan(Create),
    Explain(Explain),
    Trace(PathBuf),
}

/// What must be known even if the command line turns out to be wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    pub log: log::Options,
    /// `--trace`.
    pub trace: Option<PathBuf>,
    /// The exit code of a failure: engines expect 255 of `exec`.
    pub failure: u8,
}

/// Finds the log's options and the verb, whatever else is wrong.
#[must_use]
pub fn preview(args: &[OsString]) -> Preview {
    let (globals, rest) = normalise(args.get(1..).unwrap_or(&[]), &[GLOBALS], Stop::Before);
    let value = |name: &str| {
        let find = |a: &OsString| a.as_bytes().strip_prefix(name.as_bytes()).map(<[u8]>::to_vec);
        globals.iter().rev().find_map(find).map(OsString::from_vec)
    };
    let word = |name: &str| value(name).and_then(|v| v.into_string().ok()).unwrap_or_default();
    let level = if globals.iter().any(|a| a == "--debug") {
        log::Level::Debug
    } else {
        log::Level::parse(&word("--log-level=")).unwrap_or_default()
    };
    let log = log::Options {
        file: value("--log=").map(PathBuf::from),
        format: log::Format::parse(&word("--log-format=")).unwrap_or_default(),
        level,
    };
    let trace = value("--trace=").map(PathBuf::from);
    Preview { log, trace, failure: if rest.first().is_some_and(|v| v == "exec") { 255 } else { 1 } }
}

/// Reads a whole command line, the program's name first.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Globals, Command)> {
    let _phase = trace::phase("read the command line");
    let args: Vec<OsString> = args.into_iter().collect();
    let log = preview(&args).log;
    let (globals, rest) = normalise(args.get(1..).unwrap_or(&[]), &[GLOBALS], Stop::Before);
    let Some((word, rest)) = rest.split_first() else {
        return without_verb(&globals, log);
    };
    if word == "help" {
        return help(rest, log);
    }
    let Some(verb) = verb(word) else {
        let shown = word.to_string_lossy();
        return Err(fail(Kind::Usage, format!("unknown command {shown:?} (hint: corten --help lists them)")));
    };
    let stop = if verb.operands == Operands::IdWords { Stop::AtFirstOperand } else { Stop::Never };
    let (own, _) = normalise(rest, verb.options, stop);
    let words = [OsString::from("corten")].into_iter().chain(globals).chain([verb.name.into()]).chain(own);
    let words: Vec<OsString> = words.collect();
    let read = |known| base(known).subcommand(build(verb, known)).try_get_matches_from(&words);
    let matches = match read(Known::In(&words)).or_else(|_| read(Known::All)) {
        Ok(matches) => matches,
        Err(e) => return Ok((Globals { log, ..Globals::default() }, told(&e)?)),
    };
    if read::flag(&matches, "version") {
        return Ok((Globals { log, ..Globals::default() }, Command::Version));
    }
    let Some((_, own)) = matches.subcommand() else {
        return Err(fail(Kind::Usage, "no command given"));
    };
    Ok((read::globals(&matches, log)?, (verb.read)(own)?))
}

/// `corten --version`, `corten --help`, or nothing at all.
fn without_verb(globals: &[OsString], log: log::Options) -> Result<(Globals, Command)> {
    let globals_only = Globals { log, ..Globals::default() };
    // Only a help text needs all of the verbs.
    let help = globals.iter().any(|a| a == "--help" || a == "-h");
    let command = if help { with_all_verbs(base(Known::All)) } else { base(Known::All) };
    match command.try_get_matches_from([OsString::from("corten")].iter().chain(globals)) {
        Ok(matches) if read::flag(&matches, "version") => Ok((globals_only, Command::Version)),
        Ok(_) => Err(fail(Kind::Usage, "no command given (hint: corten --help lists them)")),
        Err(e) => Ok((globals_only, told(&e)?)),
    }
}

/// `corten help [VERB]`.
fn help(rest: &[OsString], log: log::Options) -> Result<(Globals, Command)> {
    let mut command = match rest.first().and_then(|word| verb(word)) {
        Some(verb) => build(verb, Known::All),
        None => with_all_verbs(base(Known::All)),
    };
    Ok((Globals { log, ..Globals::default() }, Command::Help(command.render_help().to_string())))
}

/// clap's "errors": a help text that was asked for, or a usage error, which is made one line.
fn told(error: &clap::Error) -> Result<Command> {
    let text = error.to_string();
    if error.kind() == clap::error::ErrorKind::DisplayHelp {
        return Ok(Command::Help(text));
    }
    let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    let line = lines.collect::<Vec<_>>().join(" ");
    Err(fail(Kind::Usage, line.strip_prefix("error: ").unwrap_or(&line)))
}

#[cfg(test)]
mod tests;
