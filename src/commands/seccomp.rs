//! `seccomp explain`: prints what a profile does to system calls, or with `--dump` the program that it
//! compiles to.

use std::path::PathBuf;

use clap::ArgMatches;

use crate::cli::{Globals, read};
use crate::error::{Kind, Notes, Result, fail};
use crate::{config, log, seccomp};

/// The arguments of `seccomp explain`.
#[derive(Debug, PartialEq)]
pub(super) struct Args {
    profile: Profile,
    dump: bool,
    syscalls: Vec<String>,
}

#[derive(Debug, PartialEq)]
enum Profile {
    /// The profile is the `linux.seccomp` of this bundle's configuration.
    Bundle(PathBuf),
    /// The profile is all that this file contains.
    File(PathBuf),
}

pub(super) fn read(m: &ArgMatches) -> Result<Args> {
    let mut words = read::many::<String>(m, "words").into_iter();
    let what = words.next().unwrap_or_default();
    if what != "explain" {
        return Err(fail(Kind::Usage, format!("seccomp knows explain, not {what:?}")));
    }
    let profile = match read::path(m, "bundle") {
        Some(bundle) => Some(Profile::Bundle(bundle)),
        None => words.next().map(|file| Profile::File(file.into())),
    };
    let profile = profile.ok_or_else(|| fail(Kind::Usage, "seccomp explain needs a profile, or --bundle"))?;
    let (dump, syscalls) = (read::flag(m, "dump"), words.collect::<Vec<_>>());
    if dump && !syscalls.is_empty() {
        return Err(fail(Kind::Usage, "seccomp explain --dump prints the whole program, not that of a call"));
    }
    Ok(Args { profile, dump, syscalls })
}

pub(super) fn run(_: &Globals, args: &Args) -> Result<()> {
    let profile = match &args.profile {
        Profile::Bundle(bundle) => {
            let config = config::load(bundle)?;
            config.warnings.into_iter().for_each(log::warn);
            let profile = config.spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
            profile.ok_or_else(|| fail(Kind::Config, "linux.seccomp: the configuration has none"))?
        }
        Profile::File(path) => config::load_seccomp(path)?,
    };
    let (text, warnings) = if args.dump {
        let mut notes = Notes::default();
        let plan = seccomp::compile_profile(&profile, &mut notes);
        let warnings = notes.into_result()?;
        (plan.map(|plan| seccomp::dump::dump(&plan.filter)).unwrap_or_default(), warnings)
    } else {
        seccomp::explain(&profile, &args.syscalls)?
    };
    warnings.into_iter().for_each(log::warn);
    super::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::args;

    #[test]
    fn a_profile_is_a_file_or_of_a_bundle() {
        let (file, bundle) = (|| Profile::File("/p".into()), || Profile::Bundle("/b".into()));
        for (line, profile, dump, syscalls) in [
            ("seccomp explain /p", file(), false, &[][..]),
            ("seccomp explain /p read write", file(), false, &["read", "write"]),
            ("seccomp explain --bundle /b read", bundle(), false, &["read"]),
            ("seccomp explain -b /b --dump", bundle(), true, &[]),
        ] {
            let syscalls = syscalls.iter().map(ToString::to_string).collect();
            assert_eq!(args(line, read), Args { profile, dump, syscalls }, "{line}");
        }
    }
}
