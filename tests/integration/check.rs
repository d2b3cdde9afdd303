//! `check`: what is wrong with a configuration, and what this host cannot do of it. And the warnings of other
//! commands about misspelt members.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::Command;

use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::harness::{isolated, skip};

/// config.md#extensibility: unknown members must be ignored. A name near a known one is worth a warning.
#[test]
fn create_and_run_warn_once_about_misspelt_members_and_ignore_others() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!(["/bin/true"]);
            c["proces"] = json!({"cwd": 5});
            c["com.example"] = json!(1);
            c["root"]["readOnly"] = json!(true);
            c["linux"]["resources"] = json!({"memory": {"limt": 5, "x-mine": 1}});
        });
        let expected = "warning: linux.resources.memory.limt: unknown member, did you mean limit?; \
                        proces: unknown member, did you mean process?; \
                        root.readOnly: unknown member, did you mean readonly?\n";
        for words in [&["run", "-b", bundle.path(), "c1"][..], &["create", "-b", bundle.path(), "c2"]] {
            let out = t.corten(words);
            assert_eq!(out.code, 0, "{}", out.stderr);
            assert_eq!(out.stderr, expected);
        }
        let out = t.corten(&["start", "c2"]);
        assert_eq!((out.code, out.stderr.as_str()), (0, ""));
        t.delete("c2");
    });
}

#[test]
fn update_warns_about_a_misspelt_limit() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "100"]));
        t.start(&bundle, "c1");
        let file = bundle.dir.join("limits.json");
        fs::write(&file, r#"{"memory": {"limt": 5}, "x": 1}"#).unwrap();
        let out = t.corten(&["update", "--resources", file.to_str().unwrap(), "c1"]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert_eq!(out.stderr, "warning: memory.limt: unknown member, did you mean limit?\n");
        fs::remove_file(file).unwrap();
        t.delete("c1");
    });
}

/// All errors at once, each on a line of its own.
#[test]
fn check_reports_every_error_and_warning() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["proces"] = json!({});
            c["mounts"][0]["optons"] = json!([]);
            c["mounts"][1]["destination"] = json!("dev");
            c["annotations"] = json!({"run.oci.hooks.stdoutt": "/x"});
            c["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["reed", "read"], "action": "SCMP_ACT_ALLOW"}],
            });
        });
        let out = t.corten(&["check", "--bundle", bundle.path()]);
        let expected = "\
            warning: annotations[\"run.oci.hooks.stdoutt\"]: has no effect, corten has no such annotation \
            (did you mean run.oci.hooks.stdout?), ignoring\n\
            warning: linux.seccomp.syscalls: no kernel has the system call \"reed\", did you mean read?\n\
            warning: mounts[1].destination: \"dev\" is not absolute, and is taken for \"/dev\"\n\
            warning: mounts[0].optons: unknown member, did you mean options?\n\
            warning: proces: unknown member, did you mean process?\n";
        assert_eq!((out.code, out.stdout.as_str(), out.stderr.as_str()), (0, expected, ""));
        // Warnings are no reason to fail, as for create.
        t.corten(&["create", "-b", bundle.path(), "c1"]).exits(0);
        t.delete("c1");

        bundle.edit(|c| {
            c["process"]["cwd"] = json!("tmp");
            c["process"]["env"] = json!(["X"]);
        });
        let out = t.corten(&["check", "-b", bundle.path()]).exits(1);
        let errors: Vec<&str> = out.stdout.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 2, "{}", out.stdout);
        assert!(
            errors[0].starts_with("error: process.env[0]: ") && errors[1].starts_with("error: process.cwd: ")
        );

        bundle.edit(|c| {
            c["process"]["args"] = json!("sh");
            c["hostname"] = json!(5);
        });
        let out = t.corten(&["check", "-b", bundle.path()]).exits(1);
        for place in ["process.args", "hostname"] {
            assert!(out.stdout.contains(&format!("error: {place}: ")), "{}", out.stdout);
        }
        bundle.write("{");
        t.corten(&["check", "-b", bundle.path()])
            .exits(1)
            .stdout
            .strip_prefix("error: config.json: ")
            .unwrap();
        let out = t.corten(&["check", "-b", "/no/such/bundle"]).exits(1);
        assert!(
            out.stdout.starts_with("error: ") && out.stdout.contains("/no/such/bundle"),
            "{}",
            out.stdout
        );
    });
}

