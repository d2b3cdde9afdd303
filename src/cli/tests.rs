use super::*;
use crate::commands::VERBS;
use crate::error::kind;

fn split(line: &str) -> Vec<OsString> {
    // `''` stands for an empty word.
    line.split(' ').map(|word| OsString::from(if word == "''" { "" } else { word })).collect()
}

fn read(line: &str) -> Result<Command> {
    parse(split(&format!("corten {line}")), VERBS)
}

fn call(line: &str) -> Call {
    match read(line) {
        Ok(Command::Verb(call)) => call,
        Ok(_) => panic!("{line}: not a verb"),
        Err(e) => panic!("{line}: {e:#}"),
    }
}

fn globals(line: &str) -> Globals {
    call(line).globals
}

/// Reads a line that begins with a verb by the verb's reader.
pub(crate) fn args<A>(line: &str, read: fn(&ArgMatches) -> Result<A>) -> A {
    let words = split(line);
    let verb = VERBS.iter().find(|verb| words[0] == verb.name).unwrap();
    let matches = matches(verb, Vec::new(), &words[1..]).unwrap_or_else(|e| panic!("{line}: {e}"));
    read(matches.subcommand().unwrap().1).unwrap_or_else(|e| panic!("{line}: {e:#}"))
}

fn create(id: &str) -> Create {
    Create { id: id.into(), bundle: ".".into(), ..Create::default() }
}

fn exec(id: &str) -> Exec {
    Exec { id: id.into(), ..Exec::default() }
}

fn kill(signal: &str, all: bool) -> Kill {
    Kill { which: Which::One("c1".into()), signal: signal.into(), all }
}

fn delete(id: Option<&str>, force: bool) -> Delete {
    Delete { which: id.map_or(Which::All, |id| Which::One(id.into())), force }
}

#[test]
fn globals_as_engines_send_them() {
    let json = |file: &str| log::Options {
        file: Some(file.into()),
        format: log::Format::Json,
        level: log::Level::Warning,
    };
    let none = Globals::default();
    for (line, expected) in [
        ("start c1", none.clone()),
        ("--log-format=json --log /f start c1", Globals { log: json("/f"), ..none.clone() }),
        (
            "--systemd-cgroup --log-format=json --log=/f create --bundle /b --pid-file /p c1",
            Globals { log: json("/f"), cgroup_manager: Manager::Systemd, ..none.clone() },
        ),
        (
            "--root /run/r/default --log /b/log.json --log-format json --systemd-cgroup start c1",
            Globals {
                root: Some("/run/r/default".into()),
                log: json("/b/log.json"),
                cgroup_manager: Manager::Systemd,
                ..none.clone()
            },
        ),
        (
            "--cgroup-manager disabled --systemd-cgroup start c1",
            Globals { cgroup_manager: Manager::Disabled, ..none.clone() },
        ),
        ("--cgroup-manager=cgroupfs start c1", none.clone()),
        ("-root /r -systemd-cgroup=false start c1", Globals { root: Some("/r".into()), ..none.clone() }),
        ("--root /a --root=/b start c1", Globals { root: Some("/b".into()), ..none.clone() }),
        ("--root -odd start c1", Globals { root: Some("-odd".into()), ..none.clone() }),
        ("--root '' --log '' start c1", none.clone()),
        ("--criu /x start c1", Globals { criu: Some("/x".into()), ..none.clone() }),
        ("--rootless=true start c1", Globals { rootless: Some(true), ..none.clone() }),
        ("--rootless false start c1", Globals { rootless: Some(false), ..none.clone() }),
        ("--rootless auto start c1", none.clone()),
        ("--strict-labels start c1", Globals { strict_labels: true, ..none.clone() }),
        (
            "--debug --log-level error start c1",
            Globals {
                log: log::Options { level: log::Level::Debug, ..log::Options::default() },
                ..none.clone()
            },
        ),
    ] {
        assert_eq!(globals(line), expected, "{line}");
    }
}

