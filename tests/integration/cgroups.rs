//! `linux.cgroupsPath` and the life of the container's cgroup. The planner's own tests cover the translation
//! of limits.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Test, View, directories, isolated, isolated_in, skip, without_namespace};
use crate::namespaces::{give_rootfs, map_ids};

const CGROUP: &str = "/sys/fs/cgroup";

fn cgroup_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_string()
}

/// config-linux.md#cgroups-path: an absolute path is below the mount point. The container is in it from the
/// start.
#[test]
fn the_container_is_in_the_cgroup_of_cgroups_path() {
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

/// The caller can be in a cgroup that was killed before it entered, as a restarted service is. Linux 6.18
/// kills a process that is cloned from such a cgroup into another.
#[test]
fn a_caller_in_a_cgroup_that_was_killed_before_can_run_containers() {
    let path = |pid| cgroup_of(pid).rsplit('/').next().unwrap_or_default().to_string();
    let joined = |t: &Test, own: &Path| {
        fs::create_dir(own).unwrap();
        fs::write(own.join("cgroup.kill"), "1").unwrap();
        let inside = |words: &[&str]| {
            let mut command = Command::new("sh");
            let runtime = t.command(words);
            let enter = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", own.display());
            command.args(["-c", &enter, "sh"]).arg(runtime.get_program()).args(runtime.get_args());
            t.call(&mut command)
        };
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        inside(&["create", "--bundle", bundle.path(), "c1"]).ok();
        inside(&["start", "c1"]).ok();
        assert_eq!(path(t.pid("c1")), "c1");
        let text = inside(&["exec", "c1", "cat", "/proc/self/cgroup"]).ok();
        assert!(text.lines().any(|line| line == "0::/"), "{text}");
        inside(&["delete", "--force", "c1"]).ok();
        fs::remove_dir(own).unwrap();
    };
    let own = if View::wanted() == View::Hybrid { "unified/killed" } else { "killed" };
    isolated(|t| {
        if View::wanted() == View::V1 {
            skip("there is no cgroup.kill on v1");
        }
        joined(t, &Path::new(CGROUP).join(own));
    });
}

/// cgroup_namespaces(7): the container's own cgroup is the root, in /proc and in its mount.
#[test]
fn the_cgroup_namespace_has_the_containers_cgroup_as_its_root() {
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

/// cgroups(7), delegation: in a user namespace the container's root can make cgroups below its own if the
/// hierarchy is mounted for writing. It can never change its own limits.
#[test]
fn root_of_a_user_namespace_can_make_cgroups_but_not_change_its_limits() {
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

/// config-linux.md#cgroup-ownership: the cgroup is given to the user of the container's process, with only
/// the files that the kernel lists. The conditions are a new cgroup namespace and a hierarchy that is mounted
/// for writing.
#[test]
fn the_cgroup_is_given_to_the_containers_user_only_if_it_is_writable() {
    use std::os::unix::fs::MetadataExt;
    isolated(|t| {
        let owners = |edit: fn(&mut Value)| {
            let bundle = t.bundle(|c| {
                c["linux"]["cgroupsPath"] = json!("/c1");
                c["process"]["user"] = json!({"uid": 1000, "gid": 1001});
                c["mounts"][6]["options"] = json!(["nosuid"]);
                edit(c);
            });
            if fs::read_to_string(bundle.dir.join("config.json")).unwrap().contains("uidMappings") {
                give_rootfs(t, &bundle);
            }
            t.start(&bundle, "c1");
            let owner = |file: &str| fs::metadata(Path::new(CGROUP).join("c1").join(file)).unwrap().uid();
            let own = ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"].map(owner);
            assert_eq!(["cgroup.max.depth", "cgroup.kill", "cgroup.freeze"].map(owner), [0; 3]);
            assert_eq!(own, [own[0]; 4]);
            t.delete("c1");
            own[0]
        };
        assert_eq!(owners(|_| {}), 1000);
        assert_eq!(owners(map_ids), 101_000);
        for edit in [
            (|c| c["mounts"][6]["options"] = json!(["ro"])) as fn(&mut Value),
            |c| c["mounts"][6]["options"] = json!(["rro"]),
            |c| c["mounts"][6]["source"] = json!("other"),
            |c| c["mounts"][6]["destination"] = json!("/mnt"),
            |c| drop(c["mounts"].as_array_mut().unwrap().remove(6)),
            |c| without_namespace(c, "cgroup"),
            |c| c["process"]["user"] = json!({"uid": 0, "gid": 0}),
        ] {
            assert_eq!(owners(edit), 0);
        }
    });
}

/// A v1 cgroup is never given away, because that is not safe. A v2 cgroup beside v1 is.
#[test]
fn no_v1_cgroup_is_given_to_the_containers_user() {
    use std::os::unix::fs::MetadataExt;
    isolated_in(View::Hybrid, |t| {
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["process"]["user"] = json!({"uid": 1000, "gid": 1001});
            c["mounts"][6]["options"] = json!(["nosuid"]);
        });
        t.start(&bundle, "c1");
        let mut hierarchies = 0;
        for entry in fs::read_dir(CGROUP).unwrap().map(|entry| entry.unwrap()) {
            let expected = if entry.file_name() == "unified" { 1000 } else { 0 };
            for file in ["c1", "c1/cgroup.procs"] {
                assert_eq!(
                    fs::metadata(entry.path().join(file)).unwrap().uid(),
                    expected,
                    "{entry:?} {file}"
                );
            }
            hierarchies += 1;
        }
        assert!(hierarchies > 2);
        t.delete("c1");
    });
}

/// A container that can create cgroups, for containers of its own, has every controller to share out. As in
/// runc; other containers get those with statistics.
#[test]
fn a_container_with_a_writable_hierarchy_has_every_controller() {
    isolated(|t| {
        let offered = fs::read_to_string(Path::new(CGROUP).join("cgroup.controllers")).unwrap();
        if !offered.split_whitespace().any(|name| name == "hugetlb") {
            skip("no hugetlb controller on the cgroup v2 hierarchy");
        }
        let given = |edit: fn(&mut Value), script: &str| {
            let bundle = t.bundle(|c| {
                c["linux"]["cgroupsPath"] = json!("/above/c1");
                edit(c);
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            t.start(&bundle, "c1");
            let text = fs::read_to_string(Path::new(CGROUP).join("above/c1/cgroup.controllers")).unwrap();
            t.delete("c1");
            text
        };
        let sleep = "exec sleep 1000";
        assert!(!given(|_| {}, sleep).contains("hugetlb"));
        assert_eq!(given(|c| c["mounts"][6]["options"] = json!(["nosuid"]), sleep), offered);
        let bind = |c: &mut Value| {
            let bound = json!({"destination": "/mnt", "source": CGROUP, "options": ["rbind", "rslave"]});
            c["mounts"].as_array_mut().unwrap().push(bound);
        };
        assert_eq!(given(bind, sleep), offered);
        let script = "cd /sys/fs/cgroup; mkdir init; echo 1 >init/cgroup.procs; \
                      echo +hugetlb >cgroup.subtree_control; cat init/cgroup.controllers";
        let out = t.run(script, |c| c["mounts"][6]["options"] = json!(["nosuid"]));
        assert_eq!(out.ok(), "hugetlb\n");
    });
}

/// A limit without its controller is refused, and never ignored.
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

/// Images of VPNs make /dev/net/tun, or have it bound. As in runc and crun, every container can open it.
#[test]
fn the_tunnel_device_can_be_opened_without_a_rule() {
    isolated(|t| assert_eq!(opens_a_tunnel(t), "opened\n"));
}

pub(crate) fn opens_a_tunnel(t: &Test) -> String {
    if fs::File::open("/dev/net/tun").is_err() {
        skip("no /dev/net/tun");
    }
    let script = "mkdir -p /dev/net && mknod /dev/net/tun c 10 200 && : <>/dev/net/tun && echo opened";
    let out = t.run(script, |c| {
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
        }
        c["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    });
    out.ok()
}

/// config-linux.md#device-whitelist
#[test]
fn a_device_that_is_not_allowed_cannot_be_opened() {
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

/// `delete` removes the cgroups that the container has made below its own, with the processes in them.
#[test]
fn delete_removes_the_cgroups_that_the_container_has_made() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            without_namespace(c, "pid");
        });
        t.start(&bundle, "c1");
        let below = Path::new(CGROUP).join("c1/a/b");
        fs::create_dir_all(&below).unwrap();
        let mut sleep = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(below.join("cgroup.procs"), sleep.id().to_string()).unwrap();
        t.delete("c1");
        assert!(!Path::new(CGROUP).join("c1").exists());
        sleep.wait().unwrap();
    });
}

/// runtime.md#create: a cgroup with other processes is refused, and is not changed.
#[test]
fn a_cgroup_in_use_is_refused() {
    isolated(|t| {
        let taken = Path::new(CGROUP).join("taken");
        fs::create_dir(&taken).unwrap();
        let mut sleep = Command::new("sleep").arg("1000").spawn().unwrap();
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

/// With --cgroup-manager disabled, as Podman's --cgroups=disabled uses it, the container stays in the
/// caller's cgroup.
#[test]
fn a_disabled_cgroup_manager_makes_no_cgroup() {
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
