//! Where this host's cgroup v2 hierarchy is, and where in it we are.
//!
//! It is mounted at /sys/fs/cgroup, or at /sys/fs/cgroup/unified beside v1's, or only a part of it is: a
//! container's mount shows the sub-tree named in mountinfo's root field. Paths in /proc/self/cgroup begin at
//! the cgroup namespace's root, not at the mount, and so does that field.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use anyhow::Context;

use crate::error::Result;
use crate::sys::fs;

/// What planning needs to know of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The mount point of cgroup v2.
    pub v2_mount: Option<PathBuf>,
    /// Our own cgroup below that mount, without a leading slash; `None` if the mount does not show it.
    pub own: Option<PathBuf>,
}

impl Host {
    pub fn probe() -> Result<Self> {
        let open = |path: &str| fs::open(fs::CWD, Path::new(path), fs::O_RDONLY, 0);
        let mountinfo = fs::read_limited(open("/proc/self/mountinfo")?, 64 << 20).context("mountinfo")?;
        let own = fs::read_whole(open("/proc/self/cgroup")?, 1 << 20).context("cgroup")?;
        Ok(Self::parse(&mountinfo, &own))
    }

    /// The facts in the text of `/proc/self/mountinfo` and `/proc/self/cgroup`.
    #[must_use]
    pub fn parse(mountinfo: &[u8], cgroup: &[u8]) -> Self {
        let own = cgroup.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"0::"));
        // Outside our cgroup namespace the path begins with "..", which leads nowhere below a mount.
        let own = own.map(bytes_to_path).filter(|p| !p.components().any(|c| c == Component::ParentDir));
        let mounts: Vec<Mount> = mountinfo.split(|&b| b == b'\n').filter_map(Mount::parse).collect();
        let visible = mounts.iter().enumerate().filter(|(i, mount)| {
            // A mount made later at this place or above it hides this one.
            mount.v2 && !mounts[i + 1..].iter().any(|later| mount.point.starts_with(&later.point))
        });
        let candidates: Vec<(&Mount, Option<PathBuf>)> = visible
            .map(|(_, mount)| {
                let below = own.as_ref().and_then(|own| own.strip_prefix(&mount.root).ok());
                (mount, below.map(Path::to_path_buf))
            })
            .collect();
        // One that shows our own cgroup, else any; of several the nearest to the root.
        let best =
            candidates.into_iter().min_by_key(|(m, below)| (below.is_none(), m.point.as_os_str().len()));
        best.map_or_else(Self::default, |(m, own)| Self { v2_mount: Some(m.point.clone()), own })
    }
}

struct Mount {
    root: PathBuf,
    point: PathBuf,
    v2: bool,
}

impl Mount {
    /// A line such as `41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw` (proc_pid_mountinfo(5)).
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&b| b == b' ');
        let root = unescape(fields.nth(3)?);
        let point = unescape(fields.next()?);
        // Optional fields follow, up to a dash.
        let kind = fields.skip_while(|&f| f != b"-").nth(1)?;
        Some(Self { root, point, v2: kind == b"cgroup2" })
    }
}

/// Undoes the kernel's octal escapes of blanks and backslashes.
pub fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn bytes_to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// A file of /proc. A host with tens of thousands of mounts has a few megabytes of mountinfo.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found() {
        let v1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                  34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let pure =
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n";
        let rows = [
            (pure.to_string(), "0::/user.slice/s.scope\n", "/sys/fs/cgroup", Some("user.slice/s.scope")),
            (pure.to_string(), "0::/\n", "/sys/fs/cgroup", Some("")),
            (format!("{v1}{unified}"), "4:memory:/x\n0::/a b\n", "/sys/fs/cgroup/unified", Some("a b")),
            // v2 bound over the v1 tree hides what is below.
            (
                format!("{v1}{unified}60 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
                "0::/\n",
                "/sys/fs/cgroup",
                Some(""),
            ),
            // A tmpfs over v2 hides it, and another mount serves.
            (
                format!(
                    "{pure}70 30 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n80 1 0:26 / /mnt/cg rw - cgroup2 none rw\n"
                ),
                "0::/\n",
                "/mnt/cg",
                Some(""),
            ),
            // In a container without a cgroup namespace only its own sub-tree is mounted.
            (
                "5 1 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n".into(),
                "0::/docker/1/nested\n",
                "/sys/fs/cgroup",
                Some("nested"),
            ),
            ("5 1 0:26 /docker/1 /cg rw - cgroup2 cgroup rw\n".into(), "0::/docker/12\n", "/cg", None),
            // A mount from outside our cgroup namespace.
            ("5 1 0:26 /../.. /cg rw - cgroup2 cgroup rw\n".into(), "0::/\n", "/cg", None),
            // Nor do we see ourselves when our cgroup is outside it.
            ("5 1 0:26 / /cg rw - cgroup2 cgroup rw\n".into(), "0::/../b\n", "/cg", None),
            // Of two, the one that shows us, else the shorter.
            (
                format!("9 1 0:26 /other /c rw - cgroup2 c rw\n{pure}"),
                "0::/me\n",
                "/sys/fs/cgroup",
                Some("me"),
            ),
            (
                format!("9 1 0:26 / /mnt/longer/cgroup rw - cgroup2 c rw\n{pure}"),
                "0::/me\n",
                "/sys/fs/cgroup",
                Some("me"),
            ),
            ("9 1 0:26 / /a\\040b rw - cgroup2 c rw\n".into(), "0::/\n", "/a b", Some("")),
        ];
        for (mountinfo, cgroup, mount, own) in rows {
            let host = Host::parse(mountinfo.as_bytes(), cgroup.as_bytes());
            let expected = Host { v2_mount: Some(mount.into()), own: own.map(PathBuf::from) };
            assert_eq!(host, expected, "{mountinfo}{cgroup}");
        }
        for nothing in ["", "garbage\n\n1 2 3\n", v1] {
            assert_eq!(Host::parse(nothing.as_bytes(), b"4:memory:/x\n"), Host::default());
        }
    }
}
