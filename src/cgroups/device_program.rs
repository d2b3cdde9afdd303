//! The eBPF program by which cgroup v2 filters devices: attached, replaced, and compared with what was asked
//! for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::devices::{DeviceRules, Filter};
use crate::sys::{self, bpf};

/// The name by which our programs are recognised.
const PROGRAM: [u8; 16] = *b"corten_devices\0\0";

/// Which attached programs a new one replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaced {
    /// None: the cgroup is new, and a program in it is systemd's.
    None,
    /// Our own. Programs of others, such as systemd, stay in force.
    Ours,
    /// All, since an earlier user of the cgroup may have left some.
    All,
}

/// Replaces the attached programs with one for `filter`; `None` only detaches them. A single program, which
/// is the usual case, is exchanged atomically: there is no moment at which neither or both are in force.
pub(super) fn replace(dir: BorrowedFd, filter: Option<&Filter>, replaced: Replaced) -> sys::Result<()> {
    let old = match replaced {
        Replaced::None => Vec::new(),
        Replaced::Ours => attached(dir, |program| program.name == PROGRAM)?,
        Replaced::All => attached(dir, |_| true)?,
    };
    let mut leftover = &old[..];
    if let Some(filter) = filter {
        let program = bpf::load_device_program(&filter.compile(), &PROGRAM)?;
        let place = match &old[..] {
            [one] => {
                leftover = &[];
                Some(one.as_fd())
            }
            _ => None,
        };
        bpf::attach_device_program(dir, program.as_fd(), place)?;
    }
    for program in leftover {
        bpf::detach_device_program(dir, program.as_fd())?;
    }
    Ok(())
}

/// Compares the attached programs with the program for a filter.
pub(super) fn compare(dir: BorrowedFd, filter: Option<&Filter>) -> DeviceRules {
    let (applied, same) = match device_program_is(dir, filter) {
        Ok((0, same)) => ("none".to_string(), same),
        Ok((1, true)) => ("a program".to_string(), true),
        Ok((count, _)) => (format!("{count} programs, not as asked"), false),
        Err(e) => (e.to_string(), false),
    };
    let none = DeviceRules::none(filter);
    DeviceRules { file: "bpf(PROG_QUERY)", applied, same, ..none }
}

/// Returns the attached programs that `wanted` accepts.
fn attached(dir: BorrowedFd, wanted: impl Fn(bpf::Program) -> bool) -> sys::Result<Vec<OwnedFd>> {
    let mut programs = Vec::new();
    for id in bpf::device_programs(dir)? {
        let program = bpf::program_by_id(id)?;
        if wanted(bpf::program_info(program.as_fd())?) {
            programs.push(program);
        }
    }
    Ok(programs)
}

/// Returns how many programs are attached, and whether they are as the filter asks: exactly its program, or
/// none if every device is allowed.
fn device_program_is(dir: BorrowedFd, filter: Option<&Filter>) -> sys::Result<(usize, bool)> {
    let attached = bpf::device_programs(dir)?;
    let Some(filter) = filter else { return Ok((attached.len(), attached.is_empty())) };
    let [id] = attached[..] else { return Ok((attached.len(), false)) };
    let wanted = bpf::load_device_program(&filter.compile(), &PROGRAM)?;
    let tag = |program: &OwnedFd| bpf::program_info(program.as_fd()).map(|program| program.tag);
    Ok((1, tag(&bpf::program_by_id(id)?)? == tag(&wanted)?))
}
