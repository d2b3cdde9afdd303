//! `checkpoint`: saves a running container in files, from which `restore` makes it again. What it shares with `restore` is here.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use clap::ArgMatches;

use super::create::decide;
use super::leftover;
use crate::cli::table::Opt;
use crate::cli::table::Takes::{Number, Path as PathOf, Switch, Text, Texts, Word};
use crate::cli::table::opt;
use crate::cli::{Create, Globals, read};
use crate::criu::message::{CgroupsMode, NetworkLock};
use crate::criu::{self, Asked, Directories, stats};
use crate::error::{Kind, Result, fail};
use crate::launch::Dump;
use crate::state::{NOTIFY_SOCKET, Status};
use crate::sys::{fs, task};
use crate::{config, host, log, state};

/// The annotation that names a configuration file of CRIU's for one container.
pub(super) use crate::plan::CRIU as ANNOTATION;

/// The configuration files of CRIU's for all containers. The first that exists counts, as with runc the second.
const CONFIG_FILES: [&str; 2] = ["/etc/criu/corten.conf", "/etc/criu/runc.conf"];

/// The options that `checkpoint` and `restore` have in common.
pub(super) const COMMON: &[Opt] = &[
    opt("image-path", None, PathOf("DIR"), "the directory of the images (default: ./checkpoint)"),
    opt(
        "work-path",
        None,
        PathOf("DIR"),
        "the directory of CRIU's log and statistics (default: that of the images)",
    ),
    opt("tcp-established", None, Switch, "allow established TCP connections"),
    opt("ext-unix-sk", None, Switch, "allow connections to unix sockets outside of the container"),
    opt("shell-job", None, Switch, "allow a session and a terminal that the container has from outside"),
    opt("file-locks", None, Switch, "allow locks on files"),
    opt("lazy-pages", None, Switch, "move memory only when it is used"),
    opt(
        "manage-cgroups-mode",
        None,
        Word("MODE", &["soft", "full", "strict", "ignore"]),
        "what of the cgroups below the container's is restored: soft (default), full, strict or ignore",
    ),
    opt("empty-ns", None, Texts("KIND"), "network: its content is not restored (always so, as with runc)"),
    opt("auto-dedup", None, Switch, "leave out of the images what later images have"),
    opt("print-stats", None, Switch, "print CRIU's statistics as JSON"),
];

pub(super) const OPTIONS: &[Opt] = &[
    opt("parent-path", None, Text("DIR"), "the images of an earlier --pre-dump, relative to --image-path"),
    opt("leave-running", None, Switch, "let the container run on"),
    opt("pre-dump", None, Switch, "save only the memory, and let the container run on"),
    opt("tcp-skip-in-flight", None, Switch, "leave out TCP connections that are not yet accepted"),
    opt("link-remap", None, Switch, "give open files without a name a name while they are saved"),
    opt("page-server", None, Text("ADDRESS:PORT"), "send the memory to a page server"),
    opt("status-fd", None, Number("FD"), "write a zero byte to FD as soon as --lazy-pages can begin"),
    opt(
        "network-lock",
        None,
        Word("METHOD", &["iptables", "nftables", "skip"]),
        "how packets are held back meanwhile: iptables, nftables or skip",
    ),
];

/// What is asked of `checkpoint`.
pub(super) struct Checkpoint {
    id: String,
    images: PathBuf,
    work: Option<PathBuf>,
    asked: Asked,
    parent: Option<String>,
    page_server: Option<(String, u16)>,
    leave_running: bool,
    pre_dump: bool,
    tcp_skip_in_flight: bool,
    link_remap: bool,
    network_lock: Option<NetworkLock>,
    status_fd: Option<u32>,
    print_stats: bool,
}

