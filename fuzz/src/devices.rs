//! Device rules: the eBPF program and the writes to cgroup v1 decide as the list itself does, read rule by
//! rule.

#[path = "reading.rs"]
mod reading;

use std::collections::BTreeSet;

use corten::testing::cgroups::devices::{self, Rule, Type};
use corten::testing::cgroups::{self, Manager, Write};
use corten::testing::error::Notes;
use corten::testing::sys::bpf::Instruction;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};
use serde_json::{Value, json};

/// Device numbers: none, any, those of the default rules, and numbers at limits.
const NUMBERS: [Option<i64>; 16] = [
    None,
    Some(-1),
    Some(0),
    Some(1),
    Some(2),
    Some(3),
    Some(5),
    Some(8),
    Some(9),
    Some(10),
    Some(136),
    Some(200),
    Some(4095),
    Some(0x8000_0000),
    Some(0xffff_fffe),
    Some(0xffff_ffff),
];

/// Reads rules: two bytes say whether a rule allows, its kind and access, and the next bytes are its numbers.
fn rules(data: &[u8]) -> Vec<(LinuxDeviceCgroup, Rule)> {
    let rule = |pair: &[u8]| {
        let (what, numbers) = (pair[0], pair[1]);
        let allow = what & 1 != 0;
        let (word, kind) = [
            (Value::Null, None),
            (json!("a"), None),
            (json!("b"), Some(Type::Block)),
            (json!("c"), Some(Type::Char)),
        ][usize::from(what >> 1 & 3)]
        .clone();
        let (major, minor) = (NUMBERS[usize::from(numbers >> 4)], NUMBERS[usize::from(numbers & 15)]);
        let access = what >> 3 & 7;
        let letters: String = [(2, 'r'), (4, 'w'), (1, 'm')]
            .iter()
            .filter(|(bit, _)| access & bit != 0)
            .map(|(_, letter)| letter)
            .collect();
        // A rule that denies no access denies all, and a rule that allows none is refused.
        let access = if access == 0 && !allow { 7 } else { access };
        let given = json!({"allow": allow, "type": word, "major": major, "minor": minor, "access": letters});
        let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
        let rule = Rule { allow, kind, major: number(major), minor: number(minor), access };
        (serde_json::from_value(given).unwrap_or_else(|e| panic!("{e}")), rule)
    };
    data.chunks_exact(2).take(64).map(rule).filter(|(_, rule)| rule.access != 0).collect()
}

pub fn check(data: &[u8]) {
    let (given, mut wanted): (Vec<_>, Vec<_>) = rules(data).into_iter().unzip();
    let mut notes = Notes::default();
    let filter = devices::plan(&given, &mut notes);
    assert_eq!(notes.problems.to_string(), "");
    let program = filter.as_ref().map(devices::Filter::compile);
    let v1 = v1(&given).map(|writes| Kernel::told(&writes));
    // The default rules come last.
    wanted.extend(devices::plan(&[], &mut notes).into_iter().flat_map(|filter| filter.rules));
    // The numbers of the rules, and numbers that no rule has.
    let numbers =
        |of: fn(&Rule) -> Option<u32>| wanted.iter().filter_map(of).chain([0, 7, u32::MAX]).collect();
    let (majors, minors): (BTreeSet<u32>, BTreeSet<u32>) =
        (numbers(|rule| rule.major), numbers(|rule| rule.minor));
    for kind in [Type::Block, Type::Char] {
        for &number in &majors {
            for &other in &minors {
                for access in 0..8 {
                    let expected = reading::oracle(&wanted, kind, number, other, access);
                    let run = |program: &Vec<_>| reading::run(program, kind, number, other, access);
                    let found = program.as_ref().is_none_or(run);
                    assert_eq!(found, expected, "{kind:?} {number}:{other} {access}: {given:?}");
                }
                // The kernel has 12 and 20 bits for them. In v1 a single rule must allow all of an access.
                for access in [1, 2, 4].into_iter().filter(|_| number < 1 << 12 && other < 1 << 20) {
                    let expected = reading::oracle(&wanted, kind, number, other, access);
                    let found = v1.as_ref().is_none_or(|kernel| kernel.allows(kind, number, other, access));
                    assert!(
                        found == expected || v1.is_none(),
                        "v1: {kind:?} {number}:{other} {access}: {given:?}"
                    );
                }
            }
        }
    }
}

/// Returns the writes to v1's files, or `None` if v1 cannot have these rules.
fn v1(rules: &[LinuxDeviceCgroup]) -> Option<Vec<Write>> {
    let host =
        cgroups::Host::parse(b"30 1 0:30 / /devices rw - cgroup cgroup rw,devices\n", b"1:devices:/a\n");
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(rules.to_vec()));
    let request = cgroups::Request {
        id: "c1",
        path: None,
        resources: Some(&resources),
        annotations: None,
        manager: Manager::Cgroupfs,
        rootless: false,
        uid: 0,
    };
    let mut notes = Notes::default();
    let plan = cgroups::plan(&request, &host, &mut notes);
    match plan.unwrap_or_else(|e| panic!("{e:#}")) {
        Some(plan) if notes.problems.0.is_empty() => {
            Some(plan.v1.into_iter().flat_map(|part| part.device_rules).collect())
        }
        _ => None,
    }
}

/// The kernel's device cgroup (security/device_cgroup.c): the default, and exceptions from it.
struct Kernel {
    allow: bool,
    exceptions: Vec<(Type, u32, u32, u8)>,
}

impl Kernel {
    /// The kernel's word for any number.
    const ANY: u32 = u32::MAX;

    fn told(writes: &[Write]) -> Self {
        let mut kernel = Self { allow: true, exceptions: Vec::new() };
        for write in writes {
            kernel.write(write.file == "devices.allow", &write.value.to_string());
        }
        kernel
    }

    fn write(&mut self, allow: bool, text: &str) {
        let words: Vec<&str> = text.split([' ', ':']).collect();
        let kind = match words[0] {
            "a" => {
                *self = Self { allow, exceptions: Vec::new() };
                return;
            }
            "b" => Type::Block,
            "c" => Type::Char,
            _ => panic!("{text}: EINVAL"),
        };
        let number = |word: &str| {
            if word == "*" { Self::ANY } else { word.parse().unwrap_or_else(|e| panic!("{text}: {e}")) }
        };
        let (major, minor) = (number(words[1]), number(words[2]));
        let bits = words[3].chars().map(|letter| match letter {
            'r' => 2,
            'w' => 4,
            'm' => 1,
            _ => panic!("{text}: EINVAL"),
        });
        let access: u8 = bits.sum();
        let same = |e: &&mut (Type, u32, u32, u8)| (e.0, e.1, e.2) == (kind, major, minor);
        let old = self.exceptions.iter_mut().find(same);
        match (allow == self.allow, old) {
            (true, Some(old)) => old.3 &= !access,
            (true, None) => {}
            (false, Some(old)) => old.3 |= access,
            (false, None) => self.exceptions.push((kind, major, minor, access)),
        }
    }

    fn allows(&self, kind: Type, major: u32, minor: u32, access: u8) -> bool {
        let matches = self.exceptions.iter().any(|e| {
            e.0 == kind
                && (e.1 == Self::ANY || e.1 == major)
                && (e.2 == Self::ANY || e.2 == minor)
                && if self.allow { e.3 & access != 0 } else { e.3 & access == access }
        });
        matches != self.allow
    }
}
