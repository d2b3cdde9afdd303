//! What every test stands on: a world of its own, bundles, and the runtime under test.
//!
//! `isolated` runs a test's body in a process of its own under private mount, pid, net, ipc, uts and cgroup
//! namespaces: whatever a broken runtime leaks dies with it, and every mount, process and cgroup that the test can
//! see is its own. That makes "nothing is left behind" an exact comparison, made at the end of every test.
//! The cgroup namespace sees a v2 tree, also on a host that has one only beside v1 hierarchies.
//!
//! `CORTEN` names the runtime under test; without it, it is the one that cargo built. `CORTEN_TEST_TREE` is a cgroup that
//! the tests may divide, where the root of the v2 tree is not theirs. `CORTEN_TEST_PATIENCE` multiplies every limit of
//! time, for machines that are emulated.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::{Value, json};

const INSIDE: &str = "CORTEN_TEST_DIR";
const SKIPPED: i32 = 77;
/// No call of the runtime may take longer; a loaded machine is allowed for.
const CALL: Duration = Duration::from_secs(30);
const WHOLE_TEST: Duration = Duration::from_secs(240);
const CGROUP: &str = "/sys/fs/cgroup";

/// Runs the body of the calling test in its own namespaces. The closure's type tells the test's name.
pub fn isolated<F: FnOnce(&Test)>(body: F) {
    if let Ok(dir) = std::env::var(INSIDE) {
        return inside(PathBuf::from(dir), body);
    }
    let name = std::any::type_name::<F>().split_once("::").map_or("", |(_, name)| name);
    let name = name.trim_end_matches("::{{closure}}");
    match outside(name) {
        Ok(()) => {}
        // Not through eprintln, which libtest holds back when a test passes.
        Err(reason) => drop(writeln!(std::io::stderr(), "skipped: {name}: {reason}")),
    }
}

/// Starts this binary again for one test; an error is the reason why the test was skipped.
fn outside(name: &str) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root".into());
    }
    let own = std::env::var_os("CORTEN_TEST_TREE").map(PathBuf::from);
    let tree = own.or_else(v2_tree).ok_or("no cgroup v2 tree is mounted")?;
    // The pid alone is no name: it is one of a pid namespace.
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos());
    let id = format!("corten-test.{}.{now:x}", name.replace("::", "."));
    let scratch = Scratch { dir: std::env::temp_dir().join(&id), cgroup: tree.join(&id) };
    fs::create_dir_all(&scratch.dir).unwrap();
    fs::create_dir(&scratch.cgroup).unwrap();
    let log = scratch.dir.join("log");
    let file = File::create(&log).unwrap();
    let mut child = Command::new("unshare")
        .args(["--fork", "--kill-child", "--mount", "--pid", "--net", "--ipc", "--uts", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, &scratch.dir)
        .env("RUST_BACKTRACE", "0")
        .env("CORTEN_TEST_CGROUP", &scratch.cgroup)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let status = wait(&mut child, WHOLE_TEST * patience());
    let text = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
    match status.map(|status| status.code()) {
        Some(Some(0)) if text.contains("1 passed") => Ok(()),
        Some(Some(SKIPPED)) => {
            Err(text.lines().find_map(|line| line.strip_prefix("skip: ")).unwrap_or_default().into())
        }
        status => {
            let text = text.split("\nfailures:").next().unwrap_or_default();
            eprintln!("{text}\nexit status of the test: {status:?}");
            // The body has told already where it failed: no second message, no backtrace of this process.
            std::panic::resume_unwind(Box::new(()))
        }
    }
}

/// What a test owns outside its namespaces; removed when they are gone.
struct Scratch {
    dir: PathBuf,
    cgroup: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let gone = |cgroup: &Path| {
            directories(cgroup).iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
            fs::remove_dir(cgroup).is_ok()
        };
        poll(Duration::from_secs(5), || gone(&self.cgroup));
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Where the unified hierarchy is mounted.
fn v2_tree() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

fn inside<F: FnOnce(&Test)>(dir: PathBuf, body: F) {
    enter_cgroup(Path::new(&std::env::var("CORTEN_TEST_CGROUP").unwrap()));
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find(|path| Path::new(path).exists());
    let Some(busybox) = busybox else { skip("busybox-static is not installed") };
    fs::copy(busybox, dir.join("busybox")).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let test = Test { dir, count: Cell::new(0) };
    let before = traces(&test);
    body(&test);
    // The first process of a pid namespace ends when we have reaped the others.
    let mut left = Vec::new();
    poll(Duration::from_secs(2), || {
        left = left_behind(&test, before.clone());
        left.is_empty()
    });
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// Makes `cgroup` the root of what this process sees of the v2 tree, and keeps the root itself free of processes.
fn enter_cgroup(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), "0").unwrap();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).unwrap();
    // Not a new mount of cgroup2: the kernel refuses (EBUSY) a second one at the same place.
    mount(Some(cgroup), CGROUP, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let harness = Path::new(CGROUP).join("harness");
    fs::create_dir(&harness).unwrap();
    fs::write(harness.join("cgroup.procs"), "0").unwrap();
}