#[test]
fn check_prints_the_plan_after_the_findings_and_plan_is_another_name_of_that() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["proces"] = json!({}));
        let out = t.corten(&["check", "--plan", "--bundle", bundle.path(), "c1"]);
        assert_eq!(out.code, 0, "{}", out.stdout);
        let (first, plan) = out.stdout.split_once('\n').unwrap();
        assert_eq!(first, "warning: proces: unknown member, did you mean process?");
        assert!(plan.contains("session keyring _ses.c1\n"), "{plan}");
        assert_eq!(t.corten(&["plan", "-b", bundle.path(), "c1"]).stdout, out.stdout);
        let out = t.corten(&["check", "--plan", "--format", "json", "--bundle", bundle.path(), "c1"]);
        let document: Value = serde_json::from_str(&out.ok()).unwrap();
        let expected = json!({
            "errors": [], "host": [], "plan": plan,
            "warnings": [{"place": "proces", "pointer": "/proces", "message": "unknown member, did you mean process?"}],
        });
        assert_eq!(document, expected);
        bundle.edit(|c| drop(c.as_object_mut().unwrap().remove("proces")));
        let out = t.corten(&["check", "-b", bundle.path()]);
        assert!(out.code == 0 && out.stdout.starts_with("fine: "), "{}", out.stdout);
    });
}

/// What `check` says of the host is true: `create` or `start` fails then, and otherwise works.
#[test]
fn what_the_host_cannot_do_is_reported_before_create_fails_of_it() {
    type Edit = fn(&mut Value);
    let rows: &[(Edit, &str)] = &[
        (|c| c["root"]["path"] = json!("no-rootfs"), "root.path "),
        (
            |c| c["mounts"][3] = json!({"destination": "/mnt", "source": "/no/such", "options": ["bind"]}),
            "mounts[3].source /no/such: ",
        ),
        (
            |c| c["process"]["args"] = json!(["/no/such"]),
            "process.args: exec: \"/no/such\": stat /no/such: no such file",
        ),
        (
            |c| c["process"]["args"] = json!(["nosuch"]),
            "process.args: exec: \"nosuch\": executable file not found in $PATH",
        ),
        (
            |c| c["process"]["args"] = json!(["/etc/passwd"]),
            "process.args: exec: \"/etc/passwd\": permission denied",
        ),
        (
            |c| c["process"]["args"] = json!(["/etc"]),
            "process.args: exec: \"/etc\": is a directory: permission denied",
        ),
        (
            |c| c["hooks"] = json!({"prestart": [{"path": "/no/such"}]}),
            "hooks.prestart[0].path: stat /no/such: no such file",
        ),
        (
            |c| c["linux"]["sysctl"] = json!({"net.no.such": "1"}),
            "linux.sysctl[\"net.no.such\"]: this kernel has no such",
        ),
        (|c| c["linux"]["namespaces"][1]["path"] = json!("/no/net"), "linux.namespaces[1].path /no/net: "),
        (|c| c["linux"]["netDevices"] = json!({"nosuch0": {}}), "linux.netDevices[\"nosuch0\"]: "),
        (|c| c["linux"]["resources"] = json!({"unified": {"nosuch.max": "1"}}), "nosuch"),
        (|c| c["linux"]["resources"] = json!({"cpu": {"cpus": "4000"}}), ""),
    ];
    isolated(|t| {
        for (edit, expected) in rows {
            let bundle = t.bundle(edit);
            let out = t.corten(&["check", "-b", bundle.path()]);
            let found = out
                .stdout
                .lines()
                .any(|line| line.strip_prefix("host: ").is_some_and(|l| l.contains(expected)));
            assert!(out.code == 1 && found, "{expected}: {}{}", out.stdout, out.stderr);
            let created = t.corten(&["create", "-b", bundle.path(), "c1"]);
            assert_ne!(created.code, 0, "{expected}");
        }
        // Whether a module has it is known only if the modules can be read.
        let edit =
            |c: &mut Value| c["mounts"][3] = json!({"destination": "/x", "type": "nosuchfs", "source": "x"});
        let out = t.corten(&["check", "-b", t.bundle(edit).path()]);
        assert!(
            out.stdout.contains(": mounts[3].type: this kernel ") && out.stdout.contains("nosuchfs"),
            "{}",
            out.stdout
        );
    });
}

/// A mount of the container may have the program, and the image may have prepared links and files.
#[test]
fn the_program_is_looked_up_in_the_image_only_and_never_opened() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["/fifo"]));
        let rootfs = bundle.rootfs();
        nix::unistd::mkfifo(&rootfs.join("fifo"), Mode::from_bits_truncate(0o755)).unwrap();
        // Opening it would block until somebody writes.
        t.corten(&["check", "-b", bundle.path()]).exits(0);
        // On the host there is such a file, but a link of the image does not lead there.
        let host = t.dir.join("program");
        fs::write(&host, "").unwrap();
        fs::set_permissions(&host, PermissionsExt::from_mode(0o755)).unwrap();
        symlink(&host, rootfs.join("link")).unwrap();
        bundle.edit(|c| c["process"]["args"] = json!(["/link"]));
        let out = t.corten(&["check", "-b", bundle.path()]).exits(1);
        assert!(
            out.stdout.contains("host: process.args: exec: \"/link\": stat /link: no such file"),
            "{}",
            out.stdout
        );
        bundle.edit(|c| {
            c["mounts"]
                .as_array_mut()
                .unwrap()
                .push(json!({"destination": "/opt", "source": "/", "options": ["bind"]}));
        });
        let out = t.corten(&["check", "-b", bundle.path()]).exits(0);
        assert!(out.stdout.contains("no such file or directory, unless mounts[7] has it"), "{}", out.stdout);
        fs::remove_file(host).unwrap();
    });
}

