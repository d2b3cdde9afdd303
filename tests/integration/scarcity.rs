//! Lack of room in the state root, of descriptors and of memory, and damaged records. A command succeeds or
//! fails with one line that names the reason, and `delete --force` leaves nothing. It never succeeds while a
//! process is left.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

use crate::harness::{
    Bundle, Output, Test, View, isolated, isolated_in, poll, processes, remains, skip, traces,
};

fn rooted(t: &Test, root: &Path, args: &[&str]) -> Output {
    t.corten(&[&["--root", root.to_str().unwrap()], args].concat())
}

/// Runs the whole life of a container in a small state root. Returns whether every command succeeded.
fn live_in(t: &Test, bundle: &Bundle, root: &Path, clean: &[String]) -> bool {
    let mut well = true;
    let create = ["create", "--bundle", bundle.path(), "c"];
    for args in [&create[..], &["start", "c"], &["pause", "c"], &["resume", "c"], &["exec", "c", "/bin/true"]]
    {
        let out = rooted(t, root, args);
        if out.code != 0 {
            let expected =
                ["no space left on device", "does not exist", "never finished", "is not started", "stopped"];
            assert!(expected.iter().any(|word| out.stderr.contains(word)), "{args:?}: {out:?}");
            assert_eq!(out.stderr.lines().count(), 1, "{args:?}: {out:?}");
            well = false;
            break;
        }
    }
    rooted(t, root, &["delete", "--force", "c"]).ok();
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
    let left = remains(t, clean);
    assert!(left.is_empty(), "{left:#?}");
    well
}

/// A state root without room for files, and one without room for names.
#[test]
fn a_full_state_root_is_reported() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let root = t.dir.join("small");
        fs::create_dir(&root).unwrap();
        let inodes = (1..=8).map(|count| format!("nr_inodes={count}"));
        // A small file takes a page.
        let pages = (1..=5).map(|pages| format!("size={}", pages * 4096));
        let mut results = Vec::new();
        for options in inodes.chain(pages) {
            mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
            let clean = traces(t);
            results.push(live_in(t, &bundle, &root, &clean));
            umount(&root).unwrap();
        }
        // Some rows had too little room, and some had enough.
        assert!(results.contains(&true) && results.contains(&false), "{results:?}");
    });
}

/// Every number of descriptors from none to enough.
#[test]
fn a_lack_of_descriptors_is_reported() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c");
        t.delete("c");
        let clean = traces(t);
        let limited = |count: u32, args: &[&str]| {
            let inner = t.command(args);
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &format!("ulimit -Sn {count}; exec \"$@\""), "sh"]);
            t.call(command.arg(inner.get_program()).args(inner.get_args()))
        };
        let mut enough = 0;
        for count in 4..=40 {
            let create = ["create", "--bundle", bundle.path(), "c"];
            let (start, exec) = (["start", "c"], ["exec", "c", "/bin/true"]);
            let mut well = true;
            for args in [&create[..], &start, &exec, &["pause", "c"], &["delete", "--force", "c"]] {
                let out = limited(count, args);
                if out.code == 0 {
                    continue;
                }
                well = false;
                assert_eq!(out.stderr.lines().count(), 1, "{count} {args:?}: {out:?}");
                if args == start && t.status("c") != "created" {
                    // exec has begun, but could not be observed. It must not run on.
                    t.until("c", "stopped");
                    break;
                }
                // The next row requires a running container.
                let again = t.corten(args);
                assert_eq!(again.code, 0, "{count} {args:?}: {out:?} {again:?}");
            }
            t.delete("c");
            let left = remains(t, &clean);
            assert!(left.is_empty(), "{count}: {left:#?}");
            enough += u32::from(well);
        }
        assert!((1..37).contains(&enough), "{enough}");
    });
}

