//! `process.apparmorProfile` on a kernel with AppArmor (config.md#linux-process).

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{isolated, skip};
use crate::namespaces::{give_rootfs, map_ids};

const PROFILE: &str = "profile corten-test flags=(attach_disconnected,mediate_deleted) {
  file, capability, network, mount, umount, pivot_root, signal, ptrace, unix,
  deny /etc/secret r,
}
";

fn parser(option: &str) {
    let mut child =
        Command::new("apparmor_parser").arg("-qK").arg(option).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(PROFILE.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// The container's process and processes of exec are confined by the profile, with no_new_privs and without,
/// also in a user namespace. The error for a profile that is not loaded names it.
#[test]
fn the_apparmor_profile_confines_the_container_and_exec() {
    isolated(|t| {
        if !crate::harness::modules().apparmor {
            skip("this kernel does not run AppArmor");
        }
        if Command::new("apparmor_parser").arg("--version").output().is_err() {
            skip("apparmor_parser is not installed");
        }
        parser("-r");
        let edits: [fn(&mut Value); 3] =
            [|_| {}, |c| c["process"]["noNewPrivileges"] = json!(false), map_ids];
        for edit in edits {
            let bundle = t.bundle(|c| {
                c["process"]["apparmorProfile"] = json!("corten-test");
                edit(c);
            });
            fs::write(bundle.rootfs().join("etc/secret"), "secret\n").unwrap();
            // Root of the user namespace must own the rootfs. In the other rows its owner does no harm.
            give_rootfs(t, &bundle);
            let pid = t.start(&bundle, "c1");
            let label = fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current")).unwrap();
            assert_eq!(label, "corten-test (enforce)\n");
            let show = "cat /proc/self/attr/apparmor/current; cat /etc/secret 2>/dev/null; true";
            assert_eq!(t.exec("c1", show).ok(), "corten-test (enforce)\n");
            let other =
                |profile: &str| t.corten(&["exec", "--apparmor", profile, "c1", "/bin/sh", "-c", show]);
            assert_eq!(other("unconfined").ok(), "unconfined\nsecret\n");
            let none = "process.apparmorProfile \"corten-none\" (hint: no such profile is loaded): \
                        write to `/proc/self/attr/apparmor/exec`: no such file or directory";
            other("corten-none").fails(none).exits(255);
            t.delete("c1");
            t.run("true", |c| c["process"]["apparmorProfile"] = json!("corten-none")).fails(none);
        }
        parser("-R");
    });
}
