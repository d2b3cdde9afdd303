//! What the executable does once it has started.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::state::Ended;
use crate::sys::{args, clock, fs, signal};
use crate::{cli, commands, log, trace};

/// Opens the log, reads the command line, runs the verb and reports the result. Returns the exit code.
#[must_use]
pub fn run() -> u8 {
    let args: Vec<OsString> =
        args::get().iter().map(|arg| OsString::from_vec(arg.to_bytes().to_vec())).collect();
    let preview = cli::preview(&args);
    let since = preview.trace.as_ref().map(|_| clock::monotonic());
    let result = fs::fill_standard()
        .and_then(|()| signal::ignore_pipe())
        .map_err(Into::into)
        .and_then(|()| log::init(&preview.log))
        .and_then(|()| {
            trace::begin_records();
            if let (Some(path), Some(since)) = (&preview.trace, since) {
                trace::begin(path, since, &args);
            }
            cli::parse(args, commands::VERBS)
        })
        .and_then(commands::run);
    trace::finish();
    match result {
        Ok(code) => {
            log::flush();
            code
        }
        Err(error) => {
            let ended = error.downcast_ref::<Ended>().map(|ended| ended.status);
            if ended.is_some() {
                // The command itself has not failed, so that its warnings are printed as well.
                log::flush();
            }
            log::error(&error);
            ended.unwrap_or(preview.failure)
        }
    }
}
