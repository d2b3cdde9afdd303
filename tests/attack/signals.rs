//! Only processes of the container are signalled, and only its cgroups are removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Test, View, isolated, isolated_in, poll, processes, without_namespace};

const ALL: [&[&str]; 4] = [
    &["delete", "one"],
    &["delete", "--force", "one"],
    &["kill", "--all", "one", "KILL"],
    &["gc", "--stopped"],
];

/// Returns the directories of the cgroup, in every hierarchy that the test sees.
fn cgroups() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).unwrap().flatten().map(|entry| entry.path());
    let all = std::iter::once(root.into()).chain(hierarchies).map(|dir: PathBuf| dir.join("shared"));
    all.filter(|dir| dir.is_dir()).collect()
}

/// Makes two containers with the same cgroupsPath: `one` has stopped before `two` was made. The directory is
/// the same, or was made anew.
fn two_in_one_cgroup(t: &Test, anew: bool) -> i32 {
    let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/shared"));
    t.start(&bundle, "one");
    t.corten(&["kill", "one", "KILL"]).ok();
    t.until("one", "stopped");
    if anew {
        let gone = || cgroups().iter().all(|dir| fs::remove_dir(dir).is_ok());
        assert!(poll(Duration::from_secs(5), gone));
    }
    t.start(&bundle, "two")
}

fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z")
}

fn neighbours(t: &Test) {
    for (words, anew) in ALL.into_iter().flat_map(|words| [(words, false), (words, true)]) {
        let pid = two_in_one_cgroup(t, anew);
        let out = t.corten(words);
        assert!(runs(pid) && t.status("two") == "running", "{words:?} {anew}: {}", out.stderr);
        if words[0] == "delete" {
            let why = if anew { "it is a new one of the same name" } else { "container \"two\" has it too" };
            assert!(out.stderr.contains(&format!("is not removed: {why}")), "{words:?}: {}", out.stderr);
        }
        t.corten(&["delete", "--force", "one"]).exits(0);
        assert!(runs(pid) && !t.state().join("one").exists());
        t.delete("two");
        assert_eq!(cgroups(), [] as [PathBuf; 0]);
    }
    // The control: a record that cannot be read protects no container, and the directory is what is
    // recognised.
    for anew in [false, true] {
        let pid = two_in_one_cgroup(t, anew);
        let (here, hidden) = (t.state().join("two"), t.dir.join("my-two"));
        fs::rename(&here, &hidden).unwrap();
        t.corten(&["delete", "one"]).exits(0);
        assert_eq!(runs(pid), anew);
        fs::rename(&hidden, &here).unwrap();
        t.delete("two");
    }
}

/// Processes that the later of two containers has left in their cgroup are killed with it, even though the
/// earlier one still has a record.
#[test]
fn processes_left_by_the_later_of_two_containers_are_killed() {
    isolated(|t| {
        let bundle = |script: &str| {
            t.bundle(|c| {
                without_namespace(c, "pid");
                c["linux"]["cgroupsPath"] = json!("/shared");
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            })
        };
        for words in [&["kill", "--all", "two", "KILL"][..], &["delete", "--force", "two"]] {
            t.start(&bundle("true"), "one");
            t.until("one", "stopped");
            t.start(&bundle("sleep 4321 & exec true"), "two");
            t.until("two", "stopped");
            let left = || processes().iter().any(|line| line.contains("sleep 4321"));
            // The control: the processes run, and deleting the earlier container does not touch them.
            assert!(left());
            t.corten(words).ok();
            assert!(poll(Duration::from_secs(5), || !left()), "{words:?}");
            t.corten(&["delete", "--force", "two"]).exits(0);
            t.corten(&["delete", "one"]).exits(0);
        }
    });
}

#[test]
fn a_shared_cgroup_belongs_to_the_later_container() {
    isolated(|t| {
        neighbours(t);
    });
}

#[test]
fn a_shared_cgroup_belongs_to_the_later_container_on_v1() {
    isolated_in(View::V1, |t| {
        neighbours(t);
    });
}

