//! Accidental state of the caller that must not matter: signal dispositions, a /proc of other processes, a
//! user namespace that looks like the host's.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Output, Test, isolated, skip};

/// Runs a shell script with the runtime, its root and the arguments as "$@".
fn script(t: &Test, before: &[&str], text: &str, args: &[&str]) -> Output {
    let runtime = t.command(args);
    let mut command = Command::new(before[0]);
    command
        .args(&before[1..])
        .args(["sh", "-c", text, "sh"])
        .arg(runtime.get_program())
        .args(runtime.get_args());
    t.call(&mut command)
}

/// A caller that ignores SIGCHLD: the statuses of programs and hooks are reported as usual, and the program
/// ignores no signal. Check of the check: the script itself ignores SIGCHLD.
#[test]
fn a_caller_that_ignores_sigchld_changes_no_status() {
    isolated(|t| {
        let ignoring = |words: &[&str]| {
            let mut command = Command::new("env");
            command.arg("--ignore-signal=CHLD").args(words);
            command
        };
        let call = |args: &[&str]| {
            let runtime = t.command(args);
            t.call(ignoring(&[]).arg(runtime.get_program()).args(runtime.get_args()))
        };
        let mask = |status: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        let sigchld = 1 << (libc::SIGCHLD - 1);
        assert_ne!(mask(&t.call(&mut ignoring(&["cat", "/proc/self/status"])).ok()) & sigchld, 0);

        let fails =
            |code: i32| t.bundle(|c| c["process"]["args"] = json!(["/bin/sh", "-c", format!("exit {code}")]));
        let out = call(&["run", "-b", fails(7).path(), "r"]).exits(7);
        assert_eq!(out.stderr, "");
        let shows = t.bundle(|c| c["process"]["args"] = json!(["cat", "/proc/self/status"]));
        assert_eq!(mask(&call(&["run", "-b", shows.path(), "r"]).ok()) & sigchld, 0);

        let hook = |script: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        let bundle = t.bundle(|c| {
            c["hooks"] = json!({"prestart": hook("true"), "createContainer": hook("true"),
                "poststart": hook("true"), "poststop": hook("true")});
        });
        call(&["create", "-b", bundle.path(), "c1"]).ok();
        call(&["start", "c1"]).ok();
        assert_eq!(call(&["exec", "c1", "/bin/sh", "-c", "exit 9"]).exits(9).stderr, "");
        assert_eq!(mask(&call(&["exec", "c1", "cat", "/proc/self/status"]).ok()) & sigchld, 0);
        assert!(call(&["ps", "c1"]).ok().contains("sleep"));
        call(&["delete", "--force", "c1"]).ok();

        for hooks in ["createRuntime", "createContainer"] {
            let bundle = t.bundle(|c| c["hooks"] = json!({hooks: hook("echo no; exit 3")}));
            let place = format!("hooks.{hooks}[0] /bin/sh: error running {hooks} hook #0: exit status 3: no");
            call(&["run", "-b", bundle.path(), "r"]).fails(&place);
        }
        // The intermediate process.
        let joined = t.bundle(|c| {
            c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 7}});
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
            c["process"]["args"] = json!(["/bin/sh", "-c", "exit 5"]);
        });
        assert_eq!(call(&["run", "-b", joined.path(), "r"]).exits(5).stderr, "");
    });
}

