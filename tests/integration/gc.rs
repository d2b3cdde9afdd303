//! After a crash: `gc` removes only what belongs to nobody, and `delete --all --force` removes everything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Bundle, Running, Test, View, isolated, isolated_in, poll, processes, remains, traces, without_namespace,
};

/// A hook on the runtime's side that kills the runtime, as a crash does. At that moment the container is on
/// record and its process waits.
fn crash(config: &mut Value) {
    let kill = json!({"path": "/bin/sh", "args": ["sh", "-c", "kill -KILL $PPID"]});
    config["hooks"] = json!({"createRuntime": [kill]});
}

fn crashed(t: &Test, verb: &[&str], edit: impl FnOnce(&mut Value)) {
    let bundle = t.bundle(|config| {
        crash(config);
        edit(config);
    });
    t.corten(&[verb, &["--bundle", bundle.path(), "c"]].concat()).exits(137);
    assert!(t.state().join("c").exists());
}

fn nothing_left(t: &Test, before: &[String]) {
    let left = remains(t, before);
    assert!(left.is_empty(), "{left:#?}");
}

/// If `create` was killed, gc removes all that it had made and the processes that are left, with all kinds of
/// namespaces and cgroups.
#[test]
fn gc_removes_an_interrupted_create() {
    isolated(|t| {
        interrupted(t, &["create"]);
        interrupted(t, &["run", "--detach"]);
    });
}

#[test]
fn gc_removes_an_interrupted_create_on_v1() {
    isolated_in(View::V1, |t| interrupted(t, &["create"]));
}

fn interrupted(t: &Test, verb: &[&str]) {
    let edits: [fn(&mut Value); 4] = [
        |_| {},
        |c| without_namespace(c, "pid"),
        |c| c["linux"]["cgroupsPath"] = json!("/above/it"),
        // Without a mount namespace the container's mounts are on the host.
        |c| {
            without_namespace(c, "mount");
            c["linux"]["maskedPaths"] = json!([]);
            c["linux"]["readonlyPaths"] = json!([]);
        },
    ];
    for edit in edits {
        let before = traces(t);
        crashed(t, verb, edit);
        // The container's process may still be exiting.
        let things = || traces(t).into_iter().filter(|line| !line.starts_with("process")).collect::<Vec<_>>();
        let kept = things();
        assert_eq!(t.corten(&["gc", "--dry-run"]).ok(), "c: its create was interrupted\n");
        assert_eq!(things(), kept);
        assert_eq!(t.corten(&["gc"]).ok(), "c: its create was interrupted\n");
        let before = before.into_iter().chain([format!("state {}", t.state().display())]);
        nothing_left(t, &before.collect::<Vec<String>>());
        assert_eq!(t.corten(&["gc"]).ok(), "");
        assert_eq!(t.corten(&["gc", "--format", "json"]).ok(), "[]\n");
    }
}

/// A process that a hook has left running in the container ends too. No other process does.
#[test]
fn gc_ends_only_the_processes_of_the_container() {
    isolated(|t| {
        let mut stranger = std::process::Command::new("sleep").arg("1002").spawn().unwrap();
        let hook = "sleep 1001 < /dev/null > /dev/null 2>&1 & kill -KILL $(cut -d' ' -f4 /proc/$PPID/stat)";
        let bundle = t.bundle(|c| {
            without_namespace(c, "pid");
            let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", hook], "env": ["PATH=/bin:/usr/bin"]});
            c["hooks"] = json!({"createContainer": [hook]});
        });
        t.corten(&["create", "--bundle", bundle.path(), "c"]).exits(137);
        let runs = || processes().iter().any(|line| line.contains("sleep 1001"));
        assert!(poll(Duration::from_secs(10), runs));
        assert_eq!(t.corten(&["gc"]).ok(), "c: its create was interrupted\n");
        assert!(!runs() && !Path::new("/sys/fs/cgroup/corten-c").exists());
        assert_eq!(stranger.try_wait().unwrap(), None);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    });
}

