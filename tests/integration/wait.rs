//! Why a container stopped: `wait`, and what `state`, `list` and the last line of `run` show of its end.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Bundle, Output, Running, Test, View, isolated, isolated_in, linux_since, poll, reap, skip, with_systemd,
};
use crate::systemd::{CGROUP, gone, path, systemctl, unit};

/// Makes a bundle that runs a shell script.
fn script(t: &Test, script: &str) -> Bundle {
    t.bundle(|config| config["process"]["args"] = json!(["/bin/sh", "-c", script]))
}

/// The calls in which `wait` waits. Newer architectures have no poll(2).
#[cfg(target_arch = "x86_64")]
const POLLS: &[libc::c_long] = &[libc::SYS_poll, libc::SYS_ppoll];
#[cfg(not(target_arch = "x86_64"))]
const POLLS: &[libc::c_long] = &[libc::SYS_ppoll];

/// Starts `wait`, and returns when it waits.
fn waiting(t: &Test, id: &str) -> Running {
    let running = t.spawn(t.command(&["wait", id]).stdin(Stdio::null()));
    let syscall = format!("/proc/{}/syscall", running.child.id());
    let polls = || {
        let text = fs::read_to_string(&syscall).unwrap_or_default();
        POLLS.iter().any(|call| text.starts_with(&format!("{call} ")))
    };
    assert!(poll(Duration::from_secs(10), polls), "wait does not wait");
    running
}

fn exit(t: &Test, id: &str) -> Value {
    t.document(id)["exit"].clone()
}

/// `wait` ends with the program's status, while the process is a zombie that nobody has reaped. This works on
/// every kernel.
#[test]
fn wait_ends_with_the_status_of_the_program() {
    isolated(|t| {
        for (number, (ends, code)) in
            [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)].into_iter().enumerate()
        {
            let id = format!("c{number}");
            t.create(&script(t, ends), &id);
            // It waits for the end of a container that is created, too.
            let waits = waiting(t, &id);
            t.corten(&["start", &id]).ok();
            waits.wait().exits(code);
            t.corten(&["wait", &id]).exits(code);
            assert_eq!(exit(t, &id)["status"], code);
            t.delete(&id);
        }
        t.start(&script(t, "sleep 1000"), "c");
        let waits = [waiting(t, "c"), waiting(t, "c")];
        t.corten(&["kill", "c", "KILL"]).ok();
        for wait in waits {
            let out = wait.wait().exits(137);
            assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("", ""));
        }
        assert_eq!((&exit(t, "c")["status"], &exit(t, "c")["signal"]), (&json!(137), &json!("SIGKILL")));
        t.delete("c");
        t.corten(&["wait", "c"]).fails("container \"c\" does not exist").exits(255);
    });
}

