//! Finding and executing the program. The errors have runc's wording, because engines turn `executable file
//! not found in $PATH`, `no such file or directory`, `permission denied` and `is a directory` into exit
//! codes.
//!
//! The rules are those of Go's `exec.LookPath`, which runc uses. A name with a slash is a path. Any other
//! name is looked up in the PATH of the container's environment; without PATH nothing is found. A program
//! found through an empty or relative element of PATH is refused.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use nix::errno::Errno;

use super::{env, format};
use crate::error::Result;
use crate::sys::{self, process, task};
use crate::trace;

/// Returns the path to execute for `name`. Runs in the container, in its working directory, with the file system ids of its
/// user. A program that the user may not see or execute is an error here already, not only at execve.
pub fn find(name: &CStr, env: &[CString]) -> Result<CString> {
    let _phase = trace::phase("look for the program");
    find_by(name, env, executable)
}

/// Returns the path to execute for `name`, as [`find`] does. `executable` decides about a path, and returns why it cannot be
/// executed.
pub(crate) fn find_by(
    name: &CStr,
    env: &[CString],
    executable: impl Fn(&CStr) -> std::result::Result<(), String>,
) -> Result<CString> {
    let text = name.to_string_lossy();
    if name.to_bytes().contains(&b'/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(message) => Err(anyhow!("exec: {text:?}: {message}")),
        };
    }
    let path = env::get(env, "PATH").unwrap_or_default();
    for candidate in candidates(name.to_bytes(), path) {
        let Ok(candidate) = CString::new(candidate.into_os_string().into_vec()) else { continue };
        if executable(&candidate).is_err() {
            continue;
        }
        if !candidate.to_bytes().starts_with(b"/") {
            return Err(anyhow!("exec: {text:?}: cannot run executable found relative to current directory"));
        }
        return Ok(candidate);
    }
    Err(anyhow!("exec: {text:?}: executable file not found in $PATH"))
}

/// Returns the paths that PATH gives for `name`. An empty element is the working directory.
fn candidates(name: &[u8], path: &[u8]) -> Vec<PathBuf> {
    if path.is_empty() || name.is_empty() {
        return Vec::new();
    }
    let directory = |dir: &[u8]| {
        if dir.is_empty() { PathBuf::from(".") } else { Path::new(OsStr::from_bytes(dir)).into() }
    };
    path.split(|b| *b == b':').map(|dir| directory(dir).join(OsStr::from_bytes(name))).collect()
}

/// Checks that the file can be executed. The error says why not.
fn executable(path: &CStr) -> std::result::Result<(), String> {
    let mode = process::stat_mode(path).map_err(|e| e.to_string())?;
    no_directory(mode)?;
    match process::may_execute(path) {
        // An outer seccomp profile may not know the call. Then the mode decides, as in Go.
        Err(e) if matches!(e.errno, Errno::ENOSYS | Errno::EPERM) && mode & 0o111 != 0 => Ok(()),
        Err(e) if matches!(e.errno, Errno::ENOSYS | Errno::EPERM) => Err(sys::text(Errno::EACCES)),
        // On a file system that is mounted noexec the kernel returns EACCES whatever the mode is.
        Err(e) if e.errno == Errno::EACCES && mode & 0o111 == 0o111 => {
            Err(format!("{} (hint: is its file system mounted noexec?)", sys::text(e.errno)))
        }
        Err(e) if e.errno == Errno::EACCES && mode & 0o111 == 0 => {
            Err(format!("{} (hint: the file is not executable; chmod +x)", sys::text(e.errno)))
        }
        Err(e) => Err(sys::text(e.errno)),
        Ok(()) => Ok(()),
    }
}

fn no_directory(mode: u32) -> std::result::Result<(), String> {
    if mode & libc::S_IFMT == libc::S_IFDIR {
        // execve returns EACCES for a directory. Both texts are given, because not every engine knows EISDIR.
        return Err(format!("{}: {}", sys::text(Errno::EISDIR), sys::text(Errno::EACCES)));
    }
    Ok(())
}

/// Checks by the mode of a file whether anybody can execute it.
pub(crate) fn executable_mode(mode: u32) -> std::result::Result<(), String> {
    no_directory(mode)?;
    if mode & 0o111 == 0 { Err(sys::text(Errno::EACCES)) } else { Ok(()) }
}

/// Returns the error for a program whose execution the seccomp filter forbids.
pub(crate) fn forbidden(argv: &[CString], errno: u32) -> anyhow::Error {
    let name = argv.first().map_or(c"", CString::as_c_str).to_string_lossy();
    let text = match Errno::from_raw(errno as i32) {
        Errno::UnknownErrno => format!("errno {errno}"),
        known => sys::text(known),
    };
    anyhow!("exec: {name:?}: {text} (hint: linux.seccomp does not let execve through)")
}

