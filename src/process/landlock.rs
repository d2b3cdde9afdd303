//! The annotation `dev.corten.landlock`: an additional restriction of the workload that the container's root
//! cannot lift (docs/landlock.md). A kernel whose Landlock is too old to deny everything that the annotation
//! denies is an error.
//!
//! Paths are opened inside the container, when it is created and at each exec, without following links. So an
//! exec opens the configured files too, even if the workload has put links there since.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Context, Kind, Notes, Result, fail};
use crate::sys::{fs, landlock as sys};
use crate::{json, trace};

pub(crate) const ANNOTATION: &str = "dev.corten.landlock";

/// The rules. A member that is absent restricts nothing; a member that is present denies all access except to
/// its elements.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Files and directories that may be read and executed, with everything below them.
    pub ro: Option<Vec<PathBuf>>,
    /// Files and directories that may also be changed.
    pub rw: Option<Vec<PathBuf>>,
    /// TCP ports that may be bound.
    #[serde(rename = "tcpBind")]
    pub tcp_bind: Option<Vec<u16>>,
    /// TCP ports that may be connected to.
    #[serde(rename = "tcpConnect")]
    pub tcp_connect: Option<Vec<u16>>,
}

const READ: u64 = sys::EXECUTE | sys::READ_FILE | sys::READ_DIR;
const CHANGE: u64 = sys::WRITE_FILE | sys::TRUNCATE | sys::CHANGE_DIR | sys::REFER | sys::IOCTL_DEV;
/// The rights that apply to files other than directories.
const OF_FILES: u64 = sys::EXECUTE | sys::READ_FILE | sys::WRITE_FILE | sys::TRUNCATE | sys::IOCTL_DEV;

fn place() -> String {
    format!("annotations[{ANNOTATION:?}]")
}

/// Parses the annotation.
pub(crate) fn plan(annotations: Option<&HashMap<String, String>>, notes: &mut Notes) -> Option<Rules> {
    let text = annotations?.get(ANNOTATION)?;
    let rules: Rules =
        serde_json::from_str(text).map_err(|e| notes.problem(place(), json::reason(text, &e))).ok()?;
    if rules == Rules::default() {
        notes.problem(place(), "restricts nothing");
    }
    for (member, paths) in [("ro", &rules.ro), ("rw", &rules.rw)] {
        for (i, path) in paths.iter().flatten().enumerate() {
            if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
                let message = format_args!("{path:?} is not an absolute path");
                notes.problem(format_args!("{}.{member}[{i}]", place()), message);
            }
        }
    }
    Some(rules)
}

/// Returns the rights to files and to the network that the ruleset has to deny. It is an error if a kernel
/// with this ABI version cannot deny them.
fn denied(rules: &Rules, abi: u32) -> Result<(u64, u64)> {
    let needs = |needed: u32, what: &str| {
        if abi >= needed {
            return Ok(());
        }
        let has = if abi == 0 { "has no Landlock".into() } else { format!("has ABI {abi} of Landlock") };
        Err(fail(Kind::Unsupported, format!("{}: this kernel {has}, {what} needs ABI {needed}", place())))
    };
    let mut fs = 0;
    if rules.ro.is_some() || rules.rw.is_some() {
        // Before ABI 3 a file that may only be read can be truncated.
        needs(3, "\"ro\" or \"rw\"")?;
        fs = READ | CHANGE & if abi < 5 { !sys::IOCTL_DEV } else { !0 };
    }
    let mut net = 0;
    if rules.tcp_bind.is_some() || rules.tcp_connect.is_some() {
        needs(4, "\"tcpBind\" or \"tcpConnect\"")?;
        net |= if rules.tcp_bind.is_some() { sys::BIND_TCP } else { 0 };
        net |= if rules.tcp_connect.is_some() { sys::CONNECT_TCP } else { 0 };
    }
    Ok((fs, net))
}

/// Creates the ruleset. `root` is the container's root directory.
pub(crate) fn build(rules: &Rules, root: BorrowedFd) -> Result<OwnedFd> {
    let _phase = trace::phase("build the Landlock rules");
    let (fs, net) = denied(rules, sys::abi().with_context(place)?)?;
    let ruleset = sys::create_ruleset(fs, net).with_context(place)?;
    let paths = [("ro", &rules.ro, READ), ("rw", &rules.rw, READ | CHANGE)];
    for (member, paths, access) in paths {
        for (i, path) in paths.iter().flatten().enumerate() {
            allow_path(ruleset.as_fd(), root, path, access & fs)
                .with_context(|| format!("{}.{member}[{i}] {}", place(), path.display()))?;
        }
    }
    let ports =
        [("tcpBind", &rules.tcp_bind, sys::BIND_TCP), ("tcpConnect", &rules.tcp_connect, sys::CONNECT_TCP)];
    for (member, ports, access) in ports {
        for (i, port) in ports.iter().flatten().enumerate() {
            sys::allow_port(ruleset.as_fd(), *port, access)
                .with_context(|| format!("{}.{member}[{i}]", place()))?;
        }
    }
    Ok(ruleset)
}

