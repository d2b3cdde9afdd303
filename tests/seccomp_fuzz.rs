//! Profiles that nobody would write: random ones, and the engines' with bytes changed. Whatever they are, the reader and
//! the compiler end with an error or with a program that the kernel takes.
//!
//! Five seconds; CORTEN_FUZZ_SECONDS says otherwise, CORTEN_FUZZ_SEED repeats a failure, which prints its profile.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use corten::error::Problems;
use corten::seccomp;
use libc::sock_filter;
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

const ENGINES: [&str; 3] = [
    include_str!("golden/seccomp/docker.json"),
    include_str!("golden/seccomp/podman.json"),
    include_str!("golden/seccomp/containerd.json"),
];
const TABLE: &str = include_str!("../src/seccomp/syscalls/table.rs");

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

const ACTIONS: &[&str] =
    &["ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP", "NONE"];
const OPERATORS: &[&str] = &["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ", "MASK"];
const ARCHS: &[&str] = &[
    "X86_64",
    "X86",
    "X32",
    "ARM",
    "AARCH64",
    "MIPS",
    "MIPS64",
    "MIPS64N32",
    "MIPSEL",
    "MIPSEL64",
    "MIPSEL64N32",
    "PPC",
    "PPC64",
    "PPC64LE",
    "S390",
    "S390X",
    "PARISC",
    "PARISC64",
    "RISCV64",
    "LOONGARCH64",
    "M68K",
    "SH",
    "SHEB",
    "NATIVE",
    "VAX",
];
const FLAGS: &[&str] = &["LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV", "NEW_LISTENER"];

fn number(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => random.next(),
        1 => 1 << random.below(64),
        2 => (1u64 << random.below(64)).wrapping_sub(1),
        3 => u64::from(random.next() as u32),
        _ => random.below(70) as u64,
    }
}

fn action(random: &mut Random) -> Value {
    // The last is none, and rare: most profiles are to get as far as the compiler.
    let known = if random.one_in(400) { ACTIONS.len() } else { ACTIONS.len() - 1 };
    let mut name = random.of(&ACTIONS[..known]);
    if name == "NOTIFY" && !random.one_in(20) {
        // It is refused where no listener is named.
        name = "LOG";
    }
    json!(format!("SCMP_ACT_{name}"))
}

fn rule(random: &mut Random, names: &[&str]) -> Value {
    let count = 1 + random.below(8);
    let mut all: Vec<&str> = (0..count).map(|_| random.of(names)).collect();
    if random.one_in(30) {
        all.push(random.of(&["", "no_such_call", "read\0", "\u{fe0f}", "write", "execve"]));
    }
    if random.one_in(300) {
        all.clear();
    }
    let mut rule = json!({"names": all, "action": action(random)});
    let takes_errno = matches!(rule["action"].as_str(), Some("SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE"));
    if (takes_errno && random.one_in(2)) || random.one_in(300) {
        rule["errnoRet"] = json!(if random.one_in(50) { number(random) } else { random.below(4096) as u64 });
    }
    if random.one_in(2) {
        let count = 1 + random.below(7);
        let args = (0..count).map(|_| {
            let known = if random.one_in(200) { OPERATORS.len() } else { OPERATORS.len() - 1 };
            let operator = random.of(&OPERATORS[..known]);
            let index = if random.one_in(200) { number(random) } else { random.below(6) as u64 };
            json!({
                "index": index, "value": number(random), "valueTwo": number(random),
                "op": format!("SCMP_CMP_{operator}"),
            })
        });
        rule["args"] = args.collect();
    }
    rule
}

