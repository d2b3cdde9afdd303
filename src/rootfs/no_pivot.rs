//! `--no-pivot`: moves the root over the old one. This is for hosts whose root is an initramfs, which
//! pivot_root(2) refuses.
//!
//! The files of the old root stay below and out of reach, but its mounts must not stay. A process that joins
//! the mount namespace could reach them. And a user namespace inside may mount an unmasked procfs as long as
//! there is one anywhere in its mount namespace (mount_namespaces(7)).

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::root::empty_directory;
use crate::error::{Context, Result};
use crate::sys::{fs, mount, mountinfo, task};

/// Moves the mount `root` over the process's root and changes to it. `proc` is the root of the host's procfs.
pub(super) fn move_over_root(root: BorrowedFd, proc: BorrowedFd) -> Result<()> {
    let old = fs::open(fs::CWD, Path::new("/"), fs::O_PATH | fs::O_DIRECTORY, 0)?;
    mount::move_mount(root, old.as_fd())?;
    let text = mountinfo::read(proc)?;
    let own = fs::mount_id(root, Path::new(""))?;
    let mut stay: Vec<PathBuf> = Vec::new();
    // Paths still begin at the old root, below the new one.
    for other in others(&text, own).into_iter().rev() {
        // A mount below one that stays at the same place cannot be reached.
        if !stay.contains(&other.point)
            && !detach(&other).with_context(|| other.point.display().to_string())?
        {
            stay.push(other.point);
        }
    }
    task::fchdir(root)?;
    task::chroot_here()?;
    Ok(task::chdir_root()?)
}

/// A mount that is not the container's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pub(crate) point: PathBuf,
    /// A procfs or sysfs.
    of_the_kernel: bool,
}

/// Returns the mounts in the text of mountinfo except the old root, the mount `own` and all below that. A mount comes after the
/// mounts that it lies on.
pub(crate) fn others(mountinfo: &[u8], own: u64) -> Vec<Other> {
    let mounts: Vec<_> = mountinfo::parse(mountinfo).collect();
    let parents: HashMap<u64, u64> = mounts.iter().map(|mount| (mount.id, mount.parent)).collect();
    // Returns the depth of a mount, or `None` if it is the container's.
    let depth = |id: u64| {
        let chain = std::iter::successors(Some(id), |id| parents.get(id).copied()).take(parents.len() + 1);
        let chain: Vec<u64> = chain.collect();
        (!chain.contains(&own)).then_some(chain.len())
    };
    let other = |mount: &mountinfo::Mount| {
        let of_the_kernel = matches!(mount.kind, b"proc" | b"sysfs");
        (mount.point() != Path::new("/")).then(|| Other { point: mount.point(), of_the_kernel })
    };
    let mut others: Vec<(usize, Other)> =
        mounts.iter().filter_map(|mount| Some((depth(mount.id)?, other(mount)?))).collect();
    others.sort_by_key(|(depth, _)| *depth);
    others.into_iter().map(|(_, mount)| mount).collect()
}

/// Detaches a mount. Returns false if it stays, because a more privileged user namespace has made it. Then a procfs or sysfs
/// is covered, which the kernel takes for a mask. A mount below an inaccessible directory stays too, out of the container's
/// reach. A procfs or sysfs cannot be covered there, which is an error.
fn detach(other: &Other) -> Result<bool> {
    match mount::detach(&other.point) {
        Err(e) if e.errno == Errno::EACCES && !other.of_the_kernel => Ok(false),
        Err(e) if matches!(e.errno, Errno::EINVAL | Errno::EPERM) => {
            if other.of_the_kernel {
                let target = fs::open(fs::CWD, &other.point, fs::O_PATH | fs::O_DIRECTORY, 0)?;
                mount::move_mount(empty_directory()?.as_fd(), target.as_fd())?;
            }
            Ok(false)
        }
        // Another mount covers it.
        Err(e) if e.errno == Errno::ENOENT => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_split_into_the_containers_and_the_hosts_mounts() {
        let text = b"27 1 254:0 / / rw - ext4 /dev/vda rw\n\
                     22 27 0:21 / /proc rw shared:3 - proc proc rw\n\
                     60 22 0:50 / /proc/sys/fs/binfmt_misc rw - autofs x rw\n\
                     30 27 0:22 / /a\\040b rw - sysfs sysfs rw\n\
                     80 27 254:0 /c/rootfs / rw - ext4 /dev/vda rw\n\
                     81 80 0:60 / /proc rw - proc proc rw\n\
                     79 81 0:61 / /proc/acpi ro - tmpfs none rw\n";
        let found = others(text, 80);
        let found: Vec<_> = found.iter().map(|o| (o.point.to_str().unwrap(), o.of_the_kernel)).collect();
        assert_eq!(found, [("/proc", true), ("/a b", true), ("/proc/sys/fs/binfmt_misc", false)]);
    }
}
