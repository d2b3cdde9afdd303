//! Masked and read-only paths, the read-only root, idmapped and cgroup mounts (config-linux.md#masked-paths,
//! #readonly-paths, config.md#root, #mounts).

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Test, isolated};
use crate::mounts::{add, fits, host_mount, options};

/// Masked paths can be files, directories, links or paths in a mounted volume. A path that does not exist is
/// skipped.
#[test]
fn masked_paths_of_every_kind_show_nothing() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        fs::create_dir_all(volume.join("dir")).unwrap();
        fs::write(volume.join("secret"), "secret").unwrap();
        fs::write(volume.join("dir/secret"), "secret").unwrap();
        fs::write(t.dir.join("secret"), "the host's").unwrap();
        let bundle = t.bundle(|c| {
            add(c, json!({"destination": "/mnt", "source": volume, "options": ["rbind"]}));
            c["linux"]["maskedPaths"] = json!([
                "/etc/secret",
                "/home/alice",
                "/mnt/secret",
                "/mnt/dir",
                "/to-file",
                "/to-dir",
                "/dangling",
                "/outside",
                "/no/such",
                "/etc/passwd/x",
                "/etc/../etc/secret"
            ]);
            let script = "cat /etc/secret /mnt/secret /var/target; ls /home/alice /mnt/dir /var/dir; \
                          touch /mnt/dir/x /var/dir/x 2>&1 | grep -c Read-only; cat /etc/group | head -n 1";
            c["process"]["args"] = json!(["/bin/sh", "-c", script]);
        });
        let root = bundle.rootfs();
        for path in ["etc/secret", "home/alice/secret", "var/target"] {
            fs::write(root.join(path), "secret").unwrap();
        }
        fs::create_dir(root.join("var/dir")).unwrap();
        fs::write(root.join("var/dir/secret"), "secret").unwrap();
        for (link, target) in [("to-file", "/var/target"), ("to-dir", "var/dir"), ("dangling", "nothing")] {
            symlink(target, root.join(link)).unwrap();
        }
        symlink(t.dir.join("secret"), root.join("outside")).unwrap();
        let out = t.run_bundle(&bundle).ok();
        assert_eq!(out, "/home/alice:\n\n/mnt/dir:\n\n/var/dir:\n2\nroot:x:0:\n");
        assert_eq!(fs::read_to_string(t.dir.join("secret")).unwrap(), "the host's");
        for (list, expected) in
            [("maskedPaths", "linux.maskedPaths[1]"), ("readonlyPaths", "linux.readonlyPaths[1]")]
        {
            t.run("true", |c| c["linux"][list] = json!(["/etc", "etc/passwd"]))
                .fails(expected)
                .fails("etc/passwd");
        }
    });
}

/// A read-only path keeps the other options of its mount and all mounts below. Only such paths are read-only.
#[test]
fn only_read_only_paths_are_read_only() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        let below = volume.join("below");
        fs::create_dir_all(&below).unwrap();
        fs::write(volume.join("file"), "text\n").unwrap();
        host_mount(t, &["-t", "tmpfs", "x", below.to_str().unwrap()]);
        let run = |paths: Value, script: &str| {
            let bundle = t.bundle(|c| {
                let options = ["rbind", "rnosuid", "rnoexec", "rnoatime"];
                add(c, json!({"destination": "/mnt", "source": volume, "options": options}));
                c["linux"]["readonlyPaths"] = paths;
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            symlink("/mnt/file", bundle.rootfs().join("link")).unwrap();
            t.run_bundle(&bundle)
        };
        let out = run(json!(["/mnt", "/home", "/no/such"]), "cat /proc/self/mountinfo").ok();
        for path in ["/mnt", "/mnt/below"] {
            assert!(fits(&options(&out, path).unwrap().0, "ro nosuid noexec noatime !nodev"), "{out}");
        }
        assert!(fits(&options(&out, "/home").unwrap().0, "ro !nosuid !nodev !noexec relatime"), "{out}");
        let out = run(
            json!(["/link"]),
            "echo x 2>/dev/null >/mnt/file || echo refused; echo x >/mnt/other; cat /proc/self/mountinfo",
        );
        let out = out.ok();
        assert!(out.starts_with("refused\n") && volume.join("other").exists(), "{out}");
        assert!(fits(&options(&out, "/mnt/file").unwrap().0, "ro nosuid noexec noatime"), "{out}");
        t.call(Command::new("umount").arg(&below)).ok();
    });
}

/// `root.readonly` applies to the root only. Volumes are writable.
#[test]
fn a_volume_of_a_read_only_root_is_writable() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        fs::create_dir(&volume).unwrap();
        let script = "for d in / /etc /mnt /tmp /ro /dev /dev/shm; do touch $d/x 2>/dev/null && echo $d; done; \
                      cat /proc/self/mountinfo";
        let out = t.run(script, |c| {
            c["root"]["readonly"] = json!(true);
            add(c, json!({"destination": "/mnt", "source": volume, "options": ["bind"]}));
            add(c, json!({"destination": "/ro", "source": volume, "options": ["bind", "ro"]}));
            add(c, json!({"destination": "/tmp", "type": "tmpfs", "source": "x"}));
        });
        let out = out.ok();
        assert!(out.starts_with("/mnt\n/tmp\n/dev\n/dev/shm\n"), "{out}");
        assert!(fits(&options(&out, "/").unwrap().0, "ro"), "{out}");
    });
}