/// A profile, mostly one that is right.
fn profile(random: &mut Random, names: &[&str]) -> Value {
    let few: Vec<&str> = (0..1 + random.below(30)).map(|_| random.of(names)).collect();
    let names = if random.one_in(2) { &few } else { names };
    let rules = match random.below(20) {
        0 => 0,
        1 => random.below(900),
        _ => random.below(40),
    };
    let rules: Vec<Value> = (0..rules).map(|_| rule(random, names)).collect();
    let mut profile = json!({"defaultAction": action(random), "syscalls": rules});
    if profile["defaultAction"] == "SCMP_ACT_ERRNO" && random.one_in(2) || random.one_in(100) {
        profile["defaultErrnoRet"] = json!(random.below(4096));
    }
    if random.one_in(2) {
        let all = if random.one_in(100) { ARCHS } else { &ARCHS[..ARCHS.len() - 1] };
        let archs = (0..random.below(6)).map(|_| json!(format!("SCMP_ARCH_{}", random.of(all))));
        profile["architectures"] = archs.collect();
    }
    if random.one_in(4) {
        let flags =
            (0..random.below(4)).map(|_| json!(format!("SECCOMP_FILTER_FLAG_{}", random.of(&FLAGS[..4]))));
        profile["flags"] = flags.collect();
    }
    if random.one_in(2) {
        profile["listenerPath"] = json!(random.of(&["/agent", "/agent", "/agent", "agent", ""]));
    }
    if random.one_in(10) && profile.get("listenerPath").is_some() {
        profile["listenerMetadata"] = json!("m");
    }
    profile
}

/// Changes bytes of a text: exchanged, removed, doubled, or a piece put elsewhere.
fn mutate(random: &mut Random, text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len());
        match random.below(10) {
            0 => bytes[at] = random.next() as u8,
            1 => {
                bytes[at] =
                    *random.of(&[b"0", b"9", b"\"", b"[", b"]", b"{", b"}", b",", b"-", b"e"].map(|b| &b[0]))
            }
            2 => drop(bytes.remove(at)),
            3 => bytes.truncate(at.max(1)),
            4 => {
                let end = (at + random.below(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                // A digit, which leaves it JSON and changes what is compared.
                if let Some(digit) = bytes[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                    *digit = b'0' + random.below(10) as u8;
                }
            }
        }
    }
    bytes
}

/// What the kernel's seccomp_check_filter and bpf_check_classic hold a program to; that every path ends in a return
/// follows from jumps that go forward and within, and a return at the end.
fn verify(program: &[sock_filter]) -> Result<(), String> {
    const LD_W_ABS: u16 = 0x20;
    const ALU_AND_K: u16 = 0x54;
    const JA: u16 = 0x05;
    const RET_K: u16 = 0x06;
    let len = program.len();
    if len == 0 || len > 4096 {
        return Err(format!("{len} instructions"));
    }
    let mut reached = vec![false; len];
    reached[0] = true;
    // What the accumulator holds: nothing yet, or something that was loaded.
    let mut loaded = vec![true; len];
    loaded[0] = false;
    for (at, instruction) in program.iter().enumerate() {
        let wrong = |what: &str| Err(format!("{at}: {what}: {instruction:?}"));
        let (k, jt, jf) = (instruction.k as usize, usize::from(instruction.jt), usize::from(instruction.jf));
        let next: &[usize] = match instruction.code {
            LD_W_ABS if k % 4 != 0 || k >= 64 => return wrong("loads from outside"),
            LD_W_ABS | ALU_AND_K => &[at + 1],
            JA => &[at + 1 + k],
            0x15 | 0x25 | 0x35 => &[at + 1 + jt, at + 1 + jf],
            RET_K => &[],
            _ => return wrong("is not what the compiler knows"),
        };
        if !reached[at] {
            return wrong("is never reached");
        }
        if !loaded[at] && !matches!(instruction.code, LD_W_ABS | RET_K) {
            return wrong("looks at an accumulator that holds nothing");
        }
        if next.iter().any(|to| *to >= len) {
            return wrong("leaves the program");
        }
        for to in next {
            reached[*to] = true;
            loaded[*to] &= loaded[at] || instruction.code == LD_W_ABS;
        }
    }
    if program[len - 1].code == RET_K { Ok(()) } else { Err("does not end in a return".into()) }
}

/// How far the profiles got.
#[derive(Debug, Default)]
struct Counts {
    unreadable: usize,
    refused: usize,
    too_long: usize,
    compiled: usize,
}

