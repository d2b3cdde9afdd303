//! The attributes of the container process: `process` of config.json, and the members of `linux` that
//! concern the process. `plan` turns them into plain values and finds all errors. Each attribute has its own
//! file with its rules and, if a call sets it, its `apply`.
//!
//! The order in which launch applies them matters. Scheduler, I/O priority, memory policy, personality and
//! rlimits come while the process is still privileged and leads its own process group. Labels, credentials,
//! lookup and execve follow.

pub(crate) mod affinity;
pub(crate) mod capabilities;
pub(crate) mod credentials;
pub(crate) mod env;
mod format;
pub(crate) mod io_priority;
pub(crate) mod landlock;
pub(crate) mod lookup;
pub(crate) mod lsm;
pub(crate) mod memory_policy;
pub(crate) mod personality;
pub(crate) mod rlimits;
pub(crate) mod scheduler;
pub(crate) mod sysctl;
pub(crate) mod users;

use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use oci_spec::runtime::{Linux, Process};

use crate::error::Notes;
use crate::sys::process::SchedAttr;

/// The attributes that the container process will have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub argv: Vec<CString>,
    /// Without HOME if the document has none: [`env::fill_home`] needs the container's passwd file.
    pub env: Vec<CString>,
    pub cwd: PathBuf,
    pub terminal: bool,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
    pub user: credentials::User,
    pub capabilities: capabilities::Sets,
    pub rlimits: Vec<rlimits::Rlimit>,
    pub no_new_privs: bool,
    pub oom_score_adj: Option<i32>,
    pub scheduler: Option<SchedAttr>,
    pub io_priority: Option<io_priority::IoPriority>,
    /// Only for an exec, not for the container's first process.
    pub affinity: affinity::Affinity,
    pub labels: lsm::Labels,
    pub personality: Option<personality::Personality>,
    pub memory_policy: Option<memory_policy::MemoryPolicy>,
    /// From the container's annotations, for all of its processes.
    pub landlock: Option<landlock::Rules>,
}

/// The facts about the host and the runtime that the plan of a process depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    pub capabilities: capabilities::Held,
    pub lsm: lsm::Host,
}

/// Plans the process. `prefix` is the place of the document: `process` in config.json, empty for the document
/// of an exec. Returns `None` if there are errors, all of which are then in `notes`.
pub fn plan(
    process: &Process,
    linux: Option<&Linux>,
    annotations: Option<&HashMap<String, String>>,
    host: Host,
    prefix: &str,
    notes: &mut Notes,
) -> Option<Plan> {
    let dotted = if prefix.is_empty() { String::new() } else { format!("{prefix}.") };
    let at = |member: &str| format!("{dotted}{member}");
    let before = notes.problems.0.len();
    let terminal = process.terminal().unwrap_or(false);
    let plan = Plan {
        argv: argv(process.args().as_deref().unwrap_or_default(), &at("args"), notes),
        env: env::plan(process.env().as_deref().unwrap_or_default(), &at("env"), notes),
        cwd: cwd(process, &at("cwd"), notes),
        terminal,
        console_size: if terminal { console_size(process, &at("consoleSize"), notes) } else { None },
        user: user(process, annotations, &at("user"), notes),
        capabilities: capabilities::plan(
            process.capabilities().as_ref(),
            host.capabilities,
            &at("capabilities"),
            notes,
        ),
        rlimits: rlimits::plan(process.rlimits().as_deref().unwrap_or_default(), &at("rlimits"), notes),
        no_new_privs: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: oom_score_adj(process.oom_score_adj(), &at("oomScoreAdj"), notes),
        scheduler: scheduler::plan(process.scheduler().as_ref(), &at("scheduler"), notes),
        io_priority: io_priority::plan(process.io_priority().as_ref(), &at("ioPriority"), notes),
        affinity: affinity::plan(process.exec_cpu_affinity().as_ref(), &at("execCPUAffinity"), notes),
        labels: lsm::plan(
            process.apparmor_profile().as_deref(),
            process.selinux_label().as_deref(),
            host.lsm,
            &dotted,
            notes,
        ),
        personality: personality::plan(linux.and_then(|l| l.personality().as_ref()), notes),
        memory_policy: memory_policy::plan(linux.and_then(|l| l.memory_policy().as_ref()), notes),
        landlock: landlock::plan(annotations, notes),
    };
    (notes.problems.0.len() == before).then_some(plan)
}

