//! The environment of the container process.
//!
//! As in runc, an entry must have the form `name=value`, and the last entry of a name wins. If HOME is unset
//! or empty, it is set from the container's passwd file. The sockets that a service manager has passed to the
//! runtime (sd_listen_fds(3)) are passed on. Its notification socket is not: the container gets its own.

use std::collections::HashSet;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Notes;

use super::users;

/// Checks the entries and returns the last entry of each name.
pub(crate) fn plan(spec: &[String], place: &str, notes: &mut Notes) -> Vec<CString> {
    let mut seen = HashSet::new();
    let mut env = Vec::with_capacity(spec.len());
    for (i, entry) in spec.iter().enumerate().rev() {
        let mut wrong = |message| notes.problem(format_args!("{place}[{i}]"), message);
        match entry.split_once('=') {
            None => wrong("has no \"=\""),
            Some(("", _)) => wrong("has no name before \"=\""),
            Some((name, _)) => match CString::new(entry.as_str()) {
                Err(_) => wrong("contains a NUL"),
                Ok(entry) if seen.insert(name) => env.push(entry),
                Ok(_) => {}
            },
        }
    }
    env.reverse();
    env
}

/// Returns the value of a variable.
#[must_use]
pub(crate) fn get<'a>(env: &'a [CString], name: &str) -> Option<&'a [u8]> {
    env.iter().find_map(|entry| entry.to_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// Sets HOME if it is unset or empty: to the user's home directory in the container's passwd file, otherwise
/// to `/`.
pub(crate) fn fill_home(env: &mut Vec<CString>, passwd: &[u8], uid: u32) {
    if get(env, "HOME").is_some_and(|home| !home.is_empty()) {
        return;
    }
    let home = users::home(passwd, uid).unwrap_or_else(|| PathBuf::from("/"));
    if let Ok(entry) = CString::new([b"HOME=", home.as_os_str().as_bytes()].concat()) {
        env.retain(|entry| !entry.to_bytes().starts_with(b"HOME="));
        env.push(entry);
    }
}

/// Returns the runtime's own environment.
#[must_use]
pub fn own() -> Vec<CString> {
    let entry = |(name, value): (OsString, OsString)| {
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
    };
    std::env::vars_os().filter_map(entry).collect()
}

/// The sockets that a service manager has passed to the runtime for the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Service {
    /// The number of sockets. The first one is descriptor 3.
    pub listen_fds: u32,
    /// Their names, separated by colons.
    pub listen_names: Option<String>,
    /// The address of the service manager's notification socket.
    pub notify_socket: Option<String>,
}

/// The limit for LISTEN_FDS, above the number of descriptors that any process may have open.
const LISTEN_FDS_MAX: u32 = 1 << 20;

/// Reads the variables of the runtime's environment through `own`. `pid` returns the id of the runtime.
/// Sockets that belong to another process (a parent that did not clear its environment) are ignored.
#[must_use]
pub(crate) fn service(own: impl Fn(&str) -> Option<String>, pid: impl FnOnce() -> u32) -> Service {
    let ours = own("LISTEN_PID").and_then(|text| text.parse().ok()).is_some_and(|meant: u32| meant == pid());
    let count = own("LISTEN_FDS").and_then(|text| text.parse().ok()).filter(|n| *n <= LISTEN_FDS_MAX);
    let listen_fds = count.filter(|_| ours).unwrap_or(0);
    Service {
        listen_fds,
        listen_names: own("LISTEN_FDNAMES").filter(|_| listen_fds > 0),
        notify_socket: own("NOTIFY_SOCKET").filter(|address| !address.is_empty()),
    }
}