#[test]
fn creates_as_engines_send_them() {
    let podman = Create {
        bundle: "/b".into(),
        pid_file: Some("/p".into()),
        no_pivot: true,
        no_new_keyring: true,
        preserve_fds: 3,
        console_socket: Some("/s".into()),
        ..create("c1")
    };
    for (line, expected) in [
        (
            "create --bundle /b --pid-file /p --no-pivot --no-new-keyring --preserve-fds 3 --console-socket /s c1",
            podman.clone(),
        ),
        (
            "create c1 --bundle=/b -pid-file=/p -no-pivot --no-new-keyring=true -preserve-fds 3 --console-socket=/s",
            podman.clone(),
        ),
        (
            "create --bundle /b --pid-file /b/init.pid c1",
            Create { bundle: "/b".into(), pid_file: Some("/b/init.pid".into()), ..create("c1") },
        ),
        ("create -b /b c1", Create { bundle: "/b".into(), ..create("c1") }),
        ("create -b=/b c1", Create { bundle: "/b".into(), ..create("c1") }),
        ("create c1 -b/b", Create { bundle: "/b".into(), ..create("c1") }),
        ("create --config /c.json c1", Create { config: Some("/c.json".into()), ..create("c1") }),
        (
            "create --pidfd-socket /s --no-subreaper c1",
            Create { pidfd_socket: Some("/s".into()), ..create("c1") },
        ),
        ("create --no-pivot=false --console-socket '' c1", create("c1")),
        ("create -- c1", create("c1")),
        ("create -- -c1", create("-c1")),
    ] {
        assert_eq!(args(line, read::create), expected, "{line}");
    }
    let run = Run { create: Create { bundle: "/b".into(), ..create("c1") }, ..Run::default() };
    for (line, expected) in [
        ("run --bundle /b c1", run.clone()),
        ("run -d --keep -b /b c1", Run { detach: true, keep: true, ..run.clone() }),
        ("run -detach -no-subreaper --bundle /b c1", Run { detach: true, no_subreaper: true, ..run }),
    ] {
        assert_eq!(args(line, read::run), expected, "{line}");
    }
}

#[test]
fn execs_as_engines_send_them() {
    let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
    let process = Exec { process: Some("/p".into()), detach: true, ..exec("c1") };
    for (line, expected) in [
        (
            "exec --pid-file /f --process /p --detach --preserve-fds 2 --console-socket /s c1",
            Exec {
                pid_file: Some("/f".into()),
                preserve_fds: 2,
                console_socket: Some("/s".into()),
                ..process.clone()
            },
        ),
        (
            "exec --process /p --console-socket /s --detach --pid-file /d/1.pid c1",
            Exec { pid_file: Some("/d/1.pid".into()), console_socket: Some("/s".into()), ..process.clone() },
        ),
        ("exec -p /p -d c1", process.clone()),
        ("exec c1 ls -l --color=auto -d", Exec { args: words("ls -l --color=auto -d"), ..exec("c1") }),
        ("exec c1 -- ls --", Exec { args: words("ls --"), ..exec("c1") }),
        ("exec -- c1 ls", Exec { args: words("ls"), ..exec("c1") }),
        (
            "exec -t -u 5:6 c1 sh --help",
            Exec {
                tty: true,
                user: Some(User::Ids { uid: 5, gid: Some(6) }),
                args: words("sh --help"),
                ..exec("c1")
            },
        ),
        (
            "exec -td --user=5 c1 sh",
            Exec {
                tty: true,
                detach: true,
                user: Some(User::Ids { uid: 5, gid: None }),
                args: words("sh"),
                ..exec("c1")
            },
        ),
        (
            "exec -u web:5 c1 sh",
            Exec { user: Some(User::Named("web:5".into())), args: words("sh"), ..exec("c1") },
        ),
        (
            "exec -e A=1 --env B=-x --env=C= -g 3 --additional-gids 4 --cap CAP_KILL -c CAP_CHOWN c1 sh",
            Exec {
                env: words("A=1 B=-x C="),
                additional_gids: vec![3, 4],
                caps: words("CAP_KILL CAP_CHOWN"),
                args: words("sh"),
                ..exec("c1")
            },
        ),
        (
            "exec --cwd /w --no-new-privs --apparmor p --process-label l --cgroup a --cgroup=b:c --ignore-paused c1 x",
            Exec {
                cwd: Some("/w".into()),
                no_new_privs: true,
                apparmor: Some("p".into()),
                process_label: Some("l".into()),
                cgroup: words("a b:c"),
                ignore_paused: true,
                args: words("x"),
                ..exec("c1")
            },
        ),
    ] {
        assert_eq!(args(line, read::exec), expected, "{line}");
    }
}

