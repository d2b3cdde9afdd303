//! The output that other programs parse: list, ps, features, spec, --version.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::fallbacks::{Refused, call};
use crate::harness::{View, isolated, isolated_in};

/// `list` prints a table, JSON, or ids.
#[test]
fn list_prints_a_table_json_or_ids() {
    isolated(|t| {
        assert_eq!(t.corten(&["list", "-q"]).ok(), "");
        let none = t.corten(&["list", "--format", "json"]).ok();
        assert!(matches!(none.trim_end(), "[]" | "null"), "{none}");
        let bundle = t.bundle(|_| {});
        t.create(&bundle, "b");
        let pid = t.start(&bundle, "a");
        assert_eq!(t.corten(&["list", "--quiet"]).ok(), "a\nb\n");
        let all: Value = serde_json::from_str(&t.corten(&["list", "-f", "json"]).ok()).unwrap();
        let facts = |n: usize| (all[n]["id"].clone(), all[n]["status"].clone(), all[n]["bundle"].clone());
        assert_eq!(facts(0), (json!("a"), json!("running"), json!(bundle.path())));
        assert_eq!(facts(1), (json!("b"), json!("created"), json!(bundle.path())));
        assert_eq!(all[0]["pid"], pid);
        let table = t.corten(&["list"]).ok();
        let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
        assert_eq!(rows[1][..4], ["a", &pid.to_string(), "running", bundle.path()]);
        assert_eq!(rows.len(), 3);
        t.delete("a");
        t.delete("b");
    });
}

/// Each processor reads a part of a long list. It is the same without further threads, and a record that cannot be
/// read costs no other row.
#[test]
fn a_long_list_is_complete_and_sorted() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let pid = t.start(&bundle, "c1000");
        let record = fs::read_to_string(t.state().join("c1000/state.json")).unwrap();
        let damaged = "c1300";
        for n in 1001..1500 {
            let id = format!("c{n}");
            fs::create_dir(t.state().join(&id)).unwrap();
            let own = record.replacen("\"c1000\"", &format!("{id:?}"), 1);
            // One half looks ended: no process began at that time.
            let own = if n % 2 == 0 { own } else { own.replacen("\"startTime\":", "\"startTime\":1", 1) };
            let text = if id == damaged { "{" } else { own.as_str() };
            fs::write(t.state().join(&id).join("state.json"), text).unwrap();
        }
        let refused = |call| Refused { call, errno: libc::EAGAIN, bit: None };
        for without in [&[][..], &[refused(libc::SYS_clone), refused(libc::SYS_clone3)]] {
            let out = call(t, &["list", "--format", "json"], without).exits(0);
            assert!(out.stderr.contains(&format!("list: container {damaged:?}")), "{}", out.stderr);
            let all: Value = serde_json::from_str(&out.stdout).unwrap();
            let row = |found: &Value| {
                (found["id"].as_str().unwrap().to_string(), found["status"].clone(), found["pid"].clone())
            };
            let wanted =
                (1000..1500).map(|n| (format!("c{n}"), n)).filter(|(id, _)| id != damaged).map(|(id, n)| {
                    if n % 2 == 0 {
                        (id, json!("running"), json!(pid))
                    } else {
                        (id, json!("stopped"), json!(0))
                    }
                });
            assert_eq!(
                all.as_array().unwrap().iter().map(row).collect::<Vec<_>>(),
                wanted.collect::<Vec<_>>()
            );
        }
        for n in 1001..1500 {
            fs::remove_dir_all(t.state().join(format!("c{n}"))).unwrap();
        }
        t.delete("c1000");
    });
}

/// go-runc requires a JSON array of host pids. The table has the lines of ps(1) for the container's
/// processes.
#[test]
fn ps_prints_host_pids_or_the_lines_of_ps() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!(["/bin/sh", "-c", "sleep 1001 & exec sleep 1000"]);
        });
        let pid = t.start(&bundle, "c1");
        let pids = || -> Vec<i32> {
            serde_json::from_str(&t.corten(&["ps", "--format", "json", "c1"]).ok()).unwrap()
        };
        assert!(crate::harness::poll(std::time::Duration::from_secs(5), || pids().len() == 2));
        assert!(pids().contains(&pid));
        let table = t.corten(&["ps", "c1"]).ok();
        assert_eq!(table.lines().filter(|line| line.contains("sleep")).count(), 2, "{table}");
        // It is the same as that of ps(1), unless the minute of the start changes meanwhile.
        for options in [&["-ef"][..], &["-e", "-f"]] {
            let same = || t.corten(&["ps", "c1"]).ok() == t.corten(&[&["ps", "c1"], options].concat()).ok();
            assert!(crate::harness::poll(std::time::Duration::from_secs(5), same), "{table}");
        }
        let mut without = t.command(&["ps", "c1"]);
        assert_eq!(t.call(without.env("PATH", "/nowhere")).ok().lines().count(), 3);
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        t.corten(&["delete", "c1"]).ok();
    });
}