/// Ends the test as skipped. Only before anything was started.
pub fn skip(reason: &str) -> ! {
    println!("\nskip: {reason}");
    std::process::exit(SKIPPED)
}

/// How many times slower than usual this machine may be.
pub fn patience() -> u32 {
    std::env::var("CORTEN_TEST_PATIENCE")
        .map_or(1, |times| times.parse().expect("CORTEN_TEST_PATIENCE: a number"))
}

/// Polls until `done` or the time is over; tells whether it was done.
pub fn poll(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit * patience();
    loop {
        if done() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for a child; at the deadline kills it and returns None.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let mut status = None;
    poll(limit, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

/// All directories below `dir`, parents first.
pub fn directories(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            found.extend(directories(&entry.path()));
        }
    }
    found
}

/// Everything that a container may leave behind, a line each.
pub fn traces(test: &Test) -> Vec<String> {
    reap();
    let list = |dir: PathBuf| -> Vec<PathBuf> {
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    // Without the mount's and its parent's id.
    let mounts =
        mounts.lines().map(|line| format!("mount {}", line.splitn(3, ' ').nth(2).unwrap_or_default()));
    let cgroups = directories(Path::new(CGROUP)).into_iter().filter(|dir| !dir.ends_with("harness"));
    let bundles = (0..test.count.get()).flat_map(|number| list(test.dir.join(format!("b{number}"))));
    let litter = bundles.filter(|path| is_litter(path));
    // crun keeps two such directories of its own below the root; it stands in for corten to check these tests.
    let states =
        list(test.state()).into_iter().filter(|p| !p.ends_with(".empty-directory") && !p.ends_with(".cache"));
    mounts
        .chain(cgroups.map(|dir| format!("cgroup {}", dir.display())))
        .chain(processes().iter().map(|line| format!("process {line}")))
        .chain(states.map(|path| format!("state {}", path.display())))
        .chain(litter.map(|path| format!("file {}", path.display())))
        .collect()
}

/// What is there now that was not there `before`.
pub fn left_behind(test: &Test, mut before: Vec<String>) -> Vec<String> {
    let mut left = traces(test);
    left.retain(|trace| match before.iter().position(|known| known == trace) {
        Some(index) => {
            before.swap_remove(index);
            false
        }
        None => true,
    });
    left
}

/// Of what lies in a bundle, everything that neither the harness nor the test put there (tests write `my-...`).
fn is_litter(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !matches!(name.as_ref(), "config.json" | "rootfs") && !name.starts_with("my-")
}

/// Everything that runs here but this process, which is the init of its pid namespace.
pub fn processes() -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        if pid != std::process::id() && !matches!(state, None | Some('Z' | 'X')) {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            found.push(format!("{pid} {}", line.replace('\0', " ")));
        }
    }
    found
}

/// Kills what a test has made a hook leave running.
pub fn kill_all(words: &str) {
    for line in processes().iter().filter(|line| line.contains(words)) {
        let pid = line.split(' ').next().unwrap_or_default();
        drop(Command::new("kill").args(["-KILL", pid]).status());
    }
}

/// Reaps what was reparented to this process. Never while a `Running` is being waited for.
pub fn reap() {
    while !matches!(
        waitpid(None, Some(WaitPidFlag::WNOHANG)),
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD)
    ) {}
}

/// A test's own directory, state root and bundles.
pub struct Test {
    pub dir: PathBuf,
    count: Cell<u32>,
}

impl Test {
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// A new bundle whose config.json is the default, edited.
    pub fn bundle(&self, edit: impl FnOnce(&mut Value)) -> Bundle {
        let number = self.count.replace(self.count.get() + 1);
        let bundle = Bundle { dir: self.dir.join(format!("b{number}")) };
        make_rootfs(&self.dir.join("busybox"), &bundle.rootfs());
        let mut config = default_config();
        edit(&mut config);
        bundle.write(&config.to_string());
        bundle
    }

