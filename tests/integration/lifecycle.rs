//! create, start, state, kill, delete: the operations and the states between them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::harness::{directories, isolated, poll, processes, remains, traces, without_namespace};

/// runtime.md#lifecycle: created, running, stopped, deleted. `state` has every required property.
#[test]
fn a_container_goes_through_its_states() {
    isolated(|t| {
        let bundle = t.bundle(|config| {
            config["annotations"] = json!({"org.example.key": "value"});
        });
        t.create(&bundle, "c1");
        let state = t.document("c1");
        assert_eq!(state["id"], "c1");
        assert_eq!(state["status"], "created");
        assert_eq!(state["bundle"], bundle.path());
        assert_eq!(state["annotations"], json!({"org.example.key": "value"}));
        assert_eq!(state["rootfs"], bundle.rootfs().to_str().unwrap());
        assert!(state["ociVersion"].as_str().unwrap().starts_with("1."), "{state}");
        let created = state["created"].as_str().unwrap();
        assert!(created.len() >= 20 && created.ends_with('Z') && created.as_bytes()[10] == b'T', "{created}");
        let pid = t.pid("c1");
        assert!(fs::exists(format!("/proc/{pid}")).unwrap());

        t.corten(&["start", "c1"]).ok();
        assert_eq!(t.status("c1"), "running");
        assert_eq!(t.pid("c1"), pid, "the process that create made is the container's");
        let name = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n";
        assert!(name(), "start returns when the program runs");

        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        let state = t.document("c1");
        assert!(state["pid"].is_null() || state["pid"] == 0, "a stopped container has no process: {state}");
        t.corten(&["delete", "c1"]).ok();
        t.corten(&["state", "c1"]).fails("does not exist");
    });
}

/// runtime.md#create: an id in use is an error that changes nothing.
#[test]
fn create_with_an_id_in_use_fails() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.create(&bundle, "c1");
        let before = t.document("c1");
        t.corten(&["create", "--bundle", bundle.path(), "c1"]).fails("exist");
        t.corten(&["run", "--bundle", bundle.path(), "c1"]).fails("exist");
        assert_eq!(t.document("c1"), before);
        t.delete("c1");
        t.create(&bundle, "c1");
        t.delete("c1");
    });
}

/// runtime.md#operations: an id that does not exist is an error. Engines look for its words.
#[test]
fn an_unknown_id_is_an_error_in_the_words_of_engines() {
    isolated(|t| {
        for args in [
            &["state", "c9"][..],
            &["start", "c9"],
            &["kill", "c9", "TERM"],
            &["delete", "c9"],
            &["exec", "c9", "/bin/true"],
            &["ps", "c9"],
        ] {
            t.corten(args).fails("does not exist");
        }
        t.corten(&["delete", "--force", "c9"]).ok();
        t.corten(&["delete", "-f", "c9"]).ok();
    });
}

/// An id is the name of one directory. No other path can be reached with it.
#[test]
fn an_id_cannot_lead_out_of_the_state_root() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let (longest, long) = ("x".repeat(246), "x".repeat(247));
        for id in ["", ".", "..", "a/b", "../c1", "/c1", "a b", "a\nb", long.as_str(), "ü", "a*"] {
            t.corten(&["create", "--bundle", bundle.path(), id]).fails("");
            t.corten(&["state", id]).fails("");
            t.corten(&["kill", id, "KILL"]).fails("");
        }
        for id in ["a", "A.b_c+d-e", "0", "a..b", longest.as_str()] {
            t.create(&bundle, id);
            t.delete(id);
        }
    });
}

/// runtime.md#delete: a container that is not stopped is not deleted, and is not changed.
#[test]
fn delete_of_a_running_container_without_force_fails() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.create(&bundle, "c1");
        let pid = t.pid("c1");
        t.corten(&["delete", "c1"]).fails("");
        assert_eq!((t.status("c1").as_str(), t.pid("c1")), ("created", pid));
        t.corten(&["start", "c1"]).ok();
        t.corten(&["delete", "c1"]).fails("");
        assert_eq!((t.status("c1").as_str(), t.pid("c1")), ("running", pid));
        t.corten(&["delete", "--force", "c1"]).ok();
        assert!(
            !fs::exists(format!("/proc/{pid}/exe")).unwrap()
                || fs::read_link(format!("/proc/{pid}/exe")).is_err()
        );

        t.create(&bundle, "c2");
        t.corten(&["delete", "-f", "c2"]).ok();
    });
}

