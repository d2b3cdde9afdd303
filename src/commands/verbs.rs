//! The verbs: a row for each, with its name, its options and what it runs.

use super::{
    check, checkpoint, create, delete, events, exec, features, gc, kill, list, mounts, pause, ps, restore,
    resume, run, seccomp, spec, start, state, trace, update, wait,
};
use crate::cli::table::Takes::{Number, Numbers, Path, Switch, Text, Texts, Word};
use crate::cli::table::{Operands, Opt, Verb, opt};
use crate::cli::{self, read, ready, ready_with_code};

const IO: &[Opt] = &[
    opt("console-socket", None, Path("SOCKET"), "send the terminal's master to this unix socket"),
    opt("pidfd-socket", None, Path("SOCKET"), "send a pidfd of the process to this unix socket"),
    opt("pid-file", None, Path("FILE"), "write the process's id to FILE"),
    opt("no-subreaper", None, Switch, "ignored"),
];

const PRESERVE: &[Opt] =
    &[opt("preserve-fds", None, Number("N"), "pass N more descriptors, from 3 on, which must be open")];

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
    opt("user", Some('u'), Text("USER[:GROUP]"), "the user to run as: ids, or names in the container"),
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

const CHECK: &[Opt] = &[
    opt("plan", None, Switch, "also print what create would do, a decision a line"),
    opt("host", None, Switch, "report what this host can do, without a bundle"),
    opt("format", None, Word("FORMAT", &["text", "json"]), "text or json"),
];

