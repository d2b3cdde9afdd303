//! `restore`, with a CRIU that does what a test asks for (examples/criu.rs).

use std::fs::{self};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;

use corten::testing::criu::message::{ExternalMount, InheritFd, Options, Type};
use corten::testing::sys::tty;
use serde_json::{Value, json};

use crate::checkpoint::{COMMON, Row};
use crate::harness::{Bundle, Criu, Output, Test, View, isolated, isolated_in, remains, traces};
use crate::terminal::Socket;

/// Fails unless the command has failed with this message.
#[track_caller]
fn says(output: Output, text: &str) {
    let output = output.exits(1);
    assert_eq!(output.stderr, format!("error: {text}\n"));
}

/// Returns a hook that writes its container's status, and exits with a status.
fn hook(file: &Path, name: &str, status: i32) -> Value {
    let script = format!(
        "echo {name} $(sed 's/.*\"status\":\"\\([a-z]*\\)\".*/\\1/') >>{}; exit {status}",
        file.display()
    );
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
}

/// Rows of a script of CRIU's and the error.
fn failures(images: &str) -> Vec<(Value, String)> {
    let log = format!(" (the whole log: {images}/restore.log)");
    let mut rows = Vec::new();
    let mut row = |script: Value, text: &str| rows.push((script, text.to_string()));
    row(json!({"version": [3, 15]}), "CRIU 3.15 is too old: 3.16 or newer is needed");
    row(json!({"version": false}), "CRIU does not tell its version");
    for point in [
        "start",
        "version",
        "pre-restore",
        "setup-namespaces",
        "post-setup-namespaces",
        "post-restore",
        "pre-resume",
        "post-resume",
        "answer",
    ] {
        let mut at = |what: &str, text: &str| row(json!({"at": {point: what}}), text);
        at("exit", "CRIU has ended without an answer (exit status 3)");
        at("die", "CRIU has ended without an answer (killed by signal 9)");
        if point != "start" {
            at("half", "CRIU's answer is not understood");
            at("garbage", "CRIU's answer is not understood");
            at("refuse", "CRIU failed");
        }
    }
    row(json!({"at": {"answer": "other type"}}), "CRIU's answer is about another request");
    row(json!({"status": 7}), "CRIU ended with status 7");
    for point in ["setup-namespaces", "post-restore"] {
        let text = format!("CRIU reports no process at its step {point}");
        row(json!({"at": {point: "no pid"}}), &text);
    }
    row(
        json!({"at": {"setup-namespaces": "wrong pid"}}),
        "CRIU reports process 2147483647, which does not exist",
    );
    row(json!({"at": {"post-restore": "wrong pid"}}), "CRIU reports another process than before");
    let line = "(00.1)      1: Error (criu/files.c:1): the reason\n(00.2) Error (criu/cr-restore.c:1): Restoring FAILED.\n";
    row(json!({"log": line, "at": {"post-restore": "refuse"}}), &format!("criu: the reason{log}"));
    row(json!({"log": line, "at": {"post-restore": "die"}}), &format!("criu: the reason{log}"));
    rows
}

/// A failed restore names the reason. No process, mount, cgroup or directory is left.
fn nothing_is_left(t: &Test, cgroup: &str) {
    let criu = Criu::new(&t.dir);
    let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!(cgroup));
    fs::create_dir_all(t.state()).unwrap();
    let before = traces(t);
    for (script, text) in failures(criu.images()) {
        println!("{script}");
        criu.script(&script);
        let pid_file = t.dir.join("pid");
        let args = ["-d", "-b", bundle.path(), "--pid-file", pid_file.to_str().unwrap(), "c1"];
        says(criu.restore(t, &args), &format!("restore c1: {text}"));
        assert_eq!(remains(t, &before), [""; 0]);
    }
    criu.script(&json!({}));
    for option in ["--pid-file", "--pidfd-socket"] {
        let nowhere = t.dir.join("none/none");
        let args = ["-d", "-b", bundle.path(), option, nowhere.to_str().unwrap(), "c1"];
        criu.restore(t, &args).fails(&format!("restore c1: {option}"));
        assert_eq!(remains(t, &before), [""; 0]);
    }
    criu.script(&json!({"at": {"post-restore": "refuse"}}));
    says(criu.restore(t, &["-b", bundle.path(), "c1"]), "restore c1: CRIU failed");
}

