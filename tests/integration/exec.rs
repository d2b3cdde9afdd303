//! `exec`: another process in a running container, with the container's own restrictions.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Test, View, isolated, isolated_in, poll, without_namespace};
use crate::namespaces::{give_rootfs, map_ids};

/// All attributes of the process `$P` that its container decides and the kernel shows, one line each. The
/// blocked signals are those of a child, because a shell blocks all signals for a moment while it forks.
const RIGHTS: &str = r#"
    grep -E '^(Uid|Gid|Groups|Umask|Cap...|NoNewPrivs|Seccomp|Seccomp_filters|Cpus_allowed_list|SigIgn):' /proc/$P/status
    grep '^SigBlk:' /proc/self/status
    cat /proc/$P/limits /proc/$P/oom_score_adj /proc/$P/cgroup
    awk '{print "nice", $19, "rt", $40, "policy", $41}' /proc/$P/stat
    echo "io $(ionice -p $P) machine $(uname -m)"
"#;

/// A variant of a test bundle.
type Edit = fn(&mut Value);

fn every_set(config: &mut Value, capabilities: &[&str]) {
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        config["process"]["capabilities"][set] = json!(capabilities);
    }
}

fn dockers_seccomp(config: &mut Value) {
    config["linux"]["seccomp"] = serde_json::from_str(include_str!("../golden/seccomp/docker.json")).unwrap();
}

const KINDS: &[(&str, Edit)] = &[
    ("spec", |_| {}),
    ("no_new_privs off", |c| c["process"]["noNewPrivileges"] = json!(false)),
    ("no capabilities", |c| c["process"]["capabilities"] = json!({})),
    ("a user", |c| {
        c["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 7], "umask": 63})
    }),
    ("a user with ambient capabilities", |c| {
        c["process"]["user"]["uid"] = json!(1000);
        every_set(c, &["CAP_CHOWN", "CAP_NET_RAW"]);
    }),
    ("a user with ambient capabilities and without no_new_privs", |c| {
        c["process"]["user"]["uid"] = json!(1000);
        c["process"]["noNewPrivileges"] = json!(false);
        every_set(c, &["CAP_KILL"]);
    }),
    ("inheritable only", |c| {
        c["process"]["capabilities"]["inheritable"] = json!(["CAP_KILL"]);
        c["process"]["noNewPrivileges"] = json!(false);
    }),
    ("a user namespace", map_ids),
    ("a user namespace with a user, groups and seccomp", |c| {
        map_ids(c);
        dockers_seccomp(c);
        every_set(c, &["CAP_KILL"]);
        c["process"]["noNewPrivileges"] = json!(false);
        c["process"]["user"] = json!({"uid": 1, "gid": 2, "additionalGids": [3]});
    }),
    ("seccomp", dockers_seccomp),
    ("seccomp without no_new_privs", |c| {
        dockers_seccomp(c);
        c["process"]["noNewPrivileges"] = json!(false);
    }),
    ("seccomp without no_new_privs for a user", |c| {
        dockers_seccomp(c);
        c["process"]["noNewPrivileges"] = json!(false);
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000, "umask": 2});
    }),
    ("rlimits", |c| {
        c["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_NPROC", "soft": 300, "hard": 300},
        ]);
    }),
    ("scheduler", |c| c["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5})),
    ("ioPriority", |c| c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6})),
    ("oomScoreAdj", |c| c["process"]["oomScoreAdj"] = json!(500)),
    ("cgroup", |c| c["linux"]["cgroupsPath"] = json!("/some/where")),
    ("personality", |c| c["linux"]["personality"] = json!({"domain": "LINUX32"})),
    ("no pid and no cgroup namespace", |c| {
        without_namespace(c, "pid");
        without_namespace(c, "cgroup");
    }),
];

/// A process of exec has exactly the rights and limits of the container's process, in every kind of
/// container.
#[test]
fn exec_has_the_containers_rights() {
    isolated(|t| {
        for (kind, edit) in KINDS {
            let bundle = t.bundle(|config| {
                edit(config);
                let script =
                    format!("P=$$; {{ {RIGHTS} }} > /tmp/rights; mv /tmp/rights /tmp/done; exec sleep 1000");
                config["process"]["args"] = json!(["/bin/sh", "-c", script]);
                if config["linux"]["uidMappings"].is_array() {
                    config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "cgroup");
                }
            });
            if fs::read_to_string(bundle.dir.join("config.json")).unwrap().contains("uidMappings") {
                give_rootfs(t, &bundle);
            }
            fs::set_permissions(bundle.rootfs().join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
            t.start(&bundle, "c1");
            let done = bundle.rootfs().join("tmp/done");
            assert!(poll(Duration::from_secs(10), || done.exists()), "{kind}");
            let theirs = fs::read_to_string(done).unwrap();
            let mine = t.exec("c1", &format!("P=$$; {RIGHTS}")).ok();
            assert_eq!(mine, theirs, "{kind}");
            assert_eq!(mine.lines().filter(|line| line.contains(":\t")).count(), 15, "{kind}: {mine}");
            t.delete("c1");
        }
    });
}

