//! `--trace` and `corten trace`: the time of each step of a command. No other runtime has them; the reference
//! is docs/man/trace.roff.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Bundle, Output, Test, isolated};

const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A script that prints every trace that a program could notice. The second line has the last column of its
/// mappings.
const LOOK: &str = "ls /proc/self/fd | wc -l; cut -c 50- /proc/self/maps | tr -s ' ' | tr '\\n' ' '";

type Edit<'a> = &'a dyn Fn(&mut Value);

/// A phase of a trace, in nanoseconds.
#[derive(Clone, Debug)]
struct Phase {
    name: String,
    process: String,
    begin: i64,
    end: i64,
}

/// All phases of a trace. Their form is checked: each phase has a process and lies within the phases around
/// it.
struct Trace(Vec<Phase>);

impl Trace {
    fn read(path: &Path) -> Self {
        let document: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let events = document["traceEvents"].as_array().unwrap();
        let name = |pid: &Value| {
            let names = events.iter().filter(|e| e["ph"] == "M" && &e["pid"] == pid);
            let names: Vec<_> = names.map(|e| e["args"]["name"].as_str().unwrap().to_string()).collect();
            assert_eq!(names.len(), 1, "{pid}: {document:#}");
            names[0].clone()
        };
        let nanos = |value: &Value| (value.as_f64().unwrap() * 1000.0).round() as i64;
        let phase = |e: &Value| {
            assert_eq!(e["pid"], e["tid"], "{e}");
            let of = e["args"]["of"].as_str().map(|of| format!(" {of}")).unwrap_or_default();
            let (begin, lasts) = (nanos(&e["ts"]), nanos(&e["dur"]));
            assert!(lasts >= 0, "{e}");
            let name_of = format!("{}{of}", e["name"].as_str().unwrap());
            Phase { name: name_of, process: name(&e["pid"]), begin, end: begin + lasts }
        };
        let mut phases: Vec<Phase> = events.iter().filter(|e| e["ph"] == "X").map(phase).collect();
        assert_eq!(phases[0].name.split(' ').next(), Some("corten"));
        // Numbers of that size have no decimal places left.
        const ROUND: i64 = 2;
        phases.sort_by_key(|phase| (phase.begin, -phase.end));
        for (i, a) in phases.iter().enumerate() {
            for b in phases[i + 1..].iter().filter(|b| b.process == a.process && b.begin < a.end - ROUND) {
                assert!(b.end <= a.end + ROUND, "{b:?} is not within {a:?}");
            }
        }
        Self(phases)
    }

    fn names(&self, process: &str) -> Vec<&str> {
        self.0.iter().filter(|phase| phase.process == process).map(|phase| phase.name.as_str()).collect()
    }

    fn has(&self, process: &str, name: &str) {
        let found = self.names(process).iter().any(|found| found.starts_with(name));
        assert!(found, "{process} has no {name}: {:#?}", self.names(process));
    }