    /// The runtime with its state root; the caller adds the rest.
    pub fn command(&self, args: &[&str]) -> Command {
        let runtime = std::env::var("CORTEN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_corten").into());
        let mut command = Command::new(runtime);
        command.arg("--root").arg(self.state()).args(args);
        command.env_remove(INSIDE).env_remove("CORTEN_TEST_CGROUP");
        command
    }

    /// Starts a command with its output going to files: a pipe would be held open by what a container leaves running.
    pub fn spawn(&self, command: &mut Command) -> Running {
        let number = self.count.replace(self.count.get() + 1);
        let stdout = self.dir.join(format!("stdout{number}"));
        let stderr = self.dir.join(format!("stderr{number}"));
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let child = command.spawn().unwrap();
        Running { child, stdout, stderr, line: format!("{command:?}") }
    }

    pub fn call(&self, command: &mut Command) -> Output {
        self.spawn(command.stdin(Stdio::null())).wait()
    }

    /// One call of the runtime.
    pub fn corten(&self, args: &[&str]) -> Output {
        self.call(&mut self.command(args))
    }

    pub fn create(&self, bundle: &Bundle, id: &str) {
        self.corten(&["create", "--bundle", bundle.path(), id]).ok();
    }

    /// A container that runs until it is killed, for tests that look at it or exec into it.
    pub fn start(&self, bundle: &Bundle, id: &str) -> i32 {
        self.create(bundle, id);
        self.corten(&["start", id]).ok();
        self.pid(id)
    }

    pub fn exec(&self, id: &str, script: &str) -> Output {
        self.corten(&["exec", id, "/bin/sh", "-c", script])
    }

    pub fn delete(&self, id: &str) {
        self.corten(&["delete", "--force", id]).ok();
    }

    /// `run` in the foreground with a shell script as the payload.
    pub fn run(&self, script: &str, edit: impl FnOnce(&mut Value)) -> Output {
        let bundle = self.bundle(|config| {
            config["process"]["args"] = json!(["/bin/sh", "-c", script]);
            edit(config);
        });
        self.run_bundle(&bundle)
    }

    pub fn run_bundle(&self, bundle: &Bundle) -> Output {
        self.corten(&["run", "--bundle", bundle.path(), "r"])
    }

    pub fn document(&self, id: &str) -> Value {
        serde_json::from_str(&self.corten(&["state", id]).ok()).unwrap()
    }

    pub fn status(&self, id: &str) -> String {
        self.document(id)["status"].as_str().unwrap_or_default().into()
    }

    pub fn pid(&self, id: &str) -> i32 {
        self.document(id)["pid"].as_i64().unwrap() as i32
    }

    pub fn until(&self, id: &str, status: &str) {
        assert!(poll(CALL, || self.status(id) == status), "{id} did not become {status}");
    }
}

/// A command under way.
pub struct Running {
    pub child: Child,
    pub stdout: PathBuf,
    pub stderr: PathBuf,
    line: String,
}

impl Running {
    pub fn wait(mut self) -> Output {
        let status = wait(&mut self.child, CALL);
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let (stdout, stderr) = (read(&self.stdout), read(&self.stderr));
        let Some(status) = status else { panic!("{}: not done after {CALL:?}\n{stdout}{stderr}", self.line) };
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Output { code, stdout, stderr, line: self.line }
    }
}

/// What a finished command said.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    /// For the message of a failed assertion.
    #[allow(dead_code)]
    line: String,
}

impl Output {
    /// It must have succeeded without a word on stderr; its stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == 0 && self.stderr.is_empty(), "should succeed quietly: {self:#?}");
        self.stdout
    }

    /// It must have failed with one line on stderr that contains `text`.
    #[track_caller]
    pub fn fails(self, text: &str) -> Self {
        let one_line = self.stderr.ends_with('\n') && self.stderr.lines().count() == 1;
        assert!(self.code != 0 && self.code < 256, "should fail: {self:#?}");
        assert!(one_line, "should say one line: {self:#?}");
        assert!(self.stderr.contains(text), "should say {text:?}: {self:#?}");
        self
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(self.code == code, "should exit {code}: {self:#?}");
        self
    }
}

/// A directory with a config.json and a root filesystem made of busybox.
pub struct Bundle {
    pub dir: PathBuf,
}

impl Bundle {
    pub fn path(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub fn write(&self, config: &str) {
        fs::write(self.dir.join("config.json"), config).unwrap();
    }

    pub fn edit(&self, edit: impl FnOnce(&mut Value)) {
        let text = fs::read_to_string(self.dir.join("config.json")).unwrap();
        let mut config = serde_json::from_str(&text).unwrap();
        edit(&mut config);
        self.write(&config.to_string());
    }
}

const APPLETS: &str = "[ awk basename cat chgrp chmod chown chrt cp cut date dd df dirname echo env expr false \
    find grep head hostname id ionice kill ln ls mkdir mkfifo mknod mount mv nc nproc od printf ps pwd readlink renice rm \
    rmdir sed seq setsid sh sleep sort stat stty sync tail tee test timeout touch tr true tty umount uname \
    unshare uptime usleep wc which whoami xargs yes";

fn make_rootfs(busybox: &Path, root: &Path) {
    for dir in ["bin", "dev", "etc", "home/alice", "mnt", "proc", "root", "sys", "tmp", "usr/bin", "var"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::hard_link(busybox, root.join("bin/busybox")).unwrap();
    for applet in APPLETS.split_whitespace() {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nalice:x:1000:\n").unwrap();
}

/// What `spec` writes, without a terminal and with a process that waits.
pub fn default_config() -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sleep", "1000"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "corten",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}, {"type": "mount"},
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// Takes the namespace of this type out of the configuration.
pub fn without_namespace(config: &mut Value, kind: &str) {
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != kind);
}
