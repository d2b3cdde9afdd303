//! `linux.resources.devices` → one eBPF program, which cgroup v2 runs at every open and mknod of a device.
//!
//! The last rule that matches a device and an access decides, for each of read, write and mknod separately.
//! An access without a matching rule is denied. Therefore the program tests the rules from the last to the
//! first, and keeps the undecided accesses in a register. A rule that denies one of them ends the program. A
//! rule that allows removes its own accesses from the register. When none is left, the access is allowed.
//!
//! A cgroup without rules gets the default list, as in runc: the runtime-spec does not define an absent list,
//! and to allow everything would give the host's disks to any container that may use mknod. To allow
//! everything, the configuration has to contain `{"allow": true, "access": "rwm"}`, which needs no program.

use std::fmt::{self, Write as _};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::Notes;
use crate::sys::bpf::Instruction;

/// The kernel's bits for an access (`BPF_DEVCG_ACC_*`).
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// The largest number of rules: more than any container has, and few enough to be compared pair by pair.
const MAX_RULES: usize = 4096;

/// `BPF_DEVCG_DEV_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Block = 1,
    Char = 2,
}

/// A rule of the list; `None` matches everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub allow: bool,
    pub kind: Option<Type>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: u8,
}

/// Which devices may be used: the rules in the order of the list, and the decision if none of them matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub rules: Vec<Rule>,
    pub otherwise: bool,
}

/// The rules that are in force, and those that were asked for.
#[derive(Debug)]
pub struct DeviceRules {
    /// The file or the call that shows the rules in force.
    pub file: &'static str,
    pub asked: String,
    pub applied: String,
    pub same: bool,
}

impl DeviceRules {
    /// Returns the comparison for a host that does not filter devices.
    pub(super) fn none(filter: Option<&Filter>) -> Self {
        let asked = if filter.is_some() { "a program" } else { "none" };
        Self { file: "devices.list", asked: asked.into(), applied: "none".into(), same: filter.is_none() }
    }
}

const fn allowed(kind: Type, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
    Rule { allow: true, kind: Some(kind), major, minor, access }
}

/// The rules after those of the configuration, which therefore hold for every container. The devices are
/// config-linux.md's default devices and its pseudo-terminals. mknod alone gives no access, and image
/// builders need it. `/dev/net/tun` is among them as in runc and crun: images of VPNs make the node or have it
/// bound, and few engines let their users ask for the rule alone. Its interfaces belong to the container's
/// network namespace, and need CAP_NET_ADMIN there. The host's console (5:1) is not among them, since a
/// container's console is a pty.
const DEFAULTS: [Rule; 11] = [
    allowed(Type::Char, None, None, MKNOD),
    allowed(Type::Block, None, None, MKNOD),
    allowed(Type::Char, Some(1), Some(3), ALL),    // null
    allowed(Type::Char, Some(1), Some(5), ALL),    // zero
    allowed(Type::Char, Some(1), Some(7), ALL),    // full
    allowed(Type::Char, Some(1), Some(8), ALL),    // random
    allowed(Type::Char, Some(1), Some(9), ALL),    // urandom
    allowed(Type::Char, Some(5), Some(0), ALL),    // tty
    allowed(Type::Char, Some(5), Some(2), ALL),    // ptmx
    allowed(Type::Char, Some(136), None, ALL),     // pts/*
    allowed(Type::Char, Some(10), Some(200), ALL), // net/tun
];

/// Returns the filter that `linux.resources.devices` asks for, or `None` if everything is allowed.
pub fn plan(rules: &[LinuxDeviceCgroup], notes: &mut Notes) -> Option<Filter> {
    if rules.len() > MAX_RULES {
        notes.problem("linux.resources.devices", format!("has more than {MAX_RULES} rules"));
        return None;
    }
    let own = rules.iter().enumerate().filter_map(|(i, rule)| {
        let place = format!("linux.resources.devices[{i}]");
        convert(rule, &place, notes)
    });
    let filter = simplify(own.chain(DEFAULTS).collect());
    let unrestricted = filter.otherwise && filter.rules.is_empty();
    (!unrestricted).then_some(filter)
}

