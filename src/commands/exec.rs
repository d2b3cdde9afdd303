//! `exec`: one more process in a running container.

use std::os::fd::AsFd;
use std::path::{Component, PathBuf};

use oci_spec::runtime::Process;

use super::create::{caller, inherited};
use crate::cgroups::{self, Cgroup, SubCgroup};
use crate::cli::{Exec, Globals, User};
use crate::config::{self, Version};
use crate::error::{Context, Kind, Notes, Result, fail};
use crate::host::Host;
use crate::launch::{exec, foreground};
use crate::process::{self, capabilities, env, lsm};
use crate::startup::seal;
use crate::state::{self, Status};
use crate::{log, plan, seccomp};

pub(super) fn run(globals: &Globals, args: &Exec) -> Result<u8> {
    seal::ensure()?;
    let service = env::service(|name| std::env::var(name).ok(), std::process::id);
    let preserved = inherited(&service, args.preserve_fds)?;
    let (dir, record) = super::open(globals, &args.id)?;
    let status = super::status(&dir, &record)?;
    match status {
        Status::Running | Status::Created => {}
        Status::Paused if args.ignore_paused => {}
        Status::Paused => {
            return Err(fail(Kind::WrongStatus, "cannot exec in a paused container (hint: --ignore-paused)"));
        }
        status => {
            return Err(fail(Kind::WrongStatus, format!("cannot exec in a {status} container")));
        }
    }
    let target = state::pidfd(&record)?.ok_or_else(|| fail(Kind::WrongStatus, "container not running"))?;
    let kept = config::parse(dir.load_config()?)?;
    let wanted = wanted(args, kept.spec.process().as_ref(), kept.version)?;

    let labels = lsm::labelled(&wanted).then_some(globals.strict_labels);
    let host = Host::probe(globals.rootless, labels)?;
    let mut notes = Notes::default();
    let linux = kept.spec.linux().as_ref();
    let held = plan::process_host(&host, record.namespaces.iter().any(|name| name == "user"));
    let process =
        process::plan(&wanted, linux, kept.spec.annotations().as_ref(), held, "process", &mut notes);
    if !args.caps.is_empty() {
        let (asked, uid) = (wanted.capabilities().as_ref(), wanted.user().uid());
        capabilities::warn_of_missing(asked, uid, held.capabilities, "process.capabilities", &mut notes);
    }
    let profile = linux.and_then(|linux| linux.seccomp().as_ref());
    let seccomp = profile.and_then(|profile| seccomp::plan(profile, &mut notes));
    seccomp.iter().for_each(seccomp::Plan::log_flags);
    notes.into_result()?.into_iter().for_each(log::warn);
    // Without a plan there are notes, which were reported above.
    let process = process.ok_or_else(|| fail(Kind::Config, "process"))?;
    if process.terminal && args.detach && args.console_socket.is_none() {
        return Err(fail(Kind::Usage, "a terminal with --detach needs --console-socket"));
    }
    let beside =
        |cgroup| cgroups::current(cgroup, record.pid.unwrap_or_default(), target.as_fd(), host.proc.as_fd());
    let cgroup = record.cgroup.as_ref().map(beside).transpose().context("the container's cgroup")?;
    let given = given_cgroup(cgroup.as_ref(), &args.cgroup)?;
    let signals = if args.detach { None } else { Some(foreground::Signals::block()?) };
    let caller =
        caller(host, service, preserved, [&args.console_socket, &args.pidfd_socket, &args.pid_file])?;
    let started = exec::exec(&exec::Request {
        record: &record,
        status,
        target: target.as_fd(),
        process: &process,
        user: named(args),
        groups: &args.additional_gids,
        seccomp: seccomp.as_ref(),
        cgroup: given.as_ref().or(cgroup.as_ref()),
        cgroup_given: given.is_some(),
        caller: &caller,
    })?;
    let shown = |what: &str| log::info(|| format!("container {}: process {} {what}", record.id, started.pid));
    shown("started");
    let Some(signals) = signals else { return Ok(0) };
    let status = foreground::wait(&started, &signals, None, None)?.status();
    shown(&format!("ended with status {status}"));
    Ok(status)
}

