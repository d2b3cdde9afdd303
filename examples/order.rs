//! Prints the functions of an executable, by the linker's names, that a command comes to, each once: `order EXECUTABLE
//! WORD...`. First those of the command's own process, in order, then what its children add. The executable has its
//! symbols; a process that executes another is let go. scripts/order makes the linker's script of it.
//!
//! `order --count EXECUTABLE WORD...` prints how many instructions the command's own process takes: scripts/guard.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The functions of an executable by their addresses in it, in order.
struct Functions(Vec<(u64, String)>);

impl Functions {
    fn of(executable: &str) -> Self {
        let out = Command::new("nm").args(["--defined-only", "--numeric-sort", executable]).output();
        let text = String::from_utf8(out.unwrap_or_else(|e| panic!("nm: {e}")).stdout).unwrap_or_default();
        let function = |line: &str| {
            let mut words = line.split(' ');
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let kind = words.next()?;
            ["t", "T", "w", "W"].contains(&kind).then_some(())?;
            Some((address, words.next()?.to_string()))
        };
        Self(text.lines().filter_map(function).collect())
    }

    fn at(&self, address: u64) -> Option<usize> {
        self.0.partition_point(|(start, _)| *start <= address).checked_sub(1)
    }
}

struct Tracer {
    functions: Functions,
    inode: u64,
    /// Where the executable is in each process.
    bases: HashMap<Pid, u64>,
    /// The command's own process.
    first: Pid,
    /// What it has come to, and what others have.
    found: [Vec<usize>; 2],
    seen: [Vec<bool>; 2],
    /// Instructions of the command's own process.
    count: u64,
}

impl Tracer {
    /// Where the executable is in a process; `None` if that runs another.
    fn base(&self, pid: Pid) -> Option<u64> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        let inode = self.inode.to_string();
        let line = maps.lines().find(|line| line.split_whitespace().nth(4) == Some(&inode))?;
        u64::from_str_radix(line.split('-').next()?, 16).ok()
    }

    fn note(&mut self, pid: Pid) {
        let Some(base) = self.bases.get(&pid) else { return };
        let Some(address) = ptrace::getregs(pid).ok().and_then(|regs| regs.rip.checked_sub(*base)) else {
            return;
        };
        let who = usize::from(pid != self.first);
        if let Some(index) = self.functions.at(address)
            && !std::mem::replace(&mut self.seen[who][index], true)
        {
            self.found[who].push(index);
        }
    }

    /// What stopped goes on by one instruction.
    fn step(&mut self, pid: Pid, signal: Option<Signal>) {
        if self.bases.contains_key(&pid) {
            self.note(pid);
            self.count += u64::from(pid == self.first);
            // It may have been killed by now.
            let _ = ptrace::step(pid, signal);
        } else {
            let _ = ptrace::cont(pid, signal);
        }
    }

    /// What is left is a container's, which waits: it goes on, but not by single steps.
    fn let_go(&self) {
        for &pid in self.bases.keys() {
            let _ = ptrace::interrupt(pid);
            let _ = waitpid(pid, Some(WaitPidFlag::__WALL));
            let _ = ptrace::detach(pid, None);
        }
    }

    /// Follows all processes until the command's own has ended.
    fn follow(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::PtraceEvent(pid, _, event)) => {
                    let new = event == libc::PTRACE_EVENT_EXEC || !self.bases.contains_key(&pid);
                    if new {
                        match self.base(pid) {
                            Some(base) => self.bases.insert(pid, base),
                            None if event == libc::PTRACE_EVENT_EXEC && pid != self.first => {
                                self.bases.remove(&pid);
                                let _ = ptrace::detach(pid, None);
                                continue;
                            }
                            None => self.bases.remove(&pid),
                        };
                    }
                    self.step(pid, None);
                }
                Ok(WaitStatus::Stopped(pid, Signal::SIGTRAP)) => self.step(pid, None),
                Ok(WaitStatus::Stopped(pid, signal)) => self.step(pid, Some(signal)),
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    self.bases.remove(&pid);
                    if pid == self.first {
                        return self.let_go();
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

#[allow(clippy::zombie_processes)] // reaped by `Tracer::follow`
fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (counts, words) = match words.as_slice() {
        [first, rest @ ..] if first == "--count" => (true, rest),
        all => (false, all),
    };
    let [executable, rest @ ..] = words else { panic!("usage: order [--count] EXECUTABLE WORD...") };
    let functions = if counts { Functions(Vec::new()) } else { Functions::of(executable) };
    let inode = fs::metadata(executable).unwrap_or_else(|e| panic!("{executable}: {e}")).ino();
    // A shell that stops is there to be taken hold of before it becomes the command.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh", executable]).args(rest);
    let child =
        shell.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap_or_else(|e| panic!("sh: {e}"));
    let first = Pid::from_raw(child.id() as i32);
    let _ = waitpid(first, Some(WaitPidFlag::WUNTRACED));
    let options = Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(first, options).unwrap_or_else(|e| panic!("ptrace: {e}"));
    let _ = kill(first, Signal::SIGCONT);
    let seen = [vec![false; functions.0.len()], vec![false; functions.0.len()]];
    let mut tracer =
        Tracer { functions, inode, bases: HashMap::new(), first, found: Default::default(), seen, count: 0 };
    tracer.follow();
    if counts {
        println!("{}", tracer.count);
        return;
    }
    let [own, others] = &tracer.found;
    for &index in own.iter().chain(others.iter().filter(|&&index| !tracer.seen[0][index])) {
        println!("{}", tracer.functions.0[index].1);
    }
}
