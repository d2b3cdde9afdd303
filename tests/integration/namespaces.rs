//! `linux.namespaces` and the members that depend on them: id mappings, time offsets, host and domain name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Test, isolated, without_namespace};

const KINDS: &[(&str, &str)] = &[
    ("pid", "pid"),
    ("network", "net"),
    ("mount", "mnt"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("user", "user"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

pub fn add(config: &mut Value, namespace: Value) {
    config["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
}

pub fn map_ids(config: &mut Value) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    add(config, json!({"type": "user"}));
}

/// Returns the namespace of a process, from the links in /proc.
fn namespace(pid: &str, link: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{link}")).unwrap()
}

/// Gives the rootfs to the root of the user namespace, which must be able to reach it.
pub fn give_rootfs(t: &Test, bundle: &crate::harness::Bundle) {
    let mut chown = Command::new("chown");
    t.call(chown.args(["-hR", "100000:100000"]).arg(bundle.rootfs())).ok();
}

/// config-linux.md#namespaces: a listed type is new, any other is the runtime's. The test covers all eight
/// types.
#[test]
fn a_listed_namespace_is_new_and_others_are_the_runtimes() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            map_ids(c);
            add(c, json!({"type": "time"}));
        });
        give_rootfs(t, &bundle);
        let pid = t.start(&bundle, "c1").to_string();
        for (kind, link) in KINDS {
            assert_ne!(namespace(&pid, link), namespace("thread-self", link), "{kind}");
        }
        t.delete("c1");
        for (kind, link) in KINDS.iter().filter(|(kind, _)| !matches!(*kind, "user" | "time" | "mount")) {
            let bundle = t.bundle(|c| {
                without_namespace(c, kind);
                if *kind == "uts" {
                    c["hostname"] = json!(null);
                    c.as_object_mut().unwrap().remove("hostname");
                }
            });
            let pid = t.start(&bundle, "c1").to_string();
            for (other, other_link) in KINDS.iter().filter(|(kind, _)| !matches!(*kind, "user" | "time")) {
                let same = namespace(&pid, other_link) == namespace("thread-self", other_link);
                assert_eq!(same, other == kind, "without {kind}: {other}");
            }
            assert_eq!(namespace(&pid, link), namespace("thread-self", link));
            t.delete("c1");
        }
    });
}

/// config-linux.md#namespaces: namespaces with a path are joined, one alone and all together.
#[test]
fn a_namespace_with_a_path_is_joined() {
    isolated(|t| {
        let bundle = t.bundle(|c| add(c, json!({"type": "time"})));
        let first = t.start(&bundle, "c1").to_string();
        let kinds = ["pid", "network", "ipc", "uts", "cgroup", "time"];
        let all = kinds.join(" ");
        for joined in kinds.iter().copied().chain([all.as_str()]) {
            let bundle = t.bundle(|c| {
                c.as_object_mut().unwrap().remove("hostname");
                add(c, json!({"type": "time"}));
                for entry in c["linux"]["namespaces"].as_array_mut().unwrap() {
                    let kind = entry["type"].as_str().unwrap().to_string();
                    if joined.split(' ').any(|name| name == kind) {
                        let link = KINDS.iter().find(|(name, _)| *name == kind).unwrap().1;
                        entry["path"] = json!(format!("/proc/{first}/ns/{link}"));
                    }
                }
            });
            let pid = t.start(&bundle, "c2").to_string();
            for (kind, link) in KINDS.iter().filter(|(kind, _)| *kind != "user") {
                let same = namespace(&pid, link) == namespace(&first, link);
                assert_eq!(same, joined.split(' ').any(|name| name == *kind), "joined {joined}: {kind}");
            }
            // exec enters the same namespaces.
            let seen = t.exec("c2", "readlink /proc/self/ns/net").ok();
            assert_eq!(seen.trim_end(), namespace(&pid, "net").to_str().unwrap());
            t.delete("c2");
        }
        t.delete("c1");
    });
}

/// A user namespace is joined together with the namespaces that it owns, as pods with user namespaces do.
#[test]
fn a_user_namespace_is_joined_with_the_namespaces_it_owns() {
    isolated(|t| {
        let bundle = t.bundle(map_ids);
        give_rootfs(t, &bundle);
        let first = t.start(&bundle, "c1").to_string();
        let bundle = t.bundle(|c| {
            c.as_object_mut().unwrap().remove("hostname");
            add(c, json!({"type": "user"}));
            for entry in c["linux"]["namespaces"].as_array_mut().unwrap() {
                let kind = entry["type"].as_str().unwrap().to_string();
                if ["user", "network", "ipc", "uts"].contains(&kind.as_str()) {
                    let link = KINDS.iter().find(|(name, _)| *name == kind).unwrap().1;
                    entry["path"] = json!(format!("/proc/{first}/ns/{link}"));
                }
            }
        });
        give_rootfs(t, &bundle);
        let pid = t.start(&bundle, "c2").to_string();
        for (kind, link) in KINDS {
            let shared = ["user", "network", "ipc", "uts", "time"].contains(kind);
            assert_eq!(namespace(&pid, link) == namespace(&first, link), shared, "{kind}");
        }
        assert_eq!(t.exec("c2", "id -u; cat /proc/self/uid_map | tr -s ' '").ok(), "0\n 0 100000 65536\n");
        t.delete("c2");
        t.delete("c1");
    });
}

