//! The members of a document that the specification does not have. They are ignored, as the specification wants
//! (config.md#extensibility). A member whose name is near a known one is probably misspelt.
//!
//! The known members are those of the types of oci-spec ([`strict`]), so that no list of them can be out of date.

use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde_json::Value;

use super::version::Version;
use super::{repair, strict};
use crate::suggest;

/// A member that the specification does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    pub place: String,
    /// The member that it probably means.
    pub meant: Option<&'static str>,
}

impl Unknown {
    /// Returns the text of a warning.
    #[must_use]
    pub(crate) fn message(&self) -> String {
        self.meant
            .map_or_else(|| "unknown member".into(), |meant| format!("unknown member, did you mean {meant}?"))
    }
}

/// The most members that one warning names.
const NAMED_MAX: usize = 16;

/// Returns one warning about all members that are probably misspelt. The others may be extensions.
pub(crate) fn misspelt(unknown: &[Unknown]) -> Option<String> {
    let near = unknown.iter().filter(|member| member.meant.is_some());
    let texts: Vec<String> = near.map(|member| format!("{}: {}", member.place, member.message())).collect();
    let more = texts.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    (!texts.is_empty()).then(|| texts[..texts.len().min(NAMED_MAX)].join("; ") + &more)
}

/// Returns the unknown members of a configuration. The sections of other platforms may contain anything.
pub(super) fn in_configuration(text: &str) -> Vec<Unknown> {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    repair::configuration(&mut value, &mut repair::Found::default());
    in_value(&value)
}

/// Returns the unknown members of a configuration that was repaired, up to its first error.
pub(super) fn in_value(value: &Value) -> Vec<Unknown> {
    let mut unknown = named(strict::unknown::<Spec>(value));
    // oci-spec does not have this section of version 1.3, for another platform.
    unknown.retain(|member| member.place != "freebsd");
    unknown
}

/// Returns the unknown members of a process document.
pub(super) fn in_process(text: &str, version: Version) -> Vec<Unknown> {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    repair::process(&mut value, "", version, &mut repair::Found::default());
    named(strict::unknown::<Process>(&value))
}

/// Returns the unknown members of a `linux.resources` document that was read already.
pub(crate) fn in_resources(value: &Value) -> Vec<Unknown> {
    named(strict::unknown::<LinuxResources>(value))
}

fn named(unknown: Vec<strict::Unknown>) -> Vec<Unknown> {
    let member = |strict::Unknown { place, name, known }| {
        // The types have two members under names that the specification does not have (`repair`).
        let meant = suggest::nearest(&name, known.iter().copied()).map(|meant| match meant {
            "enableCmt" => "enableCMT",
            "enableMbm" => "enableMBM",
            other => other,
        });
        Unknown { place, meant }
    };
    unknown.into_iter().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{parse, parse_process, parse_resources};

    fn unknown(members: &str) -> Vec<Unknown> {
        parse(format!("{{\"ociVersion\":\"1.2.0\",{members}}}")).unwrap().unknown
    }

    #[test]
    fn unknown_members_have_their_place_and_the_known_one_that_is_near() {
        let process =
            |members: &str| format!(r#""process":{{"cwd":"/","user":{{"uid":0,"gid":0}},{members}}}"#);
        let linux = |members: &str| format!(r#""linux":{{{members}}}"#);
        for (members, expected) in [
            (r#""proces":{"cwd":5}"#.into(), "proces: unknown member, did you mean process?"),
            (r#""x-engine":[{"y":1}]"#.into(), "[\"x-engine\"]: unknown member"),
            (
                r#""root":{"path":"r","readOnly":true}"#.into(),
                "root.readOnly: unknown member, did you mean readonly?",
            ),
            (
                r#""hooks":{"createRuntme":[],"poststop":[{"path":"/x","timout":1}]}"#.into(),
                "hooks.createRuntme: unknown member, did you mean createRuntime?; \
                 hooks.poststop[0].timout: unknown member, did you mean timeout?",
            ),
            (
                r#""mounts":[{"destination":"/a"},{"destination":"/b","sorce":"/c"}]"#.into(),
                "mounts[1].sorce: unknown member, did you mean source?",
            ),
            (
                process(
                    r#""noNewPriviliges":true,"capabilites":{},"rlimits":[{"type":"RLIMIT_CORE","hard":0,"soft":0,"x":1}]"#,
                ),
                "process.capabilites: unknown member, did you mean capabilities?; \
                 process.noNewPriviliges: unknown member, did you mean noNewPrivileges?; \
                 process.rlimits[0].x: unknown member",
            ),
            (
                linux(r#""resources":{"memory":{"limt":5},"pids":{"limit":5},"unified":{"limt":"5"}}"#),
                "linux.resources.memory.limt: unknown member, did you mean limit?",
            ),
            (
                linux(
                    r#""seccomp":{"defaultAction":"SCMP_ACT_ALLOW","archtectures":[],
                    "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","errnoret":1}]}"#,
                ),
                "linux.seccomp.archtectures: unknown member, did you mean architectures?; \
                 linux.seccomp.syscalls[0].errnoret: unknown member, did you mean errnoRet?",
            ),
            // The document is repaired, and converted a second time.
            (
                linux(r#""resources":{"pids":{},"memry":{}},"intelRdt":{"enableCMT":true,"enableCM":true}"#),
                "linux.intelRdt.enableCM: unknown member, did you mean enableCMT?; \
                 linux.resources.memry: unknown member, did you mean memory?",
            ),
            // Maps have any members, and the sections of other platforms are nobody's here.
            (
                r#""annotations":{"proces":"x"},"windows":{"proces":1},"freebsd":{"jail":{}},"zos":{"x":1}"#
                    .into(),
                "",
            ),
        ] {
            let texts: Vec<String> =
                unknown(&members).iter().map(|m| format!("{}: {}", m.place, m.message())).collect();
            assert_eq!(texts.join("; "), expected, "{members}");
        }
    }

    #[test]
    fn one_warning_names_the_misspelt_members_only() {
        let found = unknown(r#""proces":{},"com.example":1,"root":{"path":"r","readOnly":true}"#);
        let expected = "proces: unknown member, did you mean process?; \
                        root.readOnly: unknown member, did you mean readonly?";
        assert_eq!(misspelt(&found).as_deref(), Some(expected));
        assert_eq!(misspelt(&unknown(r#""com.example":1"#)), None);
        let many = vec![r#"{"destination":"/","tpe":"x"}"#; NAMED_MAX + 2].join(",");
        let many = misspelt(&unknown(&format!(r#""mounts":[{many}]"#))).unwrap();
        assert!(many.ends_with("did you mean type?; and 2 more"), "{many}");
        let process = r#"{"cwd":"/","user":{"uid":0,"gid":0},"agrs":["sh"],"x":1}"#;
        let (_, warnings) = parse_process(process, Version::NEWEST).unwrap();
        assert_eq!(warnings, ["agrs: unknown member, did you mean args?"]);
        let (resources, _) = parse_resources(r#"{"memory":{"limt":5},"x":1}"#).unwrap();
        let expected = "memory.limt: unknown member, did you mean limit?";
        assert_eq!(misspelt(&in_resources(&resources)).as_deref(), Some(expected));
    }

    /// Every member that the types of the specification's version 1.3.0 have for Linux (specs-go/config.go).
    #[test]
    fn every_member_of_the_specification_is_known() {
        let text = include_str!("unknown/all-members.json");
        let config = parse(text.into()).unwrap();
        assert_eq!(config.unknown, []);
        assert_eq!(config.warnings, [""; 0]);
    }
}
