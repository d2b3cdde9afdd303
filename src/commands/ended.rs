//! How a container ended, for the commands that wait for it and those that show it.

use std::path::Path;
use std::time::Duration;

use crate::cgroups::oom::{self, Observer};
use crate::error::{Kind, Result, kind};
use crate::state::{Dir, End, Ended, Record, Status};
use crate::sys::task::Exit;
use crate::{log, procstat, state};

/// Returns the end of a container whose first process has ended like this. It is called before the cgroup is
/// removed, unless that has an observer. Of a success it asks the kernel nothing.
pub(super) fn of(exit: Exit, record: &Record, observer: Option<&Observer>) -> End {
    known(Some(exit), record, observer).unwrap_or_default()
}

fn known(exit: Option<Exit>, record: &Record, observer: Option<&Observer>) -> Option<End> {
    let kills = match observer {
        _ if exit == Some(Exit::Code(0)) => None,
        Some(observer) => observer.kills(),
        None => record.cgroup.as_ref().and_then(oom::kills),
    };
    End::known(exit, kills)
}

/// Adds to the record of a stopped container what the kernel still knows of its end, if no command has
/// recorded that.
pub(super) fn complete(record: &mut Record, status: Status) {
    if status != Status::Stopped || record.exit.is_some() || record.pid.is_none() {
        return;
    }
    // After a reboot, what is at its paths belongs to others.
    if procstat::boot_id().ok() != Some(&record.boot_id) {
        return;
    }
    // It only adds to what the command prints, so that an error has no other effect.
    let exit = state::exit_of_first(record, None).ok().flatten();
    record.exit = known(exit, record, None);
}

/// Records the end for later commands, unless another command works on the container longer than `patience`,
/// or has deleted it. The lock is held only meanwhile.
pub(super) fn keep(dir: &Dir, end: &End, patience: Duration) {
    let kept = dir.lock(patience).and_then(|()| {
        let saved = dir.load().and_then(|mut record| {
            if record.exit.is_some() {
                return Ok(());
            }
            record.exit = Some(End { time: Some(log::now()), ..end.clone() });
            dir.save(&record)
        });
        dir.unlock().and(saved)
    });
    match kept {
        Err(e) if !matches!(kind(&e), Kind::WrongStatus | Kind::NotFound) => {
            log::warn(format!("the container's end is not recorded: {e:#}, ignoring"));
        }
        _ => {}
    }
}

/// Ends a command with the program's status, by an error if that needs an explanation. `filtered` reports
/// whether the container has a seccomp profile, which is that of `bundle` if there is one.
pub(super) fn conclude(end: &End, filtered: impl FnOnce() -> bool, bundle: Option<&Path>) -> Result<u8> {
    let status = end.status.unwrap_or_default();
    let bundle = || bundle.map_or("PROFILE".into(), |bundle| format!("--bundle {}", bundle.display()));
    let profile = (end.by_sigsys() && filtered()).then(|| format!("corten seccomp explain {}", bundle()));
    end.explain(profile.as_deref()).map_or(Ok(status), |why| Err(Ended { status, why }.into()))
}
