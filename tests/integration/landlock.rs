//! The annotation `dev.corten.landlock` (docs/landlock.md) and its effect in the kernel.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};

use crate::harness::{Bundle, Test, isolated, skip};
use crate::namespaces::{give_rootfs, map_ids};

/// A variant of a test bundle.
type Edit = fn(&mut Value);

/// Ends the test as skipped if the kernel's Landlock is too old.
fn needs(abi: u32) {
    let found = corten::testing::sys::landlock::abi().unwrap();
    if found < abi {
        skip(&format!("this kernel has ABI {found} of Landlock, {abi} is needed"));
    }
}

fn annotate(config: &mut Value, rules: &Value) {
    config["annotations"] = json!({"dev.corten.landlock": rules.to_string()});
}

/// Makes a bundle with these rules. File modes allow writing everywhere.
fn bundle(t: &Test, rules: &Value, edit: impl FnOnce(&mut Value)) -> Bundle {
    let bundle = t.bundle(|config| {
        annotate(config, rules);
        edit(config);
    });
    for dir in ["tmp", "var", "mnt"] {
        fs::set_permissions(bundle.rootfs().join(dir), PermissionsExt::from_mode(0o777)).unwrap();
    }
    bundle
}

/// A script that prints which of these operations are allowed.
const TRY: &str = "try() { name=$1; shift; if \"$@\" 2>/dev/null; then echo $name; fi; }; \
    write() { echo x > $1; }; \
    try ro cat /var/file; try exec /bin/true; try tmp write /tmp/new; try mkdir mkdir /tmp/dir; try null write /dev/null; \
    try one write /mnt/one; try two write /mnt/two; try var write /var/new; try append write /var/file; \
    try rm rm -f /var/file; try mv mv /var/file /tmp/file; try ln ln /var/file /tmp/link; try etc mkdir /etc/x; true";

fn dockers_seccomp(config: &mut Value) {
    config["linux"]["seccomp"] = serde_json::from_str(include_str!("../golden/seccomp/docker.json")).unwrap();
}