/// A container that was created completely belongs to its engine in any status. `gc` removes a stopped one
/// only with an option.
#[test]
fn gc_leaves_finished_containers_to_their_engine() {
    isolated(|t| {
        let (bundle, short) = (t.bundle(|_| {}), t.bundle(|c| c["process"]["args"] = json!(["/bin/true"])));
        t.start(&bundle, "running");
        t.create(&bundle, "created");
        t.start(&bundle, "paused");
        t.corten(&["pause", "paused"]).ok();
        t.create(&short, "stopped");
        t.corten(&["start", "stopped"]).ok();
        t.until("stopped", "stopped");
        // A zombie can be reaped a moment after it is one.
        assert!(poll(Duration::from_secs(10), || {
            crate::harness::reap();
            processes().len() == 3
        }));
        let before = traces(t);
        assert_eq!(t.corten(&["gc"]).ok(), "");
        assert_eq!(traces(t), before);
        for status in ["running", "created", "paused", "stopped"] {
            assert_eq!(t.status(status), status);
        }
        let output: Value =
            serde_json::from_str(&t.corten(&["gc", "--stopped", "--format=json"]).ok()).unwrap();
        assert_eq!(output, json!([{"id": "stopped", "reason": "stopped"}]));
        assert_eq!(t.corten(&["list", "-q"]).ok(), "created\npaused\nrunning\n");
        t.corten(&["start", "created"]).ok();
        t.corten(&["resume", "paused"]).ok();
        let mut deleted: Vec<String> =
            t.corten(&["delete", "--all", "--force"]).ok().lines().map(String::from).collect();
        deleted.sort_unstable();
        assert_eq!(deleted, ["created", "paused", "running"]);
    });
}

fn spawn(t: &Test, args: &[&str]) -> Running {
    t.spawn(t.command(args).stdin(std::process::Stdio::null()))
}

/// A `create` that is still at work is not disturbed, however long it takes.
#[test]
fn gc_does_not_disturb_a_create_at_work() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let (here, go) = (bundle.dir.join("my-here"), bundle.dir.join("my-go"));
        let script = format!(
            "echo > {}; while ! [ -e {} ]; do sleep 0.01; done",
            here.to_str().unwrap(),
            go.to_str().unwrap()
        );
        bundle.edit(|c| {
            c["hooks"] =
                json!({"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]});
        });
        let create = spawn(t, &["create", "--bundle", bundle.path(), "c"]);
        assert!(poll(Duration::from_secs(20), || here.exists()));
        for args in [&["gc"][..], &["gc", "--stopped"], &["gc", "--dry-run"]] {
            assert_eq!(t.corten(args).ok(), "");
        }
        fs::write(go, "").unwrap();
        create.wait().ok();
        t.corten(&["start", "c"]).ok();
        t.delete("c");
    });
}

/// `gc` runs at every moment of many creates, and all of them succeed.
#[test]
fn creates_succeed_while_gc_runs() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let (program, done) = (t.command(&[]), AtomicBool::new(false));
        let gcs = || -> Vec<String> {
            let mut errors = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let mut command = std::process::Command::new(program.get_program());
                let out = command.args(program.get_args()).arg("gc").output().unwrap();
                let text = format!(
                    "{}{}",
                    String::from_utf8_lossy(&out.stdout),
                    String::from_utf8_lossy(&out.stderr)
                );
                // gc may only find a directory that has no lock yet. create then makes it again.
                let fine = text.lines().all(|line| line.ends_with(": its create was interrupted"));
                if !out.status.success() || !fine {
                    errors.push(text);
                }
            }
            errors
        };
        std::thread::scope(|scope| {
            let all = [scope.spawn(gcs), scope.spawn(gcs)];
            let ids: Vec<String> = (0..40).map(|number| format!("c{number}")).collect();
            for ids in ids.chunks(4) {
                let creates: Vec<Running> =
                    ids.iter().map(|id| spawn(t, &["create", "--bundle", bundle.path(), id])).collect();
                let outs: Vec<_> = creates.into_iter().map(Running::wait).collect();
                done.store(outs.iter().any(|out| out.code != 0), Ordering::Relaxed);
                outs.into_iter().for_each(|out| drop(out.ok()));
            }
            done.store(true, Ordering::Relaxed);
            for thread in all {
                assert_eq!(thread.join().unwrap(), Vec::<String>::new());
            }
        });
        let deleted = t.corten(&["delete", "--all", "--force"]).ok();
        assert_eq!(deleted.lines().count(), 40);
    });
}

/// Each of several gcs finds everything done at its end, and each removal is reported by one of them.
#[test]
fn several_gcs_at_once_report_each_removal_once() {
    isolated(|t| {
        let before = traces(t);
        for _ in 0..8 {
            crashed(t, &["create"], |_| {});
            let all: Vec<Running> = (0..4).map(|_| spawn(t, &["gc"])).collect();
            let output: String = all.into_iter().map(|gc| gc.wait().ok()).collect();
            assert_eq!(output, "c: its create was interrupted\n");
            let before: Vec<String> =
                before.iter().cloned().chain([format!("state {}", t.state().display())]).collect();
            nothing_left(t, &before);
        }
    });
}

fn edit_record(t: &Test, id: &str, edit: impl FnOnce(&mut Value)) {
    let file = t.state().join(id).join("state.json");
    let mut record = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    edit(&mut record);
    fs::write(file, record.to_string()).unwrap();
}