#[test]
fn a_failed_restore_leaves_nothing() {
    isolated(|t| nothing_is_left(t, "/c1"));
}

#[test]
fn a_failed_restore_leaves_nothing_on_v1() {
    isolated_in(View::V1, |t| nothing_is_left(t, "/c1"));
}

/// prestart and createRuntime hooks run when the namespaces exist. If one fails, what was restored is killed.
#[test]
fn hooks_run_at_a_restore_and_can_fail_it() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let log = t.dir.join("hooks");
        let kinds =
            ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
        let bundle = t.bundle(|c| {
            kinds.iter().for_each(|kind| c["hooks"][kind] = hook(&log, kind, 0));
        });
        criu.restore(t, &["-d", "-b", bundle.path(), "c1"]).ok();
        assert_eq!(fs::read_to_string(&log).unwrap(), "prestart created\ncreateRuntime created\n");
        t.delete("c1");
        assert!(fs::read_to_string(&log).unwrap().ends_with("createRuntime created\npoststop stopped\n"));
        let before = traces(t);
        for kind in ["prestart", "createRuntime"] {
            fs::write(&log, "").unwrap();
            bundle.edit(|c| c["hooks"][kind] = hook(&log, kind, 3));
            let output = criu.restore(t, &["-d", "-b", bundle.path(), "c1"]);
            output.fails(&format!("error: restore c1: hooks.{kind}[0]")).exits(1);
            let ran = fs::read_to_string(&log).unwrap();
            assert!(ran.starts_with("prestart created\n") && ran.ends_with("poststop stopped\n"), "{ran}");
            assert_eq!(remains(t, &before), [""; 0]);
            bundle.edit(|c| c["hooks"][kind] = hook(&log, kind, 0));
        }
    });
}

/// All other commands treat a restored container like every other one.
#[test]
fn every_command_knows_a_restored_container() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["annotations"] = json!({"some": "annotation"});
        });
        let pid_file = t.dir.join("pid");
        let socket = Socket::new(t, "pidfd");
        let args = ["--pid-file", pid_file.to_str().unwrap(), "--pidfd-socket", socket.path()];
        criu.restore(t, &[&["-d", "-b", bundle.path()], &args[..], &["c1"]].concat()).ok();
        drop(socket.master());
        let pid = t.pid("c1");
        assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid.to_string());
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(cgroup.contains("0::/../c1\n") || cgroup.contains("0::/c1\n"), "{cgroup}");
        assert_eq!(t.document("c1")["annotations"], json!({"some": "annotation"}));
        assert_eq!(t.status("c1"), "running");
        let list: Value = serde_json::from_str(&t.corten(&["list", "--format", "json"]).ok()).unwrap();
        assert_eq!((&list[0]["id"], &list[0]["status"]), (&json!("c1"), &json!("running")));
        assert_eq!(t.exec("c1", "cat /proc/1/comm; ls -d /proc/keys").ok(), "sh\n/proc/keys\n");
        assert!(t.corten(&["ps", "c1"]).ok().contains(&pid.to_string()));
        t.corten(&["pause", "c1"]).ok();
        assert_eq!(t.status("c1"), "paused");
        t.corten(&["resume", "c1"]).ok();
        let resources = json!({"devices": [{"allow": false, "access": "rwm"}]});
        fs::write(t.dir.join("resources"), resources.to_string()).unwrap();
        t.corten(&["update", "--resources", t.dir.join("resources").to_str().unwrap(), "c1"]).ok();
        // What this CRIU restores has none of the process's own attributes. The cgroup and the mounts are as configured.
        let applied = t.corten(&["state", "--applied", "c1"]).fails("not applied as asked: process.");
        assert!(!applied.stderr.contains("linux.") && !applied.stderr.contains("mounts"), "{applied:?}");
        t.corten(&["gc"]).ok();
        assert_eq!(t.status("c1"), "running");
        t.corten(&["start", "c1"]).fails("running");
        says(
            criu.restore(t, &["-d", "-b", bundle.path(), "c1"]),
            "restore c1: container with ID \"c1\" already exists",
        );
        // It can be saved again, and restored under another id.
        criu.checkpoint(t, &["c1"]).ok();
        criu.restore(t, &["-d", "-b", bundle.path(), "c2"]).ok();
        t.corten(&["kill", "c2", "TERM"]).ok();
        t.until("c2", "stopped");
        t.corten(&["delete", "c2"]).ok();
    });
}

