//! Prints a program: one instruction a line, with the names of the values that it compares and returns.

use std::fmt::Write;

use libc::sock_filter;
use nix::errno::Errno;

use super::abi::Abi;
use super::bpf::{ALU_AND_K, ARCH, ARGS, JA, JEQ_K, JGE_K, JGT_K, LD_W_ABS, NR, RET_K};
use super::syscalls;

/// The known facts when an instruction is reached: the content of the accumulator, and the architecture.
#[derive(Clone, Default)]
struct Known {
    accumulator: String,
    audit: Option<u32>,
}

/// Returns a line for each instruction.
#[must_use]
pub fn dump(program: &[sock_filter]) -> String {
    let mut text = String::new();
    // Every jump goes forward, so one pass finds the facts of all instructions.
    let mut known = vec![Known::default(); program.len() + 1];
    for (at, instruction) in program.iter().enumerate() {
        let here = known[at].clone();
        let next = at + 1;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{at:4}  {}", line(instruction, next, &here));
        let mut reach = |to: usize, then: &Known| {
            if let Some(there) = known.get_mut(to) {
                there.clone_from(then);
            }
        };
        match instruction.code {
            LD_W_ABS => reach(next, &Known { accumulator: word(instruction.k, here.audit), ..here }),
            ALU_AND_K => {
                let accumulator = format!("{} & {}", here.accumulator, number(instruction.k));
                reach(next, &Known { accumulator, ..here });
            }
            JA => reach(next + instruction.k as usize, &here),
            JEQ_K | JGT_K | JGE_K => {
                let equal = instruction.code == JEQ_K && here.accumulator == "arch";
                let audit = if equal { Some(instruction.k) } else { here.audit };
                reach(next + usize::from(instruction.jf), &here);
                reach(next + usize::from(instruction.jt), &Known { audit, ..here });
            }
            _ => {}
        }
    }
    text
}

fn line(instruction: &sock_filter, next: usize, known: &Known) -> String {
    let k = instruction.k;
    let (yes, no) = match instruction.code {
        LD_W_ABS => return format!("load {}", word(k, known.audit)),
        ALU_AND_K => return format!("and {}", number(k)),
        JA => return format!("goto {}", next + k as usize),
        RET_K => return format!("return {}", action(k)),
        JEQ_K => ("==", "!="),
        JGT_K => (">", "<="),
        JGE_K => (">=", "<"),
        code => return format!("{code:#x} {k:#x} {} {}", instruction.jt, instruction.jf),
    };
    let (left, right) = (&known.accumulator, operand(k, known));
    let (to, otherwise) = (next + usize::from(instruction.jt), next + usize::from(instruction.jf));
    match (instruction.jt, instruction.jf) {
        (0, _) => format!("if {left} {no} {right} goto {otherwise}"),
        (_, 0) => format!("if {left} {yes} {right} goto {to}"),
        _ => format!("if {left} {yes} {right} goto {to} else {otherwise}"),
    }
}

/// Returns the right side of a comparison.
fn operand(k: u32, known: &Known) -> String {
    match (known.accumulator.as_str(), known.audit) {
        ("arch", _) => {
            let name = Abi::of_call(k, 0).or_else(|| Abi::of_call(k, u32::MAX)).map_or("", Abi::name);
            format!("{k:#x} ({name})")
        }
        ("nr", Some(audit)) => {
            let abi = Abi::of_call(audit, k);
            let call = abi
                .and_then(|abi| syscalls::all().iter().find(|row| abi.number(row) == Some(k)))
                .map(|row| format!(" ({})", row.name()));
            format!("{}{}", number(k), call.unwrap_or_default())
        }
        _ => number(k),
    }
}

/// Returns the name of the word at an offset of `struct seccomp_data`.
fn word(offset: u32, audit: Option<u32>) -> String {
    const __AUDIT_ARCH_LE: u32 = 0x4000_0000;
    match offset {
        NR => "nr".into(),
        ARCH => "arch".into(),
        ARGS..64 => {
            let big_endian = audit.is_some_and(|audit| audit & __AUDIT_ARCH_LE == 0);
            let half = if (offset % 8 == 4) == big_endian { "low" } else { "high" };
            format!("arg{}.{half}", (offset - ARGS) / 8)
        }
        _ => format!("[{offset}]"),
    }
}

/// Formats small numbers as decimal, and others as hexadecimal.
pub(super) fn number(n: impl Into<u64>) -> String {
    let n = n.into();
    if n < 4096 { n.to_string() } else { format!("{n:#x}") }
}

/// Returns the specification's word for a return value of a filter.
#[must_use]
pub(crate) fn action(value: u32) -> String {
    let data = value & libc::SECCOMP_RET_DATA;
    let name = match value & !libc::SECCOMP_RET_DATA {
        libc::SECCOMP_RET_KILL_THREAD => "KILL_THREAD",
        libc::SECCOMP_RET_KILL_PROCESS => "KILL_PROCESS",
        libc::SECCOMP_RET_TRAP => "TRAP",
        libc::SECCOMP_RET_USER_NOTIF => "NOTIFY",
        libc::SECCOMP_RET_LOG => "LOG",
        libc::SECCOMP_RET_ALLOW => "ALLOW",
        libc::SECCOMP_RET_TRACE => return format!("SCMP_ACT_TRACE {data}"),
        libc::SECCOMP_RET_ERRNO => {
            return match Errno::from_raw(data as i32) {
                Errno::UnknownErrno => format!("SCMP_ACT_ERRNO {data}"),
                known => format!("SCMP_ACT_ERRNO {known:?}"),
            };
        }
        _ => return format!("{value:#x}"),
    };
    format!("SCMP_ACT_{name}")
}