/// exec runs in every namespace, the cgroup and the root of the container.
#[test]
fn exec_enters_the_namespaces_the_cgroup_and_the_root() {
    isolated(|t| {
        let bundle = t.bundle(|config| {
            config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}))
        });
        let pid = t.start(&bundle, "c1");
        let out =
            t.exec("c1", "for n in cgroup ipc mnt net pid time uts; do readlink /proc/self/ns/$n; done").ok();
        for (line, kind) in out.lines().zip(["cgroup", "ipc", "mnt", "net", "pid", "time", "uts"]) {
            let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_eq!(line, theirs.to_str().unwrap());
        }
        let cgroup = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let file = t.dir.join("pid");
        t.corten(&["exec", "-d", "--pid-file", file.to_str().unwrap(), "c1", "/bin/sleep", "1000"]).ok();
        let other = fs::read_to_string(&file).unwrap();
        assert_eq!(cgroup(&other), cgroup(&pid.to_string()));
        assert!(other.parse::<i32>().is_ok(), "{other:?} is not a bare number");
        t.delete("c1");
    });
}

/// exec exits with the status of its process, or with 255 for an error of the runtime.
#[test]
fn exec_exits_with_the_status_of_its_process() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.create(&bundle, "c1");
        t.corten(&["start", "c1"]).ok();
        for code in [0, 1, 42] {
            t.exec("c1", &format!("exit {code}")).exits(code);
        }
        t.exec("c1", "kill -TERM $$").exits(143);
        for (program, text) in [
            ("/no/such", r#"exec: "/no/such": stat /no/such: no such file or directory"#),
            ("nosuch", r#"exec: "nosuch": executable file not found in $PATH"#),
            ("/etc/passwd", r#"exec: "/etc/passwd": permission denied"#),
            ("/etc", r#"exec: "/etc": is a directory: permission denied"#),
        ] {
            t.corten(&["exec", "c1", program]).fails(text).exits(255);
            let file = t.dir.join("pid");
            t.corten(&["exec", "-d", "--pid-file", file.to_str().unwrap(), "c1", program])
                .fails(text)
                .exits(255);
            assert!(!file.exists(), "no pid file after a failure");
        }
        t.corten(&["exec", "nosuch", "/bin/true"]).fails("does not exist").exits(255);
        t.delete("c1");
    });
}

/// Only a created or running container takes another process. The process has no descriptor of the caller.
#[test]
fn exec_requires_a_created_or_running_container() {
    isolated(|t: &Test| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c1");
        let out = t.exec("c1", "cd /proc/self/fd; for n in *; do [ -e $n ] && echo $n; done; true").ok();
        assert_eq!(out, "0\n1\n2\n");
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        t.corten(&["exec", "c1", "/bin/true"]).fails("").exits(255);
        t.corten(&["delete", "c1"]).ok();
    });
}

/// A process of exec that still runs dies with the container.
#[test]
fn exec_processes_die_with_the_container() {
    isolated(|t| {
        let bundle = t.bundle(|config| without_namespace(config, "pid"));
        t.start(&bundle, "c1");
        t.corten(&["exec", "-d", "c1", "/bin/sleep", "1001"]).ok();
        assert_eq!(crate::harness::processes().len(), 2);
        t.delete("c1");
        assert_eq!(crate::harness::processes().len(), 0);
    });
}

/// A missing working directory is an error of exec, as in runc. Only `create` makes it.
#[test]
fn exec_does_not_make_a_missing_working_directory() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c");
        t.corten(&["exec", "--cwd", "/nope", "c", "/bin/true"]).fails("no such file or directory").exits(255);
        assert!(!bundle.rootfs().join("nope").exists());
        t.delete("c");
    });
}

/// The container's process can have moved to a cgroup below, as systemd does. Then the container's own cgroup
/// takes no processes (runc#2356), and the processes in those below belong to the container too.
#[test]
fn processes_in_cgroups_below_belong_to_the_container() {
    isolated(|t| {
        let enabled = |dir: &str| fs::write(format!("{dir}/cgroup.subtree_control"), "+hugetlb").is_ok();
        let has = enabled("/sys/fs/cgroup");
        let bundle = t.bundle(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.last_mut().unwrap()["options"] = json!(["rw"]);
            let script = "cd /sys/fs/cgroup; mkdir in; echo 1 > in/cgroup.procs; echo +hugetlb > cgroup.subtree_control; \
                          echo > /moved; exec sleep 1000";
            config["process"]["args"] = json!(["/bin/sh", "-c", script]);
            config["linux"]["cgroupsPath"] = json!("/mine");
        });
        let pid = t.start(&bundle, "c");
        assert!(poll(Duration::from_secs(10), || bundle.rootfs().join("moved").exists()));
        if has {
            assert_eq!(t.exec("c", "echo in").ok(), "in\n");
            // The container could have moved its process itself.
            let freeze = |on| fs::write("/sys/fs/cgroup/mine/in/cgroup.freeze", on).unwrap();
            freeze("1");
            t.exec("c", "echo in").fails("/mine/in is frozen").exits(255);
            freeze("0");
        }
        assert_eq!(t.corten(&["ps", "--format", "json", "c"]).ok(), format!("[{pid}]\n"));
        t.corten(&["kill", "--all", "c", "KILL"]).ok();
        t.until("c", "stopped");
        t.delete("c");
    });
}

