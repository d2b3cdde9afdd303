//! The id mappings of user namespaces, and writing them as root or through newuidmap(1).

use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::LinuxIdMapping;

use crate::error::{Context, Kind, Notes, Result, fail};
use crate::process::users;
use crate::sys::{self, fs, socket, task};
use crate::trace;

/// One row of a `uid_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    pub container: u32,
    pub host: u32,
    pub size: u32,
}

impl IdMap {
    /// Returns whether the row maps an id of the host.
    pub(crate) fn has_host(&self, id: u32) -> bool {
        id.checked_sub(self.host).is_some_and(|n| n < self.size)
    }

    /// Returns the ids inside: `0 to 999`, or `0` for one id.
    pub(crate) fn inside(&self) -> String {
        range(self.container, self.size)
    }
}

fn range(first: u32, size: u32) -> String {
    if size == 1 {
        first.to_string()
    } else {
        format!("{first} to {}", u64::from(first) + u64::from(size) - 1)
    }
}

/// The kernel's limit on the number of rows (user_namespaces(7)).
const ROWS_MAX: usize = 340;

/// Plans the rows, and checks them.
pub(crate) fn plan(mappings: Option<&[LinuxIdMapping]>, place: &str, notes: &mut Notes) -> Vec<IdMap> {
    let rows: Vec<IdMap> = mappings
        .unwrap_or_default()
        .iter()
        .map(|m| IdMap { container: m.container_id(), host: m.host_id(), size: m.size() })
        .collect();
    check(&rows, place, notes);
    rows
}

/// Reports what the kernel would refuse with only EINVAL.
pub(crate) fn check(rows: &[IdMap], place: &str, notes: &mut Notes) {
    if rows.len() > ROWS_MAX {
        notes.problem(place, format_args!("{} rows are more than {ROWS_MAX}", rows.len()));
    }
    let overlap = |a: u32, b: u32, size_a: u32, size_b: u32| {
        u64::from(a) < u64::from(b) + u64::from(size_b) && u64::from(b) < u64::from(a) + u64::from(size_a)
    };
    for (i, row) in rows.iter().enumerate() {
        if row.size == 0 {
            notes.problem(format_args!("{place}[{i}].size"), "is 0");
        }
        // The last id is the value for "no id".
        for (name, first) in [("containerID", row.container), ("hostID", row.host)] {
            if u64::from(first) + u64::from(row.size) > u64::from(u32::MAX) {
                notes.problem(format_args!("{place}[{i}].{name}"), "with size goes beyond the last id");
            }
        }
        for other in &rows[..i] {
            if overlap(row.container, other.container, row.size, other.size)
                || overlap(row.host, other.host, row.size, other.size)
            {
                notes.problem(format_args!("{place}[{i}]"), "overlaps an earlier row");
                break;
            }
        }
    }
}

/// Parses mappings in crun's form, `uids=0-1000-1#1-100000-65536;gids=...`. The three numbers of a row are the first id in the
/// file system, the first id on the host, and the size. After an `@`, the second one is an id of the container, whose own
/// mappings `own` (of uids and gids) translate it.
pub(crate) fn parse(text: &str, own: [&[LinuxIdMapping]; 2]) -> std::result::Result<[Vec<IdMap>; 2], String> {
    let mut maps = [Vec::new(), Vec::new()];
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let which = ["uids=", "gids="].iter().position(|name| part.starts_with(name));
        let which = which.ok_or_else(|| format!("{part:?} begins neither with uids= nor with gids="))?;
        for row in part[5..].split('#').filter(|row| !row.is_empty()) {
            maps[which].push(parse_row(row, own[which]).map_err(|why| format!("{row:?} {why}"))?);
        }
    }
    Ok(maps)
}

fn parse_row(row: &str, own: &[LinuxIdMapping]) -> std::result::Result<IdMap, &'static str> {
    let (relative, numbers) = row.strip_prefix('@').map_or((false, row), |rest| (true, rest));
    let numbers: Vec<u32> = numbers.split('-').map_while(|number| number.parse().ok()).collect();
    let (&[container, mut host, size], 2) = (numbers.as_slice(), row.matches('-').count()) else {
        return Err("is not three numbers with - between them");
    };
    if relative {
        let translate = |row: &LinuxIdMapping| {
            let inside = host.checked_sub(row.container_id()).filter(|n| *n < row.size());
            inside.map(|n| row.host_id().saturating_add(n))
        };
        let unmapped = "is relative to an id that the container does not map";
        host = own.iter().find_map(translate).ok_or(unmapped)?;
    }
    Ok(IdMap { container, host, size })
}

