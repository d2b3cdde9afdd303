//! The annotations that other runtimes act on. The areas plan those that corten honours; here are the others.
//!
//! An annotation whose neglect would make the container less confined, or something else than a process, is an
//! error. Another one of a prefix that asks the runtime for something is a warning.

use std::collections::HashMap;

use crate::error::Notes;
use crate::hooks::{STDERR, STDOUT};
use crate::namespaces::OFFSET;
use crate::process::{credentials, landlock};
use crate::seccomp;
use crate::suggest;

/// crun's annotation that makes an unknown name in the seccomp profile an error.
const FAIL_UNKNOWN: &str = "run.oci.seccomp_fail_unknown_syscall";

/// CRIU's configuration file for one container.
pub(crate) const CRIU: &str = "org.criu.config";

const HONOURED: [&str; 7] =
    [FAIL_UNKNOWN, OFFSET, STDERR, STDOUT, credentials::KEEP_GROUPS, landlock::ANNOTATION, CRIU];

/// The prefixes of annotations that ask a runtime for something, each with the reason for which an unknown one has no effect.
const PREFIXES: [(&str, &str); 4] = [
    ("dev.corten.", "corten has no such annotation"),
    ("krun.", "corten makes no virtual machines"),
    ("org.criu.", "corten has no such annotation"),
    ("run.oci.", "corten has no such annotation"),
];

pub(super) fn check(
    annotations: Option<&HashMap<String, String>>,
    seccomp: Option<&seccomp::Plan>,
    notes: &mut Notes,
) {
    let Some(annotations) = annotations else { return };
    // Sorted, so that the messages do not depend on the order of a hash map.
    let mut sorted: Vec<(&str, &str)> =
        annotations.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    sorted.sort_unstable();
    for (name, value) in sorted {
        let place = format!("annotations[{name:?}]");
        match (name, value) {
            ("", _) => notes.problem("annotations", "has an empty key"),
            (FAIL_UNKNOWN, value) if value != "0" => {
                let unknown = seccomp.map(|seccomp| seccomp.unknown.join(", ")).unwrap_or_default();
                if !unknown.is_empty() {
                    notes
                        .problem("linux.seccomp.syscalls", format_args!("no kernel has {unknown} ({place})"));
                }
            }
            // crun's values for what is done here anyway.
            ("run.oci.handler" | "run.oci.systemd.subgroup" | "run.oci.delegate-cgroup", "")
            | ("run.oci.mount_context_type", "context") => {}
            ("run.oci.handler", handler) => {
                notes.problem(place, format_args!("corten has no handler {handler:?}, only processes"));
            }
            ("run.oci.seccomp_bpf_data", _) => {
                notes.problem(place, "is not supported (hint: linux.seccomp is the filter)");
            }
            (name, _) if HONOURED.contains(&name) => {}
            (name, _) => {
                if let Some((_, why)) = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix)) {
                    let why = hint(name).unwrap_or(why);
                    let meant =
                        suggest::nearest(name, HONOURED).map(|meant| format!(" (did you mean {meant}?)"));
                    let meant = meant.unwrap_or_default();
                    notes.warn(format!("{place}: has no effect, {why}{meant}, ignoring"));
                }
            }
        }
    }
}

/// Returns what replaces an annotation of crun.
fn hint(name: &str) -> Option<&'static str> {
    match name {
        "run.oci.pidfd_receiver" => Some("the option --pidfd-socket replaces it"),
        "run.oci.seccomp.receiver" => Some("linux.seccomp.listenerPath replaces it"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the annotation, or with 0, the profile may be newer than corten.
    #[test]
    fn an_unknown_system_call_is_an_error_if_the_annotation_says_so() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["nosuchcall", "mkdir", "neither"], "action": "SCMP_ACT_ERRNO"}]}"#;
        let plan = seccomp::plan(&serde_json::from_str(profile).unwrap(), &mut Notes::default());
        for (value, expected) in [
            ("0", ""),
            (
                "1",
                "linux.seccomp.syscalls: no kernel has nosuchcall, neither \
                 (annotations[\"run.oci.seccomp_fail_unknown_syscall\"])",
            ),
        ] {
            let mut notes = Notes::default();
            let annotations = HashMap::from([(FAIL_UNKNOWN.to_string(), value.to_string())]);
            check(Some(&annotations), plan.as_ref(), &mut notes);
            assert_eq!(notes.problems.to_string(), expected);
        }
    }

    #[test]
    fn the_page_lists_every_annotation() {
        let page = include_str!("../../docs/annotations.md");
        let source = include_str!("annotations.rs").split("#[cfg(test)]").next().unwrap_or_default();
        let quoted = source.split('"').skip(1).step_by(2);
        let named = quoted.filter(|text| PREFIXES.iter().any(|(prefix, _)| text.starts_with(prefix)));
        let systemd = crate::cgroups::systemd::ANNOTATION;
        for name in named.chain(HONOURED).chain([systemd]) {
            assert!(page.contains(&format!("`{name}")), "{name}");
        }
    }

    #[test]
    fn annotations_of_known_prefixes_are_honoured_warned_of_or_refused() {
        for (name, value, problem, warning) in [
            ("", "x", "annotations: has an empty key", ""),
            ("org.example.key", "x", "", ""),
            ("run.oci", "x", "", ""),
            ("dev.corten.landlock", "{}", "", ""),
            (
                "dev.corten.landlok",
                "{}",
                "",
                "has no effect, corten has no such annotation (did you mean dev.corten.landlock?), ignoring",
            ),
            ("krun.cpus", "2", "", "has no effect, corten makes no virtual machines, ignoring"),
            (
                "org.criu.confi",
                "/c",
                "",
                "has no effect, corten has no such annotation (did you mean org.criu.config?), ignoring",
            ),
            ("org.criu.config", "/c", "", ""),
            ("run.oci.delegate-cgroup", "x", "", "has no effect, corten has no such annotation, ignoring"),
            ("run.oci.delegate-cgroup", "", "", ""),
            ("run.oci.handler", "", "", ""),
            ("run.oci.handler", "krun", "corten has no handler \"krun\", only processes", ""),
            ("run.oci.hooks.stdout", "/tmp/x", "", ""),
            ("run.oci.keep_original_groups", "1", "", ""),
            ("run.oci.mount_context_type", "context", "", ""),
            (
                "run.oci.mount_context_type",
                "fscontext",
                "",
                "has no effect, corten has no such annotation, ignoring",
            ),
            (
                "run.oci.pidfd_receiver",
                "/s",
                "",
                "has no effect, the option --pidfd-socket replaces it, ignoring",
            ),
            ("run.oci.seccomp_bpf_data", "AA==", "is not supported (hint: linux.seccomp is the filter)", ""),
            ("run.oci.seccomp_fail_unknown_syscall", "1", "", ""),
            ("run.oci.timens_offset", "monotonic 1 0", "", ""),
        ] {
            let mut notes = Notes::default();
            let annotations = HashMap::from([(name.to_string(), value.to_string())]);
            check(Some(&annotations), None, &mut notes);
            let at = |text: &str| match text {
                "" => String::new(),
                text if name.is_empty() => text.into(),
                text => format!("annotations[{name:?}]: {text}"),
            };
            let got = (notes.problems.to_string(), notes.warnings.join("; "));
            assert_eq!(got, (at(problem), at(warning)), "{name}={value}");
        }
    }
}
