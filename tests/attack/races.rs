//! A process that shares a volume with the container exchanges a directory and a link, again and again, while
//! the runtime works there.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::json;

use crate::harness::{Bundle, Test, isolated};
use crate::{SECRET, Victim, add, rounds};

/// Exchanges two names by renameat2(2), for which musl and nix with musl have no function.
#[allow(unsafe_code)]
pub(crate) fn exchange(a: &Path, b: &Path) -> nix::Result<()> {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let (a, b, cwd) = (path(a), path(b), libc::AT_FDCWD);
    // SAFETY: both paths end with a NUL.
    let result = unsafe {
        libc::syscall(libc::SYS_renameat2, cwd, a.as_ptr(), cwd, b.as_ptr(), libc::RENAME_EXCHANGE)
    };
    Errno::result(result).map(drop)
}

/// Exchanges two names until it is stopped.
struct Swapper {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Swapper {
    fn start(a: PathBuf, b: PathBuf) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                exchange(&a, &b).unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, count, thread }
    }

    /// Stops it. It must have made at least ten exchanges for each of the rounds.
    fn stop(self, rounds: u32) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        assert!(self.count.load(Ordering::Relaxed) > u64::from(rounds) * 10);
    }
}

/// Makes a volume with the directory `a`, which has a directory `inner`, and a link `b` to the victim.
fn volume(t: &Test, name: &str, target: &str) -> PathBuf {
    let volume = t.dir.join(name);
    fs::create_dir_all(volume.join("a/inner")).unwrap();
    fs::write(volume.join("a/secret"), "the image's").unwrap();
    symlink(target, volume.join("b")).unwrap();
    volume
}

/// Runs a bundle for all rounds, half of them for each target, while `a` and `b` of its volume are exchanged.
/// `check` gets the output.
fn race(
    t: &Test,
    victim: &Victim,
    edit: impl Fn(&Path, &mut serde_json::Value),
    check: impl Fn(&crate::harness::Output),
) {
    let dir = victim.dir.display();
    let (mut ran, mut failed) = (0, 0);
    for (i, target) in [format!("{dir}"), format!("../../../../../../../../..{dir}")].iter().enumerate() {
        let volume = volume(t, &format!("my-volume{i}"), target);
        let bundle: Bundle = t.bundle(|c| {
            add(c, json!({"destination": "/vol", "source": volume, "options": ["rbind"]}));
            c["process"]["args"] = json!(["/bin/true"]);
            edit(&volume, c);
        });
        let swapper = Swapper::start(volume.join("a"), volume.join("b"));
        for _ in 0..rounds().div_ceil(2) {
            let out = t.run_bundle(&bundle);
            victim.is_untouched(&format!("{out:?}"));
            assert!(!out.stdout.contains(SECRET), "{out:?}");
            check(&out);
            if out.code == 0 {
                ran += 1
            } else {
                failed += 1;
            }
        }
        swapper.stop(rounds().div_ceil(2));
        fs::remove_dir_all(&volume).unwrap();
    }
    // libtest does not show this line for a test that passes; it is for runs by hand.
    println!("{ran} ran, {failed} failed");
    assert!(ran > 0, "no container ran");
}

/// Check of the check: a naive command that looks first and then acts by path is caught before long.
fn naive(t: &Test, victim: &Victim, act: impl Fn(&Path)) {
    let volume = volume(t, "my-naive", victim.dir.to_str().unwrap());
    let swapper = Swapper::start(volume.join("a"), volume.join("b"));
    let end = Instant::now() + Duration::from_secs(60);
    while !victim.is_touched() {
        assert!(Instant::now() < end, "the naive command was never caught");
        if fs::symlink_metadata(volume.join("a")).unwrap().is_dir() {
            act(&volume.join("a"));
        }
    }
    swapper.stop(0);
}

/// CVE-2021-30465: a mount target in a shared volume.
#[test]
fn a_race_does_not_mount_outside() {
    isolated(|t| {
        let victim = Victim::new(t);
        let script = "cat /vol/*/secret /vol/*/inner/secret /vol/*/new/secret 2>/dev/null; exit 0";
        race(
            t,
            &victim,
            |_, c| {
                let source = t.dir.join("my-source");
                fs::create_dir_all(&source).unwrap();
                for place in ["/vol/a", "/vol/a/inner", "/vol/a/new/deep"] {
                    add(c, json!({"destination": place, "source": source, "options": ["bind"]}));
                }
                add(c, json!({"destination": "/vol/a/tmpfs", "type": "tmpfs", "source": "tmpfs"}));
                c["process"]["args"] = json!(["sh", "-c", script]);
            },
            |_| {},
        );
        naive(t, &victim, |a| drop(fs::create_dir(a.join("made"))));
    });
}

