//! Why the kernel does not execute a file: what its first bytes say about its interpreter and architecture.
//!
//! This is read only after execve(2) has failed. The process then has the rights of the container's program, in
//! the container, and no other descriptor than its channel. It opens nothing that the program could not open.

use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use crate::sys::{fs, process};

/// The most bytes of a file that are read. The kernel looks for an interpreter in the first 256 (`BINPRM_BUF_SIZE`).
const HEAD: u64 = 4096;
/// The most interpreters in a row (the kernel's search_binary_handler allows five levels).
const DEPTH: usize = 4;

/// What the first bytes of a file are.
#[derive(Debug, PartialEq, Eq)]
enum Format<'a> {
    Empty,
    /// `#!`, and the path of the interpreter.
    Script(&'a [u8]),
    /// The machine, and the path of the dynamic loader.
    Elf(u16, Option<&'a [u8]>),
    CutElf,
    Other,
}

/// Returns the reason for an error of execve(2), if the file shows it.
pub(super) fn reason(path: &Path, errno: Errno) -> Option<String> {
    let mut path = path.to_path_buf();
    for depth in 0..DEPTH {
        let of = if depth == 0 { String::new() } else { format!("{}: ", path.display()) };
        let head = head(&path)?;
        let interpreter = match (read(&head), errno) {
            (Format::Empty, Errno::ENOEXEC) => return Some(format!("{of}the file is empty")),
            (Format::CutElf, Errno::ENOEXEC) => return Some(format!("{of}the program is damaged")),
            (Format::Other, Errno::ENOEXEC) => {
                return Some(format!("{of}neither a program nor a script that starts with #!"));
            }
            (Format::Elf(machine, _), Errno::ENOEXEC) => {
                return other_machine(machine).map(|what| of + &what);
            }
            (Format::Script(interpreter), _) => interpreter,
            (Format::Elf(_, Some(loader)), _) => loader,
            _ => return None,
        };
        let shown = String::from_utf8_lossy(interpreter);
        let what = if head.starts_with(b"#!") { "interpreter" } else { "dynamic loader" };
        match process::stat_mode(&CString::new(interpreter).ok()?) {
            Err(e) if e.errno == Errno::ENOENT && shown.ends_with('\r') => {
                return Some(format!(
                    "{of}the line of its {what} ends with a carriage return, which makes it {shown:?}; save it with \
                     Unix line ends"
                ));
            }
            Err(e) if e.errno == Errno::ENOENT => {
                return Some(format!("{of}its {what} {shown:?} is not in the container"));
            }
            Ok(mode) if errno == Errno::EACCES && mode & 0o111 == 0 => {
                return Some(format!("{of}its {what} {shown:?} is not executable"));
            }
            _ => path = Path::new(OsStr::from_bytes(interpreter)).into(),
        }
    }
    None
}

fn head(path: &Path) -> Option<Vec<u8>> {
    // Opening a fifo or a device has effects, and execve looks at neither before it refuses. A file that is exchanged in
    // between is the program's own doing, with its own rights. It must not block.
    let mode = process::stat_mode(&CString::new(path.as_os_str().as_bytes()).ok()?).ok()?;
    if mode & libc::S_IFMT != libc::S_IFREG {
        return None;
    }
    let flags = fs::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = std::fs::File::from(fs::open(fs::CWD, path, flags, 0).ok()?);
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head).ok()?;
    Some(head)
}

fn read(head: &[u8]) -> Format<'_> {
    if head.is_empty() {
        return Format::Empty;
    }
    if let Some(rest) = head.strip_prefix(b"#!") {
        let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
        let words = line.split(|b| matches!(b, b' ' | b'\t')).find(|word| !word.is_empty());
        return Format::Script(words.unwrap_or_default());
    }
    if !head.starts_with(b"\x7fELF") {
        return Format::Other;
    }
    elf(head).map_or(Format::CutElf, |(machine, loader)| Format::Elf(machine, loader))
}

/// Reads the machine and the dynamic loader (elf(5)). The loader is `None` if it is not within the first bytes.
fn elf(head: &[u8]) -> Option<(u16, Option<&[u8]>)> {
    let (wide, big) = (*head.get(4)? == 2, *head.get(5)? == 2);
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        let add = |all: u64, byte: &u8| all << 8 | u64::from(*byte);
        let all = if big { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) };
        usize::try_from(all).ok()
    };
    let word = if wide { 8 } else { 4 };
    let machine = u16::try_from(number(18, 2)?).ok()?;
    let table = number(if wide { 32 } else { 28 }, word)?;
    let (size, count) = (number(if wide { 54 } else { 42 }, 2)?, number(if wide { 56 } else { 44 }, 2)?);
    const PT_INTERP: usize = 3;
    let loader = || {
        let entry = (0..count.min(64)).find_map(|n| {
            let entry = table.checked_add(n * size)?;
            (number(entry, 4)? == PT_INTERP).then_some(entry)
        })?;
        let start = number(entry.checked_add(if wide { 8 } else { 4 })?, word)?;
        let length = number(entry.checked_add(if wide { 32 } else { 16 })?, word)?;
        head.get(start..start.checked_add(length)?)?.strip_suffix(b"\0")
    };
    Some((machine, loader()))
}

/// The machines of elf.h, as uname(2) names them.
const MACHINES: [(u16, &str); 11] = [
    (3, "i386"),
    (8, "mips"),
    (20, "ppc"),
    (21, "ppc64"),
    (22, "s390x"),
    (40, "arm"),
    (43, "sparc64"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv64"),
    (258, "loongarch64"),
];

fn other_machine(machine: u16) -> Option<String> {
    let name = MACHINES.iter().find(|(number, _)| *number == machine).map(|(_, name)| *name);
    let own = nix::sys::utsname::uname().ok()?;
    let own = own.machine().to_string_lossy();
    if name == Some(&*own) {
        return Some("the program is damaged".into());
    }
    let name = name.map_or_else(|| format!("machine {machine} of ELF"), Into::into);
    Some(format!("it is a program for {name}, and this machine is {own}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_show_the_format() {
        for (head, expected) in [
            (&b""[..], Format::Empty),
            (b"echo\n", Format::Other),
            (b"#!/bin/sh\n", Format::Script(b"/bin/sh")),
            (b"#! \t/bin/sh -e\n", Format::Script(b"/bin/sh")),
            (b"#!/bin/sh\r\n", Format::Script(b"/bin/sh\r")),
            (b"#!", Format::Script(b"")),
            (b"\x7fELF", Format::CutElf),
            (b"\x7fELF\x02\x01", Format::CutElf),
        ] {
            assert_eq!(read(head), expected, "{head:?}");
        }
    }

    #[test]
    fn damaged_headers_are_read_without_a_panic() {
        for wide in [1, 2] {
            for fill in [0, 1, 0x7f, 0xff] {
                let mut head = [fill; 200];
                head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', wide, 1]);
                for length in 0..head.len() {
                    let _ = read(&head[..length]);
                }
            }
        }
    }

    #[test]
    fn our_own_header_has_the_machine() {
        let own = nix::sys::utsname::uname().unwrap().machine().to_string_lossy().into_owned();
        let Some((number, _)) = MACHINES.iter().find(|(_, name)| *name == own) else { return };
        let head = head(Path::new("/proc/self/exe")).unwrap();
        assert!(matches!(read(&head), Format::Elf(machine, _) if machine == *number));
    }
}
