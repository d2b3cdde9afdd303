//! What CRIU's log says of an error.

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::sys::fs;

/// The most bytes that are read from the end of a log.
const READ_MAX: u64 = 1 << 20;

/// The most errors that a message has.
const SHOWN_MAX: usize = 3;

/// Errors that say nothing: CRIU's summaries, that a program failed which has said why, and that a helper of CRIU's misses the
/// rest of it.
const SUMMARIES: [&str; 5] = [
    "Dumping FAILED.",
    "Restoring FAILED.",
    "Pre-dumping FAILED.",
    "exited, status=",
    "cg: cgroupd: recv req error",
];

/// Parts of errors that do not tell the cause, and how to mend that.
const HINTS: [(&str, &str); 2] = [
    (
        "File fd/",
        "a file that is a standard stream must be as long as at the checkpoint, unless it was open for appending",
    ),
    ("without peer", "a socket outside can be connected only to a container in the host's network namespace"),
];

/// The beginning of an error, up to its place in CRIU's source.
const MARK: &str = "Error (";

/// Returns the errors in a log of CRIU's, or `None` if it has none or cannot be read. A file of another user's is not
/// followed: the directory may be any that the caller names.
pub(crate) fn errors(work: BorrowedFd, name: &str) -> Option<String> {
    let file = fs::open(work, Path::new(name), fs::O_RDONLY | fs::O_NOFOLLOW | libc::O_NONBLOCK, 0).ok()?;
    let file = std::fs::File::from(file);
    let size = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
    let start = size.saturating_sub(READ_MAX);
    let mut bytes = vec![0; (size - start) as usize];
    let read = std::os::unix::fs::FileExt::read_at(&file, &mut bytes, start).ok()?;
    excerpt(&String::from_utf8_lossy(&bytes[..read]))
}

/// Returns the first errors of a log, without times and places in CRIU's source.
fn excerpt(log: &str) -> Option<String> {
    let mut errors: Vec<&str> = Vec::new();
    for line in log.lines() {
        // (00.012345)      7: Error (criu/files.c:123): text
        let Some(at) = line.find(MARK) else { continue };
        let text = without_place(&line[at..]).trim();
        if !text.starts_with(MARK) && says_more(text) && !errors.contains(&text) {
            errors.push(text);
        }
    }
    // The first is the cause more often than not, and the last says what came to nothing.
    let middle = 1..errors.len().saturating_sub(SHOWN_MAX - 1);
    if !middle.is_empty() {
        errors.drain(middle);
    }
    let all = errors.join("; ");
    let hint = HINTS.iter().find(|(part, _)| all.contains(part));
    let hint = hint.map_or(String::new(), |(_, text)| format!(" (hint: {text})"));
    (!errors.is_empty()).then(|| all + &hint)
}

/// Returns whether an error of CRIU's is more than a summary.
pub(super) fn says_more(text: &str) -> bool {
    !text.is_empty() && !SUMMARIES.iter().any(|summary| text.starts_with(summary))
}

/// Returns an error of CRIU's without its place in the source.
pub(super) fn without_place(text: &str) -> &str {
    text.strip_prefix(MARK).and_then(|rest| rest.split_once("): ")).map_or(text, |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_are_told_once_without_their_places() {
        let log = "(00.000001) Version: 4.1.1 (gitid 0)\n\
                   (00.100000)      1: Error (criu/sk-inet.c:188): inet: Connected TCP socket, consider using --tcp-established option.\n\
                   (00.100001) Error (criu/cr-dump.c:1669): Dump files (pid: 7) failed with -1\n\
                   (00.100001) Error (criu/cr-dump.c:1669): Dump files (pid: 7) failed with -1\n\
                   (00.100002) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        let expected = "inet: Connected TCP socket, consider using --tcp-established option.; \
                        Dump files (pid: 7) failed with -1";
        assert_eq!(excerpt(log).as_deref(), Some(expected));
        let log = "(00.1) Error (criu/files-reg.c:1): bad\n(00.2) Error (criu/cgroup.c:1998): cg: cgroupd: recv req error: No such file or directory\n";
        assert_eq!(excerpt(log).as_deref(), Some("bad"));
        let log = "(00.1) Error (criu/files-reg.c:2175): File fd/2 has bad size 0 (expect 245)\n";
        let text = excerpt(log).unwrap();
        assert!(text.starts_with("File fd/2 has bad size 0 (expect 245) (hint: a file that is a"), "{text}");
        assert_eq!(excerpt("(00.1) Error (criu/cr-dump.c:2111): Dumping FAILED.\nError (half"), None);
    }
}
