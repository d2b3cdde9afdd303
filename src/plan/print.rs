//! The plan as text for people, which `corten check --plan` prints and the golden tests compare.
//!
//! Every function takes its part of the plan apart without `..`: a new field does not compile until it is
//! printed. What is absent or switched off has no line.

mod cgroup;
mod process;
mod rootfs;
mod text;

use text::{Text, flags, id_map, joined, kinds, path_word, word, words};

use super::Plan;
use crate::namespaces::{self, Join, Offset, netdev};
use crate::process::sysctl::Sysctl;
use crate::sys::seccomp::{LOG, NEW_LISTENER, SPEC_ALLOW, TSYNC, TSYNC_ESRCH, WAIT_KILLABLE_RECV};
use crate::{hooks, intel_rdt, seccomp};

impl Plan {
    /// Returns the plan as text, a decision a line.
    #[must_use]
    pub fn print(&self) -> String {
        let Self {
            namespaces,
            cgroup,
            cgroup_owner,
            intel_rdt,
            rootfs,
            root_only,
            hooks,
            sysctl,
            keyring,
            process,
            seccomp,
            notify_socket,
        } = self;
        let mut text = Text::default();
        text.section("container");
        text.line_if(*root_only, "root-only mount namespace, if the kernel can make one");
        if let Some(keyring) = keyring {
            text.line(format_args!("session keyring {}", word(keyring.as_bytes())));
        }
        if let Some((uid, gid)) = cgroup_owner {
            text.line(format_args!("cgroup owner {uid}:{gid}"));
        }
        if let Some(path) = notify_socket {
            text.line(format_args!("notification socket {}", path_word(path)));
        }
        print_namespaces(&mut text, namespaces);
        if let Some(cgroup) = cgroup {
            cgroup::print(&mut text, cgroup);
        }
        if let Some(intel_rdt) = intel_rdt {
            print_intel_rdt(&mut text, intel_rdt);
        }
        rootfs::print(&mut text, rootfs);
        print_hooks(&mut text, hooks);
        text.section("sysctl");
        for Sysctl { place, path, value } in sysctl {
            text.line(format_args!("{} = {} ({place})", path_word(path), word(value.as_bytes())));
        }
        if let Some(process) = process {
            process::print(&mut text, process);
        }
        if let Some(seccomp) = seccomp {
            print_seccomp(&mut text, seccomp);
        }
        text.0
    }
}

fn print_namespaces(text: &mut Text, plan: &namespaces::Plan) {
    let namespaces::Plan { create, join, uid_map, gid_map, offsets, hostname, domainname, devices } = plan;
    text.section("namespaces");
    if *create != 0 {
        text.line(format_args!("new {}", kinds(*create)));
    }
    for Join { flag, path, place } in join {
        text.line(format_args!("join {} {} ({place})", kinds(*flag), path_word(path)));
    }
    for (name, map) in [("uid", uid_map), ("gid", gid_map)] {
        if !map.is_empty() {
            text.line(format_args!("{name} {}", id_map(map)));
        }
    }
    for Offset { clock, seconds, nanoseconds } in offsets {
        text.line(format_args!("clock {} {seconds} s {nanoseconds} ns", word(clock.as_bytes())));
    }
    for (name, value) in [("hostname", hostname), ("domainname", domainname)] {
        if let Some(value) = value {
            text.line(format_args!("{name} {}", word(value.as_bytes())));
        }
    }
    for netdev::Device { name, target, place } in devices {
        let (name, target) = (word(name.as_bytes()), word(target.as_bytes()));
        text.line(format_args!("network device {name} as {target} ({place})"));
    }
}

fn print_intel_rdt(text: &mut Text, plan: &intel_rdt::Plan) {
    let intel_rdt::Plan { mount, group, named, writes, monitor, events } = plan;
    text.section("resctrl");
    let kind = if *named { "named" } else { "the container's own" };
    text.line(format_args!("class {} of {}, {kind}", path_word(group), path_word(mount)));
    for (i, lines) in writes.iter().enumerate() {
        for intel_rdt::Line { place, text: schema } in lines {
            text.line(format_args!("write {}: {} ({place})", i + 1, word(schema.as_bytes())));
        }
    }
    if let Some(monitor) = monitor {
        text.line(format_args!("monitor {}", path_word(monitor)));
    }
    for (place, names) in events {
        text.line(format_args!("needs an event of {} ({place})", names.join(", ")));
    }
}

fn print_hooks(text: &mut Text, plan: &hooks::Plan) {
    let hooks::Plan { prestart, create_runtime, create_container, start_container, poststart, poststop } =
        plan;
    text.section("hooks");
    for list in [prestart, create_runtime, create_container, start_container, poststart, poststop] {
        for hooks::Hook { place, path, argv, env, timeout, output } in list {
            let timeout = timeout.map(|time| format!(" for at most {time:?}")).unwrap_or_default();
            text.line(format_args!("{place} {}{timeout}: {}", word(path.as_bytes()), words(argv)));
            if let Some(env) = env {
                text.line(format_args!("{place} env {}", words(env)));
            }
            let hooks::Output { stdout, stderr } = output;
            for (name, path) in [("stdout", stdout), ("stderr", stderr)] {
                if let Some(path) = path {
                    text.line(format_args!("{place} {name} {}", path_word(path)));
                }
            }
        }
    }
}

fn print_seccomp(text: &mut Text, plan: &seccomp::Plan) {
    const FLAGS: [(u64, &str); 6] = [
        (TSYNC, "TSYNC"),
        (LOG, "LOG"),
        (SPEC_ALLOW, "SPEC_ALLOW"),
        (NEW_LISTENER, "NEW_LISTENER"),
        (TSYNC_ESRCH, "TSYNC_ESRCH"),
        (WAIT_KILLABLE_RECV, "WAIT_KILLABLE_RECV"),
    ];
    let seccomp::Plan { filter, flags: bits, listener, unknown, execve } = plan;
    text.section("seccomp");
    // `corten seccomp explain` shows what the instructions do.
    text.line(format_args!("program of {} instructions", filter.len()));
    if *bits != 0 {
        text.line(format_args!("flags {}", flags(*bits, FLAGS)));
    }
    if let Some(seccomp::Listener { path, metadata }) = listener {
        let metadata = metadata.as_ref().map(|text| format!(" metadata {}", word(text.as_bytes())));
        text.line(format_args!("listener {}{}", path_word(path), metadata.unwrap_or_default()));
    }
    if !unknown.is_empty() {
        text.line(format_args!(
            "unknown calls {}",
            joined(unknown.iter().map(|name| word(name.as_bytes())), " ")
        ));
    }
    if let Some(errno) = execve {
        text.line(format_args!("execve fails with errno {errno}"));
    }
}