    fn find(&self, name: &str) -> &Phase {
        self.0.iter().find(|phase| phase.name.starts_with(name)).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Returns how much of a phase is explained by the phases directly in it.
    fn share(&self, of: &Phase) -> f64 {
        let mut at = of.begin;
        let mut sum = 0;
        for inner in self.0.iter().filter(|p| p.process == of.process && p.name != of.name) {
            if inner.begin >= at && inner.end <= of.end {
                sum += inner.end - inner.begin;
                at = inner.end;
            }
        }
        sum as f64 / (of.end - of.begin) as f64
    }
}

/// Runs a command of corten with a trace, and returns the trace.
fn traced(t: &Test, args: &[&str]) -> (Output, Trace) {
    let file = t.dir.join("trace.json");
    let out = t.corten(&[&["--trace", file.to_str().unwrap()], args].concat());
    let trace = Trace::read(&file);
    fs::remove_file(file).unwrap();
    (out, trace)
}

/// Edits a bundle so that it has every kind of step.
fn rich(c: &mut Value, script: &str) {
    c["process"]["args"] = json!(["/bin/sh", "-c", script]);
    for kind in HOOKS {
        c["hooks"][kind] = json!([{"path": "/bin/true"}, {"path": "/bin/sh", "args": ["sh", "-c", ":"]}]);
    }
    let bind = json!({"destination": "/mnt/a \"b\"", "source": "/tmp", "type": "bind", "options": ["rbind"]});
    c["mounts"].as_array_mut().unwrap().push(bind);
    c["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    c["linux"]["resources"] = json!({"unified": {"cgroup.max.depth": "7"}});
}

/// Fails unless the trace has every hook and mount once and in order, and each kind of step.
fn has_all(trace: &Trace, bundle: &Bundle) {
    for (process, hooks) in [("runtime", [0, 1, 4, 5].as_slice()), ("init", &[2, 3])] {
        let hook = |i: &usize| {
            [("/bin/true", 0), ("/bin/sh", 1)]
                .map(|(path, n)| format!("hook hooks.{}[{n}] {path}", HOOKS[*i]))
        };
        let expected: Vec<_> = hooks.iter().flat_map(hook).collect();
        let found = trace.names(process).into_iter().filter(|name| name.starts_with("hook "));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
    let config: Value =
        serde_json::from_str(&fs::read_to_string(bundle.dir.join("config.json")).unwrap()).unwrap();
    let mounts = config["mounts"].as_array().unwrap().iter().enumerate();
    let mounts = mounts.map(|(i, m)| format!("mount mounts[{i}] {}", m["destination"].as_str().unwrap()));
    let found = trace.names("init").into_iter().filter(|name| name.starts_with("mount "));
    let found: Vec<_> = found.map(|name| name.split(" (").next().unwrap()).collect();
    assert_eq!(found, mounts.collect::<Vec<_>>());
    for name in [
        "start, to be executed again",
        "execute the sealed copy",
        "read the command line",
        "command run r",
        "seal",
        "parse config.json",
        "probe the host",
        "compile the seccomp profile",
        "write state.json.new",
        "make the cgroup ",
        "write cgroup.max.depth = 7",
        "clone3",
        "wait for the container's process",
        "wait for the program's end",
        "remove the empty cgroup",
    ] {
        trace.has("runtime", name);
    }
    for name in [
        "attach the root",
        "devices",
        "sysctl net/ipv4/ip_forward",
        "mask /proc/kcore",
        "make read-only /proc/sys",
        "pivot_root",
        "credentials",
        "limits",
        "load the seccomp filter of ",
        "execve /bin/sh",
    ] {
        trace.has("init", name);
    }
}

/// Both processes, every mount, hook and write, in their order, without gaps.
#[test]
fn a_trace_of_run_has_every_step_without_gaps() {
    isolated(|t| {
        let bundle = t.bundle(|c| rich(c, "true"));
        let mut shares = Vec::new();
        for _ in 0..3 {
            let (out, trace) = traced(t, &["run", "--bundle", bundle.path(), "r"]);
            out.ok();
            has_all(&trace, &bundle);
            // Clock and order: while one process waits, the other has done the work that it waits for.
            let (clone, attend, start) =
                (trace.find("clone3"), trace.find("serve the container's process"), trace.find("start"));
            let (init, pivot, execve) =
                (trace.find("the container's process"), trace.find("pivot_root"), trace.find("execve"));
            assert!(start.begin <= clone.begin && clone.begin < init.begin && init.begin < attend.end);
            assert!(attend.begin < pivot.begin && pivot.end < attend.end && attend.end < execve.begin);
            assert_eq!(init.end, execve.end);
            let root = trace.find("corten");
            assert!(root.end - root.begin < 60_000_000_000 && trace.0.iter().all(|p| p.end <= root.end));
            shares.push((trace.share(root), trace.share(trace.find("command"))));
        }
        // A process can wait for a processor between any two phases.
        let best = shares.iter().fold((0.0f64, 0.0f64), |best, s| (best.0.max(s.0), best.1.max(s.1)));
        assert!(best.0 > 0.9 && best.0 < 1.001 && best.1 > 0.8 && best.1 < 1.001, "{shares:?}");
    });
}

/// Every other verb has its own steps. `start` has only the duration of the steps in the container.
#[test]
fn a_trace_of_each_verb_has_its_steps() {
    isolated(|t| {
        let bundle = t.bundle(|c| rich(c, "sleep 1000"));
        let table: [(&[&str], &[&str], &[&str]); 6] = [
            (
                &["create", "--bundle", bundle.path(), "c1"],
                &["create", "spawn", "commit"],
                &["mount mounts[0]", "wait for the runtime"],
            ),
            (
                &["start", "c1"],
                &["read state.json", "start", "wait for the container's process", "hook hooks.poststart[0]"],
                &[],
            ),
            (
                &["exec", "c1", "true"],
                &["exec", "clone3"],
                &["join", "find the program", "load the seccomp filter", "execve /bin/true"],
            ),
            (&["state", "c1"], &["read state.json", "derive the status", "print"], &[]),
            (&["kill", "c1", "KILL"], &["derive the status", "signal"], &[]),
            (&["delete", "--force", "c1"], &["lock", "destroy", "remove", "hook hooks.poststop[1]"], &[]),
        ];
        for (args, runtime, init) in table {
            let (out, trace) = traced(t, args);
            assert_eq!((out.code, out.stderr.as_str()), (0, ""), "{args:?}");
            trace.has("runtime", &format!("command {} c1", args[0]));
            runtime.iter().for_each(|name| trace.has("runtime", name));
            init.iter().for_each(|name| trace.has("init", name));
            let processes: HashSet<_> = trace.0.iter().map(|phase| phase.process.as_str()).collect();
            assert_eq!(processes.len(), 1 + usize::from(!init.is_empty()), "{args:?}");
        }
    });
}

/// A failed command has the steps until the failure, in any process.
#[test]
fn a_trace_of_a_failed_command_has_the_steps_until_then() {
    isolated(|t| {
        let no_program = |c: &mut Value| c["process"]["args"] = json!(["/no/such"]);
        let no_source = |c: &mut Value| {
            let bind =
                json!({"destination": "/mnt", "source": "/no/such", "type": "bind", "options": ["bind"]});
            c["mounts"].as_array_mut().unwrap().push(bind);
        };
        let bad_hook = |c: &mut Value| c["hooks"] = json!({"createContainer": [{"path": "/bin/false"}]});
        let bad_plan = |c: &mut Value| c["mounts"][0]["destination"] = json!("");
        let edits: [(Edit, &str, &str); 4] = [
            (&no_program, "init", "look for the program"),
            (&no_source, "init", "mount mounts[7] /mnt"),
            (&bad_hook, "init", "hook hooks.createContainer[0] /bin/false"),
            (&bad_plan, "runtime", "plan"),
        ];
        for (edit, process, last) in edits {
            let bundle = t.bundle(edit);
            let (out, trace) = traced(t, &["run", "--bundle", bundle.path(), "r"]);
            out.fails("run r: ");
            assert_eq!(trace.names(process).last().map(|name| name.starts_with(last)), Some(true), "{last}");
        }
        let (out, trace) = traced(t, &["start", "none"]);
        out.fails("does not exist");
        trace.has("runtime", "open the state directory");
        traced(t, &["no-such-verb"]).0.fails("unknown command");
    });
}

/// The trace overwrites only another trace or a file that the caller has made for it. The file never decides
/// about the container.
#[test]
fn only_a_trace_is_overwritten() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["/bin/true"]));
        let run = |file: &Path| {
            t.corten(&["--trace", file.to_str().unwrap(), "run", "--bundle", bundle.path(), "r"]).exits(0)
        };
        let (file, link, text) = (t.dir.join("new"), t.dir.join("link"), t.dir.join("text"));
        for _ in 0..2 {
            run(&file).ok();
            Trace::read(&file);
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        }
        symlink(&file, &link).unwrap();
        fs::write(&text, "precious\n").unwrap();
        for (path, why) in [
            (&link, "too many levels of symbolic links"),
            (&text, "is there already, and is not a trace"),
            (&t.dir.join("no/such"), "no such file or directory"),
            (&"/dev/null".into(), "is not a regular file"),
        ] {
            let out = run(path);
            let one = out.stderr.starts_with("warning: --trace ") && out.stderr.lines().count() == 1;
            assert!(one && out.stderr.contains(why) && out.stderr.ends_with(", ignoring\n"), "{out:?}");
        }
        assert_eq!(fs::read_to_string(&text).unwrap(), "precious\n");
    });
}