/// A record that is cut off anywhere, empty, lost, or not even text: `delete --force` removes the container,
/// by its kept configuration.
#[test]
fn a_damaged_record_does_not_make_a_container_stopped() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c");
        let whole = fs::read(t.state().join("c/state.json")).unwrap();
        t.delete("c");
        let cut = (0..8).map(|part| Some(whole[..whole.len() * part / 8].to_vec()));
        let wrong = [&b"\xff\xfe\0garbage"[..], b"{}", b"7", b"{\"id\":\"c\",\"pid\":\"x\"}"];
        for damage in cut.chain(wrong.map(|bytes| Some(bytes.to_vec()))).chain([None]) {
            let pid = t.start(&bundle, "c");
            let file = t.state().join("c/state.json");
            match &damage {
                Some(bytes) => fs::write(&file, bytes).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            let shown = damage.as_deref().map(String::from_utf8_lossy);
            for verb in [&["state", "c"][..], &["start", "c"], &["kill", "c", "KILL"], &["delete", "c"]] {
                let out = t.corten(verb);
                assert!(out.code == 1 && out.stderr.lines().count() == 1, "{shown:?} {verb:?}: {out:?}");
            }
            let out = t.corten(&["delete", "--force", "c"]);
            crate::harness::reap();
            let runs = Path::new(&format!("/proc/{pid}")).exists();
            assert!(out.code == 0 && !runs, "{shown:?}: {out:?}, and {pid} runs: {runs}");
            assert!(!t.state().join("c").exists());
        }
    });
}

type Edit = fn(&mut Value, u32);

/// A process id that another process has now, or that is one of another boot, gets no signal.
#[test]
fn a_process_that_reuses_the_pid_is_never_signalled() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["/bin/true"]));
        let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
        // The kernel reports the start of a process in ticks of 10 ms. This process must start in another
        // tick than the container's.
        std::thread::sleep(Duration::from_millis(20));
        let edits: [(&str, Edit); 3] = [
            ("another's process id", |state, pid| state["pid"] = json!(pid)),
            ("without its start", |state, pid| {
                state["pid"] = json!(pid);
                state["startTime"] = Value::Null;
            }),
            ("another boot", |state, pid| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
                let start = stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().to_string();
                state["pid"] = json!(pid);
                state["startTime"] = json!(start.parse::<u64>().unwrap());
                state["bootId"] = json!("another");
            }),
        ];
        for (name, edit) in edits {
            t.create(&bundle, "c");
            t.corten(&["start", "c"]).ok();
            t.until("c", "stopped");
            let file = t.state().join("c/state.json");
            let mut state: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            edit(&mut state, stranger.id());
            fs::write(&file, state.to_string()).unwrap();
            assert_eq!(t.status("c"), "stopped", "{name}");
            for args in
                [&["kill", "c", "KILL"][..], &["pause", "c"], &["start", "c"], &["exec", "c", "/bin/true"]]
            {
                let out = t.corten(args);
                assert!(out.code != 0 && out.stderr.lines().count() == 1, "{name}: {out:?}");
            }
            t.corten(&["kill", "--all", "c", "KILL"]);
            t.corten(&["delete", "--force", "c"]).ok();
            assert_eq!(stranger.try_wait().unwrap(), None, "{name}: the stranger has ended");
            let cgroup = PathBuf::from("/sys/fs/cgroup/corten-c");
            let _ = fs::remove_dir(&cgroup);
        }
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    });
}

/// Cgroups that the container has made below its own are deleted with it, at any depth.
#[test]
fn cgroups_made_by_the_container_are_deleted_with_it() {
    isolated(|t| nested(t, "/sys/fs/cgroup"));
}

#[test]
fn cgroups_made_by_the_container_are_deleted_with_it_on_v1() {
    isolated_in(View::V1, |t| nested(t, "/sys/fs/cgroup/memory"));
}

fn nested(t: &Test, at: &str) {
    let deep = "/d".repeat(40);
    let script = format!(
        "mkdir -p {at}/a/b {at}/e{deep}; for d in a a/b e{deep}; do sleep 1000 & echo $! > {at}/$d/cgroup.procs; done; \
         echo > /tmp/my-made; exec sleep 1000"
    );
    let bundle = t.bundle(|c| {
        c["process"]["args"] = json!(["/bin/sh", "-ec", script]);
        let mounts = c["mounts"].as_array_mut().unwrap();
        mounts.last_mut().unwrap()["options"] = json!(["nosuid", "noexec", "nodev"]);
    });
    let made = bundle.rootfs().join("tmp/my-made");
    for paused in [false, true] {
        t.start(&bundle, "c");
        assert!(poll(Duration::from_secs(20), || made.exists()), "{:?}", t.document("c"));
        fs::remove_file(&made).unwrap();
        if paused {
            t.corten(&["pause", "c"]).ok();
        }
        t.delete("c");
        assert!(poll(Duration::from_secs(5), || !processes().iter().any(|line| line.contains("sleep"))));
    }
}

