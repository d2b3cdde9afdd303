//! Hooks: programs that run at points of the container's lifecycle (config.md#posix-platform-hooks).
//!
//! This single-threaded process forks each hook itself, without std::process, because the child that becomes
//! the container uses the same code. A hook leads a process group of its own, which is killed as a whole
//! after its timeout. Its standard input is a file in memory that contains the state, and its output goes to
//! another such file. With pipes, a process that the hook leaves behind with its output open could block the
//! runtime process.
//!
//! The program of a startContainer hook belongs to the image. A child of the container process becomes it, by
//! the code that becomes the container's program, with the same rights, filter and limits. If the profile
//! asks an agent (SCMP_ACT_NOTIFY), each hook gets a filter of its own, whose descriptor the agent receives
//! with the hook's process id.
//!
//! The program of a createContainer hook belongs to the host. It gets no environment except its own, because
//! a variable may point to a place where a file of the image lies (CVE-2025-23266).

mod output;

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::{Hook as Spec, Hooks};

pub(crate) use output::{Output, STDERR, STDOUT};

use crate::error::{Context, Kind, Notes, Result, fail};
use crate::process::{env, strings};
use crate::sys::task::{Exit, Forked};
use crate::sys::{self, fs, process, signal, task, tty};
use crate::{log, trace};

/// How many bytes of a failed hook's output the error contains.
const TAIL: usize = 512;

/// The timeout of a startContainer hook whose configuration has none. Its program is in the image, and an image must not be
/// able to make a command wait for ever.
const START_CONTAINER_TIMEOUT: Duration = Duration::from_secs(60);

/// One hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its place in config.json: `hooks.prestart[0]`.
    pub place: String,
    pub path: CString,
    pub argv: Vec<CString>,
    /// If absent, the caller of [`run`] chooses.
    pub env: Option<Vec<CString>>,
    pub timeout: Option<Duration>,
    /// Where its output goes. Without a file, an error shows the end of it.
    pub output: Output,
}

impl Hook {
    /// Returns its place and its program, as messages name it.
    fn shown(&self) -> String {
        format!("{} {}", self.place, self.path.to_string_lossy())
    }

    /// Returns the beginning of runc's message about a hook that fails, for which programs look.
    fn failure(&self) -> String {
        let (name, index) = self.place.split_once('[').unwrap_or((&self.place, ""));
        let (name, index) = (name.trim_start_matches("hooks."), index.trim_end_matches(']'));
        format!("error running {name} hook #{index}")
    }
}

/// The hooks of each point of the lifecycle, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

impl Plan {
    /// Takes the files for their output from the hooks in the container. In a user namespace these hooks have other ids than
    /// those of the runtime, and neither could open what the other has made.
    pub(crate) fn keep_output_outside(&mut self) {
        self.create_container.iter_mut().for_each(|hook| hook.output = Output::default());
    }
}

pub(crate) fn plan(
    hooks: Option<&Hooks>,
    annotations: Option<&HashMap<String, String>>,
    notes: &mut Notes,
) -> Plan {
    let output = output::plan(annotations, notes);
    let Some(hooks) = hooks else { return Plan::default() };
    let mut list = |name: &str, specs: &Option<Vec<Spec>>| {
        let specs = specs.as_deref().unwrap_or_default();
        let plan =
            |(i, spec)| Hook { output: output.clone(), ..hook(spec, format!("hooks.{name}[{i}]"), notes) };
        specs.iter().enumerate().map(plan).collect()
    };
    let mut start_container: Vec<Hook> = list("startContainer", hooks.start_container());
    start_container.iter_mut().for_each(|hook| {
        hook.timeout.get_or_insert(START_CONTAINER_TIMEOUT);
        hook.output = Output::default();
    });
    Plan {
        // Deprecated, but Docker's network needs it.
        #[allow(deprecated)]
        prestart: list("prestart", hooks.prestart()),
        create_runtime: list("createRuntime", hooks.create_runtime()),
        create_container: list("createContainer", hooks.create_container()),
        start_container,
        poststart: list("poststart", hooks.poststart()),
        poststop: list("poststop", hooks.poststop()),
    }
}

fn hook(spec: &Spec, place: String, notes: &mut Notes) -> Hook {
    if !spec.path().is_absolute() {
        notes.problem(format_args!("{place}.path"), format_args!("{:?} is not absolute", spec.path()));
    }
    let path = CString::new(spec.path().as_os_str().as_bytes()).unwrap_or_else(|_| {
        notes.problem(format_args!("{place}.path"), "contains a NUL");
        CString::default()
    });
    let mut argv = strings(spec.args().as_deref().unwrap_or_default(), &format!("{place}.args"), notes);
    if argv.is_empty() {
        argv.push(path.clone());
    }
    let env = spec.env().as_ref().map(|env| strings(env, &format!("{place}.env"), notes));
    let timeout = spec.timeout().and_then(|seconds| {
        let positive = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
        if positive.is_none() {
            notes.problem(format_args!("{place}.timeout"), format_args!("{seconds} is not above zero"));
        }
        positive.map(Duration::from_secs)
    });
    Hook { place, path, argv, env, timeout, output: Output::default() }
}