/// Returns the cgroup below the container's that `--cgroup [CONTROLLERS:]PATH` names.
fn given_cgroup(cgroup: Option<&Cgroup>, wanted: &[String]) -> Result<Option<Cgroup>> {
    let [first, ..] = wanted else { return Ok(None) };
    let below = wanted.iter().map(|text| parse_cgroup(text)).collect::<Result<Vec<SubCgroup>>>()?;
    for (i, one) in below.iter().enumerate() {
        let refuse = |message: String| Err(fail(Kind::Usage, format!("--cgroup {:?}: {message}", wanted[i])));
        if one.controllers.is_empty() && below.len() > 1 {
            return refuse("is for all controllers, and a process is in one cgroup".into());
        }
        let before = below[..i].iter().flat_map(|other| &other.controllers);
        if let Some(twice) = before.into_iter().find(|name| one.controllers.contains(name)) {
            return refuse(format!("the controller {twice} has been named already"));
        }
    }
    let option = || if wanted.len() == 1 { format!("--cgroup {first:?}") } else { "--cgroup".into() };
    let above =
        cgroup.ok_or_else(|| fail(Kind::Usage, "the container has no cgroup")).with_context(option)?;
    above.sub_cgroup(&below).with_context(option).map(Some)
}

/// Parses one `--cgroup`. A colon without a controller before it means all controllers.
fn parse_cgroup(text: &str) -> Result<SubCgroup> {
    let (controllers, path) = text.split_once(':').unwrap_or(("", text));
    let refuse = |message: &str| Err(fail(Kind::Usage, format!("--cgroup {text:?}: {message}")));
    let names = controllers.split(',').filter(|_| !controllers.is_empty());
    let controllers: Vec<String> = names.map(Into::into).collect();
    let path = PathBuf::from(path.trim_start_matches('/'));
    if controllers.iter().any(String::is_empty) {
        return refuse("a controller has no name");
    }
    if path.components().any(|c| !matches!(c, Component::Normal(_))) {
        return refuse("bad sub cgroup path: must be a path below the container's cgroup");
    }
    Ok(SubCgroup { controllers, path })
}

/// Returns the user whose ids are in the container's files. A process document has ids.
fn named(args: &Exec) -> Option<&str> {
    match &args.user {
        Some(User::Named(text)) if args.process.is_none() => Some(text),
        _ => None,
    }
}

/// Gives a process document the restrictions of the container's own process that it leaves out.
pub(crate) fn inherit(process: &mut Process, own: &Process) {
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if process.no_new_privileges().is_none() {
        process.set_no_new_privileges(own.no_new_privileges());
    }
    if process.apparmor_profile().as_ref().is_none_or(String::is_empty) {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if process.selinux_label().as_ref().is_none_or(String::is_empty) {
        process.set_selinux_label(own.selinux_label().clone());
    }
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(own.rlimits().clone());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(own.oom_score_adj());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(own.scheduler().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*own.io_priority());
    }
    let umask = process.user().umask().or(own.user().umask());
    let mut user = process.user().clone();
    user.set_umask(umask);
    process.set_user(user);
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
    }
}

/// Returns the process document: that of --process, or the container's own, changed by the command line.
fn wanted(args: &Exec, own: Option<&Process>, version: Version) -> Result<Process> {
    if let Some(path) = &args.process {
        let (mut process, warnings) = config::load_process(path, version).context("--process")?;
        warnings.into_iter().for_each(log::warn);
        if let Some(own) = own {
            inherit(&mut process, own);
        }
        if args.tty {
            process.set_terminal(Some(true));
        }
        return Ok(process);
    }
    let mut process = own.cloned().ok_or_else(|| fail(Kind::Config, "process: the container has none"))?;
    process.set_args(Some(args.args.clone())).set_terminal(Some(args.tty)).set_console_size(None);
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.into());
    }
    let mut environment = process.env().clone().unwrap_or_default();
    let mut user = process.user().clone();
    // HOME is that of the container's env, as with runc. Without one, it is the user's.
    if let Some(User::Ids { uid, gid }) = args.user {
        let gid = gid.unwrap_or(user.gid());
        user.set_uid(uid).set_gid(gid);
    }
    environment.extend(args.env.iter().cloned());
    process.set_env(Some(environment));
    if !args.additional_gids.is_empty() {
        let own = user.additional_gids().as_deref().unwrap_or_default();
        user.set_additional_gids(Some([own, &args.additional_gids].concat()));
    }
    process.set_user(user);
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &args.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &args.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if !args.caps.is_empty() {
        capabilities::add(&mut process, &args.caps)?;
    }
    Ok(process)
}