#[test]
fn kills_as_engines_send_them() {
    for (line, expected) in [
        ("kill c1 9", kill("9", false)),
        ("kill c1", kill("SIGTERM", false)),
        ("kill c1 SIGKILL", kill("SIGKILL", false)),
        ("kill --all c1 9", kill("9", true)),
        ("kill -a c1 KILL", kill("KILL", true)),
        ("kill c1 TERM --all", kill("TERM", true)),
        ("kill c1 -all", kill("SIGTERM", true)),
        ("kill -r ^a|b$ 9", Kill { which: Which::Matching("^a|b$".into()), ..kill("9", false) }),
        ("kill --regex . --all", Kill { which: Which::Matching(".".into()), ..kill("SIGTERM", true) }),
    ] {
        assert_eq!(args(line, read::kill), expected, "{line}");
    }
}

#[test]
fn deletes_as_engines_send_them() {
    for (line, expected) in [
        ("delete c1", delete(Some("c1"), false)),
        ("delete --force c1", delete(Some("c1"), true)),
        ("delete -f c1", delete(Some("c1"), true)),
        ("delete c1 -force", delete(Some("c1"), true)),
        ("delete --all --force", delete(None, true)),
        ("delete -a", delete(None, false)),
        ("delete -r -f c.*/", Delete { which: Which::Matching("c.*/".into()), force: true }),
    ] {
        assert_eq!(args(line, read::delete), expected, "{line}");
    }
}

#[test]
fn listing_verbs_as_engines_send_them() {
    let table = Format::Table;
    let ps = |format, options: &[&str]| {
        let options = options.iter().map(ToString::to_string).collect();
        Ps { id: "c1".into(), format, options }
    };
    for (line, expected) in [
        ("ps --format json c1", ps(Format::Json, &[])),
        ("ps -f json c1", ps(Format::Json, &[])),
        ("ps --format=table c1 -o pid,cmd", ps(table, &["-o", "pid,cmd"])),
        ("ps c1 -ef --format json", ps(table, &["-ef", "--format", "json"])),
    ] {
        assert_eq!(args(line, read::ps), expected, "{line}");
    }
    for (line, expected) in [
        ("list", List { format: table, quiet: false }),
        ("list --format=json", List { format: Format::Json, quiet: false }),
        ("list -q", List { format: table, quiet: true }),
    ] {
        assert_eq!(args(line, read::list), expected, "{line}");
    }
    assert_eq!(args("gc", read::gc), Gc::default());
    let expected = Gc { stopped: true, dry_run: true, json: true };
    assert_eq!(args("gc --dry-run --stopped --format json", read::gc), expected);
}

#[test]
fn a_check_needs_no_id() {
    for (line, id) in [("check --bundle /b", "plan"), ("check -b /b c1", "c1")] {
        assert_eq!(args(line, read::create), Create { bundle: "/b".into(), ..create(id) }, "{line}");
    }
}

#[test]
fn errors_begin_with_the_verb_and_the_container() {
    for (line, verb, label) in [
        ("start c1", "start", "start c1"),
        ("state --applied c1", "state", "state c1"),
        ("exec c1 ls -l", "exec", "exec c1"),
        ("delete --all", "delete", "delete --all"),
        ("kill --all c1", "kill", "kill c1"),
        ("features", "features", "features"),
        ("spec", "spec", "spec"),
        ("gc", "gc", "gc"),
        ("wait c1", "wait", "wait c1"),
        ("check", "check", "check"),
        ("plan", "check", "check"),
        ("seccomp explain /p read write", "seccomp", "seccomp explain"),
        ("trace /t", "trace", "trace"),
    ] {
        let call = call(line);
        assert_eq!((call.verb, call.label.as_str()), (verb, label), "{line}");
    }
}

#[test]
fn versions_are_asked_for_in_four_forms() {
    for line in ["--version", "-v", "-V", "-version"] {
        assert!(matches!(read(line), Ok(Command::Version)), "{line}");
    }
}