/// Runs hooks one after the other until one fails. Each reads `state` from its standard input. A hook without an environment
/// of its own gets `env`.
pub fn run(hooks: &[Hook], state: &[u8], env: fn() -> Vec<CString>) -> Result<()> {
    hooks.iter().try_for_each(|hook| run_on_host(hook, state, env))
}

/// Runs a hook whose program is on the host.
fn run_on_host(hook: &Hook, state: &[u8], env: fn() -> Vec<CString>) -> Result<()> {
    // Read here, because the clone has no environment.
    let env = hook.env.clone().unwrap_or_else(env);
    run_one(hook, state, || execute(hook, &env))
}

/// Runs all hooks, also after a failure, and returns the failures. This is for poststop, which must not stop a deletion, and
/// for poststart in older configurations.
#[must_use]
pub fn run_all(hooks: &[Hook], state: &[u8]) -> Vec<String> {
    let failures = hooks.iter().filter_map(|hook| run_on_host(hook, state, env::own).err());
    failures.map(|error| format!("{error:#}, ignoring")).collect()
}

/// Runs one hook. Its process calls `execute`, which returns only if that fails.
pub(crate) fn run_one(hook: &Hook, state: &[u8], execute: impl FnOnce() -> anyhow::Error) -> Result<()> {
    let _phase = trace::phase_of("hook", || hook.shown());
    let place = || format!("{}: {}", hook.shown(), hook.failure());
    let input = fs::memfd_with("state", state).with_context(place)?;
    let output = fs::memfd("hook").with_context(place)?;
    // A hook may open /dev/stderr again, with an offset of its own.
    process::set_append(output.as_fd()).with_context(place)?;
    let [stdout, stderr] = hook.output.open().with_context(place)?;
    let streams = [
        input.as_fd(),
        stdout.as_ref().unwrap_or(&output).as_fd(),
        stderr.as_ref().unwrap_or(&output).as_fd(),
    ];
    let own = nix::unistd::getpid();
    match task::clone3(0, None).with_context(place)? {
        Forked::Child => become_hook(own, streams, execute),
        Forked::Parent { pid, pidfd } => {
            let ended = wait(pid, &pidfd, hook.timeout).with_context(place)?;
            let reason = match ended {
                Some(Exit::Code(0)) => return Ok(()),
                Some(Exit::Code(code)) => format!("exit status {code}"),
                Some(Exit::Signal(libc::SIGSYS)) => "killed by a seccomp filter: bad system call".into(),
                Some(Exit::Signal(signal)) => format!("killed by signal {signal}"),
                None => format!("timed out after {:?}", hook.timeout.unwrap_or_default()),
            };
            match tail(output) {
                said if said.is_empty() => Err(fail(Kind::Hook, format!("{}: {reason}", place()))),
                said => Err(fail(Kind::Hook, format!("{}: {reason}: {said}", place()))),
            }
        }
    }
}

/// The part of the forked child. An error goes to the hook's own output, because other descriptors may be closed already.
fn become_hook(parent: Pid, streams: [BorrowedFd; 3], execute: impl FnOnce() -> anyhow::Error) -> ! {
    trace::blind();
    // The standard streams become the hook's, and the other descriptors may be closed.
    log::mute();
    let prepare = || -> sys::Result<()> {
        process::lead_group(0)?;
        // It must not outlive the process that waits for it, because no other process knows about it.
        task::set_parent_death_signal(libc::SIGKILL)?;
        if nix::unistd::getppid() != parent {
            // The parent ended before the call above.
            return Err(sys::Error::new("getppid()", Errno::ESRCH));
        }
        streams.into_iter().zip(0..).try_for_each(|(stream, number)| tty::replace(stream, number))
    };
    let error = prepare().map_or_else(Into::into, |()| execute());
    // If this fails too, the exit status still reports a failure.
    let _ = nix::unistd::write(std::io::stderr(), format!("{error:#}").as_bytes());
    task::exit_now(127)
}

/// Becomes a hook whose program is on the host, with the rights of the calling process.
fn execute(hook: &Hook, env: &[CString]) -> anyhow::Error {
    let prepared = signal::reset(signal::ALL).and_then(|()| fs::close_on_exec_from(3));
    if let Err(error) = prepared {
        return error.into();
    }
    let errno = task::execve(&hook.path, &hook.argv, env);
    sys::Error::new(format!("exec {}", hook.path.to_string_lossy()), errno).into()
}

/// Waits for the hook. Returns `None` if it reached its timeout, and it and its process group were killed. A tracer in the
/// container or a frozen cgroup can delay the end of a killed process; then the end of the container ends the hook.
fn wait(pid: i32, pidfd: &OwnedFd, timeout: Option<Duration>) -> sys::Result<Option<Exit>> {
    // The child makes the same call, and the first one counts. This one fails after the child has executed.
    let _ = process::lead_group(pid);
    // A timeout beyond the end of the clock is no limit.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    if task::poll_readable(&[pidfd.as_fd()], deadline)?.contains(&true) {
        return task::wait(pidfd.as_fd()).map(Some);
    }
    // No other process can get its id before it is reaped.
    let group = process::kill_group(pid);
    task::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)?;
    task::wait_killed(pidfd.as_fd())?;
    group.map(|()| None)
}