fn convert(rule: &LinuxDeviceCgroup, place: &str, notes: &mut Notes) -> Option<Rule> {
    let before = notes.problems.0.len();
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(Type::Block),
        LinuxDeviceType::C => Some(Type::Char),
        // runc refuses them too: a fifo is not a device, and `u` is a type for mknod(1) only.
        other @ (LinuxDeviceType::U | LinuxDeviceType::P) => {
            notes.problem(format!("{place}.type"), format!("{:?} is not one of a, b, c", other.as_str()));
            None
        }
    };
    let major = number(rule.major(), &format!("{place}.major"), notes);
    let minor = number(rule.minor(), &format!("{place}.minor"), notes);
    let access = match rule.access().as_deref().unwrap_or("") {
        // A rule that denies without an access denies all. For a rule that allows, the access would be a
        // guess.
        "" if !rule.allow() => ALL,
        "" => {
            notes.problem(format!("{place}.access"), "is missing: a rule that allows must say what");
            0
        }
        text => access(text).unwrap_or_else(|| {
            notes.problem(format!("{place}.access"), format!("{text:?} is not made of r, w, m"));
            0
        }),
    };
    (notes.problems.0.len() == before).then_some(Rule { allow: rule.allow(), kind, major, minor, access })
}

/// Converts a device number. An absent number and -1 match every device.
fn number(value: Option<i64>, place: &str, notes: &mut Notes) -> Option<u32> {
    match value {
        None | Some(-1) => None,
        Some(n) => {
            let number = u32::try_from(n).ok();
            if number.is_none() {
                notes.problem(place, format!("{n} is not a device number"));
            }
            number
        }
    }
}

fn access(text: &str) -> Option<u8> {
    text.chars().try_fold(0, |bits, c| match c {
        'r' => Some(bits | READ),
        'w' => Some(bits | WRITE),
        'm' => Some(bits | MKNOD),
        _ => None,
    })
}

/// Reports whether `a` matches everything that `b` matches.
fn covers<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
    a.is_none() || a == b
}

fn overlaps<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
    a.is_none() || b.is_none() || a == b
}

impl Rule {
    /// Reports whether `self` matches wherever `other` does.
    fn covers(&self, other: &Self) -> bool {
        covers(self.kind, other.kind)
            && covers(self.major, other.major)
            && covers(self.minor, other.minor)
            && self.access & other.access == other.access
    }

    /// Reports whether both match some access.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        overlaps(self.kind, other.kind)
            && overlaps(self.major, other.major)
            && overlaps(self.minor, other.minor)
            && self.access & other.access != 0
    }
}

/// Drops the rules that decide nothing. Engines begin with "deny all" and repeat the default devices, so that
/// half of Docker's rules remain. A rule for all devices drops all rules before it.
fn simplify(rules: Vec<Rule>) -> Filter {
    // A rule that a later one covers decides nothing.
    let mut kept: Vec<Rule> = Vec::new();
    for rule in rules.into_iter().rev() {
        if !kept.iter().any(|later| later.covers(&rule)) {
            kept.push(rule);
        }
    }
    kept.reverse();
    let everything = kept.first().filter(|r| r.kind.is_none() && r.major.is_none() && r.minor.is_none());
    let otherwise = everything.filter(|r| r.access == ALL).map(|r| r.allow);
    let skipped = usize::from(otherwise.is_some());
    let otherwise = otherwise.unwrap_or(false);
    // Nor does a rule that only repeats the decision without it.
    let mut rules: Vec<Rule> = Vec::new();
    for rule in kept.into_iter().skip(skipped) {
        if rule.allow != otherwise || rules.iter().any(|r| r.allow != otherwise && r.overlaps(&rule)) {
            rules.push(rule);
        }
    }
    Filter { rules, otherwise }
}

