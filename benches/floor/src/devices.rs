//! The device program for the rules of `spec`: every node can be made, and only the usual character devices
//! can be opened.

use crate::sys::{at, call, nr};

const fn instruction(code: u8, destination: u8, source: u8, skip: i16, value: i32) -> u64 {
    code as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (skip as u16 as u64) << 16
        | (value as u32 as u64) << 32
}

const fn load(register: u8, offset: i16) -> u64 {
    instruction(0x61, register, 1, offset, 0)
}

const fn if_equal(register: u8, value: i32, skip: i16) -> u64 {
    instruction(0x15, register, 0, skip, value)
}

const fn unless_equal(register: u8, value: i32, skip: i16) -> u64 {
    instruction(0x55, register, 0, skip, value)
}

/// The context is access and kind in 16 bits each, major, minor: registers 2, 3 and 4.
static PROGRAM: [u64; 23] = [
    load(2, 0),
    load(3, 4),
    load(4, 8),
    instruction(0xbf, 5, 2, 0, 0),
    // Access: only mknod.
    instruction(0x77, 5, 0, 0, 16),
    if_equal(5, 1, 15),
    // Kind: character devices.
    instruction(0x57, 2, 0, 0, 0xffff),
    unless_equal(2, 2, 11),
    // pts/*, tty and ptmx, null, zero, full, random, urandom.
    if_equal(3, 136, 12),
    if_equal(3, 5, 7),
    unless_equal(3, 1, 8),
    if_equal(4, 3, 9),
    if_equal(4, 5, 8),
    if_equal(4, 7, 7),
    if_equal(4, 8, 6),
    if_equal(4, 9, 5),
    instruction(0x05, 0, 0, 2, 0),
    if_equal(4, 0, 3),
    if_equal(4, 2, 2),
    instruction(0xb7, 0, 0, 0, 0),
    instruction(0x95, 0, 0, 0, 0),
    instruction(0xb7, 0, 0, 0, 1),
    instruction(0x95, 0, 0, 0, 0),
];

/// Loads the program and attaches it to a cgroup.
pub fn attach(group: usize) -> isize {
    const LOAD: usize = 5;
    const ATTACH: usize = 8;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    // Of union bpf_attr: kind and length, instructions, licence, up to the kind of attachment.
    let mut attributes = [0u64; 9];
    attributes[0] = u64::from(CGROUP_DEVICE_PROGRAM) | (PROGRAM.len() as u64) << 32;
    attributes[1] = PROGRAM.as_ptr() as u64;
    attributes[2] = at(c"Apache-2.0") as u64;
    attributes[8] = u64::from(CGROUP_DEVICE) << 32;
    // SAFETY: the kernel reads the attributes, the instructions and the licence, which all live on.
    let program = unsafe { call(nr::BPF, &[LOAD, attributes.as_ptr() as usize, size_of_val(&attributes)]) };
    if program < 0 {
        return program;
    }
    let attributes = [group as u32, program as u32, CGROUP_DEVICE, ALLOW_MULTI];
    // SAFETY: as above.
    unsafe { call(nr::BPF, &[ATTACH, attributes.as_ptr() as usize, size_of_val(&attributes)]) }
}
