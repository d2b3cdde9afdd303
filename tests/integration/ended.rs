//! How a container has ended: `wait`, what `state` and `list` show of it, and the last line of `run`.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Bundle, Test, View, isolated, isolated_in, linux_since, poll, reap, skip};

/// A container that ends with status 7 once there is a file /go.
fn waiting(t: &Test) -> Bundle {
    t.bundle(|c| {
        let script = "until test -e /go; do sleep 0.05; done; exit 7";
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
    })
}

fn go(bundle: &Bundle) {
    fs::write(bundle.rootfs().join("go"), "").unwrap();
}

/// `wait` ends when the container stops, with its exit status, as long as its parent has not reaped it.
#[test]
fn wait_ends_with_the_exit_status() {
    isolated(|t| {
        let bundle = waiting(t);
        t.start(&bundle, "c1");
        let mut command = t.command(&["wait", "c1"]);
        let running = t.spawn(&mut command);
        assert_eq!(t.status("c1"), "running");
        go(&bundle);
        running.wait().exits(7);
        // It has stopped by now.
        t.corten(&["wait", "c1"]).exits(7);
        assert_eq!(t.document("c1")["exit"], json!({"status": 7}));
        reap();
        t.corten(&["wait", "c1"]).fails("the container has stopped, and only its parent knows the status");
        assert_eq!(t.document("c1")["exit"], Value::Null);
        t.delete("c1");
        t.corten(&["wait", "c1"]).fails("container \"c1\" does not exist");
    });
}

/// A signal is 128 more than its number. A created container is waited for too.
#[test]
fn wait_reports_a_signal() {
    isolated(|t| {
        let bundle = waiting(t);
        t.create(&bundle, "c1");
        let mut command = t.command(&["wait", "c1"]);
        let running = t.spawn(&mut command);
        t.corten(&["start", "c1"]).ok();
        t.corten(&["kill", "c1", "KILL"]).ok();
        running.wait().exits(137);
        assert_eq!(t.document("c1")["exit"], json!({"status": 137, "signal": "SIGKILL"}));
        t.delete("c1");
    });
}

/// PIDFD_GET_INFO: the kernel keeps the exit status for a `wait` that began before the end, although the parent has reaped
/// the process at once and removed the container.
#[test]
fn wait_knows_the_status_of_a_process_that_was_reaped() {
    isolated(|t| {
        if !linux_since(6, 15) {
            skip("Linux is older than 6.15");
        }
        let bundle = waiting(t);
        let mut command = t.command(&["run", "--bundle", bundle.path(), "c1"]);
        let foreground = t.spawn(&mut command);
        let runs = || t.corten(&["state", "c1"]).stdout.contains("\"status\": \"running\"");
        assert!(poll(Duration::from_secs(10), runs));
        let mut command = t.command(&["wait", "c1"]);
        let running = t.spawn(&mut command);
        let pid = running.child.id();
        let waits = || fs::read_link(format!("/proc/{pid}/fd/5")).is_ok() && state_of(pid) == 'S';
        assert!(poll(Duration::from_secs(10), waits));
        go(&bundle);
        foreground.wait().exits(7);
        running.wait().exits(7);
    });
}

fn state_of(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

/// The runtime that has waited puts the end on the record of a container that it keeps.
#[test]
fn a_kept_container_has_its_end_on_record() {
    isolated(|t| {
        let bundle = waiting(t);
        go(&bundle);
        t.corten(&["run", "--keep", "--bundle", bundle.path(), "c1"]).exits(7);
        let check = |document: &Value| {
            assert_eq!((&document["status"], &document["exit"]["status"]), (&json!("stopped"), &json!(7)));
            assert!(document["exit"]["time"].as_str().unwrap().starts_with("20"), "{document}");
            assert_eq!(document["exit"].as_object().unwrap().len(), 2);
        };
        check(&t.document("c1"));
        let list: Value = serde_json::from_str(&t.corten(&["list", "--format", "json"]).ok()).unwrap();
        check(&list[0]);
        t.corten(&["wait", "c1"]).exits(7);
        t.delete("c1");
    });
}

/// Instead of a bare 137, `run` says that memory ran out, with v1 and v2.
#[test]
fn run_says_that_memory_ran_out() {
    isolated(|t| {
        let offered = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
        if !offered.split_whitespace().any(|name| name == "memory") {
            skip("no memory controller on cgroup v2");
        }
        memory_runs_out(t, linux_since(5, 19));
    });
}

#[test]
fn run_says_that_memory_ran_out_on_v1() {
    isolated_in(View::V1, |t| memory_runs_out(t, true));
}

fn memory_runs_out(t: &Test, has_peak: bool) {
    let bundle = t.bundle(|c| {
        c["linux"]["cgroupsPath"] = json!("/c1");
        c["linux"]["resources"] = json!({"memory": {"limit": 24 << 20, "swap": 24 << 20}});
    });
    for (script, code, first) in [
        ("exec tail -n 1 /dev/zero", 137, "killed: "),
        ("tail -n 1 /dev/zero; exit 3", 3, "a process of the container was killed: "),
    ] {
        bundle.edit(|c| c["process"]["args"] = json!(["/bin/sh", "-c", script]));
        let out = t.corten(&["run", "--keep", "--bundle", bundle.path(), "c1"]).exits(code);
        let line = out.stderr.lines().last().unwrap_or_default();
        let expected = format!("warning: run c1: {first}out of memory (limit 24 MiB");
        let peak = if has_peak { ", peak 24 MiB)" } else { ")" };
        assert_eq!(line, format!("{expected}{peak}"));
        let memory = &t.document("c1")["exit"]["outOfMemory"];
        assert_eq!((&memory["kills"], &memory["limit"]), (&json!(1), &json!(24 << 20)), "{memory}");
        t.delete("c1");
    }
    // Of a container that nobody waits for, the cgroup still shows it.
    t.start(&bundle, "c1");
    t.until("c1", "stopped");
    reap();
    let exit = &t.document("c1")["exit"];
    assert_eq!((&exit["outOfMemory"]["kills"], &exit["status"]), (&json!(1), &Value::Null), "{exit}");
    t.delete("c1");
    // A container that ends well is not explained.
    bundle.edit(|c| c["process"]["args"] = json!(["/bin/sh", "-c", "tail -n 1 /dev/zero; exit 0"]));
    t.run_bundle(&bundle).exits(0);
}

/// A program that its seccomp profile has killed.
#[test]
fn run_says_that_the_seccomp_profile_has_killed_the_program() {
    isolated(|t| {
        let out = t.run("exec chmod 600 /bin/sh", |c| {
            c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_KILL_PROCESS"}]});
        });
        let expected = "killed: its seccomp profile forbids a system call (hint: corten seccomp explain";
        assert!(out.code == 128 + 31 && out.stderr.contains(expected), "{out:?}");
    });
}
