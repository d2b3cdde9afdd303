//! The runtime as root of a user namespace, as rootless Podman runs it. It can enter pid namespaces that it
//! has made, but it cannot enter its own again. The groups of rootless users, which they ask for most, are
//! tested too.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Bundle, Output, Test, isolated, poll, without_namespace};

/// A process that keeps a user and a mount namespace, like Podman's pause process.
struct User {
    keeper: Child,
}

impl User {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--user", "--mount", "sh", "-c", "echo; exec sleep 1000"]);
        let mut keeper = command.stdout(Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(keeper.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{file}", keeper.id()), "0 0 65536").unwrap();
        }
        Self { keeper }
    }

    fn call(&self, t: &Test, command: &Command) -> Output {
        let mut inside = Command::new("nsenter");
        inside.args(["--user", "--mount", "--target", &self.keeper.id().to_string(), "--"]);
        t.call(inside.arg(command.get_program()).args(command.get_args()))
    }

    fn corten(&self, t: &Test, args: &[&str]) -> Output {
        self.call(t, &t.command(args))
    }

    /// It can warn that such a user cannot set a device filter.
    fn start(&self, t: &Test, bundle: &Bundle, id: &str) -> i32 {
        self.corten(t, &["create", "--bundle", bundle.path(), id]).exits(0);
        self.corten(t, &["start", id]).ok();
        t.pid(id)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Makes a bundle without a cgroup mount, because the cgroups are the host's.
fn bundle(t: &Test, edit: impl FnOnce(&mut Value)) -> Bundle {
    t.bundle(|c| {
        c["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "cgroup");
        edit(c);
    })
}

fn pid_namespace(process: impl std::fmt::Display) -> String {
    fs::read_link(format!("/proc/{process}/ns/pid")).unwrap().to_str().unwrap().into()
}

/// The program's namespace, status, credentials and pid file are the same as with a way back.
#[test]
fn exec_works_without_a_way_back_to_the_own_pid_namespace() {
    isolated(|t| {
        let user = User::new();
        // This is the premise. Without it the test would show nothing.
        let mut back = Command::new("nsenter");
        back.args(["--pid=/proc/self/ns/pid", "true"]);
        user.call(t, &back).fails("Operation not permitted");

        let pid = user.start(t, &bundle(t, |_| {}), "c1");
        let show = "readlink /proc/self/ns/pid; cat /proc/1/comm; id -u; exit 7";
        let out = user.corten(t, &["exec", "c1", "/bin/sh", "-c", show]).exits(7);
        assert_eq!(out.stdout, format!("{}\nsleep\n0\n", pid_namespace(pid)));
        user.corten(t, &["exec", "c1", "/no/such"]).fails("/no/such");

        let file = t.dir.join("pid");
        let args = ["exec", "-d", "--pid-file", file.to_str().unwrap(), "c1", "/bin/sleep", "1001"];
        user.corten(t, &args).ok();
        let detached = fs::read_to_string(&file).unwrap();
        assert_eq!(pid_namespace(detached.trim()), pid_namespace(pid));
        assert_ne!(pid_namespace(pid), pid_namespace("self"));
        let command = || fs::read_to_string(format!("/proc/{}/cmdline", detached.trim())).unwrap_or_default();
        assert!(poll(Duration::from_secs(10), || command() == "/bin/sleep\x001001\0"), "{}", command());
        user.corten(t, &["delete", "--force", "c1"]).ok();
    });
}

/// `create` joins another container's pid namespace, as the members of a pod do. The hooks stay outside.
#[test]
fn create_joins_a_pid_namespace_without_a_way_back() {
    isolated(|t| {
        let user = User::new();
        let first = user.start(t, &bundle(t, |_| {}), "first");
        let seen = t.dir.join("seen");
        let member = bundle(t, |c| {
            without_namespace(c, "pid");
            let join = json!({"type": "pid", "path": format!("/proc/{first}/ns/pid")});
            c["linux"]["namespaces"].as_array_mut().unwrap().push(join);
            let script = format!("readlink /proc/self/ns/pid > {}", seen.display());
            c["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
            c["process"]["args"] = json!(["/bin/sh", "-c", "[ $$ != 1 ] && exec sleep 1002"]);
        });
        let second = user.start(t, &member, "second");
        assert_eq!(pid_namespace(second), pid_namespace(first));
        assert_eq!(fs::read_to_string(seen).unwrap().trim(), pid_namespace("self"));
        let parent = fs::read_to_string(format!("/proc/{second}/status")).unwrap();
        assert!(
            !parent.contains(&format!("PPid:\t{first}\n")),
            "the intermediate process did not make it the child of its own parent"
        );

        let both = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '";
        let out = user.corten(t, &["exec", "second", "/bin/sh", "-c", both]).ok();
        assert!(out.contains("sleep 1000 ") && out.contains("sleep 1002 "), "{out}");
        // An error of the container's process is passed on by the intermediate process.
        let broken = bundle(t, |c| {
            without_namespace(c, "pid");
            let join = json!({"type": "pid", "path": format!("/proc/{first}/ns/pid")});
            c["linux"]["namespaces"].as_array_mut().unwrap().push(join);
            c["process"]["args"] = json!(["/no/such"]);
        });
        user.corten(t, &["create", "--bundle", broken.path(), "third"]).fails("/no/such");
        for id in ["second", "first"] {
            user.corten(t, &["delete", "--force", id]).ok();
        }
        assert_eq!(t.corten(&["list", "-q"]).ok(), "");
    });
}

/// Root of a user namespace cannot make nodes that can be opened. The host's are bind-mounted, and what they
/// do not have is a warning.
#[test]
fn devices_of_the_host_are_bind_mounted() {
    isolated(|t| {
        let user = User::new();
        let with = |device: Value| {
            bundle(t, |c| {
                c["linux"]["devices"] = json!([device]);
                c["process"]["args"] = json!(["stat", "-c", "%t:%T %a", "/dev/full"]);
            })
        };
        let full = |path: &str| json!({"path": path, "type": "c", "major": 1, "minor": 7, "fileMode": 0o640});
        let out = user.corten(t, &["run", "--bundle", with(full("/dev/full")).path(), "r"]).exits(0);
        assert_eq!(out.stdout, "1:7 666\n");
        let what = "linux.devices[0] /dev/full: the runtime may not make device nodes here, and bind-mounts the \
                    host's: fileMode is 0o666 instead of 0o640, ignoring";
        assert!(out.stderr.contains(what), "{}", out.stderr);
        let renamed = with(full("/dev/renamed"));
        user.corten(t, &["run", "--bundle", renamed.path(), "r"])
            .fails("linux.devices[0] /dev/renamed: the runtime may not make device nodes here, and the host has none");
    });
}

/// The annotation run.oci.keep_original_groups, which Podman's `--group-add keep-groups` uses, keeps the
/// groups of the caller. It also applies to `exec`, and to groups that the user namespace does not map.
/// Another value is refused.
#[test]
fn the_annotation_keeps_the_callers_groups() {
    isolated(|t| {
        let kept =
            |c: &mut Value, value: &str| c["annotations"] = json!({"run.oci.keep_original_groups": value});
        let call = |args: &[&str]| {
            let runtime = t.command(args);
            let mut command = Command::new("setpriv");
            command.args(["--groups", "234,5678"]).arg(runtime.get_program()).args(runtime.get_args());
            t.call(&mut command)
        };
        let groups = "grep ^Groups /proc/self/status";
        for (uid, map, shown) in [
            (0, false, "Groups:\t234 5678 \n"),
            (1000, false, "Groups:\t234 5678 \n"),
            (1000, true, "Groups:\t65534 65534 \n"),
        ] {
            let bundle = t.bundle(|c| {
                kept(c, "1");
                c["process"]["user"]["uid"] = json!(uid);
                if map {
                    crate::namespaces::map_ids(c);
                }
            });
            if map {
                crate::namespaces::give_rootfs(t, &bundle);
            }
            call(&["create", "-b", bundle.path(), "c1"]).ok();
            call(&["start", "c1"]).ok();
            assert_eq!(call(&["exec", "c1", "sh", "-c", groups]).ok(), shown, "exec, {uid}, {map}");
            t.delete("c1");
            bundle.edit(|c| c["process"]["args"] = json!(["sh", "-c", groups]));
            assert_eq!(call(&["run", "-b", bundle.path(), "r"]).ok(), shown, "run, {uid}, {map}");
            // Additional groups cannot be set together with the kept ones, which is a warning.
            bundle.edit(|c| c["process"]["user"]["additionalGids"] = json!([5]));
            let out = call(&["run", "-b", bundle.path(), "r"]).exits(0);
            assert_eq!(out.stdout, shown);
            assert!(out.stderr.contains("warning: process.user.additionalGids: "), "{}", out.stderr);
        }
        // A file that only the group can read.
        let bundle = t.bundle(|c| {
            kept(c, "1");
            c["process"]["user"]["uid"] = json!(1000);
            c["process"]["args"] = json!(["cat", "/etc/of-the-group"]);
        });
        let file = bundle.rootfs().join("etc/of-the-group");
        fs::write(&file, "read\n").unwrap();
        std::os::unix::fs::chown(&file, Some(0), Some(5678)).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o040)).unwrap();
        assert_eq!(call(&["run", "-b", bundle.path(), "r"]).ok(), "read\n");
        for value in ["", "0", "true"] {
            t.run("true", |c| kept(c, value)).fails("annotations[\"run.oci.keep_original_groups\"]");
        }
    });
}

/// --no-pivot in the user namespace of the caller, for which the host's mounts are locked.
#[test]
fn with_no_pivot_the_host_cannot_be_reached() {
    isolated(|t| {
        // Root of the user namespace cannot even reach it.
        let closed = t.dir.join("closed");
        fs::create_dir_all(closed.join("mount")).unwrap();
        let path = closed.join("mount");
        t.call(Command::new("mount").args(["-t", "tmpfs", "closed"]).arg(&path)).ok();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&closed, Some(70_000), Some(70_000)).unwrap();
        let user = User::new();
        let bundle = bundle(t, crate::no_pivot::admin);
        user.corten(t, &["create", "--no-pivot", "--bundle", bundle.path(), "r"]).exits(0);
        user.corten(t, &["start", "r"]).ok();
        crate::no_pivot::is_left(t, |words| {
            let mut command = Command::new(words[0]);
            user.call(t, command.args(&words[1..]))
        });
        user.corten(t, &["delete", "--force", "r"]).ok();
        t.call(Command::new("umount").arg(path)).ok();
    });
}