impl Filter {
    /// Reports whether the filter is a plain list of allowed devices. If a program cannot be loaded (bpf(2)
    /// needs CAP_BPF on the host), a rootless container runs without such a list, as in runc and crun: in the
    /// container the user can open only the devices that are open to the user outside. A rule that denies a
    /// part of them is the user's own wish, and must not be lost.
    #[must_use]
    pub fn only_allows(&self) -> bool {
        !self.otherwise && self.rules.iter().all(|r| r.allow)
    }

    /// Returns the program. It calls no helper and has no loop, so that the verifier accepts it.
    #[must_use]
    pub fn compile(&self) -> Vec<Instruction> {
        let mut code = vec![
            // r1 points at struct bpf_cgroup_dev_ctx { u32 access << 16 | type, major, minor }.
            load_word(TYPE, CONTEXT, 0),
            load_word(MAJOR, CONTEXT, 4),
            load_word(MINOR, CONTEXT, 8),
            move_register(LEFT, TYPE),
            and(TYPE, 0xffff),
            shift_right(LEFT, 16),
        ];
        // access(2) with F_OK checks for no access at all, of which nothing can be denied.
        code.push(jump_if_not_equal(LEFT, 0, 2));
        code.extend(answer(true));
        let mut rules: Vec<Rule> = self.rules.iter().rev().copied().collect();
        rules.dedup_by(|next, rule| rule.joins(next));
        for run in rules.chunk_by(|a, b| a.allows_all() && b.allows_all()) {
            match run {
                [rule] => rule.compile_into(&mut code),
                _ => allow_any(run, &mut code),
            }
        }
        code.extend(answer(self.otherwise));
        code
    }
}

/// Compiles consecutive rules that allow every access to their devices. Their order does not matter, so that
/// they share the tests of a type and of a major number, and the answer. That halves the work of the
/// verifier, which takes most of the time of loading.
fn allow_any(rules: &[Rule], code: &mut Vec<Instruction>) {
    let mut rules = rules.to_vec();
    rules.sort_by_key(|rule| (rule.kind.map(|kind| kind as u32), rule.major, rule.minor));
    // The tests that jump to the answer, which follows them all, if the device matches.
    let mut passes = Vec::new();
    for kind in rules.chunk_by(|a, b| a.kind == b.kind) {
        let other = kind[0].kind.map(|kind| pending_jump(code, TYPE, kind as u32));
        for major in kind.chunk_by(|a, b| a.major == b.major) {
            // A rule for all minor numbers is the first, and needs no test of the minor number.
            let (register, values) = match (major[0].major, major[0].minor) {
                (Some(number), None) => (MAJOR, vec![number]),
                (None, None) => (MINOR, Vec::new()),
                _ => (MINOR, major.iter().filter_map(|rule| rule.minor).collect()),
            };
            let other = major[0].major.filter(|_| register == MINOR).map(|n| pending_jump(code, MAJOR, n));
            for value in &values {
                passes.push(code.len());
                code.push(jump_if_equal(register, *value as i32, 0));
            }
            if values.is_empty() {
                passes.push(code.len());
                code.push(jump(0));
            }
            set_target(code, other);
        }
        set_target(code, other);
    }
    code.push(jump(2));
    for pass in passes {
        set_target(code, Some(pass));
    }
    code.extend(answer(true));
}

/// Appends a jump for devices with another number, whose target is not known yet. Returns its index for
/// [`set_target`].
fn pending_jump(code: &mut Vec<Instruction>, register: u8, value: u32) -> usize {
    code.push(jump_if_not_equal(register, value as i32, 0));
    code.len() - 1
}

fn set_target(code: &mut [Instruction], pending: Option<usize>) {
    let here = code.len();
    if let Some(jump) = pending {
        code[jump].offset = (here - jump - 1) as i16;
    }
}

/// Writes the devices and accesses of a rule in the syntax of v1's `devices.allow`: `c 10:229 rw`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allow: _, kind, major, minor, access } = self;
        let kind = match kind {
            None => 'a',
            Some(Type::Block) => 'b',
            Some(Type::Char) => 'c',
        };
        let number = |n: &Option<u32>| n.map_or_else(|| "*".into(), |n| n.to_string());
        write!(f, "{kind} {}:{} ", number(major), number(minor))?;
        let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
        letters
            .into_iter()
            .filter(|(bit, _)| access & bit != 0)
            .try_for_each(|(_, letter)| f.write_char(letter))
    }
}

