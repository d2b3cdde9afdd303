//! Attacks: no bundle, image or process in a container reaches the host, or runs less confined than its
//! configuration says. The root file system, the volumes and every process in the container are hostile.
//! config.json and the caller are trusted (SECURITY.md).
//!
//! One test covers a class of attacks, and its comment names the CVEs. Each test has a check of the check:
//! the same attack succeeds against a naive script, or the observation is shown to change. Some payloads are
//! this binary itself, bound into the container ([`payload`]). Races run for `CORTEN_ATTACK_ROUNDS` rounds,
//! 50 by default (`make attack`: 2,000).
//!
//! These attacks are already tested by tests/integration:
//! * links at mount targets and the device nodes of an image:
//!   `rootfs::mount_targets_are_made_inside_the_root`, `devices::an_existing_file_must_match_the_device`,
//!   `devices::no_file_is_made_in_a_bind_mounted_dev`, `hiding::masked_paths_of_every_kind_show_nothing`;
//! * a false multiplexer, CVE-2025-52565: `terminal::wrong_terminals_are_reported`;
//! * leaving the root, and new procfs in a user namespace: `no_pivot::with_no_pivot_the_host_cannot_be_reached`,
//!   `user_namespaces::the_hosts_mount_flags_are_locked`;
//! * groups, capabilities and keys of the caller: `process::the_callers_groups_stay_outside`,
//!   `process::the_callers_capabilities_stay_outside`, `process::the_session_keyring_is_new`;
//! * rights of exec: `exec::exec_has_the_containers_rights`,
//!   `exec_options::a_process_object_inherits_the_containers_restrictions`, CVE-2022-29162:
//!   `exec_options::an_added_capability_is_never_inheritable`; passwd as a link, fifo and device:
//!   `exec_options::passwd_must_be_a_small_regular_file_of_the_container`;
//! * names that lead elsewhere: `lifecycle::an_id_cannot_lead_out_of_the_state_root`,
//!   `cgroups::the_container_is_in_the_cgroup_of_cgroups_path`,
//!   `process::only_sysctls_of_the_containers_namespaces_are_set`,
//!   `exec_options::exec_can_enter_a_cgroup_below_the_containers`;
//! * a seccomp profile against the runtime: `seccomp::a_strict_profile_does_not_break_the_runtime`,
//!   `seccomp::handing_over_the_listener_takes_one_call`.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[allow(dead_code, unused_imports)]
#[path = "../integration/harness.rs"]
mod harness;

mod arriving;
mod caller;
mod descriptors;
mod executable;
mod hooks;
mod labels;
mod leaving;
mod links;
mod names;
mod neighbours;
mod notify;
mod null;
mod opening;
mod procfs;
mod races;
mod records;
mod running_mounts;
mod signals;
mod terminal;
mod tracing;
mod users;
mod volumes;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Bundle, Test};
use serde_json::{Value, json};

const PAYLOAD: &str = "CORTEN_ATTACK_PAYLOAD";
const SECRET: &str = "the secret of the host";

/// In a container, runs `body` if this process is the payload of the calling test, prints its result on a
/// line of its own, and exits. `arguments` are those of [`bind_payload`].
pub fn payload(body: impl FnOnce(&[String]) -> String) {
    if let Ok(arguments) = std::env::var(PAYLOAD) {
        let arguments: Vec<String> = arguments.split('\n').map(Into::into).collect();
        println!("\nfound: {}", body(&arguments));
        std::process::exit(0);
    }
}

/// Returns the result of a payload.
pub fn found(out: &str) -> String {
    let line = out.lines().find_map(|line| line.strip_prefix("found: "));
    line.unwrap_or_else(|| panic!("the payload has printed no result: {out}")).into()
}

/// Returns the command line that runs the payload of the test `name`, and the variable that makes it one.
pub fn payload_words(name: &str, arguments: &[&str]) -> ([String; 5], String) {
    let words = ["/attack", "--exact", name, "--nocapture", "--test-threads=1"].map(Into::into);
    (words, format!("{PAYLOAD}={}", arguments.join("\n")))
}