/// A container of another boot no longer runs, whatever its record says. Only its directory is removed. A
/// process with its id and a cgroup at its path are not touched.
#[test]
fn gc_removes_the_containers_of_an_earlier_boot() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let pid = t.start(&bundle, "c");
        edit_record(t, "c", |record| record["bootId"] = json!("another"));
        assert_eq!(t.corten(&["gc"]).ok(), "c: it was made before the machine was booted\n");
        assert!(!t.state().join("c").exists());
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        fs::write("/sys/fs/cgroup/corten-c/cgroup.kill", "1").unwrap();
        assert!(poll(Duration::from_secs(5), || fs::remove_dir("/sys/fs/cgroup/corten-c").is_ok()));
    });
}

/// The record is lost, empty or damaged. The directory is removed if no process could belong to the
/// container. Otherwise an error names the container, and gc goes on with the others.
#[test]
fn gc_removes_a_container_without_a_record_only_if_nothing_runs() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let damage: [fn(&Path); 3] = [
            |file| fs::remove_file(file).unwrap(),
            |file| fs::write(file, "").unwrap(),
            |file| fs::write(file, "{\"id\":\"c\",\"pi").unwrap(),
        ];
        for damage in damage {
            t.start(&bundle, "b");
            damage(&t.state().join("b/state.json"));
            crashed(t, &["create"], |_| {});
            let out = t.corten(&["gc"]);
            assert_eq!(out.stdout, "c: its create was interrupted\n");
            out.fails("gc: container \"b\": the record is lost, and process ").exits(1);
            assert!(t.state().join("b").exists() && !t.state().join("c").exists());
            fs::write("/sys/fs/cgroup/corten-b/cgroup.kill", "1").unwrap();
            assert!(poll(Duration::from_secs(5), || fs::remove_dir("/sys/fs/cgroup/corten-b").is_ok()));
            assert_eq!(t.corten(&["gc"]).ok(), "b: its record is lost, and nothing of it runs\n");
            assert!(!t.state().join("b").exists());
        }
    });
}

/// The rest of a command that was killed before it made anything, or after all was removed.
#[test]
fn gc_removes_the_rest_of_a_directory() {
    isolated(|t| {
        let dir = |name: &str, files: &[&str]| {
            let dir = t.state().join(name);
            fs::create_dir_all(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
            files.iter().for_each(|file| fs::write(dir.join(file), "").unwrap());
        };
        dir("made", &[]);
        dir("written", &["state.json.new"]);
        dir(".deleted:c", &["state.json", "start.sock"]);
        let output = t.corten(&["gc"]).ok();
        let expected = "made: its create was interrupted\nwritten: its create was interrupted\nc: its delete was interrupted\n";
        assert_eq!(output, expected);
        assert_eq!(fs::read_dir(t.state()).unwrap().count(), 0);
    });
}

/// A root that is not one of containers loses nothing.
#[test]
fn gc_of_a_wrong_root_removes_nothing() {
    isolated(|t| {
        let root = t.dir.join("home");
        let make = |name: &str, mode: u32, file: &str| {
            let dir = root.join(name);
            fs::create_dir_all(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
            if !file.is_empty() {
                fs::write(dir.join(file), "{}").unwrap();
            }
        };
        make("empty", 0o755, "");
        make("letters", 0o700, "letter.txt");
        make("docker", 0o700, "config.json");
        make("runc", 0o700, "state.json");
        fs::write(root.join("file"), "text").unwrap();
        let list = |root: &Path| {
            let mut all: Vec<_> =
                walk(root).into_iter().map(|path| path.to_string_lossy().into_owned()).collect();
            all.sort_unstable();
            all
        };
        let before = list(&root);
        let root_arg = root.to_str().unwrap();
        let names = ["empty", "letters", "docker", "runc"];
        let out = t.corten(&["--root", root_arg, "gc", "--stopped"]);
        names.iter().for_each(|name| assert!(out.stderr.contains(&format!("{name:?}")), "{out:?}"));
        assert_eq!(out.fails("--root right?").stdout, "");
        assert_eq!(list(&root), before);
        let out = t.corten(&["--root", root_arg, "delete", "--all", "--force"]);
        ["empty", "letters"].iter().for_each(|name| assert!(out.stderr.contains(&format!("{name:?}"))));
        out.fails("--root right?");
        let kept = list(&root);
        assert!(
            ["empty", "letters/letter.txt", "file"].iter().all(|name| kept.iter().any(|k| k.ends_with(name)))
        );
    });
}

/// A record in another user's directory was written by that user. gc of root does not follow it.
#[test]
fn gc_by_root_skips_records_of_other_users() {
    isolated(|t| {
        crashed(t, &["create"], |_| {});
        let dir = t.state().join("c");
        std::os::unix::fs::chown(&dir, Some(1000), Some(1000)).unwrap();
        for args in [&["gc"][..], &["gc", "--dry-run"], &["delete", "--all", "--force"]] {
            let out = t.corten(args).exits(1);
            assert_eq!(out.stdout, "");
            out.fails("container \"c\": its directory belongs to user 1000");
        }
        std::os::unix::fs::chown(&dir, Some(0), Some(0)).unwrap();
        t.delete("c");
    });
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    entries
        .flat_map(|path| if path.is_dir() { [vec![path.clone()], walk(&path)].concat() } else { vec![path] })
        .collect()
}

/// A container that was made after the crash in the same cgroup lives on.
#[test]
fn gc_leaves_a_cgroup_that_another_container_uses() {
    isolated(|t| {
        let at = |c: &mut Value| c["linux"]["cgroupsPath"] = json!("/shared");
        crashed(t, &["create"], at);
        // The crash came before the process was made. (Linux 6.18 kills every process that is cloned into a
        // cgroup after a write to its cgroup.kill.)
        let read = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/shared/{file}")).unwrap();
        for pid in read("cgroup.procs").lines() {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.parse().unwrap()),
                nix::sys::signal::SIGKILL,
            )
            .unwrap();
        }
        let empty = || {
            crate::harness::reap();
            read("cgroup.events").contains("populated 0")
        };
        assert!(poll(Duration::from_secs(5), empty));
        t.start(&t.bundle(at), "b");
        assert_eq!(t.corten(&["gc"]).ok(), "c: its create was interrupted\n");
        assert_eq!(t.status("b"), "running");
        assert_eq!(t.exec("b", "echo here").ok(), "here\n");
        t.delete("b");
    });
}

