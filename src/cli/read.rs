//! What clap has matched, as values.

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;

use super::{Command, Create, Delete, Events, Exec, Explain, Format, Globals, Kill, Run, User};
use crate::cgroups::Manager;
use crate::error::{Kind, Result, fail};
use crate::process::users;
use crate::{log, state};

/// The value of an option; `None` also of one that clap was not told of, because no word is about it.
pub(super) fn one<T: Clone + Send + Sync + 'static>(m: &ArgMatches, name: &str) -> Option<T> {
    m.try_get_one::<T>(name).ok().flatten().cloned()
}

pub(super) fn flag(m: &ArgMatches, name: &str) -> bool {
    one(m, name).unwrap_or(false)
}

fn text(m: &ArgMatches, name: &str) -> Option<String> {
    one(m, name)
}

pub(super) fn path(m: &ArgMatches, name: &str) -> Option<PathBuf> {
    one(m, name)
}

pub(super) fn many<T: Clone + Send + Sync + 'static>(m: &ArgMatches, name: &str) -> Vec<T> {
    let values = m.try_get_many::<T>(name).ok().flatten();
    values.map(|values| values.cloned().collect()).unwrap_or_default()
}

fn number(m: &ArgMatches, name: &str) -> u32 {
    one(m, name).unwrap_or(0)
}

/// The value of an option that knows only certain words.
fn word<T>(m: &ArgMatches, name: &str, read: fn(&str) -> Option<T>) -> Result<Option<T>> {
    let Some(value) = text(m, name) else { return Ok(None) };
    match read(&value) {
        Some(known) => Ok(Some(known)),
        None => Err(fail(Kind::Usage, format!("invalid value {value:?} for --{name}"))),
    }
}

/// The id goes into paths: it is checked before anything is done with it.
pub(super) fn id(m: &ArgMatches) -> Result<String> {
    let id = text(m, "id").unwrap_or_default();
    state::check_id(&id)?;
    Ok(id)
}

pub(super) fn bundle(m: &ArgMatches) -> PathBuf {
    path(m, "bundle").unwrap_or_else(|| PathBuf::from("."))
}

pub(super) fn format(m: &ArgMatches) -> Result<Format> {
    let read = |value: &str| match value {
        "table" => Some(Format::Table),
        "json" => Some(Format::Json),
        _ => None,
    };
    Ok(word(m, "format", read)?.unwrap_or_default())
}

pub(super) fn globals(m: &ArgMatches, log: log::Options) -> Result<Globals> {
    word(m, "log-format", log::Format::parse)?;
    word(m, "log-level", log::Level::parse)?;
    let manager = |value: &str| match value {
        "cgroupfs" => Some(Manager::Cgroupfs),
        "systemd" => Some(Manager::Systemd),
        "disabled" => Some(Manager::Disabled),
        _ => None,
    };
    let rootless = |value: &str| match value {
        "true" => Some(Some(true)),
        "false" => Some(Some(false)),
        "auto" => Some(None),
        _ => None,
    };
    let fallback = if flag(m, "systemd-cgroup") { Manager::Systemd } else { Manager::default() };
    Ok(Globals {
        root: path(m, "root"),
        log,
        // Podman may send --systemd-cgroup for all containers and --cgroup-manager=disabled for one.
        cgroup_manager: word(m, "cgroup-manager", manager)?.unwrap_or(fallback),
        rootless: word(m, "rootless", rootless)?.flatten(),
        strict_labels: flag(m, "strict-labels"),
    })
}

pub(super) fn create(m: &ArgMatches) -> Result<Create> {
    Ok(Create {
        // Only the hidden `plan` may leave it out.
        id: if m.contains_id("id") { id(m)? } else { "plan".into() },
        bundle: bundle(m),
        config: path(m, "config"),
        console_socket: path(m, "console-socket"),
        pidfd_socket: path(m, "pidfd-socket"),
        pid_file: path(m, "pid-file"),
        no_pivot: flag(m, "no-pivot"),
        no_new_keyring: flag(m, "no-new-keyring"),
        preserve_fds: number(m, "preserve-fds"),
    })
}

pub(super) fn run(m: &ArgMatches) -> Result<Command> {
    Ok(Command::Run(Run {
        create: create(m)?,
        detach: flag(m, "detach"),
        keep: flag(m, "keep"),
        no_subreaper: flag(m, "no-subreaper"),
    }))
}

