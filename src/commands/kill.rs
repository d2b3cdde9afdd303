//! `kill`: sends a signal to the container's first process, by a pidfd, or to every process in its cgroup. With
//! --regex it does so for every container whose id matches and that runs.
//!
//! The first process of a pid namespace without a handler ignores every signal except SIGKILL and SIGSTOP
//! (pid_namespaces(7)). A created container's process waits for `start` and has none. Therefore a signal that
//! ends a process by default is sent to it as SIGKILL, until its program runs. Handlers in the process would
//! cost every container system calls, and execve would lose a signal that came just before it.
//!
//! Without a pid namespace of its own, a container's processes can outlive the first one, which is not the
//! first of its pid namespace. There SIGKILL ends all processes in the container's cgroup, as with runc.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::Failures;
use super::pause::FREEZE;
use crate::cgroups::{self, Cgroup};
use crate::cli::{Globals, Kill, Which};
use crate::error::{Kind, Result, fail, kind};
use crate::state::{self, Dir, Record, Status, first_process, pidfd};
use crate::{log, sys, trace};

/// The time limit for the end of a process that waits for `start`.
const SOON: Duration = Duration::from_millis(100);

pub(super) fn run(globals: &Globals, args: &Kill) -> Result<()> {
    let signal = signal(&args.signal)?;
    let pattern = match &args.which {
        Which::One(id) => return send(globals, id, signal, args.all),
        Which::All => None,
        Which::Matching(pattern) => Some(super::pattern(pattern)?),
    };
    let Some(root) = state::open_root(&state::root(globals.root.as_deref())?)? else { return Ok(()) };
    let mut failures = Failures::default();
    let wanted = |id: &String| pattern.as_ref().is_none_or(|pattern| pattern.is_match(id));
    for id in state::ids(&root)?.into_iter().filter(wanted) {
        match send(globals, &id, signal, args.all) {
            // Not every container that matches runs, and another command may have deleted it in between.
            Err(e) if !matches!(kind(&e), Kind::WrongStatus | Kind::NotFound) => failures.add(&id, &e),
            _ => {}
        }
    }
    failures.into_result()
}

/// Sends a signal to one container.
fn send(globals: &Globals, id: &str, signal: i32, all: bool) -> Result<()> {
    let (dir, record) = super::open(globals, id)?;
    if all {
        // containerd uses it after the container's first process has ended, for processes that are left.
        return signal_all(&dir, &record, signal);
    }
    match super::status(&dir, &record)? {
        Status::Creating => Err(not_running()),
        _ if signal == libc::SIGKILL && record.shares_pids() => kill_all(&dir, &record),
        Status::Created | Status::Running => signal_one(&record, signal),
        Status::Paused => {
            signal_one(&record, signal)?;
            match super::cgroup(&record)? {
                // On v1 a frozen process does not die before it is thawed.
                Some(cgroup) if signal == libc::SIGKILL && !cgroup.v1.is_empty() => {
                    cgroup.thaw(Instant::now() + FREEZE)
                }
                _ => Ok(()),
            }
        }
        Status::Stopped => Err(not_running()),
    }
}

/// Returns the error that containerd recognises as "the process has ended already".
fn not_running() -> anyhow::Error {
    fail(Kind::WrongStatus, "container not running")
}

fn signal_one(record: &Record, signal: i32) -> Result<()> {
    let _phase = trace::phase("signal");
    let (fd, stat) = first_process(record)?.ok_or_else(not_running)?;
    let kills = record.waits_for_start(&stat) && ends(signal);
    match sys::task::pidfd_send_signal(fd.as_fd(), if kills { libc::SIGKILL } else { signal }) {
        Err(e) if e.errno == Errno::ESRCH => return Err(not_running()),
        other => other?,
    }
    log::info(|| {
        format!("container {}: signal {signal} sent to process {}", record.id, record.pid.unwrap_or_default())
    });
    if kills {
        // It ends at once, and scripts delete the container next.
        sys::task::poll_readable(&[fd.as_fd()], Some(Instant::now() + SOON))?;
    }
    Ok(())
}

/// Returns whether a signal ends a process that neither handles nor ignores it (signal(7)).
fn ends(signal: i32) -> bool {
    const OTHERS: [i32; 8] = [
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGURG,
        libc::SIGWINCH,
    ];
    // Signal 0 only checks whether there is a process.
    signal != 0 && !OTHERS.contains(&signal)
}

/// Kills the first process and all others in the container's cgroup, unless another container is in it too.
fn kill_all(dir: &Dir, record: &Record) -> Result<()> {
    let others = kill_cgroup(dir, record);
    // An administrator may have moved it to another cgroup.
    let first = signal_one(record, libc::SIGKILL);
    if others? { Ok(()) } else { first }
}

/// Kills the processes in the container's cgroup. Returns false if there are none, or if another container is in it too.
fn kill_cgroup(dir: &Dir, record: &Record) -> Result<bool> {
    let Some(cgroup) = super::cgroup(record)? else { return Ok(false) };
    if neighbour(dir, record, &cgroup)?.is_some() || !cgroup.populated()? {
        return Ok(false);
    }
    cgroup.kill().map(|()| true)
}

