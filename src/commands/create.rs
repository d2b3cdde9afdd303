//! `create`: everything up to the point where `start` begins. `run` shares its preparations, and `check` its decisions.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::cli::{Create, Globals};
use crate::config::{self, Config};
use crate::error::{Context, Kind, Notes, Result, fail};
use crate::host::{self, Host};
use crate::launch::{self, Caller, Launched, Start, notify};
use crate::plan::{self, Plan};
use crate::process::{env, lsm};
use crate::startup::seal;
use crate::sys::fs;
use crate::sys::netns::NewNetwork;
use crate::{cgroups, log, namespaces, state, trace};

pub(super) fn run(globals: &Globals, args: &Create) -> Result<()> {
    seal::ensure()?;
    let mut prepared = Prepared::new(globals, args, Network::First)?;
    let terminal = prepared.terminal();
    if terminal && args.console_socket.is_none() {
        return Err(fail(Kind::Usage, "process.terminal: needs --console-socket"));
    }
    let network = prepared.network.take();
    prepared.launch(globals, args, Start::ByCommand, |request| launch::create(request, network)).map(drop)
}

/// What is decided about a container. Nothing is made yet.
pub(super) struct Decided {
    pub(super) plan: Plan,
    pub(super) warnings: Vec<String>,
    pub(super) host: Host,
}

/// Plans a container with the facts about this host. `bundle` is an absolute path.
pub(super) fn decide(
    globals: &Globals,
    args: &Create,
    bundle: &Path,
    spec: &Spec,
    notify_socket: Option<&Path>,
) -> Result<Decided> {
    let linux = spec.linux().as_ref();
    let mount_label = linux.is_some_and(|linux| linux.mount_label().is_some());
    let labelled = mount_label || spec.process().as_ref().is_some_and(lsm::labelled);
    let resctrl = linux.is_some_and(|linux| linux.intel_rdt().is_some());
    let host = Host::probe(globals.rootless, labelled.then_some(globals.strict_labels))?;
    let cgroups = if resctrl { cgroups::Host::probe_with_resctrl()? } else { cgroups::Host::probe()? };
    let request = plan::Request {
        id: &args.id,
        bundle,
        manager: globals.cgroup_manager,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        tree_namespaces: host::tree_namespaces()?,
        cgroups: &cgroups,
        notify_socket,
    };
    let (plan, warnings) = plan::create(spec, &request, &host)?;
    Ok(Decided { plan, warnings, host })
}

/// Returns the path of the container's notification socket on the host, if a service manager listens.
pub(super) fn notify_socket(
    globals: &Globals,
    args: &Create,
    service: &env::Service,
) -> Result<Option<PathBuf>> {
    let root = service.notify_socket.as_ref().map(|_| state::root(globals.root.as_deref())).transpose()?;
    Ok(root.map(|root| root.join(&args.id).join(state::NOTIFY_SOCKET)))
}

/// Everything that is known before anything is made.
pub(super) struct Prepared {
    bundle: PathBuf,
    pub(super) config: Config,
    pub(super) plan: Plan,
    caller: Caller,
    /// The service manager's socket for notifications.
    pub(super) manager: Option<OwnedFd>,
    /// The container's network namespace, which another process is making.
    pub(super) network: Option<NewNetwork>,
}

/// When a new network namespace is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// Beside the plan, where that is possible.
    First,
    /// With the other namespaces.
    WithOthers,
}

