//! The plan as text for people, which `corten plan` prints and the golden tests compare.
//!
//! Every function takes its part of the plan apart without `..`: a new field does not compile until it is
//! printed. What is absent or switched off has no line.

mod cgroup;
mod process;
mod rootfs;

use std::ffi::CString;
use std::fmt::{Display, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Plan;
use crate::namespaces::idmap::IdMap;
use crate::namespaces::{self, Join, KINDS, Offset, netdev};
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

/// Sections of indented lines. The name of a section is written with its first line.
#[derive(Default)]
struct Text(String, Option<&'static str>);

impl Text {
    fn section(&mut self, name: &'static str) {
        self.1 = Some(name);
    }

    fn line(&mut self, line: impl Display) {
        if let Some(name) = self.1.take() {
            self.0 += name;
            self.0.push('\n');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "  {line}");
    }

    /// Writes the line if `wanted`.
    fn line_if(&mut self, wanted: bool, line: &str) {
        if wanted {
            self.line(line);
        }
    }
}

/// Returns text of the configuration so that it is one word on one line: in quotes and escaped, unless it is
/// plain.
fn word(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\(),;".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        String::from_utf8_lossy(bytes).into_owned()
    } else {
        format!("\"{}\"", bytes.escape_ascii())
    }
}

fn path_word(path: &Path) -> String {
    word(path.as_os_str().as_bytes())
}

fn words(list: &[CString]) -> String {
    joined(list.iter().map(|text| word(text.as_bytes())), " ")
}

fn joined(items: impl IntoIterator<Item: ToString>, separator: &str) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(separator)
}

/// Returns the names of the bits that are set; bits without a name as a number.
fn flags<'a>(bits: u64, names: impl IntoIterator<Item = (u64, &'a str)>) -> String {
    let mut left = bits;
    let mut found = Vec::new();
    for (bit, name) in names {
        if left & bit != 0 {
            found.push(name.to_string());
            left &= !bit;
        }
    }
    if left != 0 {
        found.push(format!("{left:#x}"));
    }
    found.join(" ")
}

/// Returns the names of `CLONE_NEW*` flags.
fn kinds(bits: i32) -> String {
    flags(u64::from(bits as u32), KINDS.iter().map(|kind| (u64::from(kind.flag as u32), kind.name)))
}

fn id_map(map: &[IdMap]) -> String {
    let row =
        |IdMap { container, host, size }: &IdMap| format!("{container} = {host} on the host, {size} ids");
    joined(map.iter().map(row), "; ")
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
        for hooks::Hook { place, path, argv, env, timeout } in list {
            let timeout = timeout.map(|time| format!(" for at most {time:?}")).unwrap_or_default();
            text.line(format_args!("{place} {}{timeout}: {}", word(path.as_bytes()), words(argv)));
            if let Some(env) = env {
                text.line(format_args!("{place} env {}", words(env)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_configuration_is_one_word_on_one_line() {
        for (text, expected) in [
            ("/a-b_c.d:e=f", "/a-b_c.d:e=f"),
            ("", r#""""#),
            ("a b", r#""a b""#),
            ("a\n  devices allow a *:* rwm", r#""a\n  devices allow a *:* rwm""#),
            ("\u{1b}[2J", r#""\x1b[2J""#),
            (r#"a"b\"#, r#""a\"b\\""#),
        ] {
            assert_eq!(word(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn bits_without_a_name_are_shown_as_a_number() {
        let names = [(1, "one"), (4, "four")];
        assert_eq!(flags(0, names), "");
        assert_eq!(flags(5, names), "one four");
        assert_eq!(flags(0x14, names), "four 0x10");
    }
}
