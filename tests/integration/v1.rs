//! cgroup v1, and v2 beside it: limits by what they do, and nothing left in any hierarchy (the harness looks). What
//! limits become is tested beside the planner.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use corten::cgroups::{Cgroup, CgroupRecord, frozen as frozen_at};
use serde_json::{Value, json};

use crate::harness::{Test, View, directories, isolated_in, poll, skip, without_namespace};
use crate::limits::run_as_user;

const CGROUP: &str = "/sys/fs/cgroup";

/// The directory of the container's cgroup with a controller.
fn dir(controller: &str, path: &str) -> PathBuf {
    Path::new(CGROUP).join(controller).join(path)
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_string()
}

fn limited(t: &Test, resources: Value, script: &str) -> crate::harness::Output {
    t.run(script, |c| c["linux"]["resources"] = resources)
}

/// config-linux.md#cgroups-path: the container is in all hierarchies, and its cgroup namespace has its root there.
#[test]
fn all_hierarchies_are_joined() {
    isolated_in(View::V1, |t| joined(t, View::V1));
}

/// Likewise on a hybrid host, where it is born in v2's.
#[test]
fn all_hierarchies_and_v2_are_joined() {
    isolated_in(View::Hybrid, |t| joined(t, View::Hybrid));
}

fn joined(t: &Test, view: View) {
    let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/above/c1"));
    let pid = t.start(&bundle, "c1");
    let outside = read(format!("/proc/{pid}/cgroup").into());
    for line in outside.lines() {
        let there = line.ends_with(":/above/c1") || (view == View::V1 && line.starts_with("0::"));
        assert!(there, "{outside}");
    }
    let inside = t.exec("c1", "cat /proc/1/cgroup /proc/self/cgroup").ok();
    for line in inside.lines() {
        assert!(line.ends_with(":/") || (view == View::V1 && line.starts_with("0::")), "{inside}");
    }
    let pids: Vec<i32> = serde_json::from_str(&t.corten(&["ps", "--format", "json", "c1"]).ok()).unwrap();
    assert_eq!(pids, [pid]);
    let state = read(t.state().join("c1/state.json"));
    assert!(state.contains("/sys/fs/cgroup/memory/above/c1"), "{state}");
    t.delete("c1");
    assert!(directories(Path::new(CGROUP)).iter().all(|dir| !dir.ends_with("above")));
}

/// config.md#mounts with type cgroup: the container's own part of each hierarchy, at the places that the host has, and
/// not to be written to if so asked.
#[test]
fn the_hierarchies_are_mounted() {
    isolated_in(View::V1, |t| mounted(t, View::V1));
}

/// Likewise on a hybrid host, with v2 among them.
#[test]
fn the_hierarchies_are_mounted_with_v2() {
    isolated_in(View::Hybrid, |t| mounted(t, View::Hybrid));
}

