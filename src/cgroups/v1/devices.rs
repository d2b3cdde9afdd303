//! The device filter → writes to `devices.deny` and `devices.allow`.
//!
//! The kernel keeps a default for all devices and a list of exceptions from it. The opposite rule removes an
//! exception, but only for exactly the same device numbers. With other numbers it has no effect, and the
//! kernel does not report that.
//!
//! v1 accepts device rules one by one. `update` computes the kernel's new list and writes the difference. New
//! rules are written before old ones are removed, because users must not lose a device in between.

use std::collections::{BTreeMap, BTreeSet};

use crate::cgroups::devices::{DeviceRules, Filter, Rule, Type};
use crate::cgroups::directory::Directory;
use crate::cgroups::resources::Write;
use crate::error::{Notes, Result};

const PLACE: &str = "linux.resources.devices";

/// The file that shows the rules.
const LIST: &str = "devices.list";

/// The number that the kernel uses for `*`. No device has this number.
const ANY: u32 = u32::MAX;

/// Returns the writes that give a filter's rules to a cgroup, whatever rules it has had: first the one that
/// sets what holds for all devices, then the exceptions in their order.
pub(super) fn lower(filter: Option<&Filter>, notes: &mut Notes) -> Vec<Write> {
    let write = |allow: bool, value: String| {
        Write::new(if allow { "devices.allow" } else { "devices.deny" }, value, PLACE)
    };
    let Some(filter) = filter else { return vec![write(true, "a".into())] };
    let mut writes = vec![write(filter.otherwise, "a".into())];
    // The kernel reads `a` as every device, whatever numbers follow. Therefore such a rule becomes one for
    // each type.
    let rules = filter.rules.iter().flat_map(|rule| {
        let kinds = rule.kind.map_or_else(|| vec![Type::Char, Type::Block], |kind| vec![kind]);
        kinds.into_iter().map(move |kind| Rule { kind: Some(kind), ..*rule })
    });
    let rules: Vec<Rule> = rules.collect();
    for (i, rule) in rules.iter().enumerate() {
        if [rule.major, rule.minor].contains(&Some(ANY)) {
            let rule = rule.to_string();
            notes.problem(PLACE, format!("the rule for {rule:?}: cgroup v1 reads {ANY} as every device"));
            continue;
        }
        let same = |other: &Rule| (other.major, other.minor) == (rule.major, rule.minor);
        let lost = |other: &&Rule| other.allow != rule.allow && other.overlaps(rule) && !same(other);
        if rule.allow == filter.otherwise
            && let Some(other) = rules[..i].iter().find(lost)
        {
            let (rule, other) = (rule.to_string(), other.to_string());
            let why = "revokes a part of another rule, which cgroup v1 cannot do";
            notes.problem(PLACE, format!("the rule for {rule:?} {why}: {other:?}"));
            continue;
        }
        writes.push(write(rule.allow, rule.to_string()));
    }
    writes
}

fn checked(filter: Option<&Filter>) -> Result<Vec<Write>> {
    let mut notes = Notes::default();
    let writes = lower(filter, &mut notes);
    notes.into_result().map(|_| writes)
}

/// Replaces the rules of a cgroup. v1 cannot exchange all of them at once: only the differences are written
/// if they are known, and otherwise all rules, one after the other.
pub(in crate::cgroups) fn replace(directory: &Directory, filter: Option<&Filter>) -> Result<()> {
    let writes = checked(filter)?;
    let now = List::parse(&directory.read(LIST)?.unwrap_or_default());
    let steps = now.steps(&List::of(&writes)).unwrap_or(writes);
    steps.iter().try_for_each(|write| directory.write(&write.file, &write.value.to_string()))
}

/// Compares the rules in force with those of a filter.
pub(in crate::cgroups) fn compare(directory: &Directory, filter: Option<&Filter>) -> Result<DeviceRules> {
    let (asked, now) = (List::of(&checked(filter)?), List::parse(&directory.read(LIST)?.unwrap_or_default()));
    let same = now.looks_like(&asked);
    Ok(DeviceRules { file: LIST, asked: asked.words(), applied: now.words(), same })
}

/// The rules as the kernel keeps them and shows them in `devices.list`.
#[derive(Debug, PartialEq, Eq)]
struct List {
    /// Whether a device without an exception is allowed. If so, the kernel does not show the exceptions.
    otherwise: bool,
    /// The letters for each type and number, such as `c 10:229`.
    exceptions: BTreeMap<String, BTreeSet<char>>,
}

/// The text of `devices.list` if every device without an exception is allowed.
const ALL: &str = "a *:* rwm";

