//! What the kernel still reports of a process by its descriptor, after the process was reaped
//! (`PIDFD_GET_INFO`).

use std::os::fd::{AsRawFd, BorrowedFd};

use super::task::Exit;

/// `struct pidfd_info` in its first version, which every kernel accepts that has the call.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// Ids of the process, and of its user.
    ids: [u32; 11],
    exit_code: i32,
}

/// `_IOWR(0xff, 11, struct pidfd_info)`. The size of the structure is a part of the number.
const PIDFD_GET_INFO: u64 = 3 << 30 | (size_of::<PidfdInfo>() as u64) << 16 | 0xff << 8 | 11;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// Returns how a process has ended, once its parent has reaped it. Returns `None` before that, on kernels
/// before 6.15, and if a seccomp filter refuses the call.
pub(crate) fn exit_of_reaped(pidfd: BorrowedFd) -> Option<Exit> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the kernel writes at most the size that the number contains, which is that of `info`. A file
    // that is not a pidfd, and an older kernel, return an error and write nothing.
    let ret = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    (ret == 0 && info.mask & PIDFD_INFO_EXIT != 0).then(|| Exit::of_wait_status(info.exit_code))
}