/// runtime.md#start: only a created container is started.
#[test]
fn start_requires_a_created_container() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let pid = t.start(&bundle, "c1");
        t.corten(&["start", "c1"]).fails("");
        assert_eq!((t.status("c1").as_str(), t.pid("c1")), ("running", pid));
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        t.corten(&["start", "c1"]).fails("");
        t.corten(&["delete", "c1"]).ok();
    });
}

/// Engines parse the bytes of the pid file with atoi. It exists when create returns, and does not exist after
/// an error.
#[test]
fn the_pid_file_has_only_digits_when_create_returns() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let file = t.dir.join("pid");
        let path = file.to_str().unwrap();
        t.corten(&["create", "--pid-file", path, "--bundle", bundle.path(), "c1"]).ok();
        assert_eq!(fs::read_to_string(&file).unwrap(), t.pid("c1").to_string());
        t.delete("c1");
        fs::remove_file(&file).unwrap();

        bundle.edit(|config| config["process"]["args"] = json!(["/no/such"]));
        t.corten(&["create", &format!("--pid-file={path}"), "--bundle", bundle.path(), "c1"])
            .fails("/no/such");
        assert!(!file.exists());
        bundle.edit(|config| config["process"]["args"] = json!(["/bin/true"]));
        t.corten(&["create", "--pid-file", "/no/such/dir/pid", "--bundle", bundle.path(), "c1"])
            .fails("/no/such/dir");
    });
}

/// Without --bundle the working directory is the bundle. Options can follow the id.
#[test]
fn without_bundle_the_working_directory_is_the_bundle() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.call(t.command(&["create", "c1"]).current_dir(&bundle.dir)).ok();
        assert_eq!(t.document("c1")["bundle"], bundle.path());
        t.corten(&["delete", "c1", "--force"]).ok();
        t.call(t.command(&["create", "c1", "-b", "."]).current_dir(&bundle.dir)).ok();
        assert_eq!(t.document("c1")["bundle"], bundle.path());
        t.delete("c1");
    });
}