fn mounted(t: &Test, view: View) {
    let names = |dir: &Path| {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into())
            .collect();
        names.sort();
        names.join("\n") + "\n"
    };
    let expected = names(Path::new(CGROUP));
    assert_eq!(expected.contains("unified"), view == View::Hybrid);
    let script = "ls /sys/fs/cgroup; cat /sys/fs/cgroup/*/cgroup.procs | sort -u; \
                  cd /sys/fs/cgroup; for dir in . *; do mkdir $dir/x 2>/dev/null && echo made $dir; done; true";
    for namespace in [true, false] {
        for options in [json!(["ro", "nosuid"]), json!(["nosuid"])] {
            let bundle = t.bundle(|c| {
                c["linux"]["cgroupsPath"] = json!("/c1");
                for mount in c["mounts"].as_array_mut().unwrap() {
                    if mount["type"] == "cgroup" {
                        mount["options"] = options.clone();
                    }
                }
                if !namespace {
                    without_namespace(c, "cgroup");
                }
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            let out = t.run_bundle(&bundle).ok();
            let rest = out.strip_prefix(&expected).unwrap_or_else(|| panic!("{out}"));
            // Only the container's own processes.
            assert!(
                rest.starts_with("1\n") && rest.lines().all(|l| l.starts_with("made") || l.len() < 3),
                "{out}"
            );
            assert_eq!(rest.contains("made"), options.as_array().unwrap().len() == 1, "{out}");
        }
    }
}

/// A user who may make no cgroup runs containers without; what is mounted then is the caller's, as under runc.
#[test]
fn a_user_without_cgroups_sees_the_callers() {
    // Closures: by their names the harness knows the test.
    isolated_in(View::V1, |t| {
        users_view(t);
    });
}

#[test]
fn a_user_without_cgroups_sees_the_callers_with_v2() {
    isolated_in(View::Hybrid, |t| {
        users_view(t);
    });
}

fn users_view(t: &Test) {
    let script = "cd /sys/fs/cgroup && for dir in *; do [ -e $dir/cgroup.procs ] || echo no $dir; done; \
                  echo pids/*.procs; mkdir pids/x 2>/dev/null && echo made; true";
    assert_eq!(run_as_user(t, "pids", json!({}), script).stdout, "pids/cgroup.procs\n");
}

/// Where the host has v1, the type cgroup2 is v2's alone; and in a user namespace all are mounted too.
#[test]
fn the_hierarchies_are_mounted_in_every_namespace() {
    isolated_in(View::Hybrid, |t| {
        let out = t.run("ls /sys/fs/cgroup", |c| {
            for mount in c["mounts"].as_array_mut().unwrap() {
                if mount["type"] == "cgroup" {
                    mount["type"] = json!("cgroup2");
                }
            }
        });
        assert!(out.ok().contains("cgroup.controllers"));
        let bundle = t.bundle(|c| {
            crate::namespaces::map_ids(c);
            c["process"]["args"] = json!(["cat", "/sys/fs/cgroup/pids/cgroup.procs"]);
        });
        crate::namespaces::give_rootfs(t, &bundle);
        assert_eq!(t.run_bundle(&bundle).ok(), "1\n");
    });
}

/// With a user namespace, one that is joined, a process between: it is in all of them too.
#[test]
fn every_way_of_cloning_joins() {
    isolated_in(View::V1, |t| {
        let script = "cut -d: -f3 /proc/self/cgroup | sort -u";
        let with_user = |c: &mut Value| {
            crate::namespaces::map_ids(c);
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            c["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "cgroup");
        };
        let bundle = t.bundle(with_user);
        crate::namespaces::give_rootfs(t, &bundle);
        let out = t.run_bundle(&bundle).ok();
        // v2 is not seen here: its line is the harness's own cgroup, beside the root of the namespace.
        assert!(out.lines().any(|line| line == "/") && !out.contains("c1"), "{out}");
        let bundle = t.bundle(|c| {
            with_user(c);
            without_namespace(c, "cgroup");
        });
        crate::namespaces::give_rootfs(t, &bundle);
        assert!(t.run_bundle(&bundle).ok().lines().any(|line| line == "/c1"));
    });
}

/// config-linux.md#memory: more than the limit is not to be had.
#[test]
fn memory_is_limited() {
    isolated_in(View::V1, |t| {
        let resources = json!({"memory": {"limit": 33_554_432, "swap": 33_554_432, "reservation": 16_777_216, "swappiness": 10}});
        // tail keeps what it reads until the line ends.
        limited(t, resources.clone(), "tail -n 1 /dev/zero").exits(137);
        limited(t, resources, "head -c 1000000 /dev/zero | tail -n 1 | wc -c").ok();
    });
}

/// config-linux.md#pids: the fork that would exceed the limit fails.
#[test]
fn processes_are_limited() {
    isolated_in(View::V1, |t| {
        let script = "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo unlimited";
        let out = limited(t, json!({"pids": {"limit": 5}}), script);
        assert!(out.stderr.contains("fork") && !out.stdout.contains("unlimited"), "{out:?}");
        assert!(limited(t, json!({"pids": {"limit": 50}}), script).ok().contains("unlimited"));
    });
}

/// config-linux.md#cpu: the quota holds a busy container back, and shares are set.
#[test]
fn processor_time_is_limited() {
    isolated_in(View::V1, |t| {
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["linux"]["resources"] = json!({"cpu": {"quota": 10_000, "period": 50_000, "shares": 512}});
            c["process"]["args"] = json!(["/bin/sh", "-c", "while :; do :; done"]);
        });
        t.start(&bundle, "c1");
        let usage = || read(dir("cpuacct", "c1/cpuacct.usage")).parse::<u128>().unwrap();
        let (begin, before) = (Instant::now(), usage());
        std::thread::sleep(Duration::from_secs(1));
        let (used, passed) = (usage() - before, begin.elapsed().as_nanos());
        assert!(used < passed * 2 / 5, "{used} of {passed} ns, allowed is a fifth");
        let stat = read(dir("cpu", "c1/cpu.stat"));
        let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap();
        assert!(throttled.parse::<u32>().unwrap() > 0, "{stat}");
        assert_eq!(read(dir("cpu", "c1/cpu.shares")), "512");
        t.delete("c1");
    });
}