/// features.md: the document that containerd and Docker read.
#[test]
fn features_has_what_containerd_and_docker_read() {
    isolated(|t| {
        let features: Value = serde_json::from_str(&t.corten(&["features"]).ok()).unwrap();
        let has = |pointer: &str, word: &str| {
            let list = features.pointer(pointer).and_then(Value::as_array);
            assert!(
                list.is_some_and(|list| list.contains(&json!(word))),
                "{pointer} lacks {word}: {features}"
            );
        };
        for hook in
            ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
        {
            has("/hooks", hook);
        }
        for option in [
            "ro",
            "rro",
            "rbind",
            "rprivate",
            "tmpcopyup",
            "copy-symlink",
            "dest-nofollow",
            "src-nofollow",
            "idmap",
            "ridmap",
            "nosymfollow",
            "lazytime",
            "defaults",
        ] {
            has("/mountOptions", option);
        }
        for kind in ["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"] {
            has("/linux/namespaces", kind);
        }
        has("/linux/capabilities", "CAP_CHECKPOINT_RESTORE");
        has("/linux/seccomp/actions", "SCMP_ACT_ERRNO");
        has("/linux/seccomp/operators", "SCMP_CMP_MASKED_EQ");
        has("/linux/seccomp/archs", "SCMP_ARCH_X86_64");
        for pointer in ["/linux/mountExtensions/idmap/enabled", "/linux/cgroup/v2", "/linux/seccomp/enabled"]
        {
            assert_eq!(features.pointer(pointer), Some(&json!(true)), "{pointer}");
        }
        for manager in ["v1", "systemd", "systemdUser", "rdma"] {
            assert_eq!(features["linux"]["cgroup"][manager], true, "{manager}");
        }
        has("/potentiallyUnsafeConfigAnnotations", "org.systemd.property.");
        for key in ["ociVersionMin", "ociVersionMax"] {
            assert!(features[key].as_str().unwrap().starts_with("1."), "{features}");
        }
    });
}

/// features.md and features-linux.md: the runtime recognises every word that it lists, in the first version
/// that it accepts, in which an unknown capability is an error. It also accepts the last version.
#[test]
fn every_word_that_features_lists_is_recognised() {
    isolated(|t| {
        let features: Value = serde_json::from_str(&t.corten(&["features"]).ok()).unwrap();
        let bundle = t.bundle(|_| {});
        let original = fs::read_to_string(bundle.dir.join("config.json")).unwrap();
        let accepts = |what: &str, edit: &dyn Fn(&mut Value)| {
            bundle.write(&original);
            bundle.edit(|c| {
                c["ociVersion"] = features["ociVersionMin"].clone();
                edit(c);
            });
            let out = t.corten(&["plan", "--bundle", bundle.path()]);
            assert!(out.code == 0, "{what}: {}", out.stderr);
        };
        let each = |pointer: &str, edit: &dyn Fn(&mut Value, &str)| {
            let words = features.pointer(pointer).and_then(Value::as_array).unwrap();
            assert!(!words.is_empty(), "{pointer}");
            for word in words.iter().map(|word| word.as_str().unwrap()) {
                accepts(&format!("{pointer} {word}"), &|c| edit(c, word));
            }
        };
        accepts("ociVersionMax", &|c| c["ociVersion"] = features["ociVersionMax"].clone());
        each("/hooks", &|c, word| c["hooks"] = json!({word: [{"path": "/bin/true"}]}));
        each("/mountOptions", &|c, word| {
            // A bind mount takes no option of a file system.
            let kind = if word == "tmpcopyup" { "tmpfs" } else { "rbind" };
            let mut mount =
                json!({"destination": "/mnt", "type": "tmpfs", "source": "/etc", "options": [kind, word]});
            match word {
                "tmpcopyup" => mount["options"] = json!([word]),
                "idmap" | "ridmap" => {
                    for map in ["uidMappings", "gidMappings"] {
                        mount[map] = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
                    }
                }
                _ => {}
            }
            c["mounts"].as_array_mut().unwrap().push(mount);
        });
        each("/linux/namespaces", &|c, word| {
            c["linux"]["namespaces"] = json!([{"type": word}, {"type": "uts"}]);
            c["linux"]["namespaces"].as_array_mut().unwrap().truncate(if word == "uts" { 1 } else { 2 });
            if word == "user" {
                c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "mount"}));
                for map in ["uidMappings", "gidMappings"] {
                    c["linux"][map] = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
                }
            }
        });
        each("/linux/capabilities", &|c, word| c["process"]["capabilities"]["bounding"] = json!([word]));
        let seccomp = |c: &mut Value, edit: &dyn Fn(&mut Value)| {
            let rule = json!({"names": ["mkdir"], "action": "SCMP_ACT_LOG"});
            let mut profile =
                json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/agent", "syscalls": [rule]});
            edit(&mut profile);
            c["linux"]["seccomp"] = profile;
        };
        let actions = |c: &mut Value, word: &str| seccomp(c, &|s| s["syscalls"][0]["action"] = json!(word));
        each("/linux/seccomp/actions", &actions);
        each("/linux/seccomp/operators", &|c, word| {
            seccomp(c, &|s| s["syscalls"][0]["args"] = json!([{"index": 0, "value": 1, "op": word}]));
        });
        each("/linux/seccomp/archs", &|c, word| seccomp(c, &|s| s["architectures"] = json!([word])));
        let flags = |c: &mut Value, word: &str| {
            seccomp(c, &|s| {
                s["flags"] = json!([word]);
                s["syscalls"][0]["action"] = json!("SCMP_ACT_NOTIFY");
            });
        };
        each("/linux/seccomp/knownFlags", &flags);
        each("/linux/seccomp/supportedFlags", &flags);
        each("/linux/memoryPolicy/modes", &|c, word| {
            let nodes = if matches!(word, "MPOL_DEFAULT" | "MPOL_LOCAL") { "" } else { "0" };
            c["linux"]["memoryPolicy"] = json!({"mode": word, "nodes": nodes});
        });
        each("/linux/memoryPolicy/flags", &|c, word| {
            c["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": [word]});
        });
    });
}

