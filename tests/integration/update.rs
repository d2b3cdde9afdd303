//! `update`: limits of a running container. This kind of host has few controllers in cgroup v2. The files of
//! the others have unit tests.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Output, Test, View, isolated, isolated_in, poll, skip};

const CGROUP: &str = "/sys/fs/cgroup/c1";

fn started(t: &Test, resources: Value) {
    let bundle = t.bundle(|c| {
        c["linux"]["cgroupsPath"] = json!("/c1");
        c["linux"]["resources"] = resources;
    });
    t.start(&bundle, "c1");
}

fn says(file: &str) -> String {
    fs::read_to_string(Path::new(CGROUP).join(file)).unwrap().trim().to_string()
}

/// Runs `update` with a document on standard input.
fn update(t: &Test, document: &str, more: &[&str]) -> Output {
    let file = t.dir.join("resources");
    fs::write(&file, document).unwrap();
    let mut command = t.command(&[&["update", "--resources", "-"], more, &["c1"]].concat());
    command.stdin(File::open(&file).unwrap());
    t.spawn(&mut command).wait()
}

fn kept(t: &Test) -> Value {
    let text = fs::read_to_string(t.state().join("c1/config.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["linux"]["resources"].clone()
}

/// containerd's and Podman's forms are sparse. A limit that is not named stays, in the kernel and in the kept
/// configuration.
#[test]
fn update_changes_only_the_limits_it_names() {
    isolated(|t| {
        started(t, json!({"unified": {"cgroup.max.depth": "7"}}));
        update(t, r#"{"unified":{"cgroup.max.descendants":"1"}}"#, &[]).ok();
        assert_eq!((says("cgroup.max.depth"), says("cgroup.max.descendants")), ("7".into(), "1".into()));
        // The effect is checked: the second cgroup below is refused.
        fs::create_dir(Path::new(CGROUP).join("one")).unwrap();
        assert!(fs::create_dir(Path::new(CGROUP).join("two")).is_err());
        let file = t.dir.join("my-resources");
        fs::write(&file, r#"{"unified":{"cgroup.max.descendants":"2"}}"#).unwrap();
        t.corten(&["update", &format!("--resources={}", file.display()), "c1"]).ok();
        fs::create_dir(Path::new(CGROUP).join("two")).unwrap();
        let expected = json!({"unified": {"cgroup.max.depth": "7", "cgroup.max.descendants": "2"}});
        assert_eq!(kept(t), expected);
        update(t, "{}", &[]).ok();
        t.corten(&["update", "c1"]).ok();
        assert_eq!(kept(t), expected);
        assert!(!t.state().join("c1/config.json.new").exists());
        t.delete("c1");
    });
}

/// Only a different value is written. --dry-run prints it and changes nothing.
#[test]
fn a_dry_run_prints_the_differences_and_writes_nothing() {
    isolated(|t| {
        started(t, json!({"unified": {"cgroup.max.depth": "7"}}));
        let document = r#"{"unified":{"cgroup.max.depth":"7","cgroup.max.descendants":"5"}}"#;
        assert_eq!(update(t, document, &["--dry-run"]).ok(), "cgroup.max.descendants: max -> 5\n");
        assert_eq!(says("cgroup.max.descendants"), "max");
        assert_eq!(kept(t), json!({"unified": {"cgroup.max.depth": "7"}}));
        t.delete("c1");
    });
}

/// A write that the kernel refuses undoes those before it. The error names the file and the value.
#[test]
fn a_failed_update_changes_nothing() {
    isolated(|t| {
        started(t, json!({}));
        let before = kept(t);
        let document = r#"{"unified":{"cgroup.max.depth":"3","cgroup.pressure":"bogus"}}"#;
        update(t, document, &[]).fails("unified[\"cgroup.pressure\"]: write(\"cgroup.pressure\", \"bogus\")");
        assert_eq!(says("cgroup.max.depth"), "max");
        assert_eq!(kept(t), before);
        t.delete("c1");
    });
}

/// Malformed input is one error with its place, and changes nothing.
#[test]
fn a_wrong_document_is_refused_with_its_place() {
    isolated(|t| {
        started(t, json!({}));
        for (document, place) in [
            ("", "resources: is empty"),
            ("[]", "an object"),
            ("{\"memory\":", "resources: line 1, column 10: ends before"),
            (r#"{"memory":{"limit":"1G"}}"#, "memory.limit: must be a whole number"),
            (r#"{"memory":{"limit":-7}}"#, "memory.limit: -7"),
            (r#"{"pids":{"limit":-2}}"#, "pids.limit: -2"),
            (r#"{"unified":{"cgroup.max.depth":"2","cgroup.kill":"1"}}"#, "unified[\"cgroup.kill\"]"),
            (r#"{"unified":{"cgroup.max.depth":"2","cgroup.nonsense":"1"}}"#, "has no file cgroup.nonsense"),
            (r#"{"devices":[{"allow":true}]}"#, "devices[0].access"),
            (
                r#"{"unified":{"cgroup.max.depth":"2","nonesuch.max":"1"}}"#,
                "cgroup controller `nonesuch` is not available",
            ),
        ] {
            for more in [&["--dry-run"][..], &[]] {
                update(t, document, more).fails(place);
            }
            assert_eq!(says("cgroup.max.depth"), "max", "{document}");
        }
        t.corten(&["update", "--resources", "/does/not/exist", "c1"]).fails("no such file");
        t.corten(&["update", "--l3-cache-schema", "L3:0=f", "c1"]).fails("intelRdt");
        t.corten(&["update", "c9"]).fails("does not exist");
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        update(t, "{}", &[]).fails("cannot update a container that is stopped");
        t.delete("c1");
    });
}

/// A new list of rules replaces the old one in the running container.
#[test]
fn update_replaces_the_device_rules() {
    isolated(|t| {
        if File::open("/dev/fuse").is_err() {
            skip("no /dev/fuse, a device that anyone may open and no runtime allows by default");
        }
        let bundle = t.bundle(|c| {
            c["linux"]["devices"] =
                json!([{"path": "/dev/my", "type": "c", "major": 10, "minor": 229, "fileMode": 438}]);
            c["linux"]["cgroupsPath"] = json!("/c1");
        });
        t.start(&bundle, "c1");
        let opens = || t.exec("c1", "(: </dev/my) 2>/dev/null").code == 0;
        assert!(!opens());
        let allow = r#"{"devices":[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#;
        assert!(update(t, allow, &["--dry-run"]).ok().contains("devices"));
        assert!(!opens());
        update(t, allow, &[]).ok();
        assert!(opens());
        update(t, r#"{"unified":{"cgroup.max.depth":"4"}}"#, &[]).ok();
        assert!(opens(), "rules that are not named stay");
        update(t, r#"{"devices":[{"allow":false}]}"#, &[]).ok();
        assert!(!opens());
        t.delete("c1");
    });
}

/// Engines repeat all resources of config.json, its device rules too. What a hook or an administrator has allowed
/// since stays allowed, as with runc, whose `update` leaves the rules alone.
#[test]
fn device_rules_that_are_repeated_are_left_alone() {
    isolated_in(View::V1, |t| {
        if File::open("/dev/fuse").is_err() {
            skip("no /dev/fuse, a device that anyone may open and no runtime allows by default");
        }
        let rules = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "access": "rwm"}]);
        let bundle = t.bundle(|c| {
            c["linux"]["devices"] =
                json!([{"path": "/dev/my", "type": "c", "major": 10, "minor": 229, "fileMode": 438}]);
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["linux"]["resources"] = json!({"devices": rules});
        });
        t.start(&bundle, "c1");
        let opens = || t.exec("c1", "(: </dev/my) 2>/dev/null").code == 0;
        assert!(!opens());
        fs::write("/sys/fs/cgroup/devices/c1/devices.allow", "c 10:229 rw").unwrap();
        assert!(opens());
        update(t, &json!({"devices": rules, "pids": {"limit": 50}}).to_string(), &[]).ok();
        assert_eq!(fs::read_to_string("/sys/fs/cgroup/pids/c1/pids.max").unwrap(), "50\n");
        assert!(opens(), "the rules are written again");
        t.delete("c1");
    });
}

/// As in runc, options for single limits are ignored beside a document. corten warns of it.
#[test]
fn options_beside_a_document_are_ignored_with_a_warning() {
    isolated(|t| {
        started(t, json!({}));
        let out = update(t, r#"{"unified":{"cgroup.max.depth":"4"}}"#, &["--memory", "5M"]);
        assert!(out.code == 0 && out.stderr.contains("ignoring"), "{out:?}");
        assert_eq!(says("cgroup.max.depth"), "4");
        t.delete("c1");
    });
}

/// config-linux.md#memory, checkBeforeUpdate: a limit below the memory in use is refused and changes nothing.
/// With v2 corten compares them, with v1 the kernel does.
#[test]
fn check_before_update_refuses_a_limit_below_the_memory_in_use() {
    isolated(|t| {
        let offered = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
        if !offered.split_whitespace().any(|name| name == "memory") {
            skip("no memory controller on the cgroup v2 hierarchy");
        }
        checked_limit(t, &format!("{CGROUP}/memory.max"));
    });
}

/// The same limit on v1.
#[test]
fn v1_refuses_a_limit_below_the_memory_in_use() {
    isolated_in(View::V1, |t| checked_limit(t, "/sys/fs/cgroup/memory/c1/memory.limit_in_bytes"));
}

fn checked_limit(t: &Test, file: &str) {
    let bundle = t.bundle(|c| {
        c["linux"]["cgroupsPath"] = json!("/c1");
        c["linux"]["resources"] = json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}});
        let script = "head -c 16777216 /dev/zero >/dev/shm/x; exec sleep 1000";
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
    });
    t.start(&bundle, "c1");
    let shell = || t.exec("c1", "stat -c %s /dev/shm/x 2>/dev/null").stdout == "16777216\n";
    assert!(poll(Duration::from_secs(10), shell));
    let limit =
        |mib: u64| format!(r#"{{"memory":{{"limit":{0},"swap":{0},"checkBeforeUpdate":true}}}}"#, mib << 20);
    update(t, &limit(4), &[]).fails("memory.limit");
    assert_eq!(fs::read_to_string(file).unwrap().trim(), (64 << 20).to_string());
    update(t, &limit(32), &[]).ok();
    assert_eq!(fs::read_to_string(file).unwrap().trim(), (32 << 20).to_string());
    assert_eq!(t.status("c1"), "running");
    t.delete("c1");
}