pub(super) fn read(m: &ArgMatches) -> Result<Checkpoint> {
    let lock = |word: &str| match word {
        "iptables" => Some(NetworkLock::Iptables),
        "nftables" => Some(NetworkLock::Nftables),
        "skip" => Some(NetworkLock::Skip),
        _ => None,
    };
    let checkpoint = Checkpoint {
        id: read::id(m)?,
        images: images(m),
        work: read::path(m, "work-path"),
        asked: asked(m)?,
        parent: read::one(m, "parent-path"),
        page_server: read::one::<String>(m, "page-server").as_deref().map(page_server).transpose()?,
        leave_running: read::flag(m, "leave-running"),
        pre_dump: read::flag(m, "pre-dump"),
        tcp_skip_in_flight: read::flag(m, "tcp-skip-in-flight"),
        link_remap: read::flag(m, "link-remap"),
        network_lock: read::word(m, "network-lock", "iptables, nftables or skip", lock)?,
        status_fd: read::one(m, "status-fd"),
        print_stats: read::flag(m, "print-stats"),
    };
    if checkpoint.status_fd.is_some() && !checkpoint.asked.lazy_pages {
        return Err(fail(Kind::Usage, "--status-fd needs --lazy-pages"));
    }
    Ok(checkpoint)
}

pub(super) fn images(m: &ArgMatches) -> PathBuf {
    read::path(m, "image-path").unwrap_or_else(|| PathBuf::from("checkpoint"))
}

/// Reads what both verbs ask of CRIU.
pub(super) fn asked(m: &ArgMatches) -> Result<Asked> {
    let mode = |word: &str| match word {
        "soft" => Some(CgroupsMode::Soft),
        "full" => Some(CgroupsMode::Full),
        "strict" => Some(CgroupsMode::Strict),
        "ignore" => Some(CgroupsMode::Ignore),
        _ => None,
    };
    if let Some(kind) = read::many::<String>(m, "empty-ns").iter().find(|kind| *kind != "network") {
        return Err(fail(
            Kind::Usage,
            format!("--empty-ns: namespace {kind:?} is not supported (hint: network)"),
        ));
    }
    Ok(Asked {
        tcp_established: read::flag(m, "tcp-established"),
        ext_unix_sk: read::flag(m, "ext-unix-sk"),
        shell_job: read::flag(m, "shell-job"),
        file_locks: read::flag(m, "file-locks"),
        lazy_pages: read::flag(m, "lazy-pages"),
        auto_dedup: read::flag(m, "auto-dedup"),
        cgroups_mode: read::word(m, "manage-cgroups-mode", "soft, full, strict or ignore", mode)?,
    })
}

/// Reads `ADDRESS:PORT`. An IPv6 address is in brackets.
fn page_server(text: &str) -> Result<(String, u16)> {
    let wrong = || fail(Kind::Usage, format!("--page-server {text:?} is not ADDRESS:PORT"));
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    if address.is_empty() { Err(wrong()) } else { Ok((address.into(), port)) }
}

/// Refuses a caller who is not the host's root, as CRIU would, later and in other words.
pub(super) fn require_root() -> Result<()> {
    if task::euid() == 0 && !host::in_user_namespace()? {
        return Ok(());
    }
    Err(fail(Kind::Unsupported, "only the host's root saves and restores processes with CRIU"))
}

pub(super) fn run(globals: &Globals, args: &Checkpoint) -> Result<()> {
    require_root()?;
    // Before anything else is opened, which could get its number.
    let status_fd = args.status_fd.map(status_fd).transpose()?;
    fs::close_on_exec_from(3)?;
    let (dir, record) = super::open_locked(globals, &args.id)?;
    let status = super::status(&dir, &record)?;
    if !matches!(status, Status::Running | Status::Paused) {
        return Err(fail(Kind::WrongStatus, format!("cannot checkpoint a container that is {status}")));
    }
    let program = criu::program(globals.criu.as_deref())?;
    let kept = config::parse(dir.load_config()?)?;
    let create = Create { id: args.id.clone(), bundle: record.bundle.clone(), ..Create::default() };
    let notify_socket = state::root(globals.root.as_deref())?.join(&args.id).join(NOTIFY_SOCKET);
    let notify_socket = notify_socket.exists().then_some(&*notify_socket);
    let plan = decide(globals, &create, &record.bundle, &kept.spec, notify_socket)?.plan;
    let config_file = config_file(&record.annotations.clone().into_iter().collect(), &record.rootfs)?;
    let directories = Directories::make(&args.images, args.work.as_deref())?;
    if let Some(parent) = &args.parent {
        check_parent(&directories, parent)?;
    }
    let dump = Dump {
        record: &record,
        plan: &plan,
        proc: host::procfs()?,
        program: &program,
        directories: &directories,
        asked: &args.asked,
        config_file,
        parent: args.parent.clone(),
        page_server: args.page_server.clone(),
        leave_running: args.leave_running,
        pre_dump: args.pre_dump,
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        link_remap: args.link_remap,
        network_lock: args.network_lock,
        status_fd: status_fd.as_ref().map(AsFd::as_fd),
    };
    dump.run(status == Status::Paused)?;
    log::info(|| format!("container {}: checkpoint in {}", record.id, args.images.display()));
    show_stats(&directories, stats::DUMP, args.print_stats);
    if args.leave_running || args.pre_dump { Ok(()) } else { leftover::remove(dir, record) }
}

