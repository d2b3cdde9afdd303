//! Many commands at once: each succeeds or fails with an error of one line, and `delete` leaves nothing.
//!
//! Moments are random; `CORTEN_SEED` repeats those that a failure prints. `CORTEN_MANY` is the number of
//! containers that are made and deleted sixteen at a time, a hundred by default.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Bundle, Output, Running, Test, directories, isolated, remains, traces};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

fn spawn(t: &Test, args: &[&str]) -> Running {
    t.spawn(t.command(args).stdin(Stdio::null()))
}

/// Fails unless an error has exactly one line.
fn well(out: &Output) {
    // Errors of exec itself are 255.
    assert!(out.code < 128 || out.code == 255, "{out:?}");
    let lines = out.stderr.lines().count();
    assert!(if out.code == 0 { lines == 0 } else { lines == 1 }, "{out:?}");
}

/// Fails if a trace has been added since `before`.
fn nothing_left(t: &Test, before: &[String], after: &str) {
    let left = remains(t, before);
    assert!(left.is_empty(), "{after}: {left:#?}");
}

/// runtime.md#start: of twelve starts at once one starts the program, once. The others are errors of one
/// line.
#[test]
fn one_of_many_starts_at_once_starts_the_program() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!(["/bin/sh", "-c", "echo began >> /began; exec sleep 1000"]);
            // Meanwhile the others wait for the lock.
            c["hooks"] = json!({"poststart": [{"path": "/bin/sleep", "args": ["sleep", "0.2"]}]});
        });
        for _ in 0..3 {
            t.create(&bundle, "c");
            let all: Vec<Running> = (0..12).map(|_| spawn(t, &["start", "c"])).collect();
            let ended: Vec<Output> = all.into_iter().map(Running::wait).collect();
            let (won, lost): (Vec<Output>, Vec<Output>) = ended.into_iter().partition(|out| out.code == 0);
            assert_eq!(won.len(), 1, "{won:?} {lost:?}");
            lost.into_iter().for_each(|out| drop(out.fails("cannot start a container that is running")));
            let began = bundle.rootfs().join("began");
            assert_eq!(std::fs::read_to_string(&began).unwrap(), "began\n");
            std::fs::remove_file(began).unwrap();
            t.delete("c");
        }
    });
}

/// runtime.md#create: of twelve creates at once with one id, one gets it, and the others change nothing.
#[test]
fn one_of_many_creates_at_once_gets_the_id() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "first");
        t.delete("first");
        let before = traces(t);
        for verb in [&["create"][..], &["run", "--detach"]] {
            for _ in 0..4 {
                let args = [verb, &["--bundle", bundle.path(), "c"]].concat();
                let all: Vec<Running> = (0..12).map(|_| spawn(t, &args)).collect();
                let ended: Vec<Output> = all.into_iter().map(Running::wait).collect();
                let (won, lost): (Vec<Output>, Vec<Output>) =
                    ended.into_iter().partition(|out| out.code == 0);
                assert_eq!(won.len(), 1, "{won:?} {lost:?}");
                lost.into_iter().for_each(|out| drop(out.fails("exist")));
                let expected = if verb == ["create"] { "created" } else { "running" };
                assert_eq!(t.status("c"), expected);
                let made = directories("/sys/fs/cgroup".as_ref());
                assert_eq!(made.iter().filter(|dir| dir.ends_with("corten-c")).count(), 1, "{made:?}");
                t.delete("c");
                nothing_left(t, &before, "delete");
            }
        }
    });
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// Runs `verb` and `delete --force` at once, at many different moments.
fn against_delete(t: &Test, verb: &[&str], before: &[&[&str]]) {
    let bundle = t.bundle(|_| {});
    let resources = t.dir.join("my-resources");
    std::fs::write(&resources, json!({"devices": [{"allow": false}]}).to_string()).unwrap();
    let word =
        |word: &str| word.replace("BUNDLE", bundle.path()).replace("FILE", resources.to_str().unwrap());
    let words = |args: &[&str]| args.iter().map(|arg| word(arg)).collect::<Vec<String>>();
    t.start(&bundle, "c");
    t.delete("c");
    let clean = traces(t);
    let seed = setting(
        "CORTEN_SEED",
        u64::from(std::process::id()) ^ std::time::UNIX_EPOCH.elapsed().unwrap().as_secs(),
    );
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for round in 0..12 {
        let told = format!("{verb:?}, CORTEN_SEED={seed}, round {round}");
        for args in before {
            t.call(t.command(&[]).args(words(args))).ok();
        }
        let first = t.spawn(t.command(&[]).args(words(verb)).stdin(Stdio::null()));
        std::thread::sleep(Duration::from_micros(random.below(30_000)));
        let deletes = [spawn(t, &["delete", "--force", "c"]), spawn(t, &["delete", "--force", "c"])];
        let out = first.wait();
        for delete in deletes {
            let delete = delete.wait();
            assert!(delete.code == 0 && delete.stderr.is_empty(), "{told}: {delete:?}");
        }
        // exec exits with 128 + 9 if its process was killed with the container.
        if !(verb[0] == "exec" && out.code == 137 && out.stderr.is_empty()) {
            well(&out);
        }
        // `create` can have come after both.
        t.delete("c");
        nothing_left(t, &clean, &told);
    }
}

