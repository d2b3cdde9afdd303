//! `hooks`: all six kinds, their order and places, the container's state on stdin, and the effect of a
//! failure.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Bundle, Test, isolated, patience, poll};

const ALL: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Returns a hook that appends to a file of the bundle. The file is mounted at /log for hooks that run in the
/// container's root.
fn shell(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
}

/// Makes a bundle with a writable directory, which hooks find at the same path inside and outside.
fn with_hooks(t: &Test, edit: impl FnOnce(&mut Value, &str)) -> (Bundle, String) {
    let shared = t.dir.join("shared");
    fs::create_dir_all(&shared).unwrap();
    let path = shared.to_str().unwrap().to_string();
    let bundle = t.bundle(|c| {
        let mount = json!({"destination": path, "source": path, "type": "bind", "options": ["bind", "rw"]});
        c["mounts"].as_array_mut().unwrap().push(mount);
        c["hooks"] = json!({});
        edit(c, &path);
    });
    (bundle, path)
}

/// The device filter is attached before the hooks run. A hook in the container's cgroup can open only the
/// devices of the container.
#[test]
fn the_device_filter_applies_to_hooks_in_the_cgroup() {
    isolated(|t| {
        for kind in ["createContainer", "startContainer"] {
            let (bundle, dir) = with_hooks(t, |c, dir| {
                let script = format!("mknod {dir}/kmsg c 1 11; (: <{dir}/kmsg) 2>{dir}/said; rm {dir}/kmsg");
                c["hooks"][kind] = json!([shell(&script)]);
                // A startContainer hook has the program's capabilities.
                for set in ["bounding", "effective", "permitted"] {
                    c["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
                }
            });
            t.create(&bundle, "c");
            t.corten(&["start", "c"]).ok();
            let output = fs::read_to_string(format!("{dir}/said")).unwrap();
            assert!(output.contains("not permitted"), "{kind}: {output}");
            t.delete("c");
        }
    });
}

/// config.md#posix-platform-hooks: the order of the kinds and in each list. runtime.md#lifecycle: the moment
/// of each kind.
#[test]
fn hooks_run_in_order() {
    isolated(|t| {
        let (bundle, dir) = with_hooks(t, |c, dir| {
            for kind in ALL {
                c["hooks"][kind] = json!([
                    shell(&format!("echo {kind} 1 >>{dir}/log")),
                    shell(&format!("echo {kind} 2 >>{dir}/log")),
                ]);
            }
        });
        let log = || fs::read_to_string(format!("{dir}/log")).unwrap();
        let lines =
            |kinds: &[&str]| kinds.iter().map(|kind| format!("{kind} 1\n{kind} 2\n")).collect::<String>();
        t.create(&bundle, "c1");
        assert_eq!(log(), lines(&ALL[..3]));
        t.corten(&["start", "c1"]).ok();
        assert_eq!(log(), lines(&ALL[..5]));
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        assert_eq!(log(), lines(&ALL[..5]));
        t.corten(&["delete", "c1"]).ok();
        assert_eq!(log(), lines(&ALL));
    });
}

/// crun's annotations. The files can be chosen by a stranger, and so only certain directories are possible.
#[test]
fn the_output_of_hooks_goes_to_the_files_of_annotations() {
    isolated(|t| {
        let base = Path::new("/tmp").join(format!("corten-hooks-{}", std::process::id()));
        fs::create_dir(&base).unwrap();
        let (out, err) = (base.join("out"), base.join("err"));
        let edit = |c: &mut Value, stdout: &str| {
            for kind in ALL {
                c["hooks"][kind] = json!([shell(&format!("echo {kind}; echo to {kind} >&2"))]);
            }
            c["annotations"] = json!({"run.oci.hooks.stdout": stdout, "run.oci.hooks.stderr": err});
        };
        fs::write(&out, "before\n").unwrap();
        let (bundle, _) = with_hooks(t, |c, _| edit(c, out.to_str().unwrap()));
        t.start(&bundle, "c1");
        t.delete("c1");
        // The program of a startContainer hook is the image's, and gets no file of the host.
        let expected = "prestart createRuntime createContainer poststart poststop";
        let lines =
            |before: &str| expected.split(' ').map(|kind| format!("{before}{kind}\n")).collect::<String>();
        assert_eq!(fs::read_to_string(&out).unwrap(), "before\n".to_string() + &lines(""));
        assert_eq!(fs::read_to_string(&err).unwrap(), lines("to "));
        // Links are not followed, and nothing but a file is opened.
        let link = base.join("link");
        std::os::unix::fs::symlink("out", &link).unwrap();
        let fifo = base.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        for (path, text) in [
            (link.to_str().unwrap(), "annotations[\"run.oci.hooks.stdout\"]"),
            (fifo.to_str().unwrap(), "annotations[\"run.oci.hooks.stdout\"]"),
            (base.to_str().unwrap(), "annotations[\"run.oci.hooks.stdout\"]"),
            ("/etc/cron.d/hooks", "is not a file below /tmp, /var/log, /var/tmp"),
            ("/tmp/../etc/hooks", "is not a file below /tmp, /var/log, /var/tmp"),
        ] {
            let (bundle, _) = with_hooks(t, |c, _| {
                edit(c, path);
                // A poststop hook of a failed create would warn in addition.
                c["hooks"]["poststop"] = json!([]);
            });
            t.run_bundle(&bundle).fails(text);
        }
        assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 6);
        fs::remove_dir_all(&base).unwrap();
    });
}

