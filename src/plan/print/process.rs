//! The process: what it runs, and with which rights and limits.

use super::text::{Text, flags, joined, path_word, word, words};
use crate::process::Plan;
use crate::process::affinity::Affinity;
use crate::process::capabilities::{self, Sets};
use crate::process::credentials::User;
use crate::process::io_priority::IoPriority;
use crate::process::landlock::Rules;
use crate::process::lsm::Labels;
use crate::process::memory_policy::MemoryPolicy;
use crate::process::personality::Personality;
use crate::process::rlimits::Rlimit;
use crate::sys::process::{Limit, SchedAttr};

pub(super) fn print(text: &mut Text, plan: &Plan) {
    let Plan {
        argv,
        env,
        cwd,
        terminal,
        console_size,
        user,
        capabilities,
        rlimits,
        no_new_privs,
        oom_score_adj,
        scheduler,
        io_priority,
        affinity,
        labels,
        personality,
        memory_policy,
        landlock,
    } = plan;
    text.section("process");
    text.line(format_args!("args {}", words(argv)));
    env.iter().for_each(|variable| text.line(format_args!("env {}", word(variable.as_bytes()))));
    text.line(format_args!("cwd {}", path_word(cwd)));
    text.line_if(*terminal, "terminal");
    if let Some((rows, columns)) = console_size {
        text.line(format_args!("terminal of {rows} rows and {columns} columns"));
    }
    print_user(text, user);
    print_capabilities(text, capabilities);
    for Rlimit { resource, name, limit: Limit { soft, hard }, place } in rlimits {
        let [soft, hard] = [*soft, *hard].map(|limit| match limit {
            libc::RLIM_INFINITY => "unlimited".into(),
            limit => limit.to_string(),
        });
        text.line(format_args!("{name} ({resource}) soft {soft} hard {hard} ({place})"));
    }
    text.line_if(*no_new_privs, "no_new_privs");
    if let Some(score) = oom_score_adj {
        text.line(format_args!("oom_score_adj {score}"));
    }
    if let Some(attr) = scheduler {
        print_scheduler(text, attr);
    }
    if let Some(IoPriority { class, level }) = io_priority {
        let class = named(*class, &["none", "realtime", "best-effort", "idle"]);
        text.line(format_args!("I/O priority {class} {level}"));
    }
    let Affinity { initial, last } = affinity;
    for (name, list) in [("initial", initial), ("final", last)] {
        if let Some(list) = list {
            text.line(format_args!("{name} CPUs {}", list));
        }
    }
    let Labels { apparmor, selinux } = labels;
    for (name, label) in [("AppArmor profile", apparmor), ("SELinux label", selinux)] {
        if let Some(label) = label {
            text.line(format_args!("{name} {}", word(label.as_bytes())));
        }
    }
    if let Some(Personality(persona)) = personality {
        text.line(format_args!("personality {persona:#x}"));
    }
    if let Some(policy) = memory_policy {
        print_memory_policy(text, policy);
    }
    if let Some(rules) = landlock {
        print_landlock(text, rules);
    }
}

/// Returns the name at an index, or the number if it has none.
fn named(number: u32, names: &[&str]) -> String {
    names.get(number as usize).map_or_else(|| number.to_string(), ToString::to_string)
}

fn print_user(text: &mut Text, user: &User) {
    let User { uid, gid, additional_gids, keep_groups, umask } = user;
    text.line(format_args!("user {uid}:{gid}"));
    if !additional_gids.is_empty() {
        text.line(format_args!("groups {}", joined(additional_gids, " ")));
    }
    text.line_if(*keep_groups, "keeps the groups of the caller");
    if let Some(umask) = umask {
        text.line(format_args!("umask {umask:04o}"));
    }
}