/// A /proc of another pid namespace, where our ids belong to strangers: that of the namespace above, that of
/// one below, and one in which the runtime has by chance the id that it has for itself. Every verb reports
/// it, and nothing is made, written or deleted. Check of the check: a script in that place reads a stranger's
/// file.
#[test]
fn every_verb_refuses_a_proc_of_another_pid_namespace() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["process"]["oomScoreAdj"] = json!(500));
        t.start(&bundle, "c1");
        let scores = || -> Vec<String> {
            let pids =
                fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().into_string().ok());
            let score = |pid: String| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok();
            pids.filter(|pid| pid.parse::<u32>().is_ok()).filter_map(score).collect()
        };
        let before = scores();
        let above = ["unshare", "--pid", "--fork", "--kill-child"];
        // The first process of that namespace has ended, so its /proc shows no process.
        let text = "unshare --pid --fork mount -t proc proc /proc && exec \"$@\"";
        let below = ["unshare", "-m", "sh", "-c", text, "sh"];
        let refusal = "/proc is that of another pid namespace (hint: mount -t proc proc /proc)";
        for place in [&above[..], &below] {
            for args in [
                &["create", "-b", bundle.path(), "c2"][..],
                &["run", "-b", bundle.path(), "c2"],
                &["exec", "c1", "/bin/true"],
                &["state", "c1"],
                &["kill", "c1", "KILL"],
                &["delete", "c1"],
                &["delete", "--force", "c1"],
                &["update", "--pids-limit", "7", "c1"],
                &["gc", "--stopped"],
            ] {
                // This is not the first process, whose id cannot be mistaken.
                script(t, place, "\"$@\"; exit $?", args).fails(refusal);
            }
        }
        assert_eq!(scores(), before);
        assert_eq!(t.status("c1"), "running");
        assert!(!t.state().join("c2").exists());
        let naive = script(t, &above, "cat /proc/$$/comm", &[]).ok();
        assert_ne!(naive, "sh\n");

        if !Path::new("/proc/sys/kernel/ns_last_pid").exists() {
            skip("this kernel has no /proc/sys/kernel/ns_last_pid");
        }
        // The shell knows its id in the namespace above, and gives its next child the same id below.
        let same = "read -r above rest < /proc/self/stat; echo $above > /proc/sys/kernel/ns_last_pid; \"$@\"; exit $?";
        let shown = "read -r above rest < /proc/self/stat; echo $above > /proc/sys/kernel/ns_last_pid; \
                     sh -c 'read -r above rest < /proc/self/stat; [ $$ = $above ]' && echo same";
        assert_eq!(script(t, &above, shown, &[]).ok(), "same\n");
        script(t, &above, same, &["create", "-b", bundle.path(), "c2"]).fails(refusal);
        assert_eq!(scores(), before);
        t.delete("c1");
    });
}

/// A user namespace with the identity as its map is not the host's, and its root has no rights on the host.
/// Check of the check: its map equals the host's.
#[test]
fn a_user_namespace_that_maps_all_ids_is_not_the_hosts() {
    isolated(|t| {
        let mut command = Command::new("unshare");
        command.args(["--user", "sh", "-c", "echo; exec sleep 1000"]);
        let mut keeper = command.stdout(Stdio::piped()).spawn().unwrap();
        keeper.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let of = |file: &str| format!("/proc/{}/{file}", keeper.id());
        for file in ["uid_map", "gid_map"] {
            fs::write(of(file), "0 0 4294967295").unwrap();
        }
        let map = |path: &str| fs::read_to_string(path).unwrap();
        assert_eq!(map(&of("uid_map")), map("/proc/self/uid_map"));
        let bundle = t.bundle(|_| {});
        let runtime = t.command(&[]).get_program().to_owned();
        let call = |inside: bool, args: &[&str]| {
            let mut command = Command::new(if inside { "nsenter" } else { "env" });
            if inside {
                command.args(["--user", "--target", &keeper.id().to_string(), "--", "env"]);
            }
            let own = format!("XDG_RUNTIME_DIR={}", t.dir.join("xdg").display());
            t.call(command.args([&own, "USER=someone"]).arg(&runtime).args(args))
        };
        for (inside, rootless) in [(true, true), (false, false)] {
            let plan = call(inside, &["plan", "-b", bundle.path()]).exits(0).stdout;
            assert_eq!(plan.lines().any(|line| line == "  rootless"), rootless, "{plan}");
        }
        // The states are in the user's directory.
        fs::create_dir_all(t.dir.join("xdg/corten/c1")).unwrap();
        assert_eq!(call(true, &["list", "-q"]).ok(), "c1\n");
        assert_ne!(call(false, &["list", "-q"]).ok(), "c1\n");
        keeper.kill().unwrap();
        keeper.wait().unwrap();
    });
}
