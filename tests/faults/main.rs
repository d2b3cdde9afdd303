//! Whatever fails, wherever a command is killed: afterwards `delete --force` leaves nothing, nothing hangs, and what
//! runs is never less confined than it was asked to be.
//!
//! Each test takes one verb, learns which system calls its processes make, and then makes every one of them fail or
//! kills its process there, one at a time. `cargo test` takes a sample, another one each day and with
//! `CORTEN_FAULTS_SEED` a certain one; with a number as `CORTEN_FAULTS` so many, and with `all` (`make faults`) all are tried.
//! Of another runtime (`CORTEN`) the verbs can be swept that all runtimes have.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, unreachable_pub)]

#[allow(dead_code, unused_imports)]
#[path = "../integration/harness.rs"]
mod harness;
mod limits;
mod systemd;
mod tracer;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use harness::{Bundle, Test, View, isolated, isolated_in, poll};
use nix::errno::Errno;
use serde_json::{Value, json};
use tracer::{Fault, Place, places, trace};

const FAULTS: [Fault; 12] = [
    Fault::Kill,
    Fault::Error(Errno::EIO),
    Fault::Error(Errno::ENOMEM),
    Fault::Error(Errno::ENOSPC),
    Fault::Error(Errno::EMFILE),
    Fault::Error(Errno::EINTR),
    Fault::Error(Errno::EPERM),
    Fault::Error(Errno::EACCES),
    Fault::Error(Errno::EAGAIN),
    Fault::Error(Errno::ENFILE),
    Fault::Error(Errno::ENOENT),
    Fault::Error(Errno::ENOSYS),
];

/// One verb: what has to be there before it, and its words.
struct Verb {
    /// In the table of docs/reliability.md.
    name: &'static str,
    args: &'static [&'static str],
    /// Commands before each try.
    before: &'static [&'static [&'static str]],
    success: Success,
    /// What the container has beside the usual. The path is the root filesystem's.
    edit: fn(&mut Value, &str),
    /// It is killed only, and then `gc` comes before `delete`.
    gc: bool,
}

/// What is so when a verb says that it succeeded.
enum Success {
    /// The container's program has run, and so have the hooks.
    Ran,
    /// Nothing is left.
    Removed,
    /// The status is the first one; after an error it is the second.
    Status(&'static str, &'static str),
    /// All is as [`UPDATED`] has it; after an error as before. The first command of `before` says how that is.
    Limits,
    Other,
}

/// What the container's program writes of itself, into a file that the host sees too: the hooks that have run before it,
/// its rights, its mounts. Devices may be binds of the host's: so they are where mknod is not permitted. v1's hierarchy
/// with a name limits nothing, and may be missing where making a cgroup in it is denied.
const PROGRAM: &str = "grep -v poststart /tmp/hooks > /tmp/report; \
    grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status >> /tmp/report; \
    cut -d' ' -f4- /proc/self/mountinfo | sed 's/ master:[0-9]*//; s/ - \\([^ ]*\\) [^ ]*/ - \\1/' | \
    grep -v -e ' /dev/[a-z]* .* devtmpfs' -e ' /sys/fs/cgroup/systemd ' >> /tmp/report; \
    echo end >> /tmp/report";

/// What `update` is given.
const UPDATED: &str = "my-resources";

fn bundle(test: &Test, edit: fn(&mut Value, &str)) -> Bundle {
    let bundle = test.bundle(|config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", format!("{PROGRAM}; exec sleep 1000")]);
        config["process"]["user"]["uid"] = json!(1000);
        config["linux"]["cgroupsPath"] = json!("/f");
        config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}],
        });
    });
    let root = bundle.rootfs();
    bundle.edit(|config| edit(config, root.to_str().unwrap()));
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(root.join("tmp/hooks"), "").unwrap();
    fs::set_permissions(root.join("tmp/hooks"), fs::Permissions::from_mode(0o666)).unwrap();
    bundle
}