/// A wrong list is a configuration error that names the entry.
#[test]
fn wrong_namespaces_are_refused() {
    isolated(|t| {
        for (entry, text) in [
            (json!({"type": "time", "path": "/proc/self/ns/net"}), "linux.namespaces[6]"),
            (json!({"type": "time", "path": "/etc/passwd"}), "linux.namespaces[6]"),
            (json!({"type": "time", "path": "/no/such"}), "/no/such"),
            (json!({"type": "time", "path": "relative"}), "linux.namespaces[6]"),
            (json!({"type": "mount"}), "linux.namespaces[6]"),
            (json!({"type": "pid", "path": "/proc/self/ns/pid"}), "linux.namespaces[6]"),
            (json!({"type": "nosuch"}), "linux.namespaces[6]"),
        ] {
            t.run("true", |c| add(c, entry)).fails(text);
        }
    });
}

/// config-linux.md#user-namespace-mappings
#[test]
fn id_mappings_apply_to_processes_and_files() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            map_ids(c);
            c["linux"]["gidMappings"] = json!([
                {"containerID": 0, "hostID": 100_000, "size": 10},
                {"containerID": 100, "hostID": 200_000, "size": 5},
            ]);
            let script = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; stat -Lc %u:%g /proc/self /dev/pts/ptmx; grep ^CapEff /proc/self/status";
            c["process"]["args"] = json!(["/bin/sh", "-c", script]);
        });
        give_rootfs(t, &bundle);
        let mut list = Command::new("find");
        list.arg(bundle.rootfs()).args(["-name", "dev", "-prune", "-o", "-printf", "%P %U:%G %m\n"]);
        let before = t.call(&mut list).ok();
        let out = t.run_bundle(&bundle).ok();
        // No file gets another owner because of the mapping.
        assert_eq!(t.call(&mut list).ok(), before);
        assert!(out.starts_with(" 0 100000 65536\n 0 100000 10\n 100 200000 5\n0\n0:0\n0:0\n"), "{out}");
        assert!(out.ends_with("CapEff:\t0000000020000420\n"), "{out}");
        let maps: &[(Value, &str)] = &[
            (json!([{"containerID": 0, "hostID": 0, "size": 0}]), "linux.uidMappings"),
            (
                json!([{"containerID": 0, "hostID": 0, "size": 10}, {"containerID": 5, "hostID": 100, "size": 10}]),
                "linux.uidMappings",
            ),
            (json!([{"containerID": 4294967295u32, "hostID": 0, "size": 2}]), "linux.uidMappings"),
        ];
        for (map, text) in maps {
            let edit = |c: &mut Value| {
                map_ids(c);
                c["linux"]["uidMappings"] = map.clone();
            };
            t.run("true", edit).fails(text);
        }
        t.run("true", |c| c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1}]))
            .fails("linux.uidMappings");
    });
}