/// idmap and ridmap, with the mount's own mappings and with the container's.
#[test]
fn idmapped_mounts_have_their_own_mappings_or_the_containers() {
    isolated(|t| {
        let source = t.dir.join("my-source");
        let below = source.join("below");
        fs::create_dir_all(&below).unwrap();
        // The file system of the tests' directory supports idmapped mounts. tmpfs does since Linux 6.3.
        let other = t.dir.join("my-other");
        fs::create_dir(&other).unwrap();
        host_mount(t, &["--bind", other.to_str().unwrap(), below.to_str().unwrap()]);
        for path in [source.join("file"), below.join("file")] {
            fs::write(&path, "").unwrap();
            t.call(Command::new("chown").arg("1000:1001").arg(&path)).ok();
        }
        let maps = |c: &mut Value, id: u32| {
            let map = |from: u32| json!([{"containerID": from, "hostID": id + from, "size": 100}]);
            c["uidMappings"] = map(1000);
            c["gidMappings"] = map(1000);
        };
        let show = |t: &Test, options: Value, own: bool| {
            t.run("stat -c %u:%g /mnt/file /mnt/below/file", |c| {
                let mut mount = json!({"destination": "/mnt", "source": source, "options": options});
                if own {
                    maps(&mut mount, 5000);
                }
                add(c, mount);
            })
        };
        assert_eq!(show(t, json!(["rbind"]), false).ok(), "1000:1001\n1000:1001\n");
        assert_eq!(show(t, json!(["rbind", "idmap"]), true).ok(), "6000:6001\n1000:1001\n");
        assert_eq!(show(t, json!(["rbind", "ridmap"]), true).ok(), "6000:6001\n6000:6001\n");
        assert_eq!(show(t, json!(["rbind"]), true).ok(), "6000:6001\n1000:1001\n");
        // crun's form of the same mappings, which the members replace.
        let inline =
            |kind: &str| json!(["rbind", format!("{kind}=uids=1000-6000-100;gids=1000-6000-1#1001-6001-9")]);
        assert_eq!(show(t, inline("idmap"), false).ok(), "6000:6001\n1000:1001\n");
        assert_eq!(show(t, inline("ridmap"), false).ok(), "6000:6001\n6000:6001\n");
        let out = show(t, json!(["rbind", "idmap=uids=0-1-1;gids=0-1-1"]), true).exits(0);
        assert_eq!(out.stdout, "6000:6001\n1000:1001\n");
        assert!(
            out.stderr.contains("mounts[7].options: uidMappings and gidMappings replace"),
            "{}",
            out.stderr
        );
        for (mappings, text) in [
            ("uids=0-1-1", "mounts[7].gidMappings: must not be empty"),
            ("uids=0-1-0;gids=0-1-1", "mounts[7].options: idmap uids[0].size: is 0"),
            ("uids=0-1;gids=0-1-1", "mounts[7].options: idmap: \"0-1\" is not three numbers"),
            ("uids=@0-1-1;gids=0-1-1", "relative to an id that the container does not map"),
        ] {
            show(t, json!(["rbind", format!("idmap={mappings}")]), false).fails(text);
        }
        // An idmapped mount without mappings of its own or of the container is an error.
        show(t, json!(["rbind", "idmap"]), false).fails("mounts[7]");
        t.run("true", |c| {
            let mut mount =
                json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": ["idmap"]});
            maps(&mut mount, 5000);
            add(c, mount);
        })
        .fails("mounts[7]");
        t.call(Command::new("umount").arg(&below)).ok();
    });
}

/// The cgroup mount shows the container its part, with and without a cgroup namespace. It is read-only if the
/// options say so.
#[test]
fn a_cgroup_mount_shows_the_containers_part() {
    isolated(|t| {
        for namespace in [true, false] {
            for (mode, kind) in [("ro", "cgroup"), ("rw", "cgroup2")] {
                let out = t.run("cat /proc/self/mountinfo; mkdir /sys/fs/cgroup/x 2>/dev/null && rmdir /sys/fs/cgroup/x && echo made; \
 ls -d /sys/fs/cgroup/harness 2>/dev/null; true", |c| {
                    if !namespace {
                        crate::harness::without_namespace(c, "cgroup");
                    }
                    let mount = &mut c["mounts"][6];
                    assert_eq!(mount["destination"], "/sys/fs/cgroup");
                    mount["type"] = json!(kind);
                    mount["options"] = json!(["nosuid", "noexec", "nodev", mode]);
                });
                let out = out.ok();
                let found = options(&out, "/sys/fs/cgroup").unwrap();
                assert!(fits(&found.0, &format!("{mode} nosuid noexec nodev")), "{namespace} {mode}: {out}");
                // The host's tree is visible only without a cgroup namespace.
                assert_eq!(out.contains("/sys/fs/cgroup/harness\n"), !namespace, "{namespace} {mode}: {out}");
                assert_eq!(out.contains("made\n"), mode == "rw", "{namespace} {mode}: {out}");
            }
        }
    });
}
