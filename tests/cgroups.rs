//! cgroups against the running kernel: made, limited, entered, frozen, killed and removed.
//!
//! Every test works below a cgroup of its own at the top of the v2 hierarchy, and checks that nothing of it
//! remains. Without root, or without a v2 hierarchy, they are skipped and say so. The hierarchy's own
//! controllers are not switched on or off here: that would change the machine for others.

// A failed set-up is a failed test, also in the helpers.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use corten::cgroups::{self, Cgroup, Directory, Host, Manager, Plan, Request};
use corten::error::{Kind, Problems, kind};
use corten::sys::{bpf, task};
use oci_spec::runtime::LinuxResources;

/// A test's own cgroup, removed with all that is in it when the test ends, also by a failure.
struct Sandbox {
    host: Host,
    name: String,
}

impl Sandbox {
    fn new(test: &str) -> Option<Self> {
        let mut host = Host::probe(false).unwrap();
        // Also beside v1's hierarchies.
        host.v1.clear();
        if task::euid() != 0 || host.v2_mount.is_none() {
            println!("skipped: needs root and a cgroup v2 hierarchy");
            return None;
        }
        Some(Self { host, name: format!("corten-test-{}-{test}", std::process::id()) })
    }

    fn top(&self) -> PathBuf {
        self.host.v2_mount.as_ref().unwrap().join(&self.name)
    }

    fn plan(&self, path: &str, resources: &str) -> Plan {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let path = PathBuf::from(format!("/{}/{path}", self.name));
        let request = Request {
            id: "x",
            path: Some(&path),
            resources: Some(&resources),
            annotations: None,
            uid: 0,
            manager: Manager::Cgroupfs,
            rootless: false,
        };
        let mut problems = Problems::default();
        let plan = cgroups::plan(&request, &self.host, &mut problems, &mut Vec::new()).unwrap();
        assert_eq!(problems.0, []);
        plan.unwrap()
    }

    fn create(&self, path: &str, resources: &str) -> anyhow::Result<Directory> {
        let mut warnings = Vec::new();
        let plan = self.plan(path, resources);
        let cgroup = cgroups::create(&plan, &mut warnings)?.unwrap();
        cgroups::attach_filter(&cgroup, &plan, &mut warnings)?;
        assert_eq!(warnings, [""; 0]);
        Ok(cgroup.unified.unwrap())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Ok(Some(cgroup)) = Directory::open(&self.top()) {
            let _ = cgroup.set_frozen(false, soon());
            let _ = cgroup.kill();
            let _ = cgroup.remove(soon());
        }
        if !std::thread::panicking() {
            assert!(!self.top().exists(), "{:?} remains", self.top());
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Runs a shell command inside a cgroup.
fn inside(cgroup: &Path, script: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("echo $$ > {}/cgroup.procs && {script}", cgroup.display());
    command.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// A process that sleeps inside a cgroup, once it is there.
fn sleeper(cgroup: &Path) -> Child {
    let child = inside(cgroup, "exec sleep 1000").spawn().unwrap();
    let deadline = soon();
    while !fs::read_to_string(cgroup.join("cgroup.procs")).unwrap().contains(&child.id().to_string()) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

/// DESIGN: what create made is on record before it is made, and goes with the container.
#[test]
fn made_directories_are_told_and_removed() {
    let Some(sandbox) = Sandbox::new("made") else { return };
    let top = sandbox.top();
    let plan = sandbox.plan("a/leaf", "{}");
    let expected = [top.clone(), top.join("a"), top.join("a/leaf")];
    assert_eq!(plan.missing(), expected);
    let first = sandbox.create("a/leaf", "{}").unwrap();
    assert_eq!(first.made, expected);
    let second = sandbox.create("a/other", "{}").unwrap();
    assert_eq!(second.made, [top.join("a/other")]);

    // A parent that another container uses stays.
    let parents = first.made.clone();
    first.remove(soon()).unwrap();
    cgroups::remove_parents(&parents);
    assert!(!top.join("a/leaf").exists() && top.join("a").exists());
    second.remove(soon()).unwrap();
    cgroups::remove_parents(&parents);
    assert!(!top.exists());
    // All this is a repeat after a crash, so what is gone is no error.
    assert!(Directory::open(&top.join("a/leaf")).unwrap().is_none());
}

/// Directories that come and go while others are made in them: parallel containers with one parent.
#[test]
fn a_shared_parent_may_vanish_at_any_moment() {
    let Some(sandbox) = Sandbox::new("race") else { return };
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for round in 0..200 {
                    let cgroup = sandbox.create(&format!("parent/{thread}-{round}"), "{}").unwrap();
                    let parents = [sandbox.top(), sandbox.top().join("parent")];
                    cgroup.remove(soon()).unwrap();
                    cgroups::remove_parents(&parents);
                }
            });
        }
    });
}

