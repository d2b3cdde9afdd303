//! The plan of a container: every decision, made before anything is created.
//!
//! Planning does no IO: the caller passes the facts about the host. All problems of a configuration are
//! reported at once.

mod annotations;
mod print;

pub(crate) use annotations::CRIU;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{self, Spec};

use crate::cgroups::{self, Manager};
use crate::error::{Notes, Result};
use crate::host::Host;
use crate::namespaces::idmap;
use crate::process::sysctl::{self, Sysctl};
use crate::process::{self, capabilities, lsm};
use crate::{hooks, intel_rdt, namespaces, rootfs, seccomp, trace};

/// The command line's part of a plan, and the facts about the host that only the creation of a container
/// needs.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub id: &'a str,
    /// An absolute path.
    pub bundle: &'a Path,
    pub manager: Manager,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    /// See [`tree_namespaces`](crate::host::tree_namespaces).
    pub tree_namespaces: bool,
    pub cgroups: &'a cgroups::Host,
    /// The path of the container's notification socket on the host, if a service manager listens.
    pub notify_socket: Option<&'a Path>,
}

/// What will be done, roughly in the order in which it is done.
#[derive(Clone)]
pub struct Plan {
    pub namespaces: namespaces::Plan,
    pub cgroup: Option<cgroups::Plan>,
    /// The user and group that the cgroup is given to.
    pub cgroup_owner: Option<(u32, u32)>,
    pub intel_rdt: Option<intel_rdt::Plan>,
    pub rootfs: rootfs::Plan,
    /// A root-only mount namespace suffices: no process needs the host's paths in it.
    pub root_only: bool,
    pub hooks: hooks::Plan,
    pub sysctl: Vec<Sysctl>,
    /// The name of the session keyring to join.
    pub keyring: Option<String>,
    /// `create` works without a process; `start` does not.
    pub process: Option<process::Plan>,
    pub seccomp: Option<seccomp::Plan>,
    /// The path of the notification socket in the container.
    pub notify_socket: Option<PathBuf>,
}

impl Plan {
    /// Reports whether the container process is cloned before its cgroup is created, and then waits for it.
    /// A new cgroup namespace has its root at that cgroup, so it can only be created afterwards.
    #[must_use]
    pub fn waits_for_cgroup(&self) -> bool {
        self.cgroup.as_ref().is_some_and(|cgroup| cgroup.scope().is_some())
    }

    /// Reports whether the container's process has a terminal.
    #[must_use]
    pub fn terminal(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.terminal)
    }

    /// Reports whether the container process reports its mounts and then waits. It waits for the runtime's
    /// hooks and network devices or, before its own hooks, for the device filter.
    #[must_use]
    pub fn reports_mounts(&self) -> bool {
        let hooks::Plan { prestart, create_runtime, create_container, .. } = &self.hooks;
        let hooks = [prestart, create_runtime, create_container].iter().any(|hooks| !hooks.is_empty());
        hooks || !self.namespaces.devices.is_empty()
    }

    /// Returns the kinds of namespaces (`CLONE_NEW*`) that the container changes for every process in them,
    /// each with the place in the configuration that asks for the change.
    #[must_use]
    pub fn changes(&self) -> Vec<(i32, &str)> {
        let Self { namespaces, sysctl, .. } = self;
        let names = [("hostname", &namespaces.hostname), ("domainname", &namespaces.domainname)];
        let names = names.into_iter().filter(|(_, name)| name.is_some());
        let devices = namespaces.devices.iter().map(|device| (libc::CLONE_NEWNET, device.place.as_str()));
        let sysctl = sysctl.iter().map(|sysctl| (sysctl.namespace(), sysctl.place.as_str()));
        let root = [(libc::CLONE_NEWNS, "root.path")];
        root.into_iter()
            .chain(names.map(|(place, _)| (libc::CLONE_NEWUTS, place)))
            .chain(devices)
            .chain(sysctl)
            .collect()
    }
}

