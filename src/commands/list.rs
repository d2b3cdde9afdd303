//! `list`: all containers of this root. A container that is being created or deleted at the same time is left
//! out.

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use crate::cli::{Format, Globals, List};
use crate::error::{Context, Kind, Result, kind};
use crate::state::{Record, Status, document};
use crate::sys::task;
use crate::{log, state};

/// The result of [`state::read_status`]; `None` for a container that needs [`state::open`].
type Seen = Result<Option<(Record, Status)>>;

pub(super) fn run(globals: &Globals, args: &List) -> Result<()> {
    let root = state::root(globals.root.as_deref())?;
    let parent = state::open_root(&root)?;
    let ids = parent.as_ref().map_or(Ok(Vec::new()), state::ids)?;
    if args.quiet {
        return super::print(&ids.iter().map(|id| format!("{id}\n")).collect::<String>());
    }
    let mut found = parent.map_or_else(Vec::new, |parent| read_all(&root, &parent, &ids));
    if args.format == Format::Json {
        found.iter_mut().for_each(|(record, status)| super::ended::complete(record, *status));
    }
    let documents: Vec<_> = found.iter().map(|(record, status)| document(record, *status)).collect();
    match args.format {
        Format::Json => super::print(&(serde_json::to_string(&documents).context("JSON")? + "\n")),
        Format::Table => {
            let heads = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(Cow::from);
            let rows: Vec<_> = std::iter::once(heads).chain(documents.iter().map(row)).collect();
            super::print(&super::table(&rows))
        }
    }
}

fn row<'a>(container: &state::Document<'a>) -> [Cow<'a, str>; 6] {
    let (id, pid) = (container.id.into(), container.pid.to_string().into());
    let (bundle, created) = (container.bundle.to_string_lossy(), container.created.into());
    [id, pid, container.status.into(), bundle, created, container.owner.into()]
}

/// The number of containers that are worth a thread.
const FOR_A_THREAD: usize = 100;

/// Reads the record and the status of each container ([`state::read_status`]). Of many containers, each processor
/// reads a part.
fn read_each(parent: &OwnedFd, ids: &[String]) -> Vec<Seen> {
    let mut seen: Vec<Seen> = ids.iter().map(|_| Ok(None)).collect();
    let read = |ids: &[String], seen: &mut [Seen]| {
        let mut buffer = Vec::new();
        for (id, seen) in ids.iter().zip(seen) {
            *seen = state::read_status(parent, id, &mut buffer, super::frozen);
        }
    };
    let most = ids.len() / FOR_A_THREAD;
    if most < 2 {
        read(ids, &mut seen);
        return seen;
    }
    let size = ids.len().div_ceil(most.min(task::processors().max(1)));
    thread::scope(|scope| {
        let mut parts = ids.chunks(size).zip(seen.chunks_mut(size));
        let own = parts.next();
        for (ids, seen) in parts {
            // A part whose thread cannot be started, because of a limit, is left to `state::open`.
            _ = thread::Builder::new().spawn_scoped(scope, move || read(ids, seen));
        }
        if let Some((ids, seen)) = own {
            read(ids, seen);
        }
    });
    seen
}

/// Returns the record and the status of each container.
fn read_all(root: &Path, parent: &OwnedFd, ids: &[String]) -> Vec<(Record, Status)> {
    let shown = |(seen, id): (Seen, &String)| {
        let seen = match seen {
            Ok(None) => state::open(root, id).and_then(|dir| read_one(&dir)),
            seen => seen,
        };
        match seen {
            Ok(container) => container,
            Err(e) if kind(&e) == Kind::NotFound => None,
            // The other containers are shown all the same.
            Err(e) => {
                log::warn(format!("list: container {id:?}: {e:#}, ignoring"));
                None
            }
        }
    };
    read_each(parent, ids).into_iter().zip(ids).filter_map(shown).collect()
}

fn read_one(dir: &state::Dir) -> Result<Option<(Record, Status)>> {
    let Some(record) = dir.find_record()? else { return Ok(None) };
    let status = super::status(dir, &record)?;
    Ok(Some((record, status)))
}