/// config-linux.md#offset-for-time-namespace
#[test]
fn time_offsets_change_the_clocks() {
    isolated(|t| {
        let edit = |c: &mut Value| {
            add(c, json!({"type": "time"}));
            c["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 172_800, "nanosecs": 5}, "boottime": {"secs": 86400, "nanosecs": 0}});
        };
        let out = t.run("cat /proc/self/timens_offsets | tr -s ' '; cut -d. -f1 /proc/uptime", edit).ok();
        assert!(out.starts_with("monotonic 172800 5\nboottime 86400 0\n"), "{out}");
        let uptime: f64 = out.lines().last().unwrap().parse().unwrap();
        assert!(uptime > 86400.0, "{uptime}");
        let offsets = json!({"monotonic": {"secs": 1, "nanosecs": 0}});
        t.run("true", |c| c["linux"]["timeOffsets"] = offsets.clone()).fails("linux.timeOffsets");
        let clock = |c: &mut Value| {
            add(c, json!({"type": "time"}));
            c["linux"]["timeOffsets"] = json!({"nosuch": {"secs": 1}});
        };
        t.run("true", clock).fails("linux.timeOffsets");
    });
}

/// config.md#hostname, config.md#domainname: both names are set. They are refused without a uts namespace of
/// the container's own.
#[test]
fn names_are_set_and_require_a_new_uts_namespace() {
    isolated(|t| {
        let show = "hostname; cat /proc/sys/kernel/domainname";
        let edit = |c: &mut Value| {
            c["hostname"] = json!("my.host");
            c["domainname"] = json!("my.domain");
        };
        assert_eq!(t.run(show, edit).ok(), "my.host\nmy.domain\n");
        t.run(show, |c| without_namespace(c, "uts")).fails("hostname");
        let domain = |c: &mut Value| {
            without_namespace(c, "uts");
            c.as_object_mut().unwrap().remove("hostname");
            c["domainname"] = json!("my.domain");
        };
        t.run(show, domain).fails("domainname");
        t.run(show, |c| c["hostname"] = json!("x".repeat(65))).fails("hostname");
    });
}

/// Without a mount namespace the container is only chrooted, and no mount of its rootfs is left on the host.
#[test]
fn without_a_mount_namespace_the_container_is_chrooted() {
    isolated(|t| {
        let edit = |c: &mut Value| {
            without_namespace(c, "mount");
            c["mounts"] = json!([]);
            c["linux"]["maskedPaths"] = json!([]);
            c["linux"]["readonlyPaths"] = json!([]);
        };
        assert_eq!(t.run("ls /etc; pwd", edit).ok(), "group\npasswd\n/\n");
    });
}

/// The container's root is unmounted on the host without any other mount: neither one in a volume that is a
/// peer of the host's, nor, if root.path ends in a link, one at another place.
#[test]
fn without_a_mount_namespace_only_the_containers_mounts_are_removed() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        let mount = |words: &[&str]| drop(t.call(Command::new("mount").args(words)).ok());
        let mountinfo = || -> Vec<String> {
            fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(Into::into).collect()
        };
        fs::create_dir(&volume).unwrap();
        mount(&["-t", "tmpfs", "tmpfs", volume.to_str().unwrap()]);
        mount(&["--make-shared", volume.to_str().unwrap()]);
        let inner = volume.join("inner");
        fs::create_dir(&inner).unwrap();
        mount(&["-t", "tmpfs", "tmpfs", inner.to_str().unwrap()]);
        fs::write(inner.join("file"), "").unwrap();
        for root in ["rootfs", "my-link"] {
            let bundle = t.bundle(|c| {
                without_namespace(c, "mount");
                c["root"]["path"] = json!(root);
                c["linux"]["rootfsPropagation"] = json!("shared");
                let options = json!(["rbind", "rshared"]);
                c["mounts"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"destination": "/data", "source": volume, "options": options}));
            });
            if root == "my-link" {
                std::os::unix::fs::symlink("rootfs", bundle.rootfs().with_file_name("my-link")).unwrap();
            }
            let before = mountinfo();
            t.start(&bundle, "c1");
            // The control: the volume is mounted, and its own mount is in it.
            assert!(mountinfo().iter().any(|line| line.contains("/rootfs/data/inner ")));
            t.delete("c1");
            assert_eq!(mountinfo(), before);
            assert!(inner.join("file").exists());
        }
        t.call(Command::new("umount").arg("-R").arg(&volume)).ok();
    });
}

/// config.md: `linux`, `mounts` and all of `process` except cwd and args can be missing. Then the container
/// has no namespace of its own.
#[test]
fn a_configuration_needs_only_a_root_and_a_process() {
    isolated(|t| {
        let script = "ls /etc; pwd";
        let bundle = t.bundle(|c| {
            let args = json!(["/bin/sh", "-c", script]);
            *c = json!({"ociVersion": "1.0.0", "root": {"path": "rootfs"}, "process": {"cwd": "/", "args": args}});
        });
        assert_eq!(t.run_bundle(&bundle).ok(), "group\npasswd\n/\n");
        bundle.edit(|c| c["process"]["args"] = json!(["/bin/sleep", "1000"]));
        let pid = t.start(&bundle, "c1").to_string();
        for (kind, link) in KINDS {
            assert_eq!(namespace(&pid, link), namespace("thread-self", link), "{kind}");
        }
        t.delete("c1");
    });
}

/// A new file system covers a directory that root of the user namespace cannot enter.
#[test]
fn a_file_system_is_mounted_on_a_directory_without_access() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        fs::create_dir(&volume).unwrap();
        fs::set_permissions(&volume, PermissionsExt::from_mode(0o700)).unwrap();
        for (covered, expected) in [(false, ""), (true, "open\n")] {
            let bundle = t.bundle(|c| {
                map_ids(c);
                let mounts = c["mounts"].as_array_mut().unwrap();
                mounts.push(json!({"destination": "/mnt", "source": volume, "options": ["bind"]}));
                if covered {
                    mounts.push(json!({"destination": "/mnt", "type": "tmpfs", "source": "x"}));
                }
                let script = "cd /mnt 2>/dev/null && echo open; exit 0";
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            give_rootfs(t, &bundle);
            assert_eq!(t.run_bundle(&bundle).ok(), expected);
        }
    });
}
