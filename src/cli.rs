//! The command line: argv in, plain values out.
//!
//! Options and verbs are rows of const tables. A first pass over argv ([`normalise`](mod@normalise)) gives
//! every option the form `--name=value`, because engines send all the forms that Go's flag package accepts:
//! `--k v`, `--k=v`, `-k v` with a long name, `--switch=true`, and an empty value for "not set". clap then
//! checks and converts the values and writes the help. It is given the verb on the command line only: to
//! build all of them would cost as much as the rest of `state`.

mod mistakes;
mod normalise;
pub(crate) mod read;
pub(crate) mod table;
pub(crate) mod update;

use std::borrow::Borrow;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::ArgMatches;
use normalise::{Stop, normalise};
use table::{GLOBALS, Known, Operands, Verb, base, build, with_all_verbs};

use crate::cgroups::Manager;
use crate::error::{Kind, Result, fail};
use crate::{log, suggest, trace};

/// Options before the verb.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Globals {
    pub root: Option<PathBuf>,
    pub log: log::Options,
    pub cgroup_manager: Manager,
    /// `None` if the runtime finds out by itself.
    pub rootless: Option<bool>,
    /// The CRIU program.
    pub criu: Option<PathBuf>,
    /// A label for a security module that the kernel does not have is an error.
    pub strict_labels: bool,
}

/// The arguments of `create`, which `run` and `check` have too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Create {
    pub id: String,
    pub bundle: PathBuf,
    /// The configuration to read instead of the bundle's config.json.
    pub config: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    pub preserve_fds: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub create: Create,
    pub detach: bool,
    pub keep: bool,
    pub no_subreaper: bool,
}

