//! The numbers of system calls, by name and ABI.
//!
//! The table is generated. It contains the names themselves instead of pointers to them. A static executable
//! that may be loaded anywhere would have to relocate five hundred pointers in every process, with or without
//! seccomp.

mod table;

use table::TABLE;

/// The longest name of a system call has 28 letters.
const NAME: usize = 28;

/// The number of the table's columns, which are the variants of [`Column`].
const COLUMNS: usize = 18;

/// The table's columns, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    X86_64,
    X86,
    X32,
    Arm,
    Aarch64,
    Mips,
    Mips64,
    Mips64n32,
    Ppc,
    Ppc64,
    S390,
    S390x,
    Parisc,
    Parisc64,
    Riscv64,
    Loongarch64,
    M68k,
    Sh,
}

/// A system call: its name, padded with zeros, and its numbers.
pub(super) struct Row {
    name: [u8; NAME],
    numbers: [i32; COLUMNS],
}

/// Makes a row of the table. The number -1 stands for an ABI that does not have the call.
const fn row(name: &str, numbers: [i32; COLUMNS]) -> Row {
    let bytes = name.as_bytes();
    let mut padded = [0; NAME];
    let mut i = 0;
    while i < bytes.len() {
        padded[i] = bytes[i];
        i += 1;
    }
    Row { name: padded, numbers }
}

impl Row {
    pub(super) fn name(&self) -> &str {
        let end = self.name.iter().position(|c| *c == 0).unwrap_or(NAME);
        std::str::from_utf8(&self.name[..end]).unwrap_or_default()
    }

    pub(super) fn number(&self, column: Column) -> Option<u32> {
        u32::try_from(self.numbers[column as usize]).ok()
    }
}

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
