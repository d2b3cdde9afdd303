//! `checkpoint` and `restore` with CRIU: the processes go on where they were, and every command works on the restored container.
//! These tests are skipped where CRIU does not work. The other files of this name are about files, namespaces and the network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Bundle, Output, Test, View, isolated_as, poll, reap, skip};
use crate::mounts::add;

pub const LONG: Duration = Duration::from_secs(20);

/// Runs the body isolated, where CRIU works.
pub fn with_criu<F: FnOnce(&Test)>(body: F) {
    isolated_as::<F>(View::wanted(), |t| {
        // CRIU connects sockets to learn what the kernel does.
        t.call(Command::new(t.dir.join("busybox")).args(["ip", "link", "set", "lo", "up"])).ok();
        if !is_new_enough() {
            skip("these tests were seen with CRIU 4 only");
        }
        let Ok(checked) = Command::new("criu").arg("check").output() else { skip("criu is not installed") };
        if !checked.status.success() {
            skip(&format!("criu check: {}", String::from_utf8_lossy(&checked.stderr).trim()));
        }
        body(t);
    });
}

/// Reports whether CRIU is 4 or newer. One that is absent counts as new, and is reported as absent.
fn is_new_enough() -> bool {
    let Ok(output) = Command::new("criu").arg("--version").output() else { return true };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.strip_prefix("Version: ").is_none_or(|version| !version.starts_with('3'))
}

/// Returns the directory of the images of this name, or that of the log and statistics about them.
pub fn directory(t: &Test, images: &str, kind: &str) -> PathBuf {
    t.dir.join(format!("{images}.{kind}"))
}

/// Returns a command for `verb` with the images of this name.
pub fn command(t: &Test, verb: &[&str], images: &str) -> Command {
    let mut command = t.command(verb);
    command.arg("--image-path").arg(directory(t, images, "images"));
    command.arg("--work-path").arg(directory(t, images, "work"));
    command
}

