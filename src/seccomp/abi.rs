//! The architectures of a profile, as a filter sees them. A filter sees the kernel's audit number, which
//! several ABIs of a machine may share. The ABIs differ in what their comparisons look at.

use oci_spec::runtime::Arch;

use super::syscalls::{Column, Row};

/// The bit that is set in the system call numbers of x32 programs (asm/unistd.h).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// An ABI for system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abi {
    pub(super) arch: Arch,
    /// `AUDIT_ARCH_*`, as in `seccomp_data.arch`.
    pub(super) audit: u32,
    pub(super) column: Column,
}

/// All ABIs, with the specification's names (config-linux.md#seccomp).
const ABIS: &[(Arch, &str, Column)] = &[
    (Arch::ScmpArchX86_64, "SCMP_ARCH_X86_64", Column::X86_64),
    (Arch::ScmpArchX86, "SCMP_ARCH_X86", Column::X86),
    (Arch::ScmpArchX32, "SCMP_ARCH_X32", Column::X32),
    (Arch::ScmpArchArm, "SCMP_ARCH_ARM", Column::Arm),
    (Arch::ScmpArchAarch64, "SCMP_ARCH_AARCH64", Column::Aarch64),
    (Arch::ScmpArchMips, "SCMP_ARCH_MIPS", Column::Mips),
    (Arch::ScmpArchMips64, "SCMP_ARCH_MIPS64", Column::Mips64),
    (Arch::ScmpArchMips64n32, "SCMP_ARCH_MIPS64N32", Column::Mips64n32),
    (Arch::ScmpArchMipsel, "SCMP_ARCH_MIPSEL", Column::Mips),
    (Arch::ScmpArchMipsel64, "SCMP_ARCH_MIPSEL64", Column::Mips64),
    (Arch::ScmpArchMipsel64n32, "SCMP_ARCH_MIPSEL64N32", Column::Mips64n32),
    (Arch::ScmpArchPpc, "SCMP_ARCH_PPC", Column::Ppc),
    (Arch::ScmpArchPpc64, "SCMP_ARCH_PPC64", Column::Ppc64),
    (Arch::ScmpArchPpc64le, "SCMP_ARCH_PPC64LE", Column::Ppc64),
    (Arch::ScmpArchS390, "SCMP_ARCH_S390", Column::S390),
    (Arch::ScmpArchS390x, "SCMP_ARCH_S390X", Column::S390x),
    (Arch::ScmpArchParisc, "SCMP_ARCH_PARISC", Column::Parisc),
    (Arch::ScmpArchParisc64, "SCMP_ARCH_PARISC64", Column::Parisc64),
    (Arch::ScmpArchRiscv64, "SCMP_ARCH_RISCV64", Column::Riscv64),
    (Arch::ScmpArchLoongarch64, "SCMP_ARCH_LOONGARCH64", Column::Loongarch64),
    (Arch::ScmpArchM68k, "SCMP_ARCH_M68K", Column::M68k),
    (Arch::ScmpArchSh, "SCMP_ARCH_SH", Column::Sh),
    (Arch::ScmpArchSheb, "SCMP_ARCH_SHEB", Column::Sh),
];

/// Returns the specification's names of the architectures that corten compiles for.
pub(super) fn names() -> Vec<&'static str> {
    ABIS.iter().map(|(_, name, _)| *name).collect()
}

/// The architecture of this executable, and therefore of the container's program.
pub(super) const NATIVE: Arch = if cfg!(target_arch = "x86_64") {
    Arch::ScmpArchX86_64
} else if cfg!(target_arch = "aarch64") {
    Arch::ScmpArchAarch64
} else if cfg!(target_arch = "riscv64") {
    Arch::ScmpArchRiscv64
} else if cfg!(target_arch = "loongarch64") {
    Arch::ScmpArchLoongarch64
} else if cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
    Arch::ScmpArchPpc64le
} else if cfg!(target_arch = "arm") {
    Arch::ScmpArchArm
} else if cfg!(target_arch = "x86") {
    Arch::ScmpArchX86
} else {
    Arch::ScmpArchNative
};

