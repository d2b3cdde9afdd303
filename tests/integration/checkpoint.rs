//! `checkpoint`, with a CRIU that does what a test asks for (examples/criu.rs).

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use corten::testing::criu::message::{CgroupsMode, NetworkLock, Options, PageServer, Type};
use serde_json::{Value, json};

use crate::harness::{Bundle, Criu, Output, Test, View, isolated, isolated_in};

/// Fails unless the command has failed with this message.
#[track_caller]
pub fn says(output: Output, text: &str) {
    let output = output.exits(1);
    assert_eq!(output.stderr, format!("error: {text}\n"));
}

/// Rows of a script of CRIU's, the error, and the status afterwards.
fn failures(images: &str) -> Vec<(Value, String, &'static str)> {
    let log = format!(" (the whole log: {images}/dump.log)");
    let mut rows = Vec::new();
    let mut row = |script: Value, text: &str, status| rows.push((script, text.to_string(), status));
    row(json!({"version": [3, 15]}), "CRIU 3.15 is too old: 3.16 or newer is needed", "running");
    row(json!({"version": [3, 15, 9]}), "CRIU 3.15.9 is too old: 3.16 or newer is needed", "running");
    row(json!({"version": false}), "CRIU does not tell its version", "running");
    for point in ["start", "version", "pre-dump", "network-lock", "post-dump", "answer"] {
        // At the answer, the processes have been saved and killed.
        let status = if point == "answer" { "stopped" } else { "running" };
        let mut at = |what: &str, text: &str| row(json!({"at": {point: what}}), text, status);
        at("exit", "CRIU has ended without an answer (exit status 3)");
        at("die", "CRIU has ended without an answer (killed by signal 9)");
        if point != "start" {
            at("half", "CRIU's answer is not understood");
            at("garbage", "CRIU's answer is not understood");
            at("refuse", "CRIU failed");
        }
    }
    for point in ["version", "answer"] {
        let status = if point == "answer" { "stopped" } else { "running" };
        row(json!({"at": {point: "other type"}}), "CRIU's answer is about another request", status);
    }
    row(json!({"at": {"version": "twice"}}), "CRIU's answer is about another request", "running");
    row(json!({"status": 7}), "CRIU ended with status 7", "stopped");
    let mut refuses = |more: Value, text: &str| {
        let mut script = json!({"at": {"pre-dump": "refuse"}});
        script.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row(script, text, "running");
    };
    refuses(json!({"errno": 1}), "CRIU failed: operation not permitted");
    refuses(json!({"errno": 1, "message": " "}), "CRIU failed: operation not permitted");
    refuses(json!({"message": "Error (criu/cr-dump.c:1): the reason"}), "CRIU failed: the reason");
    refuses(json!({"errno": 3, "message": "two\nlines"}), "CRIU failed: no such process: two\\nlines");
    let line = |text: &str| format!("(00.1)      7: Error (criu/cr-dump.c:1): {text}\n");
    let summary = line("Dumping FAILED.");
    refuses(json!({"errno": 3, "log": line("the reason") + &summary}), &format!("criu: the reason{log}"));
    refuses(json!({"errno": 3, "log": summary}), &format!("CRIU failed: no such process{log}"));
    refuses(json!({"log": ""}), &format!("CRIU failed{log}"));
    rows
}

/// A failed checkpoint names the reason, and the container runs on.
#[test]
fn a_failed_checkpoint_leaves_the_container_running() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c1");
        for (script, text, status) in failures(criu.images()) {
            println!("{script}");
            criu.script(&script);
            says(criu.checkpoint(t, &["c1"]), &format!("checkpoint c1: {text}"));
            t.until("c1", status);
            if status == "running" {
                t.exec("c1", "true").ok();
            } else {
                t.corten(&["delete", "c1"]).ok();
                t.start(&bundle, "c1");
            }
        }
        t.delete("c1");
    });
}

