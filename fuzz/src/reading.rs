//! Two readings of device rules that share nothing with the compiler: the kernel's, of a program, and a plain
//! one, of the rules themselves. The unit tests of `cgroups::devices` use them too.

use super::{Instruction, Rule, Type};

/// Runs a program as the kernel does, for one access: `BPF_DEVCG_*` of mknod is 1, of read 2, of write 4.
/// Only the opcodes that the compiler uses are implemented.
pub fn run(program: &[Instruction], kind: Type, major: u32, minor: u32, access: u8) -> bool {
    let context = [u32::from(access) << 16 | kind as u32, major, minor];
    let mut registers = [0u32; 11];
    let mut at = 0;
    loop {
        let i = program[at];
        at += 1;
        let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
        let value = i.immediate as u32;
        let mut jump = |condition: bool| {
            assert!(i.offset >= 0, "the verifier wants no loops");
            at += if condition { i.offset as usize } else { 0 };
        };
        match i.code {
            0x61 => registers[to] = context[i.offset as usize / 4],
            0xb4 => registers[to] = value,
            0xbc => registers[to] = registers[from],
            0x54 => registers[to] &= value,
            0x74 => registers[to] >>= value,
            0x05 => jump(true),
            0x16 => jump(registers[to] == value),
            0x56 => jump(registers[to] != value),
            0x95 => return registers[0] == 1,
            code => panic!("opcode {code:#x}"),
        }
    }
}

/// Returns the meaning of a list of rules in the plainest way: the last rule that names an access decides.
pub fn oracle(rules: &[Rule], kind: Type, major: u32, minor: u32, access: u8) -> bool {
    [1, 2, 4].into_iter().filter(|bit| access & bit != 0).all(|bit| {
        let names = |r: &&Rule| {
            r.kind.is_none_or(|k| k == kind)
                && r.major.is_none_or(|m| m == major)
                && r.minor.is_none_or(|m| m == minor)
                && r.access & bit != 0
        };
        rules.iter().rev().find(names).is_some_and(|r| r.allow)
    })
}
