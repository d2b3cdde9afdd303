//! A mount namespace with only the root file system (Linux 7.0, docs/kernel.md). The container must be the
//! same as one that was assembled among copies of the host's mounts.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::fallbacks::{Refused, call};
use crate::harness::{Bundle, Test, isolated, skip};
use crate::namespaces::{give_rootfs, map_ids};

/// Runs a bundle and returns whether its mount namespace had only the root.
fn has_only_the_root(t: &Test, bundle: &Bundle, more: &[&str]) -> bool {
    let file = t.dir.join("my.trace");
    let words = ["--trace", file.to_str().unwrap(), "run", "--bundle", bundle.path()];
    t.corten(&[&words[..], more, &["c"]].concat()).ok();
    let trace = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let (only_the_root, copied) =
        (trace.contains("\"root and mounts, root-only\""), trace.contains("\"root and mounts\""));
    assert!(only_the_root || copied, "{trace}");
    // Root-only was tried and given up, so the trace has both.
    !copied
}

fn needs_the_kernel() {
    if !crate::harness::linux_since(7, 0) {
        skip("Linux is older than 7.0");
    }
}

fn add(c: &mut Value, mount: Value) {
    c["mounts"].as_array_mut().unwrap().push(mount);
}

/// The program's report: rights, mounts and their propagation, devices, descriptors, and masked paths.
const REPORT: &str = "grep -E '^(Cap|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status; \
    cut -d' ' -f4- /proc/self/mountinfo | sed 's/\\(shared\\|master\\):[0-9]*/\\1/g'; \
    ls -l /dev | sed 's/ [A-Z][a-z][a-z] .*:../ /'; ls /proc/self/fd | wc -l; pwd; \
    cat /proc/keys /proc/sched_debug /mnt/file; ls /sys/firmware /mnt; readlink /proc/self/exe; exit 0";