/// Returns the host's id for an id of the container, or `None` if it is not mapped.
#[must_use]
pub(crate) fn to_host(map: &[IdMap], id: u32) -> Option<u32> {
    map.iter().find_map(|row| id.checked_sub(row.container).filter(|n| *n < row.size).map(|n| row.host + n))
}

/// Reads the maps of the user namespace of process `pid`, as they are seen from the runtime's. `proc` is the host's procfs.
pub(crate) fn read(proc: BorrowedFd, pid: i32) -> Result<[Vec<IdMap>; 2]> {
    let read = |name: &str| {
        let text = fs::read_text(proc, &Path::new(&pid.to_string()).join(name))?;
        parse_map(&text).with_context(|| format!("{name}: not understood"))
    };
    Ok([read("uid_map")?, read("gid_map")?])
}

/// Parses the text of /proc/PID/uid_map and gid_map.
fn parse_map(text: &str) -> Option<Vec<IdMap>> {
    let row = |line: &str| {
        let numbers: Option<Vec<u32>> = line.split_ascii_whitespace().map(|n| n.parse().ok()).collect();
        let [container, host, size] = numbers?.try_into().ok()?;
        Some(IdMap { container, host, size })
    };
    text.lines().map(row).collect()
}

/// Returns whether two maps translate every id in the same way, whatever their rows are.
fn same(a: &[IdMap], b: &[IdMap]) -> bool {
    merged(a) == merged(b)
}

/// Returns the rows of a map in the order of their ids, with as few rows as possible.
fn merged(map: &[IdMap]) -> Vec<IdMap> {
    let mut rows = map.to_vec();
    rows.sort_unstable_by_key(|row| row.container);
    rows.dedup_by(|next, row| {
        let follows = |first: u32, before: u32| row.size.checked_add(before) == Some(first);
        let joins = follows(next.container, row.container) && follows(next.host, row.host);
        if joins {
            row.size += next.size;
        }
        joins
    });
    rows
}

/// Compares the maps of the configuration with those of the user namespace that the container joins, which the process `pid`
/// is in. Returns the latter. Engines add the mappings to a joined namespace as a description.
pub(crate) fn check_joined(
    proc: BorrowedFd,
    pid: i32,
    uid_map: &[IdMap],
    gid_map: &[IdMap],
) -> Result<[Vec<IdMap>; 2]> {
    let found = read(proc, pid)?;
    let rows = [("linux.uidMappings", uid_map, &found[0]), ("linux.gidMappings", gid_map, &found[1])];
    for (place, given, found) in rows {
        if !given.is_empty() && !same(given, found) {
            let rows = lines(found).trim_end().replace('\n', ", ");
            let text = format!("{place}: the joined user namespace has other mappings: {rows}");
            return Err(fail(Kind::Config, text));
        }
    }
    Ok(found)
}

fn lines(map: &[IdMap]) -> String {
    let mut text = String::new();
    for row in map {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {} {}", row.container, row.host, row.size);
    }
    text
}

/// Writes the maps of the new user namespace of process `pid`. `proc` is the host's procfs.
///
/// For a user without rights over the mapped ids the setuid helpers of shadow write them. If only the caller's own ids are
/// mapped, the kernel permits it after setgroups is denied (CVE-2014-8989).
pub(crate) fn write(proc: BorrowedFd, pid: i32, uid_map: &[IdMap], gid_map: &[IdMap]) -> Result<()> {
    let _phase = trace::phase_of("id maps", || {
        let shown = |map| lines(map).trim_end().replace('\n', ", ");
        format!("of process {pid}: uid {}; gid {}", shown(uid_map), shown(gid_map))
    });
    let file = |name: &str| Path::new(&pid.to_string()).join(name);
    let direct = fs::write_at(proc, &file("uid_map"), lines(uid_map).as_bytes());
    match direct {
        Ok(()) => {
            let gids = || fs::write_at(proc, &file("gid_map"), lines(gid_map).as_bytes());
            match gids() {
                Err(e) if e.errno == Errno::EPERM && only_own(gid_map, task::egid()) => {
                    fs::write_at(proc, &file("setgroups"), b"deny").context("linux.gidMappings")?;
                    gids().context("linux.gidMappings")
                }
                Err(e) if e.errno == Errno::EPERM => HELPERS[1].write(pid, gid_map),
                other => other.context("linux.gidMappings"),
            }
        }
        Err(e) if e.errno == Errno::EPERM && task::euid() != 0 => {
            HELPERS[0].write(pid, uid_map)?;
            HELPERS[1].write(pid, gid_map)
        }
        Err(e) => Err(e).context("linux.uidMappings"),
    }
}

