//! Files of the image that corten opens, and parts of corten that show meanwhile.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Test, View, isolated, isolated_in, poll};
use crate::{SECRET, rounds};

/// Returns the system calls of a command and its processes, in their order. The runtime's bpf(2) is delayed,
/// so that a process which does not wait for it is caught.
fn calls(t: &Test, args: &[&str]) -> Vec<String> {
    let log = t.dir.join("calls");
    let runtime = t.command(args);
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-qq",
        "-e",
        "trace=openat,openat2,?open,bpf",
        "-e",
        "inject=bpf:delay_enter=300000",
        "-o",
    ]);
    strace.arg(&log).arg("--").arg(runtime.get_program()).args(runtime.get_args());
    t.call(strace.env("HOME", "/").env("SECRET_OF_CALLER", SECRET)).ok();
    fs::read_to_string(log).unwrap().lines().map(Into::into).collect()
}

/// Opening a device or a fifo has effects, and the image's passwd can be either. A file of the image is first
/// opened as O_PATH, after the device filter of the container is in force.
#[test]
fn no_file_of_the_image_is_opened_before_its_kind_is_known() {
    isolated_in(View::V2, |t| {
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!(["/bin/true"]);
            c["process"]["env"] = json!(["PATH=/bin"]);
            c["process"]["terminal"] = json!(true);
        });
        let created = calls(t, &["run", "-b", bundle.path(), "r"]);
        bundle.edit(|c| {
            c["process"]["args"] = json!(["/bin/sleep", "1000"]);
            c["process"]["terminal"] = json!(false);
        });
        t.start(&bundle, "c");
        let executed = calls(t, &["exec", "--user", "alice", "c", "/bin/true"]);
        let images = ["/etc/passwd", "/etc/group", "/dev/pts/ptmx"];
        let of_image = |line: &&String| images.iter().any(|name| line.contains(&format!("\"{name}\"")));
        for (what, lines, least) in [("run", &created, 2), ("exec", &executed, 2)] {
            let found: Vec<_> = lines.iter().filter(of_image).collect();
            assert!(found.len() >= least, "{what}: {lines:#?}");
            assert!(found.iter().all(|line| line.contains("O_PATH")), "{what}: {found:#?}");
        }
        // Check of the check: an open of another kind is seen too.
        assert!(created.iter().any(|line| line.contains("config.json") && !line.contains("O_PATH")));
        let attached = created.iter().rposition(|line| line.contains("BPF_PROG_ATTACH")).unwrap();
        let first = created.iter().position(|line| of_image(&line)).unwrap();
        assert!(attached < first, "the filter comes after: {created:#?}");
        t.delete("c");
    });
}

/// The caller's options, such as `--env TOKEN=...`, and its environment can be read in /proc by every process
/// that sees the runtime's: by all in the container as long as its process is a copy of the runtime.
#[test]
fn the_callers_command_line_does_not_show() {
    isolated(|t| {
        let pid_file = t.dir.join(SECRET.replace(' ', "-"));
        let secret = pid_file.file_name().unwrap().to_str().unwrap();
        let bundle = t.bundle(|c| {
            c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            let look = "while [ ! -e /dev/shm/stop ]; do cat /proc/[0-9]*/cmdline; done 2>/dev/null | tr '\\0' '\\n' \
                        | grep -E '^(: SHOWN|TOKEN)' | sort | uniq -c";
            c["process"]["args"] = json!(["/bin/sh", "-c", look]);
        });
        let mut create =
            t.command(&["create", "-b", bundle.path(), "--pid-file", pid_file.to_str().unwrap(), "c"]);
        t.call(create.env("SECRET_OF_CALLER", secret)).ok();
        let pid = t.pid("c");
        for file in ["cmdline", "environ"] {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            let text = String::from_utf8_lossy(&text);
            assert!(
                !text.contains(secret) && text.contains("corten init") == (file == "cmdline"),
                "{file}: {text}"
            );
        }
        t.corten(&["delete", "-f", "c"]).ok();
        let run = t.spawn(&mut t.command(&["run", "-b", bundle.path(), "c"]));
        assert!(poll(Duration::from_secs(20), || t.corten(&["exec", "c", "/bin/true"]).code == 0));
        for _ in 0..rounds() {
            t.corten(&["exec", "--env", "TOKEN=1", "c", "/bin/true"]).ok();
        }
        // Check of the check: the environment of a program is seen.
        t.exec("c", ": SHOWN; usleep 300000; :").ok();
        t.exec("c", "touch /dev/shm/stop").ok();
        let found = run.wait().ok();
        assert!(found.contains("SHOWN") && !found.contains("TOKEN"), "{found}");
    });
}
