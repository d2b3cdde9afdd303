//! `linux.seccomp`: compiles a profile to a program of classic BPF, which decides every system call of the
//! container.
//!
//! [`plan`] checks the profile and compiles it before anything is created. [`apply`] loads the program, as
//! the last step before execve. There is no library between the profile and the kernel: `compile` contains
//! the algorithm, `abi` and `syscalls` the architectures and their numbers, and `bpf` the instructions.
//! `listener` sends the descriptor of a filter with SCMP_ACT_NOTIFY to the agent that answers.

mod abi;
pub(crate) mod bpf;
mod compile;
pub(crate) mod dump;
mod explain;
pub(crate) mod listener;
mod syscalls;

#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use libc::sock_filter;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

pub use explain::explain;
use explain::{Source, View};
use seccompiler::SeccompCmpOp;

use crate::error::{Notes, Result};
use crate::log;
use crate::suggest;
use crate::sys;
use crate::sys::seccomp::INSTRUCTIONS_MAX;
use crate::trace;

/// The filter that will be loaded.
#[derive(Clone)]
pub struct Plan {
    pub filter: Vec<sock_filter>,
    /// The flags of seccomp(2).
    pub flags: u64,
    /// The agent that answers, if the filter asks one.
    pub listener: Option<Listener>,
    /// Names in the profile that no architecture has a system call for. They are logged.
    pub unknown: Vec<String>,
    /// The errno that every execve(2) fails with, whatever its arguments are. Then the program cannot be
    /// started.
    pub execve: Option<u32>,
}

impl Plan {
    /// Returns whether the filter allows system calls, whatever their arguments are. A call that this machine does not have
    /// counts as allowed.
    pub(crate) fn allows(&self, names: &[&str]) -> bool {
        let Some(native) = abi::Abi::new(abi::NATIVE, abi::NATIVE) else { return false };
        let exist = |name: &&&str| syscalls::find(name).is_some_and(|row| native.number(row).is_some());
        names.iter().filter(exist).all(|name| {
            let fate = fate(&self.filter, native, name);
            matches!(fate, Some(libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG))
        })
    }

    /// Logs the flags, in words for which runc's users look.
    pub(crate) fn log_flags(&self) {
        log::debug(|| format!("seccomp filter flags: {}", self.flags));
    }
}

/// The agent that gets the filter's descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub path: PathBuf,
    pub metadata: Option<String>,
}

/// The specification's actions, operators and flags, for `features`.
pub(crate) const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
pub(crate) const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
pub(crate) const FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Returns the specification's architectures, for `features`.
#[must_use]
pub(crate) fn archs() -> Vec<&'static str> {
    abi::names()
}

/// Returns the system call that a misspelt name probably means.
#[must_use]
pub(crate) fn meant(name: &str) -> Option<String> {
    suggest::nearest(name, syscalls::all().iter().map(syscalls::Row::name)).map(Into::into)
}

/// Returns the [`FLAGS`] that the running kernel has.
#[must_use]
pub fn supported_flags() -> Vec<&'static str> {
    use crate::sys::seccomp::{LOG, SPEC_ALLOW, TSYNC, WAIT_KILLABLE_RECV, flag_available};
    let bits = [LOG, SPEC_ALLOW, TSYNC, WAIT_KILLABLE_RECV];
    FLAGS.iter().zip(bits).filter(|(_, bit)| flag_available(*bit)).map(|(name, _)| *name).collect()
}

/// A system call has at most six arguments.
const ARGUMENTS: usize = 6;

/// The calls with which the container process sends the listener after the filter is loaded. Nobody could
/// answer for them yet. runc refuses `write` for the same reason.
const SENDING: [&str; 2] = ["sendmsg", "write"];

/// Reports whether an answer of a filter ends the process.
fn ends(fate: u32) -> bool {
    matches!(
        fate & !libc::SECCOMP_RET_DATA,
        libc::SECCOMP_RET_KILL_THREAD | libc::SECCOMP_RET_KILL_PROCESS | libc::SECCOMP_RET_TRAP
    )
}