/// A failure half way leaves nothing, and names the place in config.json.
#[test]
fn errors_undo_what_was_made() {
    let Some(sandbox) = Sandbox::new("undo") else { return };
    let controllers = sandbox.host.v2_mount.as_ref().unwrap().join("cgroup.controllers");
    let controllers = fs::read_to_string(controllers).unwrap();
    let mut rows = vec![(
        r#"{"unified":{"cgroup.max.depth":"7","cgroup.max.descendants":"many"}}"#,
        "linux.resources.unified[\"cgroup.max.descendants\"]: write(\"cgroup.max.descendants\", \"many\"): ",
        Kind::Os,
    )];
    let mut absent = |name: &str, row| {
        if !controllers.split_whitespace().any(|c| c == name) {
            rows.push(row)
        }
    };
    absent(
        "memory",
        (
            r#"{"memory":{"limit":1048576}}"#,
            "linux.resources.memory.limit: the memory controller is not available in ",
            Kind::Unsupported,
        ),
    );
    absent(
        "misc",
        (
            r#"{"unified":{"misc.max":"x 1"}}"#,
            "linux.resources.unified[\"misc.max\"]: the misc controller is not available in ",
            Kind::Unsupported,
        ),
    );
    rows.push((
        r#"{"unified":{"cgroup.nosuch":"1"}}"#,
        "linux.resources.unified[\"cgroup.nosuch\"]: ",
        Kind::Unsupported,
    ));
    for (resources, start, expected) in rows {
        let error = sandbox.create("a/b", resources).unwrap_err();
        assert!(format!("{error:#}").starts_with(start), "{error:#}");
        assert_eq!(kind(&error), expected, "{error:#}");
        assert!(!sandbox.top().exists());
    }
}

/// config-linux.md#control-groups, where the host shares out controllers at the top already, as systemd does.
#[test]
fn limits_are_set_before_anyone_is_inside() {
    let Some(sandbox) = Sandbox::new("limits") else { return };
    let shared = sandbox.host.v2_mount.as_ref().unwrap().join("cgroup.subtree_control");
    let shared = fs::read_to_string(shared).unwrap();
    if !["cpu", "memory", "pids"].iter().all(|c| shared.split_whitespace().any(|s| s == *c)) {
        println!("skipped: the host shares out only {shared:?}");
        return;
    }
    let resources = r#"{"memory":{"limit":16777216,"swap":16777216,"reservation":4096},
        "cpu":{"shares":2048,"quota":20000,"burst":5000,"idle":0},"pids":{"limit":9}}"#;
    let cgroup = sandbox.create("a/b", resources).unwrap();
    for (file, expected) in [
        ("memory.max", "16777216"),
        ("memory.low", "4096"),
        ("cpu.weight", "174"),
        ("cpu.max", "20000 100000"),
        ("cpu.max.burst", "5000"),
        ("pids.max", "9"),
    ] {
        assert_eq!(fs::read_to_string(cgroup.path.join(file)).unwrap().trim(), expected, "{file}");
    }
    // Without limits there are figures all the same.
    let plain = sandbox.create("a/plain", "{}").unwrap();
    assert!(plain.path.join("memory.current").exists());

    // A cgroup with processes of its own cannot share out; below it a container runs without limits only.
    let busy = sandbox.create("busy", "{}").unwrap();
    let mut child = sleeper(&busy.path);
    let error = sandbox.create("busy/a", r#"{"pids":{"limit":9}}"#).unwrap_err();
    assert!(error.to_string().contains("cannot enable the pids controller"), "{error}");
    let below = sandbox.create("busy/b", "{}").unwrap();
    assert_eq!(fs::read_to_string(below.path.join("cgroup.type")).unwrap(), "domain\n");
    busy.kill().unwrap();
    child.wait().unwrap();
}

/// What means no limit needs no controller.
#[test]
fn no_limit_needs_no_controller() {
    let Some(sandbox) = Sandbox::new("nolimit") else { return };
    let resources = r#"{"memory":{"limit":-1},"pids":{"limit":-1},"cpu":{"shares":0,"quota":-1,"burst":0},
                        "blockIO":{"weight":0},"unified":{"cgroup.max.depth":"9"}}"#;
    let cgroup = sandbox.create("a", resources).unwrap();
    assert_eq!(fs::read_to_string(cgroup.path.join("cgroup.max.depth")).unwrap(), "9\n");
}