/// Returns whether the map is the single row that a user may write without rights.
fn only_own(map: &[IdMap], own: u32) -> bool {
    matches!(map, [row] if row.host == own && row.size == 1)
}

/// Returns whether [`write`] needs the setuid helpers, for a caller who is not root.
#[must_use]
pub(crate) fn needs_helpers(uid_map: &[IdMap], gid_map: &[IdMap]) -> bool {
    task::euid() != 0 && !(only_own(uid_map, task::euid()) && only_own(gid_map, task::egid()))
}

/// A setuid program that writes the map of a caller who is not root, of the ids that a file delegates to the
/// caller.
pub(crate) struct Helper {
    pub(crate) place: &'static str,
    pub(crate) program: &'static str,
    file: &'static str,
    /// The option of usermod(8) that delegates ids.
    option: &'static str,
    own: fn() -> u32,
}

/// The helper of the users' ids, and that of the groups'.
pub(crate) const HELPERS: [Helper; 2] = [
    Helper {
        place: "linux.uidMappings",
        program: "newuidmap",
        file: "/etc/subuid",
        option: "--add-subuids",
        own: task::euid,
    },
    Helper {
        place: "linux.gidMappings",
        program: "newgidmap",
        file: "/etc/subgid",
        option: "--add-subgids",
        own: task::egid,
    },
];

impl Helper {
    /// Returns how many ids the file delegates to a user with these names.
    #[must_use]
    pub(crate) fn delegated(&self, names: &[String]) -> u64 {
        ranges(&text(self.file), names).iter().map(|(_, count)| count).sum()
    }

    /// Returns a text about each row that the file does not delegate to the caller.
    #[must_use]
    pub(crate) fn undelegated(&self, map: &[IdMap]) -> Vec<String> {
        self.missing(map, &text(self.file), &names(task::euid()), (self.own)())
    }

    /// Of the ids on the host, a user may always map the own one.
    fn missing(&self, map: &[IdMap], text: &str, names: &[String], own: u32) -> Vec<String> {
        let Self { file, option, .. } = self;
        let (ranges, user) = (ranges(text, names), names.first().map_or("", String::as_str));
        let missing = |row: &IdMap| {
            let (first, last) = (u64::from(row.host), u64::from(row.host) + u64::from(row.size) - 1);
            let delegated = ranges.iter().any(|(start, count)| *start <= first && last < start + count);
            let ids = if first == last { first.to_string() } else { format!("{first}-{last}") };
            let text = format!(
                "{file} delegates no ids {ids} to {user} (hint: usermod {option} {first}-{last} {user})"
            );
            (!delegated && (row.host != own || row.size != 1)).then_some(text)
        };
        map.iter().filter_map(missing).collect()
    }

    fn write(&self, pid: i32, map: &[IdMap]) -> Result<()> {
        let Self { place, program, .. } = self;
        let mut command = std::process::Command::new(program);
        command.arg(pid.to_string());
        for row in map {
            command.args([row.container.to_string(), row.host.to_string(), row.size.to_string()]);
        }
        let output = command.output().map_err(|e| {
            let error = sys::Error::of_std(*program, &e);
            fail(Kind::Unsupported, format!("{error} (hint: rootless containers need the package uidmap)"))
        })?;
        if output.status.success() {
            return Ok(());
        }
        let reason = reason(program, &String::from_utf8_lossy(&output.stderr));
        let missing = self.undelegated(map).first().map_or_else(String::new, |text| format!(": {text}"));
        Err(fail(Kind::Os, format!("{place}: {reason}{missing}")))
    }
}

