//! A row of the table of system calls.

/// The longest name of a system call has 28 letters.
pub(super) const NAME: usize = 28;

/// The number of the table's columns, which are the variants of [`Column`].
pub(super) const COLUMNS: usize = 18;

/// The table's columns, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::seccomp) enum Column {
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
pub(in crate::seccomp) struct Row {
    pub(super) name: [u8; NAME],
    numbers: [i32; COLUMNS],
}

/// Makes a row of the table. The number -1 stands for an ABI that does not have the call.
pub(super) const fn row(name: &str, numbers: [i32; COLUMNS]) -> Row {
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
    pub(in crate::seccomp) fn name(&self) -> &str {
        let end = self.name.iter().position(|c| *c == 0).unwrap_or(NAME);
        std::str::from_utf8(&self.name[..end]).unwrap_or_default()
    }

    pub(in crate::seccomp) fn number(&self, column: Column) -> Option<u32> {
        u32::try_from(self.numbers[column as usize]).ok()
    }
}