/// `USER[:GROUP]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Ids {
        uid: u32,
        gid: Option<u32>,
    },
    /// The user or the group is a name, which only the container's own files can resolve.
    Named(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exec {
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

/// The containers that a command is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    One(String),
    All,
    /// Those whose ids match a regular expression.
    Matching(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kill {
    pub which: Which,
    pub signal: String,
    /// To every process of the container.
    pub all: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delete {
    pub which: Which,
    pub force: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gc {
    /// Also removes stopped containers.
    pub stopped: bool,
    pub dry_run: bool,
    pub json: bool,
}

/// What `state` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    State,
    /// The settings that the kernel does not report as they were asked for.
    Differences,
    /// The state with all settings.
    Settings,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub id: String,
    pub shown: Shown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    pub format: Format,
    pub quiet: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ps {
    pub id: String,
    pub format: Format,
    /// The options for ps(1).
    pub options: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Update {
    pub id: String,
    /// A `linux.resources` document to read; `-` is standard input.
    pub resources: Option<PathBuf>,
    /// The options for single limits, as such a document.
    pub document: serde_json::Value,
    /// `--l3-cache-schema` and `--mem-bw-schema`.
    pub schemas: Vec<(&'static str, String)>,
    pub dry_run: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Events {
    pub id: String,
    /// Prints only one record.
    pub stats: bool,
    pub interval: std::time::Duration,
}

/// What a command line asks for.
pub(crate) enum Command {
    Help(String),
    Version,
    Verb(Call),
}

/// A verb with its arguments, which have been read and checked.
pub(crate) struct Call {
    pub globals: Globals,
    /// The verb's name in the table.
    pub verb: &'static str,
    /// The beginning of an error's line: the verb, and the container if there is one.
    pub label: String,
    pub(crate) work: Work,
}

/// Carries a verb out with the arguments that it holds, and returns the exit code.
///
/// A closure, because every verb has arguments of a type of its own.
pub(crate) type Work = Box<dyn FnOnce(&Globals) -> Result<u8>>;

/// Joins the arguments of a verb and the function that carries it out.
pub(crate) fn ready<A, B>(args: A, run: fn(&Globals, &B) -> Result<()>) -> Result<Work>
where
    A: Borrow<B> + 'static,
    B: ?Sized + 'static,
{
    Ok(Box::new(move |globals| run(globals, args.borrow()).map(|()| 0)))
}

/// Does what [`ready`] does, for a verb that exits with the code of the program that it has run.
pub(crate) fn ready_with_code<A: 'static>(args: A, run: fn(&Globals, &A) -> Result<u8>) -> Result<Work> {
    Ok(Box::new(move |globals| run(globals, &args)))
}

/// The part of a command line that is needed even if the rest of it is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preview {
    pub log: log::Options,
    /// `--trace`.
    pub trace: Option<PathBuf>,
    /// The exit code of a failure. Engines expect 255 from `exec`. `wait` has it too, because 1 is a common
    /// status of the program for which it waits.
    pub failure: u8,
}

/// Finds the options of the log and the verb, in any command line.
#[must_use]
pub(crate) fn preview(args: &[OsString]) -> Preview {
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
    let failure = if rest.first().is_some_and(|verb| verb == "exec" || verb == "wait") { 255 } else { 1 };
    Preview { log, trace, failure }
}

/// Reads a whole command line, the program's name first.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>, verbs: &'static [Verb]) -> Result<Command> {
    let _phase = trace::phase("read the command line");
    let args: Vec<OsString> = args.into_iter().collect();
    let log = preview(&args).log;
    let (globals, rest) = normalise(args.get(1..).unwrap_or(&[]), &[GLOBALS], Stop::Before);
    let Some((word, rest)) = rest.split_first() else {
        return without_verb(&globals, verbs);
    };
    // `plan` was a verb of its own once.
    let plan: Vec<OsString>;
    let (word, rest) = if word == "plan" {
        plan = ["check", "--plan"].into_iter().map(Into::into).chain(rest.iter().cloned()).collect();
        (&plan[0], &plan[1..])
    } else {
        (word, rest)
    };
    let verb = |word: &OsString| verbs.iter().find(|verb| word == verb.name);
    if word == "help" {
        let mut command = match rest.first().map(|topic| verb(topic).ok_or(topic)) {
            Some(Ok(verb)) => build(verb, Known::All),
            // `help help` and `help --help` ask for no topic.
            Some(Err(topic)) if topic != "help" && !topic.as_bytes().starts_with(b"-") => {
                return Err(no_topic(topic));
            }
            _ => with_all_verbs(base(Known::All), verbs),
        };
        return Ok(Command::Help(command.render_help().to_string()));
    }
    let Some(verb) = verb(word) else {
        if rest.iter().any(|word| word == "--help" || word == "-h") {
            return Err(no_topic(word));
        }
        // The word after an unknown option is its value more often than a command.
        if let Some(error) = unknown_before(&globals, verbs) {
            return Err(error);
        }
        return Err(unknown_command(&word.to_string_lossy(), verbs));
    };
    let matches = match matches(verb, globals, rest) {
        Ok(matches) => matches,
        Err(e) => {
            let (globals, _) = normalise(args.get(1..).unwrap_or(&[]), &[GLOBALS], Stop::Before);
            return match unknown_before(&globals, verbs) {
                Some(error) => Err(error),
                None => help_or_usage_error(&e, Some(verb), verbs),
            };
        }
    };
    if read::flag(&matches, "version") {
        return Ok(Command::Version);
    }
    let Some((_, own)) = matches.subcommand() else {
        return Err(fail(Kind::Usage, "no command given"));
    };
    let globals = read::globals(&matches, log)?;
    Ok(Command::Verb(Call { globals, verb: verb.name, label: label(verb, own), work: (verb.work)(own)? }))
}

/// Returns the error for the first option before the verb that is unknown, if there is one.
fn unknown_before(globals: &[OsString], verbs: &[Verb]) -> Option<anyhow::Error> {
    let option = globals.iter().find(|word| !normalise::is_known(word, GLOBALS))?.to_string_lossy();
    Some(fail(Kind::Usage, mistakes::unknown_option(&option, None, verbs)))
}

fn unknown_command(word: &str, verbs: &[Verb]) -> anyhow::Error {
    let hint = match suggest::nearest(word, verbs.iter().map(|verb| verb.name)) {
        Some(verb) => format!("did you mean {verb}?"),
        None => "corten --help lists them".into(),
    };
    fail(Kind::Usage, format!("unknown command {word:?} (hint: {hint})"))
}

/// Returns the error for help about something unknown, in runc's words.
fn no_topic(topic: &OsString) -> anyhow::Error {
    let shown = topic.to_string_lossy();
    fail(Kind::Usage, format!("No help topic for '{shown}' (hint: corten --help lists the commands)"))
}

/// Matches the global options, and the words after a verb, against the verb's row.
fn matches(
    verb: &Verb,
    globals: Vec<OsString>,
    rest: &[OsString],
) -> std::result::Result<ArgMatches, clap::Error> {
    let stop = if verb.operands == Operands::IdWords { Stop::AtFirstOperand } else { Stop::Never };
    let (own, _) = normalise(rest, verb.options, stop);
    let words = [OsString::from("corten")].into_iter().chain(globals).chain([verb.name.into()]).chain(own);
    let words: Vec<OsString> = words.collect();
    let read = |known| base(known).subcommand(build(verb, known)).try_get_matches_from(&words);
    read(Known::In(&words)).or_else(|_| read(Known::All))
}

/// Answers `corten --version`, `corten --help`, or a command line without a verb.
fn without_verb(globals: &[OsString], verbs: &[Verb]) -> Result<Command> {
    // Only a help text needs all of the verbs.
    let help = globals.iter().any(|a| a == "--help" || a == "-h");
    let command = if help { with_all_verbs(base(Known::All), verbs) } else { base(Known::All) };
    match command.try_get_matches_from([OsString::from("corten")].iter().chain(globals)) {
        Ok(matches) if read::flag(&matches, "version") => Ok(Command::Version),
        Ok(_) => Err(fail(Kind::Usage, "no command given (hint: corten --help lists them)")),
        Err(e) => help_or_usage_error(&e, None, verbs),
    }
}

/// Returns the label of an error's line.
fn label(verb: &Verb, matches: &ArgMatches) -> String {
    let operand = match verb.operands {
        Operands::Words => read::many(matches, "words").into_iter().next(),
        _ => read::one::<String>(matches, "id"),
    };
    match operand {
        Some(operand) => format!("{} {operand}", verb.name),
        None if read::flag(matches, "all") => format!("{} --all", verb.name),
        None => verb.name.into(),
    }
}

/// clap reports the request for help like an error.
fn help_or_usage_error(error: &clap::Error, verb: Option<&Verb>, verbs: &[Verb]) -> Result<Command> {
    if error.kind() == clap::error::ErrorKind::DisplayHelp {
        return Ok(Command::Help(error.to_string()));
    }
    Err(mistakes::explain(error, verb, verbs))
}

#[cfg(test)]
pub(crate) mod tests;
