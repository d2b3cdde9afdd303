//! cgroups against the running kernel: made, limited, entered, frozen, killed and removed.
//!
//! Every test runs isolated, in a cgroup namespace whose root is a cgroup of its own in the v2 hierarchy. At its
//! end it checks that nothing is left below. The tests require root and a v2 hierarchy.

// A failed set-up is a failed test, also in the helpers.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[allow(dead_code, unused_imports)]
#[path = "integration/harness.rs"]
mod harness;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use corten::testing::cgroups::{self, Cgroup, Directory, Host, Manager, Plan, Request};
use corten::testing::error::{Kind, Notes, kind};
use corten::testing::sys::{bpf, task};
use harness::View;
use oci_spec::runtime::LinuxResources;

/// A cgroup of the calling test. It is removed with all that is in it when the test ends.
struct Sandbox {
    host: Host,
    dir: PathBuf,
}

/// Runs the body of the calling test isolated, with a sandbox.
fn isolated<F: FnOnce(&Sandbox)>(body: F) {
    harness::isolated_as::<F>(View::V2, |test| {
        body(&Sandbox { host: Host::probe().unwrap(), dir: test.dir.clone() });
    });
}

impl Sandbox {
    fn top(&self) -> PathBuf {
        self.host.v2_mount.as_ref().unwrap().join("sandbox")
    }

    fn controllers(&self) -> String {
        let mount = self.host.v2_mount.as_ref().unwrap();
        fs::read_to_string(mount.join("cgroup.controllers")).unwrap()
    }

    fn plan(&self, path: &str, resources: &str) -> Plan {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let path = PathBuf::from(format!("/sandbox/{path}"));
        let request = Request {
            id: "x",
            path: Some(&path),
            resources: Some(&resources),
            annotations: None,
            uid: 0,
            manager: Manager::Cgroupfs,
            rootless: false,
        };
        let mut notes = Notes::default();
        let plan = cgroups::plan(&request, &self.host, &mut notes).unwrap();
        assert_eq!(notes.problems.0, []);
        plan.unwrap()
    }

