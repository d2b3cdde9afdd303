//! `--log`, `--log-format`, `--log-level` and `--debug`: what docs/log.md promises.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::pty::openpty;
use serde_json::{Value, json};

use crate::harness::{Bundle, Output, Test, isolated};

/// Returns the records of a log in JSON.
fn records(text: &str) -> Vec<Value> {
    let records: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    records.unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn message(record: &Value) -> &str {
    record["msg"].as_str().unwrap()
}

/// Runs a command with `--debug` and returns its records.
fn debugged(t: &Test, args: &[&str]) -> (Output, Vec<Value>) {
    let out = t.corten(&[&["--debug", "--log-format", "json"], args].concat());
    let records = records(&out.stderr);
    (out, records)
}

/// Fails unless the process (`null` is the runtime) has records that begin with these words, in this order.
fn has_in_order(records: &[Value], process: &Value, words: &[&str]) {
    let all: Vec<&str> = records.iter().filter(|r| &r["process"] == process).map(message).collect();
    let mut rest = all.iter();
    for word in words {
        assert!(rest.any(|message| message.starts_with(word)), "{process}: no {word:?} in order: {all:#?}");
    }
}

/// Edits a bundle so that it has every kind of step.
fn rich(c: &mut Value) {
    c["process"]["user"] = json!({"uid": 1000, "gid": 1001});
    c["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}], "createContainer": [{"path": "/bin/true"}],
        "startContainer": [{"path": "/bin/true"}]});
    let mounts = [
        json!({"destination": "/mnt/a", "source": "/tmp", "type": "bind", "options": ["rbind", "ro"]}),
        json!({"destination": "/mnt/b\nlevel=error", "type": "tmpfs", "source": "x",
            "options": ["nosuid", "size=1m"]}),
    ];
    c["mounts"].as_array_mut().unwrap().extend(mounts);
    c["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    c["linux"]["resources"] =
        json!({"unified": {"cgroup.max.depth": "7"}, "devices": [{"allow": false, "access": "rwm"}]});
}

const CONTAINER: &str = "container";

/// Until `start`.
const MADE: [&str; 14] = [
    "names, loopback, keyring",
    "root and mounts",
    "attach the root /",
    "mount mounts[0] /proc (proc)",
    "mount mounts[1] /dev (tmpfs: nosuid,mode=755,size=65536k)",
    "mount mounts[7] /mnt/a (rbind /tmp: ro)",
    "mount mounts[8] /mnt/b\\nlevel=error (tmpfs x: nosuid,size=1m)",
    "devices /dev/full /dev/null",
    "hook hooks.createContainer[0] /bin/true",
    "sysctl net/ipv4/ip_forward",
    "mask /proc/acpi",
    "make read-only /proc/bus",
    "find the program sh from /",
    "found the program /bin/sh",
];

/// From `start` until the filter, under which nothing is written.
const STARTED: [&str; 5] = [
    "hook hooks.startContainer[0] /bin/true",
    "become the program",
    "credentials of user 1000:1001, capabilities 0x20000420 of 0x20000420, no new privileges",
    "limits",
    "load the seccomp filter of ",
];

/// `--debug` shows the steps of both processes in their order, with what was decided.
#[test]
fn debug_shows_the_steps_of_both_processes_in_order() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            rich(c);
            c["process"]["args"] = json!(["sh", "-c", "true"]);
        });
        let runtime = [
            "command ",
            "read ",
            "plan",
            "seccomp filter flags: 0",
            "cgroup by cgroupfs: /",
            "make the cgroup ",
            "write cgroup.max.depth = 7",
            "nsexec container setup: clone3(0x",
            "clone3 into new namespaces: ",
            "child process in init(): ",
            "device filter of ",
            "hook hooks.createRuntime[0] /bin/true",
            "init: closing the pipe to signal completion",
            "write state.json.new",
            "container c1: created, process ",
        ];
        let (out, log) = debugged(t, &["run", "-b", bundle.path(), "c1"]);
        out.exits(0);
        let rest =
            ["start", "container c1: started, process ", "container c1: ended with status 0", "destroy"];
        has_in_order(&log, &Value::Null, &[&runtime[..], &rest].concat());
        has_in_order(&log, &json!(CONTAINER), &[&MADE[..], &STARTED].concat());
        // The order of both: the runtime's hooks come between the mounts and the container's hooks.
        let at = |words: &str| log.iter().position(|record| message(record).starts_with(words)).unwrap();
        let order =
            ["mount mounts[7]", "hook hooks.createRuntime", "hook hooks.createContainer", "init: closing"];
        assert!(order.map(at).is_sorted(), "{log:#?}");

        bundle.edit(|c| c["process"]["args"] = json!(["sh", "-c", "sleep 1000"]));
        let (out, log) = debugged(t, &["create", "-b", bundle.path(), "c1"]);
        out.exits(0);
        has_in_order(&log, &Value::Null, &runtime);
        has_in_order(&log, &json!(CONTAINER), &MADE);
        // After `create` the container process has no way to the log.
        let (out, log) = debugged(t, &["start", "c1"]);
        out.exits(0);
        let words = ["command start c1", "read state.json", "start", "container c1: started"];
        has_in_order(&log, &Value::Null, &words);
        assert!(log.iter().all(|record| record["process"] == Value::Null), "{log:#?}");
        let (out, log) = debugged(t, &["exec", "c1", "true"]);
        out.exits(0);
        let exec = ["command exec c1", "exec", "child process in init(): ", "setns_init: about to exec"];
        has_in_order(&log, &Value::Null, &exec);
        has_in_order(
            &log,
            &json!(CONTAINER),
            &[&["join the container's namespaces ", "found the program /bin/true"], &STARTED[1..]].concat(),
        );
        t.delete("c1");
    });
}

