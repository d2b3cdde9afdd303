//! `seccomp explain`: what a profile does to system calls; with `--dump` the program that it becomes.

use crate::cli::Explain;
use crate::error::{Kind, Problems, Result, fail};
use crate::{config, log, seccomp};

#[inline(never)]
pub(super) fn run(args: &Explain) -> Result<()> {
    let profile = match (&args.bundle, &args.profile) {
        (Some(bundle), _) => {
            let config = config::load(bundle)?;
            config.warnings.into_iter().for_each(log::warn);
            let profile = config.spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
            profile.ok_or_else(|| fail(Kind::Config, "linux.seccomp: the configuration has none"))?
        }
        (None, Some(path)) => config::load_seccomp(path)?,
        (None, None) => return Err(fail(Kind::Usage, "needs a profile, or --bundle")),
    };
    let mut warnings = Vec::new();
    let text = if args.dump {
        let mut problems = Problems::default();
        let plan = seccomp::compile_profile(&profile, &mut problems, &mut warnings);
        problems.into_result()?;
        plan.map(|plan| seccomp::dump::dump(&plan.filter)).unwrap_or_default()
    } else {
        seccomp::explain(&profile, &args.syscalls, &mut warnings)?
    };
    warnings.into_iter().for_each(log::warn);
    super::print(&text)
}