    fn create(&self, path: &str, resources: &str) -> anyhow::Result<Directory> {
        let mut notes = Notes::default();
        let plan = self.plan(path, resources);
        let cgroup = cgroups::create(&plan, &mut notes)?.unwrap();
        cgroups::attach_filter(&cgroup, &plan, &mut notes)?;
        assert_eq!(notes.warnings, [""; 0]);
        Ok(cgroup.unified.unwrap())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Ok(Some(cgroup)) = Directory::open(&self.top()) {
            let _ = cgroup.thaw(soon());
            let _ = cgroup.kill();
            let _ = cgroup.remove(soon());
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

/// The directories that create makes are on record before they are made, and are removed with the container.
#[test]
fn made_directories_are_recorded_and_removed() {
    isolated(|sandbox| {
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
        // After a crash all this is repeated, so a missing cgroup is no error.
        assert!(Directory::open(&top.join("a/leaf")).unwrap().is_none());
    });
}

/// Parallel containers with one parent make and remove directories in it.
#[test]
fn a_shared_parent_can_be_removed_at_any_moment() {
    isolated(|sandbox| {
        std::thread::scope(|scope| {
            for thread in 0..2 {
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
    });
}

/// An error leaves no cgroup, and names the place in config.json.
#[test]
fn an_error_removes_the_cgroups_that_were_made() {
    isolated(|sandbox| {
        let controllers = sandbox.controllers();
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
                "linux.resources.memory.limit: the requested cgroup controller `memory` is not available in ",
                Kind::Unsupported,
            ),
        );
        absent(
            "misc",
            (
                r#"{"unified":{"misc.max":"x 1"}}"#,
                "linux.resources.unified[\"misc.max\"]: the requested cgroup controller `misc` is not available in ",
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
    });
}

/// config-linux.md#control-groups
#[test]
fn limits_are_set_while_the_cgroup_is_empty() {
    isolated(|sandbox| {
        let controllers = sandbox.controllers();
        if !["cpu", "memory", "pids"].iter().all(|name| controllers.split_whitespace().any(|c| c == *name)) {
            harness::skip("cgroup v2 lacks the cpu, the memory or the pids controller here");
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
        // memory.current also exists without limits.
        let plain = sandbox.create("a/plain", "{}").unwrap();
        assert!(plain.path.join("memory.current").exists());

        // A cgroup with processes of its own cannot share out controllers. Below it a container runs only
        // without limits.
        let busy = sandbox.create("busy", "{}").unwrap();
        let mut child = sleeper(&busy.path);
        let error = sandbox.create("busy/a", r#"{"pids":{"limit":9}}"#).unwrap_err();
        assert!(error.to_string().contains("cannot enable the pids controller"), "{error}");
        let below = sandbox.create("busy/b", "{}").unwrap();
        assert_eq!(fs::read_to_string(below.path.join("cgroup.type")).unwrap(), "domain\n");
        busy.kill().unwrap();
        child.wait().unwrap();
    });
}

/// A value that means "no limit" needs no controller.
#[test]
fn a_value_that_means_no_limit_needs_no_controller() {
    isolated(|sandbox| {
        let resources = r#"{"memory":{"limit":-1},"pids":{"limit":-1},"cpu":{"shares":0,"quota":-1,"burst":0},
                        "blockIO":{"weight":0},"unified":{"cgroup.max.depth":"9"}}"#;
        let cgroup = sandbox.create("a", resources).unwrap();
        assert_eq!(fs::read_to_string(cgroup.path.join("cgroup.max.depth")).unwrap(), "9\n");
    });
}

/// runtime.md#create: an error if the cgroup cannot be used.
#[test]
fn a_cgroup_in_use_or_frozen_is_refused() {
    isolated(|sandbox| {
        let cgroup = sandbox.create("a", "{}").unwrap();
        // An empty cgroup that exists is used, and stays if another step fails.
        let again = sandbox.create("a", "{}").unwrap();
        assert!(again.made.is_empty());
        let refused = |path: &str, word: &str| {
            let error = sandbox.create(path, "{}").unwrap_err();
            assert_eq!(kind(&error), Kind::Config);
            assert!(error.to_string().contains(word), "{error}");
        };
        cgroup.freeze(soon()).unwrap();
        refused("a", "container's cgroup unexpectedly frozen");
        refused("a/below", "container's cgroup unexpectedly frozen");
        assert!(!cgroup.path.join("below").exists());
        cgroup.thaw(soon()).unwrap();
        let mut child = sleeper(&cgroup.path);
        refused("a", "container's cgroup is not empty");
        assert!(cgroup.path.exists());
        cgroup.kill().unwrap();
        child.wait().unwrap();
    });
}

/// cgroups(7), thread mode: below threaded cgroups, and beside them, only threaded cgroups can have processes.
#[test]
fn below_threaded_cgroups_a_cgroup_is_threaded() {
    isolated(|sandbox| {
        let top = sandbox.top();
        fs::create_dir_all(top.join("shared/threads")).unwrap();
        fs::write(top.join("shared/threads/cgroup.type"), "threaded").unwrap();
        for path in ["shared/c1", "shared/between/c1", "shared/threads/c1"] {
            let cgroup = sandbox.create(path, r#"{"unified":{"cgroup.max.depth":"3"}}"#).unwrap();
            assert_eq!(fs::read_to_string(cgroup.path.join("cgroup.type")).unwrap(), "threaded\n", "{path}");
            let mut child = inside(&cgroup.path, "exec sleep 1000").spawn().unwrap();
            while !cgroup.populated().unwrap() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Its own processes are listed, and no other's.
            let mut other = inside(&top.join("shared"), "exec sleep 1000").spawn().unwrap();
            assert_eq!(cgroup.pids().unwrap(), [child.id() as i32], "{path}");
            cgroup.freeze(soon()).unwrap();
            cgroup.thaw(soon()).unwrap();
            cgroup.kill().unwrap();
            child.wait().unwrap();
            assert!(other.try_wait().unwrap().is_none());
            other.kill().unwrap();
            other.wait().unwrap();
            let made = cgroup.made.clone();
            cgroup.remove(soon()).unwrap();
            cgroups::remove_parents(&made);
        }
        assert!(!top.join("shared/between").exists());
        let controllers = sandbox.controllers();
        for (controller, resources, place) in [
            ("hugetlb", r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#, "hugepageLimits[0].limit"),
            ("memory", r#"{"memory":{"limit":16777216}}"#, "memory.limit"),
        ] {
            for path in ["shared/c1", "shared/threads/c1"] {
                if !controllers.split_whitespace().any(|name| name == controller) {
                    continue;
                }
                let error = sandbox.create(path, resources).unwrap_err();
                let text = format!("{error:#}");
                assert!(text.starts_with("linux.cgroupsPath: cgroups below "), "{text}");
                let end = format!("the {controller} controller, which linux.resources.{place} needs");
                assert!(text.ends_with(&end), "{text}");
                assert!(!top.join(path).exists());
            }
        }
    });
}

#[test]
fn processes_are_listed_signalled_frozen_and_killed() {
    isolated(|sandbox| {
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

        cgroup.freeze(soon()).unwrap();
        assert!(cgroup.frozen().unwrap());
        cgroup.thaw(soon()).unwrap();
        assert!(!cgroup.frozen().unwrap());

        // Below a frozen cgroup nothing thaws, so the wait ends at its deadline.
        let sub = Directory::open(&cgroup.path.join("sub")).unwrap().unwrap();
        cgroup.freeze(soon()).unwrap();
        let error = sub.thaw(Instant::now() + Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not thaw in time"), "{error}");

        // A cgroup with processes is not removed. The error comes at the deadline.
        let busy = Directory::open(&cgroup.path).unwrap().unwrap();
        let error = busy.remove(Instant::now() + Duration::from_millis(50)).unwrap_err();
        assert!(format!("{error:#}").contains("busy"), "{error:#}");
        cgroup.thaw(soon()).unwrap();

        assert_eq!(cgroup.signal_all(0).unwrap(), 2);
        assert_eq!(sub.signal_all(libc::SIGTERM).unwrap(), 1);
        children[1].wait().unwrap();
        // Frozen processes are killed too.
        cgroup.freeze(soon()).unwrap();
        cgroup.kill().unwrap();
        assert!(cgroup.wait_empty(soon()).unwrap());
        children[0].wait().unwrap();
        assert_eq!(cgroup.pids().unwrap(), [0; 0]);
    });
}

/// systemd removes an empty scope at any moment.
#[test]
fn a_removed_cgroup_is_neither_populated_nor_frozen() {
    isolated(|sandbox| {
        let cgroup = sandbox.create("a", "{}").unwrap();
        fs::remove_dir(&cgroup.path).unwrap();
        assert!(!cgroup.populated().unwrap());
        assert!(!cgroup.frozen().unwrap());
        cgroups::remove_parents(&cgroup.made);
    });
}

/// A container can leave any tree of cgroups behind.
#[test]
fn a_deep_and_wide_tree_is_removed() {
    isolated(|sandbox| {
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
    });
}

/// config-linux.md#allowed-device-list
#[test]
fn device_rules_have_their_effect() {
    isolated(|sandbox| {
        let nodes = sandbox.dir.join("nodes");
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
        // Each filter replaces the one before, in the same cgroup.
        let rules = r#"{"devices":[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;
        check(&sandbox.create("a", rules).unwrap(), true, false, 1);
        let all = r#"{"devices":[{"allow":true,"access":"rwm"}]}"#;
        check(&sandbox.create("a", all).unwrap(), true, true, 0);
        let but = r#"{"devices":[{"allow":true,"access":"rwm"},
        {"allow":false,"type":"c","major":1,"minor":11,"access":"w"}]}"#;
        let cgroup = sandbox.create("a", but).unwrap();
        check(&cgroup, true, false, 1);
        // Several programs, which another manager can have left, become one.
        let deny_all = cgroups::devices::Filter { rules: vec![], otherwise: false };
        for _ in 0..2 {
            let program = bpf::load_device_program(&deny_all.compile(), b"corten_test\0\0\0\0\0").unwrap();
            bpf::attach_device_program(cgroup.dir(), program.as_fd(), None).unwrap();
        }
        check(&sandbox.create("a", rules).unwrap(), true, false, 1);
    });
}

/// The container's root owns the files that cgroups(7) lists for delegation, and no limit.
#[test]
fn a_delegated_cgroup_belongs_to_the_containers_root() {
    use std::os::unix::fs::MetadataExt;
    isolated(|sandbox| {
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
    });
}

/// Rootless: without the right to make cgroups a container runs without one, unless it asks for a limit.
#[test]
fn a_user_without_rights_runs_without_a_cgroup() {
    isolated(|sandbox| {
        let plan = |resources| Plan { rootless: true, ..sandbox.plan("a", resources) };
        // The file permissions are checked for this thread's own file system user.
        task::setfsuid(65534).unwrap();
        let mut notes = Notes::default();
        let none = cgroups::create(&plan("{}"), &mut notes);
        let refused = cgroups::create(&plan(r#"{"unified":{"cgroup.max.depth":"1"}}"#), &mut notes);
        task::setfsuid(0).unwrap();
        assert!(none.unwrap().is_none());
        assert_eq!(notes.warnings.len(), 1);
        assert!(notes.warnings[0].ends_with("permission denied, ignoring"), "{:?}", notes.warnings);
        let error = format!("{:#}", refused.unwrap_err());
        assert!(error.starts_with("unable to apply cgroup configuration"), "{error}");
        assert!(error.contains(": linux.cgroupsPath /"), "{error}");
        assert!(error.ends_with("permission denied"), "{error}");
    });
}
