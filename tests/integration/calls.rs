//! The cost of each command in system calls, which does not depend on the machine's load. All processes of a
//! command are counted until its program's execve, and the work after it. A change that adds calls must raise
//! a number here. The test build makes more calls than the release: it seals itself after the start of the C
//! library, and the standard library checks the descriptors.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Bundle, Test, View, isolated_in, poll, processes, reap, skip};

/// Counts the system calls of a command with strace. Children count until the command ends.
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
fn each_command_stays_within_its_number_of_system_calls() {
    isolated_in(View::V2, |t| {
        // Debian 13's strace for riscv64 crashes while it counts a call that it does not know.
        let counts = Command::new("strace").args(["-c", "-f", "-o", "/dev/null", "busybox", "true"]).output();
        if counts.is_ok_and(|out| out.status.signal() == Some(libc::SIGSEGV)) {
            skip("strace crashes");
        }
        let sleeping =
            |config: &mut serde_json::Value| config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        let bundle: Bundle = t.bundle(sleeping);
        let short = t.bundle(|config| config["process"]["args"] = json!(["/bin/true"]));
        // On a busy machine one of its processes may wait once more.
        let run = (0..5).map(|_| calls(t, true, &["run", "--bundle", short.path(), "r"])).min();
        let counted = [
            ("run", run.unwrap()),
            ("create", calls(t, false, &["create", "--bundle", bundle.path(), "c"])),
            ("start", calls(t, false, &["start", "c"])),
            ("state", calls(t, false, &["state", "c"])),
            ("exec", calls(t, true, &["exec", "c", "/bin/true"])),
            ("list", calls(t, false, &["list"])),
            ("kill", calls(t, false, &["kill", "c", "KILL"])),
        ];
        t.until("c", "stopped");
        // Until its process is reaped it can be in its cgroup. Then the removal takes more calls.
        assert!(poll(Duration::from_secs(10), || {
            reap();
            !processes().iter().any(|line| line.contains("sleep 1000"))
        }));
        let deleted = ("delete", calls(t, false, &["delete", "c"]));
        let most = [386, 152, 67, 44, 244, 55, 51, 60];
        let counted = counted.into_iter().chain([deleted]).zip(most);
        let more: Vec<_> = counted.filter(|((_, count), most)| count > most).collect();
        assert!(more.is_empty(), "system calls, and the most that there should be: {more:?}");
    });
}