fn allow_path(ruleset: BorrowedFd, root: BorrowedFd, path: &Path, access: u64) -> Result<()> {
    let file = fs::openat2(root, path, fs::O_PATH, 0, fs::RESOLVE_IN_ROOT | fs::RESOLVE_NO_SYMLINKS)?;
    let directory = fs::is_directory(file.as_fd())?;
    let access = if directory { access } else { access & OF_FILES };
    Ok(sys::allow_beneath(ruleset, file.as_fd(), access)?)
}

/// Restricts the calling process, which must have no_new_privs or CAP_SYS_ADMIN.
pub(crate) fn apply(ruleset: BorrowedFd) -> Result<()> {
    let _phase = trace::phase("restrict by Landlock");
    sys::restrict_self(ruleset).with_context(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> (Option<Rules>, String) {
        let annotations = HashMap::from([(ANNOTATION.to_string(), text.to_string())]);
        let mut notes = Notes::default();
        let rules = plan(Some(&annotations), &mut notes);
        (rules, notes.problems.to_string())
    }

    #[test]
    fn the_annotation_is_parsed_or_refused() {
        let rules = Rules {
            ro: Some(vec!["/".into()]),
            rw: Some(vec!["/tmp".into(), "/dev".into()]),
            tcp_bind: Some(vec![80, 443]),
            tcp_connect: Some(vec![]),
        };
        let good = r#"{"ro": ["/"], "rw": ["/tmp", "/dev"], "tcpBind": [80, 443], "tcpConnect": []}"#;
        assert_eq!(check(good), (Some(rules), String::new()));
        assert_eq!(plan(None, &mut Notes::default()), None);
        assert_eq!(plan(Some(&HashMap::new()), &mut Notes::default()), None);
        let place = r#"annotations["dev.corten.landlock"]"#;
        for (text, expected) in [
            ("", ": is empty"),
            ("{", ": line 1, column 1: ends before the document is complete"),
            ("ro", ": line 1, column 1: a value is expected here"),
            ("{}", ": restricts nothing"),
            (r#"{"ro": null}"#, ": restricts nothing"),
            (r#"{"r0": []}"#, ": \"r0\" is unknown (hint: did you mean \"ro\"?)"),
            (r#"{"ro": [], "ro": []}"#, ": the member \"ro\" occurs twice"),
            (r#"{"ro": "/"}"#, ": must be an array, not the string \"/\" (hint: [\"/\"])"),
            (r#"{"rw": ["/", "tmp"]}"#, ".rw[1]: \"tmp\" is not an absolute path"),
            (r#"{"ro": [""]}"#, ".ro[0]: \"\" is not an absolute path"),
            (r#"{"tcpBind": [65536]}"#, ": must be a whole number from 0 to 65535, not the number 65536"),
        ] {
            assert_eq!(check(text).1, format!("{place}{expected}"), "{text}");
        }
    }

    #[test]
    fn a_kernel_that_cannot_deny_everything_is_refused() {
        let fs = r#"{"ro": ["/"]}"#;
        let (bind, connect) = (r#"{"tcpBind": []}"#, r#"{"tcpConnect": [1]}"#);
        let both = r#"{"rw": [], "tcpBind": [], "tcpConnect": []}"#;
        for (text, abi, expected) in [
            (fs, 7, Ok((0xffff, 0))),
            (fs, 5, Ok((0xffff, 0))),
            (fs, 4, Ok((0x7fff, 0))),
            (fs, 3, Ok((0x7fff, 0))),
            (fs, 2, Err("has ABI 2 of Landlock, \"ro\" or \"rw\" needs ABI 3")),
            (fs, 0, Err("has no Landlock, \"ro\" or \"rw\" needs ABI 3")),
            (bind, 4, Ok((0, 1))),
            (connect, 4, Ok((0, 2))),
            (connect, 3, Err("has ABI 3 of Landlock, \"tcpBind\" or \"tcpConnect\" needs ABI 4")),
            (both, 6, Ok((0xffff, 3))),
            (both, 3, Err("has ABI 3 of Landlock, \"tcpBind\" or \"tcpConnect\" needs ABI 4")),
        ] {
            let found = denied(&check(text).0.unwrap(), abi).map_err(|e| e.to_string());
            let expected = expected
                .map_err(|reason| format!("annotations[\"dev.corten.landlock\"]: this kernel {reason}"));
            assert_eq!(found, expected, "{text} {abi}");
        }
    }
}
