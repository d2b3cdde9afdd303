//! The device filter → writes to `devices.deny` and `devices.allow`.
//!
//! The kernel keeps what holds for all devices and a list of exceptions from that. The opposite of an
//! exception takes it away, but only one for the same device numbers: with other numbers it has no effect,
//! and the kernel does not say so.

use crate::cgroups::devices::{Filter, Rule, Type};
use crate::cgroups::resources::Write;
use crate::error::Problems;

const PLACE: &str = "linux.resources.devices";

/// The writes in the order of the rules, after the one that sets what holds for all others.
pub(super) fn lower(filter: &Filter, problems: &mut Problems) -> Vec<Write> {
    let write = |allow: bool, value: String| {
        Write::new(if allow { "devices.allow" } else { "devices.deny" }, value, PLACE)
    };
    let mut writes = vec![write(filter.otherwise, "a".into())];
    // `a` means every device whatever numbers follow: such a rule is one for each kind.
    let rules = filter.rules.iter().flat_map(|rule| {
        let kinds = rule.kind.map_or_else(|| vec![Type::Char, Type::Block], |kind| vec![kind]);
        kinds.into_iter().map(move |kind| Rule { kind: Some(kind), ..*rule })
    });
    let rules: Vec<Rule> = rules.collect();
    for (i, rule) in rules.iter().enumerate() {
        let same = |other: &Rule| (other.major, other.minor) == (rule.major, rule.minor);
        let lost = |other: &&Rule| other.allow != rule.allow && other.overlaps(rule) && !same(other);
        if rule.allow == filter.otherwise
            && let Some(other) = rules[..i].iter().find(lost)
        {
            let (rule, other) = (words(rule), words(other));
            let why = "takes back a part of another rule, which cgroup v1 cannot";
            problems.add(PLACE, format!("the rule for {rule:?} {why}: {other:?}"));
            continue;
        }
        writes.push(write(rule.allow, words(rule)));
    }
    writes
}

/// A rule in the kernel's words.
fn words(rule: &Rule) -> String {
    let kind = match rule.kind {
        None => 'a',
        Some(Type::Block) => 'b',
        Some(Type::Char) => 'c',
    };
    let number = |n: Option<u32>| n.map_or_else(|| "*".into(), |n| n.to_string());
    format!("{kind} {}:{} {}", number(rule.major), number(rule.minor), rule.access_words())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::devices;

    fn lowered(rules: &str) -> Result<Vec<String>, String> {
        let rules: Vec<oci_spec::runtime::LinuxDeviceCgroup> = serde_json::from_str(rules).unwrap();
        let mut problems = Problems::default();
        let filter = devices::plan(&rules, &mut problems).unwrap();
        let writes = lower(&filter, &mut problems);
        if !problems.0.is_empty() {
            return Err(problems.to_string());
        }
        let sign = |w: &Write| if w.file == "devices.allow" { '+' } else { '-' };
        Ok(writes.iter().map(|w| format!("{}{}", sign(w), w.value)).collect())
    }

    const DEFAULTS: [&str; 10] = [
        "+c *:* m",
        "+b *:* m",
        "+c 1:3 rwm",
        "+c 1:5 rwm",
        "+c 1:7 rwm",
        "+c 1:8 rwm",
        "+c 1:9 rwm",
        "+c 5:0 rwm",
        "+c 5:2 rwm",
        "+c 136:* rwm",
    ];

    #[test]
    fn rules_keep_their_order() {
        for (rules, own) in [
            ("[]", &["-a"][..]),
            (r#"[{"allow":false,"access":"rwm"}]"#, &["-a"]),
            (
                r#"[{"allow":false,"access":"rwm"},
                    {"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
                    {"allow":true,"type":"b","major":8,"minor":20,"access":"rw"},
                    {"allow":true,"type":"c","major":10,"minor":200,"access":"r"}]"#,
                &["-a", "+c 10:229 rw", "+b 8:20 rw", "+c 10:200 r"],
            ),
            // The kernel would take `a` for every device.
            (
                r#"[{"allow":true,"type":"a","major":10,"minor":5,"access":"r"}]"#,
                &["-a", "+c 10:5 r", "+b 10:5 r"],
            ),
            (
                r#"[{"allow":true,"type":"c","major":10,"minor":5,"access":"rw"},
                    {"allow":false,"type":"c","major":10,"minor":5,"access":"w"}]"#,
                &["-a", "+c 10:5 rw", "-c 10:5 w"],
            ),
        ] {
            let expected: Vec<&str> = own.iter().chain(&DEFAULTS).copied().collect();
            assert_eq!(lowered(rules).unwrap(), expected, "{rules}");
        }
        let rules = r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","access":"rw"}]"#;
        assert_eq!(lowered(rules).unwrap(), ["+a", "-b *:* rw"]);
    }

    #[test]
    fn what_the_kernel_would_not_do_is_refused() {
        for rules in [
            r#"[{"allow":true,"type":"c","major":10,"access":"rw"},
                {"allow":false,"type":"c","major":10,"minor":5,"access":"rw"}]"#,
            r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"access":"rw"},
                {"allow":true,"type":"b","major":8,"minor":1,"access":"r"}]"#,
        ] {
            assert!(lowered(rules).unwrap_err().contains("cgroup v1 cannot"), "{rules}");
        }
    }
}