impl List {
    fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && *line != ALL);
        let exceptions = lines.filter_map(exception).collect();
        Self { otherwise: text.trim() == ALL, exceptions }
    }

    /// Returns the rules after these writes, which are as [`lower`] returns them.
    fn of(writes: &[Write]) -> Self {
        let mut list = Self { otherwise: true, exceptions: BTreeMap::new() };
        for write in writes {
            let allow = write.file == "devices.allow";
            let Some((device, letters)) = exception(&write.value.to_string()) else {
                list = Self { otherwise: allow, exceptions: BTreeMap::new() };
                continue;
            };
            let kept = list.exceptions.entry(device).or_default();
            if allow == list.otherwise {
                kept.retain(|letter| !letters.contains(letter));
            } else {
                kept.extend(letters);
            }
        }
        list.exceptions.retain(|_, letters| !letters.is_empty());
        list
    }

    /// Reports whether the kernel shows both in the same way.
    fn looks_like(&self, other: &Self) -> bool {
        self.otherwise == other.otherwise && (self.otherwise || self.exceptions == other.exceptions)
    }

    fn words(&self) -> String {
        let mut all: Vec<String> =
            self.exceptions.iter().map(|(device, letters)| entry(device, letters)).collect();
        match (self.otherwise, all.is_empty()) {
            (true, true) => ALL.into(),
            (true, false) => format!("{ALL} but {}", all.join(", ")),
            (false, true) => "none".into(),
            (false, false) => std::mem::take(&mut all).join(", "),
        }
    }

    /// Returns the writes that lead from `self` to `to`. New devices are allowed before others are denied, so
    /// that no device that both allow is lost in between. Returns `None` if the kernel does not show the
    /// exceptions.
    fn steps(&self, to: &Self) -> Option<Vec<Write>> {
        let steps = |file: &str, from: &Self, to: &Self| {
            let mut writes = Vec::new();
            for (device, letters) in &to.exceptions {
                let had = from.exceptions.get(device);
                let new =
                    letters.iter().filter(|letter| !had.is_some_and(|had| had.contains(letter))).copied();
                let new: BTreeSet<char> = new.collect();
                if !new.is_empty() {
                    writes.push(Write::new(file, entry(device, &new), PLACE));
                }
            }
            writes
        };
        let known = !self.otherwise && !to.otherwise;
        known.then(|| [steps("devices.allow", self, to), steps("devices.deny", to, self)].concat())
    }
}

/// Divides `c 10:229 rw` into the device and the letters.
fn exception(line: &str) -> Option<(String, BTreeSet<char>)> {
    let (device, letters) = line.trim().rsplit_once(' ')?;
    Some((device.into(), letters.chars().collect()))
}

fn entry(device: &str, letters: &BTreeSet<char>) -> String {
    let letters: String = "rwm".chars().filter(|letter| letters.contains(letter)).collect();
    format!("{device} {letters}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::devices;

    fn lowered(rules: &str) -> Result<Vec<String>, String> {
        let rules: Vec<oci_spec::runtime::LinuxDeviceCgroup> = serde_json::from_str(rules).unwrap();
        let mut notes = Notes::default();
        let filter = devices::plan(&rules, &mut notes).unwrap();
        let writes = lower(Some(&filter), &mut notes);
        if !notes.problems.0.is_empty() {
            return Err(notes.problems.to_string());
        }
        let sign = |w: &Write| if w.file == "devices.allow" { '+' } else { '-' };
        Ok(writes.iter().map(|w| format!("{}{}", sign(w), w.value)).collect())
    }

    const DEFAULTS: [&str; 11] = [
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
        "+c 10:200 rwm",
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
                    {"allow":true,"type":"c","major":10,"minor":228,"access":"r"}]"#,
                &["-a", "+c 10:229 rw", "+b 8:20 rw", "+c 10:228 r"],
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
    fn the_kernels_list_is_predicted() {
        let list = |rules: &str| {
            let rules: Vec<oci_spec::runtime::LinuxDeviceCgroup> = serde_json::from_str(rules).unwrap();
            let mut notes = Notes::default();
            List::of(&lower(devices::plan(&rules, &mut notes).as_ref(), &mut notes))
        };
        let listed = |words: &[&str]| List::parse(&(words.join("\n") + "\n"));
        let defaults = DEFAULTS.map(|word| &word[1..]);
        let one = list(r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]"#);
        let partly = list(
            r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"},
                {"allow":false,"type":"c","major":10,"minor":229,"access":"wm"}]"#,
        );
        let mut lines = defaults.to_vec();
        assert!(list("[]").looks_like(&listed(&lines)));
        lines.insert(0, "c 10:229 rw");
        assert!(one.looks_like(&listed(&lines)) && !list("[]").looks_like(&listed(&lines)));
        assert!(!partly.looks_like(&listed(&lines)));
        lines[0] = "c 10:229 r";
        assert!(partly.looks_like(&listed(&lines)));
        // Where everything is allowed, the exceptions are not shown.
        let but = list(r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","access":"w"}]"#);
        assert!(but.looks_like(&listed(&["a *:* rwm"])) && !but.looks_like(&listed(&defaults)));
        assert_eq!(but.words(), "a *:* rwm but b *:* w");
        assert_eq!(listed(&[]).words(), "none");

        let show = |from: &List, to: &List| {
            from.steps(to)
                .map(|steps| steps.iter().map(|w| format!("{} {}", w.file, w.value)).collect::<Vec<_>>())
        };
        assert_eq!(show(&one, &partly).unwrap(), ["devices.deny c 10:229 w"]);
        assert_eq!(show(&partly, &one).unwrap(), ["devices.allow c 10:229 w"]);
        assert_eq!(show(&list("[]"), &one).unwrap(), ["devices.allow c 10:229 rw"]);
        assert_eq!(show(&one, &one).unwrap(), [""; 0]);
        assert_eq!((show(&but, &one), show(&one, &but)), (None, None));
    }

    #[test]
    fn rules_that_the_kernel_would_ignore_are_refused() {
        for rules in [
            r#"[{"allow":true,"type":"c","major":10,"access":"rw"},
                {"allow":false,"type":"c","major":10,"minor":5,"access":"rw"}]"#,
            r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"access":"rw"},
                {"allow":true,"type":"b","major":8,"minor":1,"access":"r"}]"#,
        ] {
            assert!(lowered(rules).unwrap_err().contains("cgroup v1 cannot do"), "{rules}");
        }
        for number in ["major", "minor"] {
            let rules = format!(r#"[{{"allow":true,"type":"c","{number}":4294967295,"access":"r"}}]"#);
            assert!(lowered(&rules).unwrap_err().contains("as every device"), "{rules}");
        }
    }
}
