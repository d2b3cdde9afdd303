//! Device nodes and the links of /dev (config-linux.md#devices, #default-devices, config.md's /dev symbolic
//! links).

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType};

use super::Plan;
use super::mounts::names;
use super::resolve::{self, Missing};
use super::root::{HOSTS_NODE, Root};
use super::sources::Runtime;
use super::targets::Shut;
use crate::error::{Context, Kind, Notes, Result, fail};
use crate::sys::mount::{self, Depth};
use crate::sys::{self, fs};
use crate::trace;

/// A node to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its place in config.json, for errors.
    pub place: String,
    pub path: PathBuf,
    /// The type, as for mknod(2).
    pub kind: u32,
    pub major: u32,
    pub minor: u32,
    /// The configuration has these three only if it says what they are.
    pub permissions: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// It is one of the default devices, and the configuration says nothing about it.
    pub default: bool,
}

impl Device {
    /// Returns the type and the permissions, as for mknod(2).
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.kind | self.permissions.unwrap_or(0o666)
    }

    /// Returns the user and the group that own the node in the container.
    #[must_use]
    pub fn owner(&self) -> (u32, u32) {
        (self.uid.unwrap_or(0), self.gid.unwrap_or(0))
    }

    #[must_use]
    pub(super) fn number(&self) -> u64 {
        libc::makedev(self.major, self.minor)
    }

    #[must_use]
    pub(super) fn is_fifo(&self) -> bool {
        self.kind == libc::S_IFIFO
    }

    /// Returns the device for errors and warnings.
    pub(super) fn shown(&self) -> String {
        format!("{} {}", self.place, self.path.display())
    }
}

/// Name, major, minor.
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Name, target.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Plans the default devices, if asked to, and the given ones, which replace default ones of the same path.
pub(super) fn plan(linux: Option<&Linux>, default: bool, notes: &mut Notes) -> Vec<Device> {
    let mut devices: BTreeMap<PathBuf, Device> = BTreeMap::new();
    if default {
        for (name, major, minor) in DEFAULT {
            let path = Path::new("/dev").join(name);
            let place = format!("default device {}", path.display());
            let (permissions, uid, gid) = (None, None, None);
            let kind = libc::S_IFCHR;
            let device = Device { place, path, kind, major, minor, permissions, uid, gid, default: true };
            devices.insert(device.path.clone(), device);
        }
    }
    let given = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    for (i, device) in given.iter().enumerate() {
        match planned(device, format!("linux.devices[{i}]"), notes) {
            // Engines list every node of the host for a privileged container, the multiplexer too.
            Some(device) if default && names(&device.path, PTMX) => check_ptmx(&device, notes),
            Some(device) => drop(devices.insert(device.path.clone(), device)),
            None => {}
        }
    }
    devices.into_values().collect()
}

/// The default link to the multiplexer of the container's own devpts. It replaces every other file.
const PTMX: &str = "/dev/ptmx";

/// Reports a device that the default link would replace, unless it is the multiplexer itself.
fn check_ptmx(device: &Device, notes: &mut Notes) {
    if (device.kind, device.major, device.minor) != (libc::S_IFCHR, 5, 2) {
        let what = "/dev/ptmx is the multiplexer of /dev/pts (config-linux.md#default-devices)";
        notes.problem(format_args!("{}.path", device.place), what);
    }
}

fn planned(device: &LinuxDevice, place: String, notes: &mut Notes) -> Option<Device> {
    let before = notes.problems.0.len();
    let path = device.path();
    if !path.is_absolute() || path.file_name().is_none() || path.as_os_str().as_bytes().contains(&0) {
        notes.problem(
            format_args!("{place}.path"),
            format_args!("{path:?} is not the absolute path of a file"),
        );
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => {
            notes.problem(format_args!("{place}.type"), "\"a\" is not the type of a device");
            0
        }
    };
    // A fifo has no number.
    let mut number = |name: &str, value: i64| {
        let value = if kind == libc::S_IFIFO { 0 } else { value };
        u32::try_from(value).unwrap_or_else(|_| {
            notes.problem(format_args!("{place}.{name}"), format_args!("{value} is not a device number"));
            0
        })
    };
    let (major, minor) = (number("major", device.major()), number("minor", device.minor()));
    // An absent number is read as 0, and no driver has 0:0.
    if kind != libc::S_IFIFO && (major, minor) == (0, 0) && notes.problems.0.len() == before {
        notes.problem(format_args!("{place}.major"), "major and minor are required");
    }
    if let Some(mode) = device.file_mode().filter(|mode| mode & !0o7777 & !libc::S_IFMT != 0) {
        notes.problem(format_args!("{place}.fileMode"), format_args!("{mode:#o} is not a mode"));
    }
    let permissions = device.file_mode().map(|mode| mode & 0o7777);
    let (path, uid, gid) = (path.clone(), device.uid(), device.gid());
    let device = Device { place, path, kind, major, minor, permissions, uid, gid, default: false };
    (notes.problems.0.len() == before).then_some(device)
}