/// What one cell has shown.
#[derive(Default)]
struct Cell {
    calls: Vec<Vec<i64>>,
    /// The fault has happened.
    met: bool,
    wrong: Vec<String>,
    hooks: String,
    limits: Vec<String>,
}

impl Verb {
    /// One cell of the sweep. `usual` is the undisturbed one.
    fn attempt(
        &self,
        test: &Test,
        bundle: &Bundle,
        fault: Option<(Place, Fault)>,
        before: &[String],
        usual: Option<&Cell>,
    ) -> Cell {
        let command = |args: &[&str]| {
            let words = args.iter().map(|a| a.replace("BUNDLE", bundle.path()).replace("PROGRAM", PROGRAM));
            let mut command = test.command(&[]);
            command.args(words);
            command
        };
        let report = bundle.rootfs().join("tmp/report");
        let hooks = bundle.rootfs().join("tmp/hooks");
        fs::write(&hooks, "").unwrap();
        let _ = fs::remove_file(&report);
        for args in self.before {
            test.call(&mut command(args)).ok();
            if args.contains(&"start") {
                assert!(poll(Duration::from_secs(20), || read(&report).ends_with("end\n")));
            }
        }
        let _ = fs::remove_file(&report);
        let limited = matches!(self.success, Success::Limits);
        let found = if limited { limits::snapshot(test) } else { Vec::new() };
        let traced = trace(&command(self.args), fault);
        let mut cell = Cell { calls: traced.calls, met: traced.met, ..Cell::default() };
        let ran = || poll(Duration::from_secs(10), || read(&report).ends_with("end\n"));
        let killed = fault.is_some_and(|(_, fault)| fault == Fault::Kill);
        match (traced.code, &self.success) {
            (None, _) => cell.wrong.push("hangs".into()),
            (Some(0), Success::Ran) if !ran() => {
                cell.wrong.push("succeeds, and the program has not run".into())
            }
            (Some(0), Success::Removed) => {
                cell.wrong
                    .extend(left(test, before).iter().map(|trace| format!("succeeds, and leaves {trace}")));
            }
            (Some(code), Success::Status(after, otherwise)) if code == 0 || !killed => {
                let (wanted, status) = (if code == 0 { after } else { otherwise }, test.status("f"));
                if status != *wanted {
                    cell.wrong.push(format!("exits {code}, and the container is {status}"));
                }
            }
            (Some(code), Success::Limits) => {
                cell.limits = limits::snapshot(test);
                let wanted =
                    if code == 0 { usual.map_or(&cell.limits, |usual| &usual.limits) } else { &found };
                if !killed && cell.limits != *wanted {
                    cell.wrong
                        .push(format!("exits {code}, and there is {:?} instead of {wanted:?}", cell.limits));
                }
                let applied = test.corten(&["state", "--applied", "f"]);
                if !killed && applied.code != 0 {
                    cell.wrong
                        .push(format!("exits {code}, and what is kept is not what is: {}", applied.stderr));
                }
                // Whatever has happened to the first, a second one brings all that is asked for.
                let again = test.call(&mut command(self.args));
                let brought = limits::snapshot(test);
                if again.code != 0 || usual.is_some_and(|usual| usual.limits != brought) {
                    cell.wrong.push(format!("again: exits {}, {brought:?} {}", again.code, again.stderr));
                }
            }
            _ => {}
        }
        cell.hooks = read(&hooks);
        if traced.code == Some(0) && usual.is_some_and(|usual| usual.hooks != cell.hooks) {
            cell.wrong.push(format!("succeeds, and of the hooks there ran: {:?}", cell.hooks));
        }
        if self.gc {
            cell.wrong.extend(collected(test, before));
        }
        let deleted = test.corten(&["delete", "--force", "f"]);
        if deleted.code != 0 {
            cell.wrong.push(format!("delete --force fails: {}", deleted.stderr.trim()));
        }
        cell.wrong.extend(left(test, before).iter().map(|trace| format!("leaves {trace}")));
        cell
    }
}

