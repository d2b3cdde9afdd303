//! Processes as proc_pid_stat(5) shows them. A process id alone identifies no process, because the kernel
//! reuses it: it counts only together with the time at which the process started and the boot of the machine.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;

use crate::error::{Kind, Result, fail};
use crate::host;
use crate::sys::task::Exit;
use crate::sys::{self, fs};

/// The fields of `/proc/PID/stat` that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) flags: u32,
    pub(crate) threads: u32,
    pub(crate) start_time: u64,
    /// How it has ended, in wait(2)'s form. 0 while it runs, and if the caller may not see it.
    pub(crate) wait_status: i32,
}

impl Stat {
    /// Reports whether the process is a zombie, or is ending (PF_EXITING). A process with other threads is
    /// not dead, since its program may have ended only the first thread.
    pub(crate) fn dead(&self) -> bool {
        (matches!(self.state, 'Z' | 'X' | 'x') || self.flags & 0x4 != 0) && self.threads <= 1
    }

    /// Reports whether the process was cloned and has not called execve(2) since (PF_FORKNOEXEC in the
    /// kernel's sched.h).
    pub(crate) fn before_exec(&self) -> bool {
        self.flags & 0x40 != 0
    }
}

/// Returns the program's name in `/proc/PID/stat`, and the fields from the third on. The name is the second field, in
/// parentheses, and may contain any characters.
pub(crate) fn fields(text: &str) -> Option<(&str, impl Iterator<Item = &str>)> {
    let (front, rest) = text.rsplit_once(')')?;
    Some((front.split_once('(')?.1, rest.trim_ascii().split(' ')))
}

/// Parses `/proc/PID/stat`. `list` does so for each container, and therefore goes no further than it must.
pub(crate) fn parse_stat(text: &str) -> Option<Stat> {
    let (_, mut fields) = fields(text)?;
    let state = fields.next()?.chars().next()?;
    // The next field is the fourth.
    let (flags, threads) = (fields.nth(9 - 4)?.parse().ok()?, fields.nth(20 - 10)?.parse().ok()?);
    let start_time = fields.nth(22 - 21)?.parse().ok()?;
    let wait_status = if state == 'Z' { fields.nth(52 - 23) } else { None };
    let wait_status = wait_status.and_then(|text| text.parse().ok()).unwrap_or(0);
    Some(Stat { state, flags, threads, start_time, wait_status })
}

pub(crate) fn read_stat(pid: i32) -> Result<Option<Stat>> {
    // A wrong /proc would show no such process or another one. Then every container would seem stopped, and
    // would be deleted while its processes run.
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

/// Returns how a process has ended that its parent has not reaped yet. `stat` is its entry. Returns `None` if it
/// has not ended, or if the caller may not see how.
pub(crate) fn exit_of_zombie(pid: i32, stat: &Stat) -> Result<Option<Exit>> {
    if stat.state != 'Z' || !stat.dead() {
        return Ok(None);
    }
    // The kernel shows 0 to a caller without the right to trace the process. The links of its namespaces need the
    // same right. Of a zombie they lead nowhere.
    let link = format!("{pid}/ns/mnt");
    let hidden = || fs::readlinkat(host::procfs()?, Path::new(&link)).map_err(anyhow::Error::from);
    let hidden = stat.wait_status == 0
        && hidden().is_err_and(|e| sys::errno(&e).is_some_and(|errno| errno == Errno::EACCES));
    Ok((!hidden).then(|| Exit::of_wait_status(stat.wait_status)))
}

/// Returns the processor time of a process, of all its threads and of its reaped children, in the kernel's ticks. It is 0 for a
/// process that does not exist.
pub(crate) fn processor_time(pid: i32) -> u64 {
    let text = host::procfs().and_then(|proc| Ok(fs::read_text(proc, Path::new(&format!("{pid}/stat")))?));
    let text = text.unwrap_or_default();
    let Some((_, fields)) = fields(&text) else { return 0 };
    // The fields 14 to 17.
    fields.skip(14 - 3).take(4).filter_map(|field| field.parse::<u64>().ok()).fold(0, u64::wrapping_add)
}

/// Returns the threads of a process and of all that descend from it, each as the path of its directory in /proc. The kernel must
/// have CONFIG_PROC_CHILDREN, as for CRIU.
pub(crate) fn threads_of_all(pid: i32) -> Result<Vec<PathBuf>> {
    let proc = host::procfs()?;
    let (mut found, mut processes) = (Vec::new(), vec![pid]);
    while let Some(pid) = processes.pop() {
        let tasks = PathBuf::from(format!("{pid}/task"));
        let dir = fs::open(proc, &tasks, fs::O_RDONLY | fs::O_DIRECTORY, 0)?;
        for thread in fs::list_dir(dir.as_fd())?.into_iter().map(|thread| tasks.join(thread)) {
            let children = fs::read_text(proc, &thread.join("children"))?;
            processes.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            found.push(thread);
        }
    }
    Ok(found)
}

/// Returns the id of this boot of the machine. It is read once, since we do not outlive the boot.
pub(crate) fn boot_id() -> Result<&'static str> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id);
    }
    let text = fs::read_text(host::procfs()?, Path::new("sys/kernel/random/boot_id"))?;
    Ok(ID.get_or_init(|| text.trim_end().to_string()))
}

/// Returns when a process started, in the kernel's ticks after boot, or `None` if there is no such process.
pub(crate) fn start_time(pid: i32) -> Result<Option<u64>> {
    Ok(read_stat(pid)?.map(|stat| stat.start_time))
}

/// Reports whether there is such a process or thread, and it has not ended.
pub(crate) fn runs(pid: i32) -> Result<bool> {
    Ok(read_stat(pid)?.is_some_and(|stat| !stat.dead()))
}

/// Returns the state of a process, a letter of proc_pid_stat(5), or `None` if there is no such process.
pub(crate) fn state_letter(pid: i32) -> Result<Option<char>> {
    Ok(read_stat(pid)?.map(|stat| stat.state))
}

/// Reports whether the process has ended without having executed a program. A process that does not exist any
/// more is taken to have executed one.
pub(crate) fn ended_before_exec(pid: i32) -> Result<bool> {
    Ok(read_stat(pid)?.is_some_and(|stat| stat.dead() && stat.before_exec()))
}
