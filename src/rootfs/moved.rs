//! `--no-pivot`: the root is moved over the old one, where that is an initramfs, which cannot be pivoted away.
//!
//! The old root's own files stay below, out of everybody's reach; its mounts must not. Who joins the mount namespace
//! could reach them, and the kernel shows an unmasked procfs to a user namespace inside as long as one like it is
//! anywhere in its mount namespace (mount_namespaces(7)).

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::enter::empty_directory;
use crate::error::{Context, Result};
use crate::sys::{fs, mount, mountinfo, task};

/// Moves the mount `root` over the process's root and changes to it. `proc` is the root of the host's procfs.
pub(super) fn move_over_root(root: BorrowedFd, proc: BorrowedFd) -> Result<()> {
    let old = fs::open(fs::CWD, Path::new("/"), fs::O_PATH | fs::O_DIRECTORY, 0)?;
    mount::move_mount(root, old.as_fd())?;
    let text = mountinfo::read(proc)?;
    let own = fs::mount_id(root, Path::new(""))?;
    let mut stay: Vec<PathBuf> = Vec::new();
    // A path still begins at the old root, below what now lies on it.
    for other in others(&text, own).into_iter().rev() {
        // Below one that stays, at the same place, there is no getting at it.
        if !stay.contains(&other.point)
            && !leave(&other).with_context(|| other.point.display().to_string())?
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

/// The mounts in the text of mountinfo that are neither the old root nor at or below the mount `own`; what lies on
/// others comes after them.
pub(crate) fn others(mountinfo: &[u8], own: u64) -> Vec<Other> {
    let mounts: Vec<_> = mountinfo::parse(mountinfo).collect();
    let parents: HashMap<u64, u64> = mounts.iter().map(|mount| (mount.id, mount.parent)).collect();
    // How far below the topmost mount it is; nothing, if it is the container's.
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

/// Takes a mount away, and tells whether it is gone. One that a more privileged user namespace has made stays; if it is
/// the kernel's it is covered, which counts as a mask. So does one below a directory that is closed to us, and then to
/// the container too; but the kernel's cannot be covered there.
fn leave(other: &Other) -> Result<bool> {
    match mount::detach(&other.point) {
        Err(e) if e.errno == Errno::EACCES && !other.of_the_kernel => Ok(false),
        Err(e) if matches!(e.errno, Errno::EINVAL | Errno::EPERM) => {
            if other.of_the_kernel {
                let target = fs::open(fs::CWD, &other.point, fs::O_PATH | fs::O_DIRECTORY, 0)?;
                mount::move_mount(empty_directory()?.as_fd(), target.as_fd())?;
            }
            Ok(false)
        }
        // Something was mounted over it.
        Err(e) if e.errno == Errno::ENOENT => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_mounts_are_told_from_the_hosts() {
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