impl Rule {
    fn allows_all(&self) -> bool {
        self.allow && self.access == ALL
    }

    /// Joins a rule that differs only in the type: together they are for both types. Returns false if it
    /// differs otherwise.
    fn joins(&mut self, other: &Self) -> bool {
        let any = Self { kind: None, ..*self };
        let joined = self.kind != other.kind && any == (Self { kind: None, ..*other });
        if joined {
            *self = any;
        }
        joined
    }

    fn compile_into(&self, code: &mut Vec<Instruction>) {
        let action = self.action();
        let wanted = [(TYPE, self.kind.map(|k| k as u32)), (MAJOR, self.major), (MINOR, self.minor)];
        let mut tests: Vec<_> = wanted.iter().filter_map(|(r, value)| value.map(|v| (*r, v))).collect();
        // A test that fails jumps over the remaining tests and over the action. A rule has at most 3 + 4
        // instructions.
        while !tests.is_empty() {
            let (register, value) = tests.remove(0);
            let rest = (tests.len() + action.len()) as i16;
            code.push(jump_if_not_equal(register, value as i32, rest));
        }
        code.extend(action);
    }

    /// Returns the instructions for a device that the rule matches.
    fn action(&self) -> Vec<Instruction> {
        let access = i32::from(self.access);
        let mut code = match (self.allow, self.access == ALL) {
            (_, true) => Vec::new(),
            // Remove the allowed accesses from the undecided ones, and go on unless none is left.
            (true, false) => vec![and(LEFT, !access), jump_if_not_equal(LEFT, 0, 2)],
            // Go on unless the rule denies an undecided access.
            (false, false) => {
                vec![move_register(SCRATCH, LEFT), and(SCRATCH, access), jump_if_equal(SCRATCH, 0, 2)]
            }
        };
        code.extend(answer(self.allow));
        code
    }
}

/// The registers. The kernel sets r1; the others are ours.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
/// The undecided accesses.
const LEFT: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Opcodes: all arithmetic and jumps are 32 bits wide (`BPF_ALU`, `BPF_JMP32`), so that device numbers
/// compare as the kernel's `u32` and no immediate is extended by its sign.
mod opcode {
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const MOVE: u8 = 0xb4;
    pub(super) const MOVE_REGISTER: u8 = 0xbc;
    pub(super) const AND: u8 = 0x54;
    pub(super) const SHIFT_RIGHT: u8 = 0x74;
    pub(super) const JUMP: u8 = 0x05;
    pub(super) const JUMP_EQUAL: u8 = 0x16;
    pub(super) const JUMP_NOT_EQUAL: u8 = 0x56;
    pub(super) const EXIT: u8 = 0x95;
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, immediate }
}

fn load_word(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(opcode::LOAD_WORD, to, from, offset, 0)
}

fn move_register(to: u8, from: u8) -> Instruction {
    instruction(opcode::MOVE_REGISTER, to, from, 0, 0)
}

fn and(to: u8, immediate: i32) -> Instruction {
    instruction(opcode::AND, to, 0, 0, immediate)
}

fn shift_right(to: u8, bits: i32) -> Instruction {
    instruction(opcode::SHIFT_RIGHT, to, 0, 0, bits)
}

fn jump(over: i16) -> Instruction {
    instruction(opcode::JUMP, 0, 0, over, 0)
}

fn jump_if_equal(register: u8, value: i32, over: i16) -> Instruction {
    instruction(opcode::JUMP_EQUAL, register, 0, over, value)
}

fn jump_if_not_equal(register: u8, value: i32, over: i16) -> Instruction {
    instruction(opcode::JUMP_NOT_EQUAL, register, 0, over, value)
}

/// Returns the end of the program: 1 allows the access, 0 denies it with EPERM.
fn answer(allow: bool) -> [Instruction; 2] {
    [instruction(opcode::MOVE, ANSWER, 0, 0, i32::from(allow)), instruction(opcode::EXIT, 0, 0, 0, 0)]
}