/// `spec` writes a configuration that runs, and never overwrites one.
#[test]
fn spec_writes_a_bundle_that_runs_and_overwrites_none() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let config = bundle.dir.join("config.json");
        t.corten(&["spec", "--bundle", bundle.path()]).fails("exist");
        fs::remove_file(&config).unwrap();
        t.corten(&["spec", "-b", bundle.path()]).ok();
        let text = fs::read_to_string(&config).unwrap();
        let written: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(written["process"]["terminal"], true);
        bundle.edit(|c| {
            c["process"]["terminal"] = json!(false);
            c["process"]["args"] = json!(["/bin/echo", "ran"]);
        });
        assert_eq!(t.run_bundle(&bundle).ok(), "ran\n");
        fs::remove_file(&config).unwrap();
        t.corten(&["spec", "--rootless", "--bundle", bundle.path()]).ok();
        let written: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
        assert_eq!(written["linux"]["uidMappings"][0]["containerID"], 0);
        // The bound /sys shows the host's cgroups. The mount on it shows the container's own.
        bundle.edit(|c| {
            c["process"]["terminal"] = json!(false);
            c["process"]["args"] = json!(["/bin/sh", "-c", "cat /sys/fs/cgroup/cgroup.procs"]);
        });
        assert_eq!(t.run_bundle(&bundle).ok(), "1\n");
        t.corten(&["spec", "-b", bundle.path(), "-f", "other.json"]).ok();
        assert!(fs::read_to_string(bundle.dir.join("other.json")).unwrap().contains("ociVersion"));
        t.corten(&["spec", "-b", bundle.path(), "--file", "other.json"]).fails("other.json exists");
        fs::remove_file(bundle.dir.join("other.json")).unwrap();
    });
}

/// Without the right to make a cgroup, a user's container runs in its caller's cgroup and sees that one.
#[test]
fn the_rootless_configuration_runs_without_a_cgroup_of_its_own() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        fs::remove_file(bundle.dir.join("config.json")).unwrap();
        let state = t.dir.join("user-state");
        fs::create_dir(&state).unwrap();
        t.call(Command::new("chown").args(["-hR", "1000:1000"]).arg(&bundle.dir).arg(&state)).ok();
        let user = |words: &[&str]| {
            let corten = t.command(&[]).get_program().to_os_string();
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "1000", "--regid", "1000", "--clear-groups"]).arg(corten);
            t.call(command.arg("--root").arg(&state).args(words))
        };
        user(&["spec", "--rootless", "-b", bundle.path()]).ok();
        bundle.edit(|c| {
            c["process"]["terminal"] = json!(false);
            c["process"]["args"] = json!(["/bin/sh", "-c", "cat /sys/fs/cgroup/cgroup.procs"]);
        });
        let out = user(&["run", "-b", bundle.path(), "r"]);
        assert!(out.code == 0 && out.stdout.lines().any(|line| line == "1"), "{out:?}");
        fs::remove_dir(&state).unwrap();
    });
}

