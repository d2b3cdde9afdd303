//! The base of all tests: isolation, bundles, and the runtime under test.
//!
//! `isolated` runs the body of a test in a process under private mount, pid, net, ipc, uts and cgroup
//! namespaces. Whatever a broken runtime leaves dies with them, and every mount, process and cgroup that the
//! test sees is its own. Therefore "nothing is left behind" is an exact comparison, which is made at the end
//! of every test. The cgroup namespace has a v2 tree, also on a host that has v2 only beside v1. On such a
//! host a test can also have the v1 hierarchies, with or without v2 ([`View`]).
//!
//! `CORTEN` names the runtime under test; the default is the one that cargo built. `CORTEN_TEST_TREE` is a
//! cgroup that the tests can divide, for machines on which they do not own the root of the v2 tree.
//! `CORTEN_TEST_PATIENCE` multiplies every time limit, for machines that are emulated.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::{Value, json};

// The path also works if another test binary includes this file.
#[path = "harness/bundle.rs"]
mod bundle;
#[path = "harness/criu.rs"]
mod criu;
#[path = "harness/manager.rs"]
mod manager;

pub use bundle::{Bundle, default_config, without_namespace};
pub use criu::Criu;
pub use manager::Manager;

pub const INSIDE: &str = "CORTEN_TEST_DIR";
const SKIPPED: i32 = 77;
/// The time limit for a call of the runtime on a loaded machine.
const CALL: Duration = Duration::from_secs(30);
const WHOLE_TEST: Duration = Duration::from_secs(240);
const CGROUP: &str = "/sys/fs/cgroup";

/// The hierarchies that a test sees at /sys/fs/cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    V2,
    V1,
    /// v1, and v2 at `unified`.
    Hybrid,
}

impl View {
    /// Returns the view that `CORTEN_TEST_VIEW` asks for. A test that does not require a view runs in each.
    pub fn wanted() -> Self {
        match std::env::var("CORTEN_TEST_VIEW").as_deref() {
            Ok("v1") => Self::V1,
            Ok("hybrid") => Self::Hybrid,
            Ok(other) if other != "v2" => panic!("CORTEN_TEST_VIEW={other}"),
            _ => Self::V2,
        }
    }
}

/// Runs the body of the calling test in private namespaces. The name of the test is taken from the type of
/// the closure.
pub fn isolated<F: FnOnce(&Test)>(body: F) {
    isolated_in(View::wanted(), body);
}

/// Runs the body isolated, in a view that the test requires.
pub fn isolated_in<F: FnOnce(&Test)>(view: View, body: F) {
    isolated_as::<F>(view, body);
}

/// Runs the body isolated, for a helper that wraps the test's closure, of type `Named`, in its own.
pub fn isolated_as<Named>(view: View, body: impl FnOnce(&Test)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return inside(dir.into(), view, body);
    }
    let name = test_of::<Named>();
    match outside(name, view) {
        Ok(()) => {}
        // The line bypasses eprintln, whose output libtest discards for a test that passes.
        Err(reason) => drop(writeln!(std::io::stderr(), "skipped: {name}: {reason}")),
    }
}

/// Returns the name of the test that contains a closure of this type.
fn test_of<F>() -> &'static str {
    let name = std::any::type_name::<F>().split_once("::").map_or("", |(_, name)| name);
    name.trim_end_matches("::{{closure}}")
}

/// Starts this binary again for one test. An error is the reason why the test was skipped.
fn outside(name: &str, view: View) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root".into());
    }
    let own = std::env::var_os("CORTEN_TEST_TREE").map(PathBuf::from);
    let tree = own.or_else(v2_tree).ok_or("no cgroup v2 tree is mounted")?;
    // The time makes the name unique. A pid does not, because it belongs to one pid namespace. The test's name is cut, because
    // the address of a socket in the directory has at most 107 bytes.
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos());
    let id = format!("corten-test.{:.40}.{now:x}", name.replace("::", "."));
    let v1 = if view == View::V2 { Vec::new() } else { v1_hierarchies() };
    if view != View::V2 && !v1.iter().any(|hierarchy| hierarchy.name == "memory") {
        return Err("cgroup v1 is not mounted".into());
    }
    let v1 = v1.iter().map(|hierarchy| hierarchy.own.join(&id)).collect();
    let scratch = Scratch { dir: std::env::temp_dir().join(&id), cgroup: tree.join(&id), v1 };
    fs::create_dir_all(&scratch.dir).unwrap();
    fs::create_dir(&scratch.cgroup).unwrap();
    scratch.v1.iter().for_each(|dir| make_v1(dir));
    let log = scratch.dir.join("log");
    let file = File::create(&log).unwrap();
    let mut child = Command::new("unshare")
        .args(["--fork", "--kill-child", "--mount", "--pid", "--net", "--ipc", "--uts", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, &scratch.dir)
        .env("RUST_BACKTRACE", "0")
        .env("CORTEN_TEST_CGROUP", &scratch.cgroup)
        .env("CORTEN_TEST_ID", &id)
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
            // The body has already reported where it failed. A second message and a backtrace of this process
            // would be noise.
            std::panic::resume_unwind(Box::new(()))
        }
    }
}