/// Makes all nodes and links. The umask must be 0. A directory is opened once for consecutive nodes.
pub(super) fn apply(root: &Root, plan: &Plan, runtime: &Runtime) -> Result<()> {
    let _phase = trace::phase_of("devices", || {
        plan.devices.iter().map(|device| device.path.to_string_lossy()).collect::<Vec<_>>().join(" ")
    });
    let dev = nodes(root, plan, runtime)?;
    if plan.default_devices { links(root, dev) } else { Ok(()) }
}

/// Makes the nodes. Returns the directory of the last one, which usually is /dev.
fn nodes<'a>(root: &Root, plan: &'a Plan, runtime: &Runtime) -> Result<Option<(&'a Path, OwnedFd)>> {
    let mut open: Option<(&Path, OwnedFd)> = None;
    for (index, device) in plan.devices.iter().enumerate() {
        let at = || device.shown();
        let parent = device.path.parent().unwrap_or(Path::new("/"));
        if plan.must_exist(device) {
            check_exists(root, device).with_context(at)?;
            continue;
        }
        let dir = match open.take() {
            Some((path, dir)) if path == parent => dir,
            _ => directory(root, parent).with_context(at)?,
        };
        // The plan has checked that the path has a name.
        let name = Path::new(device.path.file_name().unwrap_or_default());
        node(root, dir.as_fd(), name, plan, index, runtime).with_context(at)?;
        open = Some((parent, dir));
    }
    Ok(open)
}

/// Opens a directory to make nodes and links in. It is never in a volume because of a link of the image, neither one that leads
/// to the volume nor one that has led the volume to /dev.
fn directory(root: &Root, path: &Path) -> Result<OwnedFd> {
    Ok(root.reach(path, Some(Missing::Directory), Shut::Binds)?.fd)
}

fn node(
    root: &Root,
    dir: BorrowedFd,
    name: &Path,
    plan: &Plan,
    index: usize,
    runtime: &Runtime,
) -> Result<()> {
    let device = &plan.devices[index];
    // The kernel lets no process in a user namespace make a device.
    if plan.facts.user_namespace && !device.is_fifo() {
        let ahead = if plan.is_ahead(device) { root.ahead(index)? } else { None };
        let tree = ahead.map_or_else(|| hosts(root, device, runtime), Ok)?;
        return bind(dir, name, device, &tree);
    }
    match fs::mknodat(dir, name, device.mode(), device.number()) {
        Ok(()) if device.owner() == (0, 0) => Ok(()),
        Ok(()) => set_owner(dir, name, device),
        Err(e) if e.errno == Errno::EEXIST => check_same(dir, name, device).map(drop),
        Err(e) if e.errno == Errno::EPERM && !device.is_fifo() => {
            bind(dir, name, device, &hosts(root, device, runtime)?)
        }
        Err(e) => Err(e.into()),
    }
}

/// Sets the owner of a node by descriptor: in a shared directory its name may refer to another file already.
fn set_owner(dir: BorrowedFd, name: &Path, device: &Device) -> Result<()> {
    let made = check_same(dir, name, device)?;
    let (uid, gid) = device.owner();
    Ok(fs::chown(made.as_fd(), Path::new(""), uid, gid)?)
}

/// Checks that a device exists.
fn check_exists(root: &Root, device: &Device) -> Result<()> {
    match resolve::open(root.fd(), &device.path) {
        Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENOTDIR) => {
            Err(fail(Kind::Config, "does not exist, and no device is made in a bind mount on /dev"))
        }
        found => check(found?.as_fd(), device, "there").map(drop),
    }
}

