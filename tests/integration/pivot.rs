//! The change of the root without pivot_root: by moving the mount, and by chroot alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::harness::{isolated, without_namespace};
use crate::mounts::{add, host_mount};
use crate::namespaces::{give_rootfs, map_ids};

/// Without a mount namespace all is undone by delete, also mounts on the root; the image's owner's mounts stay.
#[test]
fn without_a_namespace() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            without_namespace(c, "mount");
            let root = c["root"]["path"].clone();
            assert_eq!(root, "rootfs");
            add(c, json!({"destination": "/mnt", "type": "tmpfs", "source": "x"}));
        });
        let rootfs = bundle.rootfs();
        host_mount(t, &["--bind", rootfs.to_str().unwrap(), rootfs.to_str().unwrap()]);
        for on_root in [false, true] {
            if on_root {
                let source = rootfs.clone();
                bundle.edit(|c| {
                    let mount = json!({"destination": "/", "source": source, "options": ["rbind"]});
                    c["mounts"].as_array_mut().unwrap().insert(0, mount);
                });
            }
            let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
            t.start(&bundle, "r");
            assert_ne!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
            assert_eq!(t.exec("r", "ls -d /boot 2>/dev/null; grep -c ' /mnt ' /proc/mounts").ok(), "1\n");
            t.delete("r");
            assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
        }
        t.call(Command::new("umount").arg(&rootfs)).ok();
    });
}

/// --no-pivot: nothing of the host's is to be had any more, neither by leaving the root nor through what a new procfs
/// in a user namespace of the container's own would show.
#[test]
fn no_way_back_without_pivot_root() {
    isolated(|t| {
        // A user namespace's root cannot even get to it.
        let closed = t.dir.join("closed");
        fs::create_dir_all(closed.join("mount")).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        host_mount(t, &["-t", "tmpfs", "closed", closed.join("mount").to_str().unwrap()]);
        for user in [false, true] {
            let bundle = t.bundle(|c| {
                if user {
                    map_ids(c);
                }
                for set in ["bounding", "effective", "permitted"] {
                    c["process"]["capabilities"][set] =
                        json!(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETFCAP"]);
                }
            });
            if user {
                give_rootfs(t, &bundle);
            }
            t.corten(&["create", "--no-pivot", "-b", bundle.path(), "r"]).ok();
            t.corten(&["start", "r"]).ok();
            let pid = t.pid("r");
            // Whoever enters the namespace anew begins at its root: what is still there of the host's mounts.
            let seen =
                "cd /; ls -d etc/corten home/alice; ls -d boot root/.. 2>/dev/null; cat /proc/self/mountinfo";
            let mut enter = Command::new("nsenter");
            enter.args(["--mount", "--target", &pid.to_string(), "/bin/sh", "-c", seen]);
            let entered = t.call(&mut enter);
            assert!(entered.stdout.contains("home/alice") && !entered.stdout.contains("boot"), "{entered:?}");
            // What cannot be taken away, because the host's user namespace made it, is covered.
            let of_host = entered.stdout.contains(" /sys/fs/cgroup/memory ");
            assert!(!of_host, "user namespace: {user}: {}", entered.stdout);
            // Masks of procfs cannot be evaded by a new procfs: the host's bare one is gone.
            let script = "mkdir -p /tmp/p 2>/dev/null; unshare -U -r -m -p -f \
 sh -c 'mount -t tmpfs x /tmp/p && echo tmpfs; mount -t proc x /tmp/p && echo proc' 2>/dev/null";
            let out = t.exec("r", script);
            assert_eq!(out.stdout, "tmpfs\n", "user namespace: {user}: {out:?}");
            t.delete("r");
        }
        t.call(Command::new("umount").arg(closed.join("mount"))).ok();
    });
}
