//! Compares corten's filters with the profile itself, read rule by rule for each call, and with the filters
//! of libseccomp.
//!
//! The profiles are those of the engines and a thousand random ones. The calls are those of the rules and
//! their neighbours, on every architecture of the profile, with arguments near the values that are compared.
//!
//! corten does not use libseccomp. If Debian's libseccomp2 or Python is not installed, that test is skipped.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use corten::testing::error::Notes;
use corten::testing::seccomp::{self, bpf};
use libc::sock_filter;
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};
use serde_json::{Value, json};

const TABLE: &str = include_str!("../src/seccomp/syscalls/table.rs");
const DOCKER: &str = include_str!("golden/seccomp/docker.json");
const PODMAN: &str = include_str!("golden/seccomp/podman.json");
const CONTAINERD: &str = include_str!("golden/seccomp/containerd.json");

const ENOSYS: u32 = 0x5_0000 + 38;

type Numbers = BTreeMap<String, BTreeMap<String, i64>>;

struct Libseccomp {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Libseccomp {
    fn start() -> Option<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libseccomp.py");
        let mut child = Command::new("python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let requests = child.stdin.take()?;
        let answers = BufReader::new(child.stdout.take()?);
        let mut started = Self { child, requests, answers };
        started.ask(&json!({"names": [], "archs": []})).map(|_| started)
    }

    fn ask(&mut self, request: &Value) -> Option<Value> {
        writeln!(self.requests, "{request}").ok()?;
        let mut line = String::new();
        self.answers.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// Returns the program of a profile, or the error with which libseccomp refuses it.
    fn program(&mut self, profile: &Value) -> Result<Vec<sock_filter>, String> {
        match self.ask(profile).unwrap() {
            Value::String(refusal) => Err(refusal),
            rows => {
                let rows: Vec<(u16, u8, u8, u32)> = serde_json::from_value(rows).unwrap();
                Ok(rows.into_iter().map(|(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect())
            }
        }
    }
}

impl Drop for Libseccomp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the names and numbers of the generated table.
fn table() -> Numbers {
    let column_line = TABLE.lines().find(|line| line.contains("one column an ABI: ")).unwrap();
    let columns: Vec<&str> =
        column_line.split("ABI: ").nth(1).unwrap().trim_end_matches('.').split(", ").collect();
    let mut numbers = Numbers::new();
    for line in TABLE.lines() {
        let Some(row) = line.trim().strip_prefix("row(\"") else { continue };
        let (name, rest) = row.split_once('"').unwrap();
        let cells = rest.split(['[', ']']).nth(1).unwrap();
        for (column, cell) in columns.iter().zip(cells.split(',')) {
            let mut number: i64 = cell.trim().parse().unwrap();
            if *column == "x32" && number >= 0 {
                number |= 0x4000_0000;
            }
            if number >= 0 {
                let arch = format!("SCMP_ARCH_{}", column.to_uppercase());
                numbers.entry(arch).or_default().insert(name.to_string(), number);
            }
        }
    }
    for (same, as_other) in
        [("MIPSEL", "MIPS"), ("MIPSEL64", "MIPS64"), ("MIPSEL64N32", "MIPS64N32"), ("PPC64LE", "PPC64")]
    {
        let calls = numbers[&format!("SCMP_ARCH_{as_other}")].clone();
        numbers.insert(format!("SCMP_ARCH_{same}"), calls);
    }
    numbers
}

fn names(numbers: &Numbers) -> BTreeSet<String> {
    numbers.values().flat_map(|calls| calls.keys().cloned()).collect()
}

/// A simple generator of numbers, with which a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const VALUES: &[u64] = &[0, 1, 2, 3, 9, 16, 40, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, u64::MAX];

fn actions() -> Vec<Value> {
    let mut all: Vec<Value> = ["ALLOW", "KILL", "KILL_PROCESS", "TRAP", "LOG", "TRACE", "ERRNO"]
        .iter()
        .map(|name| json!({"action": format!("SCMP_ACT_{name}")}))
        .collect();
    all.push(json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 38}));
    all.push(json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 22}));
    all
}