/// No file, cgroup or mount is made. The harness compares them at the end of every test too.
#[test]
fn check_changes_nothing() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["process"]["cwd"] = json!("/not/there/yet");
            c["linux"]["cgroupsPath"] = json!("/corten-check/a/b");
            c["linux"]["resources"] = json!({"memory": {"limit": 1 << 30}, "pids": {"limit": 10}});
            c["mounts"].as_array_mut().unwrap().push(json!({"destination": "/x/y", "type": "tmpfs"}));
        });
        let cgroups = || fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").unwrap_or_default();
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
        let before = (cgroups(), mounts());
        for args in [&["check", "--plan", "-b", bundle.path()][..], &["check", "--host"]] {
            // A host without these controllers fails the first.
            assert!(t.corten(args).code <= 1);
        }
        assert_eq!((cgroups(), mounts()), before);
        assert!(!t.state().exists());
        for made in ["not", "x"] {
            assert!(!bundle.rootfs().join(made).exists(), "{made}");
        }
    });
}

/// A user needs ids of /etc/subuid, a program that maps them, and a user namespace.
#[test]
fn a_user_learns_which_ids_are_not_delegated() {
    isolated(|t| {
        let ids = |first: u32| json!([{"containerID": 0, "hostID": 54321, "size": 1}, {"containerID": 1, "hostID": first, "size": 65536}]);
        let bundle = t.bundle(|c| {
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            c["linux"]["uidMappings"] = ids(3_000_000_000);
            c["linux"]["gidMappings"] = ids(3_000_000_000);
        });
        let reachable = bundle
            .dir
            .ancestors()
            .all(|dir| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o5 == 0o5));
        if !reachable {
            skip("a user cannot reach the bundle");
        }
        let as_user = |path: &str, args: &[&str]| {
            let mut command = Command::new("/usr/bin/setpriv");
            command.args(["--reuid=54321", "--regid=54321", "--clear-groups", "--"]);
            let corten = t.command(args);
            t.call(command.arg(corten.get_program()).args(corten.get_args()).env("PATH", path))
        };
        let out = as_user("/no/path", &["check", "-b", bundle.path()]);
        for expected in [
            "host: linux.uidMappings: newuidmap is not in PATH (hint: install the package uidmap)\n",
            "host: linux.uidMappings: /etc/subuid delegates no ids 3000000000-3000065535 to 54321 (hint: usermod \
             --add-subuids 3000000000-3000065535 54321)\n",
            "host: linux.gidMappings: /etc/subgid delegates no ids 3000000000-3000065535 to 54321",
        ] {
            assert!(
                out.code == 1 && out.stdout.contains(expected),
                "{expected}: {}{}",
                out.stdout,
                out.stderr
            );
        }
        let rootful = t.bundle(|_| {});
        chown(&rootful.dir, Some(54321), Some(54321)).unwrap();
        let out = as_user("/usr/bin:/bin", &["check", "-b", rootful.path()]);
        let expected = "host: linux.namespaces: a caller without root's rights needs a user namespace (hint: corten spec \
                        --rootless)\n";
        assert!(out.code == 1 && out.stdout.contains(expected), "{}{}", out.stdout, out.stderr);
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--reuid=54321", "--regid=54321", "--clear-groups", "--"]);
        command.arg(t.command(&[]).get_program()).args(["check", "-b", rootful.path()]);
        let out = t.call(command.env_remove("XDG_RUNTIME_DIR"));
        let expected = "host: XDG_RUNTIME_DIR is not set (hint: --root DIR keeps the state in DIR)\n";
        assert!(out.code == 1 && out.stdout.contains(expected), "{}{}", out.stdout, out.stderr);
        let out = as_user("/usr/bin:/bin", &["check", "--host"]);
        assert!(
            out.stdout.contains(" delegated ids: none for 54321 in /etc/subuid"),
            "{}{}",
            out.stdout,
            out.stderr
        );
    });
}

#[test]
fn the_host_is_judged_part_by_part() {
    isolated(|t| {
        let out = t.corten(&["check", "--host"]).exits(0);
        for line in out.stdout.lines() {
            assert!(["fine ", "limited ", "missing "].iter().any(|grade| line.starts_with(grade)), "{line}");
        }
        let release = nix::sys::utsname::uname().unwrap().release().to_str().unwrap().to_string();
        assert!(out.stdout.starts_with(&format!("fine     kernel: Linux {release}\n")), "{}", out.stdout);
        let document: Value =
            serde_json::from_str(&t.corten(&["check", "--host", "--format=json"]).ok()).unwrap();
        assert_eq!(document["host"].as_array().unwrap().len(), out.stdout.lines().count());
        assert_eq!(document["host"][0]["part"], "kernel");
        t.corten(&["check", "--host", "--plan"]).fails("--host is about no configuration");
        t.corten(&["check", "--format", "yaml"]).fails("yaml");
    });
}
