//! Links in the image at places where the runtime makes, mounts, hides or opens a file.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bundle, Test, isolated};
use crate::{SECRET, SYSCTL, Victim, add, without_mount};

/// The places of links in an image, and whether the configuration then has no mount at /dev.
const PLACES: &[(&str, bool)] = &[
    ("dev", false),
    ("proc", false),
    ("sys", false),
    ("mnt", false),
    ("etc/target", false),
    ("etc/masked", false),
    ("etc/read-only", false),
    ("dev", true),
    ("dev/console", true),
    ("dev/ptmx", true),
    ("dev/null", true),
    ("dev/pts", true),
    ("dev/shm", true),
    ("dev/fd", true),
    ("work", false),
];

/// Makes a container with a file at every place. It prints the secrets that it finds, and the mount of its
/// procfs.
fn bundle(t: &Test, bare_dev: bool) -> Bundle {
    let volume = t.dir.join("my-volume");
    fs::create_dir_all(&volume).unwrap();
    fs::write(t.dir.join("my-file"), "").unwrap();
    let places: String = PLACES.iter().map(|(place, _)| format!("/{place}/secret /{place} ")).collect();
    let script = format!(
        "for f in {places}; do [ -c $f ] || [ -p $f ] || head -c 100 $f; done 2>/dev/null; \
         echo x > /etc/read-only/x; echo x > /dev/null; echo x > /dev/console; \
         head -c 5 /proc/version; echo changed > {SYSCTL}; echo end"
    );
    t.bundle(|c| {
        if bare_dev {
            without_mount(c, "/dev");
        }
        add(c, json!({"destination": "/mnt", "source": volume, "options": ["bind"]}));
        add(c, json!({"destination": "/etc/target", "source": t.dir.join("my-file"), "options": ["bind"]}));
        for (list, path) in [
            ("maskedPaths", "/etc/masked"),
            ("maskedPaths", "/proc/version"),
            ("readonlyPaths", "/etc/read-only"),
        ] {
            c["linux"][list].as_array_mut().unwrap().push(json!(path));
        }
        c["process"]["terminal"] = json!(true);
        c["process"]["cwd"] = json!("/work");
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
    })
}

fn put(bundle: &Bundle, place: &str, target: &str) {
    let path = bundle.rootfs().join(place);
    let _ = fs::remove_dir_all(&path);
    symlink(target, path).unwrap();
}

/// CVE-2019-16884, CVE-2019-19921, CVE-2021-30465, CVE-2023-27561, CVE-2025-31133, CVE-2025-52565,
/// CVE-2025-52881: links to a directory or a sysctl of the host, absolute, by `..`, and by procfs. Nothing
/// outside is changed or read, and a container that runs has procfs at its place, with its masks.
#[test]
fn links_of_the_image_never_lead_to_the_host() {
    isolated(|t| {
        let victim = Victim::new(t);
        let dir = victim.dir.display().to_string();
        let up = format!("../../../../../../../..{dir}");
        let by_root = format!("/proc/1/root{dir}");
        let mut ran = 0;
        for (place, bare_dev) in PLACES {
            for target in [&dir, &up, &by_root, SYSCTL, "/proc/self/fd/3", "/"] {
                let bundle = bundle(t, *bare_dev);
                put(&bundle, place, target);
                let out = t.run_bundle(&bundle);
                let what = format!("/{place} -> {target}");
                victim.is_untouched(&what);
                assert!(!out.stdout.contains(SECRET), "{what}: {out:?}");
                if out.code == 0 {
                    ran += 1;
                    assert!(out.stdout.contains("end"), "{what}: {out:?}");
                    assert!(!out.stdout.contains("Linux"), "{what}: what is masked can be read: {out:?}");
                } else {
                    assert_eq!(out.stderr.lines().count(), 1, "{what}: {out:?}");
                }
                fs::remove_dir_all(&bundle.dir).unwrap();
            }
        }
        assert!(ran >= PLACES.len(), "the container ran {ran} times only");
        naive(t, victim, &up);
    });
}

