//! Seccomp profiles that nobody would write. With any profile, the reader and the compiler end with an error
//! or with a program that the kernel accepts.

use std::sync::OnceLock;

use corten::testing::error::Notes;
use corten::testing::seccomp;
use libc::sock_filter;
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::random::Random;

const TABLE: &str = include_str!("../../src/seccomp/syscalls/table.rs");

/// Returns all system calls that have a name.
fn names() -> &'static [&'static str] {
    static NAMES: OnceLock<Vec<&str>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let rows = TABLE.lines().filter_map(|line| line.trim().strip_prefix("row(\"")?.split('"').next());
        let names: Vec<&str> = rows.collect();
        assert!(names.len() > 450);
        names
    })
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

fn action(random: &mut Random) -> Value {
    // The last action does not exist, and is rare, because most profiles must reach the compiler.
    let known = if random.one_in(400) { ACTIONS.len() } else { ACTIONS.len() - 1 };
    let mut name = random.of(&ACTIONS[..known]);
    if name == "NOTIFY" && !random.one_in(20) {
        // It is refused if no listener is named.
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
        rule["errnoRet"] = json!(if random.one_in(50) { random.number() } else { random.below(4096) as u64 });
    }
    if random.one_in(2) {
        let count = 1 + random.below(7);
        let args = (0..count).map(|_| {
            let known = if random.one_in(200) { OPERATORS.len() } else { OPERATORS.len() - 1 };
            let operator = random.of(&OPERATORS[..known]);
            let index = if random.one_in(200) { random.number() } else { random.below(6) as u64 };
            json!({
                "index": index, "value": random.number(), "valueTwo": random.number(),
                "op": format!("SCMP_CMP_{operator}"),
            })
        });
        rule["args"] = args.collect();
    }
    rule
}

/// Makes a profile, which is valid in most cases.
pub fn profile(random: &mut Random) -> Value {
    let names = names();
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

/// Checks a program as the kernel's seccomp_check_filter and bpf_check_classic do. Every path ends in a
/// return, because all jumps go forward and within the program, and its last instruction is a return.
pub fn verify(program: &[sock_filter]) -> Result<(), String> {
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
    // The contents of the accumulator: nothing yet, or a loaded value.
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

/// Counts of the stages that the profiles reached.
#[derive(Debug, Default)]
pub struct Counts {
    pub unreadable: usize,
    pub refused: usize,
    pub too_long: usize,
    pub compiled: usize,
}

/// Reads and compiles a profile and checks the result by the kernel's rules.
pub fn one(text: &[u8], counts: &mut Counts) -> Result<(), String> {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(text) else {
        counts.unreadable += 1;
        return Ok(());
    };
    let mut notes = Notes::default();
    let plan = seccomp::compile_profile(&profile, &mut notes);
    match (&plan, notes.problems.0.as_slice()) {
        (Some(plan), []) => {
            counts.compiled += 1;
            verify(&plan.filter)?;
            if seccomp::dump::dump(&plan.filter).lines().count() != plan.filter.len() {
                return Err("the dump has not a line for each instruction".into());
            }
        }
        (None, [_, ..]) => {
            counts.refused += 1;
            let text = notes.problems.to_string();
            counts.too_long += usize::from(text.contains("; the kernel takes 4096"));
            if !notes.problems.0.iter().all(|problem| problem.place.starts_with("linux.seccomp")) {
                return Err(format!("a problem without a place: {text}"));
            }
        }
        _ => return Err(format!("neither a program nor an error, or both: {}", notes.problems)),
    }
    let before = notes.problems.0.len();
    let planned = seccomp::plan(&profile, &mut notes);
    if planned.is_none() == (notes.problems.0.len() == before) {
        return Err("planned in silence, or in spite of a problem".into());
    }
    let explained = seccomp::explain(&profile, &["clone".into()]);
    let all = seccomp::explain(&profile, &[]);
    if (explained.is_ok(), all.is_ok()) != (plan.is_some(), plan.is_some()) {
        return Err("explained other than compiled".into());
    }
    Ok(())
}

pub fn check(data: &[u8]) {
    one(data, &mut Counts::default()).unwrap_or_else(|e| panic!("{e}"));
}
