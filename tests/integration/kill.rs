//! `kill` before the program runs, and in a pid namespace that is not the container's own. The signals themselves
//! are tested in `lifecycle.rs`.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::harness::{isolated, poll, processes, without_namespace};

/// runtime.md#kill: a signal that ends a process by default ends the waiting process of a created container,
/// which as the first process of its pid namespace would ignore it (pid_namespaces(7)). An engine that stops
/// such a container would otherwise wait for its whole grace period.
#[test]
fn kill_ends_the_process_of_a_created_container() {
    isolated(|t| {
        for pid_namespace in [true, false] {
            let bundle = t.bundle(|config| {
                if !pid_namespace {
                    without_namespace(config, "pid");
                }
            });
            for args in [
                &["c1", "TERM"][..],
                &["c1", "HUP"],
                &["c1", "USR1"],
                &["c1", "RTMIN"],
                &["c1", "KILL"],
                &["--all", "c1", "INT"],
                &["--all", "c1", "KILL"],
            ] {
                t.create(&bundle, "c1");
                t.corten(&[&["kill"][..], args].concat()).ok();
                t.until("c1", "stopped");
                t.corten(&["start", "c1"]).fails("stopped");
                t.corten(&["delete", "c1"]).ok();
            }
            t.create(&bundle, "c1");
            for signal in ["0", "CHLD", "CONT", "URG", "WINCH"] {
                t.corten(&["kill", "c1", signal]).ok();
                t.corten(&["kill", "--all", "c1", signal]).ok();
            }
            assert_eq!(t.status("c1"), "created");
            t.corten(&["start", "c1"]).ok();
            t.delete("c1");
        }
    });
}

/// A signal between `start` and the program is not lost, even in front of a hook that takes long.
#[test]
fn kill_ends_a_container_that_is_being_started() {
    isolated(|t| {
        let bundle = t.bundle(|config| {
            config["hooks"] = json!({"startContainer": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]});
        });
        t.create(&bundle, "c");
        let start = t.spawn(t.command(&["start", "c"]).stdin(Stdio::null()));
        assert!(poll(Duration::from_secs(10), || processes().iter().any(|line| line.contains("sleep 1000"))));
        t.corten(&["kill", "c", "TERM"]).ok();
        start.wait().fails("was killed before its program ran");
        t.until("c", "stopped");
        t.corten(&["delete", "c"]).ok();
    });
}

/// runc: without a pid namespace of its own, SIGKILL ends all processes of the container. The first process is
/// not the first of its pid namespace, so the kernel does not end the others with it. They can also be killed
/// when it has ended already.
#[test]
fn kill_ends_all_processes_in_a_shared_pid_namespace() {
    isolated(|t| {
        let script = "setsid sleep 7001 & setsid sleep 7002 & exec sleep 7003";
        let args = json!(["/bin/sh", "-c", script]);
        let other = t.bundle(|_| {});
        let pid = t.start(&other, "other");
        let joined = json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")});
        let host = t.bundle(|config| {
            config["process"]["args"] = args.clone();
            without_namespace(config, "pid");
        });
        let joined = t.bundle(|config| {
            config["process"]["args"] = args.clone();
            without_namespace(config, "pid");
            config["linux"]["namespaces"].as_array_mut().unwrap().push(joined);
        });
        let sleeping = || processes().iter().filter(|line| line.contains("sleep 700")).count();
        for bundle in [&host, &joined] {
            t.start(bundle, "c1");
            assert!(poll(Duration::from_secs(10), || sleeping() == 3));
            t.corten(&["kill", "c1", "TERM"]).ok();
            t.until("c1", "stopped");
            assert_eq!(sleeping(), 2);
            t.corten(&["kill", "c1", "TERM"]).fails("container not running");
            assert_eq!(sleeping(), 2);
            t.corten(&["kill", "c1", "KILL"]).ok();
            assert!(poll(Duration::from_secs(10), || sleeping() == 0));
            // A process that is ending has no command line any more, and may still be in the cgroup.
            let kill = || t.corten(&["kill", "c1", "KILL"]);
            assert!(poll(Duration::from_secs(10), || kill().code != 0));
            kill().fails("container not running");
            t.delete("c1");

            t.start(bundle, "c1");
            assert!(poll(Duration::from_secs(10), || sleeping() == 3));
            t.corten(&["kill", "c1", "KILL"]).ok();
            assert!(poll(Duration::from_secs(10), || sleeping() == 0));
            t.until("c1", "stopped");
            t.delete("c1");
        }
        assert_eq!(t.status("other"), "running");
        t.delete("other");
    });
}
