//! `linux.seccomp`: the effect of the filter on the container's program. The compiler has unit tests.

#![allow(unsafe_code)]

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::harness::{Test, isolated, poll, reap};

fn profile(default: &str, action: &str, names: &[&str]) -> Value {
    json!({
        "defaultAction": default,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": names, "action": action}],
    })
}

/// config-linux.md#seccomp: the action's effect, with and without no_new_privs.
#[test]
fn a_denied_call_fails_as_the_profile_says() {
    isolated(|t| {
        type Edit = fn(&mut Value);
        let rows: &[(&str, Edit, &str)] = &[
            ("SCMP_ACT_ERRNO", |_| {}, "Operation not permitted"),
            ("SCMP_ACT_ERRNO", |rule| rule["errnoRet"] = json!(95), "not supported"),
            ("SCMP_ACT_ERRNO", |rule| rule["errnoRet"] = json!(38), "not implemented"),
            ("SCMP_ACT_ALLOW", |_| {}, "made"),
            ("SCMP_ACT_LOG", |_| {}, "made"),
        ];
        for (action, edit, expected) in rows {
            for no_new_privileges in [true, false] {
                let out = t
                    .run("mkdir /tmp/x 2>&1 && echo made; grep ^Seccomp: /proc/self/status", |c| {
                        let mut seccomp = profile("SCMP_ACT_ALLOW", action, &["mkdir", "mkdirat"]);
                        edit(&mut seccomp["syscalls"][0]);
                        c["linux"]["seccomp"] = seccomp;
                        c["process"]["noNewPrivileges"] = json!(no_new_privileges);
                    })
                    .ok();
                assert!(out.contains(expected), "{action}, {no_new_privileges}: {out}");
                assert!(out.contains("Seccomp:\t2"), "{out}");
            }
        }
        for (action, code) in [
            ("SCMP_ACT_KILL", 159),
            ("SCMP_ACT_KILL_THREAD", 159),
            ("SCMP_ACT_KILL_PROCESS", 159),
            ("SCMP_ACT_TRAP", 159),
        ] {
            let out = t.run("mkdir /tmp/x; exit $?", |c| {
                c["linux"]["seccomp"] = profile("SCMP_ACT_ALLOW", action, &["mkdir", "mkdirat"]);
            });
            out.exits(code);
        }
    });
}