/// Calls `command`. If it fails, what CRIU has logged is printed.
pub fn call(t: &Test, images: &str, command: &mut Command) -> Output {
    let output = t.call(command);
    if output.code != 0 {
        println!("{output:#?}");
        for log in ["dump.log", "restore.log"] {
            let text = fs::read(directory(t, images, "work").join(log)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            lines.iter().skip(lines.len().saturating_sub(40)).for_each(|line| println!("{log}: {line}"));
        }
    }
    output
}

/// Saves a container, which is gone afterwards. The images are called like the container.
pub fn save(t: &Test, id: &str, more: &[&str]) {
    call(t, id, command(t, &["checkpoint"], id).args(more).arg(id)).ok();
    t.corten(&["state", id]).fails("does not exist");
}

/// Restores the images of this name as the container `id`, in the background.
pub fn load(t: &Test, bundle: &Bundle, images: &str, id: &str, more: &[&str]) {
    let mut command = command(t, &["restore", "--detach"], images);
    call(t, images, command.args(more).args(["--bundle", bundle.path(), id])).ok();
    assert_eq!(t.status(id), "running");
}

/// A directory of the host that containers have at /vol.
pub struct Volume {
    pub dir: PathBuf,
}

impl Volume {
    pub fn new(t: &Test) -> Self {
        let dir = t.dir.join("vol");
        fs::create_dir_all(&dir).unwrap();
        // Root of a user namespace writes here too.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        Self { dir }
    }

    pub fn mount(&self, c: &mut Value) {
        add(c, json!({"destination": "/vol", "source": self.dir, "options": ["rbind"]}));
    }

    /// Has the container's program count in the volume, after `first`. Each number is followed by the output of `show`.
    pub fn count(&self, c: &mut Value, first: &str, show: &str) {
        let script = format!(
            "{first}\nn=0; while :; do n=$((n+1)); (echo $n; {show}) >/vol/new 2>&1; mv /vol/new /vol/said; usleep 20000; done"
        );
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
        self.mount(c);
    }

    /// Has the container's program be python3, with the host's files. It counts in the volume, after the statements `first`. Each
    /// number is followed by the value of the expression `show`.
    pub fn python(&self, c: &mut Value, first: &str, show: &str) {
        let script = format!(
            "import os, sys, time, socket, threading, fcntl, signal, mmap, subprocess\n{first}\nn = 0\nwhile True:\n n += 1\n \
             with open('/vol/new', 'w') as f: f.write(f'{{n}}\\n' + str({show}) + '\\n')\n \
             os.rename('/vol/new', '/vol/said')\n time.sleep(0.02)\n"
        );
        c["process"]["args"] = json!(["/usr/bin/python3", "-c", script]);
        for dir in ["/usr", "/lib", "/lib64", "/etc"] {
            let source = fs::canonicalize(dir).unwrap();
            add(c, json!({"destination": dir, "source": source, "options": ["rbind", "ro"]}));
        }
        self.mount(c);
    }

    /// Returns the number that the program has reached, and the output of `show`.
    pub fn said(&self) -> Option<(u64, String)> {
        let text = fs::read_to_string(self.dir.join("said")).ok()?;
        let (number, rest) = text.split_once('\n')?;
        Some((number.parse().ok()?, rest.trim_end().to_string()))
    }

    /// Waits until the program has counted further than `before`. Returns the number and the output of `show`.
    pub fn after(&self, before: u64) -> (u64, String) {
        let mut said = None;
        poll(LONG, || {
            said = self.said().filter(|(number, _)| *number != before);
            said.is_some()
        });
        let said = said.unwrap_or_else(|| panic!("the program does not count on after {before}"));
        assert!(said.0 > before, "the program counts anew: {} after {before}", said.0);
        said
    }

    /// Waits until the container, which has just been restored, has counted twice. Returns the output of `show`.
    pub fn goes_on(&self, before: u64) -> String {
        let (number, _) = self.after(before);
        self.after(number).1
    }

    /// Returns the number at which a container that is not running has stopped.
    pub fn stopped_at(&self) -> u64 {
        self.said().unwrap().0
    }
}

/// Starts a container, saves it, restores it under another id, and returns what it shows before and after. The restored container, c2,
/// runs.
pub fn moved(t: &Test, volume: &Volume, bundle: &Bundle, dump: &[&str], restore: &[&str]) -> [String; 2] {
    let pid = t.start(bundle, "c1");
    let (_, before) = volume.after(0);
    save(t, "c1", dump);
    let number = volume.stopped_at();
    // A zombie keeps its number in a pid namespace that the container has joined.
    assert!(poll(LONG, || {
        reap();
        !Path::new(&format!("/proc/{pid}")).exists()
    }));
    load(t, bundle, "c1", "c2", restore);
    [before, volume.goes_on(number)]
}

/// A shell and its children go on with their memory, under another id, in a cgroup of their own.
#[test]
fn a_restored_container_goes_on() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| {
            volume.count(c, "secret=$RANDOM; cd /tmp; sleep 1000 &", "echo $secret; pwd; jobs -p")
        });
        let pid_file = t.dir.join("pid");
        let [before, after] = moved(t, &volume, &bundle, &[], &["--pid-file", pid_file.to_str().unwrap()]);
        assert_eq!(before, after);
        let pid = t.pid("c2");
        assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid.to_string());
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(cgroup.contains("c2") && !cgroup.contains("c1"), "{cgroup}");
        t.delete("c2");
    });
}

/// Every command works on a restored container as on one that was created.
#[test]
fn every_command_works_on_a_restored_container() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.count(c, "trap 'exit 7' TERM", "true"));
        moved(t, &volume, &bundle, &[], &[]);
        let same = "for n in cgroup ipc mnt net pid uts; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done; hostname; cat /proc/self/mountinfo | wc -l";
        let shown = t.exec("c2", same).ok();
        assert!(shown.starts_with("corten\n") && !shown.contains("\n0\n"), "{shown}");
        let pids: Vec<i32> = serde_json::from_str(&t.corten(&["ps", "-f", "json", "c2"]).ok()).unwrap();
        assert!(pids.contains(&t.pid("c2")), "{pids:?}");
        t.corten(&["pause", "c2"]).ok();
        assert_eq!(t.status("c2"), "paused");
        t.corten(&["resume", "c2"]).ok();
        volume.goes_on(volume.stopped_at());
        t.corten(&["events", "--stats", "c2"]).ok();
        t.corten(&["state", "--applied", "c2"]).ok();
        assert!(t.corten(&["list", "-q"]).ok().contains("c2"));
        t.corten(&["gc"]).ok();
        assert_eq!(t.status("c2"), "running");
        t.corten(&["delete", "c2"]).fails("running");
        t.corten(&["kill", "c2", "TERM"]).ok();
        t.until("c2", "stopped");
        t.corten(&["delete", "c2"]).ok();
    });
}