/// A log of an earlier checkpoint, or a file that cannot be one, is not taken for this one's.
#[test]
fn an_error_never_quotes_an_earlier_log() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        t.start(&t.bundle(|_| {}), "c1");
        let [log, other] = ["dump.log", "other"].map(|name| criu.images.join(name));
        let old = "(00.1) Error (criu/cr-dump.c:1): the earlier reason\n";
        fs::write(&other, old).unwrap();
        let failed = |script: Value| {
            criu.script(&script);
            says(criu.checkpoint(t, &["c1"]), "checkpoint c1: CRIU failed");
        };
        for point in ["version", "pre-dump"] {
            fs::write(&log, old).unwrap();
            failed(json!({"at": {point: "refuse"}}));
            symlink(&other, &log).unwrap();
            failed(json!({"at": {point: "refuse"}}));
            assert!(fs::read_to_string(&other).unwrap() == old && !log.exists());
        }
        fs::create_dir(&log).unwrap();
        criu.checkpoint(t, &["c1"]).fails("dump.log: ");
        t.delete("c1");
    });
}

/// A container that CRIU has left frozen is thawed after a failed checkpoint. One that was paused stays so.
fn thawed(t: &Test, cgroup: &str) {
    let criu = Criu::new(&t.dir);
    t.start(&t.bundle(|c| c["linux"]["cgroupsPath"] = json!(cgroup)), "c1");
    for what in ["exit", "die", "refuse", "garbage"] {
        criu.script(&json!({"leaves_frozen": true, "at": {"post-dump": what}}));
        criu.checkpoint(t, &["c1"]).fails("CRIU");
        assert_eq!(t.status("c1"), "running", "{what}");
        t.exec("c1", "true").ok();
    }
    for option in ["--leave-running", "--pre-dump"] {
        criu.script(&json!({"leaves_frozen": true}));
        criu.checkpoint(t, &[option, "c1"]).ok();
        assert_eq!(t.status("c1"), "running", "{option}");
    }
    t.corten(&["pause", "c1"]).ok();
    for option in ["--leave-running", "--pre-dump"] {
        criu.checkpoint(t, &[option, "c1"]).ok();
        assert_eq!(t.status("c1"), "paused", "{option}");
    }
    criu.script(&json!({"at": {"post-dump": "die"}}));
    criu.checkpoint(t, &["c1"]).fails("CRIU");
    assert_eq!(t.status("c1"), "paused");
    t.corten(&["resume", "c1"]).ok();
    t.exec("c1", "true").ok();
    t.corten(&["pause", "c1"]).ok();
    criu.script(&json!({}));
    criu.checkpoint(t, &["c1"]).ok();
    t.corten(&["state", "c1"]).fails("does not exist");
}

#[test]
fn a_checkpoint_leaves_the_container_as_frozen_as_it_was() {
    isolated(|t| thawed(t, "/c1"));
}

#[test]
fn a_checkpoint_leaves_the_container_as_frozen_as_it_was_on_v1() {
    isolated_in(View::V1, |t| thawed(t, "/c1"));
}

/// Returns the options of a request without those that every request has.
fn others(options: Options) -> Options {
    let expected = Options {
        images_dir_fd: options.images_dir_fd,
        work_dir_fd: options.work_dir_fd,
        pid: options.pid,
        log_level: Some(4),
        log_file: Some("dump.log".into()),
        notify_scripts: Some(true),
        root: options.root.clone(),
        manage_cgroups: Some(true),
        empty_ns: Some(libc::CLONE_NEWNET as u32),
        freeze_cgroup: options.freeze_cgroup.clone(),
        orphan_pts_master: Some(true),
        ..Options::default()
    };
    let same = Options {
        log_level: options.log_level,
        log_file: options.log_file.clone(),
        notify_scripts: options.notify_scripts,
        manage_cgroups: options.manage_cgroups,
        empty_ns: options.empty_ns,
        orphan_pts_master: options.orphan_pts_master,
        ..expected.clone()
    };
    assert_eq!(same, expected);
    Options {
        images_dir_fd: 0,
        work_dir_fd: None,
        pid: None,
        log_level: None,
        log_file: None,
        notify_scripts: None,
        root: None,
        manage_cgroups: None,
        empty_ns: None,
        freeze_cgroup: None,
        orphan_pts_master: None,
        ..options
    }
}