/// Prints CRIU's statistics if they are asked for, and tells them to the log. The work is done, so an error is only a warning.
pub(super) fn show_stats(directories: &Directories, name: &str, print: bool) {
    let stats = stats::read(directories.work.as_fd(), name);
    stats.iter().for_each(|stats| log::debug(|| format!("criu: {name}: {stats}")));
    let printed = match stats {
        _ if !print => return,
        Some(stats) => super::print(&format!("{stats}\n")),
        None => Err(fail(Kind::Os, format!("CRIU has written no {name}"))),
    };
    if let Err(e) = printed {
        log::warn(format!("--print-stats: {e:#}, ignoring"));
    }
}

/// Returns the descriptor that the caller has left for `--status-fd`.
fn status_fd(number: u32) -> Result<OwnedFd> {
    let refuse = |why: &str| fail(Kind::Usage, format!("--status-fd {number}: {why}"));
    let given = i32::try_from(number).ok().filter(|number| *number > 2);
    let number = given.ok_or_else(|| refuse("is not the number of a further descriptor"))?;
    if fs::inherited(host::procfs()?, number, 1)?.is_empty() {
        return Err(refuse("is not open"));
    }
    fs::take_for_writing(number).map_err(|_| refuse("is not open for writing"))
}

/// Checks `--parent-path`, which CRIU keeps in the images as a relative link.
fn check_parent(directories: &Directories, parent: &str) -> Result<()> {
    let parent = Path::new(parent);
    if parent.is_absolute() {
        return Err(fail(Kind::Usage, "--parent-path: must be relative to --image-path"));
    }
    match fs::open(directories.images.as_fd(), parent, fs::O_PATH | fs::O_DIRECTORY, 0) {
        Ok(_) => Ok(()),
        Err(e) => Err(fail(Kind::Usage, format!("--parent-path, from --image-path: {e}"))),
    }
}

/// Returns CRIU's configuration file: that of the annotation, none if the annotation is empty, or else one for all containers.
///
/// CRIU runs programs that such a file names, as root. Therefore a file of the annotation must belong to root alone, and must
/// not be one of the container's.
pub(super) fn config_file(annotations: &HashMap<String, String>, rootfs: &Path) -> Result<Option<String>> {
    let Some(file) = annotations.get(ANNOTATION) else {
        let exists = CONFIG_FILES.iter().find(|file| Path::new(file).exists());
        return Ok(exists.map(ToString::to_string));
    };
    if file.is_empty() {
        return Ok(None);
    }
    let refuse = |why: &str| fail(Kind::Config, format!("annotations[{ANNOTATION:?}]: {file} {why}"));
    let path = Path::new(file);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(refuse("is not an absolute path without \"..\""));
    }
    let real = std::fs::canonicalize(path).map_err(|e| refuse(&format!("cannot be read: {e}")))?;
    let inside = std::fs::canonicalize(rootfs).is_ok_and(|rootfs| real.starts_with(rootfs));
    let metadata = std::fs::metadata(&real).map_err(|e| refuse(&format!("cannot be read: {e}")))?;
    if inside || metadata.uid() != 0 || metadata.mode() & 0o022 != 0 || !metadata.is_file() {
        return Err(refuse("must be a file that only root can write, and not the container's own"));
    }
    Ok(real.to_str().map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_servers_have_an_address_and_a_port() {
        for (text, expected) in [
            ("127.0.0.1:27", Some(("127.0.0.1", 27))),
            ("[::1]:1234", Some(("::1", 1234))),
            ("host:0", None),
            (":80", None),
            ("host", None),
            ("host:70000", None),
        ] {
            let expected = expected.map(|(address, port)| (address.to_string(), port));
            assert_eq!(page_server(text).ok(), expected, "{text}");
        }
    }
}
