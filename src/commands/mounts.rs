//! `mounts add` and `mounts remove`: changes the mounts of a running container, by a file that has the `mounts`
//! of a configuration.

use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::ArgMatches;
use oci_spec::runtime::LinuxNamespaceType;

use crate::cli::{Globals, read};
use crate::error::{Kind, Notes, Result, fail};
use crate::host::Host;
use crate::launch;
use crate::namespaces::First;
use crate::rootfs::running::{self, Change};
use crate::rootfs::{self, Facts, MountNamespace};
use crate::startup::seal;
use crate::state::{self, Status};
use crate::{config, log};

#[derive(Debug, PartialEq)]
pub(super) struct Args {
    change: Change,
    id: String,
    file: PathBuf,
}

pub(super) fn read(m: &ArgMatches) -> Result<Args> {
    let words = read::many::<String>(m, "words");
    let [change, id, file] = words.as_slice() else {
        return Err(fail(Kind::Usage, "mounts needs add or remove, the ID of a container, and a FILE"));
    };
    let change = match change.as_str() {
        "add" => Change::Add,
        "remove" => Change::Remove,
        other => return Err(fail(Kind::Usage, format!("mounts: {other:?} is neither add nor remove"))),
    };
    state::check_id(id)?;
    Ok(Args { change, id: id.clone(), file: file.into() })
}

pub(super) fn run(globals: &Globals, args: &Args) -> Result<()> {
    seal::ensure()?;
    let (dir, record) = super::open_locked(globals, &args.id)?;
    match super::status(&dir, &record)? {
        Status::Running | Status::Created | Status::Paused => {}
        status => {
            let what = format!("cannot change the mounts of a container that is {status}");
            return Err(fail(Kind::WrongStatus, what));
        }
    }
    let target = state::pidfd(&record)?.ok_or_else(|| fail(Kind::WrongStatus, "container not running"))?;
    let mut spec = config::parse(dir.load_config()?)?.spec;
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let own = |n: &&oci_spec::runtime::LinuxNamespace| {
        n.typ() == LinuxNamespaceType::Mount
            && n.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())
    };
    if !namespaces.iter().any(|namespace| own(&namespace)) {
        let what = "the container has no mount namespace of its own, so others would get the mounts too";
        return Err(fail(Kind::Unsupported, what));
    }
    let host = Host::probe(globals.rootless, None)?;
    let user_namespace = record.namespaces.iter().any(|name| name == "user");
    let kinds = if user_namespace { libc::CLONE_NEWUSER } else { 0 };
    let first = First::open(record.pid.unwrap_or_default(), target.as_fd(), kinds, host.proc)?;
    let (wanted, warnings) = config::load_mounts(&args.file)?;
    warnings.into_iter().for_each(log::warn);
    spec.set_mounts(Some(wanted));
    let facts = Facts {
        mount_namespace: MountNamespace::New,
        user_namespace,
        network_namespace: false,
        makes_nodes: false,
        cgroup_namespace: false,
        no_pivot: false,
        cgroup: None,
        cgroup_mount: None,
        cgroup_views: Vec::new(),
        notify_socket: None,
        mount_label: None,
    };
    let mut notes = Notes::default();
    let plan = rootfs::plan(&spec, &record.bundle, &facts, &mut notes);
    running::check(&plan, args.change, &mut notes);
    notes.into_result()?.into_iter().for_each(log::warn);
    let user = spec.process().as_ref().map(|process| (process.user().uid(), process.user().gid()));
    let inside =
        launch::Inside { namespaces: &first, root: record.root_mount, user, plan: &plan, host: &host };
    inside.change(args.change)
}