/// Returns what [`others`] leaves if nothing is asked for.
fn nothing() -> Options {
    let no = Some(false);
    Options {
        leave_running: no,
        ext_unix_sk: no,
        tcp_established: no,
        shell_job: no,
        file_locks: no,
        auto_dedup: no,
        link_remap: no,
        tcp_skip_in_flight: no,
        lazy_pages: no,
        ..Options::default()
    }
}

/// Options, and what they change in the request.
pub type Row = (&'static [&'static str], fn(&mut Options));

/// Those of both verbs.
pub const COMMON: &[Row] = &[
    (&[], |_| {}),
    (&["--tcp-established"], |o| o.tcp_established = Some(true)),
    (&["--ext-unix-sk"], |o| o.ext_unix_sk = Some(true)),
    (&["--shell-job"], |o| o.shell_job = Some(true)),
    (&["--file-locks"], |o| o.file_locks = Some(true)),
    (&["--lazy-pages"], |o| o.lazy_pages = Some(true)),
    (&["--auto-dedup"], |o| o.auto_dedup = Some(true)),
    (&["--empty-ns", "network"], |_| {}),
    (&["--manage-cgroups-mode", "soft"], |o| o.cgroups_mode = Some(CgroupsMode::Soft.into())),
    (&["--manage-cgroups-mode", "full"], |o| o.cgroups_mode = Some(CgroupsMode::Full.into())),
    (&["--manage-cgroups-mode", "strict"], |o| o.cgroups_mode = Some(CgroupsMode::Strict.into())),
    (&["--manage-cgroups-mode", "ignore"], |o| o.cgroups_mode = Some(CgroupsMode::Ignore.into())),
];

/// Each option reaches CRIU as the member of the request that runc sets.
#[test]
fn every_option_of_checkpoint_reaches_criu() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        t.start(&t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/c1")), "c1");
        fs::create_dir(t.dir.join("parent")).unwrap();
        let rows: &[Row] = &[
            (&["--link-remap"], |o| o.link_remap = Some(true)),
            (&["--tcp-skip-in-flight"], |o| o.tcp_skip_in_flight = Some(true)),
            (&["--network-lock", "iptables"], |o| o.network_lock = Some(NetworkLock::Iptables.into())),
            (&["--network-lock", "nftables"], |o| o.network_lock = Some(NetworkLock::Nftables.into())),
            (&["--network-lock", "skip"], |o| o.network_lock = Some(NetworkLock::Skip.into())),
            (&["--parent-path", "../parent"], |o| {
                (o.parent_img, o.track_mem) = (Some("../parent".into()), Some(true));
            }),
            (&["--page-server", "[::1]:27"], |o| {
                o.page_server = Some(PageServer { address: Some("::1".into()), port: Some(27) });
            }),
        ];
        for (args, edit) in COMMON.iter().chain(rows) {
            criu.checkpoint(t, &[args, &["--leave-running", "c1"][..]].concat()).ok();
            let options = criu.options(Type::Dump);
            let mut expected = Options { leave_running: Some(true), ..nothing() };
            edit(&mut expected);
            let bare = Options {
                external: Vec::new(),
                external_mounts: Vec::new(),
                cgroup_yard: None,
                ..others(options.clone())
            };
            assert_eq!(bare, expected, "{args:?}");
            assert_eq!(options.pid, Some(t.pid("c1")));
            assert_eq!(options.freeze_cgroup.as_deref(), Some("/sys/fs/cgroup/c1"));
            assert_eq!(criu.take(Type::FeatureCheck).is_some(), args.contains(&"--lazy-pages"), "{args:?}");
        }
        criu.checkpoint(t, &["--pre-dump", "c1"]).ok();
        let options = criu.options(Type::PreDump);
        let features = criu.take(Type::FeatureCheck).unwrap().features.unwrap();
        assert_eq!((features.mem_track, features.lazy_pages), (Some(true), None));
        assert_eq!(
            Options { cgroup_yard: None, ..others(options) },
            Options { track_mem: Some(true), ..nothing() }
        );
        t.delete("c1");
    });
}

