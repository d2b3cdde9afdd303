//! Errors in the input: one line that names the place, an exit status that is not 0, no panic, and nothing
//! left.

use std::fs;

use serde_json::{Value, json};

use crate::harness::isolated;

/// Files that are not a configuration.
#[test]
fn a_file_that_is_not_a_configuration_is_an_error() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        let whole = fs::read_to_string(bundle.dir.join("config.json")).unwrap();
        let deep = "[".repeat(200_000);
        let texts = [
            String::new(),
            "null".into(),
            "[]".into(),
            "3".into(),
            whole[..whole.len() / 2].into(),
            whole[..whole.len() - 1].into(),
            format!("{whole}x"),
            deep.clone(),
            format!("{{\"a\":{deep}"),
            format!("{{\"ociVersion\":\"1.2.0\",\"annotations\":{}", "{\"a\":".repeat(200_000)),
            format!("\"{}\"", "x".repeat(17 << 20)),
            format!("{{\"ociVersion\":\"1.2.0\",\"x\":\"{}\"}}", "x".repeat(17 << 20)),
            "\u{feff}{}".into(),
        ];
        for text in texts {
            bundle.write(&text);
            for verb in ["create", "run"] {
                let out = t.corten(&[verb, "-b", bundle.path(), "c1"]).fails("config.json");
                assert!(out.stderr.len() < 2000 && !out.stderr.contains("panicked"), "{}", out.stderr);
            }
        }
        bundle.write("{}");
        t.corten(&["create", "-b", bundle.path(), "c1"]).fails("ociVersion");
        fs::write(bundle.dir.join("config.json"), [b'{', b'"', 0xff, 0xfe, b'"', b'}']).unwrap();
        t.corten(&["create", "-b", bundle.path(), "c1"]).fails("config.json");
        fs::remove_file(bundle.dir.join("config.json")).unwrap();
        t.corten(&["create", "-b", bundle.path(), "c1"]).fails("config.json");
        fs::create_dir(bundle.dir.join("config.json")).unwrap();
        t.corten(&["create", "-b", bundle.path(), "c1"]).fails("config.json");
    });
}

/// Every wrong value is refused with its place in config.json.
#[test]
fn every_wrong_value_is_refused_with_its_place() {
    isolated(|t| {
        let rows: &[(&str, Value, &str)] = &[
            ("/ociVersion", json!("banana"), "ociVersion"),
            ("/ociVersion", json!("2.0.0"), "ociVersion"),
            ("/ociVersion", json!("1.banana"), "ociVersion"),
            ("/ociVersion", json!(1), "ociVersion"),
            ("/process", json!("x"), "process"),
            ("/process/user/uid", json!(4294967295u32), "process.user.uid"),
            ("/process/user/gid", json!(4294967295u32), "process.user.gid"),
            ("/process/user/uid", json!(4294967296u64), "process.user.uid"),
            ("/process/user/uid", json!(-1), "process.user.uid"),
            ("/process/user/additionalGids", json!([1, 4294967295u32]), "process.user.additionalGids[1]"),
            ("/process/args", json!([]), "process.args"),
            ("/process/args", json!(["a\u{0}b"]), "process.args[0]"),
            ("/process/args", json!([""]), ""),
            ("/process/cwd", json!("tmp"), "process.cwd"),
            ("/process/cwd", json!("/a\u{0}b"), "process.cwd"),
            ("/process/rlimits/0/type", json!("RLIMIT_NONSENSE"), "process.rlimits"),
            ("/process/rlimits/0/soft", json!(2048), "process.rlimits[0]"),
            ("/root/path", json!("/no/such/root"), "root.path"),
            ("/root/path", json!("config.json"), "root.path"),
            ("/root/path", json!(""), "root.path"),
            ("/root/path", json!("a\u{0}b"), "root.path"),
            ("/root", json!(null), "root"),
            ("/hostname", json!("x".repeat(65)), "hostname"),
            ("/hostname", json!("a\u{0}b"), "hostname"),
            ("/mounts", json!({}), "mounts"),
            ("/mounts/1/destination", json!("/a\u{0}b"), "mounts[1].destination"),
            ("/mounts/1/destination", json!(null), "mounts"),
            ("/mounts/1/type", json!("nonsensefs"), "mounts[1]"),
            ("/mounts/1/options", json!(["nosuchoption=1"]), "mounts[1]"),
            ("/linux/namespaces/0/type", json!("nonsense"), "linux.namespaces"),
            ("/linux/maskedPaths/0", json!("relative"), "linux.maskedPaths[0]"),
            ("/linux/readonlyPaths/0", json!("relative"), "linux.readonlyPaths[0]"),
            ("/linux/rootfsPropagation", json!("sideways"), "linux.rootfsPropagation"),
            ("/annotations", json!({"": "x"}), "annotations"),
            (
                "/annotations",
                json!({"run.oci.handler": "krun"}),
                "annotations[\"run.oci.handler\"]: corten has no handler \"krun\"",
            ),
            ("/annotations", json!({"run.oci.seccomp_bpf_data": "AA=="}), "run.oci.seccomp_bpf_data"),
            ("/vm", json!({"kernel": {"path": "/k"}}), "vm: corten makes no virtual machines"),
            ("/annotations", json!({"a": 1}), "annotations"),
        ];
        let mut wrong = Vec::new();
        for (pointer, value, place) in rows {
            let bundle = t.bundle(|c| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                let parent = c.pointer_mut(parent).unwrap();
                match key.parse::<usize>() {
                    Ok(index) if parent.is_array() => parent[index] = value.clone(),
                    _ => parent[key] = value.clone(),
                }
            });
            let out = t.corten(&["create", "-b", bundle.path(), "c1"]);
            let one_line = out.stderr.lines().count() == 1 && out.stderr.ends_with('\n');
            if out.code != 1 || !one_line || !out.stderr.contains(place) || out.stderr.contains("panicked") {
                wrong.push(format!("{pointer} = {value:.60}: {} {}", out.code, out.stderr));
            }
            t.corten(&["delete", "-f", "c1"]);
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// One command reports all errors of a configuration.
#[test]
fn all_errors_of_a_configuration_are_reported_at_once() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["process"]["cwd"] = json!("relative");
            c["process"]["rlimits"] = json!([
                {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
                {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
            ]);
            c["linux"]["maskedPaths"] = json!(["relative"]);
        });
        let out = t.corten(&["create", "-b", bundle.path(), "c1"]).fails("process.cwd");
        for place in ["process.rlimits[1]", "linux.maskedPaths[0]"] {
            assert!(out.stderr.contains(place), "{}", out.stderr);
        }
    });
}