#[test]
fn limits_become_a_document() {
    let update = |line: &str| args(line, update::read);
    for (line, expected) in [
        ("update c1", "{}"),
        ("update --memory 512M --memory-swap=-1 c1", r#"{"memory":{"limit":536870912,"swap":-1}}"#),
        ("update --memory= --cpu-quota -1 c1", r#"{"cpu":{"quota":-1}}"#),
        ("update --pids-limit 0 --cpuset-cpus 0-1 c1", r#"{"pids":{"limit":0},"cpu":{"cpus":"0-1"}}"#),
        (
            "update --blkio-weight 10 --cpu-share=2 --cpu-idle 1 --kernel-memory-tcp 1k c1",
            r#"{"blockIO":{"weight":10},"cpu":{"shares":2,"idle":1},"memory":{"kernelTCP":1024}}"#,
        ),
    ] {
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        assert_eq!(update(line).document, expected, "{line}");
    }
    for line in ["update --resources=- c1", "update --resources - c1", "update -r - c1"] {
        assert_eq!(update(line).resources, Some("-".into()), "{line}");
    }
    let schemas = update("update --l3-cache-schema L3:0=f --dry-run c1").schemas;
    assert_eq!(schemas, [("l3CacheSchema", "L3:0=f".to_string())]);
}

#[test]
fn help_is_given() {
    for (line, word) in [
        ("--help", "features"),
        ("--help", "check"),
        ("plan --help", "corten check"),
        ("-h", "create"),
        ("help", "delete"),
        ("help kill", "SIGTERM"),
        ("create --help", "USAGE:\n   corten create [OPTIONS] <ID>"),
        ("help create", "USAGE:\n   corten create [OPTIONS] <ID>"),
        ("list -h", "NAME:\n   corten list - list the containers\n"),
        ("--help", "NAME:\n   corten - Open Container Initiative runtime\n"),
        ("help --help", "NAME:\n   corten - "),
        ("help help", "NAME:\n   corten - "),
        ("create --help", "--bundle"),
        ("create -h", "--pid-file"),
        ("exec -help", "--additional-gids"),
    ] {
        let Ok(Command::Help(text)) = read(line) else { panic!("{line}") };
        assert!(text.contains(word), "{line}: {text}");
        assert!(!text.contains("ignored"), "{line}: {text}");
    }
}

#[test]
fn usage_errors_have_one_line() {
    for (line, expected) in [
        ("", "unknown command \"\""),
        ("bogus c1", "unknown command \"bogus\" (hint: corten --help lists them)"),
        ("strat c1", "unknown command \"strat\" (hint: did you mean start?)"),
        ("bogus -h", "No help topic for 'bogus'"),
        ("help bogus", "No help topic for 'bogus'"),
        ("checkpoint", "checkpoint: needs the id of a container"),
        ("checkpoint --manage-cgroups-mode hard c1", "for --manage-cgroups-mode"),
        ("checkpoint --empty-ns pid c1", "--empty-ns: namespace \"pid\" is not supported"),
        ("checkpoint --page-server host c1", "--page-server \"host\" is not ADDRESS:PORT"),
        ("checkpoint --status-fd 5 c1", "--status-fd needs --lazy-pages"),
        ("pause", "pause: needs the id of a container (hint: corten pause --help)"),
        ("resume a/b", "invalid container ID format"),
        ("update --memory 5x c1", "invalid value \"5x\" for --memory"),
        ("update --cpu-period -1 c1", "for --cpu-period"),
        ("update --pids-limit ten c1", "for --pids-limit"),
        ("--bogus state c1", "unknown option --bogus (hint: corten --help lists the options)"),
        ("--root", "--root requires an argument"),
        ("create", "create: needs the id of a container"),
        ("create --bundle", "create: --bundle requires an argument"),
        // Podman looks for these words, which are those of crun, before it restores a container into a pod.
        ("restore --lsm-mount-context", "restore: --lsm-mount-context requires an argument"),
        ("create --bundel=. c1", "create: unknown option --bundel (hint: did you mean --bundle?)"),
        ("create --bogus c1", "unknown option --bogus (hint: corten create --help lists the options)"),
        (
            "create --detach c1",
            "create: unknown option --detach (hint: it is an option of run, exec, restore)",
        ),
        ("list --root /x", "(hint: it stands before the command: corten --root ... list)"),
        ("-r /x list", "unknown option -r (hint: "),
        (
            "create --preserve-fds x c1",
            "create: invalid value \"x\" for --preserve-fds (hint: a whole number from 0 to 4294967295)",
        ),
        ("create --preserve-fds=-1 c1", "invalid value \"-1\" for --preserve-fds"),
        ("create c1 c2", "create: unexpected operand \"c2\" (hint: corten create --help shows its operands)"),
        ("create ../c1", "invalid container ID format"),
        ("create ''", "container id cannot be empty"),
        ("state", "state: needs the id of a container"),
        ("state a/b", "invalid container ID format"),
        ("kill c1 9 9", "kill: unexpected operand \"9\""),
        ("list --format=yaml", "invalid value \"yaml\" for --format"),
        ("exec c1", "exec needs a program"),
        ("exec -u 4294967295 c1 sh", "invalid value \"4294967295\" for --user"),
        ("exec -u 0:4294967295 c1 sh", "for --user"),
        ("exec -u 5: c1 sh", "for --user"),
        ("exec -u :5 c1 sh", "for --user"),
        ("exec -u 4294967296 c1 sh", "for --user"),
        ("seccomp", "seccomp: needs an action (hint: corten seccomp --help)"),
        ("seccomp compile /p", "seccomp knows explain, not \"compile\""),
        ("seccomp explain", "needs a profile, or --bundle"),
        ("seccomp explain --dump /p read", "prints the whole program"),
        ("--log-format=xml state c1", "invalid value \"xml\" for --log-format"),
        ("--rootless=maybe state c1", "for --rootless"),
        ("--cgroup-manager=x state c1", "for --cgroup-manager"),
        ("delete --force=maybe c1", "delete: invalid value \"maybe\" for --force (hint: true or false)"),
        ("delete", "--all"),
        ("delete --all c1", "--all"),
        ("gc c1", "c1"),
        ("gc --format table", "--format"),
    ] {
        let error = read(line).err().unwrap_or_else(|| panic!("{line}"));
        assert_eq!(kind(&error), Kind::Usage, "{line}");
        let text = format!("{error:#}");
        assert!(text.contains(expected), "{line}: {text}");
        assert!(!text.contains('\n'), "{line}: {text}");
    }
    assert_eq!(kind(&parse(Vec::new(), VERBS).err().unwrap()), Kind::Usage);
    assert_eq!(kind(&parse(split("corten"), VERBS).err().unwrap()), Kind::Usage);
}

#[test]
fn only_paths_may_be_other_than_utf_8() {
    let odd = OsString::from_vec(b"/\xff".to_vec());
    let line = |head: &str| [split(head), vec![odd.clone()], split("c1")].concat();
    let verb = VERBS.iter().find(|verb| verb.name == "create").unwrap();
    let matches = matches(verb, Vec::new(), &line("--bundle")).unwrap();
    let got = read::create(matches.subcommand().unwrap().1).unwrap();
    assert_eq!(got, Create { bundle: odd.clone().into(), ..create("c1") });
    for head in ["corten", "corten state", "corten kill c1", "corten exec --cwd", "corten exec c1"] {
        assert!(parse(line(head), VERBS).is_err(), "{head}");
    }
}

#[test]
fn the_options_of_the_log_are_found_in_a_wrong_line() {
    let json =
        log::Options { file: Some("/f".into()), format: log::Format::Json, level: log::Level::Warning };
    for (line, expected) in [
        (
            "corten --log /f --log-format json create --bogus",
            Preview { log: json.clone(), failure: 1, ..Preview::default() },
        ),
        (
            "corten --log=/f --bogus --log-format=json exec",
            Preview { log: json.clone(), failure: 255, ..Preview::default() },
        ),
        ("corten", Preview { log: log::Options::default(), failure: 1, ..Preview::default() }),
        (
            "corten --trace /t run --trace /u c1",
            Preview { trace: Some("/t".into()), failure: 1, ..Preview::default() },
        ),
        (
            "corten exec c1 --log /g",
            Preview { log: log::Options::default(), failure: 255, ..Preview::default() },
        ),
    ] {
        assert_eq!(preview(&split(line)), expected, "{line}");
    }
}

/// The completions offer these words.
#[test]
fn every_word_in_the_tables_is_a_valid_value() {
    let offered = |tables: &[&[table::Opt]]| {
        let rows = tables.iter().flat_map(|table| table.iter());
        let words = |option: &table::Opt| match option.takes {
            table::Takes::Word(_, words) => {
                words.iter().map(|word| format!("--{}={word}", option.long)).collect()
            }
            _ => Vec::new(),
        };
        rows.flat_map(words).collect::<Vec<_>>()
    };
    let mut lines: Vec<_> = offered(&[GLOBALS]).iter().map(|option| format!("{option} start c1")).collect();
    for verb in VERBS {
        let id = if verb.operands == Operands::None { "" } else { " c1" };
        lines.extend(offered(verb.options).iter().map(|option| format!("{} {option}{id}", verb.name)));
    }
    assert!(lines.contains(&"ps --format=json c1".to_string()), "{lines:?}");
    for line in lines {
        call(&line);
    }
}
