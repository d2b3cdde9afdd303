//! `scheduler`: policy and parameters for `sched_setattr(2)` (config.md#linux-process).
//!
//! Values for which the kernel returns `EINVAL` are refused in the plan, with their place. The specification
//! has the two flags of the utilisation clamps but no member for the clamps. They are passed as zero, as runc
//! does.

use anyhow::anyhow;
use nix::errno::Errno;
use oci_spec::runtime::{LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy, Scheduler};

use crate::error::{Context, Notes, Result};
use crate::sys;
use crate::sys::process::SchedAttr;

/// The least runtime that the kernel accepts, in nanoseconds (`__checkparam_dl`).
const DEADLINE_RUNTIME_MIN: u64 = 1024;
/// The longest period. The kernel uses the highest bit itself.
const DEADLINE_MAX: u64 = i64::MAX as u64;

/// Converts the policy and its parameters to the kernel's numbers and checks its rules.
pub fn plan(spec: Option<&Scheduler>, place: &str, notes: &mut Notes) -> Option<SchedAttr> {
    let spec = spec?;
    let policy = *spec.policy();
    let nice = spec.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        notes.problem(format_args!("{place}.nice"), format_args!("{nice} is not within -20 to 19"));
    } else if nice != 0 && !matches!(policy, Policy::SchedOther | Policy::SchedBatch | Policy::SchedIdle) {
        notes.warn(format!("{place}.nice: {policy} has no nice value, ignoring"));
    }
    let times = [*spec.runtime(), *spec.deadline(), *spec.period()].map(Option::unwrap_or_default);
    let flags = spec.flags().as_deref().unwrap_or_default();
    Some(SchedAttr {
        policy: policy_number(policy, place, notes),
        flags: flags.iter().fold(0, |bits, flag| bits | flag_bit(*flag)),
        nice,
        priority: priority(policy, spec.priority().unwrap_or(0), place, notes),
        runtime: times[0],
        deadline: times[1],
        period: check_times(policy, times, place, notes),
        ..SchedAttr::default()
    })
}

/// linux/sched.h
fn policy_number(policy: Policy, place: &str, notes: &mut Notes) -> u32 {
    match policy {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => {
            notes.problem(format_args!("{place}.policy"), "no kernel implements SCHED_ISO");
            4
        }
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    }
}

fn flag_bit(flag: Flag) -> u64 {
    match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    }
}

fn priority(policy: Policy, priority: i32, place: &str, notes: &mut Notes) -> u32 {
    let realtime = matches!(policy, Policy::SchedFifo | Policy::SchedRr);
    if realtime && !(1..=99).contains(&priority) {
        notes.problem(
            format_args!("{place}.priority"),
            format_args!("{priority} is not within 1 to 99, as {policy} needs"),
        );
    } else if !realtime && priority != 0 {
        notes.problem(format_args!("{place}.priority"), "only SCHED_FIFO and SCHED_RR have a priority");
    }
    u32::try_from(priority).unwrap_or_default()
}

/// Checks the three times of a deadline. Returns the period, which by default equals the deadline.
fn check_times(policy: Policy, times: [u64; 3], place: &str, notes: &mut Notes) -> u64 {
    let [runtime, deadline, period] = times;
    if policy != Policy::SchedDeadline {
        for (name, time) in ["runtime", "deadline", "period"].into_iter().zip(times) {
            if time != 0 {
                notes.problem(format_args!("{place}.{name}"), "only SCHED_DEADLINE has one");
            }
        }
        return period;
    }
    let period = if period == 0 { deadline } else { period };
    if runtime < DEADLINE_RUNTIME_MIN {
        notes.problem(
            format_args!("{place}.runtime"),
            format_args!("{runtime} is less than {DEADLINE_RUNTIME_MIN} nanoseconds"),
        );
    }
    if !(runtime <= deadline && deadline <= period && period <= DEADLINE_MAX) {
        notes.problem(place, "SCHED_DEADLINE needs runtime <= deadline <= period < 2^63");
    }
    period
}

