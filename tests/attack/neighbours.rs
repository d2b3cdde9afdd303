//! A joined mount namespace belongs to other containers, which can attack while a container arrives.

use std::cell::RefCell;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::harness::{Bundle, Test, isolated, without_namespace};
use crate::{PAYLOAD, SYSCTL, add, found, payload, payload_words, rounds};

/// A process in a mount namespace of its own, which a script has prepared.
struct Neighbour {
    child: Child,
}

impl Neighbour {
    /// Runs `words` after the script. A line of their output that ends with "ready" means that everything is prepared. (A
    /// test binary writes other lines before.)
    fn new(script: &str, words: &[String], variable: Option<&str>) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-ec", &format!("{script}\nexec \"$@\"")]);
        command.arg("sh").args(words).stdout(Stdio::piped());
        if let Some((name, value)) = variable.and_then(|variable| variable.split_once('=')) {
            command.env(name, value);
        }
        let mut child = command.spawn().unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"ready\n") {
            let mut byte = [0];
            child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        Self { child }
    }

    fn idle(script: &str) -> Self {
        let words = ["sh", "-c", "echo ready; exec sleep 1000"].map(Into::into);
        Self::new(script, &words, None)
    }

    fn namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/mnt", self.child.id()))
    }

    fn join(&self, c: &mut Value) {
        without_namespace(c, "mount");
        let namespace = json!({"type": "mount", "path": self.namespace()});
        c["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
    }

    /// Runs a script in its namespace.
    fn inside(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount={}", self.namespace().display())).args(["/bin/sh", "-c", script]);
        command
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The way in which a neighbour gets to see an arriving container.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Its mount namespace is joined, and links in its /proc lead the target of a mount to a place of its
    /// own.
    FalseProc,
    /// Its mount namespace is joined.
    Joined,
    /// The container has no mount namespace, and the host's mounts propagate to the neighbour's.
    Propagation,
}

/// Like CVE-2025-52881: a neighbour waits for a procfs of the container that is not masked yet. A mask does
/// not close files that are open already.
#[test]
fn a_neighbour_never_sees_an_unmasked_procfs() {
    payload(lie_in_wait);
    isolated(|t| {
        let dir = t.dir.to_str().unwrap();
        t.call(Command::new("mount").args(["--bind", "--make-shared", dir, dir])).ok();
        for way in [Way::FalseProc, Way::Joined, Way::Propagation] {
            let outputs = RefCell::new(Vec::new());
            let run = |neighbour: &Neighbour, bundle: &Bundle| {
                match way {
                    Way::Propagation => bundle.edit(|c| {
                        without_namespace(c, "mount");
                        c["process"]["args"] = json!(["/bin/sleep", "1000"]);
                    }),
                    _ => bundle.edit(|c| neighbour.join(c)),
                }
                match way {
                    // A mount that is removed shows the covered file for a moment, because the kernel removes
                    // mounts one by one.
                    Way::Propagation => drop(t.start(bundle, "c")),
                    _ => outputs.borrow_mut().push(t.run_bundle(bundle)),
                }
            };
            let round = || {
                let hits = attack(t, way, run);
                if way == Way::Propagation {
                    t.delete("c");
                }
                hits
            };
            let hits: u32 = (0..rounds()).map(|_| round()).sum();
            assert_eq!(hits, 0, "{way:?}");
            outputs.into_inner().into_iter().for_each(|out| assert_eq!(out.ok(), "the kernel's\n"));
            // Check of the check: a mount by path that is made read-only afterwards.
            let naive = |neighbour: &Neighbour, bundle: &Bundle| {
                let (busybox, root) = (t.dir.join("busybox"), bundle.rootfs());
                let script = format!(
                    "exec 5<{1}/proc; {0} mount -t proc p /proc/self/fd/5; sleep 0.2; {0} mount -o remount,ro {1}/proc",
                    busybox.display(),
                    root.display()
                );
                match way {
                    Way::Propagation => {
                        t.call(Command::new("sh").args(["-c", &script]));
                        t.call(Command::new("umount").arg("--lazy").arg(root.join("proc"))).ok();
                    }
                    _ => drop(t.call(&mut neighbour.inside(&script))),
                }
            };
            assert_ne!(attack(t, way, naive), 0, "{way:?}: the payload finds nothing");
        }
        t.call(Command::new("umount").args(["--lazy", dir])).ok();
    });
}

/// Returns how often the neighbour could open the parameter for writing while `act` ran.
fn attack(t: &Test, way: Way, act: impl FnOnce(&Neighbour, &Bundle)) -> u32 {
    let (stolen, fake, stop) = (t.dir.join("stolen"), t.dir.join("fake"), t.dir.join("stop"));
    fs::create_dir_all(&stolen).unwrap();
    if !fake.exists() {
        fs::create_dir_all(fake.join("self/fd")).unwrap();
        (0..64).for_each(|fd| symlink(&stolen, fake.join(format!("self/fd/{fd}"))).unwrap());
    }
    let bundle = t.bundle(|c| {
        let script = "[ -e /proc/self/status ] && echo \"the kernel's\"";
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
    });
    let script = match way {
        Way::FalseProc => format!("mount --bind {} /proc", fake.display()),
        _ => ":".into(),
    };
    let places = format!("stolen\n{}/rootfs/proc", bundle.dir.file_name().unwrap().to_str().unwrap());
    let (mut words, _) = payload_words("neighbours::a_neighbour_never_sees_an_unmasked_procfs", &[]);
    words[0] = std::env::current_exe().unwrap().to_str().unwrap().into();
    let variable = format!("{PAYLOAD}={}\n{places}", t.dir.display());
    let mut neighbour = Neighbour::new(&script, &words, Some(&variable));
    act(&neighbour, &bundle);
    fs::write(&stop, "").unwrap();
    let mut out = String::new();
    neighbour.child.stdout.as_mut().unwrap().read_to_string(&mut out).unwrap();
    fs::remove_file(&stop).unwrap();
    found(&out).parse().unwrap()
}

/// The payload: opens the parameter below each place, again and again, by a directory that it has open,
/// because its own root is replaced by the container's.
fn lie_in_wait(arguments: &[String]) -> String {
    let (base, places) = arguments.split_first().unwrap();
    let base = fs::File::open(base).unwrap();
    let parameter = SYSCTL.trim_start_matches("/proc/");
    let paths: Vec<PathBuf> = places.iter().map(|place| Path::new(place).join(parameter)).collect();
    let open = |path: &Path, flags| openat(&base, path, flags, Mode::empty());
    println!("ready");
    let (mut hits, end) = (0, Instant::now() + Duration::from_secs(60));
    while open(Path::new("stop"), OFlag::O_PATH).is_err() && Instant::now() < end {
        hits += paths.iter().filter(|path| open(path, OFlag::O_WRONLY).is_ok()).count();
    }
    hits.to_string()
}

/// runtime.md#lifecycle: the path of a createContainer hook is resolved in the runtime's namespace. A
/// neighbour's file at that path, which would run as the host's root, is not executed.
#[test]
fn a_neighbours_file_is_not_run_as_a_hook() {
    isolated(|t| {
        let (good, evil) = (t.dir.join("good"), t.dir.join("evil"));
        for (path, word) in [(&good, "good"), (&evil, "evil")] {
            let mark = t.dir.join(format!("my-{word}"));
            let script = format!("#!/bin/sh\n: > {}\n", mark.display());
            fs::write(path, script).unwrap();
            t.call(Command::new("chmod").arg("755").arg(path)).ok();
        }
        let done = |word: &str| t.dir.join(format!("my-{word}")).exists();
        let neighbour = Neighbour::idle(&format!("mount --bind {} {}", evil.display(), good.display()));
        let bundle = t.bundle(|c| {
            neighbour.join(c);
            c["process"]["args"] = json!(["/bin/true"]);
            c["hooks"] = json!({"createContainer": [{"path": good}]});
        });
        t.run_bundle(&bundle).ok();
        assert_eq!((done("good"), done("evil")), (true, false));
        // Check of the check: the file would have been found there.
        let neighbour = Neighbour::idle(&format!("mount --bind {} {}", evil.display(), good.display()));
        t.call(&mut neighbour.inside(good.to_str().unwrap())).ok();
        assert!(done("evil"));
    });
}

/// A neighbour mounts a file system that never answers at places that the runtime may look at: on the root
/// file system, on a source, over the host's own directories or over the neighbour's whole root. No command
/// waits for it.
#[test]
fn a_file_system_that_never_answers_does_not_hold_a_command() {
    isolated(|t| {
        if !Path::new("/dev/fuse").exists() {
            // The harness knows this line.
            println!("skip: there is no /dev/fuse");
            std::process::exit(77);
        }
        let (busybox, volume) = (t.dir.join("busybox"), t.dir.join("my-volume"));
        fs::create_dir(&volume).unwrap();
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!(["/bin/true"]);
            add(c, json!({"destination": "/mnt", "source": volume, "options": ["bind"]}));
        });
        let roots = ["/", "/dev", "/proc", "/sys/fs/cgroup"].map(PathBuf::from);
        for target in [bundle.rootfs(), volume].iter().chain(&roots) {
            let target = target.display();
            let mount =
                format!("{} mount -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0", busybox.display());
            let neighbour = Neighbour::idle(&format!("exec 9<>/dev/fuse; {mount} x {target}"));
            // Check of the check.
            let mut look = Command::new("timeout");
            let inside = neighbour.inside(&format!("{} ls {target}", busybox.display()));
            look.args(["-s", "KILL", "1"]).arg(inside.get_program()).args(inside.get_args());
            assert_eq!(t.call(&mut look).code, 137, "{target} answers");
            bundle.edit(|c| neighbour.join(c));
            t.run_bundle(&bundle).ok();
        }
    });
}