pub const VERBS: &[Verb] = &[
    Verb {
        name: "create",
        about: "create a container, which start runs later",
        options: &[CREATE, IO, PRESERVE],
        operands: Operands::Id,
        work: |m| ready(read::create(m)?, create::run),
    },
    Verb {
        name: "start",
        about: "run a created container's program",
        options: &[],
        operands: Operands::Id,
        work: |m| ready(read::id(m)?, start::run),
    },
    Verb {
        name: "state",
        about: "print a container's state",
        options: &[&[
            opt(
                "applied",
                None,
                Switch,
                "print the settings that are not applied as asked, which is an error",
            ),
            opt(
                "format",
                Some('f'),
                Word("FORMAT", &["text", "json"]),
                "with --applied: text, or json, which has all settings",
            ),
        ]],
        operands: Operands::Id,
        work: |m| ready(read::state(m)?, state::run),
    },
    Verb {
        name: "wait",
        about: "wait until a container has ended, and exit with its program's status",
        options: &[],
        operands: Operands::Id,
        work: |m| ready_with_code(read::id(m)?, |globals, id| wait::run(globals, id)),
    },
    Verb {
        name: "kill",
        about: "send a signal to a container (default SIGTERM)",
        options: &[&[
            opt("all", Some('a'), Switch, "to all its processes"),
            opt(
                "regex",
                Some('r'),
                Switch,
                "ID is a regular expression: to each container that runs and matches",
            ),
        ]],
        operands: Operands::IdSignal,
        work: |m| ready(read::kill(m)?, kill::run),
    },
    Verb {
        name: "delete",
        about: "remove a stopped container",
        options: &[&[
            opt("force", Some('f'), Switch, "kill it if it has not stopped; succeed if it does not exist"),
            opt("all", Some('a'), Switch, "delete every container, and print their ids"),
            opt("regex", Some('r'), Switch, "ID is a regular expression: delete each container that matches"),
        ]],
        operands: Operands::MaybeId,
        work: |m| ready(read::delete(m)?, delete::run),
    },
    Verb {
        name: "gc",
        about: "remove the leftovers of interrupted commands",
        options: &[&[
            opt("stopped", None, Switch, "also remove stopped containers, which an engine may still ask for"),
            opt("dry-run", None, Switch, "only print what would be removed"),
            opt("format", Some('f'), Word("FORMAT", &["text", "json"]), "text or json"),
        ]],
        operands: Operands::None,
        work: |m| ready(read::gc(m)?, |globals, args| gc::run(globals, *args)),
    },
    Verb {
        name: "pause",
        about: "freeze the processes of a container",
        options: &[],
        operands: Operands::Id,
        work: |m| ready(read::id(m)?, pause::run),
    },
    Verb {
        name: "resume",
        about: "thaw the processes of a paused container",
        options: &[],
        operands: Operands::Id,
        work: |m| ready(read::id(m)?, resume::run),
    },
    Verb {
        name: "update",
        about: "change a container's limits",
        options: &[cli::update::OPTIONS, cli::update::LIMIT_OPTIONS],
        operands: Operands::Id,
        work: |m| ready(cli::update::read(m)?, update::run),
    },
    Verb {
        name: "events",
        about: "print the resource use of a container, until it stops",
        options: &[&[
            opt("stats", None, Switch, "print one record and exit"),
            opt("interval", None, Text("DURATION"), "the time between two records (default 5s)"),
        ]],
        operands: Operands::Id,
        work: |m| ready(read::events(m)?, events::run),
    },
    Verb {
        name: "run",
        about: "create, start, wait and delete",
        options: &[CREATE, RUN, IO, PRESERVE],
        operands: Operands::Id,
        work: |m| ready_with_code(read::run(m)?, run::run),
    },
    Verb {
        name: "exec",
        about: "run another program in a container",
        options: &[EXEC, IO, PRESERVE],
        operands: Operands::IdWords,
        work: |m| ready_with_code(read::exec(m)?, exec::run),
    },
    Verb {
        name: "checkpoint",
        about: "save a running container in files (needs CRIU)",
        options: &[checkpoint::OPTIONS, checkpoint::COMMON],
        operands: Operands::Id,
        work: |m| ready(checkpoint::read(m)?, checkpoint::run),
    },
    Verb {
        name: "restore",
        about: "make a container from the files of a checkpoint (needs CRIU)",
        options: &[restore::OPTIONS, checkpoint::COMMON, CREATE, RUN, IO],
        operands: Operands::Id,
        work: |m| ready_with_code(restore::read(m)?, restore::run),
    },
    Verb {
        name: "list",
        about: "list the containers",
        options: &[FORMAT, &[opt("quiet", Some('q'), Switch, "only their ids")]],
        operands: Operands::None,
        work: |m| ready(read::list(m)?, list::run),
    },
    Verb {
        name: "mounts",
        about: "change the mounts of a running container: mounts add|remove ID FILE",
        options: &[],
        operands: Operands::Words,
        work: |m| ready(mounts::read(m)?, mounts::run),
    },
    Verb {
        name: "ps",
        about: "list a container's processes",
        options: &[FORMAT],
        operands: Operands::IdWords,
        work: |m| ready(read::ps(m)?, ps::run),
    },
    Verb {
        name: "spec",
        about: "write a config.json to start from",
        options: &[&[
            opt("bundle", Some('b'), Path("DIR"), "where (default: the working directory)"),
            opt("file", Some('f'), Path("FILE"), "write to FILE instead of config.json"),
            opt("rootless", None, Switch, "for a caller who is not root"),
        ]],
        operands: Operands::None,
        work: |m| ready(spec::read(m)?, spec::run),
    },
    Verb {
        name: "check",
        about: "report what is wrong with a bundle, and what this host cannot do",
        options: &[CHECK, CREATE, IO, PRESERVE],
        operands: Operands::MaybeId,
        work: |m| ready_with_code(check::read(m)?, check::run),
    },
    Verb {
        name: "features",
        about: "print what corten supports",
        options: &[],
        operands: Operands::None,
        work: |_| ready((), features::run),
    },
    Verb {
        name: "seccomp",
        about: "explain a seccomp profile: seccomp explain PROFILE|--bundle DIR [SYSCALL...]",
        options: &[&[
            opt("bundle", Some('b'), Path("DIR"), "the profile of this bundle's configuration"),
            opt("dump", None, Switch, "print the program instead"),
        ]],
        operands: Operands::Words,
        work: |m| ready(seccomp::read(m)?, seccomp::run),
    },
    Verb {
        name: "trace",
        about: "print a file of --trace as a timeline",
        options: &[],
        operands: Operands::File,
        work: |m| ready(read::path(m, "file").unwrap_or_default(), trace::run),
    },
];