/// Adds the service manager's variables. `pid` returns the id that the process has for itself. It is usually
/// 1, but not in an exec or without a pid namespace, where runc's constant 1 makes the program ignore its
/// sockets. `notify` is the path of the notification socket in the container.
pub(crate) fn add_service(
    env: &mut Vec<CString>,
    service: &Service,
    pid: impl FnOnce() -> u32,
    notify: Option<&Path>,
) {
    let mut set = |name: &str, value: &[u8]| {
        let prefix = format!("{name}=");
        if let Ok(entry) = CString::new([prefix.as_bytes(), value].concat()) {
            env.retain(|entry| !entry.to_bytes().starts_with(prefix.as_bytes()));
            env.push(entry);
        }
    };
    if service.listen_fds > 0 {
        set("LISTEN_FDS", service.listen_fds.to_string().as_bytes());
        set("LISTEN_PID", pid().to_string().as_bytes());
        if let Some(names) = &service.listen_names {
            set("LISTEN_FDNAMES", names.as_bytes());
        }
    }
    if let Some(path) = notify {
        set("NOTIFY_SOCKET", path.as_os_str().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(env: &[CString]) -> Vec<&str> {
        env.iter().map(|entry| entry.to_str().unwrap()).collect()
    }

    #[test]
    fn the_last_entry_of_a_name_wins_and_malformed_entries_are_errors() {
        let rows: [(&[&str], &[&str], &str); 7] = [
            (&[], &[], ""),
            (&["A=1", "B=", "C=x=y"], &["A=1", "B=", "C=x=y"], ""),
            (&["A=1", "B=2", "A=3"], &["B=2", "A=3"], ""),
            (&["AB=1", "A=2"], &["AB=1", "A=2"], ""),
            (&["A"], &[], "e[0]: has no \"=\""),
            (&["A=1", "=B"], &["A=1"], "e[1]: has no name before \"=\""),
            (&["A=1\0"], &[], "e[0]: contains a NUL"),
        ];
        for (given, expected, problem) in rows {
            let mut notes = Notes::default();
            let given: Vec<String> = given.iter().map(ToString::to_string).collect();
            assert_eq!(strings(&plan(&given, "e", &mut notes)), expected, "{given:?}");
            assert_eq!(notes.problems.to_string(), problem);
        }
    }

    #[test]
    fn home_is_set_if_it_is_unset_or_empty() {
        let passwd = b"root:x:0:0::/root:/bin/sh\n";
        let rows: [(&[&str], u32, &[&str]); 4] = [
            (&["HOME=/x"], 0, &["HOME=/x"]),
            (&["A=1"], 0, &["A=1", "HOME=/root"]),
            (&["HOME=", "A=1"], 0, &["A=1", "HOME=/root"]),
            (&["HOMEX=1"], 7, &["HOMEX=1", "HOME=/"]),
        ];
        for (given, uid, expected) in rows {
            let mut env: Vec<CString> = given.iter().map(|e| CString::new(*e).unwrap()).collect();
            fill_home(&mut env, passwd, uid);
            assert_eq!(strings(&env), expected);
        }
    }

    #[test]
    fn only_sockets_that_belong_to_the_runtime_are_passed_on() {
        type Row = (&'static [(&'static str, &'static str)], &'static [&'static str]);
        let rows: [Row; 6] = [
            (&[], &[]),
            (&[("LISTEN_FDS", "2"), ("LISTEN_PID", "7")], &["LISTEN_FDS=2", "LISTEN_PID=1"]),
            (
                &[("LISTEN_FDS", "1"), ("LISTEN_PID", "7"), ("LISTEN_FDNAMES", "web")],
                &["LISTEN_FDS=1", "LISTEN_PID=1", "LISTEN_FDNAMES=web"],
            ),
            (&[("LISTEN_FDS", "2"), ("LISTEN_PID", "8"), ("LISTEN_FDNAMES", "web")], &[]),
            (&[("LISTEN_FDS", "-1"), ("LISTEN_PID", "7")], &[]),
            (&[("LISTEN_FDS", "4000000000"), ("LISTEN_PID", "7")], &[]),
        ];
        for (own, expected) in rows {
            let find = |name: &str| own.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
            let mut env = Vec::new();
            add_service(&mut env, &service(find, || 7), || 1, None);
            assert_eq!(strings(&env), expected, "{own:?}");
        }
        let find = |name: &str| (name == "NOTIFY_SOCKET").then(|| "/run/n.sock".to_string());
        let found = service(find, || 7);
        assert_eq!(found.notify_socket, Some("/run/n.sock".to_string()));
        let mut env = vec![CString::new("NOTIFY_SOCKET=/old").unwrap()];
        add_service(&mut env, &found, || 1, Some(Path::new("/run/notify/notify.sock")));
        assert_eq!(strings(&env), ["NOTIFY_SOCKET=/run/notify/notify.sock"]);
    }
}
