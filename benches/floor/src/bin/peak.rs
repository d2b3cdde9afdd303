//! `peak PROGRAM ARG...`: runs a program, discards its output, and writes the largest resident set
//! (ru_maxrss, in kB) of its process.
//!
//! Linux counts the process's memory before execve in ru_maxrss. A process that Python starts has Python's 10
//! MB, which is more than the measured programs have. One that this program starts has a few pages. x86-64
//! only.
#![no_std]
#![no_main]

#[path = "../sys.rs"]
mod sys;

use core::ffi::c_char;
use sys::{call, exit, nr};

/// `struct rusage`: two times of two words each, then ru_maxrss.
const USAGE: usize = 18;
const MAXRSS: usize = 4;

fn main(words: &[*const c_char]) -> i32 {
    let Some(program) = words.get(1).filter(|word| !word.is_null()) else { return 64 };
    // SAFETY: fork copies the memory, so parent and child have nothing in common.
    let pid = unsafe { call(nr::FORK, &[]) };
    if pid == 0 {
        // SAFETY: the kernel has put the environment behind the arguments; both end with a null pointer.
        unsafe {
            call(
                nr::EXECVE,
                &[*program as usize, words[1..].as_ptr() as usize, words.as_ptr_range().end as usize],
            )
        };
        exit(127);
    }
    let (mut status, mut usage) = (0i32, [0usize; USAGE]);
    // SAFETY: the kernel writes an int and a struct rusage, for which both have room.
    let waited =
        unsafe { call(nr::WAIT4, &[pid as usize, &raw mut status as usize, 0, usage.as_mut_ptr() as usize]) };
    if waited != pid {
        return 71;
    }
    write(usage[MAXRSS]);
    (status != 0).into()
}

/// Writes the number and a line end to descriptor 3, because descriptors 0 to 2 belong to the program.
fn write(mut number: usize) {
    let mut text = [b'\n'; 24];
    let mut start = text.len() - 1;
    loop {
        start -= 1;
        text[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    // SAFETY: the address and the length are of `text`.
    unsafe { call(nr::WRITE, &[3, text.as_ptr() as usize + start, text.len() - start]) };
}