/// Check of the checks: by path, each of these operations reaches the victim, and is noticed.
fn naive(t: &Test, mut victim: Victim, up: &str) {
    let bundle = bundle(t, true);
    for (place, target, script) in [
        ("mnt", up, "mount --bind my-volume $R/mnt && touch $R/mnt/x; umount $R/mnt"),
        ("dev", up, "mknod $R/dev/null c 1 3"),
        ("etc/target", up, "touch $R/etc/target/made; rm $R/etc/target/made"),
        ("dev/null", SYSCTL, "echo x > $R/dev/null"),
        ("etc/masked", up, "chmod 700 $R/etc/masked/inner"),
    ] {
        put(&bundle, place, target);
        let script = format!("cd {}; R={}; {script}", t.dir.display(), bundle.rootfs().display());
        t.call(Command::new("sh").args(["-c", &script])).ok();
        // The mount is removed again. It has left only a file in the volume.
        let seen = victim.is_touched() || t.dir.join("my-volume/x").exists();
        assert!(seen, "{script} has not been noticed");
        let _ = fs::remove_file(t.dir.join("my-volume/x"));
        victim = victim.again(t);
    }
    put(&bundle, "mnt", up);
    let read = fs::read_to_string(bundle.rootfs().join("mnt/secret")).unwrap();
    assert_eq!(read, SECRET);
}

/// CVE-2025-31133: a mask is the host's null device, with any file of the image at /dev/null: a link to the
/// masked file, or to a sysctl, a file, another device.
#[test]
fn masks_use_the_hosts_null_device() {
    isolated(|t| {
        let victim = Victim::new(t);
        let host_dev = t.dir.join("my-dev");
        for (what, make) in [
            ("a sysctl", format!("ln -s {SYSCTL} null")),
            ("the masked file", "ln -s ../etc/secret null".into()),
            ("a file", "echo something > null".into()),
            ("another device", "mknod null c 1 5".into()),
            ("a directory", "mkdir null".into()),
        ] {
            // A bind-mounted /dev keeps its files, and none is made in it.
            fs::create_dir(&host_dev).unwrap();
            let bundle = t.bundle(|c| {
                for at in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
                    without_mount(c, at);
                }
                add(c, json!({"destination": "/dev", "source": host_dev, "options": ["bind"]}));
                c["linux"]["maskedPaths"] = json!(["/etc/secret", "/proc/version"]);
                c["process"]["args"] = json!(["stat", "-c", "%F %t:%T", "/etc/secret", "/proc/version"]);
            });
            fs::write(bundle.rootfs().join("etc/secret"), SECRET).unwrap();
            t.call(Command::new("sh").args(["-c", &format!("cd {}; {make}", host_dev.display())])).ok();
            let null = "character special file 1:3\n";
            assert_eq!(t.run_bundle(&bundle).ok(), format!("{null}{null}"), "{what}");
            victim.is_untouched(what);
            fs::remove_dir_all(&host_dev).unwrap();
        }
        // Check of the check: without the mask, stat reports another file.
        let unmasked = t.run("stat -c '%F' /proc/version", |c| c["linux"]["maskedPaths"] = json!([]));
        assert_eq!(unmasked.ok(), "regular empty file\n");
    });
}

/// CVE-2019-19921, CVE-2023-27561: procfs and sysfs are never mounted at the target of a link of the image,
/// so their masks are in place.
#[test]
fn procfs_is_not_mounted_through_a_link() {
    isolated(|t| {
        for (place, target) in
            [("proc", "/tmp"), ("proc", "tmp"), ("sys", "/tmp"), ("proc", "gone"), ("sys", "../etc")]
        {
            let bundle = t.bundle(|c: &mut Value| c["process"]["args"] = json!(["/bin/true"]));
            put(&bundle, place, target);
            t.run_bundle(&bundle).fails("must be mounted on ordinary directory");
            assert!(!bundle.rootfs().join("gone").exists());
            // Check of the check: with a directory the container runs.
            fs::remove_file(bundle.rootfs().join(place)).unwrap();
            fs::create_dir(bundle.rootfs().join(place)).unwrap();
            t.run_bundle(&bundle).ok();
        }
        assert!(Path::new(SYSCTL).exists());
    });
}
