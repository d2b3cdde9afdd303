//! `ps`: the processes in the container's cgroup. As in runc, the table is that of `ps -ef`. With options of ps(1) it is the
//! output of the host's ps, reduced to these processes.

mod full;

use std::process::{Command, Stdio};

use crate::cli::{Format, Globals, Ps};
use crate::error::{Context, Kind, Result, fail};
use crate::sys::signal;

pub(super) fn run(globals: &Globals, args: &Ps) -> Result<()> {
    let (_dir, record) = super::open(globals, &args.id)?;
    if record.cgroup.is_none() {
        return Err(fail(Kind::Unsupported, "the container has no cgroup to find its processes by"));
    }
    let mut pids = super::cgroup(&record)?.map_or(Ok(Vec::new()), |cgroup| cgroup.pids())?;
    pids.sort_unstable();
    match args.format {
        Format::Json => super::print(&(serde_json::to_string(&pids).context("JSON")? + "\n")),
        Format::Table if args.options.is_empty() => super::print(&full::table(&pids)?),
        Format::Table => super::print(&filter(&host_ps(&args.options)?, &pids)?),
    }
}

/// Returns the output of ps(1) for the whole host.
fn host_ps(options: &[String]) -> Result<String> {
    signal::keep_children()?;
    let output = Command::new("ps").args(options).stdin(Stdio::null()).output().context("running ps(1)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(fail(Kind::Os, format!("ps(1): {}: {}", output.status, said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the heading and the lines of ps's output for these processes.
fn filter(output: &str, pids: &[i32]) -> Result<String> {
    let mut lines = output.lines();
    let heading = lines.next().unwrap_or_default();
    let Some(column) = heading.split_whitespace().position(|word| word == "PID") else {
        return Err(fail(Kind::Usage, "ps(1) shows no PID column with these options"));
    };
    let ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    Ok(std::iter::once(heading).chain(lines.filter(ours)).flat_map(|line| [line, "\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_lines_are_shown() {
        let output =
            "UID   PID  PPID CMD\nroot    1     0 init\nroot   12     1 sh -c 34\nann    34    12 sleep 1\n";
        for (pids, expected) in [
            (vec![12, 34], "UID   PID  PPID CMD\nroot   12     1 sh -c 34\nann    34    12 sleep 1\n"),
            (vec![34], "UID   PID  PPID CMD\nann    34    12 sleep 1\n"),
            (vec![], "UID   PID  PPID CMD\n"),
        ] {
            assert_eq!(filter(output, &pids).unwrap(), expected);
        }
        assert!(filter("USER COMMAND\nroot init\n", &[1]).is_err());
        assert!(filter("", &[1]).is_err());
    }
}