/// The files and cgroups of a test outside of its namespaces. They are removed after the namespaces.
struct Scratch {
    dir: PathBuf,
    cgroup: PathBuf,
    v1: Vec<PathBuf>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        for dir in self.v1.iter().flat_map(|cgroup| directories(cgroup)) {
            // A frozen process dies only after it is thawed.
            let _ = fs::write(dir.join("freezer.state"), "THAWED");
        }
        let gone = |cgroup: &Path| {
            directories(cgroup).iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
            fs::remove_dir(cgroup).is_ok()
        };
        for cgroup in std::iter::once(&self.cgroup).chain(&self.v1) {
            poll(Duration::from_secs(5), || gone(cgroup));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Returns the mount point of the unified hierarchy.
fn v2_tree() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// A v1 hierarchy of the machine.
struct Hierarchy {
    /// The controllers that it is mounted with: `cpu,cpuacct`; `name=systemd`.
    name: String,
    /// The directory of our own cgroup.
    own: PathBuf,
}

fn v1_hierarchies() -> Vec<Hierarchy> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let hierarchy = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let name = fields.next().filter(|name| !name.is_empty())?;
        let own = fields.next()?.trim_start_matches('/');
        let mounted = mounts.lines().find(|line| {
            let (_, options) = line.rsplit_once(' ').unwrap_or_default();
            line.contains(" - cgroup ") && options.ends_with(&format!(",{name}"))
        });
        let point = PathBuf::from(mounted?.split(' ').nth(4)?);
        Some(Hierarchy { name: name.into(), own: point.join(own) })
    };
    cgroups.lines().filter_map(hierarchy).collect()
}

/// Makes a directory of a v1 hierarchy that processes can enter.
fn make_v1(dir: &Path) {
    fs::create_dir(dir).unwrap();
    for file in ["cpuset.mems", "cpuset.cpus"] {
        if let Ok(above) = fs::read_to_string(dir.parent().unwrap().join(file)) {
            fs::write(dir.join(file), above).unwrap();
        }
    }
}

fn inside(dir: PathBuf, view: View, body: impl FnOnce(&Test)) {
    let cgroup = PathBuf::from(std::env::var("CORTEN_TEST_CGROUP").unwrap());
    match view {
        View::V2 => enter_cgroup(&cgroup),
        View::V1 | View::Hybrid => enter_v1(&cgroup, view),
    }
    let Some(busybox) = busybox() else { skip("busybox-static is not installed") };
    let test = Test::new(dir, busybox);
    let before = traces(&test);
    body(&test);
    let left = remains(&test, &before);
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// Returns the path of the host's busybox, or `None` if it is not installed.
fn busybox() -> Option<&'static str> {
    ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists())
}

/// Makes `cgroup` the root of the v2 tree that this process sees, and keeps that root free of processes.
fn enter_cgroup(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), "0").unwrap();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).unwrap();
    // A bind mount is used, because the kernel refuses (EBUSY) a second mount of cgroup2 at the same place.
    mount(Some(cgroup), CGROUP, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let harness = Path::new(CGROUP).join("harness");
    fs::create_dir(&harness).unwrap();
    fs::write(harness.join("cgroup.procs"), "0").unwrap();
}