/// runtime.md#state on stdin: the container's state at that moment. The namespaces are those of config.md's
/// table.
#[test]
fn hooks_get_the_state_on_stdin() {
    isolated(|t| {
        let (bundle, dir) = with_hooks(t, |c, dir| {
            for kind in ALL {
                let script = format!(
                    "cat >{dir}/{kind}; for n in pid mnt net; do readlink /proc/self/ns/$n; done >{dir}/{kind}.ns"
                );
                c["hooks"][kind] = json!([shell(&script)]);
            }
            c["annotations"] = json!({"key": "value"});
        });
        let pid = t.start(&bundle, "c1");
        let inside: Vec<_> = ["pid", "mnt", "net"]
            .map(|n| fs::read_link(format!("/proc/{pid}/ns/{n}")).unwrap().to_string_lossy().into_owned())
            .into();
        t.delete("c1");
        for kind in ALL {
            let text = fs::read_to_string(format!("{dir}/{kind}")).unwrap();
            let state: Value = serde_json::from_str(&text).unwrap();
            let statuses: &[&str] = match kind {
                // They run after step 2, which ends `creating`. hooks_stdin of runtime-tools requires that
                // too.
                "prestart" | "createRuntime" | "createContainer" | "startContainer" => &["created"],
                "poststart" => &["running"],
                _ => &["stopped"],
            };
            assert!(statuses.contains(&state["status"].as_str().unwrap()), "{kind}: {state}");
            assert_eq!((&state["id"], &state["bundle"]), (&json!("c1"), &json!(bundle.path())), "{kind}");
            assert_eq!(state["annotations"]["key"], "value", "{kind}");
            match kind {
                "prestart" | "createRuntime" | "poststart" => assert_eq!(state["pid"], pid, "{kind}"),
                "poststop" => {}
                _ => assert!(state["pid"].as_i64().is_some_and(|n| n > 0), "{kind}: {state}"),
            }
            let seen = fs::read_to_string(format!("{dir}/{kind}.ns")).unwrap();
            let seen: Vec<_> = seen.lines().collect();
            let in_container = matches!(kind, "createContainer" | "startContainer");
            assert_eq!(seen[1] == inside[1] && seen[2] == inside[2], in_container, "{kind}: {seen:?}");
        }
    });
}

