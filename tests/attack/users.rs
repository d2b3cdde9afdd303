//! The image's passwd and group files, which `exec --user NAME` reads.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{isolated, patience};

/// Like CVE-2017-16539 and CVE-2022-1708: both files can be a fifo, an endless device, a link to one, a hole
/// of a GiB, one line of a GiB in total, a directory, or end in the middle. exec does not hang, and takes no
/// more memory than the start of a container.
#[test]
fn hostile_passwd_and_group_files_do_not_hold_exec() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["domainname"] = json!("spy:x:5:5\nspies:x:7:"));
        t.start(&bundle, "c1");
        let etc = bundle.rootfs().join("etc");
        let (passwd, group) = ("spy:x:5:5::/:/bin/sh\n", "spies:x:7:spy\n");
        let limited = |words: &[&str]| {
            let call = t.command(words);
            let mut command = Command::new("sh");
            // The address space in KiB.
            command.args(["-c", "ulimit -v 150000; exec \"$@\"", "sh"]);
            t.call(command.arg(call.get_program()).args(call.get_args()))
        };
        let exec = || {
            let before = Instant::now();
            let out = limited(&["exec", "--user", "spy:spies", "c1", "/bin/sh", "-c", "id -u; id -g"]);
            assert!(before.elapsed() < Duration::from_secs(5) * patience(), "{out:?}");
            out
        };
        for file in ["passwd", "group"] {
            for make in [
                "mkfifo $0",
                "mknod $0 c 1 5",
                "mknod $0 c 1 7",
                "ln -s /dev/zero $0",
                "ln -s /proc/self/mem $0",
                "ln -s /proc/kmsg $0",
                "ln -s /proc/self/fd/0 $0",
                "truncate -s 1G $0",
                // A reader of this file finds a user.
                "ln -s /proc/sys/kernel/domainname $0",
                "mkdir $0",
                "printf 'spy:x:99999999999999999999:5\\nspies:x:99999999999999999999:\\n' > $0",
                "printf 'spy:x:-1:-1\\nspies:x:-1:\\n' > $0",
                "printf 'spy:x:4294967295:0\\nspies:x:4294967295:\\n' > $0",
                "printf 'spy' > $0",
                "printf 'spy:x:0x0:0x0\\nspies:x:0x0:\\n' > $0",
            ] {
                fs::write(etc.join("passwd"), passwd).unwrap();
                fs::write(etc.join("group"), group).unwrap();
                assert_eq!(exec().ok(), "5\n7\n", "{make}");
                let path = etc.join(file);
                fs::remove_file(&path).unwrap();
                t.call(Command::new("sh").args(["-c", make]).arg(&path)).ok();
                exec().fails(file).exits(255);
                t.call(Command::new("rm").arg("-rf").arg(&path)).ok();
            }
        }
        // Check of the check: a reader of the whole file exceeds this limit.
        let hole = t.dir.join("hole");
        t.call(Command::new("truncate").args(["-s", "1G"]).arg(&hole)).ok();
        let naive = format!(
            "ulimit -v 150000; python3 -c 'open(\"{0}\").read()' || {1} sort {0}",
            hole.display(),
            t.dir.join("busybox").display()
        );
        assert_ne!(t.call(Command::new("sh").args(["-c", &naive])).code, 0);
        t.delete("c1");
    });
}