/// runtime.md#create: an error if the cgroup is not fit for use.
#[test]
fn a_cgroup_in_use_or_frozen_is_refused() {
    let Some(sandbox) = Sandbox::new("unfit") else { return };
    let cgroup = sandbox.create("a", "{}").unwrap();
    // An empty one that exists is taken, and stays when something else fails.
    let again = sandbox.create("a", "{}").unwrap();
    assert!(again.made.is_empty());
    let refused = |path: &str, word: &str| {
        let error = sandbox.create(path, "{}").unwrap_err();
        assert_eq!(kind(&error), Kind::Config);
        assert!(error.to_string().contains(word), "{error}");
    };
    cgroup.set_frozen(true, soon()).unwrap();
    refused("a", "is frozen");
    refused("a/below", "is frozen");
    assert!(!cgroup.path.join("below").exists());
    cgroup.set_frozen(false, soon()).unwrap();
    let mut child = sleeper(&cgroup.path);
    refused("a", "has processes in it");
    assert!(cgroup.path.exists());
    cgroup.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn processes_are_listed_signalled_frozen_and_killed() {
    let Some(sandbox) = Sandbox::new("life") else { return };
    let cgroup = sandbox.create("a", "{}").unwrap();
    assert!(!cgroup.populated().unwrap());
    assert!(cgroup.wait_empty(Instant::now()).unwrap());
    fs::create_dir(cgroup.path.join("sub")).unwrap();
    let mut children = [sleeper(&cgroup.path), sleeper(&cgroup.path.join("sub"))];
    let ids: Vec<i32> = children.iter().map(|c| c.id() as i32).collect();
    let mut pids = cgroup.pids().unwrap();
    pids.sort_unstable();
    assert_eq!(pids, ids);
    assert!(cgroup.populated().unwrap());
    assert!(!cgroup.wait_empty(Instant::now() + Duration::from_millis(20)).unwrap());

    cgroup.set_frozen(true, soon()).unwrap();
    assert!(cgroup.frozen().unwrap());
    cgroup.set_frozen(false, soon()).unwrap();
    assert!(!cgroup.frozen().unwrap());

    // Below a frozen cgroup nothing thaws: the wait ends at its deadline.
    let sub = Directory::open(&cgroup.path.join("sub")).unwrap().unwrap();
    cgroup.set_frozen(true, soon()).unwrap();
    let error = sub.set_frozen(false, Instant::now() + Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains("did not thaw in time"), "{error}");

    // A cgroup with processes is not removed, and says so in time.
    let busy = Directory::open(&cgroup.path).unwrap().unwrap();
    let error = busy.remove(Instant::now() + Duration::from_millis(50)).unwrap_err();
    assert!(format!("{error:#}").contains("busy"), "{error:#}");
    cgroup.set_frozen(false, soon()).unwrap();

    assert_eq!(cgroup.signal_all(0).unwrap(), 2);
    assert_eq!(sub.signal_all(libc::SIGTERM).unwrap(), 1);
    children[1].wait().unwrap();
    // Frozen processes die by it too.
    cgroup.set_frozen(true, soon()).unwrap();
    cgroup.kill().unwrap();
    assert!(cgroup.wait_empty(soon()).unwrap());
    children[0].wait().unwrap();
    assert_eq!(cgroup.pids().unwrap(), [0; 0]);
}

/// systemd takes away an empty scope at any moment.
#[test]
fn one_that_has_gone_is_neither_populated_nor_frozen() {
    let Some(sandbox) = Sandbox::new("gone") else { return };
    let cgroup = sandbox.create("a", "{}").unwrap();
    fs::remove_dir(&cgroup.path).unwrap();
    assert!(!cgroup.populated().unwrap());
    assert!(!cgroup.frozen().unwrap());
    cgroups::remove_parents(&cgroup.made);
}

/// A container may leave any tree of cgroups behind.
#[test]
fn a_deep_and_wide_tree_is_removed() {
    let Some(sandbox) = Sandbox::new("deep") else { return };
    let cgroup = sandbox.create("a", "{}").unwrap();
    let mut path = cgroup.path.clone();
    for level in 0..300 {
        path.push("d");
        fs::create_dir(&path).unwrap();
        if level % 100 == 0 {
            fs::create_dir(path.join("odd \u{fc} .name")).unwrap();
        }
    }
    let mut child = sleeper(&path);
    assert_eq!(cgroup.pids().unwrap(), [child.id() as i32]);
    cgroup.kill().unwrap();
    let made = cgroup.made.clone();
    cgroup.remove(soon()).unwrap();
    cgroups::remove_parents(&made);
    child.wait().unwrap();
    assert!(!sandbox.top().exists());
}

/// config-linux.md#allowed-device-list, by effect.
#[test]
fn device_rules_hold() {
    let Some(sandbox) = Sandbox::new("devices") else { return };
    let nodes = std::env::temp_dir().join(&sandbox.name);
    fs::create_dir(&nodes).unwrap();
    let mknod = |name: &str, number: &str| {
        let node = nodes.join(name);
        let arguments = [node.to_str().unwrap(), "c"].into_iter().chain(number.split(':'));
        assert!(Command::new("mknod").args(arguments).status().unwrap().success());
        node.display().to_string()
    };
    let (zero, message) = (mknod("zero", "1:5"), mknod("kmsg", "1:11"));
    let allowed = |cgroup: &Directory, script: &str| {
        inside(&cgroup.path, script).stderr(Stdio::null()).status().unwrap().success()
    };
    let check = |cgroup: &Directory, read_message: bool, write_message: bool, programs: usize| {
        assert!(allowed(cgroup, &format!("head -c1 {zero}")));
        assert!(allowed(
            cgroup,
            &format!("mknod {0}/new c 1:11 || mknod {0}/new c 1 11 && rm {0}/new", nodes.display())
        ));
        assert_eq!(allowed(cgroup, &format!(": < {message}")), read_message);
        assert_eq!(allowed(cgroup, &format!(": > {message}")), write_message);
        assert_eq!(bpf::device_programs(cgroup.dir()).unwrap().len(), programs);
    };
    check(&sandbox.create("a", "{}").unwrap(), false, false, 1);
    // Each next one replaces the filter of the one before, in the same cgroup.
    let rules = r#"{"devices":[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;
    check(&sandbox.create("a", rules).unwrap(), true, false, 1);
    let all = r#"{"devices":[{"allow":true,"access":"rwm"}]}"#;
    check(&sandbox.create("a", all).unwrap(), true, true, 0);
    let but = r#"{"devices":[{"allow":true,"access":"rwm"},
        {"allow":false,"type":"c","major":1,"minor":11,"access":"w"}]}"#;
    let cgroup = sandbox.create("a", but).unwrap();
    check(&cgroup, true, false, 1);
    // Several programs, as another manager may leave them, become one.
    let deny_all = cgroups::devices::Filter { rules: vec![], otherwise: false };
    for _ in 0..2 {
        let program = bpf::load_device_program(&deny_all.compile(), b"corten_test\0\0\0\0\0").unwrap();
        bpf::attach_device_program(cgroup.dir(), program.as_fd(), None).unwrap();
    }
    check(&sandbox.create("a", rules).unwrap(), true, false, 1);
    fs::remove_dir_all(&nodes).unwrap();
}

