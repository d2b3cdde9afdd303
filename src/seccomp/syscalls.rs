//! The numbers of system calls, by name and ABI.
//!
//! The table is generated. It contains the names themselves instead of pointers to them. A static executable
//! that may be loaded anywhere would have to relocate five hundred pointers in every process, with or without
//! seccomp.

mod row;
mod table;

use row::NAME;
pub(super) use row::{Column, Row};
use table::TABLE;

/// Returns all calls, in the order of their names.
pub(super) fn all() -> &'static [Row] {
    &TABLE
}

/// Returns the row of a name, if any of the ABIs has such a call.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    let mut padded = [0; NAME];
    // A NUL in the name would match the padding of a row.
    if name.is_empty() || name.as_bytes().contains(&0) {
        return None;
    }
    padded.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    let index = TABLE.binary_search_by(|row| row.name.cmp(&padded)).ok()?;
    TABLE.get(index)
}

/// Returns the name of the multiplexer that a call may come through, and the value of its first argument for
/// that call (linux/net.h and linux/ipc.h).
pub(super) fn multiplexed(name: &str) -> Option<(&'static str, u64)> {
    const SOCKETCALL: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: [(&str, u64); 12] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    if let Some(i) = SOCKETCALL.iter().position(|call| *call == name) {
        return Some(("socketcall", i as u64 + 1));
    }
    IPC.iter().find(|(call, _)| *call == name).map(|(_, number)| ("ipc", *number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_numbers_name_one_call() {
        assert!(TABLE.windows(2).all(|pair| pair[0].name < pair[1].name));
        for column in [Column::X86_64, Column::X86, Column::X32, Column::Aarch64, Column::S390x] {
            let mut numbers: Vec<u32> = TABLE.iter().filter_map(|row| row.number(column)).collect();
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{column:?}");
            assert!(count > 280, "{column:?}");
        }
    }

    #[test]
    fn numbers() {
        for (name, column, expected) in [
            ("read", Column::X86_64, Some(0)),
            ("execve", Column::X32, Some(520)),
            ("socketcall", Column::X86, Some(102)),
            ("socketcall", Column::X86_64, None),
            ("clone3", Column::Loongarch64, Some(435)),
            ("sched_rr_get_interval_time64", Column::Arm, Some(423)),
            ("set_tls", Column::Arm, Some(0xf0005)),
            ("mount", Column::Mips64n32, Some(6160)),
        ] {
            assert_eq!(find(name).unwrap().number(column), expected, "{name}");
        }
        for unknown in ["", "rea", "reada", "read\0", "sched_rr_get_interval_time64x", &"x".repeat(10_000)] {
            assert!(find(unknown).is_none());
        }
        assert_eq!(multiplexed("sendmmsg"), Some(("socketcall", 20)));
        assert_eq!(multiplexed("shmat"), Some(("ipc", 21)));
        assert_eq!(multiplexed("read"), None);
    }
}
