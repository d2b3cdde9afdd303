//! Reads values from clap's matches, and the arguments of the verbs.

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;

use super::{
    Create, Delete, Events, Exec, Format, Gc, Globals, Kill, List, Ps, Run, Shown, State, User, Which,
};
use crate::cgroups::Manager;
use crate::error::{Kind, Result, fail};
use crate::process::users;
use crate::{log, state};

/// Returns the value of an option, or `None` if the option is not set. An option that does not occur on the
/// command line is unknown to clap.
pub(crate) fn one<T: Clone + Send + Sync + 'static>(m: &ArgMatches, name: &str) -> Option<T> {
    m.try_get_one::<T>(name).ok().flatten().cloned()
}

pub(crate) fn flag(m: &ArgMatches, name: &str) -> bool {
    one(m, name).unwrap_or(false)
}

fn text(m: &ArgMatches, name: &str) -> Option<String> {
    one(m, name)
}

pub(crate) fn path(m: &ArgMatches, name: &str) -> Option<PathBuf> {
    one(m, name)
}

pub(crate) fn many<T: Clone + Send + Sync + 'static>(m: &ArgMatches, name: &str) -> Vec<T> {
    let values = m.try_get_many::<T>(name).ok().flatten();
    values.map(|values| values.cloned().collect()).unwrap_or_default()
}

fn number(m: &ArgMatches, name: &str) -> u32 {
    one(m, name).unwrap_or(0)
}

/// Returns the value of an option that accepts certain words only, which `wanted` describes.
pub(crate) fn word<T>(
    m: &ArgMatches,
    name: &str,
    wanted: &str,
    read: fn(&str) -> Option<T>,
) -> Result<Option<T>> {
    let Some(value) = text(m, name) else { return Ok(None) };
    match read(&value) {
        Some(known) => Ok(Some(known)),
        None => Err(fail(Kind::Usage, format!("invalid value {value:?} for --{name} (hint: {wanted})"))),
    }
}

/// Returns the id of the container. It becomes a part of paths, so it is checked here, before any use.
pub(crate) fn id(m: &ArgMatches) -> Result<String> {
    let id = text(m, "id").unwrap_or_default();
    state::check_id(&id)?;
    Ok(id)
}

/// Reads the operand, which is an id, or with `--regex` a regular expression.
fn one_or_matching(m: &ArgMatches) -> Result<Which> {
    match flag(m, "regex") {
        true => Ok(Which::Matching(text(m, "id").unwrap_or_default())),
        false => id(m).map(Which::One),
    }
}

pub(crate) fn bundle(m: &ArgMatches) -> PathBuf {
    path(m, "bundle").unwrap_or_else(|| PathBuf::from("."))
}

fn format(m: &ArgMatches) -> Result<Format> {
    let read = |value: &str| match value {
        "table" => Some(Format::Table),
        "json" => Some(Format::Json),
        _ => None,
    };
    Ok(word(m, "format", "table or json", read)?.unwrap_or_default())
}

pub(crate) fn globals(m: &ArgMatches, log: log::Options) -> Result<Globals> {
    word(m, "log-format", "text or json", log::Format::parse)?;
    word(m, "log-level", "error, warning, info or debug", log::Level::parse)?;
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
        cgroup_manager: word(m, "cgroup-manager", "cgroupfs, systemd or disabled", manager)?
            .unwrap_or(fallback),
        rootless: word(m, "rootless", "true, false or auto", rootless)?.flatten(),
        strict_labels: flag(m, "strict-labels"),
        criu: path(m, "criu"),
    })
}

pub(crate) fn create(m: &ArgMatches) -> Result<Create> {
    Ok(Create {
        // Only `check` may leave it out.
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

pub(crate) fn run(m: &ArgMatches) -> Result<Run> {
    Ok(Run {
        create: create(m)?,
        detach: flag(m, "detach"),
        keep: flag(m, "keep"),
        no_subreaper: flag(m, "no-subreaper"),
    })
}

pub(crate) fn kill(m: &ArgMatches) -> Result<Kill> {
    let signal = text(m, "signal").unwrap_or_else(|| "SIGTERM".into());
    Ok(Kill { which: one_or_matching(m)?, signal, all: flag(m, "all") })
}

pub(crate) fn delete(m: &ArgMatches) -> Result<Delete> {
    let all = flag(m, "all");
    if all == m.contains_id("id") {
        return Err(fail(Kind::Usage, "delete needs the ID of a container, or --all"));
    }
    let which = if all { Which::All } else { one_or_matching(m)? };
    Ok(Delete { which, force: flag(m, "force") })
}

/// Returns whether `--format` asks for JSON instead of text.
pub(crate) fn json(m: &ArgMatches) -> Result<bool> {
    let format = |value: &str| match value {
        "text" => Some(false),
        "json" => Some(true),
        _ => None,
    };
    Ok(word(m, "format", "text or json", format)?.unwrap_or_default())
}

pub(crate) fn gc(m: &ArgMatches) -> Result<Gc> {
    Ok(Gc { stopped: flag(m, "stopped"), dry_run: flag(m, "dry-run"), json: json(m)? })
}

pub(crate) fn state(m: &ArgMatches) -> Result<State> {
    let shown = match (flag(m, "applied"), json(m)?) {
        (true, true) => Shown::Settings,
        (true, false) => Shown::Differences,
        (false, _) => Shown::State,
    };
    Ok(State { id: id(m)?, shown })
}

pub(crate) fn list(m: &ArgMatches) -> Result<List> {
    Ok(List { format: format(m)?, quiet: flag(m, "quiet") })
}

pub(crate) fn ps(m: &ArgMatches) -> Result<Ps> {
    Ok(Ps { id: id(m)?, format: format(m)?, options: many(m, "words") })
}

pub(crate) fn events(m: &ArgMatches) -> Result<Events> {
    let interval = word(m, "interval", "a time above 0, such as 5s or 1m30s", duration)?
        .unwrap_or(Duration::from_secs(5));
    Ok(Events { id: id(m)?, stats: flag(m, "stats"), interval })
}

/// Reads a duration above 0 in Go's form: `5s`, `1m30s`, `1.5h`.
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

pub(crate) fn exec(m: &ArgMatches) -> Result<Exec> {
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
        user: word(m, "user", "UID, UID:GID, or names; an id is below 4294967295", user)?,
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
    Ok(exec)
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
