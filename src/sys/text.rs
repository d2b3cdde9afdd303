//! The texts of errors, as the C library and Go print them: programs and people look for them.

use nix::errno::Errno;

/// The texts of glibc that nix words otherwise. (musl has texts of its own.)
const TEXTS: [(Errno, &str); 28] = [
    (Errno::EIO, "Input/output error"),
    (Errno::EBADF, "Bad file descriptor"),
    (Errno::EAGAIN, "Resource temporarily unavailable"),
    (Errno::ENOMEM, "Cannot allocate memory"),
    (Errno::EXDEV, "Invalid cross-device link"),
    (Errno::ENFILE, "Too many open files in system"),
    (Errno::ENOTTY, "Inappropriate ioctl for device"),
    (Errno::EDOM, "Numerical argument out of domain"),
    (Errno::ERANGE, "Numerical result out of range"),
    (Errno::EDEADLK, "Resource deadlock avoided"),
    (Errno::ENOLCK, "No locks available"),
    (Errno::ELOOP, "Too many levels of symbolic links"),
    (Errno::ENOSTR, "Device not a stream"),
    (Errno::ENODATA, "No data available"),
    (Errno::ETIME, "Timer expired"),
    (Errno::ENOSR, "Out of streams resources"),
    (Errno::EREMOTE, "Object is remote"),
    (Errno::ENOLINK, "Link has been severed"),
    (Errno::EMULTIHOP, "Multihop attempted"),
    (Errno::EBADMSG, "Bad message"),
    (Errno::EOVERFLOW, "Value too large for defined data type"),
    (Errno::EILSEQ, "Invalid or incomplete multibyte or wide character"),
    (Errno::EOPNOTSUPP, "Operation not supported"),
    (Errno::ENETRESET, "Network dropped connection on reset"),
    (Errno::ESTALE, "Stale file handle"),
    (Errno::EDQUOT, "Disk quota exceeded"),
    (Errno::EOWNERDEAD, "Owner died"),
    (Errno::ENOTRECOVERABLE, "State not recoverable"),
];

/// Returns the text of an errno as runc words it: in lower case, because engines match on it.
#[must_use]
pub(crate) fn text(errno: Errno) -> String {
    let known = TEXTS.iter().find(|(other, _)| *other == errno);
    let mut text = known.map_or_else(|| errno.desc(), |(_, text)| text).to_string();
    // "RPC ..." keeps its capitals; "No such file" does not.
    if text.as_bytes().get(1).is_some_and(u8::is_ascii_lowercase) {
        text[..1].make_ascii_lowercase();
    }
    text
}

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn every_errno_has_the_text_of_the_c_library() {
        let mut wrong = Vec::new();
        for number in 1..200 {
            let errno = Errno::from_raw(number);
            if errno == Errno::UnknownErrno {
                continue;
            }
            // SAFETY: strerror returns a valid string for every number. It is copied before the next call, and no other test
            // calls it.
            let theirs = unsafe { CStr::from_ptr(libc::strerror(number)) }.to_str().unwrap().to_string();
            let mut lower = theirs;
            if lower.as_bytes()[1].is_ascii_lowercase() {
                lower[..1].make_ascii_lowercase();
            }
            if text(errno) != lower {
                wrong.push(format!("{errno:?}: {:?} instead of {lower:?}", text(errno)));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(text(Errno::EOPNOTSUPP), "operation not supported");
        assert_eq!(text(Errno::ERANGE), "numerical result out of range");
    }
}