/// What is wrong after a `gc`: that a finished container is gone, or that anything is left of one that is not.
fn collected(test: &Test, before: &[String]) -> Vec<String> {
    let record = || fs::read_to_string(test.state().join("f/state.json")).unwrap_or_default();
    let finished = |text: String| text.contains("\"createdDone\":true");
    let expected = finished(record());
    let gc = test.corten(&["gc"]);
    match (gc.code, expected) {
        (0, true) if finished(record()) => Vec::new(),
        (0, true) => vec!["gc takes a container that is finished".into()],
        (0, false) => left(test, before).iter().map(|trace| format!("gc leaves {trace}")).collect(),
        (code, _) => vec![format!("gc exits {code}: {}", gc.stderr.trim())],
    }
}

/// Removes what a cell has left, that the next one can begin.
fn clear(test: &Test, before: &[String]) {
    for _ in 0..5 {
        let left = harness::left_behind(test, before.to_vec());
        let mounted = left.iter().any(|line| line.starts_with("mount "));
        for (kind, rest) in left.iter().rev().filter_map(|line| line.split_once(' ')) {
            let word = |number| rest.split(' ').nth(number).unwrap_or_default();
            match kind {
                "process" => drop(Command::new("kill").args(["-KILL", word(0)]).status()),
                "mount" => drop(Command::new("umount").args(["-l", word(2)]).status()),
                "cgroup" => drop(fs::remove_dir(rest)),
                // Not while a mount may lead out of it.
                _ if mounted => {}
                _ => drop(fs::remove_dir_all(rest).or_else(|_| fs::remove_file(rest))),
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What there is beside what was there `before`, after time to end.
fn left(test: &Test, before: &[String]) -> Vec<String> {
    let mut left = Vec::new();
    poll(Duration::from_secs(2), || {
        left = harness::left_behind(test, before.to_vec());
        left.is_empty()
    });
    left
}

fn read(path: &std::path::Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// All of a verb's cells, or a sample of them.
fn sweep(test: &Test, verb: &Verb) {
    let bundle = bundle(test, verb.edit);
    fs::write(bundle.dir.join(UPDATED), limits::other().to_string()).unwrap();
    let mut before = harness::traces(test);
    // Twice, so that what is made once for all (the state root) is there.
    verb.attempt(test, &bundle, None, &before, None);
    let usual = verb.attempt(test, &bundle, None, &before, None);
    assert!(usual.wrong.is_empty(), "undisturbed: {:?}", usual.wrong);
    let report = bundle.rootfs().join("tmp/report");
    let expected = read(&report);
    let calls = &usual.calls;
    let of = |fault| places(calls, fault).into_iter().map(move |place| (place, fault));
    let faults = if verb.gc { &FAULTS[..1] } else { &FAULTS };
    let (cells, total) = chosen(faults.iter().copied().flat_map(of).collect());
    let mut table = Table::default();
    for (place, fault) in cells {
        let Cell { met, mut wrong, .. } =
            verb.attempt(test, &bundle, Some((place, fault)), &before, Some(&usual));
        let reported = read(&report);
        if !expected.starts_with(&reported) {
            wrong.push(format!("the program ran otherwise than asked: {reported}"));
        }
        if !wrong.is_empty() {
            clear(test, &before);
            // What could not be removed is counted once.
            before = harness::traces(test);
        }
        table.count(met, &wrong);
        let call = calls[place.0][place.1];
        for line in wrong {
            writeln!(table.findings, "{fault:?} at call {call} ({place:?}): {line}").unwrap();
        }
    }
    table.write(verb.name, total, calls.iter().flatten().count());
    assert!(table.findings.is_empty(), "CORTEN_FAULTS_SEED={}\n{}", seed(), table.findings);
}

/// The numbers of cells where something was wrong.
#[derive(Default)]
struct Table {
    tried: usize,
    leaks: usize,
    hangs: usize,
    weakened: usize,
    untrue: usize,
    findings: String,
}

impl Table {
    fn count(&mut self, met: bool, wrong: &[String]) {
        let any = |words: &[&str]| wrong.iter().any(|line| words.iter().any(|word| line.contains(word)));
        self.tried += usize::from(met);
        self.leaks += usize::from(any(&["leaves", "delete --force fails"]));
        self.hangs += usize::from(any(&["hangs"]));
        self.weakened += usize::from(any(&["otherwise than asked"]));
        self.untrue += usize::from(any(&["succeeds, and", "exits", "again:"]));
    }

    /// Adds a line to the file that `CORTEN_FAULTS_TABLE` names.
    fn write(&self, name: &str, total: usize, calls: usize) {
        let Self { tried, leaks, hangs, weakened, untrue, .. } = self;
        let line = format!(
            "| {name} | {calls} | {tried} of {total} | {leaks} | {hangs} | {weakened} | {untrue} |\n"
        );
        eprint!("{line}");
        if let Some(path) = std::env::var_os("CORTEN_FAULTS_TABLE") {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
    }
}

/// Another one each day, unless one is asked for.
fn seed() -> usize {
    let day = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs() / 86_400);
    std::env::var("CORTEN_FAULTS_SEED").map_or(day as usize, |text| text.parse().unwrap())
}

/// Those of the cells that are tried, spread evenly, and how many there are.
fn chosen(mut cells: Vec<(Place, Fault)>) -> (Vec<(Place, Fault)>, usize) {
    let total = cells.len();
    let count = match std::env::var("CORTEN_FAULTS").as_deref() {
        Ok("all") => total,
        Ok(count) => count.parse().unwrap(),
        Err(_) => 50,
    };
    let step = (total / count).max(1);
    let mut number = seed() % step;
    cells.retain(|_| {
        number += 1;
        number.is_multiple_of(step)
    });
    (cells, total)
}

const CREATE: &[&str] = &["create", "--bundle", "BUNDLE", "f"];
const START: &[&str] = &["start", "f"];
const PAUSE: &[&str] = &["pause", "f"];
const RUN: &[&str] = &["run", "--detach", "--bundle", "BUNDLE", "f"];

/// The control: an error that is injected is met, a death is seen, and what is left is found.
#[test]
fn the_sweep_would_notice() {
    isolated(|t| {
        let bundle = bundle(t, |_, _| {});
        let before = harness::traces(t);
        let list = t.command(&["list"]);
        let undisturbed = trace(&list, None);
        assert_eq!(undisturbed.code, Some(0));
        let open = undisturbed.calls[0].iter().rposition(|&call| call == libc::SYS_write).unwrap();
        assert_eq!(trace(&list, Some(((0, open), Fault::Error(Errno::EIO)))).code, Some(1));
        assert_eq!(trace(&list, Some(((0, open), Fault::Kill))).code, Some(137));
        t.create(&bundle, "f");
        let left = left(t, &before).join("\n");
        for kind in ["cgroup ", "process ", "state "] {
            assert!(left.contains(kind), "{left}");
        }
        t.delete("f");
    });
}

fn usual(_: &mut Value, _: &str) {}

/// A hook of every kind, which writes its name down. Those of the container's root see the file elsewhere.
fn hooks(config: &mut Value, root: &str) {
    const KINDS: [&str; 6] =
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    // From here on a poststart hook that fails is an error.
    config["ociVersion"] = json!("1.3.0");
    for kind in KINDS {
        let root = if kind == "startContainer" { "" } else { root };
        let script = format!("echo {kind} >> {root}/tmp/hooks");
        config["hooks"][kind] =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]);
    }
}

fn user_namespace(config: &mut Value, root: &str) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let chown = Command::new("chown").args(["-hR", "100000:100000", root]).status();
    assert!(chown.unwrap().success());
}

fn verb(
    name: &'static str,
    args: &'static [&'static str],
    before: &'static [&'static [&'static str]],
    success: Success,
) -> Verb {
    Verb { name, args, before, success, edit: usual, gc: false }
}

#[test]
fn create() {
    isolated(|t| sweep(t, &verb("create", CREATE, &[], Success::Other)));
}

#[test]
fn create_then_gc() {
    isolated(|t| sweep(t, &Verb { gc: true, ..verb("create, gc", CREATE, &[], Success::Other) }));
}

#[test]
fn run_with_hooks_then_gc() {
    let verb = Verb { edit: hooks, gc: true, ..verb("run, hooks, gc", RUN, &[], Success::Ran) };
    isolated(|t| sweep(t, &verb));
}

#[test]
fn create_on_v1_then_gc() {
    let verb = Verb { edit: limits::first, gc: true, ..verb("create, v1, gc", CREATE, &[], Success::Other) };
    isolated_in(View::V1, |t| sweep(t, &verb));
}

#[test]
fn delete_then_gc() {
    let args = &["delete", "--force", "f"];
    isolated(|t| sweep(t, &Verb { gc: true, ..verb("delete, gc", args, &[CREATE, START], Success::Other) }));
}

#[test]
fn start() {
    isolated(|t| sweep(t, &verb("start", START, &[CREATE], Success::Ran)));
}

#[test]
fn run() {
    isolated(|t| sweep(t, &verb("run", RUN, &[], Success::Ran)));
}

#[test]
fn run_with_hooks() {
    isolated(|t| sweep(t, &Verb { edit: hooks, ..verb("run, hooks", RUN, &[], Success::Ran) }));
}

#[test]
fn run_in_a_user_namespace() {
    let verb = Verb { edit: user_namespace, ..verb("run, user namespace", RUN, &[], Success::Ran) };
    isolated(|t| sweep(t, &verb));
}

#[test]
fn run_on_v1() {
    isolated_in(View::V1, |t| {
        sweep(t, &Verb { edit: limits::first, ..verb("run, v1", RUN, &[], Success::Ran) })
    });
}

#[test]
fn exec() {
    let args = &["exec", "f", "/bin/sh", "-c", "PROGRAM"];
    isolated(|t| sweep(t, &verb("exec", args, &[CREATE, START], Success::Ran)));
}

#[test]
fn kill() {
    isolated(|t| sweep(t, &verb("kill", &["kill", "f", "TERM"], &[CREATE, START], Success::Other)));
}

const PAUSED: Success = Success::Status("paused", "running");
const RESUMED: Success = Success::Status("running", "paused");

#[test]
fn pause() {
    isolated(|t| sweep(t, &verb("pause", PAUSE, &[CREATE, START], PAUSED)));
}

#[test]
fn pause_on_v1() {
    isolated_in(View::V1, |t| sweep(t, &verb("pause, v1", PAUSE, &[CREATE, START], PAUSED)));
}

#[test]
fn resume() {
    isolated(|t| sweep(t, &verb("resume", &["resume", "f"], &[CREATE, START, PAUSE], RESUMED)));
}

#[test]
fn resume_on_v1() {
    isolated_in(View::V1, |t| {
        sweep(t, &verb("resume, v1", &["resume", "f"], &[CREATE, START, PAUSE], RESUMED))
    });
}

const UPDATE: &[&str] = &["update", "--resources", "BUNDLE/my-resources", "f"];

#[test]
fn update() {
    let verb = Verb { edit: limits::first, ..verb("update", UPDATE, &[CREATE, START], Success::Limits) };
    isolated(|t| sweep(t, &verb));
}

#[test]
fn update_on_v1() {
    let verb = Verb { edit: limits::first, ..verb("update, v1", UPDATE, &[CREATE, START], Success::Limits) };
    isolated_in(View::V1, |t| sweep(t, &verb));
}

#[test]
fn delete() {
    let args = &["delete", "--force", "f"];
    isolated(|t| sweep(t, &verb("delete", args, &[CREATE, START], Success::Removed)));
}

#[test]
fn delete_on_v1() {
    let args = &["delete", "--force", "f"];
    isolated_in(View::V1, |t| sweep(t, &verb("delete, v1", args, &[CREATE, START], Success::Removed)));
}