/// In the foreground a restore waits as `run` does.
#[test]
fn a_restore_in_the_foreground_returns_the_programs_status() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        criu.script(&json!({"program": "echo out; echo err >&2; exit 7"}));
        let bundle = t.bundle(|_| {});
        let output = criu.restore(t, &["-b", bundle.path(), "c1"]).exits(7);
        assert_eq!((&*output.stdout, &*output.stderr), ("out\n", "err\n"));
        t.corten(&["state", "c1"]).fails("does not exist");
        criu.restore(t, &["--keep", "-b", bundle.path(), "c1"]).exits(7);
        assert_eq!(t.status("c1"), "stopped");
        t.delete("c1");
        criu.script(&json!({"program": "kill -KILL $$; sleep 1000 & kill -KILL $!; wait $!; exit $?"}));
        criu.restore(t, &["--no-subreaper", "-b", bundle.path(), "c1"]).exits(137);
        // Signals are passed on to the program.
        criu.script(&json!({"program": "trap 'exit 5' TERM; echo ready; sleep 1000 & wait"}));
        let mut command = t.command(&[
            "--criu",
            criu.program(),
            "restore",
            "--image-path",
            criu.images(),
            "-b",
            bundle.path(),
            "c1",
        ]);
        let running = t.spawn(command.stdin(Stdio::null()));
        let ready = || fs::read_to_string(&running.stdout).unwrap() == "ready\n";
        assert!(crate::harness::poll(std::time::Duration::from_secs(20), ready));
        let pid = nix::unistd::Pid::from_raw(running.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        running.wait().exits(5);
    });
}

/// --print-stats. Without statistics, what has been restored runs all the same.
#[test]
fn statistics_of_a_restore_are_printed_as_json() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let bundle = t.bundle(|_| {});
        let args = ["-d", "--print-stats", "-b", bundle.path(), "c1"];
        let printed: Value = serde_json::from_str(&criu.restore(t, &args).ok()).unwrap();
        assert_eq!(printed, json!({"forking_time": 3, "restore_time": 4, "pages_restored": 5}));
        t.delete("c1");
        criu.script(&json!({"stats": false}));
        let output = criu.restore(t, &args).exits(0);
        assert_eq!(output.stderr, "warning: --print-stats: CRIU has written no stats-restore, ignoring\n");
        assert_eq!(t.status("c1"), "running");
        t.delete("c1");
    });
}

