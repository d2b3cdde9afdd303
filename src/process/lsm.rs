//! Labels of the Linux security modules: `apparmorProfile` and `selinuxLabel` (config.md#linux-process).
//!
//! A label takes effect at the next execve. It is written to the process's own `attr` files through the root
//! of a verified procfs, because below the container's /proc a file of the image could swallow it
//! (CVE-2019-16884, CVE-2023-28642). A label that the module does not know is an error. A label for a module
//! that the kernel does not run is ignored with a warning, as the validation programs of runtime-tools
//! require. With `--strict-labels` it is an error.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::Process;

use crate::error::{Context, Kind, Notes, Result, fail};
use crate::sys::{self, credentials::open_self, fs};
use crate::trace;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
}

/// The security modules that the kernel runs, and the treatment of a label for a module that it does not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub apparmor: bool,
    pub selinux: bool,
    /// A label for a module that the kernel does not run is an error instead of a warning
    /// (`--strict-labels`).
    pub strict: bool,
}

impl Host {
    /// Finds out which modules the kernel runs. A module is absent only if its file does not exist, or if
    /// AppArmor's contains "N". Every other result is an error: if an unreadable file counted as absence, the
    /// program would be unconfined.
    pub fn probe(proc: BorrowedFd, strict: bool) -> Result<Self> {
        let found = apparmor().and_then(|apparmor| Ok(Self { apparmor, selinux: selinux(proc)?, strict }));
        found.context("finding out which security modules the kernel runs, for the labels")
    }
}

/// Returns whether the kernel runs AppArmor. The parameter exists if AppArmor is built in, even if it is
/// disabled. Without a sysfs at /sys no module would seem to exist.
fn apparmor() -> Result<bool> {
    const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
    const SYSFS_MAGIC: i64 = 0x6265_6572;
    let sys = fs::open(fs::CWD, Path::new("/sys"), fs::O_PATH | fs::O_DIRECTORY, 0)?;
    if fs::filesystem_magic(sys.as_fd())? != SYSFS_MAGIC {
        return Err(fail(Kind::Unsupported, "/sys is not a sysfs (hint: mount -t sysfs sysfs /sys)"));
    }
    enabled(fs::read_text(fs::CWD, Path::new(ENABLED))).context(ENABLED)
}

