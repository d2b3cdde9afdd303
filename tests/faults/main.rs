//! Fault injection: after any failure and any kill of a command, `delete --force` leaves nothing, no command
//! hangs, and no running process is less confined than configured.
//!
//! Each test takes one verb and learns the system calls of its processes. Then it lets each of them fail, or
//! kills the process there, one at a time. `cargo test` takes a sample, which changes daily;
//! `CORTEN_FAULTS_SEED` chooses one. `CORTEN_FAULTS` is the size of the sample, or `all` (`make faults`). For
//! another runtime (`CORTEN`) the verbs that all runtimes have can be tested.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, unreachable_pub)]

mod criu;
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

/// One verb: the commands before it, and its arguments.
struct Verb {
    /// The name in the table of docs/reliability.md.
    name: &'static str,
    args: &'static [&'static str],
    /// The commands before each try.
    before: &'static [&'static [&'static str]],
    success: Success,
    /// Adds the container's special features. The path is that of the root file system.
    edit: fn(&mut Value, &str),
    /// The command is only killed, and `gc` runs before `delete`.
    gc: bool,
}

/// The condition that must hold if a verb succeeds.
enum Success {
    /// The container's program has run, and so have the hooks.
    Ran,
    /// Nothing is left.
    Removed,
    /// The status is the first one, and after an error the second.
    Status(&'static str, &'static str),
    /// Nothing is left, and after an error the container runs or has ended.
    Saved,
    /// All limits are those of [`UPDATED`], and after an error the earlier ones. The first command of
    /// `before` sets those.
    Limits,
    Other,
}

/// The program's report, in a file that the host sees too: the hooks that have run before it, its rights, its
/// mounts. Devices can be bind mounts of the host's, if mknod is not permitted. v1's named hierarchy limits
/// nothing, and can be missing if making a cgroup in it is denied.
const PROGRAM: &str = "grep -v poststart /tmp/hooks > /tmp/report; \
    grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status >> /tmp/report; \
    cut -d' ' -f4- /proc/self/mountinfo | sed 's/ master:[0-9]*//; s/ - \\([^ ]*\\) [^ ]*/ - \\1/' | \
    grep -v -e ' /dev/[a-z]* .* devtmpfs' -e ' /sys/fs/cgroup/systemd ' >> /tmp/report; \
    echo end >> /tmp/report";

/// The document of `update`.
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

