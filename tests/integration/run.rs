//! `run`: a container in the foreground or detached, from its creation to its deletion.

use std::fs;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Output, isolated, poll};

/// run exits with the payload's exit status, or with 128+n if a signal ended it.
#[test]
fn run_exits_with_the_status_of_the_payload() {
    isolated(|t| {
        for (script, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)] {
            t.run(script, |_| {}).exits(code);
        }
        // A process with pid 1 is immune to its own signals. Therefore the process that dies here is not the
        // init of its namespace.
        for (signal, code) in [("KILL", 137), ("TERM", 143), ("SEGV", 139)] {
            let edit = |config: &mut _| crate::harness::without_namespace(config, "pid");
            t.run(&format!("kill -{signal} $$"), edit).exits(code);
        }
        let out = t.run("echo out; echo err >&2; exit 3", |_| {}).exits(3);
        assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", "err\n"));
    });
}

/// A failure of the runtime itself is reported in one line, and nothing is left.
#[test]
fn a_failure_before_the_payload_is_reported_in_one_line() {
    isolated(|t| {
        t.run("true", |config| config["process"]["args"] = json!(["/no/such"])).fails("/no/such");
        t.run("true", |config| config["process"]["cwd"] = json!("relative")).fails("process.cwd");
        t.corten(&["run", "--bundle", "/no/such/bundle", "r"]).fails("/no/such/bundle");
    });
}

/// Standard input reaches the payload.
#[test]
fn the_payload_reads_the_callers_stdin() {
    isolated(|t| {
        let bundle = t.bundle(|config| config["process"]["args"] = json!(["cat"]));
        let input = bundle.dir.join("my-input");
        fs::write(&input, "some words\n").unwrap();
        let mut command = t.command(&["run", "-b", bundle.path(), "r"]);
        let out = t.spawn(command.stdin(fs::File::open(input).unwrap())).wait();
        assert_eq!(out.ok(), "some words\n");
    });
}

/// A payload can exit before the runtime looks at it. Its end must be noticed in each of two hundred runs.
#[test]
fn a_payload_that_exits_at_once_is_not_missed() {
    isolated(|t| {
        let bundle = t.bundle(|config| config["process"]["args"] = json!(["/bin/true"]));
        for _ in 0..200 {
            t.run_bundle(&bundle).ok();
        }
    });
}

/// Signals sent to the foreground runtime reach the payload, which chooses its own exit status.
#[test]
fn run_forwards_signals_to_the_payload() {
    isolated(|t| {
        for (signal, name) in [(1, "HUP"), (2, "INT"), (3, "QUIT"), (10, "USR1"), (12, "USR2"), (15, "TERM")]
        {
            let script =
                format!("trap 'echo caught; exit 5' {name}; echo ready; while :; do sleep 0.01; done");
            let bundle = t.bundle(|config| config["process"]["args"] = json!(["/bin/sh", "-c", script]));
            let running = t.spawn(&mut t.command(&["run", "-b", bundle.path(), "r"]));
            let ready = || fs::read_to_string(&running.stdout).is_ok_and(|text| text.contains("ready"));
            assert!(poll(Duration::from_secs(10), ready));
            t.call(Command::new("kill").arg(format!("-{signal}")).arg(running.child.id().to_string())).ok();
            let out = running.wait().exits(5);
            assert_eq!(out.stdout, "ready\ncaught\n", "{name}");
        }
    });
}

/// SIGWINCH is about the runtime's terminal. A payload without a terminal does not get it, as with runc: httpd
/// stops on it.
#[test]
fn a_payload_without_a_terminal_gets_no_sigwinch() {
    isolated(|t| {
        let script = "trap 'echo resized' WINCH; trap 'echo caught; exit 5' TERM; echo ready; \
                      while :; do sleep 0.01; done";
        let bundle = t.bundle(|config| config["process"]["args"] = json!(["/bin/sh", "-c", script]));
        let running = t.spawn(&mut t.command(&["run", "-b", bundle.path(), "r"]));
        let ready = || fs::read_to_string(&running.stdout).is_ok_and(|text| text.contains("ready"));
        assert!(poll(Duration::from_secs(10), ready));
        for signal in ["-WINCH", "-TERM"] {
            t.call(Command::new("kill").arg(signal).arg(running.child.id().to_string())).ok();
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(running.wait().exits(5).stdout, "ready\ncaught\n");
    });
}

/// A foreground runtime that is killed leaves the container, which can be deleted.
#[test]
fn a_killed_run_leaves_a_container_that_can_be_deleted() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let mut running = t.spawn(&mut t.command(&["run", "-b", bundle.path(), "r"]));
        let is_running = || t.corten(&["state", "r"]).stdout.contains("running");
        assert!(poll(Duration::from_secs(10), is_running));
        running.child.kill().unwrap();
        running.wait().exits(137);
        t.delete("r");
    });
}

