//! `restore`: makes a container from the files of a `checkpoint`, in which it runs at once. In the foreground it also waits and
//! deletes the container, as `run` does.

use std::path::PathBuf;

use clap::ArgMatches;

use super::checkpoint::{asked, config_file, images, require_root, show_stats};
use super::create::{Network, Prepared};
use super::run::Wait;
use crate::cgroups::oom::Observer;
use crate::cli::table::Opt;
use crate::cli::table::Takes::{Switch, Text};
use crate::cli::table::opt;
use crate::cli::{Globals, Run, read};
use crate::criu::{self, Asked, Directories, stats};
use crate::error::{Kind, Result, fail};
use crate::launch::notify::Notify;
use crate::launch::{Images, Launched, Start, foreground};
use crate::sys::task;

pub(super) const OPTIONS: &[Opt] = &[
    opt("tcp-close", None, Switch, "close the established TCP connections"),
    opt(
        "lsm-profile",
        None,
        Text("apparmor:PROFILE|selinux:LABEL"),
        "another profile than that of the checkpoint",
    ),
    opt("lsm-mount-context", None, Text("CONTEXT"), "another SELinux context of the mounts"),
];

/// What is asked of `restore`.
pub(super) struct Restore {
    run: Run,
    images: PathBuf,
    work: Option<PathBuf>,
    asked: Asked,
    tcp_close: bool,
    lsm_profile: Option<String>,
    lsm_mount_context: Option<String>,
    print_stats: bool,
}

pub(super) fn read(m: &ArgMatches) -> Result<Restore> {
    Ok(Restore {
        run: read::run(m)?,
        images: images(m),
        work: read::path(m, "work-path"),
        asked: asked(m)?,
        tcp_close: read::flag(m, "tcp-close"),
        lsm_profile: read::one(m, "lsm-profile"),
        lsm_mount_context: read::one(m, "lsm-mount-context"),
        print_stats: read::flag(m, "print-stats"),
    })
}

pub(super) fn run(globals: &Globals, args: &Restore) -> Result<u8> {
    require_root()?;
    let run = &args.run;
    let mut prepared = Prepared::new(globals, &run.create, Network::WithOthers)?;
    let manager = prepared.manager.take();
    if run.detach && prepared.terminal() && run.create.console_socket.is_none() {
        return Err(fail(Kind::Usage, "process.terminal: with --detach needs --console-socket"));
    }
    let program = criu::program(globals.criu.as_deref())?;
    let annotations = prepared.config.spec.annotations().clone().unwrap_or_default();
    let config_file = config_file(&annotations, &prepared.plan.rootfs.path)?;
    let directories = Directories::open(&args.images, args.work.as_deref())?;
    let signals = if run.detach { None } else { Some(foreground::Signals::block()?) };
    if !run.detach && !run.no_subreaper {
        task::set_child_subreaper()?;
    }
    let images = Images {
        program: &program,
        directories: &directories,
        asked: &args.asked,
        config_file,
        tcp_close: args.tcp_close,
        lsm_profile: args.lsm_profile.clone(),
        lsm_mount_context: args.lsm_mount_context.clone(),
    };
    let Launched { dir, record, process, notify } =
        prepared.launch(globals, &run.create, Start::AtOnce, |request| {
            crate::launch::restore(request, &images)
        })?;
    show_stats(&directories, stats::RESTORE, args.print_stats);
    let main = if run.detach { process.pid as u32 } else { std::process::id() };
    let notify = notify.zip(manager).map(|(container, manager)| Notify::new(container, manager, main));
    match signals {
        None => Ok(0),
        Some(signals) => {
            let observer = Observer::open(record.cgroup.as_ref());
            let mut wait = Wait { process: &process, signals: &signals, notify, observer };
            wait.until_the_end(&prepared, run, dir, &record)
        }
    }
}