/// CVE-2025-31133, CVE-2021-30465: masked and read-only paths, device nodes in a shared volume.
#[test]
fn a_race_does_not_mask_or_make_devices_outside() {
    isolated(|t| {
        let victim = Victim::new(t);
        race(
            t,
            &victim,
            |_, c| {
                c["linux"]["maskedPaths"] =
                    json!(["/vol/a/secret", "/vol/a/inner", "/vol/a", "/proc/version"]);
                c["linux"]["readonlyPaths"] = json!(["/vol/a/secret", "/vol/a/inner", "/vol/a"]);
                c["linux"]["devices"] =
                    json!([{"path": "/vol/a/full", "type": "c", "major": 1, "minor": 7, "uid": 5, "gid": 6}]);
                let script = "cat /vol/*/secret 2>/dev/null; stat -c %F /proc/version";
                c["process"]["args"] = json!(["sh", "-c", script]);
            },
            |out| assert!(out.code != 0 || out.stdout.contains("character special file"), "{out:?}"),
        );
        naive(t, &victim, |a| drop(fs::write(a.join("made"), "")));
    });
}

/// CVE-2024-21626: the working directory in a shared volume, which is made if it is missing.
#[test]
fn a_race_does_not_make_a_working_directory_outside() {
    isolated(|t| {
        let victim = Victim::new(t);
        race(
            t,
            &victim,
            |_, c| {
                c["process"]["cwd"] = json!("/vol/a/new/deep");
                let script = "cat secret ../secret ../../secret ../../inner/secret 2>/dev/null; ls -d ../../../../boot";
                c["process"]["args"] = json!(["sh", "-c", format!("{script}; exit 0")]);
            },
            |out| assert!(!out.stdout.contains("boot"), "{out:?}"),
        );
        naive(t, &victim, |a| drop(fs::create_dir_all(a.join("made"))));
    });
}

/// tmpcopyup of a directory in a shared volume: no file of the host is copied, and a fifo in the place of a
/// file does not block.
#[test]
fn a_race_does_not_copy_files_of_the_host() {
    isolated(|t| {
        let victim = Victim::new(t);
        race(
            t,
            &victim,
            |_, c| {
                add(
                    c,
                    json!({"destination": "/vol/a", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
                );
                let script = "cat /vol/*/secret /vol/*/inner/secret 2>/dev/null; exit 0";
                c["process"]["args"] = json!(["sh", "-c", script]);
            },
            |_| {},
        );
        files_become_fifos(t, &victim);
        naive(t, &victim, |a| drop(fs::write(a.join("copy"), "")));
    });
}

fn files_become_fifos(t: &Test, victim: &Victim) {
    let (volume, aside) = (t.dir.join("my-copied"), t.dir.join("my-aside"));
    for dir in [&volume, &aside] {
        fs::create_dir(dir).unwrap();
    }
    let pair = |name: &str| (volume.join(name), aside.join(name));
    let mkfifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(pair("fifo").0, "text").unwrap();
    mkfifo(&pair("fifo").1);
    fs::write(pair("link").0, "text").unwrap();
    symlink(victim.dir.join("secret"), pair("link").1).unwrap();
    let bundle = t.bundle(|c| {
        add(c, json!({"destination": "/vol", "source": volume, "options": ["bind"]}));
        add(c, json!({"destination": "/vol", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
        let script = "for f in /vol/*; do [ -p $f ] || cat $f; done 2>/dev/null; exit 0";
        c["process"]["args"] = json!(["sh", "-c", script]);
    });
    let swappers = ["fifo", "link"].map(|name| Swapper::start(pair(name).0, pair(name).1));
    for _ in 0..rounds() {
        // A hang is found by the harness's time limit.
        let out = t.run_bundle(&bundle);
        assert!(!out.stdout.contains(SECRET), "{out:?}");
    }
    swappers.into_iter().for_each(|swapper| swapper.stop(rounds()));
    victim.is_untouched("tmpcopyup");
}

/// The directory of the root file system is exchanged with another while the container is created. The
/// container runs in one of them, completely, or not at all.
#[test]
fn a_race_for_the_root_gives_one_root_or_none() {
    isolated(|t| {
        let (first, second) = (t.bundle(|_| {}), t.bundle(|_| {}));
        let script = "cat /which /etc/which; [ -e /boot ] && echo host; exit 0";
        first.edit(|c| c["process"]["args"] = json!(["sh", "-c", script]));
        for (bundle, text) in [(&first, "1"), (&second, "2")] {
            fs::write(bundle.rootfs().join("which"), text).unwrap();
            fs::write(bundle.rootfs().join("etc/which"), text).unwrap();
        }
        let swapper = Swapper::start(first.rootfs(), second.rootfs());
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..rounds() {
            let out = t.run_bundle(&first);
            let output = if out.code == 0 { out.stdout } else { "error".into() };
            *seen.entry(output).or_insert(0) += 1;
        }
        swapper.stop(rounds());
        assert!(seen.keys().all(|output| ["11", "22", "error"].contains(&output.as_str())), "{seen:?}");
        // Check of the check: both roots were met.
        assert!(seen.contains_key("11") && seen.contains_key("22"), "{seen:?}");
    });
}
