//! The container's cgroup, made by us or by systemd, and its class of processes in resctrl.

use std::os::fd::OwnedFd;

use crate::cgroups::{self, Cgroup, CgroupRecord, systemd};
use crate::dbus::Bus;
use crate::error::Result;
use crate::plan::Plan;
use crate::state::{Dir, Record};
use crate::{intel_rdt, log};

/// Makes the cgroup, and corrects the record where there is none in the end.
pub(super) fn make(plan: &Plan, record: &mut Record) -> Result<Option<Cgroup>> {
    let mut warnings = Vec::new();
    let made = plan.cgroup.as_ref().map(|cgroup| cgroups::create(cgroup, &mut warnings)).transpose();
    warnings.into_iter().for_each(log::warn);
    match &made {
        Ok(Some(Some(cgroup))) => {
            let parents = record.cgroup.take().map(|claim| claim.parents).unwrap_or_default();
            record.cgroup = Some(CgroupRecord { parents, ..cgroup.record() });
        }
        // Another container's perhaps: not ours to remove.
        _ => record.cgroup = None,
    }
    let made = made?.flatten();
    if let Some(cgroup) = &made {
        delegate(plan, cgroup)?;
    }
    Ok(made)
}

/// Makes the class of processes, and opens it.
pub(super) fn make_class(plan: &Plan, record: &mut Record) -> Result<Vec<OwnedFd>> {
    match (&plan.intel_rdt, &mut record.intel_rdt) {
        (Some(plan), Some(record)) => {
            intel_rdt::make(plan, record)?;
            intel_rdt::join_fds(record)
        }
        _ => Ok(Vec::new()),
    }
}

/// systemd, which makes the container's cgroup around its process.
pub(super) struct Systemd<'a> {
    bus: Bus,
    scope: &'a systemd::Scope,
}

impl<'a> Systemd<'a> {
    pub(super) fn connect(scope: &'a systemd::Scope) -> Result<Self> {
        Ok(Self { bus: systemd::connect(&scope.unit)?, scope })
    }

    /// Puts the process, which waits, into its cgroup, and sets the limits.
    pub(super) fn place(&mut self, pid: i32, plan: &Plan, dir: &Dir, record: &mut Record) -> Result<()> {
        let Some(cgroup) = &plan.cgroup else { return Ok(()) };
        if let Err(e) = systemd::start(&mut self.bus, self.scope, pid) {
            if systemd::refused(&e) {
                // Another container's perhaps: not ours to remove.
                record.cgroup = None;
            }
            return Err(e);
        }
        if record.cgroup.is_none() {
            record.cgroup = cgroup.claim(cgroup.dirs());
            dir.save(record)?;
        }
        let limited = cgroups::limit(cgroup, pid)?;
        identify(record)?;
        watch(plan, &limited)?;
        delegate(plan, &limited)
    }
}

/// Records which cgroup it is, for the next time that the record is saved.
pub(super) fn identify(record: &mut Record) -> Result<()> {
    if let Some(cgroup) = &mut record.cgroup {
        cgroup.id = cgroups::id(cgroup)?;
    }
    Ok(())
}

/// Sees to the devices that may be used in the cgroup.
pub(super) fn watch(plan: &Plan, cgroup: &Cgroup) -> Result<()> {
    let mut warnings = Vec::new();
    let watched =
        plan.cgroup.as_ref().map_or(Ok(()), |plan| cgroups::attach_filter(cgroup, plan, &mut warnings));
    warnings.into_iter().for_each(log::warn);
    watched
}

/// Gives the cgroup to the container's user, if it is to make others inside.
fn delegate(plan: &Plan, cgroup: &Cgroup) -> Result<()> {
    plan.cgroup_owner.map_or(Ok(()), |(uid, gid)| cgroups::delegate(cgroup, uid, gid))
}
