//! Whatever fails, wherever a command is killed: afterwards `delete --force` leaves nothing, nothing hangs, and what
//! runs is never less confined than it was asked to be.
//!
//! Each test takes one verb, learns which system calls its processes make, and then makes every one of them fail or
//! kills its process there, one at a time. `cargo test` takes a sample, another one each day; with
//! `CORTEN_FAULTS=all` (`make faults`) all are tried.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, unreachable_pub)]

#[allow(dead_code, unused_imports)]
#[path = "../integration/harness.rs"]
mod harness;
mod tracer;

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use harness::{Bundle, Test, isolated, poll};
use nix::errno::Errno;
use serde_json::json;
use tracer::{Fault, Place, places, trace};

const FAULTS: [Fault; 7] = [
    Fault::Kill,
    Fault::Error(Errno::EIO),
    Fault::Error(Errno::ENOMEM),
    Fault::Error(Errno::ENOSPC),
    Fault::Error(Errno::EMFILE),
    Fault::Error(Errno::EINTR),
    Fault::Error(Errno::EPERM),
];

/// One verb: what has to be there before it, and its words.
struct Verb {
    args: &'static [&'static str],
    /// Commands before each try.
    before: &'static [&'static [&'static str]],
    success: Success,
}

/// What is so when a verb says that it succeeded.
#[derive(PartialEq)]
enum Success {
    /// The container's program has run.
    Ran,
    /// Nothing is left.
    Removed,
    Other,
}

/// What the container's program writes of itself, into a file that the host sees too. Devices may be binds of the host's:
/// so they are where mknod is not permitted.
const PROGRAM: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status > /tmp/report; \
    cut -d' ' -f4- /proc/self/mountinfo | sed 's/ master:[0-9]*//; s/ - \\([^ ]*\\) [^ ]*/ - \\1/' | grep -v ' /dev/[a-z]* .* devtmpfs' >> /tmp/report; \
    echo end >> /tmp/report";

fn bundle(test: &Test) -> Bundle {
    let bundle = test.bundle(|config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", format!("{PROGRAM}; exec sleep 1000")]);
        config["process"]["user"]["uid"] = json!(1000);
        config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}],
        });
    });
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(bundle.rootfs().join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    bundle
}

impl Verb {
    /// One cell of the sweep; what is wrong after it.
    fn attempt(
        &self,
        test: &Test,
        bundle: &Bundle,
        fault: Option<(Place, Fault)>,
        before: &[String],
    ) -> (Vec<Vec<i64>>, Vec<String>) {
        let mut wrong = Vec::new();
        let command = |args: &[&str]| {
            let words = args.iter().map(|a| a.replace("BUNDLE", bundle.path()).replace("PROGRAM", PROGRAM));
            let mut command = test.command(&[]);
            command.args(words);
            command
        };
        let report = bundle.rootfs().join("tmp/report");
        let _ = fs::remove_file(&report);
        for args in self.before {
            test.call(&mut command(args)).ok();
        }
        if self.before.iter().any(|args| args.contains(&"start")) {
            assert!(poll(Duration::from_secs(20), || read(&report).ends_with("end\n")));
        }
        let _ = fs::remove_file(&report);
        let traced = trace(&command(self.args), fault);
        let ran = || poll(Duration::from_secs(10), || read(&report).ends_with("end\n"));
        match (traced.code, &self.success) {
            (None, _) => wrong.push("hangs".into()),
            (Some(0), Success::Ran) if !ran() => wrong.push("succeeds, and the program has not run".into()),
            (Some(0), Success::Removed) => {
                wrong.extend(left(test, before).iter().map(|trace| format!("succeeds, and leaves {trace}")));
            }
            _ => {}
        }
        let deleted = test.corten(&["delete", "--force", "f"]);
        if deleted.code != 0 {
            wrong.push(format!("delete --force fails: {}", deleted.stderr.trim()));
        }
        wrong.extend(left(test, before).iter().map(|trace| format!("leaves {trace}")));
        (traced.calls, wrong)
    }
}

/// What there is beside what was there `before`, after time to end.
fn left(test: &Test, before: &[String]) -> Vec<String> {
    let mut left = Vec::new();
    poll(Duration::from_secs(2), || {
        left = harness::left_behind(test, before.to_vec());
        left.is_empty()
    });
    left
}