/// A path without a rule is denied to root and to others, with no_new_privs and without, together with
/// seccomp, and in a user namespace. The rules apply to the container's process and to every exec.
#[test]
fn a_path_that_is_not_listed_is_denied() {
    isolated(|t| {
        needs(3);
        let rules = json!({"ro": ["/"], "rw": ["/tmp", "/mnt/one", "/dev/null"]});
        let edits: &[(&str, Edit)] = &[
            ("no_new_privs", |_| {}),
            ("without", |c| c["process"]["noNewPrivileges"] = json!(false)),
            ("a user", |c| c["process"]["user"]["uid"] = json!(1000)),
            ("a user without no_new_privs", |c| {
                c["process"]["noNewPrivileges"] = json!(false);
                c["process"]["user"]["uid"] = json!(1000);
            }),
            ("seccomp", dockers_seccomp),
            ("seccomp without no_new_privs", |c| {
                dockers_seccomp(c);
                c["process"]["noNewPrivileges"] = json!(false);
            }),
            ("a user namespace", map_ids),
            ("a user namespace without no_new_privs", |c| {
                map_ids(c);
                c["process"]["noNewPrivileges"] = json!(false);
            }),
        ];
        for (name, edit) in edits {
            let bundle = bundle(t, &rules, |c| {
                edit(c);
                c["process"]["args"] =
                    json!(["/bin/sh", "-c", format!("{{ {TRY}; }} > /tmp/out; sleep 1000")]);
                c["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "cgroup");
            });
            for file in ["var/file", "mnt/one", "mnt/two"] {
                let path = bundle.rootfs().join(file);
                fs::write(&path, "some\n").unwrap();
                fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
            }
            if bundle_has(&bundle, "uidMappings") {
                give_rootfs(t, &bundle);
            }
            t.start(&bundle, "c1");
            let expected = "some\nro\nexec\ntmp\nmkdir\nnull\none\n";
            let out = bundle.rootfs().join("tmp/out");
            crate::harness::poll(std::time::Duration::from_secs(10), || {
                fs::read_to_string(&out).is_ok_and(|text| text.len() >= expected.len())
            });
            assert_eq!(fs::read_to_string(&out).unwrap(), expected, "{name}");
            fs::remove_dir(bundle.rootfs().join("tmp/dir")).unwrap();
            fs::remove_file(bundle.rootfs().join("tmp/new")).unwrap();
            assert_eq!(t.exec("c1", TRY).ok(), expected, "{name}: exec");
            t.delete("c1");
        }
    });
}

fn bundle_has(bundle: &Bundle, word: &str) -> bool {
    fs::read_to_string(bundle.dir.join("config.json")).unwrap().contains(word)
}

/// Without the annotation, or with rules about ports only, the file system is not restricted.
#[test]
fn without_path_rules_no_path_is_denied() {
    isolated(|t| {
        needs(4);
        let script = "mkdir /etc/x && echo made";
        assert_eq!(t.run(script, |_| {}).ok(), "made\n");
        assert_eq!(t.run(script, |c| annotate(c, &json!({"tcpBind": []}))).ok(), "made\n");
        t.run(script, |c| annotate(c, &json!({"ro": ["/"]}))).exits(1);
        // An empty list allows nothing, not even the program.
        t.run(script, |c| annotate(c, &json!({"rw": []}))).fails("exec /bin/sh: permission denied");
    });
}

/// A port without a rule can be neither listened on nor connected to.
#[test]
fn a_tcp_port_that_is_not_listed_is_denied() {
    isolated(|t| {
        needs(4);
        let script = "nc -l -p 81 2>&1; nc -l -p 80 & while ! nc 127.0.0.1 80 < /dev/null 2>&1; do usleep 10000; done; \
                      wait; nc 127.0.0.1 82 2>&1";
        let out = t.run(script, |c| annotate(c, &json!({"tcpBind": [80], "tcpConnect": [80]})));
        let denied = out.stdout.lines().filter(|line| !line.contains("refused")).collect::<Vec<_>>();
        assert_eq!(
            denied,
            [
                "nc: bind: Permission denied",
                "nc: can't connect to remote host (127.0.0.1): Permission denied"
            ]
        );
        // A missing list does not restrict anything.
        let out = t.run("nc 127.0.0.1 82 2>&1", |c| annotate(c, &json!({"tcpBind": []})));
        assert_eq!(out.stdout, "nc: can't connect to remote host (127.0.0.1): Connection refused\n");
    });
}

/// create reports wrong rules with their place. exec reports a path that no longer exists.
#[test]
fn wrong_landlock_rules_are_reported_with_their_place() {
    isolated(|t| {
        needs(3);
        let place = "annotations[\"dev.corten.landlock\"]";
        let with = |rules: &str| {
            let bundle = t.bundle(|c| c["annotations"] = json!({"dev.corten.landlock": rules}));
            symlink("/tmp", bundle.rootfs().join("link")).unwrap();
            t.corten(&["create", "-b", bundle.path(), "c1"])
        };
        with("{").fails(&format!("create c1: {place}: line 1, column 1: ends before"));
        with("{}").fails(&format!("create c1: {place}: restricts nothing"));
        with(r#"{"ro": ["/"], "write": []}"#)
            .fails(&format!("create c1: {place}: \"write\" is none of the members"));
        with(r#"{"ro": ["/", "etc"]}"#)
            .fails(&format!("create c1: {place}.ro[1]: \"etc\" is not an absolute path"));
        with(r#"{"ro": ["/"], "rw": ["/none"]}"#).fails(&format!("create c1: {place}.rw[0] /none: openat2"));
        with(r#"{"ro": ["/"], "rw": ["/link"]}"#).fails("too many levels of symbolic links");
        let rules = json!({"ro": ["/"], "rw": ["/tmp", "/tmp/sub"]});
        let bundle = bundle(t, &rules, |_| {});
        fs::create_dir(bundle.rootfs().join("tmp/sub")).unwrap();
        t.start(&bundle, "c1");
        // The workload can replace the path by a link to elsewhere. The next exec must not follow it.
        t.exec("c1", "rmdir /tmp/sub && ln -s /etc /tmp/sub").ok();
        t.exec("c1", "echo x > /etc/x").fails(&format!("{place}.rw[1] /tmp/sub: openat2")).exits(255);
        t.delete("c1");
    });
}

/// A workload with the right to mount cannot leave the restrictions, because Landlock forbids all changes of
/// mounts.
#[test]
fn a_restricted_workload_cannot_change_mounts() {
    isolated(|t| {
        needs(3);
        let caps = |c: &mut Value| {
            c["process"]["noNewPrivileges"] = json!(false);
            for set in ["bounding", "effective", "permitted"] {
                c["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
            }
        };
        let script = "mount -t tmpfs none /mnt && echo mounted";
        assert_eq!(t.run(script, caps).ok(), "mounted\n");
        let out = t.run(script, |c| {
            caps(c);
            annotate(c, &json!({"ro": ["/"], "rw": ["/mnt"]}));
        });
        assert_eq!((out.code, out.stdout.as_str()), (1, ""), "{out:?}");
        assert!(out.stderr.to_lowercase().contains("permission denied"), "{out:?}");
    });
}
