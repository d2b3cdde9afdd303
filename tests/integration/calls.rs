//! What each command costs, in the one currency that does not depend on what else the machine does: system calls, of all
//! the processes that a command has up to its program's execve and of what comes after. A change that adds some has to
//! say so here. The test build makes more of them than the release: it seals itself after the C library's start, and the
//! standard library looks at descriptors.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Bundle, Test, View, isolated_in, poll, processes, reap};

/// Counted by strace, with all children where they end with the command.
fn calls(t: &Test, children: bool, args: &[&str]) -> u32 {
    let out = t.dir.join("calls");
    let runtime = t.command(args);
    let mut strace = Command::new("strace");
    strace.args(["-c", "-qq", "-U", "name,calls"]).args(children.then_some("-f"));
    strace.arg("-o").arg(&out).arg("--").arg(runtime.get_program()).args(runtime.get_args());
    t.call(&mut strace).ok();
    let text = std::fs::read_to_string(out).unwrap();
    let total = text.lines().last().and_then(|line| line.strip_prefix("total"));
    total.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn each_command_makes_no_more_than_it_needs() {
    isolated_in(View::V2, |t| {
        let sleeping =
            |config: &mut serde_json::Value| config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        let bundle: Bundle = t.bundle(sleeping);
        let short = t.bundle(|config| config["process"]["args"] = json!(["/bin/true"]));
        let counted = [
            ("run", calls(t, true, &["run", "--bundle", short.path(), "r"])),
            ("create", calls(t, false, &["create", "--bundle", bundle.path(), "c"])),
            ("start", calls(t, false, &["start", "c"])),
            ("state", calls(t, false, &["state", "c"])),
            ("exec", calls(t, true, &["exec", "c", "/bin/true"])),
            ("list", calls(t, false, &["list"])),
            ("kill", calls(t, false, &["kill", "c", "KILL"])),
        ];
        t.until("c", "stopped");
        // Until it is reaped it may be in its cgroup, which then takes more calls to remove.
        assert!(poll(Duration::from_secs(10), || {
            reap();
            !processes().iter().any(|line| line.contains("sleep 1000"))
        }));
        let deleted = ("delete", calls(t, false, &["delete", "c"]));
        let most = [376, 146, 67, 44, 243, 55, 51, 60];
        let counted = counted.into_iter().chain([deleted]).zip(most);
        let more: Vec<_> = counted.filter(|((_, count), most)| count > most).collect();
        assert!(more.is_empty(), "system calls, and the most that there should be: {more:?}");
    });
}