fn argv(args: &[String], place: &str, notes: &mut Notes) -> Vec<CString> {
    // An empty name is a command that is not found (`lookup::find`). Engines have an exit status of their own for it.
    if args.is_empty() {
        notes.problem(place, "must name a program");
    }
    strings(args, place, notes)
}

/// Returns texts as C strings. A NUL in a text is an error.
pub(crate) fn strings(texts: &[String], place: &str, notes: &mut Notes) -> Vec<CString> {
    let mut all = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        match CString::new(text.as_str()) {
            Ok(text) => all.push(text),
            Err(_) => notes.problem(format_args!("{place}[{i}]"), "contains a NUL"),
        }
    }
    all
}

fn cwd(process: &Process, place: &str, notes: &mut Notes) -> PathBuf {
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        notes.problem(place, format_args!("{cwd:?} is not absolute"));
    }
    if cwd.as_os_str().as_bytes().contains(&0) {
        notes.problem(place, "contains a NUL");
    }
    cwd.clone()
}

fn console_size(process: &Process, place: &str, notes: &mut Notes) -> Option<(u16, u16)> {
    let size = process.console_size()?;
    // `struct winsize` has 16 bits for each number.
    let mut bounded = |name: &str, n: u64| {
        let bounded = u16::try_from(n).ok();
        if bounded.is_none() {
            notes.problem(format_args!("{place}.{name}"), format_args!("{n} is above {}", u16::MAX));
        }
        bounded
    };
    let (rows, columns) = (bounded("height", size.height()), bounded("width", size.width()));
    Some((rows?, columns?))
}

fn user(
    process: &Process,
    annotations: Option<&HashMap<String, String>>,
    place: &str,
    notes: &mut Notes,
) -> credentials::User {
    let user = process.user();
    let gids = user.additional_gids().as_deref().unwrap_or_default();
    let mut check = |place: String, id: u32, what: &str| {
        if id == users::NO_ID {
            notes.problem(place, format_args!("{id} is not a valid {what} id"));
        }
    };
    check(format!("{place}.uid"), user.uid(), "user");
    check(format!("{place}.gid"), user.gid(), "group");
    for (i, gid) in gids.iter().enumerate() {
        check(format!("{place}.additionalGids[{i}]"), *gid, "group");
    }
    if gids.len() > users::GROUPS_MAX {
        notes.problem(
            format_args!("{place}.additionalGids"),
            format_args!("{} are more than {}", gids.len(), users::GROUPS_MAX),
        );
    }
    if let Some(mask) = user.umask().filter(|mask| *mask > 0o777) {
        notes.problem(format_args!("{place}.umask"), format_args!("{mask} is above 511 (0777)"));
    }
    let keep_groups = credentials::keep_groups(annotations, notes);
    if keep_groups && !gids.is_empty() {
        // An engine adds the groups that the image's files have for the user.
        let asked = credentials::KEEP_GROUPS;
        notes.warn(format!("{place}.additionalGids: the annotation {asked} keeps the caller's, ignoring"));
    }
    credentials::User {
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: gids.to_vec(),
        keep_groups,
        umask: user.umask(),
    }
}

