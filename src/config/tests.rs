use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::*;
use crate::error::{Problems, kind, pointer};
use oci_spec::runtime::LinuxSchedulerFlag as Flag;

/// Returns a configuration with a version and these members.
fn document(version: &str, members: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    format!("{{\"ociVersion\":\"{version}\"{comma}{members}}}")
}

fn good(members: &str) -> Config {
    parse(document("1.2.0", members)).unwrap_or_else(|e| panic!("{members}: {e:#}"))
}

#[test]
fn versions_are_semver_1() {
    for (text, expected) in [
        ("1.0.0", Some((1, 0, 0))),
        ("1.0.2-dev", Some((1, 0, 2))),
        ("1.0.0-rc1", Some((1, 0, 0))),
        ("1.0.0-rc.2+build.5", Some((1, 0, 0))),
        ("1.1.0+dev", Some((1, 1, 0))),
        ("1.2.1", Some((1, 2, 1))),
        ("1.3.0", Some((1, 3, 0))),
        ("1.0.0--", Some((1, 0, 0))),
        ("2.0.0", None),
        ("0.9.0", None),
        ("", None),
        ("banana", None),
        ("1.banana", None),
        ("1", None),
        ("1.0", None),
        ("1.0.0.0", None),
        ("v1.0.0", None),
        ("01.0.0", None),
        ("1.00.0", None),
        ("1.0.0-", None),
        ("1.0.0-01", None),
        ("1.0.0-a..b", None),
        ("1.0.0+", None),
        ("1.0.0-ä", None),
        (" 1.0.0", None),
        ("1.0.0\\n", None),
        ("1.0.99999999999999999999999", None),
    ] {
        match (parse(document(text, "")), expected) {
            (Ok(config), Some((major, minor, patch))) => {
                assert_eq!(config.version, Version { major, minor, patch }, "{text}");
                assert!(config.warnings.is_empty());
            }
            (Err(e), None) => assert!(format!("{e:#}").starts_with("ociVersion: "), "{text}: {e:#}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }
    assert_eq!(parse("{}".into()).unwrap_err().to_string(), "ociVersion: is required");
    let newer = parse(document("1.4.0", "")).unwrap();
    assert_eq!(newer.warnings.len(), 1, "{:?}", newer.warnings);
}

#[test]
fn the_text_is_kept() {
    let text = document("1.0.2", " \"x\": 1 ");
    assert_eq!(parse(text.clone()).unwrap().text, text);
}

#[test]
fn an_unknown_capability_is_a_warning_since_1_1() {
    let members = r#""process":{"cwd":"/","user":{"uid":0,"gid":0},"capabilities":{
        "bounding":["CAP_KILL","CAP_NEW","chown"],"ambient":["CAP_NEWER"]}}"#;
    for (version, warned) in [("1.0.2", false), ("1.0.2-dev", false), ("1.1.0", true), ("1.3.0", true)] {
        match parse(document(version, members)) {
            Ok(config) if warned => {
                assert_eq!(
                    config.warnings,
                    [
                        "process.capabilities.bounding[1]: unknown capability \"CAP_NEW\", ignoring",
                        "process.capabilities.ambient[0]: unknown capability \"CAP_NEWER\", ignoring",
                    ]
                );
                let process = config.spec.process().clone().unwrap();
                let sets = process.capabilities().clone().unwrap();
                assert_eq!(sets.bounding().as_ref().unwrap().len(), 2);
                assert!(sets.ambient().as_ref().unwrap().is_empty());
            }
            Err(e) if !warned => {
                let problems = e.downcast_ref::<Problems>().unwrap();
                let places: Vec<_> = problems.0.iter().map(|p| p.place.as_str()).collect();
                assert_eq!(places, ["process.capabilities.bounding[1]", "process.capabilities.ambient[0]"]);
            }
            got => panic!("{version}: {got:?}"),
        }
    }
}

#[test]
fn scheduler_flags_have_the_names_of_the_specification() {
    let flags = |name: &str| {
        let process = format!(
            r#""process":{{"cwd":"/","user":{{}},"scheduler":{{"policy":"SCHED_FIFO","flags":["{name}"]}}}}"#
        );
        let process = parse(document("1.2.0", &process)).ok()?.spec.process().clone()?;
        process.scheduler().as_ref()?.flags().clone()
    };
    for (name, expected) in [
        ("SCHED_FLAG_RESET_ON_FORK", Some(Flag::SchedResetOnFork)),
        ("SCHED_FLAG_RECLAIM", Some(Flag::SchedFlagReclaim)),
        ("SCHED_FLAG_DL_OVERRUN", Some(Flag::SchedFlagDLOverrun)),
        ("SCHED_FLAG_KEEP_POLICY", Some(Flag::SchedFlagKeepPolicy)),
        ("SCHED_FLAG_KEEP_PARAMS", Some(Flag::SchedFlagKeepParams)),
        ("SCHED_FLAG_UTIL_CLAMP_MIN", Some(Flag::SchedFlagUtilClampMin)),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", Some(Flag::SchedFlagUtilClampMax)),
        ("SCHED_FLAG_BOGUS", None),
    ] {
        assert_eq!(flags(name), expected.map(|flag| vec![flag]), "{name}");
    }
}

#[test]
fn cpu_lists_may_contain_blanks() {
    let initial = |list: &str| {
        let process =
            format!(r#""process":{{"cwd":"/","user":{{}},"execCPUAffinity":{{"initial":"{list}"}}}}"#);
        let process = parse(document("1.2.0", &process)).ok()?.spec.process().clone()?;
        Some(process.exec_cpu_affinity().clone()?.initial().clone())
    };
    for (list, expected) in [
        ("0-3,7", Some(Some("0-3,7"))),
        ("0-3, 7", Some(Some("0-3,7"))),
        (" 0 - 3 ,7 ", Some(Some("0-3,7"))),
        ("", Some(None)),
        ("0 2", None),
        ("0,,2", None),
        ("a", None),
    ] {
        assert_eq!(initial(list), expected.map(|list| list.map(String::from)), "{list:?}");
    }
}

#[test]
fn an_optional_member_that_is_an_empty_string_is_absent() {
    let config = good(
        r#""hostname":"","domainname":"","linux":{"cgroupsPath":"","seccomp":{"defaultAction":"SCMP_ACT_ALLOW",
            "listenerPath":"","listenerMetadata":""},"resources":{"devices":[{"allow":false,"type":"","access":""}]}}"#,
    );
    let spec = &config.spec;
    assert_eq!((spec.hostname(), spec.domainname()), (&None, &None));
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.cgroups_path(), &None);
    let seccomp = linux.seccomp().as_ref().unwrap();
    assert_eq!((seccomp.listener_path(), seccomp.listener_metadata()), (&None, &None));
    let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
    assert_eq!(rules[0].typ(), None);
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"","listenerMetadata":""}"#;
    assert_eq!(parse_seccomp(profile).unwrap().listener_path(), &None);
    let (_, resources) = parse_resources(r#"{"devices":[{"allow":true,"type":"","access":"r"}]}"#).unwrap();
    assert_eq!(resources.devices().as_ref().unwrap()[0].typ(), None);
}

