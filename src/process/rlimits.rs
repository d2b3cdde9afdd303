//! `rlimits`: resource limits of the process (config.md#posix-process).
//!
//! The specification requires an error for a type that occurs twice. A soft limit above the hard limit is an
//! error too. Raising a hard limit requires CAP_SYS_RESOURCE in the initial user namespace. For a container
//! in another user namespace the runtime therefore raises it from outside.

use oci_spec::runtime::{PosixRlimit, PosixRlimitType as Type};

use crate::error::{Context, Notes, Result};
use crate::sys::process::{Limit, prlimit};
use crate::trace;

/// The numbers of asm-generic/resource.h, which the supported architectures share.
const ROWS: [(Type, &str, u32); 16] = [
    (Type::RlimitCpu, "RLIMIT_CPU", 0),
    (Type::RlimitFsize, "RLIMIT_FSIZE", 1),
    (Type::RlimitData, "RLIMIT_DATA", 2),
    (Type::RlimitStack, "RLIMIT_STACK", 3),
    (Type::RlimitCore, "RLIMIT_CORE", 4),
    (Type::RlimitRss, "RLIMIT_RSS", 5),
    (Type::RlimitNproc, "RLIMIT_NPROC", 6),
    (Type::RlimitNofile, "RLIMIT_NOFILE", 7),
    (Type::RlimitMemlock, "RLIMIT_MEMLOCK", 8),
    (Type::RlimitAs, "RLIMIT_AS", 9),
    (Type::RlimitLocks, "RLIMIT_LOCKS", 10),
    (Type::RlimitSigpending, "RLIMIT_SIGPENDING", 11),
    (Type::RlimitMsgqueue, "RLIMIT_MSGQUEUE", 12),
    (Type::RlimitNice, "RLIMIT_NICE", 13),
    (Type::RlimitRtprio, "RLIMIT_RTPRIO", 14),
    (Type::RlimitRttime, "RLIMIT_RTTIME", 15),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rlimit {
    pub resource: u32,
    pub name: &'static str,
    pub limit: Limit,
    /// The place in the document, for errors.
    pub place: String,
}

/// Checks the limits.
pub(crate) fn plan(spec: &[PosixRlimit], place: &str, notes: &mut Notes) -> Vec<Rlimit> {
    let mut limits: Vec<Rlimit> = Vec::with_capacity(spec.len());
    for (i, given) in spec.iter().enumerate() {
        let place = format!("{place}[{i}]");
        let Some((_, name, resource)) = ROWS.iter().find(|(kind, ..)| *kind == given.typ()) else {
            continue;
        };
        let limit = Limit { soft: given.soft(), hard: given.hard() };
        if let Some(first) = limits.iter().find(|l| l.resource == *resource) {
            notes.problem(format_args!("{place}.type"), format_args!("{name} is already in {}", first.place));
        }
        if limit.soft > limit.hard {
            notes.problem(
                format_args!("{place}.soft"),
                format_args!("{} is above the hard limit {}", limit.soft, limit.hard),
            );
        }
        limits.push(Rlimit { resource: *resource, name, limit, place });
    }
    limits
}

/// Sets the limits of the calling process. It is called late, because the limits apply to the runtime's own
/// work too, but before the change of credentials, which removes the right to raise a hard limit.
pub fn apply<'a>(limits: impl IntoIterator<Item = &'a Rlimit>) -> Result<()> {
    let _phase = trace::phase("limits");
    for wanted in limits {
        prlimit(0, wanted.resource, Some(wanted.limit))
            .with_context(|| format!("{} {}", wanted.place, wanted.name))?;
    }
    Ok(())
}

/// Raises those hard limits of process `pid` that are too low for `limits`. In a user namespace the process
/// could not do so itself.
pub fn raise_hard(pid: i32, limits: &[Rlimit]) -> Result<()> {
    let _phase = trace::phase("raise hard limits");
    for wanted in limits {
        let place = || format!("{} {}", wanted.place, wanted.name);
        let now = prlimit(pid, wanted.resource, None).with_context(place)?;
        if now.hard < wanted.limit.hard {
            let raised = Limit { soft: now.soft, hard: wanted.limit.hard };
            prlimit(pid, wanted.resource, Some(raised)).with_context(|| {
                let own = now.hard;
                format!("{}: raising the hard limit, {own}, needs CAP_SYS_RESOURCE", place())
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_type_once_under_its_own_name() {
        for (kind, name, number) in ROWS {
            assert_eq!(kind.to_string(), name);
            assert_eq!(ROWS[number as usize].0, kind);
        }
    }

    #[test]
    fn duplicates_and_inverted_limits_are_refused() {
        for (json, problem) in [
            ("[]", ""),
            (r#"[{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 18446744073709551615}]"#, ""),
            (
                r#"[{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 2, "hard": 2}]"#,
                "process.rlimits[1].type: RLIMIT_CPU is already in process.rlimits[0]",
            ),
            (
                r#"[{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]"#,
                "process.rlimits[0].soft: 2 is above the hard limit 1",
            ),
        ] {
            let spec: Vec<PosixRlimit> = serde_json::from_str(json).unwrap();
            let mut notes = Notes::default();
            assert_eq!(plan(&spec, "process.rlimits", &mut notes).len(), spec.len());
            assert_eq!(notes.problems.to_string(), problem, "{json}");
        }
    }
}
