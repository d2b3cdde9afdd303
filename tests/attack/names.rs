//! Values of the caller and of config.json that become names on the host: with `..`, line breaks, or without
//! limit.

use std::fs;

use serde_json::{Value, json};

use crate::harness::isolated;
use crate::{Victim, give_rootfs, map_ids};

/// Ids, cgroup paths, sysctls and host names with `..`, `/`, control characters and line breaks are refused
/// in one line that names the member, or taken literally. No other file is made or written (the harness
/// compares the rest).
#[test]
fn names_cannot_lead_elsewhere_on_the_host() {
    isolated(|t| {
        let victim = Victim::new(t);
        let up = format!("/../../../../..{}", victim.dir.display());
        let long = "a".repeat(5000);
        for id in ["..", "../victim", "a/../../victim", "a\nb", "a\u{1b}[31m", "a\rb", long.as_str(), " "] {
            for verb in [&["create", "-b", "/nowhere"][..], &["state"], &["delete", "--force"], &["kill"]] {
                let words = [verb, &["--", id]].concat();
                t.corten(&words).fails("");
            }
            victim.is_untouched(id);
        }
        type Edit = fn(&mut Value, &str);
        let cgroup: Edit = |c, text| c["linux"]["cgroupsPath"] = json!(text);
        let sysctl: Edit = |c, text| c["linux"]["sysctl"] = json!({text: "1"});
        let class: Edit = |c, text| c["linux"]["intelRdt"] = json!({"closID": text});
        let rows: &[(Edit, &str, &str)] = &[
            (cgroup, &up, "linux.cgroupsPath"),
            (cgroup, "/a\nb", "linux.cgroupsPath"),
            (cgroup, "/a/../../b", "linux.cgroupsPath"),
            (cgroup, "../b", "linux.cgroupsPath"),
            (cgroup, &long, "linux.cgroupsPath"),
            (sysctl, "net.ipv4.ip_forward\n", "linux.sysctl"),
            (sysctl, "net/../kernel/domainname", "linux.sysctl"),
            (sysctl, "net//../kernel.domainname", "linux.sysctl"),
            (sysctl, "net.ipv4/../../kernel/domainname", "linux.sysctl"),
            (sysctl, &up, "linux.sysctl"),
            (class, "../victim", "linux.intelRdt"),
            (class, "a\nb", "linux.intelRdt"),
        ];
        for (edit, text, place) in rows {
            t.run("true", |c| edit(c, text)).fails(place);
            victim.is_untouched(text);
        }
        // The kernel takes any host name up to 64 bytes. It is not used as a path.
        for name in ["../../x", "a/b", "a\nb", "a\u{1b}[31m", "%s%n", "-n"] {
            for member in ["hostname", "domainname"] {
                let out = t.run(&format!("cat /proc/sys/kernel/{member}"), |c| c[member] = json!(name));
                assert_eq!(out.ok(), format!("{name}\n"), "{member}");
            }
        }
        for member in ["hostname", "domainname"] {
            t.run("true", |c| c[member] = json!("a".repeat(65))).fails(member);
            t.run("true", |c| c[member] = json!("a\u{0}b")).fails(member);
        }
        victim.is_untouched("host names");
        // Check of the check: a file at the target of one of these words is noticed.
        fs::create_dir(format!("/proc/self/cwd{up}/x")).unwrap();
        assert!(victim.is_touched());
    });
}

/// Maps with more entries than the kernel takes, with an overflow, or with ranges that overlap are refused,
/// with the place. An accepted map is the one that the kernel shows, to the last entry.
#[test]
fn wrong_id_maps_are_refused_with_their_place() {
    isolated(|t| {
        let run = |maps: Value| {
            let bundle = t.bundle(|c| {
                map_ids(c);
                for member in ["uidMappings", "gidMappings"] {
                    c["linux"][member] = maps.clone();
                }
                c["process"]["args"] =
                    json!(["sh", "-c", "wc -l < /proc/self/uid_map; tail -n 1 /proc/self/uid_map"]);
            });
            give_rootfs(t, &bundle);
            t.run_bundle(&bundle)
        };
        let many = |n: u32| -> Value {
            (0..n).map(|i| json!({"containerID": i, "hostID": 1000 + i * 2, "size": 1})).collect()
        };
        let last = |out: String| out.split_whitespace().map(Into::into).collect::<Vec<String>>();
        assert_eq!(last(run(many(340)).ok()), ["340", "339", "1678", "1"]);
        for wrong in [
            many(341),
            many(6000),
            json!([{"containerID": 0, "hostID": 100_000, "size": 4_294_967_295u32}]),
            json!([{"containerID": 4_294_967_295u32, "hostID": 1, "size": 2}]),
            json!([{"containerID": 0, "hostID": 4_294_967_290u32, "size": 100}]),
            json!([{"containerID": 0, "hostID": 100_000, "size": 10}, {"containerID": 5, "hostID": 200_000, "size": 10}]),
            json!([{"containerID": 0, "hostID": 100_000, "size": 10}, {"containerID": 50, "hostID": 100_005, "size": 10}]),
            json!([{"containerID": 0, "hostID": 100_000, "size": 0}]),
            json!([]),
        ] {
            run(wrong).fails("linux.uidMappings");
        }
        for wrong in [json!(4_294_967_296u64), json!(-1), json!(1.5), json!("0")] {
            run(json!([{"containerID": 0, "hostID": wrong, "size": 1}])).fails("idMappings[0].hostID");
        }
    });
}