/// As in runc, a new configuration has a cgroup namespace only on a host with cgroup v2.
#[test]
fn spec_asks_for_no_cgroup_namespace_on_v1() {
    isolated_in(View::Hybrid, |t| {
        let bundle = t.bundle(|_| {});
        let config = bundle.dir.join("config.json");
        for words in [&["spec"][..], &["spec", "--rootless"]] {
            fs::remove_file(&config).unwrap();
            t.corten(&[words, &["-b", bundle.path()]].concat()).ok();
            let written: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
            let namespaces = written["linux"]["namespaces"].as_array().unwrap();
            assert!(!namespaces.contains(&json!({"type": "cgroup"})), "{namespaces:?}");
            bundle.edit(|c| {
                c["process"]["terminal"] = json!(false);
                c["process"]["args"] = json!(["/bin/sh", "-c", "cat /sys/fs/cgroup/pids/cgroup.procs"]);
            });
            assert!(t.run_bundle(&bundle).ok().lines().any(|line| line == "1"));
        }
    });
}

/// Docker splits the first line at "version". go-runc requires `commit: ` and `spec: `.
#[test]
fn version_prints_the_lines_that_docker_and_go_runc_parse() {
    isolated(|t| {
        for flag in ["--version", "-v"] {
            let text = t.corten(&[flag]).ok();
            let lines: Vec<_> = text.lines().collect();
            assert!(
                lines[0].split_once(" version ").is_some_and(|(_, v)| v.starts_with(char::is_numeric)),
                "{text}"
            );
            assert!(lines.iter().any(|line| line.starts_with("spec: 1.")), "{text}");
        }
    });
}

/// `seccomp explain` takes a file or a bundle. For a file that is not a profile it reports the reason.
#[test]
fn seccomp_explain_prints_a_profile_or_the_reason() {
    isolated(|t| {
        let docker = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/seccomp/docker.json");
        let of_file = t.corten(&["seccomp", "explain", docker, "mount", "read"]).ok();
        let mount = of_file.split_once("\nmount\n").unwrap_or_else(|| panic!("{of_file}")).1;
        // The architecture of this machine comes first, if the profile does not have it.
        assert!(mount.lines().next().unwrap().contains(" x86_64 165, "), "{of_file}");
        let profile: Value = serde_json::from_str(&fs::read_to_string(docker).unwrap()).unwrap();
        let bundle = t.bundle(|c| c["linux"]["seccomp"] = profile.clone());
        let explain = ["seccomp", "explain", "--bundle", bundle.path()];
        assert_eq!(t.corten(&[&explain[..], &["mount", "read"]].concat()).ok(), of_file);
        assert!(t.corten(&explain).ok().contains("\nSCMP_ACT_ALLOW (syscalls[0])\n"));
        let dump = t.corten(&[&explain[..], &["--dump"]].concat()).ok();
        assert!(dump.starts_with("   0  load arch\n"), "{dump}");
        t.corten(&[&explain[..], &["no_such_call"]].concat()).fails("no architecture has a system call");
        t.corten(&["seccomp", "explain", "-b", t.bundle(|_| {}).path()]).fails("linux.seccomp: ");

        let file = t.dir.join("profile.json");
        for (edit, expected) in [
            (json!({"archMap": []}), "archMap: is of an engine's template"),
            (
                json!({"syscalls": [{"names": ["a"], "action": "SCMP_ACT_LOG", "includes": {"caps": ["CAP_BPF"]}}]}),
                "syscalls[0].includes: is of an engine's template",
            ),
            (
                json!({"ociVersion": "1.2.0"}),
                "ociVersion: this is a whole configuration (hint: --bundle DIR)",
            ),
            (
                json!({"syscalls": [{"names": 1, "action": "SCMP_ACT_LOG"}]}),
                "syscalls[0].names: must be an array",
            ),
            (json!({"defaultErrnoRet": 1}), "linux.seccomp.defaultErrnoRet: SCMP_ACT_ALLOW takes no errno"),
        ] {
            let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW"});
            profile.as_object_mut().unwrap().extend(edit.as_object().unwrap().clone());
            fs::write(&file, profile.to_string()).unwrap();
            t.corten(&["seccomp", "explain", file.to_str().unwrap()]).fails(expected);
        }
    });
}