/// config-linux.md#seccomp: conditions on arguments, all of which must hold.
#[test]
fn all_conditions_on_arguments_must_hold() {
    isolated(|t| {
        let run = |args: Value| {
            t.run("kill -0 $$ 2>&1 && echo zero; kill -CONT $$ 2>&1 && echo cont", |c| {
                let mut seccomp = profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", &["kill"]);
                seccomp["syscalls"][0]["args"] = args;
                c["linux"]["seccomp"] = seccomp;
            })
            .stdout
        };
        let zero_denied = |out: &str| !out.contains("zero") && out.contains("cont");
        for args in [
            json!([{"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}]),
            json!([{"index": 1, "value": 1, "op": "SCMP_CMP_LT"}]),
            json!([{"index": 1, "value": 18, "op": "SCMP_CMP_NE"}]),
            json!([{"index": 1, "value": 0xff, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]),
            json!([{"index": 1, "value": 17, "op": "SCMP_CMP_LE"}, {"index": 0, "value": 1, "op": "SCMP_CMP_GE"}]),
        ] {
            let out = run(args.clone());
            assert!(zero_denied(&out), "{args}: {out}");
        }
        let out = run(
            json!([{"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]),
        );
        assert!(out.contains("zero") && out.contains("cont"), "{out}");
    });
}

/// A profile that denies calls of the runtime after `create` must not break the wait for `start`. A profile
/// without getcwd, or that denies writes to other descriptors, still runs, because the runtime only calls
/// execve after the filter.
#[test]
fn a_strict_profile_does_not_break_the_runtime() {
    isolated(|t| {
        for no_new_privileges in [true, false] {
            let bundle = t.bundle(|c| {
                let mut denied =
                    vec!["getcwd", "read", "openat", "open", "fcntl", "socket", "dup3", "chdir", "umask"];
                if no_new_privileges {
                    // Without no_new_privs the filter is loaded before the capabilities are dropped, which takes these calls.
                    denied.extend(["setresuid", "setresgid", "setgroups", "capset", "prctl", "close_range"]);
                }
                c["linux"]["seccomp"] = profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", &denied);
                c["process"]["args"] = json!(["/bin/echo", "ran"]);
                c["process"]["noNewPrivileges"] = json!(no_new_privileges);
            });
            assert_eq!(t.run_bundle(&bundle).ok(), "ran\n");
            t.create(&bundle, "c1");
            t.corten(&["start", "c1"]).ok();
            t.until("c1", "stopped");
            t.corten(&["delete", "c1"]).ok();
        }
    });
}

/// config-linux.md#seccomp's MUSTs: a wrong profile is refused, with its place.
#[test]
fn a_wrong_profile_is_refused_with_its_place() {
    isolated(|t| {
        type Edit = fn(&mut Value);
        let rows: &[(Edit, &str)] = &[
            (|s| s["syscalls"][0]["names"] = json!([]), "linux.seccomp.syscalls[0].names"),
            (
                |s| {
                    s["syscalls"][0]["action"] = json!("SCMP_ACT_KILL");
                    s["syscalls"][0]["errnoRet"] = json!(1);
                },
                "linux.seccomp.syscalls[0].errnoRet",
            ),
            (
                |s| s["syscalls"][0]["args"] = json!([{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]),
                "linux.seccomp.syscalls[0].args[0]",
            ),
            (|s| s["listenerMetadata"] = json!("x"), "linux.seccomp.listenerMetadata"),
            (|s| s["defaultAction"] = json!("SCMP_ACT_NONSENSE"), "linux.seccomp"),
        ];
        for (edit, place) in rows {
            let bundle = t.bundle(|c| {
                let mut seccomp = profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", &["mkdir", "mkdirat"]);
                edit(&mut seccomp);
                c["linux"]["seccomp"] = seccomp;
            });
            t.corten(&["create", "-b", bundle.path(), "c1"]).fails(place);
        }
    });
}

/// A filter that ends the process at execve leaves no program that `start` could start. It is refused before
/// anything is made.
#[test]
fn a_profile_that_kills_execve_is_refused() {
    isolated(|t| {
        let only_read = |default: &str| json!({"defaultAction": default, "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]});
        let rule = |action: &str| profile("SCMP_ACT_ALLOW", action, &["mkdir", "mkdirat", "execve"]);
        for (seccomp, expected) in [
            (only_read("SCMP_ACT_KILL"), "linux.seccomp.defaultAction: SCMP_ACT_KILL_THREAD for execve"),
            (only_read("SCMP_ACT_TRAP"), "linux.seccomp.defaultAction: SCMP_ACT_TRAP for execve"),
            (
                rule("SCMP_ACT_KILL_PROCESS"),
                "linux.seccomp.syscalls[0].action: SCMP_ACT_KILL_PROCESS for execve",
            ),
            (rule("SCMP_ACT_TRAP"), "linux.seccomp.syscalls[0].action: SCMP_ACT_TRAP for execve"),
        ] {
            let bundle = t.bundle(|c| c["linux"]["seccomp"] = seccomp);
            t.corten(&["create", "-b", bundle.path(), "c1"]).fails(expected);
            t.corten(&["run", "-b", bundle.path(), "c1"]).fails(expected);
        }
    });
}

/// `start` reports the errno that the filter gives execve. If the process cannot report it, `start` reports
/// that it has ended, even if the filter forbids it to end.
#[test]
fn a_profile_that_denies_execve_fails_start() {
    isolated(|t| {
        let always = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_GE"}]);
        let mut last_words = profile(
            "SCMP_ACT_ALLOW",
            "SCMP_ACT_ERRNO",
            &["write", "exit", "exit_group", "rt_sigaction", "tkill", "tgkill"],
        );
        let execve = json!({"names": ["execve"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "args": always});
        let told = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [execve.clone()]});
        last_words["syscalls"].as_array_mut().unwrap().push(execve);
        let mut killed = profile("SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS", &["execve"]);
        killed["syscalls"][0]["args"] = always;
        let mut other = profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", &["execve"]);
        other["syscalls"][0]["errnoRet"] = json!(28);
        for (seccomp, expected) in [
            (
                profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", &["execve"]),
                "exec: \"/bin/sleep\": operation not permitted",
            ),
            (other, "exec: \"/bin/sleep\": no space left on device"),
            (json!({"defaultAction": "SCMP_ACT_ERRNO"}), "exec: \"/bin/sleep\": operation not permitted"),
            (told, "exec /bin/sleep: no space left on device"),
            (last_words, "the container's process was killed before its program ran"),
            (killed, "the container's process was killed before its program ran"),
        ] {
            for no_new_privileges in [true, false] {
                let bundle = t.bundle(|c| {
                    c["linux"]["seccomp"] = seccomp.clone();
                    c["process"]["noNewPrivileges"] = json!(no_new_privileges);
                });
                t.create(&bundle, "c1");
                t.corten(&["start", "c1"]).fails(expected);
                t.until("c1", "stopped");
                t.corten(&["delete", "c1"]).ok();
                t.run_bundle(&bundle).fails(expected);
            }
        }
    });
}

/// The requests that an agent has received: the container process state, and the numbers of the system calls.
type Asked = (Value, Vec<i32>);

/// Starts an agent that takes one connection, lets execve through, and answers every other call with
/// ENOTUNIQ.
fn agent(path: &Path) -> JoinHandle<Asked> {
    let _ = std::fs::remove_file(path);
    let socket = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || serve(&socket))
}

/// Serves one filter as long as a process has it.
fn serve(socket: &UnixListener) -> Asked {
    let (mut connection, _) = socket.accept().unwrap();
    let (bytes, fd) = corten::testing::sys::socket::receive(connection.as_fd()).unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    let fd = fd.unwrap();
    let mut asked = Vec::new();
    while let Some(nr) = answer(&fd) {
        asked.push(nr);
    }
    (serde_json::from_slice(&bytes).unwrap(), asked)
}

/// Answers one question. Returns `None` if no process has the filter any more.
fn answer(fd: &OwnedFd) -> Option<i32> {
    let mut wait = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: both are plain integers, which may be zero.
    let (mut question, mut answer): (libc::seccomp_notif, libc::seccomp_notif_resp) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: the kernel writes and reads structures of the sizes that are part of the requests' numbers.
    unsafe {
        assert_eq!(libc::poll(&raw mut wait, 1, 20_000), 1);
        if wait.revents & libc::POLLIN == 0 {
            return None;
        }
        assert_eq!(libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut question), 0);
        answer.id = question.id;
        if i64::from(question.data.nr) == libc::SYS_execve {
            answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        } else {
            answer.error = -libc::ENOTUNIQ;
        }
        assert_eq!(libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer), 0);
    }
    Some(question.data.nr)
}

/// Deletes a container whose filter has an agent. Before Linux 6.11 a listener shows that its last process has
/// ended only after that process was reaped, which is the work of an engine.
fn delete(t: &Test, id: &str) {
    t.delete(id);
    reap();
}

/// The call of mkdir(1). Newer architectures have no mkdir(2).
#[cfg(target_arch = "x86_64")]
const MKDIR: i32 = libc::SYS_mkdir as i32;
#[cfg(not(target_arch = "x86_64"))]
const MKDIR: i32 = libc::SYS_mkdirat as i32;
const NOT_UNIQUE: &str = "Name not unique on network";

fn notifying(path: &Path, names: &[&str]) -> Value {
    let mut seccomp = profile("SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY", names);
    seccomp["listenerPath"] = json!(path);
    seccomp["listenerMetadata"] = json!("for the agent");
    seccomp
}

/// config-linux.md#containerprocessstate, by run, create with start, and exec.
#[test]
fn an_agent_gets_the_state_and_answers() {
    isolated(|t| {
        let path = t.dir.join("agent.sock");
        let script = "mkdir /tmp/x";
        for no_new_privileges in [true, false] {
            let bundle = t.bundle(|c| {
                c["linux"]["seccomp"] = notifying(&path, &["mkdir", "mkdirat", "execve"]);
                c["annotations"] = json!({"a": "b"});
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
                c["process"]["noNewPrivileges"] = json!(no_new_privileges);
            });
            let agent_of_run = agent(&path);
            let out = t.run_bundle(&bundle).exits(1);
            assert!(out.stderr.contains(NOT_UNIQUE), "{out:?}");
            let (state, asked) = agent_of_run.join().unwrap();
            assert_eq!(
                (state["state"]["id"].as_str(), state["state"]["status"].as_str()),
                (Some("r"), Some("created"))
            );
            assert_eq!(asked.iter().filter(|nr| **nr == MKDIR).count(), 1, "{asked:?}");

            bundle.edit(|c| c["process"]["args"] = json!(["/bin/sleep", "1000"]));
            let of_start = agent(&path);
            t.create(&bundle, "c1");
            t.corten(&["start", "c1"]).ok();
            let pid = t.pid("c1");
            let of_exec = agent(&path);
            let out = t.exec("c1", script).exits(1);
            assert!(out.stderr.contains(NOT_UNIQUE), "{out:?}");
            delete(t, "c1");
            let (state, asked) = of_start.join().unwrap();
            let container = |status: &str| {
                json!({
                    "ociVersion": "1.3.0", "id": "c1", "status": status, "pid": pid, "bundle": bundle.path(), "annotations": {"a": "b"},
                })
            };
            let whole = |pid: &Value, status: &str| {
                json!({
                    "ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": pid, "metadata": "for the agent", "state": container(status),
                })
            };
            assert_eq!((state, asked), (whole(&json!(pid), "created"), vec![libc::SYS_execve as i32]));
            let (state, asked) = of_exec.join().unwrap();
            assert_eq!(state, whole(&state["pid"], "running"));
            assert!(state["pid"].as_i64().unwrap() > pid.into(), "{state}");
            assert_eq!(asked.iter().filter(|nr| **nr == MKDIR).count(), 1, "{asked:?}");
        }
    });
}

/// A startContainer hook has a filter of its own. The agent gets the listeners of both, the hook's first.
#[test]
fn an_agent_answers_for_a_start_container_hook() {
    isolated(|t| {
        for no_new_privileges in [true, false] {
            let path = t.dir.join("agent.sock");
            let bundle = t.bundle(|c| {
                c["linux"]["seccomp"] = notifying(&path, &["mkdir", "mkdirat"]);
                c["process"]["args"] = json!(["/bin/sleep", "1000"]);
                c["process"]["noNewPrivileges"] = json!(no_new_privileges);
                let script = "mkdir /tmp/x; echo $? >/tmp/said";
                c["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
            });
            let socket = UnixListener::bind(&path).unwrap();
            let agent = std::thread::spawn(move || [serve(&socket), serve(&socket)]);
            let pid = t.start(&bundle, "c1");
            let output = std::fs::read_to_string(bundle.rootfs().join("tmp/said")).unwrap();
            delete(t, "c1");
            let [(hook, asked), (program, _)] = agent.join().unwrap();
            assert_eq!((output.as_str(), asked), ("1\n", vec![MKDIR]));
            assert_eq!((&program["pid"], &hook["state"]["pid"]), (&json!(pid), &json!(pid)));
            assert!(hook["pid"].as_i64().unwrap() > pid.into(), "{hook}");
            std::fs::remove_file(&path).unwrap();
        }
    });
}

/// The listener's descriptor is made even if the program's limit of descriptors is reached. The limit applies
/// when the program runs. If the filter forbids to set it then, the error is reported.
#[test]
fn the_listener_does_not_count_for_the_limit_of_descriptors() {
    isolated(|t| {
        let path = t.dir.join("agent.sock");
        for (limit, no_new_privileges) in
            [(3, true), (3, false), (4, true), (4, false), (5, true), (5, false), (16, true), (16, false)]
        {
            let edit = |c: &mut Value, denied: &[&str]| {
                let mut seccomp = notifying(&path, &["mkdir", "mkdirat"]);
                seccomp["syscalls"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"names": ([&["getcwd"], denied].concat()), "action": "SCMP_ACT_ERRNO"}));
                c["linux"]["seccomp"] = seccomp;
                c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": limit, "hard": limit}]);
                c["process"]["noNewPrivileges"] = json!(no_new_privileges);
            };
            let answers = agent(&path);
            let out = t.run("ulimit -n; ulimit -H -n; mkdir /tmp/x", |c| edit(c, &[]));
            assert_eq!(out.stdout, format!("{limit}\n{limit}\n"), "{out:?}");
            assert!(out.stderr.contains(NOT_UNIQUE), "{out:?}");
            assert_eq!(answers.join().unwrap().1, [MKDIR]);

            let denied = agent(&path);
            let out = t.run("exit 7", |c| edit(c, &["prlimit64", "setrlimit"]));
            if limit <= 4 {
                out.fails("process.rlimits[0] RLIMIT_NOFILE: prlimit");
            } else {
                out.exits(7);
            }
            drop(denied.join());
        }
    });
}

/// After the filter only the call that hands over the listener is made. A profile that kills the process for
/// any other call does not break the start.
#[test]
fn handing_over_the_listener_takes_one_call() {
    isolated(|t| {
        let path = t.dir.join("agent.sock");
        let answers = agent(&path);
        let bundle = t.bundle(|c| {
            let mut seccomp = notifying(&path, &["mkdir", "mkdirat"]);
            seccomp["syscalls"].as_array_mut().unwrap().push(json!({
                "names": ["close", "dup3", "dup2", "fcntl", "recvmsg", "close_range", "openat"],
                "action": "SCMP_ACT_KILL_PROCESS",
            }));
            c["linux"]["seccomp"] = seccomp;
            c["process"]["args"] = json!(["/bin/echo", "ran"]);
        });
        assert_eq!(t.run_bundle(&bundle).ok(), "ran\n");
        assert_eq!(answers.join().unwrap().1, [0; 0]);
    });
}

/// A container whose agent cannot be reached does not run.
#[test]
fn without_its_agent_a_container_is_not_started() {
    isolated(|t| {
        let path = t.dir.join("no-agent.sock");
        let bundle = t.bundle(|c| c["linux"]["seccomp"] = notifying(&path, &["mkdir", "mkdirat"]));
        let expected = "linux.seccomp.listenerPath";
        t.run_bundle(&bundle).fails(expected);
        t.create(&bundle, "c1");
        t.corten(&["start", "c1"]).fails(expected);
        t.until("c1", "stopped");
        t.corten(&["delete", "c1"]).ok();

        let answers = agent(&path);
        t.start(&bundle, "c1");
        std::fs::remove_file(&path).unwrap();
        t.exec("c1", "echo ran; sleep 1000").fails(expected).exits(255);
        let one =
            |name: &str| t.corten(&["ps", name]).ok().lines().filter(|line| line.contains("sleep")).count();
        assert!(poll(std::time::Duration::from_secs(5), || one("c1") == 1));
        delete(t, "c1");
        answers.join().unwrap();
    });
}

/// SCMP_ACT_NOTIFY is refused if no agent is named, or if none could answer.
#[test]
fn notify_without_an_agent_is_refused() {
    isolated(|t| {
        type Edit = fn(&mut Value);
        let rows: &[(Edit, &str)] = &[
            (
                |s| s["syscalls"][0]["names"] = json!(["write"]),
                "linux.seccomp.syscalls[0].names[0]: SCMP_ACT_NOTIFY cannot be used for the write syscall",
            ),
            (
                |s| s["syscalls"][0]["names"] = json!(["read", "sendmsg"]),
                "syscalls[0].names[1]: SCMP_ACT_NOTIFY cannot be used for the sendmsg syscall",
            ),
            (|s| s["defaultAction"] = json!("SCMP_ACT_NOTIFY"), "linux.seccomp.defaultAction: must not be"),
            (|s| drop(s.as_object_mut().unwrap().remove("listenerPath")), "linux.seccomp.listenerMetadata"),
            (
                |s| s.as_object_mut().unwrap().retain(|name, _| !name.starts_with("listener")),
                "linux.seccomp.listenerPath: SCMP_ACT_NOTIFY needs a listener",
            ),
            (
                |s| s["listenerPath"] = json!("agent.sock"),
                "linux.seccomp.listenerPath: \"agent.sock\" is not absolute",
            ),
        ];
        for (edit, expected) in rows {
            let bundle = t.bundle(|c| {
                let mut seccomp = notifying(Path::new("/agent.sock"), &["mkdir", "mkdirat"]);
                edit(&mut seccomp);
                c["linux"]["seccomp"] = seccomp;
            });
            t.corten(&["create", "-b", bundle.path(), "c1"]).fails(expected);
        }
    });
}
