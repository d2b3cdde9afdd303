//! The part of classic BPF that seccomp filters need: instructions, and an interpreter that decides as the
//! kernel does.

use libc::sock_filter;

pub(super) const LD_W_ABS: u16 = 0x20;
pub(super) const ALU_AND_K: u16 = 0x54;
pub(super) const JA: u16 = 0x05;
pub(super) const JEQ_K: u16 = 0x15;
pub(super) const JGT_K: u16 = 0x25;
pub(super) const JGE_K: u16 = 0x35;
pub(super) const RET_K: u16 = 0x06;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
pub(super) const NR: u32 = 0;
pub(super) const ARCH: u32 = 4;
pub(super) const ARGS: u32 = 16;

pub(super) fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

pub(super) fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// A system call, as a filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub arch: u32,
    pub nr: u32,
    pub args: [u64; 6],
}

impl Call {
    /// Returns the 32-bit word at an offset of `struct seccomp_data`, on a machine of this endianness.
    fn word(&self, offset: u32, big_endian: bool) -> Option<u32> {
        match offset {
            NR => Some(self.nr),
            ARCH => Some(self.arch),
            8 | 12 => Some(0),
            ARGS..64 if offset.is_multiple_of(4) => {
                let arg = self.args.get((offset - ARGS) as usize / 8)?;
                let upper = (offset % 8 == 4) != big_endian;
                Some(if upper { (arg >> 32) as u32 } else { *arg as u32 })
            }
            _ => None,
        }
    }
}

/// Returns the answer of a program to a call, and the number of its steps. Returns `None` for a program that
/// the kernel would refuse.
#[must_use]
pub fn run(program: &[sock_filter], call: &Call, big_endian: bool) -> Option<(u32, usize)> {
    let mut accumulator = 0u32;
    let mut at = 0usize;
    // Every jump goes forward, so a program has at most as many steps as instructions.
    for steps in 1..=program.len() {
        let instruction = program.get(at)?;
        let k = instruction.k;
        at += 1;
        let branch = |taken: bool| usize::from(if taken { instruction.jt } else { instruction.jf });
        match instruction.code {
            LD_W_ABS => accumulator = call.word(k, big_endian)?,
            ALU_AND_K => accumulator &= k,
            JA => at = at.checked_add(k as usize)?,
            JEQ_K => at += branch(accumulator == k),
            JGT_K => at += branch(accumulator > k),
            JGE_K => at += branch(accumulator >= k),
            RET_K => return Some((k, steps)),
            _ => return None,
        }
    }
    None
}

/// Returns the answer of a program to a call with any arguments, or `None` if the program looks at the
/// arguments.
#[must_use]
pub(crate) fn certain(program: &[sock_filter], arch: u32, nr: u32) -> Option<u32> {
    let mut at = 0usize;
    let mut accumulator = 0u32;
    for _ in 0..program.len() {
        let instruction = program.get(at)?;
        let k = instruction.k;
        at += 1;
        let branch = |taken: bool| usize::from(if taken { instruction.jt } else { instruction.jf });
        match instruction.code {
            LD_W_ABS if k == NR => accumulator = nr,
            LD_W_ABS if k == ARCH => accumulator = arch,
            JA => at = at.checked_add(k as usize)?,
            JEQ_K => at += branch(accumulator == k),
            JGT_K => at += branch(accumulator > k),
            JGE_K => at += branch(accumulator >= k),
            RET_K => return Some(k),
            _ => return None,
        }
    }
    None
}

/// Reports whether the kernel would accept a program: known instructions, jumps within the program, a return
/// at its end.
#[must_use]
pub fn valid(program: &[sock_filter]) -> bool {
    let len = program.len();
    (1..=crate::sys::seccomp::INSTRUCTIONS_MAX).contains(&len)
        && program.last().is_some_and(|last| last.code == RET_K)
        && program.iter().enumerate().all(|(at, i)| {
            let within = |offset: usize| (at + 1).checked_add(offset).is_some_and(|to| to < len);
            match i.code {
                LD_W_ABS => i.k % 4 == 0 && i.k < 64,
                ALU_AND_K | RET_K => true,
                JA => within(i.k as usize),
                JEQ_K | JGT_K | JGE_K => within(i.jt.into()) && within(i.jf.into()),
                _ => false,
            }
        })
}