fn read(path: &std::path::Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// All of a verb's cells, or a sample of them.
fn sweep(test: &Test, verb: &Verb) {
    let bundle = bundle(test);
    let before = harness::traces(test);
    // Twice, so that what is made once for all (the state root) is there.
    verb.attempt(test, &bundle, None, &before);
    let (calls, wrong) = verb.attempt(test, &bundle, None, &before);
    assert!(wrong.is_empty(), "undisturbed: {wrong:?}");
    let report = bundle.rootfs().join("tmp/report");
    let expected = read(&report);
    let of = |fault| places(&calls, fault).into_iter().map(move |place| (place, fault));
    let mut cells: Vec<(Place, Fault)> = FAULTS.into_iter().flat_map(of).collect();
    let total = cells.len();
    if !std::env::var("CORTEN_FAULTS").is_ok_and(|word| word == "all") {
        sample(&mut cells);
    }
    let (tried, mut findings) = (cells.len(), String::new());
    for (place, fault) in cells {
        let (_, mut wrong) = verb.attempt(test, &bundle, Some((place, fault)), &before);
        let reported = read(&report);
        if !expected.starts_with(&reported) {
            wrong.push(format!("the program ran otherwise than asked: {reported}"));
        }
        let call = calls[place.0][place.1];
        for line in wrong {
            writeln!(findings, "{fault:?} at call {call} ({place:?}): {line}").unwrap();
        }
        assert!(!findings.contains("leaves"), "{findings}");
    }
    println!("{:?}: {tried} of {total} cells, {} calls", verb.args, calls.iter().flatten().count());
    assert!(findings.is_empty(), "{findings}");
}

/// About a hundred cells, spread evenly, from another beginning each day.
fn sample(cells: &mut Vec<(Place, Fault)>) {
    let step = (cells.len() / 100).max(1);
    let day = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs() / 86_400);
    let mut number = day as usize % step;
    cells.retain(|_| {
        number += 1;
        number % step == 0
    });
}

const CREATE: &[&str] = &["create", "--bundle", "BUNDLE", "f"];
const START: &[&str] = &["start", "f"];

/// The control: an error that is injected is met, a death is seen, and what is left is found.
#[test]
fn the_sweep_would_notice() {
    isolated(|t| {
        let bundle = bundle(t);
        let before = harness::traces(t);
        let list = t.command(&["list"]);
        let undisturbed = trace(&list, None);
        assert_eq!(undisturbed.code, Some(0));
        let open = undisturbed.calls[0].iter().rposition(|&call| call == libc::SYS_write).unwrap();
        assert_eq!(trace(&list, Some(((0, open), Fault::Error(Errno::EIO)))).code, Some(1));
        assert_eq!(trace(&list, Some(((0, open), Fault::Kill))).code, Some(137));
        t.create(&bundle, "f");
        let left = left(t, &before).join("\n");
        for kind in ["cgroup ", "process ", "state "] {
            assert!(left.contains(kind), "{left}");
        }
        t.delete("f");
    });
}

#[test]
fn create() {
    isolated(|t| sweep(t, &Verb { args: CREATE, before: &[], success: Success::Other }));
}

#[test]
fn start() {
    isolated(|t| sweep(t, &Verb { args: START, before: &[CREATE], success: Success::Ran }));
}

#[test]
fn run() {
    let args = &["run", "--detach", "--bundle", "BUNDLE", "f"];
    isolated(|t| sweep(t, &Verb { args, before: &[], success: Success::Ran }));
}

#[test]
fn exec() {
    let args = &["exec", "f", "/bin/sh", "-c", "PROGRAM"];
    isolated(|t| sweep(t, &Verb { args, before: &[CREATE, START], success: Success::Ran }));
}

#[test]
fn kill() {
    isolated(|t| {
        sweep(t, &Verb { args: &["kill", "f", "TERM"], before: &[CREATE, START], success: Success::Other })
    });
}

#[test]
fn delete() {
    isolated(|t| {
        sweep(
            t,
            &Verb { args: &["delete", "--force", "f"], before: &[CREATE, START], success: Success::Removed },
        )
    });
}
