//! Options and verbs as rows, and clap's commands, which are made of the rows. The rows of the verbs are in
//! `commands::verbs`. `examples/pages` makes the man pages and the completions of the shells from the same
//! rows.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use super::Work;
use crate::error::Result;

/// The kind of an option's value. The texts name the value in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Switch,
    Text(&'static str),
    /// The value is one of these words.
    Word(&'static str, &'static [&'static str]),
    Path(&'static str),
    Number(&'static str),
    Texts(&'static str),
    Numbers(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub struct Opt {
    pub long: &'static str,
    pub short: Option<char>,
    /// Another letter, which only another runtime's users know.
    pub also: Option<char>,
    pub takes: Takes,
    pub help: &'static str,
}

/// The operands of a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    None,
    Id,
    /// An optional id.
    MaybeId,
    IdSignal,
    /// An id, then words for another program, even if they look like options.
    IdWords,
    /// A word that names the action, then the operands of the action.
    Words,
    File,
}

#[derive(Clone, Copy, Debug)]
pub struct Verb {
    pub name: &'static str,
    pub about: &'static str,
    pub options: &'static [&'static [Opt]],
    pub operands: Operands,
    /// Reads the arguments: returns what is to be run, or a usage error.
    pub(crate) work: fn(&ArgMatches) -> Result<Work>,
}

/// Makes the row of an option.
pub(crate) const fn opt(long: &'static str, short: Option<char>, takes: Takes, help: &'static str) -> Opt {
    Opt { long, short, also: None, takes, help }
}

use Takes::{Number, Numbers, Path, Switch, Text, Texts, Word};

pub const GLOBALS: &[Opt] = &[
    opt("root", None, Path("DIR"), "the directory of the containers' states (default /run/corten)"),
    opt("log", None, Path("FILE"), "append log records to FILE, or journald:ID or syslog:ID"),
    opt("log-format", None, Word("FORMAT", &["text", "json"]), "text or json"),
    opt(
        "log-level",
        None,
        Word("LEVEL", &["error", "warning", "info", "debug"]),
        "error, warning, info or debug",
    ),
    opt("debug", None, Switch, "log each step: the same as --log-level debug"),
    opt(
        "trace",
        None,
        Path("FILE"),
        "write a timeline to FILE, or into a directory, for corten trace or Perfetto",
    ),
    opt("systemd-cgroup", None, Switch, "the same as --cgroup-manager systemd"),
    opt(
        "cgroup-manager",
        None,
        Word("MANAGER", &["cgroupfs", "systemd", "disabled"]),
        "cgroupfs, systemd or disabled",
    ),
    opt("rootless", None, Word("BOOL", &["true", "false", "auto"]), "true, false or auto"),
    opt(
        "strict-labels",
        None,
        Switch,
        "refuse an AppArmor or SELinux label on a kernel without the module, instead of warning",
    ),
    opt("criu", None, Path("FILE"), "the CRIU program of checkpoint and restore (default: criu in PATH)"),
    Opt { also: Some('V'), ..opt("version", Some('v'), Switch, "print the version") },
];

/// The options that clap is given. Each costs a command some microseconds, but help texts and the hints of
/// errors need all of them.
#[derive(Clone, Copy)]
pub(super) enum Known<'a> {
    All,
    /// The options that occur in these normalised words.
    In(&'a [OsString]),
}

impl Known<'_> {
    fn has(self, option: &Opt) -> bool {
        let about = |word: &OsString| {
            let rest =
                word.as_bytes().strip_prefix(b"--").and_then(|w| w.strip_prefix(option.long.as_bytes()));
            matches!(rest, Some([] | [b'=', ..]))
        };
        match self {
            Self::All => true,
            Self::In(words) => words.iter().any(about),
        }
    }
}

/// Adds the headings of a help text, which are runc's.
fn with_headings(command: clap::Command, known: Known, name: &str, about: &str) -> clap::Command {
    match known {
        Known::All => command
            .help_template(format!("NAME:\n   {name} - {about}\n\nUSAGE:\n   {{usage}}\n\n{{all-args}}")),
        Known::In(_) => command,
    }
}

/// Returns clap's command with the global options.
pub(super) fn base(known: Known) -> clap::Command {
    with_headings(clap::Command::new("corten"), known, "corten", "Open Container Initiative runtime")
        .disable_help_subcommand(true)
        .args_override_self(true)
        .override_usage("corten [OPTIONS] COMMAND ...")
        .args(GLOBALS.iter().filter(|option| known.has(option)).map(argument))
}

pub(super) fn with_all_verbs(command: clap::Command, verbs: &[Verb]) -> clap::Command {
    let about = |v: &Verb| clap::Command::new(v.name).about(v.about);
    command.subcommands(verbs.iter().map(about))
}

pub(super) fn build(verb: &Verb, known: Known) -> clap::Command {
    let name = format!("corten {}", verb.name);
    let command = with_headings(clap::Command::new(verb.name), known, &name, verb.about)
        .bin_name(name)
        .about(verb.about)
        .args_override_self(true)
        .args(
            verb.options
                .iter()
                .flat_map(|table| table.iter())
                .filter(|option| known.has(option))
                .map(argument),
        );
    let id = Arg::new("id").value_name("ID").help("the container");
    let words = Arg::new("words").value_name("WORD").action(ArgAction::Append).num_args(0..);
    match verb.operands {
        Operands::None => command,
        Operands::Words => command.arg(words.required(true)),
        Operands::File => {
            let file = Arg::new("file").value_name("FILE").value_parser(value_parser!(PathBuf));
            command.arg(file.required(true))
        }
        Operands::Id => command.arg(id.required(true)),
        Operands::MaybeId => command.arg(id),
        Operands::IdSignal => command.arg(id.required(true)).arg(Arg::new("signal").value_name("SIGNAL")),
        Operands::IdWords => command.arg(id.required(true)).arg(words),
    }
}

fn argument(option: &Opt) -> Arg {
    let arg = Arg::new(option.long).long(option.long).help(option.help).hide(option.help == "ignored");
    let arg = if let Some(letter) = option.short { arg.short(letter) } else { arg };
    match option.takes {
        Switch => arg.action(ArgAction::SetTrue),
        Text(name) | Word(name, _) => arg.value_name(name),
        Path(name) => arg.value_name(name).value_parser(value_parser!(PathBuf)),
        Number(name) => arg.value_name(name).value_parser(value_parser!(u32)),
        Texts(name) => arg.value_name(name).action(ArgAction::Append),
        Numbers(name) => arg.value_name(name).action(ArgAction::Append).value_parser(value_parser!(u32)),
    }
}