/// The system calls of a look at a file that the kernel has refused to execute, in the forms of the C libraries.
pub(crate) const LOOK: &[&str] =
    &["openat", "read", "close", "stat", "fstat", "newfstatat", "fstatat64", "statx"];

/// Becomes the program that [`find`] found for `argv[0]`. Returns only if that fails, with the error. `may_look` returns
/// whether the seccomp filter lets this process make the calls of [`LOOK`]: a filter can kill for one, or ask an agent.
pub fn execve(
    path: &CStr,
    argv: &[CString],
    env: &[CString],
    may_look: impl FnOnce() -> bool,
) -> anyhow::Error {
    let _phase = trace::phase_of("execve", || path.to_string_lossy());
    let errno = task::execve(path, argv, env);
    let name = argv.first().map_or(path, CString::as_c_str).to_string_lossy().into_owned();
    let may_look = may_look();
    if may_look
        && errno == Errno::ENOENT
        && let Err(e) = process::stat_mode(path)
        && e.errno == Errno::ENOENT
    {
        return anyhow!("exec: {name:?}: {e}");
    }
    let file = Path::new(OsStr::from_bytes(path.to_bytes()));
    let found = match errno {
        Errno::ENOENT | Errno::ENOEXEC | Errno::EACCES if may_look => format::reason(file, errno),
        _ => None,
    };
    let hint = found.or_else(|| {
        let general = match errno {
            Errno::ENOENT => "the interpreter or dynamic loader that it names is missing",
            Errno::ENOEXEC => "not a binary of this architecture, nor a script that starts with #!",
            Errno::E2BIG => "the arguments and environment are too long",
            _ => return None,
        };
        Some(general.into())
    });
    let hint = hint.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
    // runc's form of an error of the call itself.
    anyhow!("exec {}: {}{hint}", path.to_string_lossy(), sys::text(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_elements() {
        let rows: [(&str, &str, &[&str]); 5] = [
            ("x", "/bin:/usr/bin/", &["/bin/x", "/usr/bin/x"]),
            ("x", "/bin::rel", &["/bin/x", "./x", "rel/x"]),
            ("x", ":", &["./x", "./x"]),
            ("x", "", &[]),
            ("", "/bin", &[]),
        ];
        for (name, path, expected) in rows {
            let found = candidates(name.as_bytes(), path.as_bytes());
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{path:?}");
        }
    }

    #[test]
    fn errors_have_runcs_wording() {
        let found = |name: &str, path: Option<&str>| {
            let env: Vec<CString> =
                path.map(|p| CString::new(format!("PATH={p}")).unwrap()).into_iter().collect();
            find(&CString::new(name).unwrap(), &env).map_err(|e| format!("{e:#}"))
        };
        for (name, path, expected) in [
            ("/no/such", None, "exec: \"/no/such\": stat /no/such: no such file or directory"),
            ("./no", None, "exec: \"./no\": stat ./no: no such file or directory"),
            ("/etc/passwd/x", None, "exec: \"/etc/passwd/x\": stat /etc/passwd/x: not a directory"),
            ("/etc", None, "exec: \"/etc\": is a directory: permission denied"),
            (
                "/etc/passwd",
                None,
                "exec: \"/etc/passwd\": permission denied (hint: the file is not executable; chmod +x)",
            ),
            ("no-such", Some("/bin"), "exec: \"no-such\": executable file not found in $PATH"),
            ("", Some("/bin"), "exec: \"\": executable file not found in $PATH"),
            ("sh", None, "exec: \"sh\": executable file not found in $PATH"),
            ("sh", Some(""), "exec: \"sh\": executable file not found in $PATH"),
            ("passwd", Some("/etc"), "exec: \"passwd\": executable file not found in $PATH"),
        ] {
            assert_eq!(found(name, path), Err(expected.to_string()));
        }
        assert_eq!(found("sh", Some("/no:/bin")).unwrap().to_bytes(), b"/bin/sh");
        assert_eq!(found("/bin/sh", None).unwrap().to_bytes(), b"/bin/sh");
    }

    #[test]
    fn errors_of_execve() {
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("corten-execve-{}", std::process::id()));
        let path = CString::new(file.as_os_str().as_bytes()).unwrap();
        for (content, expected) in [
            (None, format!("exec: \"x\": stat {}: no such file or directory", file.display())),
            (
                Some("#!/no/such\n"),
                format!(
                    "exec {}: no such file or directory (hint: its interpreter \"/no/such\" is not in the container)",
                    file.display()
                ),
            ),
            (
                Some("\0"),
                format!(
                    "exec {}: exec format error (hint: neither a program nor a script that starts with #!)",
                    file.display()
                ),
            ),
        ] {
            if let Some(content) = content {
                std::fs::write(&file, content).unwrap();
                std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
            }
            assert_eq!(format!("{:#}", execve(&path, &[c"x".into()], &[], || true)), expected);
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(execve(c"/", &[], &[], || true).to_string(), "exec /: permission denied");
    }
}