/// create reports it in the words that docker and podman translate to 126 and 127.
#[test]
fn create_reports_a_program_that_cannot_be_executed() {
    isolated(|t| {
        for (program, user, text) in [
            ("/no/such", 0, r#"exec: "/no/such": stat /no/such: no such file or directory"#),
            ("nosuch", 0, r#"exec: "nosuch": executable file not found in $PATH"#),
            ("", 0, r#"exec: "": executable file not found in $PATH"#),
            ("/etc/passwd", 0, r#"exec: "/etc/passwd": permission denied"#),
            ("/root/secret/true", 1000, r#"exec: "/root/secret/true":"#),
            ("/root/secret/true", 1000, "permission denied"),
            ("/etc", 0, r#"exec: "/etc": is a directory: permission denied"#),
        ] {
            let bundle = t.bundle(|config| {
                config["process"]["args"] = json!([program]);
                config["process"]["user"]["uid"] = json!(user);
            });
            let secret = bundle.rootfs().join("root/secret");
            fs::create_dir(&secret).unwrap();
            fs::copy(t.dir.join("busybox"), secret.join("true")).unwrap();
            t.call(Command::new("chmod").arg("700").arg(&secret)).ok();
            t.corten(&["create", "--bundle", bundle.path(), "c1"]).fails(text).exits(1);
            t.corten(&["run", "--bundle", bundle.path(), "c1"]).fails(text);
        }
    });
}

/// runtime.md#start: an error of execve is an error of `start`. Otherwise the container would die without a
/// message.
#[test]
fn start_reports_an_error_of_execve() {
    isolated(|t| {
        let bundle = t.bundle(|config| config["process"]["args"] = json!(["/my-program"]));
        let program = bundle.rootfs().join("my-program");
        let install = |text: &str| {
            fs::write(&program, text).unwrap();
            t.call(Command::new("chmod").arg("755").arg(&program)).ok();
        };
        install("\0not a program");
        t.create(&bundle, "c1");
        t.corten(&["start", "c1"]).fails("exec format error").exits(1);
        t.until("c1", "stopped");
        t.corten(&["delete", "c1"]).ok();

        install("#!/bin/sh\n");
        t.create(&bundle, "c2");
        fs::remove_file(&program).unwrap();
        t.corten(&["start", "c2"])
            .fails(r#"exec: "/my-program": stat /my-program: no such file or directory"#);
        t.corten(&["delete", "--force", "c2"]).ok();

        install("#!/no/such/interpreter\n");
        t.corten(&["run", "--bundle", bundle.path(), "c3"]).fails("no such file or directory");
    });
}

/// runtime.md#start: `process` can be missing for create and is required for start.
#[test]
fn start_without_a_process_fails() {
    isolated(|t| {
        let bundle = t.bundle(|config| {
            config.as_object_mut().unwrap().remove("process");
        });
        t.create(&bundle, "c1");
        assert_eq!(t.status("c1"), "created");
        t.corten(&["start", "c1"]).fails("process");
        t.corten(&["delete", "--force", "c1"]).ok();
    });
}

/// runtime.md#create: changes to config.json after create have no effect.
#[test]
fn later_changes_of_the_configuration_have_no_effect() {
    isolated(|t| {
        let bundle = t.bundle(|config| {
            config["process"]["args"] = json!(["/bin/sh", "-c", "echo $WORD >/out; sleep 1000"]);
            config["annotations"] = json!({"key": "old"});
            config["process"]["env"].as_array_mut().unwrap().push(json!("WORD=old"));
        });
        t.create(&bundle, "c1");
        bundle.write("{ broken");
        t.corten(&["start", "c1"]).ok();
        let out = bundle.rootfs().join("out");
        assert!(poll(Duration::from_secs(10), || {
            fs::read_to_string(&out).is_ok_and(|text| text == "old\n")
        }));
        assert_eq!(t.document("c1")["annotations"]["key"], "old");
        assert_eq!(t.exec("c1", "echo $PWD").ok(), "/\n");
        t.delete("c1");
    });
}

/// Signals by number, and by name with or without SIG. The default is TERM.
#[test]
fn kill_takes_a_signal_by_number_or_name() {
    isolated(|t| {
        let script = "for s in HUP USR1 USR2 WINCH TERM; do trap \"echo $s >>/out\" $s; done; \
                      while :; do sleep 0.01; done";
        let bundle = t.bundle(|config| config["process"]["args"] = json!(["/bin/sh", "-c", script]));
        t.start(&bundle, "c1");
        let caught = || {
            let pid = t.pid("c1");
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.lines().any(|line| line.starts_with("SigCgt:") && line.contains("8004a03"))
        };
        poll(Duration::from_secs(5), caught);
        let rows: &[(&[&str], &str)] = &[
            (&["kill", "c1", "1"], "HUP"),
            (&["kill", "c1", "USR1"], "USR1"),
            (&["kill", "c1", "SIGUSR2"], "USR2"),
            (&["kill", "c1", "winch"], "WINCH"),
            (&["kill", "c1", "sigusr1"], "USR1"),
            (&["kill", "c1"], "TERM"),
            (&["kill", "--all", "c1", "SIGHUP"], "HUP"),
            (&["kill", "-a", "c1", "15"], "TERM"),
        ];
        let out = bundle.rootfs().join("out");
        for (args, expected) in rows {
            let _ = fs::remove_file(&out);
            t.corten(args).ok();
            let came = poll(Duration::from_secs(10), || {
                fs::read_to_string(&out).is_ok_and(|text| text.lines().any(|line| line == *expected))
            });
            assert!(came, "{args:?}: no {expected}");
        }
        for signal in ["NOSUCH", "SIG", "0x9", "-1", "65", "99999999999", ""] {
            t.corten(&["kill", "--", "c1", signal]).fails("");
        }
        assert_eq!(t.status("c1"), "running");
        t.delete("c1");
    });
}

/// runtime.md#kill: a stopped container gets no signal. containerd looks for the words of the error.
#[test]
fn kill_of_a_stopped_container_fails() {
    isolated(|t| {
        let bundle = t.bundle(|config| config["process"]["args"] = json!(["/bin/true"]));
        t.create(&bundle, "c1");
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        t.corten(&["kill", "c1", "TERM"]).fails("container not running");
        t.corten(&["kill", "c1", "KILL"]).fails("container not running");
        t.corten(&["delete", "c1"]).ok();
    });
}

/// After the payload exits the container is stopped until delete, also if its process is not reaped.
#[test]
fn a_container_is_stopped_after_its_payload_exits() {
    isolated(|t| {
        let bundle = t.bundle(|config| config["process"]["args"] = json!(["/bin/true"]));
        t.create(&bundle, "c1");
        t.corten(&["start", "c1"]).ok();
        t.until("c1", "stopped");
        crate::harness::reap();
        assert_eq!(t.status("c1"), "stopped");
        t.corten(&["exec", "c1", "/bin/true"]).fails("").exits(255);
        t.corten(&["delete", "c1"]).ok();
    });
}

/// A process that the init leaves running dies with the container, with and without a pid namespace.
#[test]
fn delete_kills_every_process_of_the_container() {
    isolated(|t| {
        for pid_namespace in [true, false] {
            let bundle = t.bundle(|config| {
                config["process"]["args"] =
                    json!(["/bin/sh", "-c", "setsid sleep 1001 & setsid sleep 1002 & sleep 1000"]);
                if !pid_namespace {
                    without_namespace(config, "pid");
                }
            });
            t.start(&bundle, "c1");
            let count = || processes().iter().filter(|line| line.contains("sleep 100")).count();
            assert!(poll(Duration::from_secs(10), || count() >= 3));
            t.corten(&["kill", "c1", "KILL"]).ok();
            t.until("c1", "stopped");
            t.corten(&["delete", "c1"]).ok();
            // A process leaves its cgroup a moment before it is a zombie.
            let gone = poll(Duration::from_secs(10), || processes().is_empty());
            assert!(gone, "{:?}", processes());
        }
    });
}

/// In the host's pid namespace, `kill --all` also ends the container's processes after its init has died.
#[test]
fn kill_all_reaches_processes_after_the_death_of_init() {
    isolated(|t| {
        let bundle = t.bundle(|config| {
            config["process"]["args"] =
                json!(["/bin/sh", "-c", "setsid sleep 1001 & setsid sleep 1002 & exec sleep 1000"]);
            without_namespace(config, "pid");
        });
        t.start(&bundle, "c1");
        let all = || processes().len();
        assert!(poll(Duration::from_secs(10), || all() == 3));
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        t.corten(&["kill", "--all", "c1", "KILL"]).ok();
        assert!(poll(Duration::from_secs(10), || all() == 0));
        t.corten(&["kill", "--all", "c1", "KILL"]).ok();
        t.corten(&["delete", "c1"]).ok();
    });
}

/// `delete --force` does not wait for a hook that does not end.
#[test]
fn delete_with_force_ends_a_start_that_hangs() {
    isolated(|t| {
        let bundle = t.bundle(|config| {
            config["hooks"] = json!({"startContainer": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]});
        });
        t.create(&bundle, "c");
        let start = t.spawn(t.command(&["start", "c"]).stdin(Stdio::null()));
        assert!(poll(Duration::from_secs(10), || processes().iter().any(|line| line.contains("sleep 1000"))));
        t.delete("c");
        start.wait().fails("was killed before its program ran");
    });
}

/// A hook of the host ends with the command that waits for it, because no other process knows of it.
#[test]
fn a_killed_command_leaves_no_hook() {
    isolated(|t| {
        for kind in ["prestart", "createRuntime", "createContainer", "poststart"] {
            let bundle = t.bundle(|config| {
                config["hooks"][kind] = json!([{"path": "/bin/sleep", "args": ["sleep", "1234"]}]);
            });
            let create = ["create", "--bundle", bundle.path(), "c"];
            let command = if kind == "poststart" {
                t.corten(&create).ok();
                &["start", "c"][..]
            } else {
                &create
            };
            let hook = || processes().iter().any(|line| line.contains("sleep 1234"));
            let mut running = t.spawn(t.command(command).stdin(Stdio::null()));
            assert!(poll(Duration::from_secs(10), hook), "{kind}");
            running.child.kill().unwrap();
            running.wait();
            assert!(poll(Duration::from_secs(30), || !hook()), "{kind}");
            t.delete("c");
        }
    });
}

/// After a reboot, files and cgroups at the recorded paths belong to others.
#[test]
fn delete_does_not_touch_cgroups_of_a_later_boot() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c");
        let other = t.dir.join("other");
        fs::create_dir_all(other.join("c")).unwrap();
        let state = fs::read_to_string(t.state().join("c/state.json")).unwrap();
        let mut state: serde_json::Value = serde_json::from_str(&state).unwrap();
        state["bootId"] = json!("another");
        fs::write(other.join("c/state.json"), state.to_string()).unwrap();
        t.corten(&["--root", other.to_str().unwrap(), "delete", "--force", "c"]).ok();
        assert!(!other.join("c").exists());
        assert_eq!(t.status("c"), "running");
        t.delete("c");
    });
}

/// The record is damaged or lost. Processes in the cgroup that the kept configuration names belong to the
/// container.
#[test]
fn delete_without_a_record_kills_the_processes_in_the_configured_cgroup() {
    isolated(|t| {
        let named = t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/a/b"));
        let before = traces(t);
        for bundle in [t.bundle(|_| {}), named] {
            for damage in [Some(""), Some("{\"id\": \"c1\""), Some("null"), Some("[]"), None] {
                t.start(&bundle, "c1");
                let file = t.state().join("c1/state.json");
                damage.map_or_else(|| fs::remove_file(&file), |text| fs::write(&file, text)).unwrap();
                t.corten(&["state", "c1"]).fails(if damage.is_some() { "state.json" } else { "c1" });
                t.corten(&["delete", "c1"]).fails(if damage.is_some() { "state.json" } else { "c1" });
                let out = t.corten(&["delete", "--force", "c1"]);
                assert!(out.stderr.contains("removing cgroup /"), "{}", out.stderr);
                out.exits(0);
                // It is also lost whether the parent cgroups were made for the container.
                let all = directories(Path::new("/sys/fs/cgroup"));
                all.iter().filter(|dir| dir.ends_with("a")).for_each(|dir| fs::remove_dir(dir).unwrap());
                assert_eq!(remains(t, &before), [] as [&str; 0]);
            }
        }
    });
}

/// Without a mount namespace the container's mounts are on the host, and their places are lost with the
/// record.
#[test]
fn delete_without_a_record_warns_of_mounts_on_the_host() {
    isolated(|t| {
        for namespace in [true, false] {
            let bundle = t.bundle(|c| {
                if !namespace {
                    without_namespace(c, "mount");
                }
            });
            t.start(&bundle, "c1");
            fs::remove_file(t.state().join("c1/state.json")).unwrap();
            let out = t.corten(&["delete", "--force", "c1"]).exits(0);
            let warned =
                out.stderr.contains("linux.namespaces: without mount, the container's mounts may be left");
            assert_eq!(warned, !namespace, "{}", out.stderr);
            let rootfs = format!(" {} ", bundle.rootfs().display());
            let left = || fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&rootfs);
            assert_eq!(left(), !namespace);
            if left() {
                t.call(Command::new("umount").arg("-l").arg(bundle.rootfs())).ok();
            }
        }
    });
}

/// A process is not killed unless it certainly belongs to the container. The directory stays and the command
/// fails until that is known.
#[test]
fn delete_without_a_record_keeps_a_container_that_may_run() {
    isolated(|t| {
        let lose = |files: &[&str]| {
            files.iter().for_each(|file| fs::remove_file(t.state().join("c1").join(file)).unwrap());
        };
        let fails = |text: &str| {
            for _ in 0..2 {
                t.corten(&["delete", "--force", "c1"]).fails(text);
                assert!(t.state().join("c1").exists());
            }
        };
        // Only the lost record had the directory that a relative path begins at.
        let pid = t.start(&t.bundle(|c| c["linux"]["cgroupsPath"] = json!("a/b")), "c1");
        lose(&["state.json"]);
        fails(&format!("process {pid} is in its cgroup (hint: end it first)"));
        drop(Command::new("kill").args(["-KILL", &pid.to_string()]).status());
        assert!(poll(Duration::from_secs(5), || t.corten(&["delete", "--force", "c1"]).code == 0));
        // The path belongs to another container, according to its record.
        let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/a/b"));
        t.start(&bundle, "c1");
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        // A killed process is in its cgroups until it is reaped.
        assert!(poll(Duration::from_secs(5), || {
            crate::harness::reap();
            t.corten(&["create", "-b", bundle.path(), "c2"]).code == 0
        }));
        t.corten(&["start", "c2"]).ok();
        let pid = t.pid("c2");
        lose(&["state.json"]);
        fails(&format!("process {pid} is in its cgroup"));
        assert_eq!(t.status("c2"), "running");
        t.delete("c2");
        t.delete("c1");
        // Neither the record nor the configuration is left.
        let pid = t.start(&bundle, "c1");
        let kept = t.state().join("c1/config.json");
        let text = fs::read(&kept).unwrap();
        lose(&["state.json"]);
        fs::write(&kept, "").unwrap();
        fails("what may still run is not known");
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        fs::write(&kept, text).unwrap();
        t.corten(&["delete", "--force", "c1"]).exits(0);
        for dir in directories(Path::new("/sys/fs/cgroup")).iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    });
}