pub(super) fn kill(m: &ArgMatches) -> Result<Command> {
    let signal = text(m, "signal").unwrap_or_else(|| "SIGTERM".into());
    Ok(Command::Kill(Kill { id: id(m)?, signal, all: flag(m, "all") }))
}

pub(super) fn delete(m: &ArgMatches) -> Result<Command> {
    let all = flag(m, "all");
    if all == m.contains_id("id") {
        return Err(fail(Kind::Usage, "delete needs the ID of a container, or --all"));
    }
    let id = if all { None } else { Some(id(m)?) };
    Ok(Command::Delete(Delete { id, force: flag(m, "force") }))
}

/// `--format` of a verb that prints lines, not a table.
pub(super) fn is_json(m: &ArgMatches) -> Result<bool> {
    let read = |value: &str| match value {
        "text" => Some(false),
        "json" => Some(true),
        _ => None,
    };
    Ok(word(m, "format", read)?.unwrap_or_default())
}

pub(super) fn events(m: &ArgMatches) -> Result<Command> {
    let interval = word(m, "interval", duration)?.unwrap_or(Duration::from_secs(5));
    Ok(Command::Events(Events { id: id(m)?, stats: flag(m, "stats"), interval }))
}

/// A time above 0 as Go writes it: `5s`, `1m30s`, `1.5h`.
fn duration(value: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (mut rest, mut seconds) = (value, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (count, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        seconds += count.parse::<f64>().ok()? * UNITS.iter().find(|(name, _)| *name == unit)?.1;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero())
}

pub(super) fn exec(m: &ArgMatches) -> Result<Command> {
    let exec = Exec {
        id: id(m)?,
        args: many(m, "words"),
        process: path(m, "process"),
        console_socket: path(m, "console-socket"),
        pidfd_socket: path(m, "pidfd-socket"),
        pid_file: path(m, "pid-file"),
        tty: flag(m, "tty"),
        detach: flag(m, "detach"),
        env: many(m, "env"),
        user: word(m, "user", user)?,
        additional_gids: many(m, "additional-gids"),
        cwd: text(m, "cwd"),
        caps: many(m, "cap"),
        no_new_privs: flag(m, "no-new-privs"),
        apparmor: text(m, "apparmor"),
        process_label: text(m, "process-label"),
        preserve_fds: number(m, "preserve-fds"),
        cgroup: many(m, "cgroup"),
        ignore_paused: flag(m, "ignore-paused"),
        no_subreaper: flag(m, "no-subreaper"),
    };
    if exec.args.is_empty() && exec.process.is_none() {
        return Err(fail(Kind::Usage, "exec needs a program to run, or --process"));
    }
    Ok(Command::Exec(exec))
}

pub(super) fn explain(m: &ArgMatches) -> Result<Command> {
    let bundle = path(m, "bundle");
    let mut words = many::<String>(m, "words").into_iter();
    match words.next().as_deref() {
        Some("explain") => {}
        other => {
            let shown = other.unwrap_or_default();
            return Err(fail(Kind::Usage, format!("seccomp knows explain, not {shown:?}")));
        }
    }
    let profile = if bundle.is_none() { words.next().map(PathBuf::from) } else { None };
    if bundle.is_none() && profile.is_none() {
        return Err(fail(Kind::Usage, "seccomp explain needs a profile, or --bundle"));
    }
    let (dump, syscalls) = (flag(m, "dump"), words.collect::<Vec<_>>());
    if dump && !syscalls.is_empty() {
        return Err(fail(Kind::Usage, "seccomp explain --dump prints the whole program, not that of a call"));
    }
    Ok(Command::Explain(Explain { bundle, profile, dump, syscalls }))
}

fn user(value: &str) -> Option<User> {
    if users::names(value) {
        return Some(User::Named(value.into()));
    }
    let who = users::who(value, &[], &[]).ok()?;
    Some(User::Ids { uid: who.uid, gid: who.gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, expected) in [
            ("5s", Some(5000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("250ms", Some(250)),
            ("0s", None),
            ("", None),
            ("5", None),
            ("-5s", None),
            ("5s3", None),
            ("s", None),
            ("5d", None),
            ("1..5s", None),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text:?}");
        }
    }
}