/// Opens an existing file, which must be the device (config-linux.md#devices).
fn check_same(dir: BorrowedFd, name: &Path, device: &Device) -> Result<OwnedFd> {
    let found = fs::open(dir, name, fs::O_PATH | fs::O_NOFOLLOW, 0)?;
    check(found.as_fd(), device, "there")?;
    Ok(found)
}

/// Compares a file with a device. Returns its attributes.
fn check(found: BorrowedFd, device: &Device, whose: &str) -> Result<libc::stat> {
    let stat = fs::fstat(found)?;
    let same_type = stat.st_mode & libc::S_IFMT == device.kind;
    if same_type && (stat.st_rdev == device.number() || device.is_fifo()) {
        return Ok(stat);
    }
    let (is, wanted) = (describe(stat.st_mode, stat.st_rdev), describe(device.kind, device.number()));
    Err(fail(Kind::Config, format!("{whose} is a {is}, not the {wanted}")))
}

/// Returns the type of a file, and the number of a device, for errors.
fn describe(mode: u32, number: u64) -> String {
    let device = |kind| format!("{kind} device {}:{}", libc::major(number), libc::minor(number));
    match mode & libc::S_IFMT {
        libc::S_IFCHR => device("character"),
        libc::S_IFBLK => device("block"),
        libc::S_IFIFO => "fifo".into(),
        libc::S_IFREG => "regular file".into(),
        libc::S_IFDIR => "directory".into(),
        libc::S_IFLNK => "symbolic link".into(),
        _ => "socket".into(),
    }
}

/// Attaches a copy of a device's node. An empty file is taken for a mount point that an earlier container has made.
fn bind(dir: BorrowedFd, name: &Path, device: &Device, tree: &OwnedFd) -> Result<()> {
    let flags = fs::O_CREAT | fs::O_WRONLY | fs::O_NOFOLLOW | libc::O_NONBLOCK;
    let target = match fs::open(dir, name, fs::O_PATH | fs::O_NOFOLLOW, 0) {
        Err(e) if e.errno == Errno::ENOENT => fs::open(dir, name, flags | fs::O_EXCL, 0o644)?,
        other => other?,
    };
    let stat = fs::fstat(target.as_fd())?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_size == 0 {
        return Ok(mount::move_mount(tree.as_fd(), target.as_fd())?);
    }
    check(target.as_fd(), device, "there").map(drop)
}

/// Returns a copy of the host's node. Warns of what the configuration asks for and that node does not have.
fn hosts(root: &Root, device: &Device, runtime: &Runtime) -> Result<OwnedFd> {
    let tree = match root.copy_of_host(&device.path, Depth::One) {
        Err(e) if matches!(sys::errno(&e), Some(Errno::ENOENT | Errno::ENOTDIR)) => {
            let what = "the runtime may not make device nodes here, and the host has none at this path";
            return Err(fail(Kind::Unsupported, what));
        }
        tree => tree?,
    };
    let stat = check(tree.as_fd(), device, "the host's")?;
    mount::mount_setattr(tree.as_fd(), Depth::One, &HOSTS_NODE)?;
    let differences = differences(device, &stat);
    if !differences.is_empty() {
        let what = differences.join(", ");
        (runtime.warn)(format!(
            "{}: the runtime may not make device nodes here, and bind-mounts the host's: {what}, ignoring",
            device.shown()
        ))?;
    }
    Ok(tree)
}

/// Returns the attributes that the configuration asks for and a node does not have.
fn differences(device: &Device, stat: &libc::stat) -> Vec<String> {
    let octal = |mode: u32| format!("{mode:#o}");
    let decimal = |id: u32| id.to_string();
    let permissions = stat.st_mode & 0o7777;
    let rows: [(_, _, _, &dyn Fn(u32) -> String); 3] = [
        ("fileMode", device.permissions, permissions, &octal),
        ("uid", device.uid, stat.st_uid, &decimal),
        ("gid", device.gid, stat.st_gid, &decimal),
    ];
    let differs = rows.into_iter().filter_map(|(name, wanted, is, shown)| {
        let wanted = wanted.filter(|wanted| *wanted != is)?;
        Some(format!("{name} is {} instead of {}", shown(is), shown(wanted)))
    });
    differs.collect()
}