/// The level of `create` and that of `start` are independent, also if `start` has errors and descriptors to
/// receive.
#[test]
fn start_and_create_may_differ_in_their_level() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        debugged(t, &["create", "-b", bundle.path(), "c1"]).0.exits(0);
        assert_eq!(t.corten(&["start", "c1"]).exits(0).stderr, "");
        t.delete("c1");
        t.create(&bundle, "c1");
        let (out, log) = debugged(t, &["start", "c1"]);
        out.exits(0);
        has_in_order(&log, &Value::Null, &["command start c1", "container c1: started"]);
        t.delete("c1");
    });
}

/// With a user namespace and joined namespaces there is an intermediate process. The id maps are shown.
#[test]
fn debug_shows_id_maps_and_the_intermediate_process() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!(["sleep", "1000"]);
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            c["linux"]["uidMappings"] = map.clone();
            c["linux"]["gidMappings"] = map;
        });
        t.call(Command::new("chown").args(["-hR", "100000:100000"]).arg(bundle.rootfs())).ok();
        let (out, log) = debugged(t, &["create", "-b", bundle.path(), "c1"]);
        out.exits(0);
        let pid = t.pid("c1");
        has_in_order(
            &log,
            &Value::Null,
            &[&format!("id maps of process {pid}: uid 0 100000 65536; gid 0 100000 65536")],
        );
        has_in_order(
            &log,
            &json!(CONTAINER),
            &["make namespaces cgroup ipc uts network mount", "mount mounts[0]"],
        );
        t.corten(&["start", "c1"]).exits(0);
        let (out, log) = debugged(t, &["exec", "c1", "true"]);
        out.exits(0);
        has_in_order(&log, &json!("intermediate"), &["join the container's namespaces "]);
        has_in_order(&log, &json!(CONTAINER), &["found the program /bin/true", "become the program"]);
        t.delete("c1");
    });
}

/// A launch that fails shows how far each process came, and then the error.
#[test]
fn debug_shows_how_far_a_failed_launch_came() {
    isolated(|t| {
        type Edit = fn(&mut Value);
        let rows: [(Edit, Value, &str); 5] = [
            (|c| c["process"]["args"] = json!(["/no/such"]), json!(CONTAINER), "look for the program"),
            (
                |c| {
                    let bind = json!({"destination": "/mnt", "source": "/no/such", "options": ["rbind"]});
                    c["mounts"].as_array_mut().unwrap().push(bind);
                },
                json!(CONTAINER),
                "mount mounts[7] /mnt (rbind /no/such)",
            ),
            (
                |c| c["hooks"] = json!({"createContainer": [{"path": "/bin/false"}]}),
                json!(CONTAINER),
                "hook hooks.createContainer[0] /bin/false",
            ),
            // The runtime fails while the container process waits.
            (
                |c| c["hooks"] = json!({"prestart": [{"path": "/bin/false"}]}),
                json!(CONTAINER),
                "wait for the runtime",
            ),
            (|c| c["mounts"][0]["destination"] = json!(""), Value::Null, "plan"),
        ];
        for (edit, process, last) in rows {
            let bundle = t.bundle(edit);
            let (out, log) = debugged(t, &["run", "-b", bundle.path(), "r"]);
            out.exits(1);
            let (error, before) = log.split_last().unwrap();
            assert_eq!(error["level"], "error", "{log:#?}");
            let own = before.iter().rfind(|record| record["process"] == process);
            let found = own.is_some_and(|record| message(record).starts_with(last));
            assert!(found, "{last}: {log:#?}");
        }
    });
}

