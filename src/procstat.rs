//! Processes as proc_pid_stat(5) shows them. A process id alone identifies no process, because the kernel reuses it: it counts
//! only together with the time at which the process started and the boot of the machine.

use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;

use crate::error::{Kind, Result, fail};
use crate::host;
use crate::sys::fs;

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) flags: u32,
    pub(crate) threads: u32,
    pub(crate) start_time: u64,
}

impl Stat {
    /// It runs nothing more: it is a zombie, or on its way to be one (PF_EXITING). One whose other threads run on is not
    /// dead: its program may have ended its first thread.
    pub(crate) fn dead(&self) -> bool {
        (matches!(self.state, 'Z' | 'X' | 'x') || self.flags & 0x4 != 0) && self.threads <= 1
    }

    /// The process is a copy that clone(2) made and has not called execve(2) (PF_FORKNOEXEC in the kernel's sched.h).
    pub(crate) fn before_exec(&self) -> bool {
        self.flags & 0x40 != 0
    }
}

/// Reads proc_pid_stat(5). The second field is the program's name in parentheses, which may hold anything.
pub(crate) fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first here is the file's third.
    let field = |number: usize| fields.get(number - 3);
    Some(Stat {
        state: field(3)?.chars().next()?,
        flags: field(9)?.parse().ok()?,
        threads: field(20)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
    })
}

pub(crate) fn read_stat(pid: i32) -> Result<Option<Stat>> {
    // A wrong /proc would show no such process, or a stranger: every container would seem stopped, and be deleted from
    // under its processes.
    let proc = host::procfs()?;
    match fs::read_text(proc, Path::new(&format!("{pid}/stat"))) {
        Ok(text) => {
            let stat = parse_stat(&text);
            stat.map(Some).ok_or_else(|| fail(Kind::Os, format!("/proc/{pid}/stat: not understood")))
        }
        Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The identity of this boot of the machine, which does not end before we do: it is read once.
pub fn boot_id() -> Result<&'static str> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id);
    }
    let text = fs::read_text(host::procfs()?, Path::new("sys/kernel/random/boot_id"))?;
    Ok(ID.get_or_init(|| text.trim_end().to_string()))
}

/// When a process started, in the kernel's ticks after boot; `None` if there is no such process.
pub fn start_time(pid: i32) -> Result<Option<u64>> {
    Ok(read_stat(pid)?.map(|stat| stat.start_time))
}

/// Whether there is such a process, or thread, and it has not ended.
pub fn runs(pid: i32) -> Result<bool> {
    Ok(read_stat(pid)?.is_some_and(|stat| !stat.dead()))
}

/// What the process is doing, as a letter of proc_pid_stat(5); `None` if there is no such process.
pub fn state_letter(pid: i32) -> Result<Option<char>> {
    Ok(read_stat(pid)?.map(|stat| stat.state))
}

/// Whether the process has come to its end without ever having executed a program. One that is gone is taken to have
/// ended after it.
pub fn ended_before_exec(pid: i32) -> Result<bool> {
    Ok(read_stat(pid)?.is_some_and(|stat| stat.dead() && stat.before_exec()))
}