/// Sets the policy of the calling process. Its children inherit it, and execve preserves it.
pub fn apply(attr: &SchedAttr) -> Result<()> {
    const IDLE: u32 = 5;
    let kept = flag_bit(Flag::SchedFlagKeepPolicy) | flag_bit(Flag::SchedFlagKeepParams);
    if attr.policy == IDLE && attr.flags & kept == 0 {
        // With this policy the kernel ignores the nice value and would keep the caller's.
        let other = SchedAttr { nice: attr.nice, ..SchedAttr::default() };
        sys::process::sched_setattr(&other).context("process.scheduler.nice")?;
    }
    sys::process::sched_setattr(attr).map_err(|e| explain(e, attr.policy)).context("process.scheduler")
}

/// Adds the reason for which the kernel refuses a deadline with EPERM (sched_setattr(2)), in runc's words.
fn explain(error: sys::Error, policy: u32) -> anyhow::Error {
    const DEADLINE: u32 = 6;
    let hint = "hint: process scheduler can't be used together with AllowedCPUs";
    match error.errno {
        Errno::EPERM if policy == DEADLINE => anyhow!("{error} ({hint}, and needs CAP_SYS_NICE)"),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: &[&str]) -> SchedAttr {
        let spec: Scheduler = serde_json::from_str(json).unwrap();
        let mut notes = Notes::default();
        let attr = plan(Some(&spec), "s", &mut notes).unwrap();
        let reported =
            notes.problems.0.iter().map(|p| format!("{}: {}", p.place, p.message)).chain(notes.warnings);
        assert_eq!(reported.collect::<Vec<_>>(), expected, "{json}");
        attr
    }

    #[test]
    fn valid_policies_become_the_kernels_numbers() {
        for (json, expected) in [
            (r#"{"policy": "SCHED_OTHER", "nice": -20}"#, SchedAttr { nice: -20, ..SchedAttr::default() }),
            (
                r#"{"policy": "SCHED_FIFO", "priority": 99, "flags": ["SCHED_RESET_ON_FORK"]}"#,
                SchedAttr { policy: 1, priority: 99, flags: 1, ..SchedAttr::default() },
            ),
            (
                r#"{"policy": "SCHED_BATCH", "nice": 19}"#,
                SchedAttr { policy: 3, nice: 19, ..SchedAttr::default() },
            ),
            (
                r#"{"policy": "SCHED_DEADLINE", "runtime": 42000, "deadline": 1000000}"#,
                SchedAttr {
                    policy: 6,
                    runtime: 42000,
                    deadline: 1_000_000,
                    period: 1_000_000,
                    ..SchedAttr::default()
                },
            ),
        ] {
            assert_eq!(check(json, &[]), expected, "{json}");
        }
    }

    #[test]
    fn invalid_policies_are_errors_or_warnings() {
        for (json, expected) in [
            (r#"{"policy": "SCHED_ISO"}"#, "s.policy: no kernel implements SCHED_ISO"),
            (r#"{"policy": "SCHED_OTHER", "nice": 20}"#, "s.nice: 20 is not within -20 to 19"),
            (r#"{"policy": "SCHED_FIFO"}"#, "s.priority: 0 is not within 1 to 99, as SCHED_FIFO needs"),
            (
                r#"{"policy": "SCHED_OTHER", "priority": 1}"#,
                "s.priority: only SCHED_FIFO and SCHED_RR have a priority",
            ),
            (r#"{"policy": "SCHED_IDLE", "period": 1}"#, "s.period: only SCHED_DEADLINE has one"),
            (
                r#"{"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 5}"#,
                "s.runtime: 1 is less than 1024 nanoseconds",
            ),
            (
                r#"{"policy": "SCHED_DEADLINE", "runtime": 9000, "deadline": 5000}"#,
                "s: SCHED_DEADLINE needs runtime <= deadline <= period < 2^63",
            ),
            (
                r#"{"policy": "SCHED_RR", "priority": 1, "nice": 1}"#,
                "s.nice: SCHED_RR has no nice value, ignoring",
            ),
        ] {
            check(json, &[expected]);
        }
    }
}