/// A container can be saved and restored again and again, with the same id.
#[test]
fn a_restored_container_can_be_saved_again() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.count(c, "secret=$RANDOM", "echo $secret"));
        t.start(&bundle, "c1");
        let (_, before) = volume.after(0);
        for _ in 0..3 {
            save(t, "c1", &[]);
            let number = volume.stopped_at();
            load(t, &bundle, "c1", "c1", &[]);
            assert_eq!(volume.goes_on(number), before);
        }
        t.delete("c1");
    });
}

/// Threads, children that run, zombies and sessions are restored.
#[test]
fn threads_children_and_zombies_are_restored() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let first = "count = [0] * 4
def work(i):
  while True:
    count[i] += 1
    time.sleep(0.01)
for i in range(4): threading.Thread(target=work, args=(i,), daemon=True).start()
zombie = os.fork()
if zombie == 0: os._exit(3)
child = os.fork()
if child == 0:
  os.setsid()
  time.sleep(10000)
def state(pid): return open(f'/proc/{pid}/stat').read().split(') ')[1].split()[0::3][:2]
time.sleep(0.2)
old = [0] * 4
def moving():
  global old
  result = all(a > b for a, b in zip(count, old))
  old = list(count)
  time.sleep(0.1)
  return result";
        let show = "(threading.active_count(), state(zombie), state(child), moving())";
        let bundle = t.bundle(|c| volume.python(c, first, show));
        let [_, after] = moved(t, &volume, &bundle, &[], &[]);
        assert!(after.starts_with("(5, ['Z', '"), "{after}");
        assert!(after.contains("['S', '") && after.ends_with("True)"), "{after}");
        t.delete("c2");
    });
}

/// `--leave-running`: the container goes on, and the images are whole.
#[test]
fn a_container_can_go_on_after_its_checkpoint() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.count(c, "", "true"));
        let pid = t.start(&bundle, "c1");
        volume.after(0);
        call(t, "c1", command(t, &["checkpoint", "--leave-running"], "c1").arg("c1")).ok();
        volume.goes_on(volume.stopped_at());
        assert_eq!((t.status("c1").as_str(), t.pid("c1")), ("running", pid));
        t.delete("c1");
    });
}

/// `--pre-dump` saves memory while the container runs. A checkpoint with `--parent-path` saves the rest.
#[test]
fn a_checkpoint_can_follow_a_pre_dump() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.python(c, "memory = os.urandom(8 << 20)", "hash(memory)"));
        t.start(&bundle, "c1");
        let (_, before) = volume.after(0);
        let call = |images: &str, more: &[&str]| {
            call(t, images, command(t, &["checkpoint"], images).args(more).arg("c1")).ok();
        };
        call("pre", &["--pre-dump"]);
        assert_eq!(t.status("c1"), "running");
        volume.goes_on(volume.stopped_at());
        call("more", &["--pre-dump", "--parent-path", "../pre.images"]);
        call("last", &["--parent-path", "../more.images"]);
        let size = |name: &str| -> u64 {
            let files = fs::read_dir(directory(t, name, "images")).unwrap().flatten();
            let pages = files.filter(|file| file.file_name().to_string_lossy().starts_with("pages-"));
            pages.map(|file| file.metadata().unwrap().len()).sum()
        };
        assert!(size("pre") > 8 << 20 && size("last") < 6 << 20, "{} {}", size("pre"), size("last"));
        let number = volume.stopped_at();
        load(t, &bundle, "last", "c2", &[]);
        assert_eq!(volume.goes_on(number), before);
        t.delete("c2");
    });
}

/// A paused container can be saved. It runs when it is restored.
#[test]
fn a_paused_container_can_be_saved() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.count(c, "", "true"));
        t.start(&bundle, "c1");
        volume.after(0);
        t.corten(&["pause", "c1"]).ok();
        let args = ["checkpoint", "--leave-running"];
        call(t, "c1", command(t, &args, "c1").arg("c1")).ok();
        assert_eq!(t.status("c1"), "paused");
        save(t, "c1", &[]);
        let number = volume.stopped_at();
        load(t, &bundle, "c1", "c2", &[]);
        volume.goes_on(number);
        t.delete("c2");
    });
}