/// Plans the filter of a container's profile. Returns `None` if the profile has notes, which are then in
/// `notes`.
///
/// A filter that ends the process at execve(2) is a problem too. Every program is started by execve(2), so
/// `start` would only find a dead process.
pub fn plan(profile: &LinuxSeccomp, notes: &mut Notes) -> Option<Plan> {
    let _phase = trace::phase("compile the seccomp profile");
    let mut plan = compile_profile(profile, notes)?;
    let native = abi::Abi::new(abi::NATIVE, abi::NATIVE)?;
    match fate(&plan.filter, native, "execve") {
        Some(fate) if ends(fate) => {
            notes.problem(
                deciding_place(profile, native, "execve"),
                format_args!("{} for execve, by which every program is started", dump::action(fate)),
            );
            return None;
        }
        Some(fate) if fate & !libc::SECCOMP_RET_DATA == libc::SECCOMP_RET_ERRNO => {
            plan.execve = Some(fate & libc::SECCOMP_RET_DATA);
        }
        _ => {}
    }
    Some(plan)
}

/// Returns the place in a profile that decides about a call, whatever its arguments are.
fn deciding_place(profile: &LinuxSeccomp, abi: abi::Abi, call: &str) -> String {
    let (policy, _) = policy(profile, abi::NATIVE, &mut Notes::default());
    let view = View::new(&policy, abi);
    let nr = syscalls::find(call).and_then(|row| abi.number(row));
    let clauses = nr.map(|nr| view.clauses(nr)).unwrap_or_default();
    match clauses.first().map(|clause| &clause.source) {
        Some(Source::Rule(index)) => format!("linux.seccomp.syscalls[{index}].action"),
        _ => "linux.seccomp.defaultAction".into(),
    }
}

/// Returns the answer of a filter to a call, if the filter does not look at the arguments.
fn fate(filter: &[sock_filter], native: abi::Abi, name: &str) -> Option<u32> {
    bpf::certain(filter, native.audit, native.number(syscalls::find(name)?)?)
}

/// Compiles a profile for this machine, even if no program could be started under it.
pub fn compile_profile(profile: &LinuxSeccomp, notes: &mut Notes) -> Option<Plan> {
    plan_for(profile, abi::NATIVE, notes)
}

/// Compiles a profile as [`compile_profile`] does, for a machine of any architecture.
fn plan_for(profile: &LinuxSeccomp, native: Arch, notes: &mut Notes) -> Option<Plan> {
    let before = notes.problems.0.len();
    let (policy, unknown) = policy(profile, native, notes);
    let mut syscalls = profile.syscalls().iter().flatten();
    let notifies = syscalls.any(|s| s.action() == Action::ScmpActNotify);
    let listener = listener(profile, notifies, notes);
    let flags = flags(profile, notifies, notes);
    if notes.problems.0.len() != before {
        return None;
    }
    match compile::compile(&policy) {
        Ok(filter) if filter.len() <= INSTRUCTIONS_MAX => {
            Some(Plan { filter, flags, listener, unknown, execve: None })
        }
        Ok(filter) => {
            let len = filter.len();
            notes.problem(
                "linux.seccomp",
                format_args!("needs {len} instructions; the kernel takes {INSTRUCTIONS_MAX}"),
            );
            None
        }
        Err(error) => {
            notes.problem("linux.seccomp", error);
            None
        }
    }
}

/// Converts a profile into the compiler's form. Returns it with the profile's unknown names.
fn policy(profile: &LinuxSeccomp, native: Arch, notes: &mut Notes) -> (compile::Policy, Vec<String>) {
    let default = default_action(profile, notes);
    let abis = abis(profile, native, notes);
    let (mut rules, mut unknown) = (Vec::with_capacity(512), Vec::new());
    for (i, syscall) in profile.syscalls().iter().flatten().enumerate() {
        add_rules(&mut rules, &mut unknown, syscall, i, notes);
    }
    let newer = newer(profile.default_action(), default);
    (compile::Policy { default, newer, abis, rules }, unknown)
}

/// Returns the answer for calls that are newer than the profile. With ENOSYS, a C library falls back to an
/// older call, which the profile may allow. With EPERM it would take the call for a forbidden one. runc
/// returns ENOSYS too.
fn newer(action: Action, default: u32) -> Option<u32> {
    let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    (action == Action::ScmpActErrno && default != enosys).then_some(enosys)
}