const CREATE: &[&str] = &["create", "--bundle", "BUNDLE", "c"];
const START: &[&str] = &["start", "c"];

#[test]
fn create_and_delete_at_once_leave_nothing() {
    isolated(|t| against_delete(t, CREATE, &[]));
}

#[test]
fn run_and_delete_at_once_leave_nothing() {
    isolated(|t| against_delete(t, &["run", "--detach", "--bundle", "BUNDLE", "c"], &[]));
}

#[test]
fn start_and_delete_at_once_leave_nothing() {
    isolated(|t| against_delete(t, START, &[CREATE]));
}

#[test]
fn exec_and_delete_at_once_leave_nothing() {
    isolated(|t| against_delete(t, &["exec", "c", "/bin/sleep", "1000"], &[CREATE, START]));
}

#[test]
fn kill_and_delete_at_once_leave_nothing() {
    isolated(|t| against_delete(t, &["kill", "c", "TERM"], &[CREATE, START]));
}

#[test]
fn pause_and_delete_at_once_leave_nothing() {
    isolated(|t| against_delete(t, &["pause", "c"], &[CREATE, START]));
}

#[test]
fn resume_and_delete_at_once_leave_nothing() {
    isolated(|t| against_delete(t, &["resume", "c"], &[CREATE, START, &["pause", "c"]]));
}

#[test]
fn update_and_delete_at_once_leave_nothing() {
    isolated(|t| against_delete(t, &["update", "--resources", "FILE", "c"], &[CREATE, START]));
}

/// Runs the life of one container in a thread that does not use `Test`. Returns the errors.
fn live(program: &Command, bundle: &Bundle, id: &str) -> Result<(), String> {
    let bundle = ["create", "--bundle", bundle.path(), id];
    let (start, state) = (["start", id], ["state", id]);
    for args in [&bundle[..], &start, &state, &["delete", "--force", id]] {
        let log = std::env::temp_dir().join(format!("corten-test.many.{}.{id}", std::process::id()));
        let mut command = Command::new(program.get_program());
        command.args(program.get_args()).args(args).stdin(Stdio::null()).stdout(Stdio::null());
        // The log is a file, because a container would keep a pipe open.
        let status = command.stderr(std::fs::File::create(&log).unwrap()).status();
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let _ = std::fs::remove_file(&log);
        if !status.as_ref().is_ok_and(std::process::ExitStatus::success) || !said.is_empty() {
            return Err(format!("{args:?}: {status:?} {said}"));
        }
    }
    Ok(())
}

/// Sixteen containers at a time do not disturb each other.
#[test]
fn sixteen_containers_at_once_do_not_disturb_each_other() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let (program, many) = (t.command(&[]), setting("CORTEN_MANY", 100) as usize);
        let before = traces(t);
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), String> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= many {
                    return Ok(());
                }
                live(&program, &bundle, &format!("c{number}"))?;
            }
        };
        let results: Vec<Result<(), String>> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..16).map(|_| scope.spawn(work)).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let wrong: Vec<String> = results.into_iter().filter_map(Result::err).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let before: Vec<String> =
            before.into_iter().chain([format!("state {}", t.state().display())]).collect();
        nothing_left(t, &before, "all deleted");
    });
}

/// `exec` sets the terminal up before the program can use it, and tells the program's error, however late it runs itself.
#[test]
fn the_program_of_exec_waits_for_the_terminal() {
    isolated(|t| {
        t.start(&t.bundle(|_| {}), "c");
        let late = |call: &str, program: &str| {
            let runtime = t.command(&["exec", "-t", "c", program, "x"]);
            let mut strace = Command::new("strace");
            strace.args([
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                call,
                "-e",
                &format!("inject={call}:delay_exit=200000"),
            ]);
            strace.arg("--").arg(runtime.get_program()).args(runtime.get_args());
            t.call(strace.stdin(Stdio::null()))
        };
        assert_eq!(late("clone3", "/bin/echo").ok(), "x\n");
        late("clone3", "/no/such").exits(255).fails("/no/such");
        t.delete("c");
    });
}