/// Makes the test's cgroups the roots of the v1 hierarchies that this process sees, in the layout of most
/// hosts, and also of v2.
fn enter_v1(v2: &Path, view: View) {
    let id = std::env::var("CORTEN_TEST_ID").unwrap();
    let hierarchies = v1_hierarchies();
    let enter = |dir: &Path| fs::write(dir.join("cgroup.procs"), "0").unwrap();
    enter(v2);
    hierarchies.iter().for_each(|hierarchy| enter(&hierarchy.own.join(&id)));
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).unwrap();
    mount(Some("tmpfs"), CGROUP, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    for hierarchy in &hierarchies {
        let at = Path::new(CGROUP).join(hierarchy.name.trim_start_matches("name="));
        fs::create_dir(&at).unwrap();
        let options = Some(hierarchy.name.as_str());
        mount(Some("cgroup"), &at, Some("cgroup"), MsFlags::empty(), options).unwrap();
        make_v1(&at.join("harness"));
        enter(&at.join("harness"));
    }
    if view == View::Hybrid {
        let at = Path::new(CGROUP).join("unified");
        fs::create_dir(&at).unwrap();
        mount(Some("cgroup2"), &at, Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
        fs::create_dir(at.join("harness")).unwrap();
        enter(&at.join("harness"));
    }
}

/// Ends the test as skipped. It must be called before anything is started.
pub fn skip(reason: &str) -> ! {
    println!("\nskip: {reason}");
    std::process::exit(SKIPPED)
}

/// Returns the factor for time limits.
pub fn patience() -> u32 {
    std::env::var("CORTEN_TEST_PATIENCE")
        .map_or(1, |times| times.parse().expect("CORTEN_TEST_PATIENCE: a number"))
}

/// Polls until `done` returns true or the time is over. Returns whether it was done.
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

/// Waits for a child. At the deadline it kills the child and returns `None`.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let mut status = None;
    let begun = Instant::now();
    poll(limit, || {
        status = child.try_wait().unwrap();
        if status.is_none() && begun.elapsed() > Duration::from_secs(1) {
            reap_containers();
        }
        status.is_some()
    });
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

/// Reaps processes that were reparented to us out of containers, as an engine does at any time. Since Linux
/// 7.0 a cgroup stays as long as the first process of a pid namespace waits for such a process. Only zombies
/// of a pid namespace below ours are reaped, because nobody waits for them.
fn reap_containers() {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let below = field("NSpid:").split_whitespace().count() > 1;
        let ours = field("PPid:").trim() == std::process::id().to_string();
        if below && ours && field("State:").trim().starts_with('Z') {
            let pid = entry.file_name().to_string_lossy().parse().unwrap();
            let _ = waitpid(nix::unistd::Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// Returns all directories below `dir`, parents first.
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

/// Returns everything that a container can leave behind, one line each.
pub fn traces(test: &Test) -> Vec<String> {
    reap();
    let list = |dir: PathBuf| -> Vec<PathBuf> {
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    // The line is compared without the ids of the mount and its parent.
    let mounts =
        mounts.lines().map(|line| format!("mount {}", line.splitn(3, ' ').nth(2).unwrap_or_default()));
    let cgroups = directories(Path::new(CGROUP)).into_iter().filter(|dir| !dir.ends_with("harness"));
    let bundles = (0..test.count.get()).flat_map(|number| list(test.dir.join(format!("b{number}"))));
    let litter = bundles.filter(|path| is_litter(path));
    // crun keeps two directories of its own below the root. crun can be the runtime under test, as a check of
    // these tests.
    let states =
        list(test.state()).into_iter().filter(|p| !p.ends_with(".empty-directory") && !p.ends_with(".cache"));
    mounts
        .chain(cgroups.map(|dir| format!("cgroup {}", dir.display())))
        .chain(processes().iter().map(|line| format!("process {line}")))
        .chain(states.map(|path| format!("state {}", path.display())))
        .chain(litter.map(|path| format!("file {}", path.display())))
        .collect()
}

/// Returns whether the kernel is this version or a newer one.
pub fn linux_since(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|number| number.parse().ok()).collect();
    (numbers[0], numbers[1]) >= (major, minor)
}

/// Returns the traces that have been added since `before`.
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

/// Returns the traces that have been added since `before` and do not disappear by themselves. A killed process ends only
/// when it next runs: a hook whose runtime process was killed has taken eleven seconds on a loaded machine. The first
/// process of a pid namespace ends after we have reaped the others.
pub fn remains(test: &Test, before: &[String]) -> Vec<String> {
    let mut left = Vec::new();
    poll(Duration::from_secs(30), || {
        left = left_behind(test, before.to_vec());
        left.is_empty()
    });
    left
}

/// Returns whether a file in a bundle was made neither by the harness nor by the test (tests write `my-...`).
fn is_litter(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !matches!(name.as_ref(), "config.json" | "rootfs") && !name.starts_with("my-")
}

/// Returns the command lines of all processes except this one, which is the init of its pid namespace.
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

/// Kills processes that a hook of the test has left running.
pub fn kill_all(words: &str) {
    for line in processes().iter().filter(|line| line.contains(words)) {
        let pid = line.split(' ').next().unwrap_or_default();
        drop(Command::new("kill").args(["-KILL", pid]).status());
    }
}

/// Reaps processes that were reparented to this process. It must not be called while a `Running` is being
/// waited for.
pub fn reap() {
    while !matches!(
        waitpid(None, Some(WaitPidFlag::WNOHANG)),
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD)
    ) {}
}

/// The directory, state root and bundles of a test.
pub struct Test {
    pub dir: PathBuf,
    count: Cell<u32>,
}

impl Test {
    fn new(dir: PathBuf, busybox: &str) -> Self {
        fs::copy(busybox, dir.join("busybox")).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir, count: Cell::new(0) }
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Makes a bundle with the default configuration, edited.
    pub fn bundle(&self, edit: impl FnOnce(&mut Value)) -> Bundle {
        let number = self.count.replace(self.count.get() + 1);
        let bundle = Bundle { dir: self.dir.join(format!("b{number}")) };
        bundle::make_rootfs(&self.dir.join("busybox"), &bundle.rootfs());
        let mut config = default_config();
        edit(&mut config);
        bundle.write(&config.to_string());
        bundle
    }

    /// Returns a command of the runtime with its state root. The caller adds the rest.
    pub fn command(&self, args: &[&str]) -> Command {
        let runtime = std::env::var("CORTEN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_corten").into());
        let mut command = Command::new(runtime);
        command.arg("--root").arg(self.state()).args(args);
        command.env_remove(INSIDE).env_remove("CORTEN_TEST_CGROUP").env_remove("CORTEN_TEST_ID");
        command
    }

    /// Starts a command with its output in files, because a process that a container leaves running would
    /// hold a pipe open.
    pub fn spawn(&self, command: &mut Command) -> Running {
        let number = self.count.replace(self.count.get() + 1);
        let stdout = self.dir.join(format!("stdout{number}"));
        let stderr = self.dir.join(format!("stderr{number}"));
        // CRIU compares the sizes of files that are not opened for appending.
        let file = |path| File::options().create(true).append(true).open(path).unwrap();
        command.stdout(file(&stdout)).stderr(file(&stderr));
        let child = command.spawn().unwrap();
        Running { child, stdout, stderr, line: format!("{command:?}") }
    }

    pub fn call(&self, command: &mut Command) -> Output {
        self.spawn(command.stdin(Stdio::null())).wait()
    }

    /// Calls the runtime.
    pub fn corten(&self, args: &[&str]) -> Output {
        self.call(&mut self.command(args))
    }

    pub fn create(&self, bundle: &Bundle, id: &str) {
        self.corten(&["create", "--bundle", bundle.path(), id]).ok();
    }

    /// Starts a container that runs until it is killed, for tests that look at it or exec into it. Returns
    /// its pid.
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

    /// Runs a shell script as the payload of `run` in the foreground.
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

/// A running command.
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

/// The output and status of a finished command.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    /// The command line, for the message of a failed assertion.
    #[allow(dead_code)]
    line: String,
}

impl Output {
    /// Returns the stdout of a command that must have succeeded with an empty stderr.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == 0 && self.stderr.is_empty(), "should succeed quietly: {self:#?}");
        self.stdout
    }

    /// Fails unless the command has failed with one line on stderr that contains `text`.
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

/// Returns the security modules of this kernel.
pub fn modules() -> corten::testing::process::lsm::Host {
    corten::testing::process::lsm::Host::probe(corten::testing::host::procfs().unwrap(), false).unwrap()
}

/// Runs the body on the host itself, because systemd does not see our namespaces. The test must check that
/// all is removed. It is skipped unless pid 1 is systemd with cgroup v2.
pub fn with_systemd<F: FnOnce(&Test)>(name: &str, body: F) {
    let init = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    let v2 = Path::new(CGROUP).join("cgroup.controllers").exists();
    let missing = match busybox() {
        _ if !nix::unistd::geteuid().is_root() => "needs root",
        _ if init.trim() != "systemd" || !v2 => "systemd with cgroup v2 is not running here",
        None => "busybox-static is not installed",
        Some(busybox) => {
            let dir =
                std::env::temp_dir().join(format!("corten-test.systemd.{name:.40}.{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let test = Test::new(dir, busybox);
            body(&test);
            let states = fs::read_dir(test.state()).map_or(0, Iterator::count);
            assert_eq!(states, 0, "containers are left behind");
            fs::remove_dir_all(&test.dir).unwrap();
            return;
        }
    };
    drop(writeln!(std::io::stderr(), "skipped: {}: {missing}", test_of::<F>()));
}
