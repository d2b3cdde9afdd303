//! The change of the root without pivot_root: by moving the mount, and by chroot alone.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bundle, Output, Test, isolated, without_namespace};
use crate::mounts::{add, host_mount};

/// Without a mount namespace delete removes all mounts of the container, also those on the root. The mounts
/// of the image's owner stay.
#[test]
fn without_a_mount_namespace_delete_removes_the_mounts() {
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
        only_the_containers_is_detached(t, &bundle);
        t.call(Command::new("umount").arg(&rootfs)).ok();
    });
}

/// In a chroot, / is no mount point, and the kernel changes no root.
#[test]
fn in_a_chroot_the_error_says_what_to_do() {
    isolated(|t| {
        let dir = t.dir.join("chroot");
        let bundle = t.bundle(|c| {
            // A mount on the root is one reason against a root-only mount namespace, which needs no change of the root.
            let mount = json!({"destination": "/", "source": "rootfs", "options": ["rbind"]});
            c["mounts"].as_array_mut().unwrap().insert(0, mount);
        });
        let binds = [("proc", "/proc"), ("sys/fs/cgroup", "/sys/fs/cgroup"), ("bundle", bundle.path())];
        for (path, source) in binds {
            fs::create_dir_all(dir.join(path)).unwrap();
            host_mount(t, &["--rbind", source, dir.join(path).to_str().unwrap()]);
        }
        for path in ["run", "tmp"] {
            fs::create_dir(dir.join(path)).unwrap();
        }
        fs::copy(t.command(&[]).get_program(), dir.join("corten")).unwrap();
        let run = |more: &[&str]| {
            let mut command = Command::new("chroot");
            command.arg(&dir).args(["/corten", "--root", "/run/state", "run", "--bundle", "/bundle"]);
            t.call(command.args(more).arg("r"))
        };
        let hint = "(hint: bind-mount that directory on itself, and make it the root by pivot_root(8)";
        for more in [&[][..], &["--no-pivot"]] {
            run(more).fails("/ is not a mount point, as in a chroot").fails(hint);
        }
        bundle.edit(crate::namespaces::map_ids);
        run(&[]).fails("the kernel makes no user namespace in a chroot (hint: ");
        assert_eq!(fs::read_dir(dir.join("run/state")).unwrap().count(), 0);
        for (path, _) in binds {
            t.call(Command::new("umount").arg("-l").arg(dir.join(path))).ok();
        }
    });
}

/// An engine can have unmounted its own mount and the container's, and mounted another since. delete keeps
/// that mount. It also keeps the mount of another container on the same root.
fn only_the_containers_is_detached(t: &Test, bundle: &Bundle) {
    let rootfs = bundle.rootfs();
    let umount = || t.call(Command::new("umount").arg("--lazy").arg(&rootfs)).ok();
    let text =
        "another mount lies where the container's root file system is mounted (hint: unmount it first)";
    t.start(bundle, "r");
    t.start(bundle, "on-top");
    t.corten(&["delete", "--force", "r"]).fails(text);
    t.delete("on-top");
    t.delete("r");
    t.start(bundle, "r");
    umount();
    umount();
    host_mount(t, &["-t", "tmpfs", "other", rootfs.to_str().unwrap()]);
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    t.corten(&["delete", "--force", "r"]).fails(text);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    umount();
    t.delete("r");
    host_mount(t, &["--bind", rootfs.to_str().unwrap(), rootfs.to_str().unwrap()]);
}

/// --no-pivot: no file of the host can be reached, neither by leaving the root nor through a new procfs in a
/// user namespace of the container. (With a user namespace of the container --no-pivot is refused:
/// `leaving::unmounting_the_root_does_not_uncover_the_hosts` of tests/attack.)
#[test]
fn with_no_pivot_the_host_cannot_be_reached() {
    isolated(|t| {
        let bundle = t.bundle(admin);
        t.corten(&["create", "--no-pivot", "-b", bundle.path(), "r"]).ok();
        t.corten(&["start", "r"]).ok();
        is_left(t, |words| t.call(Command::new(words[0]).args(&words[1..])));
        t.delete("r");
    });
}

/// Gives the container the capabilities that mounting requires.
pub fn admin(c: &mut Value) {
    for set in ["bounding", "effective", "permitted"] {
        c["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETFCAP"]);
    }
}

/// Fails if the container `r`, which was made with --no-pivot, can reach a file of the host. `call` runs a
/// command with the rights of the container's maker.
pub fn is_left(t: &Test, call: impl Fn(&[&str]) -> Output) {
    let pid = t.pid("r").to_string();
    // A process that enters the namespace anew begins at its root, where the remaining mounts of the host
    // are.
    let seen = "cd /; ls -d etc/corten home/alice; ls -d boot root/.. 2>/dev/null; cat /proc/self/mountinfo";
    let entered = call(&["nsenter", "--mount", "--target", &pid, "/bin/sh", "-c", seen]);
    assert!(entered.stdout.contains("home/alice") && !entered.stdout.contains("boot"), "{entered:?}");
    // Mounts that cannot be removed, because the host's user namespace made them, are covered.
    assert!(!entered.stdout.contains(" /sys/fs/cgroup/memory "), "{}", entered.stdout);
    // A new procfs cannot evade the masks, because the host's bare procfs is gone.
    let script = "mkdir -p /tmp/p 2>/dev/null; unshare -U -r -m -p -f \
 sh -c 'mount -t tmpfs x /tmp/p && echo tmpfs; mount -t proc x /tmp/p && echo proc' 2>/dev/null";
    let exec = t.command(&["exec", "r", "/bin/sh", "-c", script]);
    let words = [exec.get_program()].into_iter().chain(exec.get_args());
    let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    let out = call(&words);
    assert_eq!(out.stdout, "tmpfs\n", "{out:?}");
}
