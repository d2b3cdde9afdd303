//! `state --applied`: it compares everything that the configuration asks for with the kernel.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Output, Test, isolated};
use crate::namespaces::{give_rootfs, map_ids};

fn applied(t: &Test) -> (Output, Value) {
    let out = t.corten(&["state", "--applied", "--format", "json", "c1"]);
    let document = serde_json::from_str::<Value>(&out.stdout);
    let rows = document.unwrap_or_else(|e| panic!("{e}: {out:#?}"))["applied"].clone();
    (out, rows)
}

fn row<'a>(rows: &'a Value, place: &str) -> &'a Value {
    let found = rows.as_array().unwrap().iter().find(|row| row["place"] == place);
    found.unwrap_or_else(|| panic!("no row for {place}: {rows:#}"))
}

/// Every limit and attribute is read back from the kernel and equals the configuration.
#[test]
fn all_limits_and_attributes_are_applied() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["process"]["oomScoreAdj"] = json!(77);
            c["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7, 5], "umask": 23});
            c["process"]["capabilities"]["inheritable"] = json!(["CAP_KILL"]);
            c["process"]["capabilities"]["ambient"] = json!(["CAP_KILL"]);
            c["linux"]["resources"] = json!({"unified": {"cgroup.max.depth": "7"}, "pids": {"limit": -1}});
            c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        });
        t.create(&bundle, "c1");
        let (out, rows) = applied(t);
        out.ok();
        assert_eq!(row(&rows, "linux.namespaces.pid")["ok"], true);
        t.corten(&["start", "c1"]).ok();
        let (out, rows) = applied(t);
        out.ok();
        for (place, expected) in [
            ("linux.resources.unified[\"cgroup.max.depth\"]", json!("7")),
            ("linux.resources.devices", json!("a program")),
            ("process.user.uid", json!(1000)),
            ("process.user.gid", json!(1000)),
            ("process.user.additionalGids", json!([5, 7])),
            ("process.user.umask", json!(23)),
            ("process.capabilities.ambient", json!("CAP_KILL")),
            ("process.capabilities.effective", json!("CAP_KILL")),
            ("process.noNewPrivileges", json!(true)),
            ("linux.seccomp", json!(2)),
            ("process.rlimits[0] RLIMIT_NOFILE", json!({"soft": 1024, "hard": 1024})),
            ("process.oomScoreAdj", json!(77)),
        ] {
            let row = row(&rows, place);
            assert_eq!((&row["applied"], &row["ok"]), (&expected, &json!(true)), "{row}");
        }
        assert_eq!(row(&rows, "linux.namespaces.user")["ok"], true, "the host's, as asked");
        t.delete("c1");
    });
}

/// In a user namespace, ids are reported as the container sees them.
#[test]
fn applied_ids_are_the_containers() {
    isolated(|t| {
        let bundle = t.bundle(map_ids);
        give_rootfs(t, &bundle);
        t.start(&bundle, "c1");
        let (out, rows) = applied(t);
        out.ok();
        assert_eq!(row(&rows, "process.user.uid")["applied"], 0);
        assert_eq!(row(&rows, "linux.namespaces.user")["asked"], "its own");
        t.delete("c1");
    });
}

/// A difference is reported with its place, and is an error.
#[test]
fn a_difference_from_the_configuration_is_an_error() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["linux"]["resources"] = json!({"unified": {"cgroup.max.depth": "7"}});
            c["process"]["oomScoreAdj"] = json!(77);
        });
        let pid = t.start(&bundle, "c1");
        applied(t).0.ok();
        let same = t.corten(&["state", "--applied", "c1"]).ok();
        assert!(same.ends_with(" settings compared: all are applied as asked\n"), "{same}");
        fs::write("/sys/fs/cgroup/c1/cgroup.max.depth", "8").unwrap();
        let text = t.corten(&["state", "--applied", "c1"]).exits(1).stdout;
        let line = "linux.resources.unified[\"cgroup.max.depth\"]: asked 7, has 8 (cgroup.max.depth)\n";
        assert_eq!(text, line);
        let (out, rows) = applied(t);
        out.fails("not applied as asked: linux.resources.unified[\"cgroup.max.depth\"]").exits(1);
        let changed = row(&rows, "linux.resources.unified[\"cgroup.max.depth\"]");
        assert_eq!(
            (&changed["asked"], &changed["applied"], &changed["ok"]),
            (&json!("7"), &json!("8"), &json!(false))
        );
        fs::write(format!("/proc/{pid}/oom_score_adj"), "99").unwrap();
        applied(t).0.fails("process.oomScoreAdj");
        t.delete("c1");
    });
}

/// Limits and devices that `update` has changed are compared with the update.
#[test]
fn an_update_replaces_the_configuration() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c1");
        let file = t.dir.join("resources");
        let document = json!({
            "unified": {"cgroup.max.depth": "3"},
            "devices": [{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}],
        });
        fs::write(&file, document.to_string()).unwrap();
        t.corten(&["update", "-r", file.to_str().unwrap(), "c1"]).ok();
        let (out, rows) = applied(t);
        out.ok();
        assert_eq!(row(&rows, "linux.resources.unified[\"cgroup.max.depth\"]")["applied"], "3");
        assert_eq!(row(&rows, "linux.resources.devices")["ok"], true);
        t.delete("c1");
    });
}