fn oom_score_adj(score: Option<i32>, place: &str, notes: &mut Notes) -> Option<i32> {
    if let Some(score) = score.filter(|score| !(-1000..=1000).contains(score)) {
        notes.problem(place, format_args!("{score} is not within -1000 to 1000"));
    }
    score
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host {
        capabilities: capabilities::Held::IN_USER_NAMESPACE,
        lsm: lsm::Host { apparmor: false, selinux: false, strict: false },
    };

    fn check(json: &str, prefix: &str) -> (Option<Plan>, String) {
        let process: Process = serde_json::from_str(json).unwrap();
        let mut notes = Notes::default();
        let plan = plan(&process, None, None, HOST, prefix, &mut notes);
        assert_eq!(notes.warnings, [""; 0]);
        (plan, notes.problems.to_string())
    }

    #[test]
    fn a_minimal_process_is_planned() {
        let (plan, problems) = check(
            r#"{"user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3]}, "args": ["a", ""],
                "env": ["A=1"], "cwd": "/w", "terminal": true, "consoleSize": {"height": 25, "width": 80},
                "noNewPrivileges": true, "oomScoreAdj": -1000}"#,
            "process",
        );
        let expected = Plan {
            argv: vec![c"a".into(), c"".into()],
            env: vec![c"A=1".into()],
            cwd: "/w".into(),
            terminal: true,
            console_size: Some((25, 80)),
            user: credentials::User {
                uid: 1,
                gid: 2,
                additional_gids: vec![3],
                keep_groups: false,
                umask: Some(0o22),
            },
            capabilities: capabilities::Sets::default(),
            rlimits: vec![],
            no_new_privs: true,
            oom_score_adj: Some(-1000),
            scheduler: None,
            io_priority: None,
            affinity: affinity::Affinity::default(),
            labels: lsm::Labels::default(),
            personality: None,
            memory_policy: None,
            landlock: None,
        };
        assert_eq!((plan, problems.as_str()), (Some(expected), ""));
    }

    #[test]
    fn an_empty_name_is_left_to_the_lookup() {
        let (plan, problems) = check(r#"{"user": {}, "cwd": "/", "args": [""]}"#, "process");
        assert_eq!((plan.unwrap().argv, problems.as_str()), (vec![CString::default()], ""));
    }

    #[test]
    fn console_size_matters_only_with_a_terminal() {
        let size = r#""args": ["a"], "cwd": "/", "consoleSize": {"height": 65536, "width": 0}}"#;
        let (plan, problems) = check(&format!(r#"{{"user": {{}}, {size}"#), "process");
        assert_eq!((plan.unwrap().console_size, problems.as_str()), (None, ""));
        let (plan, problems) = check(&format!(r#"{{"user": {{}}, "terminal": true, {size}"#), "");
        assert_eq!((plan, problems.as_str()), (None, "consoleSize.height: 65536 is above 65535"));
    }

    #[test]
    fn all_errors_are_reported_with_their_places() {
        for (json, prefix, expected) in [
            (r#"{"user": {}, "cwd": "/"}"#, "process", "process.args: must name a program"),
            (r#"{"user": {}, "cwd": "/", "args": []}"#, "", "args: must name a program"),
            (r#"{"user": {}, "cwd": "/", "args": ["a", "b\u0000"]}"#, "", "args[1]: contains a NUL"),
            (r#"{"user": {}, "cwd": "", "args": ["a"]}"#, "process", "process.cwd: \"\" is not absolute"),
            (r#"{"user": {}, "cwd": "w", "args": ["a"]}"#, "", "cwd: \"w\" is not absolute"),
            (r#"{"user": {}, "cwd": "/\u0000", "args": ["a"]}"#, "", "cwd: contains a NUL"),
            (
                r#"{"user": {"uid": 4294967295, "gid": 4294967295, "additionalGids": [0, 4294967295]},
                    "cwd": "/", "args": ["a"]}"#,
                "",
                "user.uid: 4294967295 is not a valid user id; user.gid: 4294967295 is not a valid group id; \
                 user.additionalGids[1]: 4294967295 is not a valid group id",
            ),
            (
                r#"{"user": {"umask": 512}, "cwd": "/", "args": ["a"], "oomScoreAdj": 1001}"#,
                "process",
                "process.user.umask: 512 is above 511 (0777); process.oomScoreAdj: 1001 is not within -1000 to 1000",
            ),
        ] {
            assert_eq!(check(json, prefix), (None, expected.to_string()), "{json}");
        }
    }
}