/// A parent that reaps its children at once, as engines do, leaves no zombie. The descriptor that `wait`
/// holds still returns the status, since Linux 6.15. On older kernels `wait` reports that the status is not
/// known.
#[test]
fn wait_knows_the_status_after_the_parent_has_reaped() {
    isolated(|t| {
        let bundle = script(t, "read line < /my-fifo; exit 9");
        nix::unistd::mkfifo(&bundle.rootfs().join("my-fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        // `run` reaps the container's process, and keeps nothing of it if it is killed afterwards. Therefore
        // a subreaper of ours starts the container: a shell whose children are all reaped.
        t.start(&bundle, "c");
        let waits = waiting(t, "c");
        let pid = t.pid("c");
        // Stopped, `wait` cannot look at the zombie before it is reaped.
        let stop = |signal: &str| {
            t.call(Command::new("kill").args([signal, &waits.child.id().to_string()])).ok();
        };
        stop("-STOP");
        fs::write(bundle.rootfs().join("my-fifo"), "go\n").unwrap();
        assert!(poll(Duration::from_secs(10), || {
            nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).is_ok()
        }));
        stop("-CONT");
        if linux_since(6, 15) {
            waits.wait().exits(9);
            // `wait` has recorded it.
            assert_eq!(exit(t, "c")["status"], 9);
            assert!(exit(t, "c")["time"].as_str().is_some_and(|time| time.ends_with('Z')));
            t.corten(&["wait", "c"]).exits(9);
        } else {
            waits.wait().fails("its exit status is not known").exits(255);
        }
        t.delete("c");
    });
}

/// The end of a container that was reaped before anybody asked is not known, which is an error and no
/// success.
#[test]
fn an_end_that_nobody_has_seen_is_not_known() {
    isolated(|t| {
        t.start(&script(t, "exit 0"), "c");
        t.until("c", "stopped");
        assert!(poll(Duration::from_secs(10), || {
            reap();
            t.document("c").get("exit").is_none()
        }));
        t.corten(&["wait", "c"]).fails("its exit status is not known: it had stopped before").exits(255);
        t.delete("c");
    });
}

/// A signal ends the wait, and not the container.
#[test]
fn a_signal_ends_wait_and_not_the_container() {
    isolated(|t| {
        t.start(&script(t, "sleep 1000"), "c");
        let waits = waiting(t, "c");
        // SIGINT is ignored in what a shell runs in the background, and so in a test there.
        t.call(Command::new("kill").args(["-TERM", &waits.child.id().to_string()])).ok();
        waits.wait().exits(143);
        assert_eq!(t.status("c"), "running");
        t.delete("c");
    });
}

/// A container whose `create` is interrupted has no end to wait for.
#[test]
fn wait_refuses_a_container_that_was_never_finished() {
    isolated(|t| {
        t.start(&script(t, "sleep 1000"), "c");
        fs::create_dir(t.state().join("d")).unwrap();
        t.corten(&["wait", "d"]).fails("never finished").exits(255);
        fs::remove_dir(t.state().join("d")).unwrap();
        t.delete("c");
    });
}

/// `run --keep` records how the container ended: `state`, `list` and `wait` show it.
#[test]
fn run_with_keep_records_the_end() {
    isolated(|t| {
        for (ends, code, signal) in [
            ("exit 0", 0, None),
            ("exit 7", 7, None),
            ("kill -TERM $$", 143, Some("SIGTERM")),
            ("kill -35 $$", 163, Some("35")),
        ] {
            let bundle = script(t, ends);
            bundle.edit(|config| crate::harness::without_namespace(config, "pid"));
            let out = t.corten(&["run", "--keep", "-b", bundle.path(), "r"]).exits(code);
            assert_eq!(out.stderr, "");
            let document = t.document("r");
            let end = &document["exit"];
            assert_eq!((&document["status"], &end["status"]), (&json!("stopped"), &json!(code)));
            assert_eq!(end.get("signal").and_then(Value::as_str), signal);
            assert!(end["time"].as_str() > document["created"].as_str(), "{document:#}");
            let list: Value = serde_json::from_str(&t.corten(&["list", "--format", "json"]).ok()).unwrap();
            assert_eq!(&list[0]["exit"], end);
            t.corten(&["wait", "r"]).exits(code);
            t.corten(&["delete", "r"]).ok();
        }
    });
}

/// Nothing is shown of the end of a container that has not ended, and the table of `list` has runc's columns.
#[test]
fn a_container_that_runs_has_no_end() {
    isolated(|t| {
        t.start(&script(t, "sleep 1000"), "c");
        assert!(t.document("c").get("exit").is_none());
        t.corten(&["kill", "c", "KILL"]).ok();
        t.until("c", "stopped");
        let table = t.corten(&["list"]).ok();
        assert!(table.starts_with("ID          PID         STATUS      BUNDLE"), "{table}");
        assert!(!table.contains("137"), "{table}");
        t.delete("c");
    });
}

const LIMIT: u64 = 8 << 20;

/// Makes a bundle whose script runs with a limit of 8 MiB.
fn limited(t: &Test, ends: &str) -> Bundle {
    t.bundle(|config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", ends]);
        config["linux"]["resources"] = json!({"memory": {"limit": LIMIT, "swap": LIMIT}});
    })
}

