//! The cgroup: its files as they are written, and the device rules in the form of cgroup v1's `devices.list`.

use super::text::{Text, path_word, word};
use crate::cgroups::resources::Absent;
use crate::cgroups::systemd::{self, Unit};
use crate::cgroups::{Plan, Write, devices, v1, v2};

pub(super) fn print(text: &mut Text, plan: &Plan) {
    text.section("cgroup");
    let Plan { unified, v1, devices, rootless } = plan;
    text.line_if(*rootless, "rootless");
    for v1::Part { controllers, mount, path, writes, device_rules } in v1 {
        let controllers = controllers.join(",");
        text.line(format_args!("{} in {} ({controllers})", path_word(path), path_word(mount)));
        writes.iter().for_each(|write| print_write(text, write));
        device_rules.iter().for_each(|write| print_write(text, write));
    }
    if let Some(v2::Plan { mount, path, scope, controllers, writes }) = unified {
        text.line(format_args!("{} in {}", path_word(path), path_word(mount)));
        text.line_if(*controllers == v2::Controllers::All, "every controller");
        if let Some(scope) = scope {
            print_scope(text, scope);
        }
        writes.iter().for_each(|write| print_write(text, write));
    }
    match devices {
        Some(filter) => print_filter(text, filter),
        None => text.line("devices allow a *:* rwm"),
    }
}

fn print_scope(text: &mut Text, scope: &systemd::Scope) {
    let systemd::Scope { unit: Unit { name, user }, properties, asked } = scope;
    let manager = if *user { "the user's systemd" } else { "systemd" };
    text.line(format_args!("unit {} of {manager}", word(name.as_bytes())));
    for (name, value) in properties {
        text.line(format_args!("property {} = {value:?}", word(name.as_bytes())));
    }
    for place in asked {
        text.line(format_args!("property of {place}"));
    }
}

fn print_write(text: &mut Text, write: &Write) {
    let Write { file, value, place, absent, floor } = write;
    let value = value.to_string();
    let without = match absent {
        Absent::Fails => String::new(),
        Absent::NoLimit => "; skipped if the file does not exist".into(),
        Absent::NoSwap => "; skipped on a host without swap".into(),
        Absent::Instead { file, value } => {
            format!("; or {file} {value} if the file does not exist")
        }
    };
    let floor = floor.map(|floor| format!("; not below {}", floor.file)).unwrap_or_default();
    let (file, value) = (word(file.as_bytes()), value.escape_debug());
    text.line(format_args!("{file} {value} ({place}{without}{floor})"));
}

fn print_filter(text: &mut Text, filter: &devices::Filter) {
    let devices::Filter { rules, otherwise } = filter;
    let verb = |allow: bool| if allow { "allow" } else { "deny" };
    text.line(format_args!("devices {} a *:* rwm, except", verb(*otherwise)));
    for rule in rules {
        text.line(format_args!("devices {} {rule}", verb(rule.allow)));
    }
}
