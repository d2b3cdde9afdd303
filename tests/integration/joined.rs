//! Joined mount namespaces: they get the container's root, and a create that fails leaves no mounts in them.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Bundle, Test, isolated, without_namespace};
use crate::mounts::add;

/// A process in a mount namespace of its own.
pub struct Other {
    child: Child,
}

impl Other {
    pub fn new(propagation: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", propagation, "sh", "-c", "echo; exec sleep 1000"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        Self { child }
    }

    fn namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/mnt", self.child.id()))
    }

    /// Returns its mounts, without ids and propagation: a shared mount becomes a slave in the joined
    /// namespace.
    fn mounts(&self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.child.id())).unwrap();
        let tag = |word: &&str| !word.starts_with("shared:") && !word.starts_with("master:");
        text.lines().map(|line| line.split(' ').skip(2).filter(tag).collect::<Vec<_>>().join(" ")).collect()
    }

    /// Makes a configuration join it.
    pub fn join(&self, c: &mut Value) {
        without_namespace(c, "mount");
        let namespace = json!({"type": "mount", "path": self.namespace()});
        c["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Edit = fn(&mut Value);

/// Returns edits that make a create fail, at different moments.
fn failures() -> Vec<(&'static str, Edit)> {
    vec![
        ("no such mount source", |c| {
            add(c, json!({"destination": "/mnt", "source": "/no/such", "options": ["bind"]}))
        }),
        ("no such file system", |c| {
            add(c, json!({"destination": "/mnt", "type": "nosuchfs", "source": "x"}))
        }),
        ("a wrong device", |c| {
            c["linux"]["devices"] = json!([{"path": "/etc/passwd", "type": "c", "major": 1, "minor": 3}]);
        }),
        ("a prestart hook", |c| c["hooks"] = json!({"prestart": [{"path": "/bin/false"}]})),
        ("a createRuntime hook", |c| c["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]})),
        ("a createContainer hook", |c| c["hooks"] = json!({"createContainer": [{"path": "/bin/false"}]})),
        ("a mount on the root", |c| {
            add(c, json!({"destination": "/", "type": "tmpfs", "source": "x"}));
            add(c, json!({"destination": "/mnt", "type": "nosuchfs", "source": "x"}));
        }),
        ("a read-only path behind a loop of links", |c| c["linux"]["readonlyPaths"] = json!(["/loop"])),
    ]
}

fn bundle_for(t: &Test, edit: impl FnOnce(&mut Value)) -> Bundle {
    let bundle = t.bundle(edit);
    std::os::unix::fs::symlink("loop", bundle.rootfs().join("loop")).unwrap();
    bundle
}

/// If a create fails before the change of the root, no mount is left in a joined namespace or on the host.
#[test]
fn a_failed_create_leaves_no_mount_in_a_joined_namespace() {
    isolated(|t| {
        let own = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        for (what, edit) in failures() {
            for propagation in ["private", "slave", "shared"] {
                let other = Other::new(propagation);
                let (before, host) = (other.mounts(), own());
                let bundle = bundle_for(t, |c| {
                    other.join(c);
                    edit(c);
                });
                let out = t.corten(&["create", "-b", bundle.path(), "r"]);
                assert_eq!(other.mounts(), before, "joined, {propagation}, {what}: {}", out.stderr);
                assert_eq!(own(), host, "joined, {propagation}, {what}: at the host");
                out.fails("create r: ");
            }
            let host = own();
            let bundle = bundle_for(t, |c| {
                without_namespace(c, "mount");
                edit(c);
            });
            t.corten(&["create", "-b", bundle.path(), "r"]).fails("create r: ");
            assert_eq!(own(), host, "none, {what}");
        }
    });
}

/// A joined mount namespace gets the container's root with its mounts. The host gets none of them.
#[test]
fn a_joined_mount_namespace_gets_the_root_and_its_mounts() {
    isolated(|t| {
        for propagation in ["private", "slave", "shared"] {
            let other = Other::new(propagation);
            let host = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let bundle = t.bundle(|c| other.join(c));
            let pid = t.start(&bundle, "r");
            let link = |pid: String| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
            assert_eq!(link(pid.to_string()), link(other.child.id().to_string()));
            let out = t.exec("r", "ls -d /boot 2>/dev/null; cat /proc/self/mountinfo").ok();
            assert!(out.contains(" / /proc ") && !out.contains("/boot"), "{out}");
            assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), host);
            t.delete("r");
        }
    });
}

/// An idmapped mount is also idmapped in the joined namespace.
#[test]
fn an_idmapped_mount_stays_so_in_a_joined_namespace() {
    isolated(|t| {
        let source = t.dir.join("my-source");
        fs::create_dir(&source).unwrap();
        std::os::unix::fs::chown(&source, Some(1000), Some(1001)).unwrap();
        let other = Other::new("private");
        let map = |host: u32| json!([{"containerID": host, "hostID": 6000, "size": 10}]);
        let bundle = t.bundle(|c| {
            other.join(c);
            let mut mount = json!({"destination": "/mnt", "source": source, "options": ["bind"]});
            (mount["uidMappings"], mount["gidMappings"]) = (map(1000), map(1001));
            add(c, mount);
            c["process"]["args"] = json!(["/bin/stat", "-c", "%u:%g", "/mnt"]);
        });
        assert_eq!(t.run_bundle(&bundle).ok(), "6000:6000\n");
    });
}

/// The finished tree is copied into the namespace, and the kernel does not copy unbindable mounts.
#[test]
fn unbindable_mounts_reach_a_joined_namespace() {
    isolated(|t| {
        let other = Other::new("private");
        let tmpfs =
            json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": ["runbindable"]});
        let bundle = t.bundle(|c| {
            other.join(c);
            add(c, tmpfs.clone());
        });
        t.run_bundle(&bundle)
            .fails("mounts[7].options: unbindable is only possible in a new mount namespace");
        t.run("grep -c ' /mnt .*unbindable' /proc/self/mountinfo", |c| add(c, tmpfs)).ok();
        let mounts = |out: &str| -> Vec<String> {
            let mut mounts: Vec<_> =
                out.lines().map(|line| line.split(' ').skip(4).collect::<Vec<_>>().join(" ")).collect();
            mounts.sort();
            mounts
        };
        let other = Other::new("private");
        let show = "grep -v ' / / ' /proc/self/mountinfo | sed 's/[^ ]*:[0-9]* - / - /'";
        let new = mounts(&t.run(show, |_| {}).ok());
        assert!(new.len() > 15, "{new:?}");
        assert_eq!(mounts(&t.run(show, |c| other.join(c)).ok()), new);
    });
}

/// A joined namespace that belongs to the host is never changed: neither the runtime's own nor that of the
/// first process, if the runtime is in another. A third namespace is.
#[test]
fn no_mount_namespace_of_the_host_is_changed() {
    isolated(|t| {
        let read = |path: &str| fs::read_to_string(path).unwrap();
        let values = || {
            ["kernel/hostname", "kernel/domainname", "kernel/msgmax", "net/ipv4/ip_forward"]
                .map(|name| read(&format!("/proc/sys/{name}")))
        };
        let before = values();
        for (kind, file, edit, place) in [
            ("uts", "uts", json!({"hostname": "changed"}), "hostname"),
            ("uts", "uts", json!({"domainname": "changed"}), "domainname"),
            ("uts", "uts", sysctl("kernel.domainname", "changed"), "linux.sysctl[\"kernel.domainname\"]"),
            ("ipc", "ipc", sysctl("kernel.msgmax", "4711"), "linux.sysctl[\"kernel.msgmax\"]"),
            ("network", "net", sysctl("net.ipv4.ip_forward", "1"), "linux.sysctl[\"net.ipv4.ip_forward\"]"),
            ("network", "net", json!({"linux": {"netDevices": {"lo": {}}}}), "linux.netDevices[\"lo\"]"),
            ("mount", "mnt", json!({}), "root.path"),
        ] {
            for process in ["self", "1"] {
                let path = format!("/proc/{process}/ns/{file}");
                let bundle = t.bundle(|c| {
                    c.as_object_mut().unwrap().remove("hostname");
                    c["process"]["args"] = json!(["/bin/true"]);
                    without_namespace(c, kind);
                    c["linux"]["namespaces"]
                        .as_array_mut()
                        .unwrap()
                        .push(json!({"type": kind, "path": path}));
                    merge(c, &edit);
                });
                let call = t.command(&["run", "--bundle", bundle.path(), "r"]);
                let mut command = Command::new("unshare");
                command.args(if process == "1" { &["-m", "-u", "-i", "-n"][..] } else { &["-f"] });
                let out = t.call(command.arg(call.get_program()).args(call.get_args()));
                out.fails(&format!(
                    "linux.namespaces[5].path {path}: is the host's {kind} namespace, which {place} would"
                ));
                assert_eq!(values(), before, "{kind} of {process}");
                if kind == "mount" || edit["linux"]["netDevices"].is_object() {
                    continue;
                }
                // The same in the mount namespace of another container.
                let other = t.start(&t.bundle(|_| {}), "other");
                let path = format!("/proc/{other}/ns/{file}");
                bundle.edit(|c| c["linux"]["namespaces"][5]["path"] = json!(path));
                t.run_bundle(&bundle).ok();
                let show = format!(
                    "cat /proc/sys/{}",
                    place.split('"').nth(1).unwrap_or(&format!("kernel/{place}")).replace('.', "/")
                );
                let value = edit.get(place).or_else(|| edit["linux"]["sysctl"].as_object()?.values().next());
                assert_eq!(t.exec("other", &show).ok().trim(), value.unwrap().as_str().unwrap());
                t.delete("other");
            }
        }
    });
}

fn sysctl(name: &str, value: &str) -> Value {
    json!({"linux": {"sysctl": {name: value}}})
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        match value.as_object() {
            Some(_) if into[key].is_object() => merge(&mut into[key], value),
            _ => into[key] = value.clone(),
        }
    }
}

/// --no-pivot unmounts all mounts of the namespace: those of other containers, and by propagation those of
/// the host.
#[test]
fn no_pivot_in_a_joined_mount_namespace_is_refused() {
    isolated(|t| {
        let pid = t.start(&t.bundle(|_| {}), "c1");
        let member = t.bundle(|c| {
            without_namespace(c, "mount");
            let join = json!({"type": "mount", "path": format!("/proc/{pid}/ns/mnt")});
            c["linux"]["namespaces"].as_array_mut().unwrap().push(join);
        });
        t.corten(&["run", "--no-pivot", "-b", member.path(), "c2"]).fails("linux.namespaces[5].path");
        t.delete("c1");
    });
}
