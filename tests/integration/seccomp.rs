//! `linux.seccomp`: what the filter does to the container's program. The compiler itself has its tests beside it.

use serde_json::{Value, json};

use crate::harness::isolated;

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
fn arguments_are_compared() {
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

/// A profile that denies what the runtime itself needs after `create` must not break the wait for `start`, and one
/// without getcwd or write to other places still runs: after the filter there is only execve.
#[test]
fn a_strict_profile_does_not_break_the_runtime() {
    isolated(|t| {
        for no_new_privileges in [true, false] {
            let bundle = t.bundle(|c| {
                let mut denied =
                    vec!["getcwd", "read", "openat", "open", "fcntl", "socket", "dup3", "chdir", "umask"];
                if no_new_privileges {
                    // Else the filter has to be loaded while the capabilities are still there, and these come after it.
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

/// config-linux.md#seccomp's MUSTs: a profile that says what cannot be is refused, with its place.
#[test]
fn profiles_are_checked() {
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
                let mut seccomp = profile("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", &["mkdir"]);
                edit(&mut seccomp);
                c["linux"]["seccomp"] = seccomp;
            });
            t.corten(&["create", "-b", bundle.path(), "c1"]).fails(place);
        }
    });
}