/// If the memory does not suffice to begin, the error says that it ran out.
#[test]
fn too_little_memory_to_begin_is_reported() {
    isolated_in(View::V1, |t| little_memory(t, &[4, 64, 256, 512, 1024]));
}

#[test]
fn too_little_memory_to_begin_is_reported_on_v2() {
    isolated_in(View::V2, |t| {
        let offered = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        if !offered.contains("memory") {
            skip("no memory controller on the cgroup v2 hierarchy");
        }
        little_memory(t, &[4, 16, 64, 128, 256]);
    });
}

fn little_memory(t: &Test, kibibytes: &[u32]) {
    let mut reported = 0;
    for kib in kibibytes {
        let bundle = t.bundle(|c| c["linux"]["resources"] = json!({"memory": {"limit": kib << 10}}));
        let out = t.call(t.command(&["create", "--bundle", bundle.path(), "c"]).stdin(Stdio::null()));
        if out.code != 0 {
            out.fails("out of memory").exits(1);
            reported += 1;
            assert!(!t.state().join("c").exists());
        } else {
            t.delete("c");
        }
    }
    assert!(reported > 0);
}

/// A file system at `/mnt` of the container whose server answers only the first request. A process that uses
/// it cannot be killed any more.
struct Silent(fs::File);

impl Silent {
    fn mount(pid: i32) -> std::io::Result<Self> {
        let device = fs::File::options().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let namespace = fs::File::open(format!("/proc/{pid}/ns/mnt"))?;
        // A thread of its own, because the namespaces that it enters are not left again.
        let enter = move || -> nix::Result<()> {
            unshare(CloneFlags::CLONE_FS)?;
            setns(&namespace, CloneFlags::CLONE_NEWNS)?;
            mount(Some("silent"), "/mnt", Some("fuse"), MsFlags::empty(), Some(options.as_str()))
        };
        std::thread::spawn(enter).join().unwrap()?;
        let silent = Self(device);
        // The answer to FUSE_INIT is only the version of the protocol.
        let request = silent.request();
        let mut answer = [0; 80];
        answer[0] = 80;
        answer[8..16].copy_from_slice(&request[8..16]);
        (answer[16], answer[20]) = (7, 31);
        (&silent.0).write_all(&answer)?;
        Ok(silent)
    }

    /// Reads the next request, which is then ours to answer.
    fn request(&self) -> Vec<u8> {
        let mut buffer = vec![0; 1 << 17];
        let len = (&self.0).read(&mut buffer).unwrap();
        buffer.truncate(len);
        buffer
    }
}

/// If a process cannot be killed, `delete` fails after a while and keeps the record. Once the process has
/// ended, a later `delete` leaves nothing.
#[test]
fn delete_of_an_unkillable_process_fails_after_a_while() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let pid = t.start(&bundle, "c");
        let silent = match Silent::mount(pid) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EPERM)) => {
                t.delete("c");
                skip("FUSE is not available")
            }
            other => other.unwrap(),
        };
        t.corten(&["exec", "--detach", "c", "/bin/cat", "/mnt/file"]).ok();
        silent.request();
        for args in [&["delete", "--force", "c"][..], &["gc", "--stopped"]] {
            let begun = std::time::Instant::now();
            t.corten(args).exits(1).fails("processes of the container do not end");
            assert!(begun.elapsed() < Duration::from_secs(20));
            assert_eq!(t.corten(&["list", "-q"]).ok(), "c\n");
        }
        drop(silent);
        let deleted = || {
            crate::harness::reap();
            t.corten(&["delete", "--force", "c"]).code == 0
        };
        assert!(poll(Duration::from_secs(20), deleted));
        assert!(!t.state().join("c").exists());
    });
}
