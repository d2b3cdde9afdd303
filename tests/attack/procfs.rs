//! A /proc that is not the kernel's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::add;
use crate::harness::{Test, isolated};

/// The files of procfs that a runtime writes to or believes.
const FILES: &[&str] = &[
    "self/attr/exec",
    "self/attr/current",
    "self/attr/keycreate",
    "self/attr/apparmor/exec",
    "self/oom_score_adj",
    "self/timerslack_ns",
    "self/setgroups",
    "self/uid_map",
    "self/status",
    "self/mountinfo",
    "sys/net/ipv4/ip_forward",
    "sys/kernel/domainname",
    "sys/kernel/cap_last_cap",
    "sysrq-trigger",
];

/// Makes the files of procfs that a runtime writes to or believes.
fn fake(t: &Test) -> std::path::PathBuf {
    let fake = t.dir.join("my-fake");
    for file in FILES {
        let path = fake.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    fs::create_dir_all(fake.join("self/fd")).unwrap();
    for (link, target) in [("thread-self", "self"), ("1", "self")] {
        symlink(target, fake.join(link)).unwrap();
    }
    fake
}

/// Returns the files that have been changed.
fn written(fake: &Path) -> Vec<&'static str> {
    FILES.iter().copied().filter(|file| fs::metadata(fake.join(file)).unwrap().len() != 0).collect()
}

fn configure(c: &mut Value) {
    c["process"]["oomScoreAdj"] = json!(500);
    c["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.domainname": "set"});
    c["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y')) {
        c["process"]["apparmorProfile"] = json!("unconfined");
    }
}

/// CVE-2019-16884, CVE-2019-19921, CVE-2023-28642, CVE-2025-52881: the configuration has a volume at /proc,
/// instead of procfs, over it, or over parts of it. The runtime uses the kernel's procfs: nothing is written
/// to the false files, and create and exec apply everything. A link of the image brings no volume there.
#[test]
fn a_volume_at_proc_is_not_taken_for_procfs() {
    isolated(|t| {
        let fake = fake(t);
        // The destination, the part of procfs that is bound there, whether the image has a link to it, and
        // whether procfs is below.
        for (at, part, link, below) in [
            ("/proc", "", false, true),
            ("/proc", "", false, false),
            ("/data", "", true, true),
            ("/data", "", true, false),
            ("/proc/sys", "sys", false, true),
            ("/proc/1", "self", false, true),
        ] {
            let what = format!("{at} {part} link: {link}, procfs: {below}");
            let bundle = t.bundle(|c| {
                configure(c);
                if !below {
                    crate::without_mount(c, "/proc");
                }
                add(c, json!({"destination": at, "source": fake.join(part), "options": ["bind"]}));
            });
            if link {
                symlink("/proc", bundle.rootfs().join("data")).unwrap();
                t.run_bundle(&bundle).fails("mounts[").fails("a link in the image leads to /proc");
                continue;
            }
            let pid = t.start(&bundle, "c1");
            let mut command = t.command(&["exec", "--detach", "--pid-file"]);
            let pid_file = t.dir.join("pid");
            t.call(command.arg(&pid_file).args(["-u", "1001:1001", "c1", "/bin/sleep", "1000"])).ok();
            let exec: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
            for (pid, uid, who) in [(pid, 1000, "create"), (exec, 1001, "exec")] {
                let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
                let status = of("status");
                let ids = format!("\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n");
                assert!(
                    status.contains(&ids) && status.contains("\nNoNewPrivs:\t1\n"),
                    "{what} {who}: {status}"
                );
                assert!(status.contains("\nCapBnd:\t0000000020000420\n"), "{what} {who}: {status}");
                assert_eq!(of("oom_score_adj").trim(), "500", "{what} {who}");
            }
            let inside = |file: &str| {
                let mut command = Command::new("nsenter");
                command.args(["-t", &pid.to_string(), "-n", "-u", "cat", file]);
                t.call(&mut command).ok()
            };
            assert_eq!(inside("/proc/sys/net/ipv4/ip_forward"), "1\n", "{what}");
            assert_eq!(inside("/proc/sys/kernel/domainname"), "set\n", "{what}");
            assert_eq!(written(&fake), [""; 0], "{what}");
            if at == "/proc" && below {
                // Check of the check: a write by path reaches the false files, and is seen.
                let naive = "echo x > /proc/self/attr/exec; echo 1 > /proc/self/oom_score_adj";
                let mut command = Command::new("nsenter");
                command.args(["-t", &pid.to_string(), "-m", "/bin/sh", "-c", naive]);
                t.call(&mut command).ok();
                let seen = written(&fake);
                assert_eq!(seen, ["self/attr/exec", "self/oom_score_adj"]);
                seen.iter().for_each(|file| fs::write(fake.join(file), "").unwrap());
            }
            t.delete("c1");
        }
    });
}