/// ioprio_set(2): the class IDLE has no levels. For the other classes a level is required.
#[test]
fn the_idle_class_needs_no_priority() {
    let process = r#""process":{"cwd":"/","user":{},"ioPriority":{"class":"IOPRIO_CLASS_IDLE"}}"#;
    let config = good(process);
    let priority = *config.spec.process().as_ref().unwrap().io_priority().as_ref().unwrap();
    assert_eq!(priority.priority(), 0);
    for class in ["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE"] {
        let error = parse(document("1.2.0", &process.replace("IOPRIO_CLASS_IDLE", class))).unwrap_err();
        assert!(format!("{error:#}").contains("the member \"priority\" is missing"), "{error:#}");
    }
}

#[test]
fn absent_members_stay_absent() {
    let pids = |text: &str| {
        let config = good(&format!(r#""linux":{{"resources":{{{text}}}}}"#));
        let resources = config.spec.linux().as_ref().unwrap().resources().clone().unwrap();
        resources.pids().map(|pids| pids.limit())
    };
    for (text, expected) in [
        (r#""pids":{"limit":0}"#, Some(0)),
        (r#""pids":{"limit":5}"#, Some(5)),
        (r#""pids":{"limit":-1}"#, Some(-1)),
        (r#""pids":{}"#, None),
        (r#""pids":{"limit":null}"#, None),
        (r#""pids":null"#, None),
        ("", None),
    ] {
        assert_eq!(pids(text), expected, "{text}");
    }
    let config = good(r#""process":{"cwd":"/","args":["sh"]},"mounts":[{"destination":"/","options":null}]"#);
    assert_eq!(config.spec.process().as_ref().unwrap().user().uid(), 0);
    for null in [r#""process":{"cwd":"/","user":null}"#, r#""hooks":null"#, r#""hostname":null"#] {
        good(null);
    }
}

#[test]
fn limits_and_monitoring_are_not_lost() {
    for (limit, expected) in [
        ("18446744073709551615", i64::MAX),
        ("9223372036854775808", i64::MAX),
        ("9223372036854775807", i64::MAX),
        ("2097152", 2_097_152),
    ] {
        let text =
            format!(r#""linux":{{"resources":{{"hugepageLimits":[{{"pageSize":"2MB","limit":{limit}}}]}}}}"#);
        let config = good(&text);
        let resources = config.spec.linux().as_ref().unwrap().resources().clone().unwrap();
        assert_eq!(resources.hugepage_limits().as_ref().unwrap()[0].limit(), expected, "{limit}");
    }
    let config = good(r#""linux":{"intelRdt":{"enableCMT":true,"enableMBM":false,"enableMonitoring":true}}"#);
    let rdt = config.spec.linux().as_ref().unwrap().intel_rdt().clone().unwrap();
    #[allow(deprecated)]
    let got = (*rdt.enable_cmt(), *rdt.enable_mbm(), *rdt.enable_monitoring());
    assert_eq!(got, (Some(true), Some(false), Some(true)));
}

#[test]
fn other_platforms_and_unknown_members_are_ignored() {
    for members in [
        r#""windows":{"layerFolders":7}"#,
        r#""zos":[],"vm":"x","solaris":5,"freebsd":{"a":[1]}"#,
        r#""process":{"cwd":"/","user":{},"future":{"a":1}},"new":[[[]]]"#,
        r#""big":123456789012345678901234567890"#,
    ] {
        good(members);
    }
}

#[test]
fn errors_name_the_place() {
    for (members, place, message) in [
        (r#""process":{"cwd":"/","user":{"uid":"x"}}"#, "process.user.uid", "not the string"),
        (r#""process":{"cwd":"/","user":{"uid":-1}}"#, "process.user.uid", "not the number -1"),
        (r#""process":{"cwd":"/","user":{"uid":4294967296}}"#, "process.user.uid", "4294967296"),
        (r#""process":{"user":{}}"#, "process", "the member \"cwd\" is missing"),
        (r#""process":{"user":{},"cwd":{}}"#, "process.cwd", "not an object"),
        (r#""process":{"cwd":"/","args":"sh"}"#, "process.args", "must be an array"),
        (r#""process":{"cwd":"/","args":["a",5]}"#, "process.args[1]", "must be a string"),
        (
            "\"mounts\":[\n {\"destination\":\"/a\"},\n {\"source\":\"x\",\n  \"options\":[]} ]",
            "mounts[1]",
            "the member \"destination\" is missing",
        ),
        (
            r#""mounts":[{"destination":"/a"},{"destination":"/b","options":["ro",true]}]"#,
            "mounts[1].options[1]",
            "not ",
        ),
        (
            r#""linux":{"sysctl":{"net.ipv4.ip_forward":1}}"#,
            "linux.sysctl[\"net.ipv4.ip_forward\"]",
            "must be a string",
        ),
        (r#""annotations":{"a":"]}\"","b\\\"c":[]}"#, r#"annotations["b\\\"c"]"#, "must be a string"),
        (
            r#""linux":{"namespaces":[{"type":"pid"},{"type":"bogus"}]}"#,
            "linux.namespaces[1].type",
            "\"bogus\" is none of",
        ),
        (r#""linux":{"seccomp":{"defaultAction":"X"}}"#, "linux.seccomp.defaultAction", "\"X\" is none of"),
        (
            r#""linux":{"resources":{"pids":{"limit":1.5}}}"#,
            "linux.resources.pids.limit",
            "must be a whole number",
        ),
        (r#""root":{"path":"a","path":"b"}"#, "root.path", "occurs twice"),
        (r#""hooks":{"poststop":[{"args":[]}]}"#, "hooks.poststop[0]", "the member \"path\" is missing"),
        (
            r#""process":{"cwd":"/","user":{},"ioPriority":{"priority":1}}"#,
            "process.ioPriority",
            "the member \"class\" is missing",
        ),
        (r#""linux":[]"#, "linux", "must be an object, not an array"),
        (r#""process":{"cwd":"/","user":[0,0]}"#, "process.user", "must be an object, not an array"),
        (r#""mounts":[["/a"]]"#, "mounts[0]", "must be an object, not an array"),
        (r#""linux":{"timeOffsets":{"boottime":[1]}}"#, "linux.timeOffsets.boottime", "not an array"),
        // Errors after a repair.
        (
            r#""process":{"cwd":"/","user":{"gid":"x"},"capabilities":{"bounding":["CAP_NEW"]}}"#,
            "process.user.gid",
            "not the string",
        ),
        (r#""process":{"cwd":"/","capabilities":{"bounding":[7]}}"#, "process.capabilities.bounding[0]", ""),
    ] {
        let error = parse(document("1.2.0", members)).expect_err(members);
        let problems = error.downcast_ref::<Problems>().unwrap_or_else(|| panic!("{members}: {error:#}"));
        assert_eq!(problems.0.len(), 1);
        assert_eq!(problems.0[0].place, place, "{members}: {error:#}");
        assert!(problems.0[0].message.contains(message), "{members}: {error:#}");
        assert!(!problems.0[0].message.contains(" at line "), "{members}: {error:#}");
        assert!(pointer(place).starts_with('/'));
    }
}

/// A document, the place of an object in it, and the required members of that object.
const REQUIRED: &[(&str, &str, &[&str])] = &[
    (r#"{"root": {"path": "r"}}"#, "root", &["path"]),
    (r#"{"mounts": [{"destination": "/a"}]}"#, "mounts[0]", &["destination"]),
    (
        r#"{"mounts": [{"destination": "/a", "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}]}"#,
        "mounts[0].uidMappings[0]",
        &["containerID", "hostID", "size"],
    ),
    (r#"{"process": {"cwd": "/"}}"#, "process", &["cwd"]),
    (
        r#"{"process": {"cwd": "/", "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]}}"#,
        "process.rlimits[0]",
        &["type", "soft", "hard"],
    ),
    (r#"{"process": {"cwd": "/", "scheduler": {"policy": "SCHED_IDLE"}}}"#, "process.scheduler", &["policy"]),
    (
        r#"{"process": {"cwd": "/", "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 1}}}"#,
        "process.ioPriority",
        &["class", "priority"],
    ),
    (r#"{"hooks": {"poststop": [{"path": "/a"}]}}"#, "hooks.poststop[0]", &["path"]),
    (r#"{"linux": {"namespaces": [{"type": "pid"}]}}"#, "linux.namespaces[0]", &["type"]),
    (
        r#"{"linux": {"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}}"#,
        "linux.uidMappings[0]",
        &["containerID", "hostID", "size"],
    ),
    (
        r#"{"linux": {"gidMappings": [{"size": 1, "hostID": 1, "containerID": 0}]}}"#,
        "linux.gidMappings[0]",
        &["containerID", "hostID", "size"],
    ),
    (r#"{"linux": {"devices": [{"type": "p", "path": "/a"}]}}"#, "linux.devices[0]", &["type", "path"]),
    (r#"{"linux": {"resources": {"devices": [{"allow": true}]}}}"#, "linux.resources.devices[0]", &["allow"]),
    (
        r#"{"linux": {"resources": {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}}}"#,
        "linux.resources.blockIO.weightDevice[0]",
        &["major", "minor"],
    ),
    (
        r#"{"linux": {"resources": {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}}}}"#,
        "linux.resources.blockIO.throttleReadBpsDevice[0]",
        &["major", "minor", "rate"],
    ),
    (
        r#"{"linux": {"resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}}}"#,
        "linux.resources.hugepageLimits[0]",
        &["pageSize", "limit"],
    ),
    (
        r#"{"linux": {"resources": {"network": {"priorities": [{"name": "lo", "priority": 1}]}}}}"#,
        "linux.resources.network.priorities[0]",
        &["name", "priority"],
    ),
    (r#"{"linux": {"seccomp": {"defaultAction": "SCMP_ACT_LOG"}}}"#, "linux.seccomp", &["defaultAction"]),
    (
        r#"{"linux": {"seccomp": {"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_LOG"}]}}}"#,
        "linux.seccomp.syscalls[0]",
        &["names", "action"],
    ),
    (
        r#"{"linux": {"seccomp": {"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": ["a"],
            "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]}]}}}"#,
        "linux.seccomp.syscalls[0].args[0]",
        &["index", "value", "op"],
    ),
    (r#"{"linux": {"personality": {"domain": "LINUX"}}}"#, "linux.personality", &["domain"]),
    (r#"{"linux": {"memoryPolicy": {"mode": "MPOL_LOCAL"}}}"#, "linux.memoryPolicy", &["mode"]),
];

/// A member that the specification requires is not read as 0 or as an empty value if it is absent.
#[test]
fn required_members_are_required() {
    for (whole, place, members) in REQUIRED {
        let whole = whole.replacen('{', "{\"ociVersion\": \"1.2.0\", ", 1);
        assert!(parse(whole.clone()).is_ok(), "{whole}");
        for member in *members {
            // A member with another name is ignored as unknown.
            let (before, after) = whole.rsplit_once(&format!("\"{member}\": ")).unwrap();
            let error = parse(format!("{before}\"x-{member}\": {after}")).expect_err(member);
            let problems = error.downcast_ref::<Problems>().unwrap_or_else(|| panic!("{member}: {error:#}"));
            assert_eq!(problems.0[0].place, *place, "{error:#}");
            assert!(problems.0[0].message.contains(member), "{error:#}");
        }
    }
    let limits = r#"{"cwd": "/", "rlimits": [{"type": "RLIMIT_CORE", "soft": 0}]}"#;
    assert!(parse_process(limits, Version::NEWEST).is_err());
    assert!(parse_resources(r#"{"devices": [{"access": "rwm"}]}"#).is_err());
}

#[test]
fn broken_json_is_reported_with_line_and_column() {
    let deep = |open: &str, close: &str| open.repeat(200_000) + &close.repeat(200_000);
    let nested =
        document("1.2.0", &format!("\"linux\":{}1{}", "{\"linux\":".repeat(200_000), "}".repeat(200_000)));
    for (text, message) in [
        (String::new(), "is empty"),
        ("{".into(), "line 1, column 1"),
        ("{\"ociVersion\": \"1.0.0\",\n}".into(), "line 2, column 1"),
        ("[]".into(), "config.json: "),
        ("7".into(), "config.json: "),
        ("{\"ociVersion\":\"1.0.0\"} x".into(), "text follows the end"),
        ("\u{feff}{}".into(), "line 1, column 1"),
        (deep("[", "]"), "config.json: "),
        (deep("{\"a\":", "}"), "config.json: "),
    ] {
        let error = parse(text).expect_err(message);
        assert_eq!(kind(&error), Kind::Config);
        let shown = format!("{error:#}");
        assert!(shown.contains(message) && !shown.contains('\n') && shown.len() < 200, "{shown}");
    }
    // Depth below an unknown member needs no stack.
    parse(nested).unwrap();
    let deep_mounts = document("1.2.0", &format!("\"mounts\":{}", deep("[", "]")));
    assert_eq!(kind(&parse(deep_mounts).unwrap_err()), Kind::Config);
    let unknown = document("1.2.0", &format!("\"process\":{{\"cwd\":\"/\"}},\"x\":{}", deep("[", "]")));
    assert!(format!("{:#}", parse(unknown).unwrap_err()).contains("nested more than 127"));
}

#[test]
fn a_truncated_document_is_an_error_and_no_panic() {
    let text = document(
        "1.2.0",
        r#""process":{"cwd":"/ä\u00e4","user":{"uid":1}},"mounts":[{"destination":"/\"a","options":["ro"]}]"#,
    );
    assert!(parse(text.clone()).is_ok());
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        assert!(parse(text[..end].to_string()).is_err(), "{end}");
        // The text is wrong from this byte on.
        assert!(parse(format!("{}\u{1}{}", &text[..end], &text[end..])).is_err(), "{end}");
    }
    for (line, column) in [(0, 0), (1, 0), (1, 5_000), (9, 9)] {
        place::at(&text, line, column);
    }
}

#[test]
fn process_documents_are_read_alike() {
    let (process, warnings) =
        parse_process(r#"{"cwd":"/","capabilities":{"bounding":["CAP_NEW"]}}"#, Version::NEWEST).unwrap();
    assert_eq!(process.user().uid(), 0);
    assert_eq!(warnings, ["capabilities.bounding[0]: unknown capability \"CAP_NEW\", ignoring"]);
    for (text, expected) in [
        (r#"{"cwd":"/","user":{"uid":"x"}}"#, "user.uid: must be a whole number"),
        (r#"{"user":{}}"#, "process: the member \"cwd\" is missing"),
        ("{", "process: line 1, column 1: ends before"),
    ] {
        let error = parse_process(text, Version::NEWEST).unwrap_err();
        assert!(format!("{error:#}").starts_with(expected), "{error:#}");
    }
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn only_regular_files_of_a_sane_size_are_read() {
    let scratch = Scratch(std::env::temp_dir().join(format!("corten-config-{}", std::process::id())));
    std::fs::create_dir_all(&scratch.0).unwrap();
    let file = scratch.0.join("config.json");
    let text = document("1.2.0", "");
    let big = [text.clone().into_bytes(), vec![b' '; 16 << 20]].concat();
    let full = [text.clone().into_bytes(), vec![b' '; (16 << 20) - text.len()]].concat();
    for (bytes, expected) in [
        (text.as_bytes(), None),
        (&full[..], None),
        (&big[..], Some("larger than 16 MiB")),
        (&b"{\"ociVersion\":\"1.0.0\",\"hostname\":\"\xff\"}"[..], Some("not UTF-8 at byte 34")),
    ] {
        std::fs::write(&file, bytes).unwrap();
        match (load(&scratch.0), expected) {
            (Ok(_), None) => {}
            (Err(e), Some(words)) => assert!(format!("{e:#}").contains(words), "{e:#}"),
            (got, _) => panic!("{expected:?}: {:?}", got.map(|_| ())),
        }
    }
    std::fs::remove_file(&file).unwrap();
    assert!(format!("{:#}", load(&scratch.0).unwrap_err()).contains("no such file or directory"));
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(format!("{:#}", load(&scratch.0).unwrap_err()).contains("not a regular file"));
    assert!(load_file(Path::new("/dev/zero")).is_err());
    assert!(load_file(Path::new(std::ffi::OsStr::from_bytes(b"/a\0b"))).is_err());
    assert!(load_file(&scratch.0).is_err());
}