/// Makes the payload of the test `name` the container's program.
pub fn bind_payload(config: &mut Value, name: &str, arguments: &[&str]) {
    let own = std::env::current_exe().unwrap();
    add(config, json!({"destination": "/attack", "source": own, "options": ["bind", "ro"]}));
    let (words, variable) = payload_words(name, arguments);
    config["process"]["args"] = json!(words);
    config["process"]["env"].as_array_mut().unwrap().push(json!(variable));
}

pub fn add(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().unwrap().push(mount);
}

pub fn without_mount(config: &mut Value, at: &str) {
    config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != at);
}

/// Gives the container all capabilities of this process, except some.
pub fn all_capabilities(config: &mut Value, but: &[&str]) {
    let held = caps::read(None, caps::CapSet::Permitted).unwrap();
    let all: Vec<String> =
        held.iter().map(ToString::to_string).filter(|name| !but.contains(&name.as_str())).collect();
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(all);
    }
    config["process"]["noNewPrivileges"] = json!(false);
}

/// The capabilities to look into other processes of the same user, or of all users.
pub const LOOKING: [&str; 3] = ["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_PERFMON"];

/// Adds a user namespace. Its root must be given the bundle's rootfs.
pub fn map_ids(config: &mut Value) {
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    for maps in ["uidMappings", "gidMappings"] {
        config["linux"][maps] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    }
}

pub fn give_rootfs(t: &Test, bundle: &Bundle) {
    t.call(Command::new("chown").args(["-hR", "100000:100000"]).arg(bundle.rootfs())).ok();
}

pub fn rounds() -> u32 {
    std::env::var("CORTEN_ATTACK_ROUNDS").map_or(50, |n| n.parse().expect("CORTEN_ATTACK_ROUNDS: a number"))
}

/// The target of attacks on the host: a directory with a secret, and a sysctl. Neither may change or be read.
pub struct Victim {
    pub dir: PathBuf,
    before: String,
}

/// A sysctl of the test's own uts namespace, so that the check of the check can change it.
pub const SYSCTL: &str = "/proc/sys/kernel/domainname";

impl Victim {
    pub fn new(t: &Test) -> Self {
        let dir = t.dir.join("victim");
        fs::create_dir_all(dir.join("inner")).unwrap();
        fs::write(dir.join("secret"), SECRET).unwrap();
        fs::write(dir.join("inner/secret"), SECRET).unwrap();
        fs::write(SYSCTL, "untouched").unwrap();
        let before = look(&dir);
        Self { dir, before }
    }

    pub fn is_touched(&self) -> bool {
        look(&self.dir) != self.before
    }

    #[track_caller]
    pub fn is_untouched(&self, what: &str) {
        let now = look(&self.dir);
        assert!(now == self.before, "{what}: before:\n{}\nnow:\n{now}", self.before);
    }

    /// Restores everything after a check of the check.
    pub fn again(self, t: &Test) -> Self {
        fs::remove_dir_all(&self.dir).unwrap();
        Self::new(t)
    }
}

/// Returns everything that can be seen of a tree and the sysctl, also mounts on them.
fn look(dir: &Path) -> String {
    let mut lines = vec![format!("sysctl {}", fs::read_to_string(SYSCTL).unwrap_or_default())];
    let mut todo = vec![dir.to_path_buf()];
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let text = if stat.is_file() { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let owner = (stat.uid(), stat.gid());
        // The time of the last change is included: a file that is made and removed again changes it.
        let changed = (stat.ctime(), stat.ctime_nsec());
        lines.push(format!(
            "{} {:o} {owner:?} {changed:?} {} {text}",
            path.display(),
            stat.mode(),
            stat.dev()
        ));
        if stat.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    lines.sort();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    lines.extend(
        mounts.lines().filter(|line| line.contains("victim") || line.contains(SYSCTL)).map(Into::into),
    );
    lines.join("\n")
}
