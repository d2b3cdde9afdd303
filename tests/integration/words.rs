//! Words that programs and people look for in runc's messages. They are in corten's messages too, where the
//! same thing happens.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::{isolated, without_namespace};

/// runc's test suite, and scripts that were written for runc, look for these words after `create`.
#[test]
fn errors_of_create_have_the_words_of_runc() {
    type Edit = fn(&mut Value);
    let rows: &[(Edit, &str)] = &[
        (|c| c["linux"]["memoryPolicy"] = json!({}), "invalid memory policy mode"),
        (
            |c| c["linux"]["memoryPolicy"] = json!({"mode": "INTERLEAVE", "nodes": "0"}),
            "invalid memory policy mode",
        ),
        (|c| c["linux"]["memoryPolicy"] = json!({"nodes": "0-7"}), "invalid memory policy mode"),
        (
            |c| {
                c["linux"]["memoryPolicy"] = json!({"mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES", "bad"]});
            },
            "linux.memoryPolicy.flags[1]: invalid memory policy flag",
        ),
        (
            |c| c["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0-9876543210"}),
            "linux.memoryPolicy.nodes: invalid memory policy node",
        ),
        (
            |c| c["linux"]["memoryPolicy"] = json!({"mode": "MPOL_DEFAULT", "nodes": "0-7"}),
            "mode requires 0 nodes but got 8",
        ),
        (
            |c| {
                without_namespace(c, "network");
                c["linux"]["netDevices"] = json!({"dummy0": {}});
            },
            "unable to move network devices without a NET namespace",
        ),
        (
            |c| {
                c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/agent.sock",
                    "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]});
            },
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
    ];
    isolated(|t| {
        for (edit, words) in rows {
            let bundle = t.bundle(edit);
            let out = t.corten(&["create", "-b", bundle.path(), "c1"]).fails(words);
            assert!(out.stderr.starts_with("error: create c1: "), "{out:?}");
        }
    });
}

/// A hook that fails is named as runc names it, for every kind of hook that can fail a command.
#[test]
fn a_hook_that_fails_is_named_as_by_runc() {
    isolated(|t| {
        for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"] {
            let hooks = json!([{"path": "/bin/true"}, {"path": "/bin/false"}]);
            let bundle = t.bundle(|c| {
                // In earlier versions a poststart hook that fails stops nothing.
                c["ociVersion"] = json!("1.3.0");
                c["hooks"] = json!({ kind: hooks });
            });
            let out = t.corten(&["run", "-b", bundle.path(), "c1"]);
            out.fails(&format!("hooks.{kind}[1] /bin/false: error running {kind} hook #1: "));
        }
    });
}

/// A script whose interpreter is missing: the error of execve has the path that was executed, on one line.
#[test]
fn a_missing_interpreter_is_an_error_of_exec() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["/run.sh"]));
        let script = bundle.rootfs().join("run.sh");
        fs::write(&script, "#!/mmnnttbb foo bar\nsh\n").unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let out =
            t.corten(&["run", "-b", bundle.path(), "c1"]).fails("exec /run.sh: no such file or directory");
        assert_eq!(out.stderr.lines().count(), 1, "{out:?}");
        bundle.edit(|c| c["process"]["args"] = json!(["/bin/sleep", "1000"]));
        t.start(&bundle, "c1");
        let out = t.corten(&["exec", "c1", "/run.sh"]).fails("exec /run.sh: no such file or directory");
        assert_eq!(out.stderr.lines().count(), 1, "{out:?}");
        t.delete("c1");
    });
}

/// A container does not share a cgroup, does not start in a frozen one, and no exec leaves its cgroup.
#[test]
fn errors_about_cgroups_have_the_words_of_runc() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/same"));
        t.start(&bundle, "c1");
        for verb in ["create", "run"] {
            let out = t.corten(&[verb, "-b", bundle.path(), "c2"]);
            out.fails("container's cgroup is not empty");
        }
        let exec = |cgroup: &str| t.corten(&["exec", "--cgroup", cgroup, "c1", "/bin/true"]);
        exec("..").fails("bad sub cgroup path").exits(255);
        let missing = exec("nonexistent").exits(255);
        let words = [" adding pid ", " to cgroups ", "no such file or directory"];
        assert!(words.iter().all(|words| missing.stderr.contains(words)), "{missing:?}");
        t.corten(&["pause", "c1"]).ok();
        t.corten(&["exec", "c1", "/bin/true"]).fails("cannot exec in a paused container").exits(255);
        t.corten(&["resume", "c1"]).ok();
        t.corten(&["resume", "c1"]).fails("container not paused");
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        for args in [&["kill", "c1", "0"][..], &["pause", "c1"], &["update", "--pids-limit", "5", "c1"]] {
            t.corten(args).fails("container not running");
        }
        t.corten(&["exec", "c1", "/bin/true"]).fails("cannot exec in a stopped container").exits(255);
        t.delete("c1");
    });
}

/// Without an agent at `listenerPath`, the error says what was tried.
#[test]
fn a_missing_seccomp_agent_is_named() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/agent.sock",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
        });
        let out = t.corten(&["run", "-b", bundle.path(), "c1"]);
        out.fails("linux.seccomp.listenerPath \"/no/agent.sock\": failed to connect with seccomp agent: ");
    });
}

