//! How a container ended: what the record keeps and `state` and `list` print, and the line that explains it.
//!
//! The members are together in one object, because CRI-O reads `exitCode`, `oomKilled` and `error` of the
//! whole document as members of its own. They are not annotations: those are the configuration's
//! (runtime.md#state).

use std::fmt;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::cgroups::oom::Kills;
use crate::sys::task::Exit;

/// The statuses of a shell whose child these signals have killed.
const SHELL_KILLED: i32 = 128 + libc::SIGKILL;
const SHELL_SYS: i32 = 128 + libc::SIGSYS;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// The exit status, or 128 + the signal, as a shell shows it. `None` if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u8>,
    /// The name of the signal that ended the first process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// The first process got SIGKILL, and the kernel has killed a process of the cgroup for want of memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
    #[serde(flatten)]
    pub kills: Option<Kills>,
    /// When a command has seen the end, in the format of RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

impl End {
    /// Returns what is known of an end; `None` if that is nothing.
    #[must_use]
    pub(crate) fn known(exit: Option<Exit>, kills: Option<Kills>) -> Option<Self> {
        let signal = match exit {
            Some(Exit::Signal(number)) => Some(number),
            _ => None,
        };
        let known = exit.is_some() || kills.is_some();
        known.then(|| Self {
            status: exit.map(Exit::status),
            signal: signal.map(|number| {
                Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.as_str().into())
            }),
            oom_killed: signal == Some(libc::SIGKILL) && kills.is_some(),
            kills,
            time: None,
        })
    }

    /// Reports whether the first process, or a child of a shell, seems to have got SIGSYS.
    #[must_use]
    pub(crate) fn by_sigsys(&self) -> bool {
        self.status.map(i32::from) == Some(SHELL_SYS)
    }

    /// Returns why the container ended, if the status alone does not say it. `profile` is the command that
    /// explains the container's seccomp profile, if it has one.
    #[must_use]
    pub(crate) fn explain(&self, profile: Option<&str>) -> Option<String> {
        let status = self.status.map(i32::from)?;
        match (&self.kills, profile) {
            // The kernel does not report which process it was. Usually it is the one that ended by SIGKILL.
            (Some(kills), _) if self.oom_killed && kills.count == 1 && !kills.in_slice => {
                Some(format!("killed: {kills}"))
            }
            (Some(kills), _) if self.oom_killed || status == SHELL_KILLED && self.signal.is_none() => {
                let end = if self.oom_killed {
                    "killed by signal KILL"
                } else {
                    "the program ended with status 137"
                };
                let many = match kills.count {
                    1 => "a process".into(),
                    count => format!("{count} processes"),
                };
                let other = if kills.in_slice { " or of another one in its slice" } else { "" };
                Some(format!("{end}, and the kernel has killed {many} of the container{other}: {kills}"))
            }
            (_, Some(command)) if self.by_sigsys() => Some(if self.signal.is_some() {
                let why = "as by a seccomp profile that forbids a system call";
                format!("killed by signal SYS, {why} (hint: {command})")
            } else {
                let why = "as a shell does after signal SYS: the seccomp profile may forbid a system call";
                format!("the program ended with status {status}, {why} (hint: {command})")
            }),
            _ => None,
        }
    }
}

/// The error of a command that ends with its program's status, and explains it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub status: u8,
    pub why: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Ended {}

#[cfg(test)]
mod tests {
    use super::*;

    fn kills() -> Kills {
        Kills { count: 1, limit: Some(8 << 20), peak: Some(8 << 20), ..Kills::default() }
    }

    #[test]
    fn an_end_is_explained_only_if_its_status_does_not_say_why() {
        use Exit::{Code, Signal};
        let explain = "corten seccomp explain --bundle /b";
        for (exit, killed, profile, expected) in [
            (Code(0), false, true, None),
            (Code(7), true, true, None),
            (Signal(libc::SIGKILL), false, true, None),
            (Signal(libc::SIGTERM), true, true, None),
            (Signal(libc::SIGKILL), true, false, Some("killed: out of memory (limit 8 MiB, peak 8 MiB)")),
            (Code(137), false, false, None),
            (
                Code(137),
                true,
                false,
                Some(
                    "the program ended with status 137, and the kernel has killed a process of the container: \
                     out of memory (limit 8 MiB, peak 8 MiB)",
                ),
            ),
            (Signal(libc::SIGSYS), false, false, None),
            (
                Signal(libc::SIGSYS),
                true,
                true,
                Some(
                    "killed by signal SYS, as by a seccomp profile that forbids a system call \
                     (hint: corten seccomp explain --bundle /b)",
                ),
            ),
            (
                Code(159),
                false,
                true,
                Some(
                    "the program ended with status 159, as a shell does after signal SYS: the seccomp profile may \
                     forbid a system call (hint: corten seccomp explain --bundle /b)",
                ),
            ),
            (Code(159), false, false, None),
        ] {
            let end = End::known(Some(exit), killed.then(kills)).unwrap();
            assert_eq!(end.explain(profile.then_some(explain)).as_deref(), expected, "{exit:?}");
        }
        assert_eq!(End::known(None, Some(kills())).unwrap().explain(Some(explain)), None);
        assert_eq!(End::known(None, None), None);
    }

    #[test]
    fn an_end_is_one_flat_object_that_is_read_back() {
        for (exit, killed, expected) in [
            (Some(Exit::Code(3)), false, serde_json::json!({"status": 3})),
            (
                Some(Exit::Signal(libc::SIGKILL)),
                true,
                serde_json::json!({"status": 137, "signal": "SIGKILL", "oomKilled": true, "oomKills": 1,
                    "memoryLimit": 8 << 20, "memoryPeak": 8 << 20}),
            ),
            (Some(Exit::Signal(40)), false, serde_json::json!({"status": 168, "signal": "40"})),
            (None, true, serde_json::json!({"oomKills": 1, "memoryLimit": 8 << 20, "memoryPeak": 8 << 20})),
        ] {
            let end = End::known(exit, killed.then(kills)).unwrap();
            let value = serde_json::to_value(&end).unwrap();
            assert_eq!(value, expected);
            assert_eq!(serde_json::from_value::<End>(value).unwrap(), end);
        }
    }
}