/// Podman parses the whole log file at once, and containerd requires `time` in RFC 3339. Therefore the log
/// has one record.
#[test]
fn a_failed_command_logs_one_record() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["/no/such"]));
        let file = t.dir.join("corten.log");
        let log = file.to_str().unwrap();
        for flags in
            [["--log", log, "--log-format", "json"], ["--log-format=json", "--log", log, "--log-level=info"]]
        {
            let mut args = flags.to_vec();
            args.extend(["create", "-b", bundle.path(), "c1"]);
            let output = t.corten(&args).fails("no such file or directory");
            let text = fs::read_to_string(&file).unwrap();
            let record: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert_eq!(record["level"], "error");
            assert!(output.stderr.contains(record["msg"].as_str().unwrap()), "{record} {}", output.stderr);
            let time = record["time"].as_str().unwrap();
            assert!(time.as_bytes()[10] == b'T' && time.ends_with(['Z', '0']), "{time}");
            fs::remove_file(&file).unwrap();
        }
        // A command that succeeds writes no error. A log that cannot be opened is an error.
        bundle.edit(|c| c["process"]["args"] = json!(["/bin/true"]));
        t.corten(&["--log", log, "--log-format", "json", "run", "-b", bundle.path(), "c1"]).ok();
        assert!(!fs::read_to_string(&file).unwrap_or_default().contains("error"));
        t.corten(&["--log", "/no/such/dir/log", "state", "c1"]).fails("/no/such/dir/log");
        t.corten(&["--log", log, "--log-format", "xml", "state", "c1"]).fails("log-format");
    });
}

/// Errors of the command line itself.
#[test]
fn errors_of_the_command_line_are_reported_in_one_line() {
    isolated(|t| {
        for args in [
            &["nosuch"][..],
            &[],
            &["create"],
            &["create", "a", "b"],
            &["state"],
            &["state", "--nosuch", "c1"],
            &["start"],
            &["kill"],
            &["delete"],
            &["create", "--preserve-fds", "x", "c1"],
            &["create", "--preserve-fds", "-1", "c1"],
            &["exec", "c1"],
            &["ps", "--format", "xml", "c1"],
            &["list", "--format", "xml"],
        ] {
            let out = t.corten(args);
            assert!(out.code != 0 && !out.stderr.is_empty(), "{args:?}: {out:?}");
            assert!(!out.stderr.contains("panicked"), "{args:?}: {}", out.stderr);
        }
    });
}