/// Every line about a failure can be found by `grep -i error`.
#[test]
fn every_failure_says_that_it_is_an_error() {
    isolated(|t| {
        for args in [
            &["state", "none"][..],
            &["kill", "none"],
            &["bogus"],
            &[],
            &["create", "-b", "/no/such", "c1"],
            &["exec", "none", "true"],
            &["--log", "/no/such/dir/log", "list"],
        ] {
            let out = t.corten(args);
            assert!(out.code != 0 && out.stderr.starts_with("error: "), "{args:?}: {out:?}");
            assert_eq!(out.stderr.lines().count(), 1, "{args:?}: {out:?}");
        }
    });
}

/// Capabilities that the container does not get: a warning of a configuration that a person has written, and
/// none of one that `runc spec` writes, whose inheritable set is missing.
#[test]
fn ambient_capabilities_that_cannot_be_raised_are_warned_of_once() {
    isolated(|t| {
        let run = |inheritable: Value| {
            let bundle = t.bundle(|c| {
                c["process"]["args"] = json!(["/bin/true"]);
                c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
                let all = c["process"]["capabilities"]["permitted"].clone();
                c["process"]["capabilities"]["ambient"] = all;
                c["process"]["capabilities"]["inheritable"] = inheritable;
            });
            t.corten(&["run", "-b", bundle.path(), "c1"]).exits(0).stderr
        };
        assert_eq!(run(Value::Null), "");
        let told = run(json!(["CAP_KILL", "CAP_NET_BIND_SERVICE"]));
        let words = "warning: process.capabilities.ambient: can't raise ambient capability CAP_AUDIT_WRITE: ";
        assert!(told.starts_with(words) && told.lines().count() == 1, "{told}");
    });
}

/// The warning that the runtime lacks a capability belongs to the creation of the container. The standard
/// error of `exec` is that of its program, except for capabilities that its command line asks for.
#[test]
fn exec_does_not_warn_of_what_the_runtime_lacks() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            for set in ["bounding", "permitted"] {
                c["process"]["capabilities"][set] = json!(["CAP_SYS_BOOT"]);
            }
            c["process"]["capabilities"]["effective"] = json!([]);
        });
        let words = "the runtime itself lacks CAP_SYS_BOOT, ignoring";
        let lacking = |args: &[&str]| {
            let mut command = std::process::Command::new("setpriv");
            let runtime = t.command(args);
            command.args(["--bounding-set", "-sys_boot"]).arg(runtime.get_program()).args(runtime.get_args());
            t.call(&mut command)
        };
        let told = lacking(&["create", "-b", bundle.path(), "c1"]).exits(0).stderr;
        assert!(told.contains(words), "{told}");
        let told = lacking(&["exec", "c1", "/bin/true"]).exits(0).stderr;
        assert_eq!(told, "");
        let told = lacking(&["exec", "--cap", "CAP_SYS_BOOT", "c1", "/bin/true"]).exits(0).stderr;
        assert!(told.contains(words), "{told}");
        t.delete("c1");
    });
}

/// `--debug` shows how far a command got, in runc's words: on stderr, or in the log.
#[test]
fn the_debug_log_has_the_words_of_runc() {
    isolated(|t| {
        let file = t.dir.join("debug.log");
        let log = file.to_str().unwrap();
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!(["/bin/true"]);
            c["linux"]["seccomp"] =
                json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]});
        });
        let run = [
            "nsexec container setup",
            "child process in init()",
            "init: closing the pipe to signal completion",
            "seccomp filter flags: 2\"",
        ];
        let has = |text: &str, level: &str, words: &[&str]| {
            assert!(text.contains(level) && words.iter().all(|word| text.contains(word)), "{text}");
        };
        let create = ["run", "-b", bundle.path(), "c1"];
        let out = t.corten(&[&["--debug"][..], &create].concat()).exits(0);
        has(&out.stderr, "level=debug", &run);
        for (format, level) in [(&[][..], "level=debug"), (&["--log-format", "json"], "\"level\":\"debug\"")]
        {
            let out = t.corten(&[&["--log", log][..], format, &["--debug"], &create].concat()).exits(0);
            assert_eq!(out.stderr, "");
            has(&fs::read_to_string(&file).unwrap(), level, &run);
            fs::remove_file(&file).unwrap();
        }
        bundle.edit(|c| c["process"]["args"] = json!(["/bin/sleep", "1000"]));
        t.start(&bundle, "c1");
        let process = t.dir.join("process.json");
        let text = json!({"args": ["/bin/true"], "cwd": "/", "execCPUAffinity": {"initial": "0"}});
        fs::write(&process, text.to_string()).unwrap();
        let out = t.corten(&["--debug", "exec", "--process", process.to_str().unwrap(), "c1"]).exits(0);
        let exec = [run[0], run[1], "setns_init: about to exec", "nsexec: affinity: 0x1\""];
        has(&out.stderr, "level=debug", &exec);
        t.delete("c1");
    });
}

/// Scripts look at the first line of a help text, and at the beginning of an event.
#[test]
fn help_and_events_begin_as_with_runc() {
    isolated(|t| {
        let list = t.corten(&["list", "-h"]).ok();
        assert!(
            list.starts_with("NAME:\n   corten list - ") && list.contains("\n\nUSAGE:\n   corten list"),
            "{list}"
        );
        t.corten(&["foo", "-h"]).fails("No help topic for 'foo'");
        t.corten(&["help", "foo"]).fails("No help topic for 'foo'");
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c1");
        let event = t.corten(&["events", "--stats", "c1"]).ok();
        assert!(event.starts_with(r#"{"type":"stats","id":"c1","data":{"#), "{event}");
        t.delete("c1");
    });
}