fn links(root: &Root, last: Option<(&Path, OwnedFd)>) -> Result<()> {
    let dev = match last {
        Some((path, dir)) if path == Path::new("/dev") => dir,
        _ => directory(root, Path::new("/dev")).context("/dev")?,
    };
    for (name, target) in LINKS {
        let link = || fs::symlinkat(Path::new(target), dev.as_fd(), Path::new(name));
        match link() {
            // A node of the image would be the host's multiplexer.
            Err(e) if e.errno == Errno::EEXIST && name == "ptmx" => {
                fs::unlinkat(dev.as_fd(), Path::new(name)).and_then(|()| link())
            }
            Err(e) if e.errno == Errno::EEXIST => Ok(()),
            other => other,
        }
        .with_context(|| format!("default link /dev/{name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> (Vec<Device>, String) {
        let linux: Linux = serde_json::from_str(json).unwrap();
        let mut notes = Notes::default();
        (plan(Some(&linux), false, &mut notes), notes.problems.to_string())
    }

    #[test]
    fn given_devices_replace_default_ones() {
        let linux: Linux = serde_json::from_str(
            r#"{"devices": [{"path": "/dev/tty", "type": "c", "major": 5, "minor": 0, "fileMode": 384, "gid": 5}]}"#,
        )
        .unwrap();
        let devices = plan(Some(&linux), true, &mut Notes::default());
        let tty: Vec<_> = devices.iter().filter(|d| d.path == Path::new("/dev/tty")).collect();
        assert_eq!((devices.len(), tty.len()), (6, 1));
        assert_eq!((tty[0].mode(), tty[0].owner()), (libc::S_IFCHR | 0o600, (0, 5)));
    }

    #[test]
    fn the_default_multiplexer_needs_no_node() {
        for (path, rest, default, left, expected) in [
            ("/dev/ptmx", r#""type": "c", "major": 5, "minor": 2"#, true, false, ""),
            ("//dev/./pts/../ptmx", r#""type": "u", "major": 5, "minor": 2"#, true, false, ""),
            // In the host's /dev it must exist.
            ("/dev/ptmx", r#""type": "c", "major": 5, "minor": 2"#, false, true, ""),
            ("/opt/ptmx", r#""type": "c", "major": 5, "minor": 2"#, true, true, ""),
            (
                "/dev/ptmx",
                r#""type": "c", "major": 1, "minor": 3"#,
                true,
                false,
                "linux.devices[0].path: /dev/ptmx is the multiplexer of /dev/pts (config-linux.md#default-devices)",
            ),
        ] {
            let json = format!(r#"{{"devices": [{{"path": "{path}", {rest}}}]}}"#);
            let linux: Linux = serde_json::from_str(&json).unwrap();
            let mut notes = Notes::default();
            let devices = plan(Some(&linux), default, &mut notes);
            let found = devices.iter().any(|device| !device.default);
            assert_eq!((found, notes.problems.to_string().as_str()), (left, expected), "{path}");
        }
    }

    #[test]
    fn wrong_devices_are_reported() {
        for (device, expected) in [
            (r#""path": "/p", "type": "p""#, ""),
            (r#""path": "/p", "type": "p", "major": -1, "minor": 7"#, ""),
            (
                r#""path": "p", "type": "c", "major": 1, "minor": 3"#,
                "linux.devices[0].path: \"p\" is not the absolute path of a file",
            ),
            (
                r#""path": "/p", "type": "b", "major": -1, "minor": 4294967296"#,
                "linux.devices[0].major: -1 is not a device number; \
                 linux.devices[0].minor: 4294967296 is not a device number",
            ),
            (r#""path": "/p", "type": "c""#, "linux.devices[0].major: major and minor are required"),
            (r#""path": "/p", "type": "a""#, "linux.devices[0].type: \"a\" is not the type of a device"),
        ] {
            let (devices, problems) = check(&format!(r#"{{"devices": [{{{device}}}]}}"#));
            assert_eq!((problems.as_str(), devices.is_empty()), (expected, !expected.is_empty()));
        }
    }
}