/// Without --force only stopped containers are deleted. Each of the others is an error that does not keep the
/// next from being deleted.
#[test]
fn delete_all_without_force_deletes_only_stopped_containers() {
    isolated(|t| {
        assert_eq!(t.corten(&["delete", "--all"]).ok(), "");
        let (bundle, short) = (t.bundle(|_| {}), t.bundle(|c| c["process"]["args"] = json!(["/bin/true"])));
        let stop = |bundle: &Bundle, id: &str| {
            t.create(bundle, id);
            t.corten(&["start", id]).ok();
            t.until(id, "stopped");
        };
        stop(&short, "a");
        t.start(&bundle, "b");
        t.create(&bundle, "c");
        stop(&short, "d");
        let out = t.corten(&["delete", "--all"]);
        assert_eq!(out.stdout, "a\nd\n");
        assert!(out.stderr.contains("container \"c\": cannot delete a container that is created"), "{out:?}");
        out.fails("delete --all: container \"b\": cannot delete a container that is running").exits(1);
        assert_eq!(t.corten(&["delete", "--all", "--force"]).ok(), "b\nc\n");
    });
}

/// As with crun, an expression matches anywhere in an id unless it has anchors.
#[test]
fn a_regular_expression_selects_the_containers_to_kill_and_delete() {
    isolated(|t| {
        assert_eq!(t.corten(&["kill", "--regex", "."]).ok(), "");
        assert_eq!(t.corten(&["delete", "--regex", "."]).ok(), "");
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["sleep", "1000"]));
        for id in ["pod1-a", "pod1-b", "pod2-a", "x.pod1"] {
            t.start(&bundle, id);
        }
        t.corten(&["kill", "--regex", "^pod1-", "KILL"]).ok();
        t.until("pod1-a", "stopped");
        t.until("pod1-b", "stopped");
        assert_eq!(t.corten(&["list", "-q"]).ok().lines().count(), 4);
        // A container that does not run is passed over; the others get the signal.
        t.corten(&["kill", "--all", "-r", "a$", "KILL"]).ok();
        t.until("pod2-a", "stopped");
        t.corten(&["delete", "--regex", "pod[12]"])
            .fails("\"x.pod1\": cannot delete a container that is running");
        assert_eq!(t.corten(&["list", "-q"]).ok(), "x.pod1\n");
        assert_eq!(t.corten(&["delete", "-r", "-f", "nothing"]).ok(), "");
        assert_eq!(t.corten(&["delete", "-r", "-f", "\\.pod"]).ok(), "");
        assert_eq!(t.corten(&["list", "-q"]).ok(), "");
        for verb in ["kill", "delete"] {
            t.corten(&[verb, "--regex", "(a"]).fails("--regex \"(a\"");
            t.corten(&[verb, "(a"]).fails("invalid");
        }
        t.corten(&["delete", "--all", "--regex", "a"]).fails("--all");
    });
}