/// After a checkpoint the container is deleted as by `delete`, with its poststop hooks.
#[test]
fn a_checkpoint_deletes_the_container_unless_it_runs_on() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let hooks = t.dir.join("hooks");
        let bundle = t.bundle(|c| {
            let script = format!("cat >/dev/null; echo poststop >>{}", hooks.display());
            c["hooks"]["poststop"] =
                json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]);
        });
        t.start(&bundle, "c1");
        for option in ["--leave-running", "--pre-dump"] {
            criu.checkpoint(t, &[option, "c1"]).ok();
            assert!(!hooks.exists());
            t.exec("c1", "true").ok();
        }
        criu.checkpoint(t, &["c1"]).ok();
        assert_eq!(fs::read_to_string(&hooks).unwrap(), "poststop\n");
        t.corten(&["state", "c1"]).fails("does not exist");
        assert_eq!(
            fs::metadata(criu.images.join("descriptors.json")).unwrap().permissions().mode() & 0o777,
            0o600
        );
    });
}

/// --print-stats prints what Podman reads. A checkpoint is done also if CRIU has written no statistics.
#[test]
fn statistics_are_printed_as_json() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        t.start(&t.bundle(|_| {}), "c1");
        let args = ["--print-stats", "--leave-running", "c1"];
        let printed: Value = serde_json::from_str(&criu.checkpoint(t, &args).ok()).unwrap();
        let expected = json!({"freezing_time": 1, "frozen_time": 2, "memdump_time": 3, "memwrite_time": 4,
            "pages_scanned": 5, "pages_written": 7});
        assert_eq!(printed, expected);
        // Those of the earlier checkpoint are not this one's.
        criu.script(&json!({"stats": false}));
        let output = criu.checkpoint(t, &["--print-stats", "c1"]).exits(0);
        assert_eq!(output.stderr, "warning: --print-stats: CRIU has written no stats-dump, ignoring\n");
        assert_eq!(output.stdout, "");
    });
}

#[test]
fn only_a_running_or_paused_container_can_be_saved() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let bundle = t.bundle(|_| {});
        t.create(&bundle, "c1");
        says(criu.checkpoint(t, &["c1"]), "checkpoint c1: cannot checkpoint a container that is created");
        t.corten(&["start", "c1"]).ok();
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        says(criu.checkpoint(t, &["c1"]), "checkpoint c1: cannot checkpoint a container that is stopped");
        says(criu.checkpoint(t, &["c2"]), "checkpoint c2: container \"c2\" does not exist");
        assert_eq!(criu.take(Type::Version), None);
        t.delete("c1");
    });
}