/// An engine passes one option for all commands. In a directory each command writes a file of its own, which
/// is named after its process.
#[test]
fn a_directory_has_a_trace_for_each_command() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["/bin/true"]));
        let dir = t.dir.join("traces");
        fs::create_dir(&dir).unwrap();
        let option = format!("--trace={}", dir.display());
        for args in
            [&["create", "-b", bundle.path(), "c1"][..], &["start", "c1"], &["delete", "--force", "c1"]]
        {
            t.corten(&[&[option.as_str()], args].concat()).ok();
        }
        let mut commands = Vec::new();
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let number = name.strip_prefix("corten-").and_then(|name| name.strip_suffix(".trace"));
            assert!(number.unwrap().parse::<u32>().is_ok(), "{name}");
            let trace = Trace::read(&entry.path());
            commands.extend(trace.0.into_iter().filter(|phase| phase.name.starts_with("command ")));
        }
        let mut commands: Vec<String> = commands.into_iter().map(|phase| phase.name).collect();
        commands.sort();
        assert_eq!(commands, ["command create c1", "command delete c1", "command start c1"]);
    });
}

/// SECURITY.md, second promise: neither the memory nor the file of a trace reaches the program. Without the
/// option neither exists.
#[test]
fn a_trace_does_not_reach_the_program() {
    isolated(|t| {
        let bundle = t.bundle(|c| rich(c, LOOK));
        let before = fs::read_dir(&t.dir).unwrap().count();
        let plain = t.run_bundle(&bundle).ok();
        let (out, _) = traced(t, &["run", "--bundle", bundle.path(), "r"]);
        let lines = |text: &str| -> Vec<String> {
            let names =
                text.split_whitespace().filter(|word| word.starts_with(['/', '[']) || !word.contains(':'));
            names.map(Into::into).collect()
        };
        assert_eq!(lines(&out.ok()), lines(&plain));
        assert!(lines(&plain).contains(&"[stack]".to_string()) && !plain.contains("zero"), "{plain}");
        let bundle = t.bundle(|c| rich(c, "sleep 1000"));
        t.start(&bundle, "c1");
        let plain = t.exec("c1", LOOK).ok();
        let (out, _) = traced(t, &["exec", "c1", "/bin/sh", "-c", LOOK]);
        assert_eq!(lines(&out.ok()), lines(&plain));
        t.delete("c1");
        let made = fs::read_dir(&t.dir).unwrap().flatten().map(|entry| entry.file_name());
        let made: Vec<_> = made.filter(|name| name.to_string_lossy().contains("trace")).collect();
        assert!(made.is_empty() && before > 0, "{made:?}");
    });
}

