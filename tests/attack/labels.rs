//! Labels of security modules, if it is hard to find out whether the kernel runs the module.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::harness::{Test, isolated, modules, skip};

const MODULE: &str = "/sys/module/apparmor";

/// Makes the files of a kernel with AppArmor.
fn module(enabled: impl FnOnce(&Path)) {
    mount(Some("tmpfs"), "/sys/module", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let dir = Path::new(MODULE).join("parameters");
    fs::create_dir_all(&dir).unwrap();
    enabled(&dir.join("enabled"));
}

fn no_module() {
    umount2("/sys/module", MntFlags::empty()).unwrap();
}

/// The file that says whether AppArmor is enabled cannot be read, or has another content: `create`, `run` and
/// `exec` refuse a label before they make anything, and start no unconfined program. SELinux is the same code
/// with another file. Check of the check: a naive script takes such a file for a kernel without the module.
/// corten does so too if the file is missing, or contains "N".
#[test]
fn a_label_is_refused_if_the_module_is_unknown() {
    isolated(|t| {
        if modules() != corten::testing::process::lsm::Host::default() {
            skip("this kernel runs AppArmor or SELinux");
        }
        let labelled = t.bundle(|c| c["process"]["apparmorProfile"] = json!("web"));
        let plain = t.bundle(|_| {});
        t.start(&plain, "c1");
        let refused = |t: &Test, why: &str| {
            for args in [
                &["create", "-b", labelled.path(), "c2"][..],
                &["run", "-b", labelled.path(), "c2"],
                &["exec", "--apparmor", "web", "c1", "/bin/touch", "/ran"],
                &["exec", "--process-label", "a:b:c:s0", "c1", "/bin/touch", "/ran"],
            ] {
                t.corten(args).fails("which security modules the kernel runs").fails(why);
                assert!(!t.state().join("c2").exists() && !plain.rootfs().join("ran").exists());
            }
        };
        let naive = "grep -q Y /sys/module/apparmor/parameters/enabled 2>/dev/null || echo unconfined";
        type Make = fn(&Path);
        let files: [(Make, &str); 3] = [
            (|file| symlink("enabled", file).unwrap(), "too many levels of symbolic links"),
            (|file| fs::create_dir(file).unwrap(), "is a directory"),
            (|file| fs::write(file, "perhaps\n").unwrap(), "neither Y nor N"),
        ];
        for (make, why) in files {
            module(make);
            refused(t, why);
            assert_eq!(t.call(Command::new("sh").args(["-c", naive])).ok(), "unconfined\n");
            no_module();
        }
        module(|file| fs::write(file, "Y\n").unwrap());
        t.run("true", |c| c["process"]["apparmorProfile"] = json!("web")).fails("process.apparmorProfile");
        no_module();
        mount(Some("tmpfs"), "/sys", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        t.corten(&["exec", "--apparmor", "web", "c1", "/bin/true"]).fails("/sys is not a sysfs");
        umount2("/sys", MntFlags::empty()).unwrap();
        for absent in [|_: &Path| {}, |file: &Path| fs::write(file, "N\n").unwrap()] {
            module(absent);
            let out = t.corten(&["exec", "--apparmor", "web", "c1", "/bin/echo", "ran"]).exits(0);
            assert!(
                out.stdout == "ran\n" && out.stderr.contains("does not run AppArmor, ignoring"),
                "{out:?}"
            );
            no_module();
        }
        t.delete("c1");
    });
}
