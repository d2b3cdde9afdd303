//! `run`: `create` and `start` in one. In the foreground it also waits and deletes the container.

use std::os::fd::AsFd;

use super::create::{Network, Prepared};
use super::start::{Poststart, finish};
use super::{PATIENCE, ended};
use crate::cgroups::oom::Observer;
use crate::cli::{Globals, Run};
use crate::error::{Kind, Result, fail, kind};
use crate::launch::notify::Notify;
use crate::launch::{self, Launched, Process, Start, foreground};
use crate::log;
use crate::startup::seal;
use crate::state::{Dir, Record, Status};
use crate::sys::task::{self, Exit};

pub(super) fn run(globals: &Globals, args: &Run) -> Result<u8> {
    seal::ensure()?;
    let mut prepared = Prepared::new(globals, &args.create, Network::First)?;
    let manager = prepared.manager.take();
    let network = prepared.network.take();
    let plan = &prepared.plan;
    if plan.process.is_none() {
        return Err(fail(Kind::Config, "process: the configuration has none to start"));
    }
    let console_socket = args.create.console_socket.is_some();
    if args.detach && prepared.terminal() && !console_socket {
        return Err(fail(Kind::Usage, "process.terminal: with --detach needs --console-socket"));
    }
    let signals = if args.detach { None } else { Some(foreground::Signals::block()?) };
    if !args.detach && !args.no_subreaper {
        task::set_child_subreaper()?;
    }
    let Launched { dir, record, mut process, notify } =
        prepared.launch(globals, &args.create, Start::AtOnce, |request| launch::create(request, network))?;
    // Opened before the program can end.
    let observer = signals.as_ref().and_then(|_| Observer::open(record.cgroup.as_ref()));
    let started = process.start(plan.seccomp.as_ref(), &record, Status::Created);
    if started.is_err() {
        // No other command will delete it.
        launch::undo(dir, &record, &plan.hooks.poststop);
        return started.map(|()| 0);
    }
    let stops = prepared.config.version.stops_after_poststart();
    let poststart = Poststart { hooks: &plan.hooks.poststart, stops };
    let dir = finish(dir, &record, started, &poststart, &plan.hooks.poststop)?;
    let main = if args.detach { process.pid as u32 } else { std::process::id() };
    let notify = notify.zip(manager).map(|(container, manager)| Notify::new(container, manager, main));
    if signals.is_none() && notify.is_none() {
        return Ok(0);
    }
    let Some(signals) = signals else {
        // Another command may delete the container during the wait.
        dir.unlock()?;
        return notify.map_or(Ok(()), |notify| notify.until_ready(Some(process.pidfd.as_fd()))).map(|()| 0);
    };
    let mut wait = Wait { process: &process, signals: &signals, notify, observer };
    let status = wait.until_the_end(&prepared, args, dir, &record);
    // The process ends here: the kernel closes all of these at once.
    std::mem::forget((wait.observer, process, signals, prepared));
    status
}

/// A container in the foreground.
pub(super) struct Wait<'a> {
    pub(super) process: &'a Process,
    pub(super) signals: &'a foreground::Signals,
    pub(super) notify: Option<Notify>,
    pub(super) observer: Option<Observer>,
}

impl Wait<'_> {
    /// Waits for the end of the container. Then deletes it, or records its end. Returns the exit code.
    pub(super) fn until_the_end(
        &mut self,
        prepared: &Prepared,
        args: &Run,
        dir: Dir,
        record: &Record,
    ) -> Result<u8> {
        let plan = &prepared.plan;
        // Another command may delete the container during the wait.
        dir.unlock()?;
        let exit = foreground::wait(self.process, self.signals, self.notify.take(), self.observer.as_mut());
        let shown = |exit: &Exit| {
            log::info(|| format!("container {}: ended with status {}", record.id, exit.status()))
        };
        exit.iter().for_each(shown);
        let end = exit.map(|exit| ended::of(exit, record, self.observer.as_ref()));
        let removed = |()| log::info(|| format!("container {}: removed", record.id));
        let deleted = if args.keep {
            end.iter().for_each(|end| ended::keep(&dir, end, PATIENCE));
            Ok(())
        } else {
            // Also if the wait failed: no other command will delete it.
            match dir.lock(PATIENCE) {
                Err(e) if kind(&e) == Kind::NotFound => Ok(()),
                locked => {
                    locked.and_then(|()| launch::destroy(dir, record, &plan.hooks.poststop)).map(removed)
                }
            }
        };
        let bundle = args.create.config.is_none().then_some(&*record.bundle);
        end.and_then(|end| deleted.and_then(|()| ended::conclude(&end, || plan.seccomp.is_some(), bundle)))
    }
}