/// A container in a cgroup below another's is not killed with it.
#[test]
fn a_container_in_a_cgroup_below_is_not_killed() {
    isolated(|t| {
        t.start(&t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/shared")), "one");
        let below = t.start(&t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/shared/two")), "two");
        t.corten(&["delete", "--force", "one"])
            .fails("container \"two\" is in a cgroup below (hint: delete it first)");
        assert!(runs(below) && t.status("one") == "running");
        // A stopped container has no processes that could be killed.
        t.corten(&["kill", "two", "KILL"]).ok();
        t.until("two", "stopped");
        t.delete("one");
        t.delete("two");
        // In a shared pid namespace `kill` also ends the others in the cgroup.
        let bundle = t.bundle(|c| {
            without_namespace(c, "pid");
            c["linux"]["cgroupsPath"] = json!("/shared");
        });
        t.start(&bundle, "one");
        let below = t.start(&t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/shared/two")), "two");
        for _ in 0..2 {
            t.corten(&["kill", "one", "KILL"]);
            t.until("one", "stopped");
            assert!(runs(below) && t.status("two") == "running");
        }
        t.delete("two");
        t.delete("one");
    });
}

/// An empty cgroup that others have made at the path since is not removed.
#[test]
fn a_new_cgroup_at_the_path_is_not_removed() {
    isolated(|t| {
        for (words, anew) in ALL.into_iter().flat_map(|words| [(words, false), (words, true)]) {
            if words[0] == "kill" {
                continue;
            }
            t.start(&t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/shared")), "one");
            t.corten(&["kill", "one", "KILL"]).ok();
            t.until("one", "stopped");
            let dirs = cgroups();
            if anew {
                assert!(poll(Duration::from_secs(5), || cgroups()
                    .iter()
                    .all(|dir| fs::remove_dir(dir).is_ok())));
                // The kernel can reuse the number of a free inode at once.
                dirs.iter().for_each(|dir| fs::create_dir(dir.with_file_name("other")).unwrap());
                dirs.iter().for_each(|dir| fs::create_dir(dir).unwrap());
                dirs.iter().for_each(|dir| fs::remove_dir(dir.with_file_name("other")).unwrap());
            }
            let out = t.corten(words).exits(0);
            let left = if anew { dirs } else { Vec::new() };
            assert_eq!(cgroups(), left, "{words:?}: {}", out.stderr);
            assert_eq!(out.stderr.contains("is not removed: it is a new one of the same name"), anew);
            left.iter().for_each(|dir| fs::remove_dir(dir).unwrap());
        }
    });
}

/// Processes that the container itself has left in the cgroup are killed and the cgroup is removed, even if
/// another container has used it since and is deleted.
#[test]
fn processes_left_in_the_cgroup_are_killed() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            without_namespace(c, "pid");
            c["linux"]["cgroupsPath"] = json!("/shared");
            c["process"]["args"] = json!(["/bin/sh", "-c", "sleep 4321 & exec sleep 1234"]);
        });
        t.start(&bundle, "one");
        let left = || processes().iter().any(|line| line.contains("sleep 4321"));
        assert!(poll(Duration::from_secs(5), left));
        t.corten(&["kill", "one", "KILL"]).ok();
        t.until("one", "stopped");
        t.corten(&["delete", "one"]).ok();
        assert!(!left() && cgroups().is_empty());
    });
}

/// musl remembers the thread's id from before the clone, and its `abort` signals that id. In the host's pid
/// namespace it is the runtime, which would leave its container behind. In another it is any process with the
/// number.
#[test]
fn a_clone_that_cannot_exit_signals_no_other_process() {
    isolated(|t| {
        let always = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_GE"}]);
        let bundle = t.bundle(|c| {
            without_namespace(c, "pid");
            c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["exit", "exit_group"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["execve"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "args": always},
            ]});
        });
        for _ in 0..5 {
            // In the foreground the runtime would only pass the signal on.
            let args = ["run", "--detach", "--bundle", bundle.path(), "one"];
            t.corten(&args).fails("exec /bin/sleep: no space left on device").exits(1);
            t.create(&bundle, "one");
            t.corten(&["start", "one"]).fails("no space left on device");
            t.until("one", "stopped");
            t.corten(&["delete", "one"]).ok();
        }
        // The control: a process in that namespace that signals our number signals us.
        let script = |number: u32| format!("kill -0 {number} && echo seen");
        let edit = |c: &mut serde_json::Value| without_namespace(c, "pid");
        assert_eq!(t.run(&script(std::process::id()), edit).ok(), "seen\n");
        let none = Command::new("sh").args(["-c", &script(4_000_000)]).output().unwrap();
        assert_eq!(none.stdout, b"");
    });
}