/// Returns a random profile. With `one_action`, all rules with arguments for a call have the same action,
/// because libseccomp does not define the order in which they are tried.
fn random_profile(random: &mut Random, names: &[String], archs: &[Vec<&str>], one_action: bool) -> Value {
    let actions = actions();
    let default = random.of(&actions).clone();
    let mut chosen: BTreeMap<&String, Value> = BTreeMap::new();
    let pool: Vec<&String> = (0..1 + random.below(60)).map(|_| random.of(names)).collect();
    let mut syscalls = Vec::new();
    for _ in 0..random.below(40) {
        let with_args = random.below(3) > 0;
        let count = if with_args { 1 } else { 1 + random.below(12) };
        let names: Vec<&String> = (0..count).map(|_| *random.of(&pool)).collect();
        let action = random.of(&actions).clone();
        let mut rule =
            if with_args && one_action { chosen.entry(names[0]).or_insert(action).clone() } else { action };
        rule["names"] = json!(names);
        if with_args {
            let args: Vec<Value> = (0..1 + random.below(3))
                .map(|_| {
                    let op = random.of(&["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]);
                    json!({"index": random.below(4), "value": random.of(VALUES), "valueTwo": random.of(VALUES),
                        "op": format!("SCMP_CMP_{op}")})
                })
                .collect();
            rule["args"] = json!(args);
        }
        syscalls.push(rule);
    }
    let archs = random.of(archs);
    let mut profile =
        json!({"defaultAction": default["action"], "architectures": archs, "syscalls": syscalls});
    if let Some(errno) = default.get("errnoRet") {
        profile["defaultErrnoRet"] = errno.clone();
    }
    profile
}

/// Returns the audit number of an architecture, and its first call.
fn arch_of(name: &str) -> (u32, i64) {
    let arch: Arch = serde_json::from_value(json!(name)).unwrap();
    if arch == Arch::ScmpArchX32 { (Arch::ScmpArchX86_64 as u32, 0x4000_0000) } else { (arch as u32, 0) }
}

/// Returns the numbers to try on an architecture: those of the rules, their neighbours, and some without a
/// rule.
fn numbers_to_try(profile: &LinuxSeccomp, calls: &BTreeMap<String, i64>, base: i64) -> BTreeSet<u32> {
    let named = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
    let mut all: BTreeSet<i64> = named.filter_map(|name| calls.get(name)).copied().collect();
    all.extend(["socketcall", "ipc"].iter().filter_map(|name| calls.get(*name)));
    all.extend((0..480).step_by(13).map(|n| n + base));
    all = all.into_iter().flat_map(|n| [n - 1, n, n + 1]).collect();
    all.into_iter().chain([base + 0x3fff_ffff, 0xffff_ffff]).filter_map(|n| u32::try_from(n).ok()).collect()
}

fn arguments(random: &mut Random) -> [u64; 6] {
    let mut args = [0; 6];
    for arg in &mut args {
        let delta = random.of(&[0, 0, 0, 1, u64::MAX, 1 << 32, 0xffff_ffff_0000_0000]);
        *arg = random.of(VALUES).wrapping_add(*delta);
    }
    // The calls of socketcall and ipc.
    if random.below(2) == 0 {
        args[0] = random.below(25) as u64;
    }
    args
}

/// A rule about one number: comparisons as (index, operator, value, second value), and what to return.
type Rule = (Vec<(usize, LinuxSeccompOperator, u64, u64)>, u32);

fn return_value(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    action.as_u32(errno)
}

/// Returns the multiplexer of a call, and its number there.
fn multiplexed(name: &str) -> Option<(&'static str, u64)> {
    const SOCKETCALL: &str = "socket bind connect listen accept getsockname getpeername socketpair send recv sendto \
        recvfrom shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg";
    const IPC: &str = "semop semget semctl semtimedop - - - - - - msgsnd msgrcv msgget msgctl - - - - - - \
        shmat shmdt shmget shmctl";
    [("socketcall", SOCKETCALL), ("ipc", IPC)].iter().find_map(|(by, list)| {
        let index = list.split_whitespace().position(|call| call == name)?;
        Some((*by, index as u64 + 1))
    })
}

/// Returns the rules of a profile for each number, in its order, without those with the default action.
fn rules_of(profile: &LinuxSeccomp, calls: &BTreeMap<String, i64>) -> BTreeMap<i64, Vec<Rule>> {
    let default = return_value(profile.default_action(), profile.default_errno_ret());
    let mut rules: BTreeMap<i64, Vec<Rule>> = BTreeMap::new();
    for rule in profile.syscalls().iter().flatten() {
        let action = return_value(rule.action(), rule.errno_ret());
        if action == default {
            continue;
        }
        let all: Vec<_> = rule.args().iter().flatten().collect();
        let one = |a: &&LinuxSeccompArg| (a.index(), a.op(), a.value(), a.value_two().unwrap_or(0));
        let mut alternatives: Vec<Vec<_>> = vec![all.iter().map(one).collect()];
        if all.iter().map(|a| a.index()).collect::<BTreeSet<_>>().len() < all.len() {
            alternatives = all.iter().map(|a| vec![one(a)]).collect();
        }
        for name in rule.names() {
            if let Some((by, number)) = multiplexed(name) {
                for mut args in alternatives.clone() {
                    args.retain(|arg| arg.0 != 0);
                    args.push((0, LinuxSeccompOperator::ScmpCmpEq, number, 0));
                    if let Some(nr) = calls.get(by) {
                        rules.entry(*nr).or_default().push((args, action));
                    }
                }
            }
            if let Some(nr) = calls.get(name) {
                rules.entry(*nr).or_default().extend(alternatives.iter().map(|args| (args.clone(), action)));
            }
        }
    }
    rules
}

/// Returns the action of the first rule without arguments, or else of the first rule whose comparisons are
/// all true.
fn first_match(rules: &[Rule], args: &[u64; 6], mask: u64) -> Option<u32> {
    use LinuxSeccompOperator::{
        ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpLe, ScmpCmpLt, ScmpCmpMaskedEq, ScmpCmpNe,
    };
    let holds = |(index, op, value, second): &(usize, LinuxSeccompOperator, u64, u64)| {
        let (arg, value, second) = (args[*index] & mask, value & mask, second & mask);
        match op {
            ScmpCmpNe => arg != value,
            ScmpCmpLt => arg < value,
            ScmpCmpLe => arg <= value,
            ScmpCmpEq => arg == value,
            ScmpCmpGe => arg >= value,
            ScmpCmpGt => arg > value,
            ScmpCmpMaskedEq => arg & value == second & value,
        }
    };
    let unconditional = rules.iter().find(|(args, _)| args.is_empty());
    unconditional.or_else(|| rules.iter().find(|(args, _)| args.iter().all(holds))).map(|(_, action)| *action)
}

/// A profile on one architecture.
struct Oracle<'a> {
    calls: &'a BTreeMap<String, i64>,
    rules: BTreeMap<i64, Vec<Rule>>,
    audit: u32,
    base: i64,
    mask: u64,
    newest: Option<i64>,
    s390: bool,
}

impl<'a> Oracle<'a> {
    fn new(profile: &LinuxSeccomp, arch: &str, numbers: &'a Numbers) -> Self {
        let (audit, base) = arch_of(arch);
        let calls = &numbers[arch];
        let named = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
        let errno = profile.default_action() == LinuxSeccompAction::ScmpActErrno;
        let stub = errno && profile.default_errno_ret() != Some(38);
        let wide = audit & 0xa000_0000 == 0x8000_0000 && base == 0;
        Self {
            rules: rules_of(profile, calls),
            calls,
            audit,
            base,
            mask: if wide { u64::MAX } else { 0xffff_ffff },
            newest: named.filter_map(|name| calls.get(name)).max().copied().filter(|_| stub),
            s390: stub && audit & 0xffff == 0x16,
        }
    }

    /// Returns the action for calls that are newer than the profile. It comes before all rules.
    fn newer(&self, nr: u32) -> Option<u32> {
        let other_abi = self.audit == Arch::ScmpArchX86_64 as u32 && i64::from(nr & 0x4000_0000) != self.base;
        let newer = !other_abi && self.newest.is_some_and(|newest| i64::from(nr) > newest);
        (newer || self.s390 && nr == 0).then_some(ENOSYS)
    }
}

/// A call that a filter and libseccomp's filter decide differently.
struct Difference {
    /// A rule with arguments may have decided.
    compared: bool,
    text: String,
}

/// Compares the filter of a profile with the profile and, if there is one, with libseccomp's filter.
fn compare(
    random: &mut Random,
    profile: &Value,
    reference: Option<&[sock_filter]>,
    numbers: &Numbers,
    differences: &mut Vec<Difference>,
) -> usize {
    let typed: LinuxSeccomp = serde_json::from_value(profile.clone()).unwrap();
    let mut notes = Notes::default();
    let plan = seccomp::compile_profile(&typed, &mut notes).unwrap_or_else(|| panic!("{}", notes.problems));
    assert!(bpf::valid(&plan.filter));
    let mut archs: BTreeSet<String> =
        typed.architectures().iter().flatten().map(ToString::to_string).collect();
    archs.insert("SCMP_ARCH_X86_64".into());
    let x32 = archs.contains("SCMP_ARCH_X32");
    let default = return_value(typed.default_action(), typed.default_errno_ret());
    let mut count = 0;
    for arch in &archs {
        let oracle = Oracle::new(&typed, arch, numbers);
        for nr in numbers_to_try(&typed, oracle.calls, oracle.base) {
            if oracle.audit == Arch::ScmpArchX86_64 as u32
                && x32
                && i64::from(nr & 0x4000_0000) != oracle.base
            {
                continue; // a number of the other ABI
            }
            let rules = oracle.rules.get(&i64::from(nr)).map_or(&[][..], Vec::as_slice);
            for _ in 0..if rules.is_empty() { 2 } else { 12 } {
                let call = bpf::Call { arch: oracle.audit, nr, args: arguments(random) };
                let big_endian = oracle.audit & 0x4000_0000 == 0;
                let (ours, _) = bpf::run(&plan.filter, &call, big_endian).unwrap();
                let foreign = arch == "SCMP_ARCH_X86_64" && nr & 0x4000_0000 != 0 && nr != u32::MAX;
                let said = oracle.newer(nr).filter(|_| !foreign).or_else(|| foreign.then_some(0));
                let said = said.or_else(|| first_match(rules, &call.args, oracle.mask)).unwrap_or(default);
                assert_eq!(ours, said, "{arch} {nr:#x} {:x?}: {profile}", call.args);
                count += 1;
                let Some(reference) = reference else { continue };
                let (theirs, _) = bpf::run(reference, &call, big_endian).unwrap();
                let theirs = oracle.newer(nr).unwrap_or(theirs);
                if ours != theirs {
                    let name = oracle.calls.iter().find(|(_, n)| **n == i64::from(nr)).map(|(name, _)| name);
                    differences.push(Difference {
                        compared: rules.iter().any(|(args, _)| !args.is_empty()),
                        text: format!(
                            "{arch} {nr:#x} {name:?} {:x?}: corten {ours:#x}, libseccomp {theirs:#x}",
                            call.args
                        ),
                    });
                }
            }
        }
    }
    count
}

fn engines() -> [Value; 3] {
    [DOCKER, PODMAN, CONTAINERD].map(|text| serde_json::from_str(text).unwrap())
}

const X86: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];