/// The master of a restored terminal goes to the console socket, or is relayed.
#[test]
fn a_restored_terminal_is_the_callers() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let bundle = t.bundle(|c| c["process"]["terminal"] = json!(true));
        let socket = Socket::new(t, "console");
        let with_socket = ["-d", "-b", bundle.path(), "--console-socket", socket.path(), "c1"];
        criu.script(&json!({"terminal": true, "program": "echo here; exec sleep 1000"}));
        criu.restore(t, &with_socket).ok();
        let mut master = socket.master();
        let mut bytes = [0; 6];
        master.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"here\r\n");
        assert_eq!(tty::size(master.as_fd()), Some((0, 0)));
        t.delete("c1");
        criu.script(&json!({"terminal": true, "program": "[ -t 0 ] && echo terminal; exit 4"}));
        let output = criu.restore(t, &["-b", bundle.path(), "c1"]).exits(4);
        assert_eq!(output.stdout, "terminal\r\n");
        says(
            criu.restore(t, &["-d", "-b", bundle.path(), "c1"]),
            "restore c1: process.terminal: with --detach needs --console-socket",
        );
        for what in ["die", "refuse", "garbage"] {
            criu.script(&json!({"terminal": true, "at": {"orphan-pts-master": what}}));
            criu.restore(t, &with_socket).fails("restore c1: CRIU");
        }
        // A checkpoint without a terminal.
        criu.script(&json!({"program": "exit 6"}));
        let warning = "warning: process.terminal: the checkpoint has no terminal, ignoring\n";
        assert_eq!(criu.restore(t, &["-b", bundle.path(), "c1"]).exits(6).stderr, warning);
        assert_eq!(criu.restore(t, &["--shell-job", "-b", bundle.path(), "c1"]).exits(6).stderr, "");
    });
}

/// Each option reaches CRIU as the member of the request that runc sets.
#[test]
fn every_option_of_restore_reaches_criu() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let bundle = t.bundle(|_| {});
        let no = Some(false);
        let rows: &[Row] = &[
            (&["--tcp-close"], |o| o.tcp_close = Some(true)),
            (&["--lsm-profile", "apparmor:p"], |o| o.lsm_profile = Some("apparmor:p".into())),
            (&["--lsm-mount-context", "some"], |o| o.lsm_mount_context = Some("some".into())),
        ];
        for (args, edit) in COMMON.iter().chain(rows) {
            criu.restore(t, &[&["-d", "-b", bundle.path()], *args, &["c1"]].concat()).ok();
            let options = criu.options(Type::Restore);
            let mut expected = Options {
                images_dir_fd: options.images_dir_fd,
                work_dir_fd: options.work_dir_fd,
                root: options.root.clone(),
                external_mounts: options.external_mounts.clone(),
                cgroup_roots: options.cgroup_roots.clone(),
                cgroup_yard: options.cgroup_yard.clone(),
                evasive_devices: Some(true),
                log_level: Some(4),
                log_file: Some("restore.log".into()),
                notify_scripts: Some(true),
                restore_sibling: Some(true),
                manage_cgroups: Some(true),
                empty_ns: Some(libc::CLONE_NEWNET as u32),
                orphan_pts_master: Some(true),
                ext_unix_sk: no,
                tcp_established: no,
                tcp_close: no,
                shell_job: no,
                file_locks: no,
                auto_dedup: no,
                lazy_pages: no,
                ..Options::default()
            };
            edit(&mut expected);
            assert_eq!(options, expected, "{args:?}");
            let null = ExternalMount { key: "/dev/null".into(), value: "/dev/shm/null".into() };
            assert!(options.external_mounts.contains(&null));
            assert!(options.cgroup_roots.iter().any(|root| root.path.ends_with("/corten-c1")), "{options:?}");
            t.delete("c1");
        }
        let file = t.dir.join("criu.conf");
        fs::write(&file, "").unwrap();
        bundle.edit(|c| c["annotations"]["org.criu.config"] = json!(file));
        criu.restore(t, &["-d", "-b", bundle.path(), "c1"]).ok();
        assert_eq!(criu.options(Type::Restore).config_file.as_deref(), file.to_str());
        t.delete("c1");
        let own = bundle.rootfs().join("etc/criu.conf");
        fs::write(&own, "").unwrap();
        bundle.edit(|c| c["annotations"]["org.criu.config"] = json!(own));
        criu.restore(t, &["-d", "-b", bundle.path(), "c1"])
            .fails("annotations[\"org.criu.config\"]")
            .exits(1);
    });
}