/// config.md#prestart and the following sections: a hook's path is resolved in the runtime's mount namespace,
/// that of startContainer in the container.
#[test]
fn the_path_of_a_hook_is_the_hosts_or_the_containers() {
    isolated(|t| {
        let install = |dir: &Path| {
            fs::create_dir_all(dir).unwrap();
            let hook = dir.join("my-hook");
            fs::write(&hook, "#!/bin/sh\nexit 0\n").unwrap();
            fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let outside = t.dir.join("my-hooks");
        install(&outside);
        for kind in ALL {
            for (path, found) in [
                (outside.join("my-hook"), kind != "startContainer"),
                ("/inside/my-hook".into(), kind == "startContainer"),
            ] {
                let bundle = t.bundle(|c| {
                    c["ociVersion"] = json!("1.3.0");
                    c["hooks"] = json!({kind: [{"path": path}]});
                    c["process"]["args"] = json!(["/bin/true"]);
                });
                install(&bundle.rootfs().join("inside"));
                let out = t.run_bundle(&bundle);
                assert_eq!(
                    !out.stderr.contains(&format!("hooks.{kind}[0]")),
                    found,
                    "{kind} {path:?}: {out:?}"
                );
                assert_eq!(out.code == 0, found || kind == "poststop", "{kind} {path:?}: {out:?}");
            }
        }
    });
}

/// A hook on the host without `env` has the caller's environment, so that it finds its helpers.
#[test]
fn a_hook_without_an_environment_has_the_callers() {
    isolated(|t| {
        let kinds = ["prestart", "createRuntime", "poststart", "poststop"];
        let (bundle, dir) = with_hooks(t, |c, dir| {
            for kind in kinds {
                let script = format!("echo $OF_CALLER >{dir}/{kind}");
                c["hooks"][kind] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
            }
            c["process"]["args"] = json!(["/bin/true"]);
        });
        let mut run = t.command(&["run", "-b", bundle.path(), "c"]);
        t.call(run.env("OF_CALLER", "the caller's")).ok();
        for kind in kinds {
            assert_eq!(fs::read_to_string(format!("{dir}/{kind}")).unwrap(), "the caller's\n", "{kind}");
        }
    });
}

/// config.md#createcontainer-hooks: the mounts are made, and the root is not entered yet and still writable.
#[test]
fn create_container_hooks_can_change_the_root() {
    isolated(|t| {
        let (bundle, dir) = with_hooks(t, |c, dir| {
            c["root"]["readonly"] = json!(true);
            let script = format!(
                "root=$(sed -n 's/.*\"bundle\": *\"\\([^\"]*\\)\".*/\\1/p')/rootfs; echo made >$root/from-hook; \
                 [ -e $root/proc/self ] && echo mounted >{dir}/log"
            );
            c["hooks"]["createContainer"] = json!([shell(&script)]);
            c["process"]["args"] =
                json!(["/bin/sh", "-c", "cat /from-hook; touch /x 2>&1 | grep -o 'Read-only'"]);
        });
        assert_eq!(t.run_bundle(&bundle).ok(), "made\nRead-only\n");
        assert_eq!(fs::read_to_string(format!("{dir}/log")).unwrap(), "mounted\n");
    });
}

/// A hook in the container is scheduled as the program is, also if the kernel resets that for children.
#[test]
fn a_hook_in_the_container_has_the_scheduler_of_the_program() {
    isolated(|t| {
        let (bundle, dir) = with_hooks(t, |c, dir| {
            let flags = ["SCHED_FLAG_RESET_ON_FORK"];
            c["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": -5, "flags": flags});
            let nice = format!("read -r all </proc/$$/stat; set -- $all; echo ${{19}} >{dir}/log");
            c["hooks"]["startContainer"] = json!([shell(&nice)]);
            c["process"]["args"] = json!(["/bin/true"]);
        });
        t.corten(&["run", "--bundle", bundle.path(), "c"]).ok();
        assert_eq!(fs::read_to_string(format!("{dir}/log")).unwrap(), "-5\n");
    });
}

/// runtime.md#lifecycle: a failing hook before the program is an error of `create` or `start`. The container
/// is destroyed and the poststop hooks run.
#[test]
fn a_failing_hook_before_the_program_fails_the_command() {
    isolated(|t| {
        for kind in &ALL[..5] {
            let (bundle, dir) = with_hooks(t, |c, dir| {
                c["hooks"][kind] = json!([
                    shell("true"),
                    shell("echo hook is sad >&2; exit 3"),
                    shell(&format!("echo went on >>{dir}/log")),
                ]);
                c["hooks"]["poststop"] = json!([shell(&format!("echo poststop >>{dir}/log"))]);
                c["ociVersion"] = json!("1.3.0");
            });
            let created = t.corten(&["create", "-b", bundle.path(), "c1"]);
            if matches!(*kind, "startContainer" | "poststart") {
                created.ok();
                t.corten(&["start", "c1"]).fails(&format!("hooks.{kind}[1]"));
            } else {
                created.fails(&format!("hooks.{kind}[1]"));
            }
            t.corten(&["state", "c1"]).fails("does not exist");
            assert_eq!(fs::read_to_string(format!("{dir}/log")).unwrap(), "poststop\n", "{kind}");
            fs::remove_file(format!("{dir}/log")).unwrap();
            t.corten(&["run", "-b", bundle.path(), "c1"]).fails("");
            fs::remove_file(format!("{dir}/log")).unwrap();
        }
    });
}