/// The container's root owns what cgroups(7) lists for delegation, and no limit.
#[test]
fn a_delegated_cgroup_belongs_to_the_containers_root() {
    use std::os::unix::fs::MetadataExt;
    let Some(sandbox) = Sandbox::new("delegate") else { return };
    let cgroup = sandbox.create("a", "{}").unwrap();
    let path = cgroup.path.clone();
    let cgroup = Cgroup { unified: Some(cgroup), v1: Vec::new() };
    cgroups::delegate(&cgroup, 100_000, 100_001).unwrap();
    for (file, expected) in [
        ("", (100_000, 100_001)),
        ("cgroup.procs", (100_000, 100_001)),
        ("cgroup.threads", (100_000, 100_001)),
        ("cgroup.subtree_control", (100_000, 100_001)),
        ("cgroup.max.depth", (0, 0)),
        ("cgroup.freeze", (0, 0)),
    ] {
        let owner = fs::metadata(path.join(file)).unwrap();
        assert_eq!((owner.uid(), owner.gid()), expected, "{file:?}");
    }
}

/// Rootless: without a right to make cgroups a container runs without, unless it asks for a limit.
#[test]
fn a_user_without_rights_goes_without() {
    let Some(sandbox) = Sandbox::new("rootless") else { return };
    let plan = |resources| Plan { rootless: true, ..sandbox.plan("a", resources) };
    // Permissions of files are checked for this thread's own file system user.
    task::setfsuid(65534).unwrap();
    let mut warnings = Vec::new();
    let none = cgroups::create(&plan("{}"), &mut warnings);
    let refused = cgroups::create(&plan(r#"{"unified":{"cgroup.max.depth":"1"}}"#), &mut warnings);
    task::setfsuid(0).unwrap();
    assert!(none.unwrap().is_none());
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].ends_with("permission denied, ignoring"), "{warnings:?}");
    let error = format!("{:#}", refused.unwrap_err());
    assert!(error.starts_with("linux.cgroupsPath /"), "{error}");
    assert!(error.ends_with("permission denied"), "{error}");
}
