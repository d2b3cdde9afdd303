//! `linux.cgroupsPath` and the cgroup's life. What limits become is tested beside the planner.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::{directories, isolated, skip, without_namespace};
use crate::namespaces::{give_rootfs, map_ids};

const CGROUP: &str = "/sys/fs/cgroup";

fn cgroup_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_string()
}

/// config-linux.md#cgroups-path: an absolute path is below the mount point; the container is in it from the start.
#[test]
fn the_path_is_taken() {
    isolated(|t| {
        for path in ["/my/deep/c1", "/c1"] {
            let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!(path));
            let pid = t.start(&bundle, "c1");
            assert_eq!(cgroup_of(pid), path);
            t.delete("c1");
            assert!(!Path::new(CGROUP).join(&path[1..]).exists());
            let _ = fs::remove_dir(Path::new(CGROUP).join("my/deep"));
            let _ = fs::remove_dir(Path::new(CGROUP).join("my"));
        }
        for path in ["/../outside", "/a/../../b", "/a\u{0}b"] {
            let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!(path));
            t.corten(&["create", "-b", bundle.path(), "c1"]).fails("linux.cgroupsPath");
        }
    });
}

/// cgroup_namespaces(7): the container's own cgroup is its root, in /proc and in its mount.
#[test]
fn the_namespace_is_rooted_at_the_cgroup() {
    isolated(|t| {
        let script = "cat /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs; touch /sys/fs/cgroup/x 2>&1 | grep -o Read-only";
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["process"]["args"] = json!(["/bin/sh", "-c", script]);
        });
        let out = t.run_bundle(&bundle).ok();
        let lines: Vec<_> = out.lines().collect();
        assert!(lines.contains(&"0::/") && lines.contains(&"1") && lines.contains(&"Read-only"), "{out}");
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["process"]["args"] = json!(["cat", "/proc/self/cgroup"]);
            without_namespace(c, "cgroup");
        });
        assert!(t.run_bundle(&bundle).ok().contains("0::/c1\n"));
    });
}

/// cgroups(7), delegation: in a user namespace the container's root may make cgroups below its own, if the hierarchy is
/// mounted for writing, and never change its own limits.
#[test]
fn a_user_namespaces_root_has_its_cgroup() {
    isolated(|t| {
        for (options, expected) in [(json!([]), "made\n"), (json!(["ro"]), "not made\n")] {
            let script = "mkdir /sys/fs/cgroup/sub 2>/dev/null && echo made || echo not made; \
                          (echo 5 > /sys/fs/cgroup/cgroup.max.depth) 2>/dev/null && echo a limit";
            let bundle = t.bundle(|c| {
                map_ids(c);
                for mount in c["mounts"].as_array_mut().unwrap() {
                    if mount["type"] == "cgroup" {
                        mount["options"] = options.clone();
                    }
                }
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            give_rootfs(t, &bundle);
            assert_eq!(t.run_bundle(&bundle).stdout, expected, "{options}");
        }
    });
}

/// A limit whose controller is not there is refused, never ignored.
#[test]
fn a_missing_controller_is_an_error() {
    isolated(|t| {
        let there = fs::read_to_string(Path::new(CGROUP).join("cgroup.controllers")).unwrap();
        for (controller, resources) in [
            ("memory", json!({"memory": {"limit": 67108864}})),
            ("pids", json!({"pids": {"limit": 100}})),
            ("cpu", json!({"cpu": {"shares": 512}})),
            ("cpuset", json!({"cpu": {"cpus": "0"}})),
            ("io", json!({"blockIO": {"weight": 100}})),
            ("rdma", json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}})),
        ] {
            if there.split_whitespace().any(|name| name == controller) {
                continue;
            }
            let bundle = t.bundle(|c| c["linux"]["resources"] = resources);
            t.corten(&["create", "-b", bundle.path(), "c1"]).fails("linux.resources");
        }
    });
}

/// config-linux.md#device-whitelist: a device that is not allowed cannot be opened.
#[test]
fn devices_are_allowed_one_by_one() {
    isolated(|t| {
        let script = "head -c1 /dev/zero >/dev/null && echo zero; (: </dev/my) 2>/dev/null && echo mine";
        if fs::File::open("/dev/fuse").is_err() {
            skip("no /dev/fuse, a device that anyone may open and no runtime allows by default");
        }
        for (rules, expected) in [
            (json!([{"allow": false, "access": "rwm"}]), "zero\n"),
            (
                json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]),
                "zero\nmine\n",
            ),
        ] {
            let out = t.run(script, |c| {
                c["linux"]["devices"] =
                    json!([{"path": "/dev/my", "type": "c", "major": 10, "minor": 229, "fileMode": 438}]);
                c["linux"]["resources"] = json!({"devices": rules});
            });
            assert_eq!(out.stdout, expected, "{rules}");
        }
    });
}

/// `delete` removes what the container has made below its cgroup, with the processes in it.
#[test]
fn delete_takes_the_cgroups_below_along() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            without_namespace(c, "pid");
        });
        t.start(&bundle, "c1");
        let below = Path::new(CGROUP).join("c1/a/b");
        fs::create_dir_all(&below).unwrap();
        let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(below.join("cgroup.procs"), sleep.id().to_string()).unwrap();
        t.delete("c1");
        assert!(!Path::new(CGROUP).join("c1").exists());
        sleep.wait().unwrap();
    });
}

/// runtime.md#create: a cgroup that other processes live in is not fit; nothing of theirs is touched.
#[test]
fn a_cgroup_in_use_is_refused() {
    isolated(|t| {
        let taken = Path::new(CGROUP).join("taken");
        fs::create_dir(&taken).unwrap();
        let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(taken.join("cgroup.procs"), sleep.id().to_string()).unwrap();
        let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/taken"));
        t.corten(&["create", "-b", bundle.path(), "c1"]).fails("/taken");
        assert!(sleep.try_wait().unwrap().is_none(), "the other process lives");
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        fs::remove_dir(&taken).unwrap();
        assert!(directories(Path::new(CGROUP)).iter().all(|dir| !dir.ends_with("taken")));
    });
}

/// --cgroup-manager disabled, as Podman's --cgroups=disabled: the container stays in the caller's cgroup.
#[test]
fn disabled_makes_no_cgroup() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let before = directories(Path::new(CGROUP));
        t.corten(&["--cgroup-manager", "disabled", "create", "-b", bundle.path(), "c1"]).ok();
        t.corten(&["start", "c1"]).ok();
        assert_eq!(directories(Path::new(CGROUP)), before);
        assert_eq!(cgroup_of(t.pid("c1")), "/harness");
        t.exec("c1", "true").ok();
        t.delete("c1");
    });
}
