//! `start`: lets the program of a created container run, and reports whether it does.

use std::os::fd::{AsFd, OwnedFd};

use crate::cli::Globals;
use crate::config::{self, Config};
use crate::error::{Kind, Notes, Result, fail, kind};
use crate::hooks::{self, Hook};
use crate::launch::notify::{self, Notify};
use crate::process::env;
use crate::seccomp::Listener;
use crate::state::{self, Dir, Record, Status, spec_state};
use crate::{launch, log, trace};

pub(super) fn run(globals: &Globals, id: &str) -> Result<()> {
    let manager = env::service(|name| std::env::var(name).ok(), std::process::id).notify_socket;
    let manager = manager.as_deref().map(notify::connect).transpose()?;
    let (dir, record) = super::open_locked(globals, id)?;
    match super::status(&dir, &record)? {
        Status::Created => {}
        status => {
            return Err(fail(Kind::WrongStatus, format!("cannot start a container that is {status}")));
        }
    }
    let reads = record.start_reads_config || record.delete_reads_config;
    let later = if reads { Later::read(&dir)? } else { Later::default() };
    if later.no_process {
        return Err(fail(Kind::Config, "process: the configuration has none to start"));
    }
    let mut container = None;
    let started = launch::start(&dir, later.listener.as_ref(), &record).map(|socket| container = socket);
    let poststart = Poststart { hooks: &later.poststart, stops: later.poststart_stops };
    let dir = finish(dir, &record, started, &poststart, &later.poststop)?;
    manager.map_or(Ok(()), |manager| until_ready(&dir, &record, container, manager))
}

/// Waits until the container is ready, and notifies the service manager.
fn until_ready(dir: &Dir, record: &Record, container: Option<OwnedFd>, manager: OwnedFd) -> Result<()> {
    let Some(container) = container else {
        log::warn("NOTIFY_SOCKET: the container was created without it and cannot notify, ignoring");
        return Ok(());
    };
    let process = state::pidfd(record)?;
    // Another command may delete the container during the wait.
    dir.unlock()?;
    let main = record.pid.unwrap_or_default() as u32;
    Notify::new(container, manager, main).until_ready(process.as_ref().map(AsFd::as_fd))
}

/// The poststart hooks, and whether a failed hook stops the container.
pub(super) struct Poststart<'a> {
    pub(super) hooks: &'a [Hook],
    pub(super) stops: bool,
}

impl Poststart<'_> {
    fn run(&self, record: &Record) -> Result<()> {
        let state = || spec_state(record, Status::Running, record.pid);
        if self.stops {
            return hooks::run(self.hooks, state().as_bytes(), env::own);
        }
        hooks::run_all(self.hooks, state().as_bytes()).into_iter().for_each(log::warn);
        Ok(())
    }
}

/// Runs the poststart hooks, if the program was started. After a failed hook the container is stopped and deleted
/// (runtime.md#lifecycle). A program that cannot be executed leaves a stopped container.
pub(super) fn finish(
    dir: Dir,
    record: &Record,
    started: Result<()>,
    poststart: &Poststart,
    poststop: &[Hook],
) -> Result<Dir> {
    match started.and_then(|()| poststart.run(record)) {
        Ok(()) => {
            log::info(|| {
                format!("container {}: started, process {}", record.id, record.pid.unwrap_or_default())
            });
            Ok(dir)
        }
        Err(e) => {
            if kind(&e) == Kind::Hook {
                launch::undo(dir, record, poststop);
            }
            Err(e)
        }
    }
}

/// The part of the kept configuration that is needed after `create`.
#[derive(Default)]
pub(super) struct Later {
    no_process: bool,
    listener: Option<Listener>,
    poststart: Vec<Hook>,
    poststart_stops: bool,
    pub(super) poststop: Vec<Hook>,
}

impl Later {
    pub(super) fn read(dir: &Dir) -> Result<Self> {
        let _phase = trace::phase("read the kept config.json");
        let Config { spec, version, .. } = config::parse(dir.load_config()?)?;
        let hooks = hooks::plan(spec.hooks().as_ref(), spec.annotations().as_ref(), &mut Notes::default());
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let listener = profile.and_then(|profile| {
            let path = profile.listener_path().clone()?;
            Some(Listener { path, metadata: profile.listener_metadata().clone() })
        });
        let (poststart, poststop) = (hooks.poststart, hooks.poststop);
        let poststart_stops = version.stops_after_poststart();
        Ok(Self { no_process: spec.process().is_none(), listener, poststart, poststart_stops, poststop })
    }
}