/// Reports whether the container sees a cgroup hierarchy of v2 that is mounted for writing, in which its root
/// can create cgroups.
fn can_create_cgroups(rootfs: &rootfs::Plan, hierarchy: Option<&Path>) -> bool {
    rootfs.mounts.iter().any(|mount| {
        let set = mount.options.attr.set | mount.options.attr_all.set;
        let shows_cgroups = match &mount.kind {
            rootfs::Kind::Cgroup => true,
            rootfs::Kind::New { fstype, .. } => fstype == "cgroup2",
            rootfs::Kind::Bind { source, .. } => hierarchy.is_some_and(|dir| source.starts_with(dir)),
            rootfs::Kind::Remount => false,
        };
        shows_cgroups && set & crate::sys::mount::MOUNT_ATTR_RDONLY == 0
    })
}

/// Returns the owner of the container's cgroup if the container may create cgroups below it: the ids of the
/// process's user on the host (config-linux.md#cgroup-ownership).
///
/// The container needs a new cgroup namespace, and the hierarchy mounted for writing at /sys/fs/cgroup.
fn cgroup_owner(
    spec: &Spec,
    namespaces: &namespaces::Plan,
    rootfs: &rootfs::Plan,
    host: &Host,
) -> Option<(u32, u32)> {
    let writable = |(mount, given): (&rootfs::Mount, &runtime::Mount)| {
        let set = mount.options.attr.set | mount.options.attr_all.set;
        mount.kind == rootfs::Kind::Cgroup
            && given.source().as_ref().is_some_and(|source| source == Path::new("cgroup"))
            && rootfs::names(&mount.destination, "/sys/fs/cgroup")
            && set & crate::sys::mount::MOUNT_ATTR_RDONLY == 0
    };
    let given = spec.mounts().as_deref().unwrap_or_default();
    if !namespaces.creates(libc::CLONE_NEWCGROUP) || !rootfs.mounts.iter().zip(given).any(writable) {
        return None;
    }
    let (uid, gid) = spec.process().as_ref().map_or((0, 0), |p| (p.user().uid(), p.user().gid()));
    let owner = if namespaces.has(libc::CLONE_NEWUSER) {
        // The mappings of a joined namespace may be unknown. An id without a mapping is an error of the
        // process itself.
        idmap::to_host(&namespaces.uid_map, uid).zip(idmap::to_host(&namespaces.gid_map, gid))
    } else {
        Some((uid, gid))
    };
    // A new cgroup belongs to the caller, and only root may give it to another user.
    owner.filter(|(uid, _)| host.uid == 0 && *uid != 0)
}

/// Returns what the plan of the root file system depends on.
fn facts_of_rootfs(
    request: &Request,
    host: &Host,
    linux: Option<&runtime::Linux>,
    namespaces: &namespaces::Plan,
    cgroup: Option<&cgroups::Plan>,
    notes: &mut Notes,
) -> rootfs::Facts {
    rootfs::Facts {
        mount_namespace: rootfs::MountNamespace::of(namespaces),
        user_namespace: namespaces.has(libc::CLONE_NEWUSER),
        network_namespace: namespaces.creates(libc::CLONE_NEWNET),
        makes_nodes: namespaces.has(libc::CLONE_NEWUSER) && host.uid == 0 && !host.user_namespace,
        cgroup_namespace: namespaces.creates(libc::CLONE_NEWCGROUP),
        no_pivot: request.no_pivot,
        cgroup: cgroup.and_then(|cgroup| cgroup.dirs().into_iter().next()),
        cgroup_mount: request.cgroups.v2_mount.clone(),
        cgroup_views: cgroups::views(cgroup, request.cgroups),
        notify_socket: request.notify_socket.map(Into::into),
        mount_label: lsm::mount_label(
            linux.and_then(|l| l.mount_label().as_deref()),
            host.process.lsm,
            notes,
        ),
    }
}