/// In the foreground, `restore` waits for the container, passes signals on, exits with its status and deletes it.
#[test]
fn restore_waits_in_the_foreground() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.count(c, "trap 'echo bye; exit 7' TERM", "true"));
        t.start(&bundle, "c1");
        volume.after(0);
        save(t, "c1", &[]);
        let number = volume.stopped_at();
        let mut command = command(t, &["restore"], "c1");
        let running = t.spawn(command.args(["-b", bundle.path(), "c2"]).stdin(Stdio::null()));
        volume.goes_on(number);
        let pid = running.child.id().to_string();
        t.call(Command::new("kill").args(["-TERM", &pid])).ok();
        let output = running.wait();
        assert_eq!((output.code, output.stdout.as_str()), (7, "bye\n"), "{output:?}");
        t.corten(&["state", "c2"]).fails("does not exist");
    });
}

/// The hooks of the configuration that run outside of the container run, with the state of the restored container. There is no
/// start, so no poststart hook runs, as with runc.
#[test]
fn hooks_run_at_a_restore() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let log = t.dir.join("hooks");
        let bundle = t.bundle(|c| {
            volume.count(c, "", "true");
            let hook = |name: &str| {
                let script = format!("(echo {name}; cat; echo) >>{}", log.display());
                json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
            };
            for name in ["prestart", "createRuntime", "poststart", "poststop"] {
                c["hooks"][name] = hook(name);
            }
        });
        t.start(&bundle, "c1");
        volume.after(0);
        save(t, "c1", &[]);
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.contains("poststop"), "{text}");
        fs::remove_file(&log).unwrap();
        let number = volume.stopped_at();
        load(t, &bundle, "c1", "c2", &[]);
        volume.goes_on(number);
        t.delete("c2");
        let text = fs::read_to_string(&log).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let names: Vec<&str> = lines.iter().copied().step_by(2).collect();
        assert_eq!(names, ["prestart", "createRuntime", "poststop"]);
        for line in lines.iter().skip(1).step_by(2) {
            let state: Value = serde_json::from_str(line).unwrap();
            assert_eq!(state["id"], "c2");
        }
    });
}

/// A checkpoint that CRIU refuses says why, and the container goes on.
#[test]
fn a_failed_checkpoint_lets_the_container_go_on() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| {
            let first = "s = socket.create_server(('127.0.0.1', 80)); a = socket.create_connection(('127.0.0.1', 80)); b = s.accept()[0]";
            volume.python(c, first, "1");
        });
        t.start(&bundle, "c1");
        volume.after(0);
        let output = t.call(command(t, &["checkpoint"], "c1").arg("c1"));
        output.fails("tcp-established").exits(1);
        assert_eq!(t.status("c1"), "running");
        volume.goes_on(volume.stopped_at());
        t.delete("c1");
    });
}

/// A restore that fails leaves nothing.
#[test]
fn a_failed_restore_leaves_nothing() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.count(c, "", "true"));
        t.start(&bundle, "c1");
        volume.after(0);
        save(t, "c1", &[]);
        let fails = |images: &str, text: &str| {
            let mut command = command(t, &["restore", "-d"], images);
            t.call(command.args(["-b", bundle.path(), "c2"])).fails(text).exits(1);
            t.corten(&["state", "c2"]).fails("does not exist");
            assert!(!Path::new("/sys/fs/cgroup/c2").exists());
        };
        fails("none", "--image-path");
        let away = t.dir.join("away");
        fs::rename(&volume.dir, &away).unwrap();
        fails("c1", "/vol");
        fs::rename(&away, &volume.dir).unwrap();
        let core = directory(t, "c1", "images").join("pstree.img");
        let text = fs::read(&core).unwrap();
        fs::write(&core, b"nothing").unwrap();
        fails("c1", "criu");
        fs::write(&core, text).unwrap();
        // The same images are good for a restore afterwards.
        let number = volume.stopped_at();
        load(t, &bundle, "c1", "c2", &[]);
        volume.goes_on(number);
        t.delete("c2");
    });
}