/// The result of one cell.
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
    /// Runs one cell of the sweep. `usual` is the result without a fault.
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
            (Some(0), Success::Removed | Success::Saved) => {
                cell.wrong
                    .extend(left(test, before).iter().map(|trace| format!("succeeds, and leaves {trace}")));
            }
            (Some(code), Success::Status(after, otherwise)) if code == 0 || !killed => {
                let (wanted, status) = (if code == 0 { after } else { otherwise }, test.status("f"));
                if status != *wanted {
                    cell.wrong.push(is(code, &status));
                }
            }
            // v1 kills processes while they are frozen. The next `delete` must find a container that anybody could kill.
            (Some(code), Success::Removed) if !killed && test.status("f") == "paused" => {
                cell.wrong.push(is(code, "paused"));
            }
            (Some(code), Success::Saved) => {
                cell.wrong.extend(frozen_after(test, bundle, killed).map(|status| is(code, &status)));
            }
            (Some(code), Success::Limits) => {
                cell.limits = limits::snapshot(test);
                let wanted =
                    if code == 0 { usual.map_or(&cell.limits, |usual| &usual.limits) } else { &found };
                if !killed && cell.limits != *wanted {
                    cell.wrong
                        .push(format!("exits {code}, and there is {:?} instead of {wanted:?}", cell.limits));
                }
                let applied = test.corten(&["state", "--applied", "--format", "json", "f"]);
                if !killed && applied.code != 0 {
                    cell.wrong
                        .push(format!("exits {code}, and what is kept is not what is: {}", applied.stderr));
                }
                // After any result of the first update, a second one sets all limits.
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

/// Returns the line for a command that ends with `code` and leaves the container with a wrong status.
fn is(code: i32, status: &str) -> String {
    format!("exits {code}, and the container is {status}")
}

/// Returns the status of a container that a checkpoint has left neither as it was nor saved.
fn frozen_after(test: &Test, bundle: &Bundle, killed: bool) -> Option<String> {
    // CRIU thaws the container when it notices the end of the command. A killed command may have deleted it, or have begun to:
    // v1 kills processes while they are frozen.
    let saved = killed && bundle.dir.join("my-images/stats-dump").exists();
    let allowed = |status: &str| matches!(status, "running" | "stopped") || saved && status == "paused";
    let done = || !test.state().join("f").exists() || allowed(&test.status("f"));
    (!poll(Duration::from_secs(10), done)).then(|| test.status("f"))
}

/// Returns the errors of `gc`: a finished container that is gone, or the rest of one that is not finished.
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

/// Removes the rest of a cell, so that the next one can begin.
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
                // The directory is not removed while a mount could lead out of it.
                _ if mounted => {}
                _ => drop(fs::remove_dir_all(rest).or_else(|_| fs::remove_file(rest))),
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the traces that were not there `before`, after some time to end.
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

/// Runs all cells of a verb, or a sample of them.
fn sweep(test: &Test, verb: &Verb) {
    let bundle = bundle(test, verb.edit);
    fs::write(bundle.dir.join(UPDATED), limits::other().to_string()).unwrap();
    let mut before = harness::traces(test);
    // Run twice, so that files which are made only once (the state root) exist.
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
            // A leftover that could not be removed is counted once.
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

/// The numbers of cells with errors.
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

/// Returns the seed, which changes daily unless it is set.
fn seed() -> usize {
    let day = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs() / 86_400);
    std::env::var("CORTEN_FAULTS_SEED").map_or(day as usize, |text| text.parse().unwrap())
}

/// Returns the cells of the sample, spread evenly, and their number.
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

/// The control: an injected error is met, a death is seen, and a leftover is found.
#[test]
fn the_sweep_notices_errors_deaths_and_leftovers() {
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

/// Adds a hook of every kind, which writes its name. The hooks of the container's root have the file at
/// another path.
fn hooks(config: &mut Value, root: &str) {
    const KINDS: [&str; 6] =
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    // From this version on a failing poststart hook is an error.
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
fn faults_in_create_leave_nothing() {
    isolated(|t| sweep(t, &verb("create", CREATE, &[], Success::Other)));
}

#[test]
fn gc_leaves_nothing_of_a_killed_create() {
    isolated(|t| sweep(t, &Verb { gc: true, ..verb("create, gc", CREATE, &[], Success::Other) }));
}

#[test]
fn gc_leaves_nothing_of_a_killed_run_with_hooks() {
    let verb = Verb { edit: hooks, gc: true, ..verb("run, hooks, gc", RUN, &[], Success::Ran) };
    isolated(|t| sweep(t, &verb));
}

#[test]
fn gc_leaves_nothing_of_a_killed_create_on_v1() {
    let verb = Verb { edit: limits::first, gc: true, ..verb("create, v1, gc", CREATE, &[], Success::Other) };
    isolated_in(View::V1, |t| sweep(t, &verb));
}

#[test]
fn gc_leaves_nothing_of_a_killed_delete() {
    let args = &["delete", "--force", "f"];
    isolated(|t| sweep(t, &Verb { gc: true, ..verb("delete, gc", args, &[CREATE, START], Success::Other) }));
}

#[test]
fn faults_in_start_leave_nothing() {
    isolated(|t| sweep(t, &verb("start", START, &[CREATE], Success::Ran)));
}

#[test]
fn faults_in_run_leave_nothing() {
    isolated(|t| sweep(t, &verb("run", RUN, &[], Success::Ran)));
}

#[test]
fn faults_in_run_with_hooks_leave_nothing() {
    isolated(|t| sweep(t, &Verb { edit: hooks, ..verb("run, hooks", RUN, &[], Success::Ran) }));
}

#[test]
fn faults_in_run_in_a_user_namespace_leave_nothing() {
    let verb = Verb { edit: user_namespace, ..verb("run, user namespace", RUN, &[], Success::Ran) };
    isolated(|t| sweep(t, &verb));
}

#[test]
fn faults_in_run_on_v1_leave_nothing() {
    isolated_in(View::V1, |t| {
        sweep(t, &Verb { edit: limits::first, ..verb("run, v1", RUN, &[], Success::Ran) })
    });
}

#[test]
fn faults_in_exec_leave_nothing() {
    let args = &["exec", "f", "/bin/sh", "-c", "PROGRAM"];
    isolated(|t| sweep(t, &verb("exec", args, &[CREATE, START], Success::Ran)));
}

#[test]
fn faults_in_kill_leave_nothing() {
    isolated(|t| sweep(t, &verb("kill", &["kill", "f", "TERM"], &[CREATE, START], Success::Other)));
}

const PAUSED: Success = Success::Status("paused", "running");
const RESUMED: Success = Success::Status("running", "paused");

#[test]
fn faults_in_pause_leave_the_status_that_is_reported() {
    isolated(|t| sweep(t, &verb("pause", PAUSE, &[CREATE, START], PAUSED)));
}

#[test]
fn faults_in_pause_on_v1_leave_the_status_that_is_reported() {
    isolated_in(View::V1, |t| sweep(t, &verb("pause, v1", PAUSE, &[CREATE, START], PAUSED)));
}

#[test]
fn faults_in_resume_leave_the_status_that_is_reported() {
    isolated(|t| sweep(t, &verb("resume", &["resume", "f"], &[CREATE, START, PAUSE], RESUMED)));
}

#[test]
fn faults_in_resume_on_v1_leave_the_status_that_is_reported() {
    isolated_in(View::V1, |t| {
        sweep(t, &verb("resume, v1", &["resume", "f"], &[CREATE, START, PAUSE], RESUMED))
    });
}

const UPDATE: &[&str] = &["update", "--resources", "BUNDLE/my-resources", "f"];

#[test]
fn faults_in_update_leave_the_old_or_the_new_limits() {
    let verb = Verb { edit: limits::first, ..verb("update", UPDATE, &[CREATE, START], Success::Limits) };
    isolated(|t| sweep(t, &verb));
}

#[test]
fn faults_in_update_on_v1_leave_the_old_or_the_new_limits() {
    let verb = Verb { edit: limits::first, ..verb("update, v1", UPDATE, &[CREATE, START], Success::Limits) };
    isolated_in(View::V1, |t| sweep(t, &verb));
}

#[test]
fn faults_in_delete_leave_nothing_or_an_error() {
    let args = &["delete", "--force", "f"];
    isolated(|t| sweep(t, &verb("delete", args, &[CREATE, START], Success::Removed)));
}

#[test]
fn faults_in_delete_on_v1_leave_nothing_or_an_error() {
    let args = &["delete", "--force", "f"];
    isolated_in(View::V1, |t| sweep(t, &verb("delete, v1", args, &[CREATE, START], Success::Removed)));
}