/// An administrator can move a container to other cgroups and remove its own. exec puts its process into the
/// cgroups of the container's process, in each hierarchy, and never into the caller's.
#[test]
fn exec_follows_a_container_that_was_moved() {
    isolated_in(View::V2, |t| moved(t, vec![CGROUP.into()]));
}

#[test]
fn exec_follows_a_container_that_was_moved_in_v1() {
    isolated_in(View::Hybrid, |t| moved(t, subdirectories(Path::new(CGROUP))));
}

const CGROUP: &str = "/sys/fs/cgroup";

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()).collect()
}

fn moved(t: &Test, mounts: Vec<PathBuf>) {
    let cgroups = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/mine"));
    let only = |n: usize| mounts.iter().skip(n).take(1).collect::<Vec<_>>();
    for (from, removed) in [(mounts.iter().collect(), false), (mounts.iter().collect(), true)]
        .into_iter()
        .chain((0..mounts.len()).map(|n| (only(n), true)))
    {
        let pid = t.start(&bundle, "c").to_string();
        let from: Vec<&PathBuf> = from;
        for mount in &from {
            let elsewhere = mount.join("elsewhere");
            fs::create_dir(&elsewhere).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|file| mount.join(file).exists()) {
                let all = fs::read(mount.join(file)).unwrap_or_default();
                drop(fs::write(elsewhere.join(file), all));
            }
            fs::write(elsewhere.join("cgroup.procs"), &pid).unwrap();
            if removed {
                fs::remove_dir(mount.join("mine")).unwrap();
            }
        }
        let file = t.dir.join("pid");
        let args = ["exec", "-d", "--pid-file", file.to_str().unwrap(), "c", "/bin/sleep", "1000"];
        t.corten(&args).ok();
        let other = cgroups(&fs::read_to_string(&file).unwrap());
        assert_eq!(other, cgroups(&pid), "{from:?}, removed: {removed}");
        assert!(other.contains("/elsewhere\n") && !other.contains("harness"), "{other}");
        t.delete("c");
        for mount in from {
            let elsewhere = mount.join("elsewhere");
            assert!(poll(Duration::from_secs(10), || {
                crate::harness::reap();
                fs::remove_dir(&elsewhere).is_ok()
            }));
        }
    }
}

/// The affinity of the caller stays outside: a service manager or a shell may have restricted it. The
/// processes of a container can use all CPUs of its cpuset, as with runc and crun (opencontainers/runc#4858).
#[test]
fn the_callers_cpu_affinity_stays_outside() {
    isolated(|t| {
        let show = "sed -n 's/Cpus_allowed_list:\t//p' /proc/self/status";
        let all = t.run(show, |_| {}).ok();
        if all.trim() == "0" {
            crate::harness::skip("has one processor only");
        }
        let mut first = nix::sched::CpuSet::new();
        first.set(0).unwrap();
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &first).unwrap();
        assert_eq!(t.run(show, |_| {}).ok(), all);
        let user_namespace = |c: &mut Value| {
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
            (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
        };
        assert_eq!(t.run(show, user_namespace).ok(), all);
        for (affinity, expected) in [
            (Value::Null, all.as_str()),
            (json!({"initial": "0"}), all.as_str()),
            (json!({"final": "0"}), "0\n"),
        ] {
            let bundle = t.bundle(|c| c["process"]["execCPUAffinity"] = affinity.clone());
            t.start(&bundle, "c1");
            assert_eq!(t.exec("c1", show).ok(), expected, "{affinity}");
            t.delete("c1");
        }
    });
}

/// config.md#linux-process, execCPUAffinity: it applies to the process of exec and not to the container's
/// first. Without it the container's cpuset decides.
#[test]
fn exec_cpu_affinity_applies_to_exec_only() {
    isolated(|t| {
        let show = "sed -n 's/Cpus_allowed_list:\t//p' /proc/self/status";
        let all = t.run(show, |_| {}).ok();
        if all.trim() == "0" {
            crate::harness::skip("has one processor only");
        }
        for (affinity, expected) in [
            (json!({"initial": "0", "final": "1"}), "1\n"),
            (json!({"final": "0"}), "0\n"),
            (json!({"initial": "", "final": ""}), all.as_str()),
            (Value::Null, all.as_str()),
        ] {
            let bundle = t.bundle(|c| c["process"]["execCPUAffinity"] = affinity.clone());
            let pid = t.start(&bundle, "c1");
            assert_eq!(t.exec("c1", show).ok(), expected, "{affinity}");
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            assert!(status.contains(&format!("Cpus_allowed_list:\t{all}")), "{affinity}: {status}");
            t.delete("c1");
        }
        t.run("true", |c| c["process"]["execCPUAffinity"] = json!({"initial": "x"})).fails("execCPUAffinity");
    });
}