const EATS: &str = "tail /dev/zero";

/// What `run` and `wait` say of a program that was killed for want of memory.
const KILLED: &str = "killed: out of memory";

/// The last line of `run` says that the kernel has killed the program for want of memory.
#[test]
fn run_reports_that_memory_ran_out() {
    isolated_in(View::V2, |t| {
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
        if !controllers.split_whitespace().any(|name| name == "memory") {
            skip("no memory controller on cgroup v2");
        }
        memory_runs_out(t, linux_since(5, 19));
        below(t);
    });
}

/// The container itself makes a cgroup with a limit, which is not the limit of the configuration.
fn below(t: &Test) {
    let bundle = limited(
        t,
        &format!(
            "cd /sys/fs/cgroup; mkdir a b; echo $$ > b/cgroup.procs; echo +memory > cgroup.subtree_control; \
             echo 4M > a/memory.max; sh -c 'echo $$ > a/cgroup.procs; exec {EATS}'; exit $?"
        ),
    );
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        if !namespaces.contains(&json!({"type": "cgroup"})) {
            namespaces.push(json!({"type": "cgroup"}));
        }
        for mount in config["mounts"].as_array_mut().unwrap() {
            if mount["type"] == "cgroup" {
                mount["options"] = json!([]);
            }
        }
    });
    let out = t.run_bundle(&bundle).exits(137);
    assert!(out.stderr.contains("the container: out of memory in a cgroup below (limit 8 MiB"), "{out:#?}");
}

/// The same on v1.
#[test]
fn run_reports_that_memory_ran_out_on_v1() {
    isolated_in(View::V1, |t| memory_runs_out(t, true));
}

/// `peak` says whether the kernel reports the most memory that was in use.
fn memory_runs_out(t: &Test, peak: bool) {
    let last = |text: &str| text.lines().last().unwrap_or_default().to_string();
    let peak = if peak { ", peak 8 MiB" } else { "" };
    let killed = format!("error: run r: {KILLED} (limit 8 MiB{peak})");
    let direct = limited(t, &format!("exec {EATS}"));
    let out = t.run_bundle(&direct).exits(137);
    assert_eq!(last(&out.stderr), killed);
    let log = t.dir.join("log.json");
    let log = log.to_str().unwrap();
    let out = t.corten(&["--log", log, "--log-format", "json", "run", "-b", direct.path(), "r"]).exits(137);
    assert_eq!(last(&out.stderr), killed);
    let record: Value = serde_json::from_str(&last(&fs::read_to_string(log).unwrap())).unwrap();
    assert_eq!(record["level"], "error");
    // The shell goes on after the end of its child.
    let out = t.run_bundle(&limited(t, &format!("{EATS}; exit 3"))).exits(3);
    assert!(!out.stderr.contains("memory"), "{out:#?}");
    let out = t.run_bundle(&limited(t, &format!("{EATS}; exit $?"))).exits(137);
    let text =
        "run r: the program ended with status 137, and the kernel has killed a process of the container";
    assert!(last(&out.stderr).contains(text), "{out:#?}");
    // SIGKILL alone has not to do with memory.
    let bundle = limited(t, "kill -KILL $$");
    bundle.edit(|config| crate::harness::without_namespace(config, "pid"));
    assert_eq!(t.run_bundle(&bundle).exits(137).stderr, "");
    kept_and_detached(t, &direct);
    reused_cgroup(t);
}