/// config-linux.md#cpu: the container runs on these processors, or on those of the cgroup above.
#[test]
fn processors_are_confined() {
    isolated_in(View::V1, |t| {
        let script = "sed -n 's/Cpus_allowed_list:\t//p' /proc/self/status";
        let all = t.run(script, |_| {}).ok();
        if all.trim() == "0" {
            skip("has one processor only");
        }
        for path in ["/c1", "/above/c1"] {
            let run = |resources: Value| {
                t.run(script, |c| {
                    c["linux"]["cgroupsPath"] = json!(path);
                    c["linux"]["resources"] = resources;
                })
            };
            assert_eq!(run(json!({"cpu": {"cpus": "1", "mems": "0"}})).ok(), "1\n");
            assert_eq!(run(json!({})).ok(), all);
        }
    });
}

/// config-linux.md#device-whitelist, and the order that runtime-tools reads: the user's rules, then the defaults.
#[test]
fn devices_are_allowed_one_by_one() {
    isolated_in(View::V1, |t| {
        if fs::File::open("/dev/fuse").is_err() {
            skip("no /dev/fuse, a device that anyone may open and no runtime allows by default");
        }
        let rule = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"});
        let deny = json!({"allow": false, "access": "rwm"});
        let script = "head -c1 /dev/zero >/dev/null && echo zero; (: </dev/my) 2>/dev/null && echo mine";
        for (rules, expected) in [(json!([deny]), "zero\n"), (json!([deny, rule]), "zero\nmine\n")] {
            let bundle = t.bundle(|c| {
                c["linux"]["cgroupsPath"] = json!("/c1");
                c["linux"]["devices"] =
                    json!([{"path": "/dev/my", "type": "c", "major": 10, "minor": 229, "fileMode": 438}]);
                c["linux"]["resources"] = json!({"devices": rules});
            });
            t.start(&bundle, "c1");
            assert_eq!(t.exec("c1", script).stdout, expected, "{rules}");
            let list = read(dir("devices", "c1/devices.list"));
            let first = if expected.contains("mine") { "c 10:229 rw" } else { "c *:* m" };
            assert_eq!(list.lines().next(), Some(first), "{list}");
            t.delete("c1");
        }
        let part = json!({"allow": true, "type": "c", "major": 10, "access": "rw"});
        let back = json!({"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rw"});
        limited(t, json!({"devices": [part, back]}), "true").fails("linux.resources.devices");
    });
}

/// The freezer stops all and lets all go on; who is frozen can be killed and deleted.
#[test]
fn what_is_frozen_stands_still() {
    isolated_in(View::V1, |t| frozen(t, View::V1));
}

/// Likewise where v2's is used.
#[test]
fn what_is_frozen_in_v2_stands_still() {
    isolated_in(View::Hybrid, |t| frozen(t, View::Hybrid));
}