fn default_action(profile: &LinuxSeccomp, notes: &mut Notes) -> u32 {
    let action = profile.default_action();
    if action == Action::ScmpActNotify {
        // The process could not even report that its filter is loaded.
        notes.problem("linux.seccomp.defaultAction", "must not be SCMP_ACT_NOTIFY");
    }
    return_value(action, profile.default_errno_ret(), "linux.seccomp.defaultErrnoRet", notes)
}

/// Returns a filter's return value for an action (linux/seccomp.h). The default errno is EPERM
/// (config-linux.md#seccomp).
fn return_value(action: Action, errno: Option<u32>, place: &str, notes: &mut Notes) -> u32 {
    // The kernel silently lowers an errno to its MAX_ERRNO.
    let (value, max) = match action {
        Action::ScmpActKill | Action::ScmpActKillThread => (libc::SECCOMP_RET_KILL_THREAD, 0),
        Action::ScmpActKillProcess => (libc::SECCOMP_RET_KILL_PROCESS, 0),
        Action::ScmpActTrap => (libc::SECCOMP_RET_TRAP, 0),
        Action::ScmpActErrno => (libc::SECCOMP_RET_ERRNO, 4095),
        Action::ScmpActNotify => (libc::SECCOMP_RET_USER_NOTIF, 0),
        Action::ScmpActTrace => (libc::SECCOMP_RET_TRACE, 65535),
        Action::ScmpActLog => (libc::SECCOMP_RET_LOG, 0),
        Action::ScmpActAllow => (libc::SECCOMP_RET_ALLOW, 0),
    };
    match errno {
        None if max == 0 => value,
        None => value | libc::EPERM as u32,
        Some(_) if max == 0 => {
            notes.problem(place, format_args!("{action} takes no errno"));
            value
        }
        Some(errno) if errno > max => {
            notes.problem(place, format_args!("{errno} is above {max}"));
            value
        }
        Some(errno) => value | errno,
    }
}

/// Returns the native ABI and the ABIs of the profile. Filters of libseccomp always have the native one too:
/// without it, the container's program could not even start.
fn abis(profile: &LinuxSeccomp, native: Arch, notes: &mut Notes) -> Vec<abi::Abi> {
    let listed = profile.architectures().as_deref().unwrap_or_default();
    let mut abis = Vec::with_capacity(listed.len() + 1);
    for (i, arch) in std::iter::once(native).chain(listed.iter().copied()).enumerate() {
        match abi::Abi::new(arch, native) {
            Some(abi) if abis.contains(&abi) => {}
            Some(abi) => abis.push(abi),
            None if i == 0 => notes.problem("linux.seccomp", "corten has no system calls of this machine"),
            None => notes.problem(
                format_args!("linux.seccomp.architectures[{}]", i - 1),
                format_args!("{arch} is unknown"),
            ),
        }
    }
    abis
}

/// Adds the rules of `linux.seccomp.syscalls[i]`. A name that no kernel has is not an error, because the
/// profile may be newer than corten.
fn add_rules(
    rules: &mut Vec<compile::Rule>,
    unknown: &mut Vec<String>,
    syscall: &LinuxSyscall,
    i: usize,
    notes: &mut Notes,
) {
    let place = format!("linux.seccomp.syscalls[{i}]");
    let action = return_value(syscall.action(), syscall.errno_ret(), &format!("{place}.errnoRet"), notes);
    if syscall.names().is_empty() {
        notes.problem(format_args!("{place}.names"), "must name a system call");
    }
    let args = comparisons(syscall, &place, notes);
    // If an argument is compared twice, each comparison is a rule of its own, as in runc.
    let twice = args.iter().enumerate().any(|(j, arg)| args[..j].iter().any(|a| a.index == arg.index));
    let alternatives = args.chunks(if twice { 1 } else { ARGUMENTS });
    for (j, name) in syscall.names().iter().enumerate() {
        if syscall.action() == Action::ScmpActNotify && SENDING.contains(&name.as_str()) {
            notes.problem(
                format_args!("{place}.names[{j}]"),
                format_args!(
                    "SCMP_ACT_NOTIFY cannot be used for the {name} syscall, which sends the listener"
                ),
            );
        }
        let Some(call) = syscalls::find(name) else {
            unknown.push(name.clone());
            continue;
        };
        if args.is_empty() {
            rules.push(compile::Rule { call, action, args: Vec::new(), index: i });
        }
        for args in alternatives.clone() {
            rules.push(compile::Rule { call, action, args: args.to_vec(), index: i });
        }
    }
}