/// The container's program sees the same rights, mounts, propagation, devices, descriptors and masked paths
/// in every kind of mount namespace. mountinfo also has the same order.
#[test]
fn a_container_is_the_same_in_every_kind_of_mount_namespace() {
    isolated(|t| {
        needs_the_kernel();
        let source = t.dir.join("my-source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "kept\n").unwrap();
        let source = source.to_str().unwrap();
        let propagation = |root: &'static str, own: &'static str| {
            move |c: &mut Value| {
                c["linux"]["rootfsPropagation"] = json!(root);
                add(c, json!({"destination": "/mnt", "source": source, "options": ["rbind", own]}));
                add(c, json!({"destination": "/srv", "source": source, "options": ["bind", "ro"]}));
                add(c, json!({"destination": "/opt", "type": "tmpfs", "source": "x"}));
                add(c, json!({"destination": "/opt/a", "source": source, "options": ["bind"]}));
            }
        };
        type Edit<'a> = Box<dyn Fn(&mut Value) + 'a>;
        let rows: Vec<(&str, Edit)> = vec![
            ("plain", Box::new(|_| {})),
            ("rprivate", Box::new(propagation("rprivate", "rprivate"))),
            ("rslave", Box::new(propagation("rslave", "rslave"))),
            ("unbindable", Box::new(propagation("runbindable", "rprivate"))),
            ("read-only", Box::new(|c| c["root"]["readonly"] = json!(true))),
            (
                "masks",
                Box::new(|c| {
                    c["linux"]["maskedPaths"] =
                        json!(["/proc/keys", "/sys/firmware", "/proc/timer_list", "/nowhere"]);
                    c["linux"]["readonlyPaths"] = json!(["/proc/sys", "/etc"]);
                }),
            ),
            (
                "tmpcopyup",
                Box::new(|c| {
                    let options = ["tmpcopyup", "ro"];
                    add(
                        c,
                        json!({"destination": "/etc", "type": "tmpfs", "source": "x", "options": options}),
                    );
                }),
            ),
        ];
        for (name, edit) in rows {
            let bundle = t.bundle(|c| {
                c["process"]["args"] = json!(["/bin/sh", "-c", REPORT]);
                edit(c);
            });
            let run = |all: &[Refused]| {
                let out = call(t, &["run", "--bundle", bundle.path(), "c"], all);
                assert_eq!(out.code, 0, "{name}: {}", out.stderr);
                (out.stdout, out.stderr)
            };
            let other = Refused { call: libc::SYS_acct, errno: libc::ENOSYS, bit: None };
            let without = |errno| Refused { call: libc::SYS_open_tree, errno, bit: Some((2, 1 << 1)) };
            // The first mount makes the missing directories.
            run(&[other]);
            let usual = run(&[other]);
            for errno in [libc::EINVAL, libc::EPERM] {
                assert_eq!(run(&[without(errno)]), usual, "{name}");
            }
            bundle.edit(|c| c["process"]["args"] = json!(["/bin/true"]));
            assert!(has_only_the_root(t, &bundle, &[]), "{name}");
        }
    });
}

/// A container that may need the host's paths, or that cannot do without its mounts, has them.
#[test]
fn containers_that_need_the_hosts_mounts_get_them() {
    isolated(|t| {
        needs_the_kernel();
        let hook = |kind: &'static str| {
            move |c: &mut Value, _: &Bundle| c["hooks"][kind] = json!([{"path": "/bin/true"}])
        };
        type Edit = Box<dyn Fn(&mut Value, &Bundle)>;
        let rows: Vec<(&str, bool, Edit)> = vec![
            ("plain", true, Box::new(|_, _| {})),
            ("prestart", false, Box::new(hook("prestart"))),
            ("createRuntime", false, Box::new(hook("createRuntime"))),
            ("createContainer", false, Box::new(hook("createContainer"))),
            ("startContainer", true, Box::new(hook("startContainer"))),
            ("poststart", true, Box::new(hook("poststart"))),
            ("user namespace", false, Box::new(|c, _| map_ids(c))),
            (
                "a mount on the root",
                false,
                Box::new(|c, bundle| {
                    let source = bundle.rootfs();
                    let mount = json!({"destination": "/", "source": source, "options": ["rbind"]});
                    c["mounts"].as_array_mut().unwrap().insert(0, mount);
                }),
            ),
            (
                "a source in the root",
                false,
                Box::new(|c, bundle| {
                    add(
                        c,
                        json!({"destination": "/mnt", "source": bundle.rootfs().join("bin"), "options": ["bind"]}),
                    );
                }),
            ),
            (
                "a file system that takes paths of the host",
                false,
                Box::new(|c, bundle| {
                    let lower = [bundle.path().to_string(), "/usr".into()].join(":");
                    let options = [format!("lowerdir={lower}")];
                    add(
                        c,
                        json!({"destination": "/mnt", "type": "overlay", "source": "overlay", "options": options}),
                    );
                }),
            ),
            (
                "a mount that shares with the host",
                false,
                Box::new(|c, bundle| {
                    c["linux"]["rootfsPropagation"] = json!("shared");
                    add(
                        c,
                        json!({"destination": "/mnt", "source": bundle.path(), "options": ["bind", "rshared"]}),
                    );
                }),
            ),
            (
                "the host's cgroup namespace",
                true,
                Box::new(|c, _| crate::harness::without_namespace(c, "cgroup")),
            ),
        ];
        for (name, only_the_root, edit) in rows {
            let bundle = t.bundle(|c| c["process"]["args"] = json!(["/bin/true"]));
            bundle.edit(|c| edit(c, &bundle));
            if name == "user namespace" {
                give_rootfs(t, &bundle);
            }
            assert_eq!(has_only_the_root(t, &bundle, &[]), only_the_root, "{name}");
        }
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["/bin/true"]));
        assert!(!has_only_the_root(t, &bundle, &["--no-pivot"]));
    });
}

/// A namespace without the host's mounts has nothing below the root that could be uncovered.
#[test]
fn no_mount_of_the_host_lies_below_the_root() {
    isolated(|t| {
        needs_the_kernel();
        let bundle = t.bundle(|c| {
            for set in ["bounding", "effective", "permitted"] {
                c["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"]);
            }
        });
        t.start(&bundle, "c");
        let pid = t.pid("c");
        t.exec("c", "umount -l /; true").ok();
        let nsenter = |words: &[&str]| {
            let mut command = Command::new("nsenter");
            t.call(command.args(["-t", &pid.to_string(), "-m"]).args(words))
        };
        assert_ne!(nsenter(&["/bin/true"]).code, 0);
        t.delete("c");
    });
}