fn enabled(read: sys::Result<String>) -> Result<bool> {
    match read {
        Ok(text) => match text.trim_end() {
            "Y" => Ok(true),
            "N" => Ok(false),
            other => Err(fail(Kind::Os, format!("{other:?} is neither Y nor N"))),
        },
        Err(e) if e.errno == Errno::ENOENT => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Returns whether the kernel runs SELinux. Only then it registers this type of file system (`init_sel_fs`),
/// mounted or not.
fn selinux(proc: BorrowedFd) -> Result<bool> {
    let types = fs::read_text(proc, Path::new("filesystems"))?;
    Ok(types.lines().any(|line| line.split_ascii_whitespace().last() == Some("selinuxfs")))
}

/// Returns whether a process document contains a label.
#[must_use]
pub(crate) fn labelled(process: &Process) -> bool {
    process.apparmor_profile().is_some() || process.selinux_label().is_some()
}

/// Plans the label of the container's new file systems (config-linux.md#mount-label), for the mount option
/// `context=`.
pub(crate) fn mount_label(label: Option<&str>, host: Host, notes: &mut Notes) -> Option<String> {
    let label = label.filter(|text| !text.is_empty())?;
    // The mount option has the label in quotes, because a comma separates two categories.
    if label.contains(['\0', '\n', '"']) {
        notes.problem("linux.mountLabel", "contains a NUL, line break or quote");
        return None;
    }
    if !host.selinux {
        missing("linux.mountLabel", label, "SELinux", host, notes);
        return None;
    }
    Some(label.into())
}

/// Reports a label for a module that the kernel does not run.
fn missing(place: &str, label: &str, module: &str, host: Host, notes: &mut Notes) {
    let text = format!("this kernel does not run {module}");
    if host.strict {
        notes.problem(place, format_args!("{label:?}: {text}"));
    } else {
        notes.warn(format!("{place} {label:?}: {text}, ignoring"));
    }
}

/// Plans the labels of a process. `place` is the place of the process document, with a dot at its end.
pub(crate) fn plan(
    apparmor: Option<&str>,
    selinux: Option<&str>,
    host: Host,
    place: &str,
    notes: &mut Notes,
) -> Labels {
    let mut label = |value: Option<&str>, running: bool, member: &str, module: &str| {
        // Engines write an empty label for no label.
        let value = value.filter(|text| !text.is_empty())?;
        if value.contains(['\0', '\n']) {
            notes.problem(format_args!("{place}{member}"), "contains a NUL or line break");
            return None;
        }
        if !running {
            missing(&format!("{place}{member}"), value, module, host, notes);
            return None;
        }
        Some(value.to_string())
    };
    Labels {
        apparmor: label(apparmor, host.apparmor, "apparmorProfile", "AppArmor"),
        selinux: label(selinux, host.selinux, "selinuxLabel", "SELinux"),
    }
}

/// Sets the labels for the next execve. `proc` is the root of a procfs that shows this process.
pub fn apply(labels: &Labels, proc: BorrowedFd) -> Result<()> {
    let _phase = trace::phase_of("labels", || {
        [&labels.apparmor, &labels.selinux]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    });
    if let Some(profile) = &labels.apparmor {
        let request = format!("exec {profile}");
        // If several modules run, `attr/exec` belongs to the first. Before Linux 5.1 it is the only file.
        let written = match write(proc, "attr/apparmor/exec", &request) {
            Err(e) if e.errno == Errno::ENOENT && e.call.starts_with("openat2") => {
                write(proc, "attr/exec", &request)
            }
            other => other,
        };
        written.map_err(|e| refused("process.apparmorProfile", profile, &e))?;
    }
    if let Some(label) = &labels.selinux {
        write(proc, "attr/exec", label).map_err(|e| refused("process.selinuxLabel", label, &e))?;
    }
    Ok(())
}

/// Sets the label of the keys that this process creates from now on. `None` restores the default. Used for
/// the session keyring.
pub(crate) fn label_keys(label: Option<&str>, proc: BorrowedFd) -> Result<()> {
    write(proc, "attr/keycreate", label.unwrap_or_default())
        .map_err(|e| refused("process.selinuxLabel", label.unwrap_or_default(), &e))
}

const NOT_LOADED: &str = " (hint: no such profile is loaded)";

/// Returns the error about a profile that is not loaded. `loaded` is the kernel's list of the profiles, with a mode behind
/// each name. A stack of profiles, and one of a policy namespace, are left to the kernel.
pub(crate) fn not_loaded(profile: &str, loaded: &str) -> Option<String> {
    let plain = profile != "unconfined" && !profile.contains("//&") && !profile.starts_with([':', '&']);
    let is = |line: &str| line.rsplit_once(" (").map_or(line, |(name, _)| name) == profile;
    (plain && !loaded.lines().any(is)).then(|| format!("process.apparmorProfile {profile:?}{NOT_LOADED}"))
}

/// Returns the error for a label that its module has refused, with the meaning of the errno
/// (`apparmor_setprocattr`, `selinux_lsm_setattr`).
fn refused(place: &str, label: &str, error: &sys::Error) -> anyhow::Error {
    let why = match (place, error.errno) {
        ("process.apparmorProfile", Errno::ENOENT) => NOT_LOADED,
        ("process.apparmorProfile", Errno::EACCES | Errno::EPERM) => {
            " (hint: our own profile, or no_new_privs, does not let us change to it)"
        }
        ("process.selinuxLabel", Errno::EINVAL) => " (hint: the loaded policy has no such label)",
        ("process.selinuxLabel", Errno::EACCES | Errno::EPERM) => {
            " (hint: the policy does not let us set it)"
        }
        _ => "",
    };
    anyhow::Error::new(error.clone()).context(format!("{place} {label:?}{why}"))
}

fn write(proc: BorrowedFd, name: &str, text: &str) -> sys::Result<()> {
    let fd = open_self(proc, name, fs::O_WRONLY)?;
    // The kernel accepts a label only in one write. Podman searches for the path in these quotes.
    let call = || format!("write to `/proc/self/{name}`");
    match std::fs::File::from(fd).write(text.as_bytes()) {
        Ok(n) if n == text.len() => Ok(()),
        Ok(_) => Err(sys::Error::new(call(), Errno::EIO)),
        Err(e) => Err(sys::Error::of_std(call(), &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_refused_labels_have_hints() {
        for (place, errno, hint) in [
            ("process.apparmorProfile", Errno::ENOENT, " (hint: no such profile is loaded)"),
            (
                "process.apparmorProfile",
                Errno::EACCES,
                " (hint: our own profile, or no_new_privs, does not let us change to it)",
            ),
            ("process.apparmorProfile", Errno::EIO, ""),
            ("process.selinuxLabel", Errno::EINVAL, " (hint: the loaded policy has no such label)"),
            ("process.selinuxLabel", Errno::EACCES, " (hint: the policy does not let us set it)"),
            ("process.selinuxLabel", Errno::ENOENT, ""),
        ] {
            let error = refused(place, "web", &sys::Error::new("write to `/proc/self/attr/exec`", errno));
            let expected =
                format!("{place} \"web\"{hint}: write to `/proc/self/attr/exec`: {}", sys::text(errno));
            assert_eq!(format!("{error:#}"), expected);
            assert_eq!(sys::errno(&error), Some(errno));
        }
    }

    #[test]
    fn a_profile_is_found_in_the_list_of_the_kernel() {
        let loaded = "docker-default (enforce)\n/usr/bin/x (a) (complain)\n";
        for (profile, missing) in [
            ("docker-default", false),
            ("/usr/bin/x (a)", false),
            ("docker", true),
            ("unconfined", false),
            (":ns:docker", false),
        ] {
            assert_eq!(not_loaded(profile, loaded).is_some(), missing, "{profile}");
        }
    }

    /// A module whose file cannot be read is not absent.
    #[test]
    fn a_module_is_absent_only_if_its_file_is_missing_or_contains_n() {
        for (text, expected) in [("Y\n", Some(true)), ("N\n", Some(false)), ("", None), ("Yes\n", None)] {
            assert_eq!(enabled(Ok(text.into())).ok(), expected, "{text:?}");
        }
        let refused = |errno| enabled(Err(sys::Error::new("open()", errno)));
        assert!(matches!(refused(Errno::ENOENT), Ok(false)));
        for errno in [
            Errno::EIO,
            Errno::ENOMEM,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::EACCES,
            Errno::EPERM,
            Errno::ENOTDIR,
        ] {
            assert_eq!(sys::errno(&refused(errno).unwrap_err()), Some(errno));
        }
    }

    #[test]
    fn a_missing_module_is_a_warning_or_an_error() {
        for (strict, problem, warning) in [
            (false, "", "process.apparmorProfile \"p\": this kernel does not run AppArmor, ignoring"),
            (true, "process.apparmorProfile: \"p\": this kernel does not run AppArmor", ""),
        ] {
            let host = Host { strict, ..Host::default() };
            let mut notes = Notes::default();
            plan(Some("p"), None, host, "process.", &mut notes);
            assert_eq!(
                (notes.problems.to_string().as_str(), notes.warnings.concat().as_str()),
                (problem, warning)
            );
        }
    }

    #[test]
    fn mount_labels_need_selinux() {
        let selinux = Host { selinux: true, ..Host::default() };
        for (label, host, kept, expected) in [
            (None, selinux, None, ""),
            (Some(""), selinux, None, ""),
            (Some("u:r:t:s0:c1,c2"), selinux, Some("u:r:t:s0:c1,c2"), ""),
            (
                Some("l"),
                Host::default(),
                None,
                "linux.mountLabel \"l\": this kernel does not run SELinux, ignoring",
            ),
            (Some("a\"b"), selinux, None, "linux.mountLabel: contains a NUL, line break or quote"),
            (Some("a\nb"), Host::default(), None, "linux.mountLabel: contains a NUL, line break or quote"),
        ] {
            let mut notes = Notes::default();
            let found = mount_label(label, host, &mut notes);
            assert_eq!(found.as_deref(), kept);
            assert_eq!(notes.problems.to_string() + &notes.warnings.concat(), expected);
        }
    }

    #[test]
    fn labels_need_their_module() {
        let both = Host { apparmor: true, selinux: true, strict: false };
        let none = Host::default();
        for (apparmor, selinux, host, kept, expected) in [
            (None, None, none, (None, None), ""),
            (Some(""), Some(""), none, (None, None), ""),
            (Some("p"), Some("a:b:c:s0"), both, (Some("p"), Some("a:b:c:s0")), ""),
            (
                Some("p"),
                None,
                none,
                (None, None),
                "process.apparmorProfile \"p\": this kernel does not run AppArmor, ignoring",
            ),
            (
                None,
                Some("l"),
                none,
                (None, None),
                "process.selinuxLabel \"l\": this kernel does not run SELinux, ignoring",
            ),
            (Some("p\nq"), None, both, (None, None), "process.apparmorProfile: contains a NUL or line break"),
        ] {
            let mut notes = Notes::default();
            let labels = plan(apparmor, selinux, host, "process.", &mut notes);
            assert_eq!((labels.apparmor.as_deref(), labels.selinux.as_deref()), kept);
            assert_eq!(notes.problems.to_string() + &notes.warnings.concat(), expected);
        }
    }
}