/// A profile that kills a process for every call with which a record could be written. With and without
/// no_new_privs the filter has another place among the steps.
#[test]
fn debug_makes_no_call_under_the_seccomp_filter() {
    isolated(|t| {
        for no_new_privs in [true, false] {
            let bundle = t.bundle(|c| {
                c["process"]["args"] = json!(["/bin/true"]);
                c["process"]["noNewPrivileges"] = json!(no_new_privs);
                let names =
                    ["sendmsg", "sendto", "write", "writev", "clock_gettime", "close", "dup", "openat"];
                c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": names, "action": "SCMP_ACT_KILL_PROCESS"}]});
            });
            let (out, log) = debugged(t, &["run", "-b", bundle.path(), "r"]);
            out.exits(0);
            has_in_order(&log, &json!(CONTAINER), &["load the seccomp filter of "]);
        }
    });
}

/// `info` has a record for each change of a container.
#[test]
fn info_has_what_an_operator_wants() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let log = t.dir.join("records");
        let told = |args: &[&str]| {
            let globals = ["--log", log.to_str().unwrap(), "--log-format", "json", "--log-level", "info"];
            let out = t.corten(&[&globals, args].concat());
            assert_eq!(out.stderr, "", "{args:?}");
            let text = fs::read_to_string(&log).unwrap();
            fs::remove_file(&log).unwrap();
            let records = records(&text);
            assert!(records.iter().all(|record| record["level"] == "info"), "{records:?}");
            records.iter().map(|record| message(record).to_string()).collect::<Vec<_>>()
        };
        let created = told(&["create", "-b", bundle.path(), "c1"]);
        let pid = t.pid("c1");
        assert_eq!(created, [format!("container c1: created, process {pid}")]);
        assert_eq!(told(&["start", "c1"]), [format!("container c1: started, process {pid}")]);
        let limits = t.dir.join("limits");
        fs::write(&limits, json!({"unified": {"cgroup.max.depth": "9"}}).to_string()).unwrap();
        let exec = told(&["exec", "c1", "sh", "-c", "exit 3"]);
        assert!(exec[0].starts_with("container c1: process ") && exec[0].ends_with(" started"), "{exec:?}");
        assert!(exec[1].ends_with(" ended with status 3") && exec.len() == 2, "{exec:?}");
        for (args, expected) in [
            (&["pause", "c1"][..], "paused".to_string()),
            (&["resume", "c1"], "resumed".into()),
            (&["update", "-r", limits.to_str().unwrap(), "c1"], "limits changed".into()),
            (&["kill", "c1", "KILL"], format!("signal 9 sent to process {pid}")),
            (&["delete", "--force", "c1"], "removed".into()),
        ] {
            assert_eq!(told(args), [format!("container c1: {expected}")], "{args:?}");
        }
        bundle.edit(|c| c["process"]["args"] = json!(["sh", "-c", "exit 7"]));
        let run = told(&["run", "-b", bundle.path(), "c2"]);
        assert!(run[0].starts_with("container c2: created, process "), "{run:?}");
        assert!(run[1].starts_with("container c2: started, process "), "{run:?}");
        assert_eq!(run[2..], ["container c2: ended with status 7", "container c2: removed"]);
    });
}

/// A warning that does not stop a command.
fn with_warning(t: &Test) -> Bundle {
    t.bundle(|c| {
        c["process"]["args"] = json!(["/bin/true"]);
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]});
    })
}

/// runc and crun too write only the record to stderr if `--log-format json` is given without `--log`.
#[test]
fn json_without_a_log_is_on_stderr() {
    isolated(|t| {
        let bundle = with_warning(t);
        let json = ["--log-format", "json"];
        let ran = t.corten(&[&json[..], &["run", "-b", bundle.path(), "r"]].concat()).exits(0);
        let [warning] = &records(&ran.stderr)[..] else { panic!("{ran:?}") };
        assert_eq!(warning["level"], "warning");
        assert!(message(warning).starts_with("linux.seccomp.flags[0]"), "{warning}");
        let failed = t.corten(&[&json[..], &["state", "none"]].concat()).exits(1);
        let [error] = &records(&failed.stderr)[..] else { panic!("{failed:?}") };
        assert_eq!((&error["level"], &error["kind"]), (&json!("error"), &json!("not found")));
        // With --log, stderr has the message for people, on which engines match.
        let log = t.dir.join("records");
        let to_file = [&json[..], &["--log", log.to_str().unwrap(), "state", "none"]].concat();
        let failed = t.corten(&to_file).exits(1);
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!(failed.stderr, format!("error: {}\n", message(&records(&text)[0])));
    });
}