/// Prints sets that are the same on one line.
fn print_capabilities(text: &mut Text, sets: &Sets) {
    let Sets { bounding, effective, permitted, inheritable, ambient } = sets;
    let mut alike: Vec<(u64, Vec<&str>)> = Vec::new();
    for (name, set) in [
        ("bounding", *bounding),
        ("effective", *effective),
        ("permitted", *permitted),
        ("inheritable", *inheritable),
        ("ambient", *ambient),
    ] {
        match alike.iter_mut().find(|(known, _)| *known == set) {
            Some((_, names)) => names.push(name),
            None => alike.push((set, vec![name])),
        }
    }
    for (set, names) in alike {
        let unnamed = set & !caps::all().iter().fold(0, |all, capability| all | capability.bitmask());
        let unnamed = if unnamed == 0 { String::new() } else { format!(" {unnamed:#x}") };
        let members = if set == 0 { "none".into() } else { capabilities::names(set) };
        text.line(format_args!("capabilities {}: {members}{unnamed}", names.join(" ")));
    }
}

fn print_scheduler(text: &mut Text, attr: &SchedAttr) {
    const POLICIES: [&str; 8] = [
        "SCHED_OTHER",
        "SCHED_FIFO",
        "SCHED_RR",
        "SCHED_BATCH",
        "SCHED_ISO",
        "SCHED_IDLE",
        "SCHED_DEADLINE",
        "SCHED_EXT",
    ];
    let SchedAttr { size, policy, flags, nice, priority, runtime, deadline, period, util_min, util_max } =
        attr;
    let mut line = format!("scheduler {}", named(*policy, &POLICIES));
    for (name, value) in [
        ("size", i128::from(*size)),
        ("flags", i128::from(*flags)),
        ("nice", i128::from(*nice)),
        ("priority", i128::from(*priority)),
        ("runtime", i128::from(*runtime)),
        ("deadline", i128::from(*deadline)),
        ("period", i128::from(*period)),
        ("util_min", i128::from(*util_min)),
        ("util_max", i128::from(*util_max)),
    ] {
        if value != 0 {
            line += &format!(" {name} {value}");
        }
    }
    text.line(line);
}

fn print_memory_policy(text: &mut Text, policy: &MemoryPolicy) {
    // linux/mempolicy.h
    const MODES: [&str; 7] = [
        "MPOL_DEFAULT",
        "MPOL_PREFERRED",
        "MPOL_BIND",
        "MPOL_INTERLEAVE",
        "MPOL_LOCAL",
        "MPOL_PREFERRED_MANY",
        "MPOL_WEIGHTED_INTERLEAVE",
    ];
    const FLAGS: [(u64, &str); 3] = [
        (1 << 13, "MPOL_F_NUMA_BALANCING"),
        (1 << 14, "MPOL_F_RELATIVE_NODES"),
        (1 << 15, "MPOL_F_STATIC_NODES"),
    ];
    let MemoryPolicy { mode, nodes } = policy;
    let bits = FLAGS.iter().fold(0, |bits, (bit, _)| bits | bit);
    let (number, set) = (u64::from(*mode) & !bits, u64::from(*mode) & bits);
    let nodes = nodes.as_ref().map(|list| format!(" nodes {}", list)).unwrap_or_default();
    text.line(format_args!("memory policy {} {}{nodes}", named(number as u32, &MODES), flags(set, FLAGS)));
}

fn print_landlock(text: &mut Text, rules: &Rules) {
    let Rules { ro, rw, tcp_bind, tcp_connect } = rules;
    for (name, paths) in [("ro", ro), ("rw", rw)] {
        if let Some(paths) = paths {
            let paths = joined(paths.iter().map(|path| path_word(path)), " ");
            text.line(format_args!("Landlock {name} {paths}"));
        }
    }
    for (name, ports) in [("tcpBind", tcp_bind), ("tcpConnect", tcp_connect)] {
        if let Some(ports) = ports {
            text.line(format_args!("Landlock {name} {}", joined(ports, " ")));
        }
    }
}