/// Returns the container whose processes are in the cgroup of this one. If this one runs, the other can only be in a cgroup
/// below, since `create` refuses a cgroup with processes.
fn neighbour(dir: &Dir, record: &Record, cgroup: &Cgroup) -> Result<Option<Record>> {
    let Some(shared) = &record.cgroup else { return Ok(None) };
    let runs = pidfd(record)?.is_some();
    if runs && !cgroup.divided()? || !cgroup.populated()? {
        return Ok(None);
    }
    dir.shares_cgroup(shared, &record.created, runs, cgroups::populated)
}

fn signal_all(dir: &Dir, record: &Record, signal: i32) -> Result<()> {
    let _phase = trace::phase("signal all");
    let cgroup = super::cgroup(record)?;
    // If the container has stopped, another one may use its cgroup by now.
    if let Some(cgroup) = &cgroup
        && pidfd(record)?.is_none()
        && let Some(other) = neighbour(dir, record, cgroup)?
    {
        let text = format!("--all: container {:?} uses the same cgroup, and this one has stopped", other.id);
        return Err(fail(Kind::WrongStatus, text));
    }
    match &record.cgroup {
        Some(_) if signal == libc::SIGKILL => {
            log::info(|| format!("container {}: killing all processes", record.id));
            cgroup.map_or(Ok(()), |cgroup| cgroup.kill())
        }
        Some(_) => {
            cgroup.map_or(Ok(()), |cgroup| cgroup.signal_all(signal).map(drop))?;
            log::info(|| format!("container {}: signal {signal} sent to all processes", record.id));
            match first_process(record)? {
                Some((fd, stat)) if record.waits_for_start(&stat) && ends(signal) => {
                    // It may have ended by the signal, if it is not the first of its pid namespace.
                    let _ = sys::task::pidfd_send_signal(fd.as_fd(), libc::SIGKILL);
                    Ok(())
                }
                _ => Ok(()),
            }
        }
        // When the first process of a pid namespace ends, the kernel kills all others in it.
        None if signal == libc::SIGKILL && !record.shares_pids() => signal_one(record, signal),
        None => Err(fail(Kind::Unsupported, "--all: the container has no cgroup to find its processes by")),
    }
}

/// The real-time signals by name, on every machine. They are glibc's, which systemd and shells use: in musl,
/// SIGRTMIN is 35.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// Returns the number of a signal, which is given as a number, or as a name with or without SIG.
fn signal(text: &str) -> Result<i32> {
    let unknown = || {
        fail(Kind::Usage, format!("unknown signal {text:?} (hint: `kill -l` lists the names and numbers)"))
    };
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=SIGRTMAX).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let other = match name {
        "CLD" => Some(libc::SIGCHLD),
        "POLL" => Some(libc::SIGIO),
        "IOT" => Some(libc::SIGABRT),
        "RTMIN" => Some(SIGRTMIN),
        "RTMAX" => Some(SIGRTMAX),
        _ => real_time(name),
    };
    match other {
        Some(number) => Ok(number),
        None => format!("SIG{name}").parse::<Signal>().map(|s| s as i32).map_err(|_| unknown()),
    }
}

/// `RTMIN+n` and `RTMAX-n`.
fn real_time(name: &str) -> Option<i32> {
    let count = |text: &str| text.parse::<u8>().ok().map(i32::from);
    let number = match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
        (Some(n), _) => SIGRTMIN + count(n)?,
        (_, Some(n)) => SIGRTMAX - count(n)?,
        _ => return None,
    };
    (SIGRTMIN..=SIGRTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_signals_end_a_process() {
        let end: Vec<i32> = (0..=31).filter(|signal| ends(*signal)).collect();
        assert_eq!(end, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31]);
        assert!(ends(SIGRTMIN));
    }

    #[test]
    fn signals_are_numbers_and_names() {
        for (text, expected) in [
            ("15", Some(15)),
            ("0", Some(0)),
            ("64", Some(64)),
            ("TERM", Some(15)),
            ("SIGTERM", Some(15)),
            ("sigkill", Some(9)),
            ("Hup", Some(1)),
            ("SIGCLD", Some(17)),
            ("POLL", Some(29)),
            ("IOT", Some(6)),
            ("SIGSTKFLT", Some(16)),
            ("SIGRTMIN", Some(34)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMIN+30", Some(64)),
            ("SIGRTMAX-30", Some(34)),
            ("RTMAX", Some(64)),
            ("65", None),
            ("-1", None),
            ("SIGRTMIN+31", None),
            ("RTMAX-31", None),
            ("RTMIN+", None),
            ("RTMIN+-1", None),
            ("SIG", None),
            ("SIGSIGTERM", None),
            ("FOO", None),
            ("", None),
            ("9 ", None),
        ] {
            assert_eq!(signal(text).ok(), expected, "{text:?}");
        }
    }
}
