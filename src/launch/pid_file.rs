//! `--pid-file`.

use std::io::Write;
use std::path::Path;

use crate::error::{Context, Kind, Result, fail};
use crate::trace;

/// Writes a process id without a newline, which containerd could not parse. The file appears by rename: a reader finds the
/// whole number or no file.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let _phase = trace::phase("write the pid file");
    let at = || format!("--pid-file {}", path.display());
    let invalid = || fail(Kind::Usage, format!("{}: is not the name of a file", at()));
    let name = path.file_name().ok_or_else(invalid)?;
    let part = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    // A new file: in a directory of everybody's a link of that name could lead anywhere.
    let written = std::fs::File::create_new(&part)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written.with_context(at)
}