fn frozen(t: &Test, view: View) {
    let bundle = t.bundle(|c| {
        c["linux"]["cgroupsPath"] = json!("/c1");
        c["process"]["args"] =
            json!(["/bin/sh", "-c", "i=0; while :; do echo $((i=i+1)) >/my; sleep 0.01; done"]);
    });
    let soon = || Instant::now() + Duration::from_secs(5);
    let count = || fs::read_to_string(bundle.rootfs().join("my")).unwrap_or_default();
    let moves = || {
        let before = count();
        poll(Duration::from_millis(500), || count() != before)
    };
    for end in [&["kill", "--all", "c1", "KILL"][..], &["delete", "--force", "c1"]] {
        t.start(&bundle, "c1");
        let record: Value = serde_json::from_str(&read(t.state().join("c1/state.json"))).unwrap();
        let record: CgroupRecord = serde_json::from_value(record["cgroup"].clone()).unwrap();
        assert_eq!(record.path.as_os_str().is_empty(), view == View::V1, "{record:?}");
        let cgroup = Cgroup::open(&record).unwrap().unwrap();
        assert!(moves() && !frozen_at(&record).unwrap());
        cgroup.set_frozen(true, soon()).unwrap();
        assert_eq!(t.status("c1"), "paused");
        assert!(!moves(), "still runs");
        t.corten(&["exec", "c1", "true"]).fails("paused");
        cgroup.set_frozen(false, soon()).unwrap();
        assert!(moves() && t.status("c1") == "running");
        cgroup.set_frozen(true, soon()).unwrap();
        t.corten(end).ok();
        if end[0] == "kill" {
            t.until("c1", "stopped");
            t.corten(&["delete", "c1"]).ok();
        }
    }
}

/// A container may have frozen a cgroup below its own: its processes die all the same.
#[test]
fn what_a_container_has_frozen_dies() {
    isolated_in(View::V1, |t| frozen_below(t, View::V1));
}

/// Likewise where v2 kills them.
#[test]
fn what_a_container_has_frozen_dies_with_v2() {
    isolated_in(View::Hybrid, |t| frozen_below(t, View::Hybrid));
}

fn frozen_below(t: &Test, view: View) {
    let script = "mkdir -p /sys/fs/cgroup/freezer/a/b; cd /sys/fs/cgroup/freezer/a/b; sleep 1000 & \
                  echo $! > cgroup.procs; echo FROZEN > freezer.state; while :; do sleep 1; done";
    let bundle = t.bundle(|c| {
        c["linux"]["cgroupsPath"] = json!("/c1");
        c["mounts"].as_array_mut().unwrap().last_mut().unwrap()["options"] = json!(["rw"]);
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
    });
    let state = dir("freezer", "c1/a/b/freezer.state");
    let frozen = || fs::read_to_string(&state).is_ok_and(|text| text == "FROZEN\n");
    for end in [&["kill", "--all", "c1", "KILL"][..], &["delete", "--force", "c1"]] {
        t.start(&bundle, "c1");
        assert!(poll(Duration::from_secs(10), frozen), "{view:?}");
        t.corten(end).ok();
        if end[0] == "kill" {
            t.until("c1", "stopped");
            t.corten(&["delete", "c1"]).ok();
        }
    }
}

/// `kill --all` and `delete` reach every process, also those that fork and those in cgroups below.
#[test]
fn all_processes_are_killed() {
    isolated_in(View::V1, |t| {
        let script = "while :; do sleep 100 & sleep 0.01; done";
        for kill in [true, false] {
            let bundle = t.bundle(|c| {
                c["linux"]["cgroupsPath"] = json!("/c1");
                c["linux"]["resources"] = json!({"pids": {"limit": 100}});
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
                without_namespace(c, "pid");
            });
            t.start(&bundle, "c1");
            let below = dir("freezer", "c1/a/b");
            fs::create_dir_all(&below).unwrap();
            let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            fs::write(below.join("cgroup.procs"), sleep.id().to_string()).unwrap();
            if kill {
                t.corten(&["kill", "--all", "c1", "KILL"]).ok();
                t.until("c1", "stopped");
                sleep.wait().unwrap();
                t.corten(&["delete", "c1"]).ok();
            } else {
                t.delete("c1");
                sleep.wait().unwrap();
            }
        }
    });
}