/// time_namespaces(7) changes the clock of a process, and a filter can forbid to read it.
#[test]
fn a_trace_has_one_clock() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            rich(c, "sleep 1000");
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
            c["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 86_400}});
        });
        let within = |trace: &Trace| {
            let root = trace.find("corten");
            assert!(trace.0.iter().all(|p| p.begin >= root.begin && p.end <= root.end), "{:#?}", trace.0);
        };
        let (out, trace) = traced(t, &["create", "--bundle", bundle.path(), "c1"]);
        out.ok();
        within(&trace);
        trace.has("init", "pivot_root");
        t.corten(&["start", "c1"]).ok();
        let (out, trace) = traced(t, &["exec", "c1", "true"]);
        out.ok();
        within(&trace);
        trace.has("init", "join the container's namespaces");
        t.delete("c1");
        let bundle = t.bundle(|c| {
            rich(c, "echo fine");
            let rule = json!({"names": ["clock_gettime", "gettimeofday", "time"], "action": "SCMP_ACT_KILL_PROCESS"});
            c["linux"]["seccomp"]["syscalls"] = json!([rule]);
            c["process"]["noNewPrivileges"] = json!(false);
        });
        let (out, trace) = traced(t, &["run", "--bundle", bundle.path(), "r"]);
        assert_eq!(out.ok(), "fine\n");
        trace.has("init", "load the seccomp filter");
        assert!(!trace.names("init").iter().any(|name| name.starts_with("execve")));
    });
}

