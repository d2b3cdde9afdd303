//! The options and verbs as rows, and clap's commands made of them. The man pages and the shells' completions are made
//! of the same rows, by examples/pages.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use super::{Command, Gc, List, Ps, Spec, read, update};
use crate::error::Result;

/// What an option takes. The words name the value in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Switch,
    Text(&'static str),
    /// One of these words.
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
    pub takes: Takes,
    pub help: &'static str,
}

/// What follows the options of a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    None,
    Id,
    /// An id that may be left out.
    MaybeId,
    IdSignal,
    /// An id, then words that are not ours even if they look like options.
    IdWords,
    /// A word that says what to do, and what to do it with.
    Words,
    File,
}

#[derive(Clone, Copy, Debug)]
pub struct Verb {
    pub name: &'static str,
    pub about: &'static str,
    pub options: &'static [&'static [Opt]],
    pub operands: Operands,
    pub(super) read: fn(&ArgMatches) -> Result<Command>,
}

pub(super) const fn opt(long: &'static str, short: Option<char>, takes: Takes, help: &'static str) -> Opt {
    Opt { long, short, takes, help }
}

use Takes::{Number, Numbers, Path, Switch, Text, Texts, Word};

pub const GLOBALS: &[Opt] = &[
    opt("root", None, Path("DIR"), "where containers' states are kept (default /run/corten)"),
    opt("log", None, Path("FILE"), "append log records to FILE"),
    opt("log-format", None, Word("FORMAT", &["text", "json"]), "text or json"),
    opt(
        "log-level",
        None,
        Word("LEVEL", &["error", "warning", "info", "debug"]),
        "error, warning, info or debug",
    ),
    opt("debug", None, Switch, "the same as --log-level debug"),
    opt(
        "trace",
        None,
        Path("FILE"),
        "write to FILE, or into a directory, where the time goes, for corten trace or Perfetto",
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
    opt("criu", None, Text("PATH"), "ignored"),
    opt("version", Some('v'), Switch, "print the version"),
];

const IO: &[Opt] = &[
    opt("console-socket", None, Path("SOCKET"), "send the terminal's master to this unix socket"),
    opt("pidfd-socket", None, Path("SOCKET"), "send a pidfd of the process to this unix socket"),
    opt("pid-file", None, Path("FILE"), "write the process's id to FILE"),
    opt("preserve-fds", None, Number("N"), "pass N more descriptors, from 3 on"),
    opt("no-subreaper", None, Switch, "ignored"),
];

const CREATE: &[Opt] = &[
    opt("bundle", Some('b'), Path("DIR"), "the bundle (default: the working directory)"),
    opt("config", Some('f'), Path("FILE"), "read FILE instead of the bundle's config.json"),
    opt("no-pivot", None, Switch, "move the root mount instead of pivot_root(2); not with a user namespace"),
    opt("no-new-keyring", None, Switch, "keep the caller's session keyring"),
];

const RUN: &[Opt] = &[
    opt("detach", Some('d'), Switch, "do not wait for the container"),
    opt("keep", None, Switch, "do not delete the container when it ends"),
];

const EXEC: &[Opt] = &[
    opt("process", Some('p'), Path("FILE"), "read the process (JSON) from FILE"),
    opt("tty", Some('t'), Switch, "give it a terminal"),
    opt("detach", Some('d'), Switch, "do not wait for the process"),
    opt("env", Some('e'), Texts("NAME=VALUE"), "set an environment variable"),
    opt("user", Some('u'), Text("USER[:GROUP]"), "whom to run as: ids, or the container's names"),
    opt("additional-gids", Some('g'), Numbers("GID"), "add a supplementary group"),
    opt("cwd", None, Text("DIR"), "working directory"),
    opt("cap", Some('c'), Texts("CAP"), "add a capability (not to the inheritable ones)"),
    opt("no-new-privs", None, Switch, "set no_new_privs"),
    opt("apparmor", None, Text("PROFILE"), "AppArmor profile"),
    opt("process-label", None, Text("LABEL"), "SELinux label"),
    opt("cgroup", None, Texts("[CONTROLLERS:]PATH"), "run in this cgroup below the container's"),
    opt("ignore-paused", None, Switch, "also in a paused container"),
];

const FORMAT: &[Opt] = &[opt("format", Some('f'), Word("FORMAT", &["table", "json"]), "table or json")];

pub const VERBS: &[Verb] = &[
    Verb {
        name: "create",
        about: "make a container, to be started later",
        options: &[CREATE, IO],
        operands: Operands::Id,
        read: |m| read::create(m).map(Command::Create),
    },
    Verb {
        name: "start",
        about: "run a created container's program",
        options: &[],
        operands: Operands::Id,
        read: |m| read::id(m).map(Command::Start),
    },
    Verb {
        name: "state",
        about: "print a container's state",
        options: &[&[opt(
            "applied",
            None,
            Switch,
            "and what the kernel says of it beside what was asked; a difference is an error",
        )]],
        operands: Operands::Id,
        read: |m| {
            let command = if read::flag(m, "applied") { Command::Applied } else { Command::State };
            read::id(m).map(command)
        },
    },
    Verb {
        name: "kill",
        about: "send a signal to a container (default SIGTERM)",
        options: &[&[opt("all", Some('a'), Switch, "to all its processes")]],
        operands: Operands::IdSignal,
        read: read::kill,
    },
    Verb {
        name: "delete",
        about: "remove a stopped container",
        options: &[&[
            opt("force", Some('f'), Switch, "kill it if it has not stopped; fine if there is none"),
            opt("all", Some('a'), Switch, "every container, instead of one; prints their ids"),
        ]],
        operands: Operands::MaybeId,
        read: read::delete,
    },
    Verb {
        name: "gc",
        about: "remove what interrupted commands have left",
        options: &[&[
            opt("stopped", None, Switch, "and stopped containers, which an engine may still ask for"),
            opt("dry-run", None, Switch, "only print what would be removed"),
            opt("format", Some('f'), Word("FORMAT", &["text", "json"]), "text or json"),
        ]],
        operands: Operands::None,
        read: |m| {
            let json = read::is_json(m)?;
            Ok(Command::Gc(Gc { stopped: read::flag(m, "stopped"), dry_run: read::flag(m, "dry-run"), json }))
        },
    },
    Verb {
        name: "pause",
        about: "let a container's processes stand still",
        options: &[],
        operands: Operands::Id,
        read: |m| read::id(m).map(Command::Pause),
    },
    Verb {
        name: "resume",
        about: "let a paused container's processes go on",
        options: &[],
        operands: Operands::Id,
        read: |m| read::id(m).map(Command::Resume),
    },
    Verb {
        name: "update",
        about: "change a container's limits",
        options: &[update::OPTIONS, update::LIMIT_OPTIONS],
        operands: Operands::Id,
        read: update::read,
    },
    Verb {
        name: "events",
        about: "print what a container uses, until it stops",
        options: &[&[
            opt("stats", None, Switch, "print one record, and end"),
            opt("interval", None, Text("DURATION"), "how often (default 5s)"),
        ]],
        operands: Operands::Id,
        read: read::events,
    },
    Verb {
        name: "run",
        about: "create, start, wait and delete",
        options: &[CREATE, RUN, IO],
        operands: Operands::Id,
        read: read::run,
    },
    Verb {
        name: "exec",
        about: "run a further program in a container",
        options: &[EXEC, IO],
        operands: Operands::IdWords,
        read: read::exec,
    },
    Verb {
        name: "list",
        about: "list the containers",
        options: &[FORMAT, &[opt("quiet", Some('q'), Switch, "only their ids")]],
        operands: Operands::None,
        read: |m| Ok(Command::List(List { format: read::format(m)?, quiet: read::flag(m, "quiet") })),
    },
    Verb {
        name: "ps",
        about: "list a container's processes",
        options: &[FORMAT],
        operands: Operands::IdWords,
        read: |m| {
            Ok(Command::Ps(Ps {
                id: read::id(m)?,
                format: read::format(m)?,
                options: read::many(m, "words"),
            }))
        },
    },
    Verb {
        name: "spec",
        about: "write a config.json to begin with",
        options: &[&[
            opt("bundle", Some('b'), Path("DIR"), "where (default: the working directory)"),
            opt("rootless", None, Switch, "for a caller who is not root"),
        ]],
        operands: Operands::None,
        read: |m| Ok(Command::Spec(Spec { bundle: read::bundle(m), rootless: read::flag(m, "rootless") })),
    },
    Verb {
        name: "features",
        about: "print what corten can do",
        options: &[],
        operands: Operands::None,
        read: |_| Ok(Command::Features),
    },
    Verb {
        name: "seccomp",
        about: "explain a profile: seccomp explain PROFILE|--bundle DIR [SYSCALL...]",
        options: &[&[
            opt("bundle", Some('b'), Path("DIR"), "the profile of this bundle's configuration"),
            opt("dump", None, Switch, "print the program instead"),
        ]],
        operands: Operands::Words,
        read: read::explain,
    },
    Verb {
        name: "trace",
        about: "print what --trace has written as a timeline",
        options: &[],
        operands: Operands::File,
        read: |m| Ok(Command::Trace(read::path(m, "file").unwrap_or_default())),
    },
    Verb {
        name: "plan",
        about: "",
        options: &[CREATE, IO],
        operands: Operands::MaybeId,
        read: |m| read::create(m).map(Command::Plan),
    },
];

pub(super) fn verb(name: &OsStr) -> Option<&'static Verb> {
    VERBS.iter().find(|v| v.name.as_bytes() == name.as_bytes())
}

/// Which options clap is told of. Each costs a command some microseconds; but a help text and the hints in an error need
/// all of them.
#[derive(Clone, Copy)]
pub(super) enum Known<'a> {
    All,
    /// Those that these words, which are in their one form, are about.
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

/// With the options that every command may have.
pub(super) fn base(known: Known) -> clap::Command {
    clap::Command::new("corten")
        .disable_help_subcommand(true)
        .args_override_self(true)
        .override_usage("corten [OPTIONS] COMMAND ...")
        .args(GLOBALS.iter().filter(|option| known.has(option)).map(argument))
}

pub(super) fn with_all_verbs(command: clap::Command) -> clap::Command {
    let about = |v: &Verb| clap::Command::new(v.name).about(v.about).hide(v.about.is_empty());
    command.subcommands(VERBS.iter().map(about))
}

pub(super) fn build(verb: &Verb, known: Known) -> clap::Command {
    let command = clap::Command::new(verb.name)
        .bin_name(format!("corten {}", verb.name))
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
