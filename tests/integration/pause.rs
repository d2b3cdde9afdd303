//! pause and resume, which runc and crun have in addition to the operations of the specification.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Test, isolated, poll, without_namespace};

/// Starts a container that counts in a file, also in a cgroup below its own.
fn counting(t: &Test) -> std::path::PathBuf {
    let bundle = t.bundle(|c| {
        c["process"]["args"] =
            json!(["/bin/sh", "-c", "n=0; while :; do n=$((n+1)); echo $n >/count; usleep 1000; done"]);
    });
    t.start(&bundle, "c1");
    bundle.rootfs().join("count")
}

fn moves(file: &std::path::Path, limit: Duration) -> bool {
    let read = || fs::read_to_string(file).unwrap_or_default();
    let before = read();
    poll(limit, || read() != before)
}

/// A paused container executes nothing, is paused in `state` and `list`, and continues where it stopped.
#[test]
fn a_paused_container_stands_still_and_goes_on() {
    isolated(|t| {
        let count = counting(t);
        let long = Duration::from_secs(10);
        assert!(moves(&count, long));
        t.corten(&["resume", "c1"]).fails("cannot resume a container that is running");
        t.corten(&["pause", "c1"]).ok();
        // The file system can complete a write that has begun, but no new one begins.
        moves(&count, Duration::from_millis(20));
        assert!(!moves(&count, Duration::from_millis(300)), "it goes on");
        assert_eq!(t.status("c1"), "paused");
        let list: Value = serde_json::from_str(&t.corten(&["list", "-f", "json"]).ok()).unwrap();
        assert_eq!(list[0]["status"], "paused");
        t.corten(&["pause", "c1"]).fails("cannot pause a container that is paused");
        t.corten(&["exec", "c1", "true"]).fails("paused").exits(255);
        t.corten(&["start", "c1"]).fails("cannot start a container that is paused");
        t.corten(&["delete", "c1"]).fails("cannot delete a container that is paused");
        t.corten(&["resume", "c1"]).ok();
        assert_eq!(t.status("c1"), "running");
        assert!(moves(&count, long));
        t.delete("c1");
    });
}

/// A paused container can be killed and deleted. A created one can be paused.
#[test]
fn a_paused_container_can_be_killed_and_deleted() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c1");
        t.corten(&["pause", "c1"]).ok();
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        for verb in ["pause", "resume"] {
            t.corten(&[verb, "c1"]).fails(&format!("cannot {verb} a container that is stopped"));
            t.corten(&[verb, "c9"]).fails("does not exist");
        }
        t.corten(&["delete", "c1"]).ok();

        t.start(&bundle, "c2");
        t.corten(&["pause", "c2"]).ok();
        t.delete("c2");

        t.create(&bundle, "c3");
        t.corten(&["pause", "c3"]).ok();
        t.corten(&["start", "c3"]).fails("paused");
        t.corten(&["resume", "c3"]).ok();
        assert_eq!(t.status("c3"), "created");
        t.corten(&["start", "c3"]).ok();
        t.corten(&["pause", "c3"]).ok();
        t.corten(&["kill", "--all", "c3", "KILL"]).ok();
        t.until("c3", "stopped");
        t.delete("c3");
    });
}

/// Processes in cgroups below the container's are paused, listed and killed with it.
#[test]
fn pause_ps_and_kill_reach_cgroups_below() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            without_namespace(c, "pid");
        });
        t.start(&bundle, "c1");
        let below = std::path::Path::new("/sys/fs/cgroup/c1/a/b");
        fs::create_dir_all(below).unwrap();
        let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(below.join("cgroup.procs"), sleep.id().to_string()).unwrap();
        let pids: Vec<u32> = serde_json::from_str(&t.corten(&["ps", "-f", "json", "c1"]).ok()).unwrap();
        assert!(pids.contains(&sleep.id()) && pids.len() == 2, "{pids:?}");
        t.corten(&["pause", "c1"]).ok();
        let frozen = fs::read_to_string(below.join("cgroup.events")).unwrap();
        assert!(frozen.contains("frozen 1"), "{frozen}");
        t.corten(&["resume", "c1"]).ok();
        t.corten(&["kill", "--all", "c1", "TERM"]).ok();
        sleep.wait().unwrap();
        t.delete("c1");
    });
}

/// A container without a cgroup cannot be frozen, which is an error.
#[test]
fn pause_without_a_cgroup_fails() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.corten(&["--cgroup-manager", "disabled", "create", "-b", bundle.path(), "c1"]).ok();
        t.corten(&["pause", "c1"]).fails("has no cgroup");
        t.delete("c1");
    });
}
