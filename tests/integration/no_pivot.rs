//! The change of the root without pivot_root: by moving the mount, and by chroot alone.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Bundle, Output, Test, isolated, poll, without_namespace};
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

/// A directory to change the root to, with corten and a bundle in it.
struct Chroot<'a> {
    t: &'a Test,
    dir: PathBuf,
    mounts: Vec<PathBuf>,
}

impl<'a> Chroot<'a> {
    fn new(t: &'a Test, bundle: &Bundle, is_mount: bool) -> Self {
        let dir = t.dir.join("chroot");
        fs::create_dir(&dir).unwrap();
        let mut chroot = Self { t, dir: dir.clone(), mounts: Vec::new() };
        if is_mount {
            chroot.bind(dir.to_str().unwrap(), "");
        }
        for (source, path) in [
            ("/proc", "proc"),
            ("/dev", "dev"),
            ("/sys/fs/cgroup", "sys/fs/cgroup"),
            (bundle.path(), "bundle"),
        ] {
            fs::create_dir_all(dir.join(path)).unwrap();
            chroot.bind(source, path);
        }
        for path in ["run", "tmp"] {
            fs::create_dir(dir.join(path)).unwrap();
        }
        fs::copy(t.command(&[]).get_program(), dir.join("corten")).unwrap();
        chroot
    }

    fn bind(&mut self, source: &str, path: &str) {
        let target = self.dir.join(path);
        host_mount(self.t, &["--rbind", "--make-rprivate", source, target.to_str().unwrap()]);
        self.mounts.push(target);
    }

    fn corten(&self, words: &[&str]) -> Output {
        let mut command = Command::new("chroot");
        command.arg(&self.dir).args(["/corten", "--root", "/run/state"]);
        self.t.call(command.args(words))
    }

    fn end(self) {
        assert_eq!(fs::read_dir(self.dir.join("run/state")).unwrap().count(), 0);
        for path in self.mounts.iter().rev() {
            self.t.call(Command::new("umount").arg("-l").arg(path)).ok();
        }
    }
}

/// A mount on the root is one reason against a root-only mount namespace, which needs no change of the root.
fn mount_the_root(c: &mut Value) {
    let mount = json!({"destination": "/", "source": "rootfs", "options": ["rbind"]});
    c["mounts"].as_array_mut().unwrap().insert(0, mount);
}

/// In a chroot, / is no mount point, and the kernel changes no root.
#[test]
fn in_a_chroot_the_error_says_what_to_do() {
    isolated(|t| {
        let bundle = t.bundle(mount_the_root);
        let chroot = Chroot::new(t, &bundle, false);
        let run = |more: &[&str]| chroot.corten(&[&["run", "--bundle", "/bundle"], more, &["r"]].concat());
        let hint = "(hint: bind-mount that directory on itself, and make it the root by pivot_root(8)";
        for more in [&[][..], &["--no-pivot"]] {
            run(more).fails("/ is not a mount point, as in a chroot").fails(hint);
        }
        bundle.edit(crate::namespaces::map_ids);
        run(&[]).fails("the kernel makes no user namespace in a chroot (hint: ");
        chroot.end();
    });
}

const MOUNTS: &str = r#"[{"destination": "/mnt", "source": "/tmp", "options": ["bind"]}]"#;

/// In a chroot that is a mount point, the container's mount namespace keeps the host's root. Whoever enters it
/// by setns(2) would be there.
#[test]
fn in_a_chroot_on_a_mount_exec_enters_the_containers_root() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            mount_the_root(c);
            c["process"]["args"] = json!(["/bin/sh", "-c", "echo mine >/tmp/mark; exec sleep 1000"]);
        });
        fs::create_dir_all(bundle.rootfs().join("tmp")).unwrap();
        let chroot = Chroot::new(t, &bundle, true);
        for more in [&[][..], &["--no-pivot"]] {
            chroot.corten(&[&["run", "-d", "--bundle", "/bundle"], more, &["r"]].concat()).ok();
            let mark = || {
                chroot.corten(&[
                    "exec",
                    "r",
                    "/bin/sh",
                    "-c",
                    "cat /tmp/mark; ls -d /etc/debian_version 2>/dev/null; true",
                ])
            };
            assert!(poll(Duration::from_secs(10), || bundle.rootfs().join("tmp/mark").exists()));
            assert_eq!(mark().ok(), "mine\n", "{more:?}");
            fs::write(bundle.dir.join("my-mounts.json"), MOUNTS).unwrap();
            let what = "the root of the container's mount namespace is not the container's root";
            chroot.corten(&["mounts", "add", "r", "/bundle/my-mounts.json"]).fails(what);
            chroot.corten(&["delete", "--force", "r"]).ok();
            fs::remove_file(bundle.rootfs().join("tmp/mark")).unwrap();
        }
        chroot.end();
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