fn kept_and_detached(t: &Test, direct: &Bundle) {
    let shown = |end: &Value| {
        let peak = end.get("memoryPeak").and_then(Value::as_u64);
        assert!(peak.is_none_or(|peak| peak > LIMIT / 2 && peak <= LIMIT), "{end}");
        let mut end = end.clone();
        for name in ["memoryPeak", "time"] {
            end.as_object_mut().unwrap().remove(name);
        }
        end
    };
    let expected =
        json!({"status": 137, "signal": "SIGKILL", "oomKilled": true, "oomKills": 1, "memoryLimit": LIMIT});
    t.corten(&["run", "--keep", "-b", direct.path(), "r"]).exits(137);
    assert_eq!(shown(&exit(t, "r")), expected);
    t.corten(&["wait", "r"]).fails(&format!("wait r: {KILLED} (limit 8 MiB")).exits(137);
    t.delete("r");
    t.create(direct, "c");
    let waits = waiting(t, "c");
    t.corten(&["start", "c"]).ok();
    waits.wait().fails(&format!("wait c: {KILLED} (limit 8 MiB")).exits(137);
    t.delete("c");
    // Without a wait, and after the parent has reaped the process, the cgroup still knows that memory ran
    // out.
    let pid = t.start(direct, "c");
    assert!(poll(Duration::from_secs(10), || {
        reap();
        !Path::new(&format!("/proc/{pid}")).exists()
    }));
    assert_eq!(shown(&exit(t, "c")), json!({"oomKills": 1, "memoryLimit": LIMIT}));
    // After a reboot another cgroup can be at the path, even with the same inode number.
    let state = t.state().join("c/state.json");
    let text = fs::read_to_string(&state).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    record["bootId"] = json!("another");
    fs::write(&state, record.to_string()).unwrap();
    assert!(t.document("c").get("exit").is_none());
    fs::write(&state, text).unwrap();
    t.delete("c");
}