/// Reads and compiles a profile and holds the result against the kernel's rules.
fn one(text: &[u8], counts: &mut Counts) -> Result<(), String> {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(text) else {
        counts.unreadable += 1;
        return Ok(());
    };
    let (mut problems, mut warnings) = (Problems::default(), Vec::new());
    let plan = seccomp::compile_profile(&profile, &mut problems, &mut warnings);
    match (&plan, problems.0.as_slice()) {
        (Some(plan), []) => {
            counts.compiled += 1;
            verify(&plan.filter)?;
            if seccomp::dump::dump(&plan.filter).lines().count() != plan.filter.len() {
                return Err("the dump has not a line for each instruction".into());
            }
        }
        (None, [_, ..]) => {
            counts.refused += 1;
            let text = problems.to_string();
            counts.too_long += usize::from(text.contains("; the kernel takes 4096"));
            if !problems.0.iter().all(|problem| problem.place.starts_with("linux.seccomp")) {
                return Err(format!("a problem without a place: {text}"));
            }
        }
        _ => return Err(format!("neither a program nor an error, or both: {problems}")),
    }
    let before = problems.0.len();
    let planned = seccomp::plan(&profile, &mut problems, &mut warnings);
    if planned.is_none() == (problems.0.len() == before) {
        return Err("planned in silence, or in spite of a problem".into());
    }
    let explained = seccomp::explain(&profile, &["clone".into()], &mut warnings);
    let all = seccomp::explain(&profile, &[], &mut warnings);
    if (explained.is_ok(), all.is_ok()) != (plan.is_some(), plan.is_some()) {
        return Err("explained other than compiled".into());
    }
    Ok(())
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

#[test]
fn no_profile_does_harm() {
    let names: Vec<&str> =
        TABLE.lines().filter_map(|line| line.trim().strip_prefix("row(\"")?.split('"').next()).collect();
    assert!(names.len() > 450);
    let until = Instant::now() + Duration::from_secs(setting("CORTEN_FUZZ_SECONDS", 5));
    let first = setting("CORTEN_FUZZ_SEED", 1);
    let (mut random_ones, mut mutated) = (Counts::default(), Counts::default());
    let mut seed = first;
    while Instant::now() < until {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (text, counts) = if seed % 3 == 0 {
            let engine = random.of(&ENGINES);
            (mutate(&mut random, engine), &mut mutated)
        } else {
            (profile(&mut random, &names).to_string().into_bytes(), &mut random_ones)
        };
        if let Err(error) = one(&text, counts) {
            panic!("seed {seed}: {error}\n{}", String::from_utf8_lossy(&text));
        }
        seed += 1;
    }
    println!("{} profiles: random {random_ones:?}, mutated {mutated:?}", seed - first);
    // What never gets as far as the compiler would prove nothing.
    assert!(random_ones.compiled > 10 && mutated.compiled > 2, "{random_ones:?} {mutated:?}");
}

/// The check finds what it is there to find.
#[test]
fn the_check_refuses_what_the_kernel_refuses() {
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let (load, ret) = (instruction(0x20, 0, 0, 4), instruction(0x06, 0, 0, 0));
    assert_eq!(verify(&[load, ret]), Ok(()));
    for (program, expected) in [
        (vec![], "0 instructions"),
        (vec![ret; 4097], "4097 instructions"),
        (vec![load, load], "leaves the program"),
        (vec![instruction(0x20, 0, 0, 64), ret], "loads from outside"),
        (vec![instruction(0x20, 0, 0, 6), ret], "loads from outside"),
        (vec![instruction(0x15, 0, 0, 1), ret], "an accumulator that holds nothing"),
        (vec![load, instruction(0x15, 0, 1, 1), ret], "leaves the program"),
        (vec![load, instruction(0x05, 0, 0, u32::MAX), ret], "leaves the program"),
        (vec![ret, ret], "is never reached"),
        (vec![instruction(0x28, 0, 0, 0), ret], "is not what the compiler knows"),
    ] {
        let error = verify(&program).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
