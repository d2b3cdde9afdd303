//! Golden plans: each directory of tests/golden contains a config.json, and its plan on a fixed host or its
//! problems. `UPDATE_GOLDEN=1 cargo test --test golden` writes the plans again, for a review with `git diff`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use corten::testing::cgroups::{self, Manager};
use corten::testing::host::{self, Host};
use corten::testing::process::{self, capabilities::Held, lsm};
use corten::testing::{config, plan};

/// Returns a host that does not depend on the machine of the test.
fn host(rootless: bool) -> Host {
    let all = (1 << 41) - 1;
    Host {
        proc: host::procfs().unwrap(),
        rootless,
        uid: if rootless { 1000 } else { 0 },
        user_namespace: false,
        process: process::Host {
            capabilities: Held { bounding: all, permitted: all },
            lsm: lsm::Host { apparmor: false, selinux: false, strict: false },
        },
    }
}

fn planned(directory: &Path) -> String {
    let config = match config::load(directory) {
        Ok(config) => config,
        Err(e) => return format!("{e:#}\n"),
    };
    let cgroups = cgroups::Host {
        v2_mount: Some("/sys/fs/cgroup".into()),
        own: Some("user.slice/session.scope".into()),
        resctrl: Some("/sys/fs/resctrl".into()),
        ..cgroups::Host::default()
    };
    let request = plan::Request {
        id: "c1",
        bundle: Path::new("/bundle"),
        manager: if directory.ends_with("systemd") { Manager::Systemd } else { Manager::Cgroupfs },
        no_pivot: false,
        no_new_keyring: false,
        tree_namespaces: true,
        cgroups: &cgroups,
        notify_socket: None,
    };
    let rootless = directory.ends_with("rootless");
    match plan::create(&config.spec, &request, &host(rootless)) {
        Ok((plan, warnings)) => {
            let warnings = config.warnings.iter().chain(&warnings);
            let warnings: String = warnings.map(|warning| format!("warning: {warning}\n")).collect();
            format!("{warnings}{}", plan.print())
        }
        Err(e) => format!("{e:#}\n"),
    }
}

/// Returns a plan without the lengths of its seccomp filters.
fn without_lengths(plan: &str) -> String {
    let length = |line: &str| line.starts_with("  program of ");
    plan.lines().map(|line| if length(line) { "\n".into() } else { format!("{line}\n") }).collect()
}

#[test]
fn plans_are_as_they_were() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut seen = 0;
    for entry in fs::read_dir(golden).unwrap() {
        let directory = entry.unwrap().path();
        if !directory.join("config.json").exists() {
            continue;
        }
        seen += 1;
        let (mut plan, file) = (planned(&directory), directory.join("plan.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &plan).unwrap();
        }
        let mut kept = fs::read_to_string(&file).unwrap_or_default();
        if std::env::consts::ARCH != "x86_64" {
            // A seccomp filter also has the machine's own architecture.
            (plan, kept) = (without_lengths(&plan), without_lengths(&kept));
        }
        let difference = plan.lines().zip(kept.lines()).find(|(now, then)| now != then);
        assert!(plan == kept, "{}: {difference:?}", directory.display());
    }
    assert!(seen >= 5);
}