/// Converts the comparisons of a rule.
fn comparisons(syscall: &LinuxSyscall, place: &str, notes: &mut Notes) -> Vec<compile::Comparison> {
    let args = syscall.args().as_deref().unwrap_or_default();
    let mut comparisons = Vec::with_capacity(args.len());
    for (i, arg) in args.iter().enumerate() {
        let (operator, value) = match arg.op() {
            Operator::ScmpCmpNe => (SeccompCmpOp::Ne, arg.value()),
            Operator::ScmpCmpLt => (SeccompCmpOp::Lt, arg.value()),
            Operator::ScmpCmpLe => (SeccompCmpOp::Le, arg.value()),
            Operator::ScmpCmpEq => (SeccompCmpOp::Eq, arg.value()),
            Operator::ScmpCmpGe => (SeccompCmpOp::Ge, arg.value()),
            Operator::ScmpCmpGt => (SeccompCmpOp::Gt, arg.value()),
            // Here `value` is the mask.
            Operator::ScmpCmpMaskedEq => {
                (SeccompCmpOp::MaskedEq(arg.value()), arg.value_two().unwrap_or_default())
            }
        };
        match u8::try_from(arg.index()) {
            Ok(index) if arg.index() < ARGUMENTS => {
                comparisons.push(compile::Comparison { index, operator, value });
            }
            _ => notes.problem(
                format_args!("{place}.args[{i}].index"),
                format_args!("{} is not within 0 to 5", arg.index()),
            ),
        }
    }
    comparisons
}

fn listener(profile: &LinuxSeccomp, notifies: bool, notes: &mut Notes) -> Option<Listener> {
    let metadata = profile.listener_metadata();
    let Some(path) = profile.listener_path() else {
        if metadata.is_some() {
            notes.problem("linux.seccomp.listenerMetadata", "must not be set without listenerPath");
        }
        if notifies {
            notes.problem("linux.seccomp.listenerPath", "SCMP_ACT_NOTIFY needs a listener");
        }
        return None;
    };
    if !path.is_absolute() {
        notes.problem("linux.seccomp.listenerPath", format_args!("{path:?} is not absolute"));
    }
    if !notifies {
        notes.warn("linux.seccomp.listenerPath: no call has SCMP_ACT_NOTIFY, ignoring");
        return None;
    }
    Some(Listener { path: path.clone(), metadata: metadata.clone() })
}

/// Returns the flags of the profile, and those that a listener needs.
fn flags(profile: &LinuxSeccomp, notifies: bool, notes: &mut Notes) -> u64 {
    use crate::sys::seccomp::{LOG, NEW_LISTENER, SPEC_ALLOW, TSYNC, TSYNC_ESRCH, WAIT_KILLABLE_RECV};
    let mut bits = if notifies { NEW_LISTENER } else { 0 };
    for (i, flag) in profile.flags().as_deref().unwrap_or_default().iter().enumerate() {
        bits |= match flag {
            Flag::SeccompFilterFlagLog => LOG,
            Flag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
            // Without TSYNC_ESRCH the kernel refuses both together: the call would have to return a listener
            // or the id of a thread that failed.
            Flag::SeccompFilterFlagTsync if notifies => TSYNC | TSYNC_ESRCH,
            Flag::SeccompFilterFlagTsync => TSYNC,
            Flag::SeccompFilterFlagWaitKillableRecv if notifies => WAIT_KILLABLE_RECV,
            Flag::SeccompFilterFlagWaitKillableRecv => {
                notes.warn(format!(
                    "linux.seccomp.flags[{i}]: {flag} without a call that has SCMP_ACT_NOTIFY, ignoring"
                ));
                0
            }
        };
    }
    bits
}

/// Loads the filter into the calling process. Afterwards only the report of an error and execve can be relied
/// on.
pub fn apply(plan: &Plan) -> Result<Option<OwnedFd>> {
    let _phase =
        trace::phase_of("load the seccomp filter", || format!("of {} instructions", plan.filter.len()));
    trace::before_filter(|| plan.allows(&["clock_gettime"]));
    Ok(sys::seccomp::load(&plan.filter, plan.flags)?)
}
