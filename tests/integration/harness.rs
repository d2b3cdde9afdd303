//! What every test stands on: a world of its own, bundles, and the runtime under test.
//!
//! `isolated` runs a test's body in a process of its own under private mount, pid, net, ipc, uts and cgroup
//! namespaces: whatever a broken runtime leaks dies with it, and every mount, process and cgroup that the test can
//! see is its own. That makes "nothing is left behind" an exact comparison, made at the end of every test.
//! The cgroup namespace sees a v2 tree, also on a host that has one only beside v1 hierarchies; or, on such a host,
//! its v1 hierarchies, with or without v2 ([`View`]).
//!
//! `CORTEN` names the runtime under test; without it, it is the one that cargo built. `CORTEN_TEST_TREE` is a cgroup that
//! the tests may divide, where the root of the v2 tree is not theirs. `CORTEN_TEST_PATIENCE` multiplies every limit of
//! time, for machines that are emulated.

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

// Also where another test binary takes this file in.
#[path = "harness/bundle.rs"]
mod bundle;
#[path = "harness/manager.rs"]
mod manager;

pub use bundle::{Bundle, default_config, without_namespace};
pub use manager::Manager;

pub const INSIDE: &str = "CORTEN_TEST_DIR";
const SKIPPED: i32 = 77;
/// No call of the runtime may take longer; a loaded machine is allowed for.
const CALL: Duration = Duration::from_secs(30);
const WHOLE_TEST: Duration = Duration::from_secs(240);
const CGROUP: &str = "/sys/fs/cgroup";

/// What a test sees at /sys/fs/cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    V2,
    V1,
    /// v1, and v2 at `unified`.
    Hybrid,
}

impl View {
    /// What `CORTEN_TEST_VIEW` asks for: every test that is not bound to a view can run in each.
    pub fn wanted() -> Self {
        match std::env::var("CORTEN_TEST_VIEW").as_deref() {
            Ok("v1") => Self::V1,
            Ok("hybrid") => Self::Hybrid,
            Ok(other) if other != "v2" => panic!("CORTEN_TEST_VIEW={other}"),
            _ => Self::V2,
        }
    }
}

/// Runs the body of the calling test in its own namespaces. The closure's type tells the test's name.
pub fn isolated<F: FnOnce(&Test)>(body: F) {
    isolated_in(View::wanted(), body);
}

/// Likewise, in a view that the test is bound to.
pub fn isolated_in<F: FnOnce(&Test)>(view: View, body: F) {
    isolated_as::<F>(view, body);
}

/// Likewise, for a helper that wraps the test's closure, of type `Named`, in its own.
pub fn isolated_as<Named>(view: View, body: impl FnOnce(&Test)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return inside(dir.into(), view, body);
    }
    let name = test_of::<Named>();
    match outside(name, view) {
        Ok(()) => {}
        // Not through eprintln, which libtest holds back when a test passes.
        Err(reason) => drop(writeln!(std::io::stderr(), "skipped: {name}: {reason}")),
    }
}

/// The name of the test that a closure's type is in.
fn test_of<F>() -> &'static str {
    let name = std::any::type_name::<F>().split_once("::").map_or("", |(_, name)| name);
    name.trim_end_matches("::{{closure}}")
}

/// Starts this binary again for one test; an error is the reason why the test was skipped.
fn outside(name: &str, view: View) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root".into());
    }
    let own = std::env::var_os("CORTEN_TEST_TREE").map(PathBuf::from);
    let tree = own.or_else(v2_tree).ok_or("no cgroup v2 tree is mounted")?;
    // The pid alone is no name: it is one of a pid namespace.
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos());
    let id = format!("corten-test.{}.{now:x}", name.replace("::", "."));
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
            // The body has told already where it failed: no second message, no backtrace of this process.
            std::panic::resume_unwind(Box::new(()))
        }
    }
}

/// What a test owns outside its namespaces; removed when they are gone.
struct Scratch {
    dir: PathBuf,
    cgroup: PathBuf,
    v1: Vec<PathBuf>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        for dir in self.v1.iter().flat_map(|cgroup| directories(cgroup)) {
            // What is frozen dies only when it goes on.
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

/// Where the unified hierarchy is mounted.
fn v2_tree() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// A v1 hierarchy of the machine.
struct Hierarchy {
    /// Its controllers, as it is mounted: `cpu,cpuacct`; `name=systemd`.
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

/// A directory of a v1 hierarchy that processes can enter.
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
    // The first process of a pid namespace ends when we have reaped the others.
    let mut left = Vec::new();
    poll(Duration::from_secs(2), || {
        left = left_behind(&test, before.clone());
        left.is_empty()
    });
    assert!(left.is_empty(), "left behind: {left:#?}");
}

/// Returns the path of the host's busybox, or `None` if it is not installed.
fn busybox() -> Option<&'static str> {
    ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists())
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

/// Makes a test's cgroups the roots of what this process sees of v1's hierarchies, as many hosts mount them, and of v2
/// beside them.
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

/// Reaps what came to us out of containers, as an engine does at any time: since Linux 7.0 a cgroup stays as long as the
/// first process of a pid namespace waits for such a one. Only what is in a pid namespace below ours: nobody waits for it.
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
    fn new(dir: PathBuf, busybox: &str) -> Self {
        fs::copy(busybox, dir.join("busybox")).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir, count: Cell::new(0) }
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// A new bundle whose config.json is the default, edited.
    pub fn bundle(&self, edit: impl FnOnce(&mut Value)) -> Bundle {
        let number = self.count.replace(self.count.get() + 1);
        let bundle = Bundle { dir: self.dir.join(format!("b{number}")) };
        bundle::make_rootfs(&self.dir.join("busybox"), &bundle.rootfs());
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
        command.env_remove(INSIDE).env_remove("CORTEN_TEST_CGROUP").env_remove("CORTEN_TEST_ID");
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

/// The security modules that this kernel runs.
pub fn modules() -> corten::process::lsm::Host {
    corten::process::lsm::Host::probe(corten::host::procfs().unwrap(), false).unwrap()
}

/// Runs the body on the host itself, where systemd can be met: it takes no part in our namespaces. What the body makes,
/// it must see gone. Skipped where pid 1, as seen from here, is not systemd with cgroup v2.
pub fn with_systemd<F: FnOnce(&Test)>(name: &str, body: F) {
    let init = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    let v2 = Path::new(CGROUP).join("cgroup.controllers").exists();
    let missing = match busybox() {
        _ if !nix::unistd::geteuid().is_root() => "needs root",
        _ if init.trim() != "systemd" || !v2 => "systemd with cgroup v2 is not running here",
        None => "busybox-static is not installed",
        Some(busybox) => {
            let dir = std::env::temp_dir().join(format!("corten-test.systemd.{name}.{}", std::process::id()));
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
