//! Fault injection where a unit of systemd is made and removed, on a host that runs systemd, such as the
//! project's VM.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Test, poll, processes, with_systemd};
use crate::tracer::{Fault, Place, places, trace};
use crate::{FAULTS, Table, chosen, seed};

/// Returns the traces of the container, one line each.
fn traces(test: &Test, unit: &str) -> Vec<String> {
    let list =
        Command::new("systemctl").args(["list-units", "--all", "--plain", "--no-legend", unit]).output();
    let units = String::from_utf8(list.unwrap().stdout).unwrap();
    let cgroup = Path::new("/sys/fs/cgroup/system.slice").join(unit);
    let place = test.dir.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let states = fs::read_dir(test.state()).into_iter().flatten().flatten();
    let mut found: Vec<String> = units.lines().map(|line| format!("unit {line}")).collect();
    found.extend(cgroup.exists().then(|| format!("cgroup {}", cgroup.display())));
    found.extend(
        processes().into_iter().filter(|line| line.contains(place)).map(|line| format!("process {line}")),
    );
    found.extend(mounts.lines().filter(|line| line.contains(place)).map(|line| format!("mount {line}")));
    found.extend(states.map(|entry| format!("state {}", entry.path().display())));
    found
}

fn sweep(t: &Test, name: &str, args: &[&str], before: &[&[&str]]) {
    let id = format!("cfaults{}-{name}", std::process::id());
    let unit = format!("{id}.scope");
    let bundle = t.bundle(|c| {
        c["process"]["args"] = json!(["/bin/sleep", "1000"]);
        c["linux"]["cgroupsPath"] = json!(format!("system.slice:cfaults{}:{name}", std::process::id()));
        c["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 20}});
    });
    let command = |args: &[&str]| {
        let mut command = t.command(&["--systemd-cgroup"]);
        command.args(args.iter().map(|word| word.replace("BUNDLE", bundle.path())));
        command
    };
    let attempt = |fault: Option<(Place, Fault)>| {
        before.iter().for_each(|args| drop(t.call(&mut command(args)).ok()));
        let traced = trace(&command(args), fault);
        let mut wrong = Vec::new();
        if traced.code.is_none() {
            wrong.push("hangs".to_string());
        }
        // A unit ends with its last process, which can meet its fault after the command has succeeded.
        if traced.code == Some(0)
            && before.is_empty()
            && !traces(t, &unit).iter().any(|line| line.starts_with("unit"))
            && t.status("f") != "stopped"
        {
            wrong.push("succeeds, and there is no unit".into());
        }
        let deleted = t.corten(&["delete", "--force", "f"]);
        if deleted.code != 0 {
            wrong.push(format!("delete --force fails: {}", deleted.stderr));
        }
        let mut left = Vec::new();
        poll(Duration::from_secs(5), || {
            left = traces(t, &unit);
            left.is_empty()
        });
        wrong.extend(left.iter().map(|line| format!("leaves {line}")));
        (traced, wrong)
    };
    attempt(None);
    let (usual, wrong) = attempt(None);
    assert!(wrong.is_empty(), "undisturbed: {wrong:?}");
    let of = |fault| places(&usual.calls, fault).into_iter().map(move |place| (place, fault));
    let (cells, total) = chosen(FAULTS.into_iter().flat_map(of).collect());
    let mut table = Table::default();
    for (place, fault) in cells {
        let (traced, wrong) = attempt(Some((place, fault)));
        table.count(traced.met, &wrong);
        for line in wrong {
            let call = usual.calls[place.0][place.1];
            writeln!(table.findings, "{fault:?} at call {call} ({place:?}): {line}").unwrap();
        }
    }
    table.write(&format!("{name}, systemd"), total, usual.calls.iter().flatten().count());
    assert!(table.findings.is_empty(), "CORTEN_FAULTS_SEED={}\n{}", seed(), table.findings);
}

const CREATE: &[&str] = &["create", "--bundle", "BUNDLE", "f"];

/// Runs in a process of its own, because the tracer waits for every child.
#[test]
fn a_unit_goes_with_its_container() {
    const INSIDE: &str = "CORTEN_FAULTS_SYSTEMD";
    if std::env::var_os(INSIDE).is_none() {
        let mut own = Command::new(std::env::current_exe().unwrap());
        let words = ["--exact", "systemd::a_unit_goes_with_its_container", "--nocapture"];
        // Otherwise its results would be counted twice.
        own.args(words).env(INSIDE, "1").stdout(Stdio::null());
        assert!(own.status().unwrap().success());
        return;
    }
    with_systemd("a_unit_goes_with_its_container", |t| {
        sweep(t, "create", CREATE, &[]);
        sweep(t, "run", &["run", "--detach", "--bundle", "BUNDLE", "f"], &[]);
        sweep(t, "delete", &["delete", "--force", "f"], &[CREATE, &["start", "f"]]);
    });
}