/// --criu, and criu in PATH.
#[test]
fn a_program_that_is_not_there_is_reported() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        t.start(&t.bundle(|_| {}), "c1");
        let path = |name: &str| t.dir.join(name).to_str().unwrap().to_string();
        let call =
            |program: &str| t.corten(&["--criu", program, "checkpoint", "--image-path", criu.images(), "c1"]);
        let cannot = |program: &str, why: &str| {
            format!("checkpoint c1: CRIU (hint: --criu PATH is another one): exec {program}: {why}")
        };
        says(call(&path("none")), &cannot(&path("none"), "no such file or directory"));
        fs::write(path("file"), "#!/bin/sh\n").unwrap();
        says(call(&path("file")), &cannot(&path("file"), "permission denied"));
        fs::create_dir(path("directory")).unwrap();
        says(call(&path("directory")), &cannot(&path("directory"), "permission denied"));
        fs::write(path("text"), "text").unwrap();
        fs::set_permissions(path("text"), Permissions::from_mode(0o755)).unwrap();
        says(call(&path("text")), &cannot(&path("text"), "exec format error"));
        let nowhere = "the program my-other is not in PATH (hint: install CRIU, or --criu PATH)";
        says(call("my-other"), &format!("checkpoint c1: {nowhere}"));
        let mut command =
            t.command(&["--criu", "my-criu", "checkpoint", "--image-path", criu.images(), "c1"]);
        t.call(command.env("PATH", format!("/nowhere:{}", t.dir.display()))).ok();
    });
}

/// Returns a command with descriptor 7 opened by the shell, and the runtime's words.
fn with_descriptor(t: &Test, redirection: &str, criu: &Criu, args: &[&str]) -> Output {
    let runtime = t.command(&["--criu", criu.program(), "checkpoint", "--image-path", criu.images()]);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("exec \"$@\" {redirection}"), "sh"]);
    t.call(shell.arg(runtime.get_program()).args(runtime.get_args()).args(args))
}

/// --status-fd gets a byte as soon as pages can be fetched.
#[test]
fn the_status_descriptor_gets_a_byte() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        t.start(&t.bundle(|_| {}), "c1");
        let file = t.dir.join("status");
        let shown = file.display();
        let lazy = ["--leave-running", "--lazy-pages", "--status-fd", "7", "c1"];
        with_descriptor(t, &format!("7>{shown}"), &criu, &lazy).ok();
        assert_eq!(fs::read(&file).unwrap(), [0]);
        with_descriptor(t, "", &criu, &lazy).fails("--status-fd 7: is not open").exits(1);
        with_descriptor(t, &format!("7<{shown}"), &criu, &lazy)
            .fails("--status-fd 7: is not open for writing");
        with_descriptor(t, &format!("7>{shown}"), &criu, &["--status-fd", "7", "c1"])
            .fails("--status-fd needs --lazy-pages");
        criu.checkpoint(t, &["--lazy-pages", "--status-fd", "2", "c1"])
            .fails("--status-fd 2: is not the number of a further descriptor");
        // A failed write is the reason, and CRIU undoes the checkpoint.
        with_descriptor(t, "7>/dev/full", &criu, &lazy)
            .fails("error: checkpoint c1: --status-fd: no space left on device\n")
            .fails(": no space left on device");
        t.exec("c1", "true").ok();
        t.delete("c1");
    });
}

/// --image-path and --work-path: directories that are made with the mode 0700, and what else there can be.
#[test]
fn directories_are_made_for_root_alone() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        t.start(&t.bundle(|_| {}), "c1");
        let call = |images: &str, work: &[&str]| {
            let args = ["--criu", criu.program(), "checkpoint", "--leave-running", "--image-path", images];
            let mut command = t.command(&[&args, work, &["c1"][..]].concat());
            t.call(command.current_dir(&t.dir))
        };
        call("a/b", &["--work-path", "c/d"]).ok();
        for dir in ["a", "a/b", "c", "c/d"] {
            let mode = fs::metadata(t.dir.join(dir)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700, "{dir}");
        }
        assert!(t.dir.join("a/b/descriptors.json").exists() && t.dir.join("c/d/stats-dump").exists());
        symlink("a", t.dir.join("link")).unwrap();
        call("link/e", &[]).ok();
        assert!(t.dir.join("a/e/descriptors.json").exists());
        fs::write(t.dir.join("file"), "").unwrap();
        call("file", &[]).fails("--image-path file: ");
        call("file/f", &[]).fails("--image-path file/f: ");
        call("a", &["--work-path", "file"]).fails("--work-path");
        // The file of an earlier checkpoint is replaced, and no link is followed.
        symlink(t.dir.join("file"), t.dir.join("a/descriptors.json")).unwrap();
        call("a", &[]).ok();
        assert_eq!(fs::read(t.dir.join("file")).unwrap(), b"");
        assert!(t.dir.join("a/descriptors.json").symlink_metadata().unwrap().is_file());
        t.delete("c1");
    });
}