/// systemd removes an empty scope, and the counts with it, at any moment after the end of its last process. `run` and `wait`
/// have usually read them by then. Otherwise they take the slice's count, and say so.
#[test]
fn run_and_wait_report_that_memory_ran_out_in_a_scope() {
    with_systemd("run_and_wait_report_that_memory_ran_out_in_a_scope", |t| {
        let unit = unit("memory");
        let in_scope = |script: &str| {
            let bundle = limited(t, script);
            bundle.edit(|config| config["linux"]["cgroupsPath"] = path("", "memory"));
            bundle
        };
        let bundle = in_scope(&format!("exec {EATS}"));
        for _ in 0..5 {
            let out = t.corten(&["--systemd-cgroup", "run", "-b", bundle.path(), "memory"]).exits(137);
            says_that_memory_ran_out(&out);
        }
        let killed = |end: &Value| (&end["oomKilled"], &end["memoryLimit"]) == (&json!(true), &json!(LIMIT));
        t.corten(&["--systemd-cgroup", "run", "--keep", "-b", bundle.path(), "memory"]).exits(137);
        let end = t.document("memory")["exit"].clone();
        assert!(killed(&end) && end["signal"] == "SIGKILL", "{end}");
        t.corten(&["delete", "memory"]).ok();
        // systemd reaps the process at once.
        if linux_since(6, 15) {
            t.corten(&["--systemd-cgroup", "create", "-b", bundle.path(), "memory"]).ok();
            let waits = waiting(t, "memory");
            t.corten(&["start", "memory"]).ok();
            says_that_memory_ran_out(&waits.wait().exits(137));
            t.corten(&["delete", "memory"]).ok();
        }
        let cgroup = Path::new(CGROUP).join("system.slice").join(&unit);
        // `run` is stopped until systemd has removed the cgroup.
        let waits = in_scope(&format!("read line < /my-fifo; exec {EATS}"));
        nix::unistd::mkfifo(&waits.rootfs().join("my-fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let run = t.spawn(&mut t.command(&["--systemd-cgroup", "run", "-b", waits.path(), "memory"]));
        // This returns when the program has opened the other end.
        let mut fifo = fs::File::options().write(true).open(waits.rootfs().join("my-fifo")).unwrap();
        let signal = |name: &str| t.call(Command::new("kill").args([name, &run.child.id().to_string()])).ok();
        signal("-STOP");
        fifo.write_all(b"go\n").unwrap();
        assert!(poll(Duration::from_secs(20), || !cgroup.exists()));
        signal("-CONT");
        let out = run.wait().exits(137);
        assert!(
            out.stderr.contains("of the container or of another one in its slice: out of memory"),
            "{out:#?}"
        );
        assert!(poll(Duration::from_secs(20), || gone(&unit, &cgroup)), "{}", systemctl(&["status", &unit]));
    });
}

fn says_that_memory_ran_out(out: &Output) {
    let last = out.stderr.lines().last().unwrap_or_default();
    let in_slice = "killed by signal KILL, and the kernel has killed a process of the container or of another one in its \
                    slice: out of memory";
    let said = |text: &str| last.contains(&format!(" memory: {text} (limit 8 MiB"));
    assert!(said(KILLED) || said(in_slice), "{out:#?}");
}

/// A kill that the kernel has counted in the cgroup before the container was created is not the container's.
fn reused_cgroup(t: &Test) {
    let place = |bundle: &Bundle| bundle.edit(|config| config["linux"]["cgroupsPath"] = json!("/reused"));
    let (eats, dies) = (limited(t, &format!("exec {EATS}")), limited(t, "kill -KILL $$"));
    place(&eats);
    place(&dies);
    dies.edit(|config| crate::harness::without_namespace(config, "pid"));
    t.corten(&["run", "--keep", "-b", eats.path(), "first"]).exits(137);
    assert_eq!(t.corten(&["run", "--keep", "-b", dies.path(), "second"]).exits(137).stderr, "");
    assert_eq!(exit(t, "second").get("oomKilled"), None);
    t.delete("second");
    t.delete("first");
}

/// The last line of `run` names the command that explains a seccomp profile after SIGSYS, with the bundle if
/// the profile is in its config.json.
#[test]
fn run_explains_an_end_by_sigsys() {
    isolated(|t| {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]});
        let with = |args: Value| {
            t.bundle(|config| {
                config["process"]["args"] = args;
                config["linux"]["seccomp"] = profile;
            })
        };
        let bundle = with(json!(["/bin/mkdir", "/d"]));
        let out = t.run_bundle(&bundle).exits(159);
        let text = format!(
            "error: run r: killed by signal SYS, as by a seccomp profile that forbids a system call (hint: corten \
             seccomp explain --bundle {})\n",
            bundle.path()
        );
        assert_eq!(out.stderr, text);
        // The hint holds: it names what kills.
        let explained = t.corten(&["seccomp", "explain", "--bundle", bundle.path(), "mkdir"]).ok();
        assert!(explained.contains("KILL") || explained.contains("kill"), "{explained}");
        let config = bundle.dir.join("config.json");
        let out =
            t.corten(&["run", "-b", bundle.path(), "--config", config.to_str().unwrap(), "r"]).exits(159);
        assert!(out.stderr.ends_with("(hint: corten seccomp explain PROFILE)\n"), "{out:#?}");
        bundle.edit(|config| config["process"]["args"] = json!(["/bin/sh", "-c", "mkdir /d; exit $?"]));
        let out = t.run_bundle(&bundle).exits(159);
        assert!(
            out.stderr.contains("the program ended with status 159, as a shell does after signal SYS"),
            "{out:#?}"
        );
        let plain = t.run("exit 159", |_| {}).exits(159);
        assert_eq!(plain.stderr, "");
        t.create(&bundle, "c");
        let waits = waiting(t, "c");
        t.corten(&["start", "c"]).ok();
        waits.wait().fails(&format!("corten seccomp explain --bundle {}", bundle.path())).exits(159);
        t.delete("c");
    });
}