/// The names of pipes and of the host's files are given CRIU as the restore's own streams. All others are paths of the images.
#[test]
fn the_streams_of_the_checkpoint_become_those_of_the_restore() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let bundle = t.bundle(|_| {});
        criu.describe(&json!(["/dev/null", "pipe:[7]", "file[2:3]", "pipe:[8]"]).to_string());
        criu.restore(t, &["-d", "-b", bundle.path(), "c1"]).ok();
        let given = |key: &str, fd| InheritFd { key: key.into(), fd };
        let expected = vec![given("pipe:[7]", 1), given("file[2:3]", 2)];
        assert_eq!(criu.options(Type::Restore).inherit_fd, expected);
        t.delete("c1");
        // Whatever else the images name is no descriptor of the runtime's.
        for text in [r#"[]"#, r#"["socket:[1]","anon_inode:x","extRootNetNS"]"#, r#"["","",""]"#] {
            criu.describe(text);
            criu.restore(t, &["-d", "-b", bundle.path(), "c1"]).ok();
            assert_eq!(criu.options(Type::Restore).inherit_fd, [], "{text}");
            t.delete("c1");
        }
    });
}

/// Namespaces that the container joins are CRIU's to join, network and pid namespaces by descriptor.
#[test]
fn namespaces_are_joined_by_criu() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let other = t.start(&t.bundle(|_| {}), "c0");
        let bundle = t.bundle(|c| {
            let path = |kind: &str| json!(format!("/proc/{other}/ns/{kind}"));
            for namespace in c["linux"]["namespaces"].as_array_mut().unwrap() {
                match namespace["type"].as_str().unwrap() {
                    "network" => namespace["path"] = path("net"),
                    "ipc" => namespace["path"] = path("ipc"),
                    "uts" => namespace["path"] = path("uts"),
                    _ => {}
                }
            }
            c.as_object_mut().unwrap().remove("hostname");
        });
        criu.restore(t, &["-d", "-b", bundle.path(), "c1"]).ok();
        let options = criu.options(Type::Restore);
        let names: Vec<_> = options.inherit_fd.iter().map(|fd| fd.key.as_str()).collect();
        assert_eq!(names, ["extRootNetNS"]);
        let mut kinds: Vec<_> = options.join_ns.iter().map(|join| join.kind.as_str()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["ipc", "uts"]);
        t.delete("c1");
        // A checkpoint has the name that the restore gives a descriptor for.
        t.start(&bundle, "c1");
        criu.checkpoint(t, &["c1"]).ok();
        let inode = fs::read_link(format!("/proc/{other}/ns/net")).unwrap();
        let name = format!("{}:extRootNetNS", inode.to_str().unwrap().replace("net:", "net"));
        let external = criu.options(Type::Dump).external;
        assert!(external.contains(&name), "{external:?} {name}");
        t.delete("c0");
    });
}

#[test]
fn what_criu_cannot_restore_is_refused() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let fails = |edit: &dyn Fn(&mut Value), text: &str| {
            let bundle: Bundle = t.bundle(|c| edit(c));
            criu.restore(t, &["-d", "-b", bundle.path(), "c1"]).fails(text).exits(1);
        };
        fails(
            &|c| crate::harness::without_namespace(c, "mount"),
            "restore c1: linux.namespaces: a restore needs a new mount namespace",
        );
        fails(
            &|c| {
                let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces
                    .iter_mut()
                    .filter(|n| n["type"] == "cgroup")
                    .for_each(|n| n["path"] = json!("/proc/self/ns/cgroup"));
            },
            "restore c1: linux.namespaces: CRIU joins no cgroup namespace",
        );
        let listener = t.dir.join("agent");
        let _agent = std::os::unix::net::UnixListener::bind(&listener).unwrap();
        fails(
            &|c| {
                c["linux"]["seccomp"] = json!({
                    "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": listener,
                    "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
                });
            },
            "restore c1: linux.seccomp: CRIU restores no filter that asks an agent",
        );
        assert_eq!(criu.take(Type::Version), None);
        says(
            t.corten(&["--criu", "no-criu", "restore", "-b", t.bundle(|_| {}).path(), "c1"]),
            "restore c1: the program no-criu is not in PATH (hint: install CRIU, or --criu PATH)",
        );
    });
}