/// Returns a user's name, if it has one, and the id. The files of subuid(5) can have both.
#[must_use]
pub(crate) fn names(uid: u32) -> Vec<String> {
    users::name(text("/etc/passwd").as_bytes(), uid).into_iter().chain([uid.to_string()]).collect()
}

/// Returns the text of a file of the host, which is empty if it cannot be read.
fn text(path: &str) -> String {
    fs::read_text(fs::CWD, Path::new(path)).unwrap_or_default()
}

/// Returns the first id and the count of each range that a file of subuid(5) has for these names.
fn ranges(file: &str, names: &[String]) -> Vec<(u64, u64)> {
    let range = |line: &str| {
        let mut fields = line.split(':').map(str::trim);
        let name = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        names.iter().any(|known| known == name).then_some((first, count))
    };
    file.lines().filter_map(range).collect()
}

/// Returns the first line that a helper printed, which begins with the helper's name.
fn reason(program: &str, printed: &str) -> String {
    let line = printed.lines().next().unwrap_or("failed without a message");
    let named = line.strip_prefix(program).is_some_and(|rest| rest.starts_with(':'));
    if named { line.to_string() } else { format!("{program}: {line}") }
}

/// Makes a user namespace with these maps, for idmapped mounts. A process that only waits keeps it alive until it is opened.
pub(crate) fn user_namespace(
    proc: BorrowedFd,
    uid_map: &[IdMap],
    gid_map: &[IdMap],
) -> Result<std::os::fd::OwnedFd> {
    let (ours, theirs) = socket::channel()?;
    match task::clone3(libc::CLONE_NEWUSER as u64, None)? {
        task::Forked::Child => {
            drop(ours);
            // Wait until the runtime kills this process, or ends.
            let _ = socket::receive(theirs.as_fd());
            task::exit_now(0)
        }
        task::Forked::Parent { pid, pidfd } => {
            let opened = write(proc, pid, uid_map, gid_map).and_then(|()| {
                Ok(fs::open(proc, &Path::new(&pid.to_string()).join("ns/user"), fs::O_RDONLY, 0)?)
            });
            task::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)?;
            task::wait(pidfd.as_fd())?;
            opened
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_and_compared_by_what_they_translate() {
        let text = "         0     100000      65536\n     65536        500          1\n";
        let map = parse_map(text).unwrap();
        assert_eq!(lines(&map), "0 100000 65536\n65536 500 1\n");
        for broken in ["0 1", "0 1 2 3", "0 1 x", "0 -1 2", "0 4294967296 1", "\n"] {
            assert_eq!(parse_map(broken), None, "{broken:?}");
        }
        let row = |container, host, size| IdMap { container, host, size };
        for (other, expected) in [
            (vec![row(65536, 500, 1), row(0, 100_000, 65536)], true),
            (vec![row(0, 100_000, 1), row(1, 100_001, 65535), row(65536, 500, 1)], true),
            (vec![row(0, 100_000, 65536)], false),
            (vec![row(0, 100_000, 65536), row(65536, 501, 1)], false),
            (vec![row(0, 100_001, 65536), row(65536, 500, 1)], false),
            (vec![row(0, 100_000, 65535), row(65535, 165_536, 1), row(65536, 500, 1)], false),
            (vec![], false),
        ] {
            assert_eq!(same(&map, &other), expected, "{other:?}");
        }
        let last = [row(0, 0, u32::MAX)];
        assert!(same(&last, &last));
    }

    #[test]
    fn ids_are_delegated_by_a_file() {
        let file = "# comment\nother:100000:65536\nme:200000:65536\n1000:500000:10\nme:x:1\nme:9";
        let names = ["me".to_string(), "1000".to_string()];
        let row = |host, size| IdMap { container: 0, host, size };
        for (host, size, delegated) in [
            (200_000, 65536, true),
            (200_000, 65537, false),
            (265_535, 1, true),
            (100_000, 1, false),
            (500_009, 1, true),
            (1000, 1, true),
            (1000, 2, false),
            (0, 1, false),
        ] {
            assert_eq!(
                HELPERS[0].missing(&[row(host, size)], file, &names, 1000).is_empty(),
                delegated,
                "{host} {size}"
            );
        }
    }

    #[test]
    fn the_missing_entry_of_subuid_is_named() {
        let row = |host: u32, size: u32| IdMap { container: 0, host, size };
        let names = ["alice".to_string(), "1000".into()];
        let missing = "/etc/subuid delegates no ids 100000-165535 to alice (hint: usermod --add-subuids \
                       100000-165535 alice)";
        let map = [row(1000, 1), row(100_000, 65536)];
        for (text, expected) in [
            ("", missing),
            ("bob:100000:65536\n", missing),
            ("alice:100000:65535\n", missing),
            ("alice:100001:65536\n", missing),
            ("alice:x:y\n", missing),
            ("alice:100000:65536\n", ""),
            ("x\n1000:1:1000000\n", ""),
        ] {
            assert_eq!(HELPERS[0].missing(&map, text, &names, 1000).join("; "), expected, "{text}");
        }
    }

    #[test]
    fn the_message_of_a_helper_names_it_once() {
        for (printed, expected) in [
            (
                "newuidmap: write to uid_map failed: Operation not permitted\nx\n",
                "newuidmap: write to uid_map failed: Operation not permitted",
            ),
            ("usage: newuidmap\n", "newuidmap: usage: newuidmap"),
            ("", "newuidmap: failed without a message"),
        ] {
            assert_eq!(reason("newuidmap", printed), expected);
        }
    }

    #[test]
    fn crun_s_form_of_mappings_is_read() {
        let rows = |text: &str| -> Vec<LinuxIdMapping> { serde_json::from_str(text).unwrap() };
        // crun(1) has this example: the container maps 1 to 2, and so its 3 is the host's 4.
        let own = rows(
            r#"[{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": 2, "size": 1000}]"#,
        );
        let read = |text: &str| {
            let maps = parse(text, [&own, &[]])?;
            Ok(maps.map(|map| map.iter().map(|m| [m.container, m.host, m.size]).collect::<Vec<_>>()))
        };
        for (text, expected) in [
            ("uids=0-1-10#10-11-10;gids=0-100-10", Ok([vec![[0, 1, 10], [10, 11, 10]], vec![[0, 100, 10]]])),
            ("uids=@1-3-10", Ok([vec![[1, 4, 10]], vec![]])),
            ("gids=0-0-1;uids=0-0-1;", Ok([vec![[0, 0, 1]], vec![[0, 0, 1]]])),
            ("", Ok([vec![], vec![]])),
            ("uids=@0-2000-1", Err(r#""@0-2000-1" is relative to an id that the container does not map"#)),
            ("gids=@0-0-1", Err(r#""@0-0-1" is relative to an id that the container does not map"#)),
            ("uids=0-1", Err(r#""0-1" is not three numbers with - between them"#)),
            ("uids=0-1-2-3", Err(r#""0-1-2-3" is not three numbers with - between them"#)),
            ("uids=0-x-2", Err(r#""0-x-2" is not three numbers with - between them"#)),
            ("uids=0-4294967296-1", Err(r#""0-4294967296-1" is not three numbers with - between them"#)),
            ("users=0-1-2", Err(r#""users=0-1-2" begins neither with uids= nor with gids="#)),
        ] {
            assert_eq!(read(text), expected.map_err(String::from), "{text}");
        }
    }

    #[test]
    fn rows_are_checked_and_translated() {
        let map =
            [IdMap { container: 0, host: 1000, size: 1 }, IdMap { container: 1, host: 100_000, size: 65536 }];
        for (id, expected) in [(0, Some(1000)), (1, Some(100_000)), (65536, Some(165_535)), (65537, None)] {
            assert_eq!(to_host(&map, id), expected);
        }
        assert_eq!(lines(&map), "0 1000 1\n1 100000 65536\n");
        for (json, expected) in [
            (r#"[{"containerID": 0, "hostID": 0, "size": 0}]"#, "m[0].size: is 0"),
            (
                r#"[{"containerID": 0, "hostID": 0, "size": 10}, {"containerID": 9, "hostID": 20, "size": 1}]"#,
                "m[1]: overlaps an earlier row",
            ),
            (
                r#"[{"containerID": 4294967295, "hostID": 0, "size": 1}]"#,
                "m[0].containerID: with size goes beyond the last id",
            ),
        ] {
            let rows: Vec<LinuxIdMapping> = serde_json::from_str(json).unwrap();
            let mut notes = Notes::default();
            plan(Some(&rows), "m", &mut notes);
            assert_eq!(notes.problems.to_string(), expected);
        }
    }
}