/// A limit that the kernel refuses, or whose controller is not there, is an error that leaves nothing in any hierarchy.
#[test]
fn what_cannot_be_limited_is_refused() {
    isolated_in(View::V1, |t| {
        for (resources, place) in [
            (json!({"cpu": {"cpus": "4000"}}), "linux.resources.cpu.cpus"),
            (
                json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}),
                "linux.resources.hugepageLimits[0]",
            ),
            (json!({"network": {"classID": 1_048_577}}), "linux.resources.network.classID"),
            (json!({"memory": {"kernel": 1_048_576}}), "linux.resources.memory.kernel"),
            (json!({"unified": {"memory.max": "1000"}}), "linux.resources.unified"),
            (json!({"blockIO": {"leafWeight": 100}}), "linux.resources.blockIO.leafWeight"),
        ] {
            let bundle = t.bundle(|c| {
                c["linux"]["cgroupsPath"] = json!("/above/c1");
                c["linux"]["resources"] = resources;
            });
            t.corten(&["create", "-b", bundle.path(), "c1"]).fails(place);
        }
    });
}

/// A controller that only v2 has is used from there.
#[test]
fn what_only_v2_has_is_used_there() {
    isolated_in(View::Hybrid, |t| {
        let offered = read(dir("unified", "cgroup.controllers"));
        if !offered.contains("hugetlb") {
            skip("v2 has no hugetlb controller here");
        }
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["linux"]["resources"] = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
                                             "pids": {"limit": 77}});
        });
        t.start(&bundle, "c1");
        assert_eq!(read(dir("unified", "c1/hugetlb.2MB.max")), "4194304");
        assert_eq!(read(dir("pids", "c1/pids.max")), "77");
        t.delete("c1");
    });
}

/// runtime.md#create: cgroups that others live in are not fit, and nothing of theirs is touched.
#[test]
fn a_cgroup_in_use_is_refused() {
    isolated_in(View::V1, |t| {
        let taken = dir("pids", "taken");
        fs::create_dir(&taken).unwrap();
        let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(taken.join("cgroup.procs"), sleep.id().to_string()).unwrap();
        let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/taken"));
        t.corten(&["create", "-b", bundle.path(), "c1"]).fails("pids/taken");
        assert!(sleep.try_wait().unwrap().is_none(), "the other process lives");
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        // Empty it is fit, whatever limits it has had.
        fs::write(taken.join("pids.max"), "3").unwrap();
        t.start(&bundle, "c1");
        t.delete("c1");
    });
}

/// The life of a container is the same in every view: those tests once more.
#[test]
fn lives_are_lived_in_v1() {
    again("v1");
}

#[test]
fn lives_are_lived_in_v1_with_v2() {
    again("hybrid");
}

fn again(view: &str) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["lifecycle::", "run::"]).env("CORTEN_TEST_VIEW", view);
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("running ") && !text.contains("running 0 tests"),
        "{text}"
    );
    for line in text.lines().filter(|line| line.starts_with("skipped: ")) {
        // Past libtest, as the harness tells it.
        drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{line} (view {view})\n")));
    }
}

/// What is frozen does not die of a signal on v1: the kill lets it go on to its end.
#[test]
fn paused_containers_die() {
    isolated_in(View::V1, |t| {
        t.start(&t.bundle(|_| {}), "c1");
        t.corten(&["pause", "c1"]).ok();
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        t.corten(&["delete", "c1"]).ok();
        t.start(&t.bundle(|_| {}), "c1");
        t.corten(&["pause", "c1"]).ok();
        t.delete("c1");
    });
}

/// `update` writes to whichever hierarchy has the file, and puts back what it has written when one write fails.
#[test]
fn limits_are_updated() {
    isolated_in(View::Hybrid, |t| {
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 40}});
        });
        t.start(&bundle, "c1");
        let limits = || (read(dir("memory", "c1/memory.limit_in_bytes")), read(dir("pids", "c1/pids.max")));
        let now = |memory: u64, pids: &str| assert_eq!(limits(), (memory.to_string(), pids.to_string()));
        t.corten(&["update", "--memory", "128M", "--pids-limit", "1", "c1"]).ok();
        now(128 << 20, "1");
        t.exec("c1", "/bin/true & wait").exits(2);
        t.corten(&["update", "--memory", "32M", "c1"]).ok();
        now(32 << 20, "1");
        t.corten(&["update", "--pids-limit", "30", "--cpuset-cpus", "4000", "c1"]).fails("cpu.cpus");
        now(32 << 20, "1");
        t.corten(&["update", "--pids-limit", "-1", "c1"]).ok();
        now(32 << 20, "max");
        t.delete("c1");
    });
}