impl Abi {
    /// Returns the ABI of an architecture; `SCMP_ARCH_NATIVE` stands for `native`.
    pub(super) fn new(arch: Arch, native: Arch) -> Option<Self> {
        let arch = if arch == Arch::ScmpArchNative { native } else { arch };
        let (_, _, column) = ABIS.iter().find(|(a, _, _)| *a == arch)?;
        // The specification's (libseccomp's) numbers are the kernel's, except for x32, which has the number
        // of x86-64.
        let audit = if arch == Arch::ScmpArchX32 { Arch::ScmpArchX86_64 } else { arch } as u32;
        Some(Self { arch, audit, column: *column })
    }

    /// Returns the specification's name.
    pub(super) fn name(self) -> &'static str {
        ABIS.iter().find(|(arch, ..)| *arch == self.arch).map_or("", |(_, name, _)| *name)
    }

    /// Returns the ABI with this audit number that a system call number belongs to.
    pub(super) fn of_call(audit: u32, number: u32) -> Option<Self> {
        let mut abis = ABIS.iter().filter_map(|(arch, ..)| Self::new(*arch, NATIVE));
        abis.find(|abi| abi.audit == audit && (abi.range().0..=abi.range().1).contains(&number))
    }

    /// Reports whether arguments are compared in all of their 64 bits. A program of a 32-bit ABI cannot
    /// choose the upper halves of its registers. libseccomp counts x32 and n32 among these ABIs.
    pub(super) fn wide(self) -> bool {
        const __AUDIT_ARCH_64BIT: u32 = 0x8000_0000;
        const __AUDIT_ARCH_CONVENTION_MIPS64_N32: u32 = 0x2000_0000;
        self.arch as u32 & (__AUDIT_ARCH_64BIT | __AUDIT_ARCH_CONVENTION_MIPS64_N32) == __AUDIT_ARCH_64BIT
    }

    /// Reports whether the upper half of an argument comes first in memory.
    pub(super) fn big_endian(self) -> bool {
        const __AUDIT_ARCH_LE: u32 = 0x4000_0000;
        self.audit & __AUDIT_ARCH_LE == 0
    }

    /// Returns the number of a call, as the kernel shows it to a filter.
    pub(super) fn number(self, row: &Row) -> Option<u32> {
        let number = row.number(self.column)?;
        Some(if self.arch == Arch::ScmpArchX32 { number | X32_BIT } else { number })
    }

    /// Returns the first and the last number that belong to this ABI, among all ABIs with its audit number.
    pub(super) fn range(self) -> (u32, u32) {
        match self.arch {
            Arch::ScmpArchX32 => (X32_BIT, u32::MAX),
            Arch::ScmpArchX86_64 => (0, X32_BIT - 1),
            _ => (0, u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::syscalls::find;

    #[test]
    fn the_kernels_view() {
        for (arch, audit, wide, big_endian, read) in [
            (Arch::ScmpArchX86_64, 0xc000_003e, true, false, 0),
            (Arch::ScmpArchX86, 0x4000_0003, false, false, 3),
            (Arch::ScmpArchX32, 0xc000_003e, false, false, 0x4000_0000),
            (Arch::ScmpArchAarch64, 0xc000_00b7, true, false, 63),
            (Arch::ScmpArchMips64n32, 0xa000_0008, false, true, 6000),
            (Arch::ScmpArchMipsel64, 0xc000_0008, true, false, 5000),
            (Arch::ScmpArchS390x, 0x8000_0016, true, true, 3),
            (Arch::ScmpArchSh, 0x4000_002a, false, false, 3),
        ] {
            let abi = Abi::new(arch, NATIVE).unwrap();
            assert_eq!((abi.audit, abi.wide(), abi.big_endian()), (audit, wide, big_endian), "{arch}");
            assert_eq!(abi.number(find("read").unwrap()), Some(read), "{arch}");
        }
    }

    #[test]
    fn every_name_is_the_specs() {
        for (arch, name, _) in ABIS {
            assert_eq!(arch.to_string(), *name);
        }
        assert_eq!(Abi::new(Arch::ScmpArchNative, NATIVE), Abi::new(NATIVE, NATIVE));
    }
}