impl Prepared {
    pub(super) fn new(globals: &Globals, args: &Create, network: Network) -> Result<Self> {
        state::check_id(&args.id)?;
        let service = env::service(|name| std::env::var(name).ok(), std::process::id);
        let preserved = inherited(&service, args.preserve_fds)?;
        // `create` does not use the connection. It reports a wrong address before anything is made.
        let manager = service.notify_socket.as_deref().map(notify::connect).transpose()?;
        let notify_socket = notify_socket(globals, args, &service)?;
        let bundle = std::path::absolute(&args.bundle).with_context(|| args.bundle.display().to_string())?;
        let mut config = match &args.config {
            Some(path) => config::load_file(path)?,
            None => config::load(&bundle)?,
        };
        let first = || namespaces::plan(&config.spec, &mut Notes::default()).network_first();
        let begins = network == Network::First && first() && host::has_idle_processor();
        let network = if begins { NewNetwork::begin(host::procfs()?) } else { None };
        let Decided { plan, warnings, host } =
            decide(globals, args, &bundle, &config.spec, notify_socket.as_deref())?;
        let misspelt = config::misspelt(&config.unknown);
        config.warnings.drain(..).chain(misspelt).chain(warnings).for_each(log::warn);
        plan.seccomp.iter().for_each(crate::seccomp::Plan::log_flags);
        if let Some(seccomp) = plan.seccomp.as_ref().filter(|seccomp| !seccomp.unknown.is_empty()) {
            log::debug(|| format!("linux.seccomp: no kernel has {}", seccomp.unknown.join(", ")));
        }
        let paths = [&args.console_socket, &args.pidfd_socket, &args.pid_file];
        let caller = caller(host, service, preserved, paths)?;
        Ok(Self { bundle, config, plan, caller, manager, network })
    }

    pub(super) fn terminal(&self) -> bool {
        self.plan.terminal()
    }

    /// Has `launch` carry the plan out.
    pub(super) fn launch(
        &self,
        globals: &Globals,
        args: &Create,
        start: Start,
        launch: impl FnOnce(&launch::Request) -> Result<Launched>,
    ) -> Result<Launched> {
        if args.console_socket.is_some() && !self.terminal() {
            return Err(fail(Kind::Usage, "--console-socket: process.terminal is not set"));
        }
        let _phase = trace::phase("create");
        let root = state::root(globals.root.as_deref())?;
        if args.bundle != Path::new(".") {
            // Hooks expect it, and runc does it.
            std::env::set_current_dir(&self.bundle).with_context(|| format!("chdir({:?})", self.bundle))?;
        }
        host::check_calls()?;
        launch(&launch::Request {
            id: &args.id,
            bundle: &self.bundle,
            root: &root,
            plan: &self.plan,
            config: &self.config,
            start,
            caller: &self.caller,
        })
    }
}

/// Returns what the caller gives to a new process. `paths` are those of the console socket, the pidfd socket and the pid file.
pub(super) fn caller(
    host: Host,
    service: env::Service,
    preserved: Vec<i32>,
    paths: [&Option<PathBuf>; 3],
) -> Result<Caller> {
    let absolute = |path: &Option<PathBuf>| {
        path.as_ref()
            .map(|path| std::path::absolute(path).with_context(|| path.display().to_string()))
            .transpose()
    };
    let [console, pidfd, pid_file] = paths;
    let (console_socket, pidfd_socket, pid_file) =
        (absolute(console)?, absolute(pidfd)?, absolute(pid_file)?);
    Ok(Caller { host, service, preserved, console_socket, pidfd_socket, pid_file })
}

/// Returns the descriptors that the caller leaves to the program: those of LISTEN_FDS that are open, and the `preserve` ones
/// after them, which must be open. From now on all descriptors are closed on exec, except those when the program is executed.
pub(super) fn inherited(service: &env::Service, preserve: u32) -> Result<Vec<i32>> {
    let listen = service.listen_fds;
    let count = listen.saturating_add(preserve);
    let given = if count == 0 { Vec::new() } else { fs::inherited(host::procfs()?, 3, count)? };
    if let Some(missing) = (0..preserve).find(|n| !given.contains(&(3 + listen.saturating_add(*n) as i32))) {
        let descriptor = 3 + u64::from(listen) + u64::from(missing);
        // The words in the middle are runc's.
        let message = format!(
            "--preserve-fds {preserve}: unable to stat preserved-fd {missing} (of {preserve}): \
             descriptor {descriptor} is not open"
        );
        return Err(fail(Kind::Usage, message));
    }
    fs::close_on_exec_from(3)?;
    Ok(given)
}
