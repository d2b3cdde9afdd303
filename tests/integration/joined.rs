//! A mount namespace that is joined gets the container's root; a create that fails leaves no mounts there.

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

    /// Its mounts, without their ids and propagation: what is shared becomes a slave when it is joined.
    fn mounts(&self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.child.id())).unwrap();
        let tag = |word: &&str| !word.starts_with("shared:") && !word.starts_with("master:");
        text.lines().map(|line| line.split(' ').skip(2).filter(tag).collect::<Vec<_>>().join(" ")).collect()
    }

    /// For a configuration that joins it.
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

/// What makes a create fail, at different times.
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

/// Whatever fails before the root is changed, no mount stays in a namespace that is joined, nor in the host's.
#[test]
fn failures_leave_no_mounts() {
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

/// A joined mount namespace gets the container's root, with its mounts, and the host nothing of it.
#[test]
fn in_a_joined_namespace() {
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

/// The runtime's own mount namespace is nothing to join: the host's root would be changed.
#[test]
fn not_the_hosts_own() {
    isolated(|t| {
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        t.run("true", |c| {
            without_namespace(c, "mount");
            let namespace = json!({"type": "mount", "path": "/proc/self/ns/mnt"});
            c["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
        })
        .fails("linux.namespaces");
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    });
}
