//! The corten executable: opens the log, reads the command line, runs the verb and reports the result. How it
//! gets here is in `startup.rs`.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use corten::startup::arena::Arena;
use corten::sys::{args, clock, fs, signal};
use corten::{cli, commands, log, trace};

#[allow(unsafe_code)]
#[path = "startup/main.rs"]
mod c_main;

#[cfg(all(target_arch = "x86_64", target_env = "musl"))]
#[allow(unsafe_code)]
#[path = "startup/entry.rs"]
mod entry;

#[global_allocator]
static MEMORY: Arena = Arena::new();

/// Runs the command and returns the exit code.
fn run() -> u8 {
    let args: Vec<OsString> =
        args::get().iter().map(|arg| OsString::from_vec(arg.to_bytes().to_vec())).collect();
    let preview = cli::preview(&args);
    let since = preview.trace.as_ref().map(|_| clock::monotonic());
    let result = fs::fill_standard()
        .and_then(|()| signal::ignore_pipe())
        .map_err(Into::into)
        .and_then(|()| log::init(&preview.log))
        .and_then(|()| {
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
            log::error(&error);
            preview.failure
        }
    }
}
