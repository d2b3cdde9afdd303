//! The corten executable: opens the log, reads the command line, runs the verb, tells the outcome.

use std::ffi::OsString;
use std::process::ExitCode;

use corten::{cli, commands, log};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let preview = cli::preview(&args);
    let result = log::init(&preview.log)
        .and_then(|()| cli::parse(args))
        .and_then(|(globals, command)| commands::run(&globals, command));
    match result {
        Ok(code) => {
            log::flush();
            ExitCode::from(code)
        }
        Err(error) => {
            log::error(&error);
            ExitCode::from(preview.failure)
        }
    }
}