/// Several problems of a configuration are one line in the log and for a program, and a line each for a
/// person.
#[test]
fn several_errors_have_a_line_each_on_a_terminal() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["process"]["cwd"] = json!("tmp\n");
            c["hostname"] = json!("x".repeat(65));
        });
        let args = ["create", "-b", bundle.path(), "c1"];
        let plain = t.corten(&args).exits(1).stderr;
        assert_eq!(plain.lines().count(), 1, "{plain}");
        let pty = openpty(None, None).unwrap();
        let mut command = t.command(&args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::from(pty.slave));
        assert_eq!(command.status().unwrap().code(), Some(1));
        drop(command);
        let mut bytes = [0; 4096];
        let read = nix::unistd::read(&pty.master, &mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..read]).replace("\r\n", "\n");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines.len()), ("error: create c1: 2 errors:", 3), "{text}");
        let one = plain.trim_end().strip_prefix("error: create c1: ").unwrap();
        assert_eq!(
            lines[1..].iter().map(|line| line.strip_prefix("  ").unwrap()).collect::<Vec<_>>().join("; "),
            one
        );
    });
}

/// `--log journald:ID` and `syslog:ID`, as with crun: to the socket of the service, and never to a file of
/// that name. `file:PATH` is a file.
#[test]
fn the_log_can_be_the_journal_syslog_or_a_file() {
    isolated(|t| {
        let old = t.dir.join("dev");
        fs::create_dir(&old).unwrap();
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some("/dev"), &old, None::<&str>, bind, None::<&str>).unwrap();
        for dir in ["/run", "/dev"] {
            mount(Some("x"), dir, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        }
        File::create("/dev/null").unwrap();
        mount(Some(&old.join("null")), "/dev/null", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let state = |log: &str| t.call(t.command(&["--log", log, "state", "no\nne"]).current_dir(&t.dir));
        let here = || {
            fs::read_dir(&t.dir)
                .unwrap()
                .flatten()
                .filter(|e| e.file_name().to_string_lossy().contains(':'))
                .count()
        };
        for (log, socket) in [("journald:web", "/run/systemd/journal/socket"), ("syslog:web", "/dev/log")] {
            let out = state(log).exits(1);
            let expected = format!("error: --log {log}: connect({socket:?}): no such file or directory\n");
            assert_eq!(out.stderr, expected);
        }
        for log in ["journald:", "syslog:a\nb"] {
            state(log).fails("is not followed by an identifier of printable characters");
        }
        fs::create_dir_all("/run/systemd/journal").unwrap();
        let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
        let syslog = UnixDatagram::bind("/dev/log").unwrap();
        let heard = |socket: &UnixDatagram| {
            let mut bytes = [0; 4096];
            socket.set_nonblocking(true).unwrap();
            let read = socket.recv(&mut bytes).unwrap();
            assert!(socket.recv(&mut bytes[read..]).is_err(), "more than one record");
            String::from_utf8_lossy(&bytes[..read]).into_owned()
        };
        let out = state("journald:web").exits(1);
        let plain = out.stderr.strip_prefix("error: ").unwrap().trim_end();
        let entry = heard(&journal);
        let lines: Vec<&str> = entry.lines().collect();
        assert_eq!(lines[..3], ["PRIORITY=3", "SYSLOG_IDENTIFIER=web", &format!("MESSAGE={plain}")]);
        assert!(lines[3].starts_with("CORTEN_KIND=") && lines.len() == 4, "{entry}");
        state("syslog:web").exits(1);
        let text = heard(&syslog);
        assert!(
            text.starts_with("<11>")
                && text.contains(" web[")
                && text.ends_with(&format!("]: error: {plain}")),
            "{text}"
        );
        assert_eq!(here(), 0);
        state("file:web.log").exits(1);
        assert!(fs::read_to_string(t.dir.join("web.log")).unwrap().contains("level=error"));
        drop((journal, syslog));
        for at in [Path::new("/dev/null"), Path::new("/dev"), Path::new("/run"), &old] {
            nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
    });
}