/// Returns the end of a hook's output, on one line.
fn tail(output: OwnedFd) -> String {
    let file = std::fs::File::from(output);
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = vec![0; TAIL];
    let read = file.read_at(&mut bytes, size.saturating_sub(TAIL as u64)).unwrap_or(0);
    one_line(&bytes[..read])
}

/// Returns text without control characters, cut to its last [`TAIL`] bytes.
fn one_line(bytes: &[u8]) -> String {
    let mut escaped = log::one_line(String::from_utf8_lossy(bytes).trim());
    let cut = escaped.len().saturating_sub(TAIL);
    let cut = (cut..=escaped.len()).find(|i| escaped.is_char_boundary(*i)).unwrap_or(0);
    escaped.split_off(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> (Plan, String) {
        let hooks: Hooks = serde_json::from_str(json).unwrap();
        let mut notes = Notes::default();
        (plan(Some(&hooks), None, &mut notes), notes.problems.to_string())
    }

    #[test]
    fn each_hook_has_its_place_and_a_default_argv() {
        for (name, list) in [
            ("prestart", (|p| p.prestart) as fn(Plan) -> Vec<Hook>),
            ("createRuntime", |p| p.create_runtime),
            ("createContainer", |p| p.create_container),
            ("startContainer", |p| p.start_container),
            ("poststart", |p| p.poststart),
            ("poststop", |p| p.poststop),
        ] {
            let (plan, problems) = check(&format!(
                r#"{{"{name}": [{{"path": "/a"}}, {{"path": "/b", "args": ["x", "y"], "env": [], "timeout": 3}}]}}"#
            ));
            let expected = [
                Hook {
                    place: format!("hooks.{name}[0]"),
                    path: c"/a".into(),
                    argv: vec![c"/a".into()],
                    env: None,
                    timeout: (name == "startContainer").then_some(START_CONTAINER_TIMEOUT),
                    output: Output::default(),
                },
                Hook {
                    place: format!("hooks.{name}[1]"),
                    path: c"/b".into(),
                    argv: vec![c"x".into(), c"y".into()],
                    env: Some(vec![]),
                    timeout: Some(Duration::from_secs(3)),
                    output: Output::default(),
                },
            ];
            assert_eq!((list(plan), problems.as_str()), (expected.to_vec(), ""));
        }
        assert_eq!(plan(None, None, &mut Notes::default()), Plan::default());
    }

    /// The program of a startContainer hook is the image's, and must not reach a file of the host.
    #[test]
    fn hooks_of_the_image_have_no_output_files() {
        let lists = r#"{"prestart": [{"path": "/a"}], "startContainer": [{"path": "/a"}], "poststop": [{"path": "/a"}]}"#;
        let annotations = HashMap::from([(STDOUT.to_string(), "/tmp/x".to_string())]);
        let plan =
            plan(Some(&serde_json::from_str(lists).unwrap()), Some(&annotations), &mut Notes::default());
        let file = |hooks: &[Hook]| hooks[0].output.stdout.clone();
        assert_eq!(file(&plan.prestart), Some("/tmp/x".into()));
        assert_eq!(file(&plan.start_container), None);
        assert_eq!(file(&plan.poststop), Some("/tmp/x".into()));
    }

    #[test]
    fn wrong_hooks_are_reported() {
        for (hook, expected) in [
            (r#"{"path": "a"}"#, "path: \"a\" is not absolute"),
            (r#"{"path": "/a\u0000"}"#, "path: contains a NUL"),
            (r#"{"path": "/a", "args": ["\u0000"]}"#, "args[0]: contains a NUL"),
            (r#"{"path": "/a", "env": ["A=1", "B\u0000"]}"#, "env[1]: contains a NUL"),
            (r#"{"path": "/a", "timeout": 0}"#, "timeout: 0 is not above zero"),
            (r#"{"path": "/a", "timeout": -5}"#, "timeout: -5 is not above zero"),
        ] {
            let (_, problems) = check(&format!(r#"{{"poststop": [{hook}]}}"#));
            assert_eq!(problems, format!("hooks.poststop[0].{expected}"));
        }
    }

    #[test]
    fn output_becomes_one_short_line() {
        for (output, expected) in
            [("", ""), (" a\n", "a"), ("a\nb\tc\x1b[0m", "a\\nb\\tc\\u{1b}[0m"), ("ä\u{7f}", "ä\\u{7f}")]
        {
            assert_eq!(one_line(output.as_bytes()), expected);
        }
        assert_eq!(one_line("\n".repeat(9).as_bytes()), "");
        let long = one_line(format!("x{}", "ä".repeat(TAIL)).as_bytes());
        assert!(long.len() <= TAIL && long.ends_with('ä'), "{long}");
        let escapes = one_line(&[b'a'; TAIL].map(|_| 1));
        assert!(escapes.len() <= TAIL);
    }
}