/// --detach returns when the program runs. The container is deleted by its owner.
#[test]
fn a_detached_container_outlives_run() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let file = t.dir.join("pid");
        for flag in ["--detach", "-d"] {
            t.corten(&["run", flag, "--pid-file", file.to_str().unwrap(), "-b", bundle.path(), "r"]).ok();
            assert_eq!(t.status("r"), "running");
            let pid = fs::read_to_string(&file).unwrap();
            assert_eq!(pid, t.pid("r").to_string());
            assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "sleep\n");
            t.delete("r");
        }
        bundle.edit(|config| config["process"]["args"] = json!(["/no/such"]));
        t.corten(&["run", "-d", "-b", bundle.path(), "r"]).fails("/no/such");
    });
}

/// --keep leaves a stopped container. Without it `run` deletes the container.
#[test]
fn keep_leaves_a_stopped_container() {
    isolated(|t| {
        let bundle = t.bundle(|config| config["process"]["args"] = json!(["/bin/sh", "-c", "exit 4"]));
        t.corten(&["run", "--keep", "-b", bundle.path(), "r"]).exits(4);
        assert_eq!(t.status("r"), "stopped");
        t.corten(&["delete", "r"]).ok();
        t.corten(&["run", "-b", bundle.path(), "r"]).exits(4);
        t.corten(&["state", "r"]).fails("does not exist");
    });
}

/// Only the standard streams and the descriptors of --preserve-fds are open in the container. One that is not
/// open is an error, as with runc.
#[test]
fn only_preserved_descriptors_are_open_in_the_container() {
    isolated(|t| {
        let bundle = t.bundle(|config| {
            config["process"]["args"] =
                json!(["/bin/sh", "-c", "cd /proc/self/fd; for n in *; do [ -e $n ] && echo $n; done; true"]);
        });
        let file = fs::File::open("/dev/null").unwrap();
        assert!(file.as_raw_fd() > 2);
        let run = |redirect: &str, flags: &str| {
            let line = format!("exec \"$0\" --root \"$1\" run {flags} -b \"$2\" r {redirect}");
            let runtime = t.command(&[]);
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(line).arg(runtime.get_program()).arg(t.state()).arg(bundle.path());
            t.call(&mut shell)
        };
        let open =
            |out: Output| out.ok().split_whitespace().map(|n| n.parse::<u32>().unwrap()).collect::<Vec<_>>();
        assert_eq!(open(run("3</dev/null 5</dev/null 9</dev/null", "")), [0, 1, 2]);
        assert_eq!(open(run("3</dev/null 4</dev/null 5</dev/null", "--preserve-fds 2")), [0, 1, 2, 3, 4]);
        run("3</dev/null 5</dev/null 7</dev/null", "--preserve-fds=3")
            .fails("--preserve-fds 3: unable to stat preserved-fd 1 (of 3): descriptor 4 is not open");
        t.corten(&["create", "--preserve-fds=1", "-b", bundle.path(), "r"]).fails("descriptor 3 is not open");
    });
}

/// sd_listen_fds(3): sockets that systemd passes stay open, and LISTEN_PID is the pid inside the container.
#[test]
fn sockets_of_systemd_are_passed() {
    isolated(|t| {
        let script = "echo $LISTEN_FDS $LISTEN_PID; [ -e /proc/self/fd/3 ] && echo open";
        let bundle = t.bundle(|config| config["process"]["args"] = json!(["/bin/sh", "-c", script]));
        let run = |options: &str| {
            let mut shell = Command::new("sh");
            let line = format!(
                "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" --root \"$1\" run {options} -b \"$2\" r 3</dev/null"
            );
            shell.arg("-c").arg(line).arg(t.command(&[]).get_program()).arg(t.state()).arg(bundle.path());
            t.call(&mut shell)
        };
        assert_eq!(run("").ok(), "1 1\nopen\n");
        // The descriptors of --preserve-fds come after them.
        run("--preserve-fds 1").fails("preserved-fd 0 (of 1): descriptor 4 is not open");
    });
}

/// Every spelling of an option that engines use: before or after the id, with = or a blank.
#[test]
fn options_can_precede_or_follow_the_id() {
    isolated(|t| {
        let bundle = t.bundle(|config| config["process"]["args"] = json!(["/bin/true"]));
        let option = format!("--bundle={}", bundle.path());
        for args in [
            &["run", option.as_str(), "r"][..],
            &["run", "r", option.as_str()],
            &["run", "-b", bundle.path(), "r"],
            &["run", "--no-subreaper", "--no-new-keyring", option.as_str(), "r"],
            &["run", "-no-subreaper", option.as_str(), "r"],
        ] {
            t.corten(args).ok();
        }
        t.corten(&[
            "--systemd-cgroup=false",
            "--debug",
            "--rootless=false",
            "--criu",
            "criu",
            "run",
            &option,
            "r",
        ])
        .exits(0);
        t.corten(&["--cgroup-manager=cgroupfs", "run", &option, "r"]).ok();
        t.corten(&["--cgroup-manager", "disabled", "run", &option, "r"]).ok();
    });
}