/// runtime.md#lifecycle, step 9: up to 1.2.1 a failing poststart hook is a warning. The other hooks and the
/// program go on.
#[test]
fn a_failing_poststart_hook_depends_on_the_version() {
    isolated(|t| {
        for (version, stops) in
            [("1.0.2-dev", false), ("1.2.1", false), ("1.3.0-rc.1", true), ("1.3.0", true)]
        {
            let (bundle, dir) = with_hooks(t, |c, dir| {
                c["ociVersion"] = json!(version);
                c["hooks"]["poststart"] =
                    json!([shell("exit 3"), shell(&format!("echo second >>{dir}/log"))]);
            });
            t.create(&bundle, "c1");
            let started = t.corten(&["start", "c1"]);
            if stops {
                started.fails("hooks.poststart[0]");
                t.corten(&["state", "c1"]).fails("does not exist");
                assert!(!Path::new(&dir).join("log").exists(), "{version}");
                continue;
            }
            assert!(started.stderr.contains("hooks.poststart[0]"), "{}", started.stderr);
            started.exits(0);
            assert_eq!(t.status("c1"), "running", "{version}");
            assert_eq!(fs::read_to_string(format!("{dir}/log")).unwrap(), "second\n");
            fs::remove_file(format!("{dir}/log")).unwrap();
            t.delete("c1");
        }
    });
}

/// runtime.md#lifecycle: a failing poststop hook is a warning. The other hooks and the deletion go on.
#[test]
fn delete_goes_on_after_a_failing_poststop_hook() {
    isolated(|t| {
        let (bundle, dir) = with_hooks(t, |c, dir| {
            c["hooks"]["poststop"] = json!([shell("exit 1"), shell(&format!("echo second >>{dir}/log"))]);
        });
        t.start(&bundle, "c1");
        t.corten(&["delete", "-f", "c1"]).exits(0);
        assert_eq!(fs::read_to_string(format!("{dir}/log")).unwrap(), "second\n");
        t.corten(&["state", "c1"]).fails("does not exist");
    });
}

/// config.md#posix-platform-hooks
#[test]
fn the_timeout_of_a_hook_ends_it_and_its_children() {
    isolated(|t| {
        for script in ["sleep 100", "sleep 100 & exit 0", "sleep 100 & wait", "trap '' TERM; sleep 100"] {
            let (bundle, _) = with_hooks(t, |c, _| {
                let mut hook = shell(script);
                hook["timeout"] = json!(1);
                c["hooks"]["createRuntime"] = json!([hook]);
            });
            let start = Instant::now();
            let out = t.corten(&["create", "-b", bundle.path(), "c1"]);
            assert!(start.elapsed() < Duration::from_secs(5) * patience(), "{script}: {:?}", start.elapsed());
            if script.contains("exit 0") {
                // The hook itself ends in time. The process that it has left must not delay the command.
                assert_eq!(out.code, 0, "{out:?}");
                t.delete("c1");
                crate::harness::kill_all("sleep 100");
            } else {
                out.fails("hooks.createRuntime[0]");
            }
            let gone = || !crate::harness::processes().iter().any(|line| line.contains("sleep 100"));
            assert!(poll(Duration::from_secs(5), gone), "{script}");
        }
    });
}

/// config.md#posix-platform-hooks: the path must be absolute and the timeout positive. `env` is the whole
/// environment of the hook.
#[test]
fn a_hook_with_a_relative_path_or_no_time_is_refused() {
    isolated(|t| {
        for (key, value, place) in [
            ("path", json!("bin/true"), "hooks.createRuntime[0].path"),
            ("path", json!(""), "hooks.createRuntime[0].path"),
            ("timeout", json!(0), "hooks.createRuntime[0].timeout"),
            ("timeout", json!(-5), "hooks.createRuntime[0].timeout"),
            ("path", json!("/no/such/hook"), "hooks.createRuntime[0]"),
        ] {
            let (bundle, _) = with_hooks(t, |c, _| {
                let mut hook = shell("true");
                hook[key] = value;
                c["hooks"]["createRuntime"] = json!([hook]);
            });
            t.corten(&["create", "-b", bundle.path(), "c1"]).fails(place);
        }
        let (bundle, dir) = with_hooks(t, |c, dir| {
            let script = format!("tr '\\0' '\\n' </proc/$$/environ >{dir}/env; echo $0 >>{dir}/env");
            c["hooks"]["createRuntime"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script, "named"], "env": ["A=1", "PATH=/bin:/usr/bin"]}]);
        });
        t.create(&bundle, "c1");
        assert_eq!(fs::read_to_string(format!("{dir}/env")).unwrap(), "A=1\nPATH=/bin:/usr/bin\nnamed\n");
        t.delete("c1");
    });
}