#[cfg(test)]
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/reading.rs"]
mod reading;

#[cfg(test)]
mod tests {
    use super::reading::{oracle, run};
    use super::*;

    fn parse(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn programs_decide_as_the_rules_say() {
        let deny_all = r#"{"allow":false,"access":"rwm"}"#;
        let cases: &[(&str, &[(&str, bool)])] = &[
            // No rule at all: the default list.
            (
                "[]",
                &[
                    ("c 1:3 rw", true),
                    ("c 1:1 r", false),
                    ("c 1:1 m", true),
                    ("b 8:0 m", true),
                    ("b 8:0 rm", false),
                    ("b 8:0 -", true),
                    ("c 136:7 rw", true),
                    ("c 5:2 rw", true),
                    ("c 5:1 w", false),
                    ("c 10:200 rw", true),
                    ("c 10:229 rw", false),
                ],
            ),
            (
                &format!("[{deny_all}]"),
                &[("c 1:9 r", true), ("c 10:200 rw", true), ("b 7:0 w", false), ("c 10:229 rw", false)],
            ),
            // As `--privileged` sends it, in both ways.
            (r#"[{"allow":true,"access":"rwm"}]"#, &[("b 8:0 rwm", true)]),
            (r#"[{"allow":true,"type":"a","major":-1,"minor":-1,"access":"rwm"}]"#, &[("c 1:1 rwm", true)]),
            // Everything but one.
            (
                r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"minor":0,"access":"rw"}]"#,
                &[("b 8:0 r", false), ("b 8:0 m", true), ("b 8:1 rw", true), ("c 8:0 rw", true)],
            ),
            // The order counts.
            (
                r#"[{"allow":false,"type":"b","major":8,"access":"rwm"},{"allow":true,"type":"b","access":"r"}]"#,
                &[("b 8:0 r", true), ("b 8:0 rw", false)],
            ),
            (
                r#"[{"allow":true,"type":"b","access":"r"},{"allow":false,"type":"b","major":8,"access":"rwm"}]"#,
                &[("b 8:0 r", false), ("b 7:0 r", true), ("b 7:0 w", false)],
            ),
            // Read and write allowed by different rules are allowed together.
            (
                r#"[{"allow":true,"type":"c","major":10,"access":"r"},{"allow":true,"type":"c","minor":229,"access":"w"}]"#,
                &[("c 10:229 rw", true), ("c 10:229 r", true), ("c 10:1 rw", false), ("c 11:229 rwm", false)],
            ),
            // A rule for "a" means what it says, not everything.
            (
                r#"[{"allow":true,"type":"a","major":8,"access":"r"}]"#,
                &[("b 8:3 r", true), ("c 8:3 r", true), ("b 8:3 w", false), ("b 9:3 r", false)],
            ),
            // The defaults cannot be taken away.
            (r#"[{"allow":false,"type":"c","major":1,"minor":3,"access":"rwm"}]"#, &[("c 1:3 rwm", true)]),
            // Numbers whose highest bit is set.
            (
                r#"[{"allow":true,"type":"c","major":4294967295,"minor":2147483648,"access":"r"}]"#,
                &[("c 4294967295:2147483648 r", true), ("c 4294967295:0 r", false)],
            ),
        ];
        for (rules, rows) in cases {
            let mut notes = Notes::default();
            let filter = plan(&parse(rules), &mut notes);
            assert_eq!(notes.problems.0, []);
            for (row, expected) in *rows {
                let fields: Vec<&str> = row.split([' ', ':']).collect();
                let kind = if fields[0] == "b" { Type::Block } else { Type::Char };
                let (major, minor) = (fields[1].parse().unwrap(), fields[2].parse().unwrap());
                let bits = access(fields[3].trim_matches('-')).unwrap();
                let answer = filter.as_ref().is_none_or(|f| run(&f.compile(), kind, major, minor, bits));
                assert_eq!(answer, *expected, "{rules}: {row}");
            }
        }
    }

    #[test]
    fn any_list_means_what_the_oracle_says() {
        // A small generator of our own, so that a failure can be run again.
        let mut state = 1u64;
        let mut pick = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for _ in 0..3000 {
            let rules: Vec<Rule> = (0..pick(9))
                .map(|_| Rule {
                    allow: pick(2) == 1,
                    kind: [None, Some(Type::Block), Some(Type::Char)][pick(3) as usize],
                    major: [None, Some(1), Some(5)][pick(3) as usize],
                    minor: [None, Some(0), Some(3)][pick(3) as usize],
                    access: [ALL, ALL, READ, WRITE, MKNOD, READ | WRITE][pick(6) as usize],
                })
                .collect();
            let filter = simplify(rules.clone());
            let program = filter.compile();
            assert!(filter.rules.len() <= rules.len());
            for kind in [Type::Block, Type::Char] {
                for (major, minor) in [(1, 0), (1, 3), (1, 9), (5, 0), (5, 3), (5, 9), (8, 0), (8, 3), (8, 9)]
                {
                    for access in 0..=ALL {
                        let answer = run(&program, kind, major, minor, access);
                        let expected = oracle(&rules, kind, major, minor, access);
                        assert_eq!(answer, expected, "{rules:?}: {kind:?} {major}:{minor} {access}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_default_list_is_a_short_program() {
        assert_eq!(plan(&[], &mut Notes::default()).unwrap().compile().len(), 31);
    }

    #[test]
    fn lists_shrink_to_what_decides() {
        let mut notes = Notes::default();
        let defaults = plan(&[], &mut notes).unwrap();
        assert_eq!(defaults.rules, DEFAULTS);
        assert!(defaults.only_allows());
        // What Docker sends for a plain container: nothing in it goes beyond the defaults but its console.
        let docker = parse(
            r#"[{"allow":false,"access":"rwm"},
                {"allow":true,"type":"c","major":1,"minor":5,"access":"rwm"},
                {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
                {"allow":true,"type":"c","major":1,"minor":9,"access":"rwm"},
                {"allow":true,"type":"c","major":1,"minor":8,"access":"rwm"},
                {"allow":true,"type":"c","major":5,"minor":0,"access":"rwm"},
                {"allow":true,"type":"c","major":5,"minor":1,"access":"rwm"},
                {"allow":false,"type":"c","major":10,"minor":229,"access":"rwm"}]"#,
        );
        let filter = plan(&docker, &mut notes).unwrap();
        assert_eq!(filter.rules.len(), DEFAULTS.len() + 1);
        assert_eq!(filter.rules[1..], DEFAULTS);
        assert!(filter.only_allows());
        assert_eq!(plan(&parse(r#"[{"allow":true,"access":"rwm"}]"#), &mut notes), None);
        let narrowed = parse(r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","access":"w"}]"#);
        assert!(!plan(&narrowed, &mut notes).unwrap().only_allows());
        assert_eq!(notes.problems.0, []);
    }

    #[test]
    fn bad_rules_are_named() {
        for (rule, place, word) in [
            (r#"{"allow":true,"type":"p","access":"r"}"#, "[0].type", "not one of"),
            (r#"{"allow":true,"type":"u","access":"r"}"#, "[0].type", "not one of"),
            (r#"{"allow":true,"major":-2,"access":"r"}"#, "[0].major", "not a device number"),
            (r#"{"allow":true,"minor":4294967296,"access":"r"}"#, "[0].minor", "not a device number"),
            (r#"{"allow":true,"access":"rx"}"#, "[0].access", "not made of"),
            (r#"{"allow":true}"#, "[0].access", "missing"),
        ] {
            let mut notes = Notes::default();
            plan(&parse(&format!("[{rule}]")), &mut notes);
            assert_eq!(notes.problems.0.len(), 1, "{rule}");
            assert_eq!(notes.problems.0[0].place, format!("linux.resources.devices{place}"));
            assert!(notes.problems.0[0].message.contains(word), "{}", notes.problems.0[0].message);
        }
    }
}