#[test]
fn corten_decides_as_the_profile_says() {
    let numbers = table();
    let all: Vec<String> = names(&numbers).into_iter().collect();
    let archs: Vec<Vec<&str>> = numbers.keys().map(|arch| vec![arch.as_str(), X86[1], X86[2]]).collect();
    let mut random = Random(2);
    let mut profiles = engines().to_vec();
    profiles.extend((0..1000).map(|_| random_profile(&mut random, &all, &archs, false)));
    let calls: usize =
        profiles.iter().map(|profile| compare(&mut random, profile, None, &numbers, &mut Vec::new())).sum();
    println!("{} profiles, {calls} calls", profiles.len());
}

/// Names that libseccomp takes for another call, or for no call, on an architecture that has the call.
const MISTAKEN: &[&str] =
    &["map_shadow_stack", "arm_sync_file_range", "sync_file_range2", "sys_debug_setcontext", "switch_endian"];

/// libseccomp differs where it is wrong. If rules compare arguments of 64 bits in several alternatives, its
/// tree loses some of them (2.5.4, 2.6.1). The other test compares these calls with the profile itself.
#[test]
fn corten_decides_as_libseccomp_does() {
    let Some(mut libseccomp) = Libseccomp::start() else {
        println!("skipped: corten_decides_as_libseccomp_does: no libseccomp.so.2 or no python3");
        return;
    };
    let numbers = table();
    let all = names(&numbers);
    let archs: Vec<&String> = numbers.keys().collect();
    let theirs: Numbers =
        serde_json::from_value(libseccomp.ask(&json!({"names": all, "archs": archs})).unwrap()).unwrap();
    // A call that libseccomp does not know is newer than libseccomp.
    let known = |name: &&String| theirs[X86[0]][*name] != -1 && !MISTAKEN.contains(&name.as_str());
    let known: Vec<String> = all.iter().filter(known).cloned().collect();
    assert!(known.len() > 450);
    for (arch, calls) in &theirs {
        for name in &known {
            let (said, ours) = (calls[name], numbers[arch].get(name));
            // A negative number stands for a call that the architecture does not have. The kernel's headers have
            // _llseek for 32 bits only.
            let absent = said < 0 || (arch.as_str(), name.as_str()) == ("SCMP_ARCH_PARISC64", "_llseek");
            assert!(absent || ours == Some(&said), "{arch} {name}: corten {ours:?}, libseccomp {said}");
        }
    }
    println!("numbers of {}", theirs.keys().cloned().collect::<Vec<_>>().join(" "));
    let mut random = Random(1);
    let mut archs = vec![vec![], X86.to_vec(), X86.to_vec(), X86.to_vec(), X86[..2].to_vec()];
    // libseccomp does not load the number for the last of several architectures, so a foreign one is added.
    archs.extend(["AARCH64", "ARM", "RISCV64", "PPC64LE", "MIPSEL", "MIPSEL64", "MIPSEL64N32"].map(|name| {
        vec![
            *numbers
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .iter()
                .find(|a| a[10..] == *name)
                .unwrap(),
        ]
    }));
    let mut profiles = engines().to_vec();
    for profile in &mut profiles {
        for rule in profile["syscalls"].as_array_mut().unwrap() {
            rule["names"].as_array_mut().unwrap().retain(|name| known.iter().any(|known| name == known));
        }
    }
    profiles.extend((0..1000).map(|_| random_profile(&mut random, &known, &archs, true)));
    let (mut calls, mut refused, mut excused) = (0, 0, 0);
    for (i, profile) in profiles.iter().enumerate() {
        // libseccomp refuses rules that contradict one another.
        let Ok(reference) = libseccomp.program(profile) else {
            refused += 1;
            continue;
        };
        let mut differences = Vec::new();
        calls += compare(&mut random, profile, Some(&reference), &numbers, &mut differences);
        let unexcused = differences.iter().find(|d| i < engines().len() || !d.compared);
        assert!(unexcused.is_none(), "profile {i}, {}\n{profile}", unexcused.unwrap().text);
        excused += differences.len();
    }
    println!("{} profiles, {refused} refused, {calls} calls, {excused} excused", profiles.len());
    assert!(refused < 250 && excused * 500 < calls);
}