/// Plans a container. Also returns warnings.
pub fn create(spec: &Spec, request: &Request, host: &Host) -> Result<(Plan, Vec<String>)> {
    let _phase = trace::phase("plan");
    let mut notes = Notes::default();
    let linux = spec.linux().as_ref();
    let namespaces = namespaces::plan(spec, &mut notes);
    let mut cgroup = cgroups::plan(
        &cgroups::Request {
            id: request.id,
            path: linux.and_then(|l| l.cgroups_path().as_deref()),
            resources: linux.and_then(|l| l.resources().as_ref()),
            annotations: spec.annotations().as_ref(),
            manager: request.manager,
            rootless: host.rootless,
            uid: host.uid,
        },
        request.cgroups,
        &mut notes,
    )?;
    let facts = facts_of_rootfs(request, host, linux, &namespaces, cgroup.as_ref(), &mut notes);
    namespaces::check_mounts(&namespaces, request.no_pivot, &mut notes);
    let rootfs = rootfs::plan(spec, request.bundle, &facts, &mut notes);
    if can_create_cgroups(&rootfs, facts.cgroup_mount.as_deref()) {
        cgroup.iter_mut().for_each(cgroups::Plan::give_all_controllers);
    }
    let mut hooks = hooks::plan(spec.hooks().as_ref(), spec.annotations().as_ref(), &mut notes);
    if facts.user_namespace {
        hooks.keep_output_outside();
    }
    // If the runtime is in a user namespace, the kernel permits a mount of procfs only while a whole procfs
    // is visible in the mount namespace. Hooks in the runtime's namespaces may enter the container's and
    // expect the host's paths there (NVIDIA's do).
    let hooked = [&hooks.prestart, &hooks.create_runtime, &hooks.create_container];
    let root_only = request.tree_namespaces
        && !host.user_namespace
        && hooked.iter().all(|hooks| hooks.is_empty())
        && rootfs.can_be_root_only();
    let sysctl = sysctl::plan(linux, &namespaces, &mut notes);
    let held = process_host(host, facts.user_namespace);
    let process = spec.process().as_ref().and_then(|process| {
        let capabilities = process.capabilities().as_ref();
        let uid = process.user().uid();
        capabilities::warn_of_missing(
            capabilities,
            uid,
            held.capabilities,
            "process.capabilities",
            &mut notes,
        );
        process::plan(process, linux, spec.annotations().as_ref(), held, "process", &mut notes)
    });
    let user = process.as_ref().map(|process| (process.user.uid, process.user.gid));
    namespaces::check_first_user(&namespaces, user, &mut notes);
    if let Some(process) = process.as_ref().filter(|process| !process.user.keep_groups) {
        let user = &process.user;
        namespaces::check_ids(&namespaces, user.uid, user.gid, &user.additional_gids, &mut notes);
    }
    let seccomp =
        linux.and_then(|l| l.seccomp().as_ref()).and_then(|profile| seccomp::plan(profile, &mut notes));
    let intel_rdt = linux.and_then(|l| l.intel_rdt().as_ref()).and_then(|asked| {
        let resctrl = request.cgroups.resctrl.as_deref();
        intel_rdt::plan(asked, request.id, resctrl, &mut notes)
    });
    annotations::check(spec.annotations().as_ref(), seccomp.as_ref(), &mut notes);
    if spec.vm().is_some() {
        notes.problem("vm", "corten makes no virtual machines");
    }
    let warnings = notes.into_result()?;
    let plan = Plan {
        cgroup_owner: cgroup_owner(spec, &namespaces, &rootfs, host),
        namespaces,
        cgroup,
        intel_rdt,
        rootfs,
        root_only,
        hooks,
        sysctl,
        keyring: (!request.no_new_keyring).then(|| format!("_ses.{}", request.id)),
        process,
        seccomp,
        notify_socket: facts.notify_socket.is_some().then(|| rootfs::NOTIFY_SOCKET.into()),
    };
    Ok((plan, warnings))
}

/// Returns what a process can be given. The first process of a user namespace holds every capability.
pub(crate) fn process_host(host: &Host, user_namespace: bool) -> process::Host {
    let capabilities =
        if user_namespace { capabilities::Held::IN_USER_NAMESPACE } else { host.process.capabilities };
    process::Host { capabilities, ..host.process }
}