#[test]
fn wrong_options_of_checkpoint_are_reported() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        t.start(&t.bundle(|_| {}), "c1");
        for (args, text) in [
            (["--parent-path", "/images"], "--parent-path: must be relative to --image-path"),
            (["--parent-path", "../none"], "open(\"../none\"): no such file or directory"),
            (["--parent-path", "descriptors.json"], "open(\"descriptors.json\"): "),
            (["--page-server", "host"], "--page-server \"host\" is not ADDRESS:PORT"),
            (["--empty-ns", "pid"], "--empty-ns: namespace \"pid\" is not supported (hint: network)"),
            (["--manage-cgroups-mode", "some"], "soft, full, strict or ignore"),
            (["--network-lock", "some"], "iptables, nftables or skip"),
            (["--status-fd", "x"], "--status-fd"),
        ] {
            criu.checkpoint(t, &[&args, &["c1"][..]].concat()).fails(text);
        }
        criu.script(&json!({"features": false}));
        let no = "this kernel does not track changes of memory";
        criu.checkpoint(t, &["--pre-dump", "c1"]).fails(&format!("checkpoint c1: --pre-dump: {no}"));
        criu.checkpoint(t, &["--lazy-pages", "c1"])
            .fails("checkpoint c1: --lazy-pages: this kernel has no userfaultfd that CRIU can use");
        assert_eq!(criu.take(Type::Dump), None);
        t.exec("c1", "true").ok();
        t.delete("c1");
    });
}

/// A file that the annotation names is CRIU's configuration. It runs programs, so only root may have written it.
#[test]
fn the_configuration_file_of_the_annotation_must_be_roots() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let file = |name: &str, mode: u32| {
            let path = t.dir.join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path.to_str().unwrap().to_string()
        };
        let [good, group, all] = [file("good", 0o600), file("group", 0o660), file("all", 0o646)];
        let foreign = file("foreign", 0o600);
        std::os::unix::fs::chown(&foreign, Some(1000), None).unwrap();
        let link = t.dir.join("link");
        symlink(&foreign, &link).unwrap();
        let run = |bundle: &Bundle, path: &str| {
            bundle.edit(|c| c["annotations"]["org.criu.config"] = json!(path));
            t.start(bundle, "c1");
            let output = criu.checkpoint(t, &["--leave-running", "c1"]);
            t.delete("c1");
            output
        };
        let bundle = t.bundle(|_| {});
        run(&bundle, &good).ok();
        assert_eq!(criu.options(Type::Dump).config_file.as_deref(), Some(&*good));
        run(&bundle, "").ok();
        assert_eq!(criu.options(Type::Dump).config_file, None);
        let own = bundle.rootfs().join("etc/criu.conf");
        fs::write(&own, "").unwrap();
        let must = "must be a file that only root can write, and not the container's own";
        let dots = format!("{}/../{}", t.dir.display(), Path::new(&good).display());
        for (path, why) in [
            (&*group, must),
            (&*all, must),
            (&*foreign, must),
            (link.to_str().unwrap(), must),
            (own.to_str().unwrap(), must),
            ("/", must),
            ("/nowhere", "cannot be read: No such file or directory (os error 2)"),
            ("good", "is not an absolute path without \"..\""),
            (&*dots, "is not an absolute path without \"..\""),
        ] {
            says(
                run(&bundle, path),
                &format!("checkpoint c1: annotations[\"org.criu.config\"]: {path} {why}"),
            );
        }
    });
}