/// As text: each phase is below the phase that contains it, and the slowest is marked. The error for a file
/// that is not a trace is one line.
#[test]
fn trace_prints_a_timeline() {
    isolated(|t| {
        let file = t.dir.join("x.json");
        let print = |text: &str| {
            fs::write(&file, text).unwrap();
            t.corten(&["trace", file.to_str().unwrap()])
        };
        let event = |name: &str, ts: f64, dur: f64, pid: i32| json!({"ph": "X", "name": name, "ts": ts, "dur": dur, "pid": pid, "tid": pid});
        let named = json!({"ph": "M", "name": "process_name", "pid": 7, "args": {"name": "run\u{1b}time"}});
        let mut mount = event("mount", 1010.0, 20.5, 7);
        mount["args"] = json!({"of": "/a\nb"});
        let list = json!([named, event("all", 1000.0, 100.0, 7), mount, event("wait", 1040.0, 40.0, 7), event("other", 1041.0, 1.0, 8), {"ph": "i"}]);
        let expected = "     since µs     lasts µs  process      phase
*         0.0        100.0  run\\u{1b}time all
*        10.0         20.5  run\\u{1b}time   mount /a\\nb
         40.0         40.0  run\\u{1b}time   wait
*        41.0          1.0  8            other
* took longest by itself, without the phases in it; waits are not counted
";
        assert_eq!(print(&list.to_string()).ok(), expected);
        assert_eq!(print(&json!({"traceEvents": list}).to_string()).ok(), expected);
        for (text, why) in [
            ("", "is empty"),
            ("{}", "has no list of events"),
            ("[]", "has no events"),
            ("7", "has no list of events"),
            (
                r#"{"traceEvents": [{"ph": "X", "name": "a"}]}"#,
                "traceEvents[0]: the member \"ts\" is missing",
            ),
            (r#"[{"ph": "X", "name": "a", "ts": 1, "dur": -1, "pid": 1}]"#, "traceEvents[0]: lasts -1 µs"),
            (r#"[{"ph": "X", "name": "a", "ts": 1, "dur": 1, "pid": "x"}]"#, "traceEvents[0]: must be"),
        ] {
            let out = print(text).exits(1);
            out.fails("trace: ").fails("is not a trace: ").fails(why);
        }
        t.corten(&["trace", t.dir.join("none").to_str().unwrap()]).exits(1).fails("no such file");
        t.corten(&["trace", t.dir.to_str().unwrap()]).exits(1).fails("is a directory");
        t.corten(&["trace"]).exits(1).fails("needs the name of a file");
        // A trace that corten has written.
        let bundle = t.bundle(|c| rich(c, "true"));
        let trace = file.to_str().unwrap();
        fs::remove_file(&file).unwrap();
        t.corten(&["--trace", trace, "run", "--bundle", bundle.path(), "r"]).ok();
        let text = t.corten(&["trace", trace]).ok();
        assert_eq!(text.lines().filter(|line| line.starts_with('*')).count(), 6, "{text}");
        assert!(
            text.contains("  init             mount mounts[1] /dev (tmpfs: nosuid,mode=755,size=65536k)\n"),
            "{text}"
        );
    });
}
