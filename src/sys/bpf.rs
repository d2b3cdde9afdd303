//! `bpf(2)` for the device programs of cgroups: load, attach, replace, query, detach.
//!
//! The kernel's `union bpf_attr` is one struct for each command here. The kernel takes a size with every call
//! and treats members beyond it as zero. Therefore each struct ends with the last member that corten sets.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::{Result, check, check_fd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

/// Flag of an attached program: the programs of a cgroup and of its ancestors all run, and all must allow an
/// access.
pub(crate) const ALLOW_MULTI: u32 = 1 << 1;
/// Replaces one program by another atomically.
const REPLACE: u32 = 1 << 2;

/// The most programs of one type that the kernel attaches to a cgroup (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u8,
    /// The destination register in the low four bits, the source register in the high four.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    _reserved: u32,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Calls `bpf(2)` with one of the attribute structs above.
fn bpf<T>(command: libc::c_int, attr: &mut T) -> libc::c_long {
    // SAFETY: `attr` is a live struct of the size passed, with the kernel's layout for this command. Pointers
    // in it refer to buffers that the caller keeps alive, with their true lengths.
    unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) }
}

/// Loads a program for device accesses of a cgroup, which the kernel verifies first.
pub fn load_device_program(program: &[Instruction], name: &[u8; 16]) -> Result<OwnedFd> {
    let license = c"Apache-2.0";
    let call = || format!("bpf(PROG_LOAD, CGROUP_DEVICE, {} instructions)", program.len());
    let mut tries = 0;
    loop {
        let mut attr = Load {
            prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
            insn_cnt: program.len() as u32,
            insns: program.as_ptr() as u64,
            license: license.as_ptr() as u64,
            prog_name: *name,
            expected_attach_type: BPF_CGROUP_DEVICE,
            ..Load::default()
        };
        tries += 1;
        match check_fd(bpf(BPF_PROG_LOAD, &mut attr), call) {
            // A pending signal interrupts the verifier. The next try usually succeeds.
            Err(e) if e.errno == Errno::EAGAIN && tries < 5 => {}
            other => return other,
        }
    }
}

/// Attaches a device program to a cgroup in addition to the attached ones, or instead of `old`.
pub fn attach_device_program(cgroup: BorrowedFd, program: BorrowedFd, old: Option<BorrowedFd>) -> Result<()> {
    let mut attr = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI | if old.is_some() { REPLACE } else { 0 },
        replace_bpf_fd: old.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    check(bpf(BPF_PROG_ATTACH, &mut attr), || "bpf(PROG_ATTACH, CGROUP_DEVICE)".into()).map(drop)
}

/// Detaches a device program from a cgroup.
pub(crate) fn detach_device_program(cgroup: BorrowedFd, program: BorrowedFd) -> Result<()> {
    let mut attr = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        ..Attach::default()
    };
    check(bpf(BPF_PROG_DETACH, &mut attr), || "bpf(PROG_DETACH, CGROUP_DEVICE)".into()).map(drop)
}

/// Returns the ids of the device programs that are attached to the cgroup itself, without those of its
/// ancestors.
pub fn device_programs(cgroup: BorrowedFd) -> Result<Vec<u32>> {
    let mut ids = vec![0u32; MAX_PROGRAMS];
    let mut attr = Query {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..Query::default()
    };
    check(bpf(BPF_PROG_QUERY, &mut attr), || "bpf(PROG_QUERY, CGROUP_DEVICE)".into())?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// Returns a descriptor of a loaded program.
pub(crate) fn program_by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = ById { prog_id: id, ..ById::default() };
    check_fd(bpf(BPF_PROG_GET_FD_BY_ID, &mut attr), || format!("bpf(PROG_GET_FD_BY_ID, {id})"))
}

#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    typ: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    code: [u64; 2],
    load_time: u64,
    created_by_uid: u32,
    map_count: u32,
    maps: u64,
    name: [u8; 16],
}

/// The properties of a loaded program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The kernel's digest of the instructions. Equal programs have equal digests.
    pub tag: [u8; 8],
    pub name: [u8; 16],
}

/// Returns the properties of a loaded program.
pub(crate) fn program_info(program: BorrowedFd) -> Result<Program> {
    let mut info = ProgramInfo::default();
    let mut attr = InfoByFd {
        bpf_fd: program.as_raw_fd() as u32,
        info_len: size_of::<ProgramInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    check(bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr), || "bpf(OBJ_GET_INFO_BY_FD)".into())?;
    Ok(Program { tag: info.tag, name: info.name })
}
