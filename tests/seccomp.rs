//! Filters in real processes (config-linux.md#seccomp).

#![allow(unsafe_code, clippy::unwrap_used)]

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

use corten::testing::error::Notes;
use corten::testing::seccomp::{self, Plan, bpf, listener};
use corten::testing::sys;
use nix::errno::Errno;
use oci_spec::runtime::LinuxSeccomp;

const DOCKER: &str = include_str!("golden/seccomp/docker.json");

fn plan(json: &str) -> Plan {
    let profile: LinuxSeccomp = serde_json::from_str(json).unwrap();
    let mut notes = Notes::default();
    let plan = seccomp::plan(&profile, &mut notes);
    assert_eq!((notes.problems.to_string().as_str(), notes.warnings.len()), ("", 0));
    plan.unwrap()
}

/// Forks a process that loads the filter, calls `act` and exits with its result, or with 255 if loading
/// fails.
fn under(plan: &Plan, act: impl FnOnce(Option<OwnedFd>) -> i32) -> std::process::ExitStatus {
    // SAFETY: the child only makes system calls and small allocations; glibc keeps its allocator usable after
    // fork.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: prctl with these arguments reads no memory; _exit returns to nobody.
        unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::_exit(seccomp::apply(plan).map_or(255, act));
        }
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call, and `pid` is our own child, waited for once.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    std::process::ExitStatus::from_raw(status)
}

/// Returns the errno of a raw call, or 0 if it succeeds.
fn errno_of(nr: libc::c_long, args: [libc::c_long; 3]) -> i32 {
    // SAFETY: the tests call with arguments that point to nothing.
    let ret = unsafe { libc::syscall(nr, args[0], args[1], args[2], 0, 0, 0) };
    if ret < 0 { Errno::last_raw() } else { 0 }
}

/// Returns the errno of an i386 call, or 0 if it succeeds.
#[cfg(target_arch = "x86_64")]
fn errno_of_i386(nr: u32, arg: u32) -> i32 {
    let mut ret = nr;
    // SAFETY: int 0x80 takes its arguments in registers and clobbers r8 to r11; rbx is restored.
    unsafe {
        std::arch::asm!(
            "push rbx", "mov ebx, {arg:e}", "int 0x80", "pop rbx",
            arg = in(reg) arg, inout("eax") ret, in("ecx") 0, in("edx") 0,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    let ret = ret as i32;
    if ret < 0 { -ret } else { 0 }
}

#[test]
fn a_denied_call_gets_its_errno() {
    let plan = plan(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
            {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["getsid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4095,
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    let status = under(&plan, |_| {
        let found = [
            errno_of(libc::SYS_getppid, [0; 3]),
            errno_of(libc::SYS_getpgid, [0; 3]),
            errno_of(libc::SYS_getsid, [1, 0, 0]),
            errno_of(libc::SYS_getsid, [0; 3]),
        ];
        i32::from(found != [77, libc::EPERM, 4095, 0])
    });
    assert_eq!(status.code(), Some(0));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_kernel_enforces_dockers_profile() {
    let filter = plan(DOCKER);
    let status = under(&filter, |_| {
        let found = [
            errno_of(libc::SYS_getpid, [0; 3]),
            errno_of(libc::SYS_personality, [0xffff_ffff, 0, 0]),
            errno_of(libc::SYS_personality, [0x40, 0, 0]),
            errno_of(libc::SYS_clone, [libc::CLONE_NEWUSER.into(), 0, 0]),
            errno_of(libc::SYS_clone3, [0; 3]),
            errno_of(libc::SYS_mount, [0; 3]),
            errno_of(libc::SYS_socket, [libc::AF_VSOCK.into(), libc::SOCK_STREAM.into(), 0]),
            errno_of(libc::SYS_socket, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0]),
            errno_of(1000, [0; 3]),
        ];
        let (p, n) = (libc::EPERM, libc::ENOSYS);
        found.iter().zip([0, 0, p, p, n, p, p, 0, n]).position(|(a, b)| *a != b).map_or(0, |i| i as i32 + 1)
    });
    assert_eq!(status.code(), Some(0));
    // int 0x80: getpid, personality(0x40), mount.
    let status = under(&filter, |_| {
        let found = [errno_of_i386(20, 0), errno_of_i386(136, 0x40), errno_of_i386(21, 0)];
        i32::from(found != [0, libc::EPERM, libc::EPERM])
    });
    assert_eq!(status.code(), Some(0));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn an_architecture_that_is_not_listed_is_killed() {
    let status = under(&plan(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#), |_| {
        errno_of_i386(20, 0);
        1
    });
    assert_eq!(status.signal(), Some(libc::SIGSYS));
}

/// Returns an executable for 32-bit ARM: it calls mount(0, 0, 0, 0, 0) and exits with the errno.
#[cfg(target_arch = "aarch64")]
fn arm_program() -> Vec<u8> {
    const PLACE: u32 = 0x10000;
    let code: [u32; 11] = [
        0xe3a0_0000, // mov r0, #0
        0xe3a0_1000, // mov r1, #0
        0xe3a0_2000, // mov r2, #0
        0xe3a0_3000, // mov r3, #0
        0xe3a0_4000, // mov r4, #0
        0xe3a0_7015, // mov r7, #21 (mount)
        0xef00_0000, // svc #0
        0xe260_0000, // rsb r0, r0, #0
        0xe3a0_7001, // mov r7, #1 (exit)
        0xef00_0000, // svc #0
        0xe7f0_00f0, // udf #0
    ];
    let size = 52 + 32 + 4 * code.len() as u32;
    // elf(5): the header, one segment that is the whole file, and the code.
    let mut program = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x28\0".to_vec();
    let mut words = vec![1, PLACE + 84, 52, 0, 0x0500_0000, 52 | 32 << 16, 1, 0];
    words.extend([1, 0, PLACE, PLACE, size, size, 5, 0x1000]);
    words.extend(code);
    program.extend(words.into_iter().flat_map(u32::to_le_bytes));
    program
}

/// A profile for both sizes of ARM decides about a program of 32 bits. Without that architecture the program is
/// killed.
#[test]
#[cfg(target_arch = "aarch64")]
fn a_32_bit_program_is_under_the_filter() {
    let path = std::env::temp_dir().join(format!("corten-test.arm.{}", std::process::id()));
    // Another process writes it. If this one did, a fork of another test could hold it open for writing (ETXTBSY).
    let draft = path.with_extension("draft");
    std::fs::write(&draft, arm_program()).unwrap();
    let install = Command::new("install").arg("-m755").args([&draft, &path]).status().unwrap();
    std::fs::remove_file(&draft).unwrap();
    assert!(install.success());
    let native = Command::new(&path).status();
    if native.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::ENOEXEC)) {
        std::fs::remove_file(&path).unwrap();
        return println!("skipped: this kernel or processor runs no 32-bit programs");
    }
    assert_eq!(native.unwrap().code(), Some(libc::EFAULT));
    let program = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let of = |architectures: &str| {
        let filter = plan(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": [{architectures}], "syscalls": [
                {{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}}]}}"#
        ));
        under(&filter, |_| {
            // SAFETY: both lists end with a null pointer, and outlive the call.
            unsafe {
                libc::execve(
                    program.as_ptr(),
                    [program.as_ptr(), std::ptr::null()].as_ptr(),
                    [std::ptr::null()].as_ptr(),
                )
            };
            254
        })
    };
    assert_eq!(of(r#""SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM""#).code(), Some(77));
    assert_eq!(of(r#""SCMP_ARCH_AARCH64""#).signal(), Some(libc::SIGSYS));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_program_runs_under_dockers_profile() {
    let filter = plan(DOCKER);
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "mkdir -p / && cat /proc/self/status"]);
    // SAFETY: the closure makes system calls only.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            seccomp::apply(&filter).map(drop).map_err(|e| io::Error::other(e.to_string()))
        });
    }
    let out = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(out.contains("\nSeccomp:\t2\n"), "{out}");
}

#[test]
fn actions_that_end_or_interrupt_the_process() {
    for (action, expected) in [
        ("SCMP_ACT_KILL", libc::SIGSYS),
        ("SCMP_ACT_KILL_PROCESS", libc::SIGSYS),
        ("SCMP_ACT_KILL_THREAD", libc::SIGSYS),
        ("SCMP_ACT_TRAP", libc::SIGSYS),
    ] {
        let json = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["getppid"], "action": "{action}"}}]}}"#
        );
        let status = under(&plan(&json), |_| errno_of(libc::SYS_getppid, [0; 3]));
        assert_eq!(status.signal(), Some(expected), "{action}");
    }
    // Without a tracer, a traced call fails with ENOSYS (seccomp(2)).
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getppid"], "action": "SCMP_ACT_TRACE"}, {"names": ["getpgid"], "action": "SCMP_ACT_LOG"}]}"#;
    let status = under(&plan(json), |_| {
        i32::from(
            [errno_of(libc::SYS_getppid, [0; 3]), errno_of(libc::SYS_getpgid, [0; 3])] != [libc::ENOSYS, 0],
        )
    });
    assert_eq!(status.code(), Some(0));
}

/// All flags of the kernel can be set together, with and without a listener.
#[test]
fn every_flag_of_the_kernel_can_be_set() {
    let supported = seccomp::supported_flags();
    assert!(supported.contains(&"SECCOMP_FILTER_FLAG_LOG"), "{supported:?}");
    let names: Vec<String> = supported
        .iter()
        .filter(|name| !name.ends_with("WAIT_KILLABLE_RECV"))
        .map(|name| format!("{name:?}"))
        .collect();
    let json = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "flags": [{}]}}"#, names.join(","));
    assert_eq!(under(&plan(&json), |_| 0).code(), Some(0));
    let all: Vec<String> = supported.iter().map(|name| format!("{name:?}")).collect();
    let json = format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW", "flags": [{}], "listenerPath": "/a",
            "syscalls": [{{"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}}]}}"#,
        all.join(",")
    );
    assert_eq!(under(&plan(&json), |fd| i32::from(fd.is_none())).code(), Some(0));
    for action in [libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_USER_NOTIF] {
        assert!(sys::seccomp::action_available(action));
    }
    assert!(!sys::seccomp::action_available(0x1234_0000));
    assert!(!sys::seccomp::flag_available(1 << 30));
}

/// Answers for one call, which then returns `value`. Returns the number of the call.
fn answer(listener: &OwnedFd, value: i64) -> i32 {
    // SAFETY: both are plain integers, which may be zero.
    let (mut question, mut answer): (libc::seccomp_notif, libc::seccomp_notif_resp) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: the kernel writes and reads structures of the sizes that are part of the requests' numbers.
    unsafe {
        assert_eq!(libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut question), 0);
        answer.id = question.id;
        answer.val = value;
        assert_eq!(libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer), 0);
    }
    question.data.nr
}

/// config-linux.md#containerprocessstate: the state and the descriptor come in one message on one connection.
/// The agent then answers instead of the kernel.
#[test]
fn the_listener_gets_the_state_and_the_descriptor() {
    let dir = std::env::temp_dir().join(format!("corten-seccomp-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("agent.sock");
    let agent = UnixListener::bind(&path).unwrap();
    let json = format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": {path:?}, "listenerMetadata": "m",
            "syscalls": [{{"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}}]}}"#
    );
    let plan = plan(&json);
    let planned = plan.listener.clone().unwrap();
    let state = serde_json::json!({"id": "c"});
    let state = listener::process_state("1.3.0", 7, planned.metadata.as_deref(), state).to_string();
    let agent = std::thread::spawn(move || {
        let (mut connection, _) = agent.accept().unwrap();
        let (bytes, fd) = sys::socket::receive(connection.as_fd()).unwrap();
        let fd = fd.unwrap();
        assert_eq!(connection.read(&mut [0]).unwrap(), 0);
        (bytes, answer(&fd, 4242))
    });
    let status = under(&plan, |fd| {
        let Some(fd) = fd else { return 1 };
        if listener::send(fd.as_fd(), &planned.path, state.as_bytes()).is_err() {
            return 2;
        }
        // SAFETY: getppid has no arguments.
        i32::from(unsafe { libc::syscall(libc::SYS_getppid) } != 4242)
    });
    let (bytes, nr) = agent.join().unwrap();
    assert_eq!((status.code(), nr), (Some(0), libc::SYS_getppid as i32));
    let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let expected = r#"{"fds":["seccompFd"],"metadata":"m","ociVersion":"1.3.0","pid":7,"state":{"id":"c"}}"#;
    assert_eq!(value, serde_json::from_str::<serde_json::Value>(expected).unwrap());
    std::fs::remove_dir_all(&dir).unwrap();
}

/// The kernel accepts a program that the interpreter accepts.
#[test]
fn a_long_program_loads() {
    let rules: Vec<String> = (0..700)
        .map(|i| {
            format!(
                r#"{{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": {},
                    "args": [{{"index": 1, "value": {}, "op": "SCMP_CMP_EQ"}}]}}"#,
                i + 1,
                i * 3
            )
        })
        .collect();
    let plan = plan(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}}"#, rules.join(",")));
    assert!(plan.filter.len() > 3500 && bpf::valid(&plan.filter));
    let status = under(&plan, |_| {
        i32::from(
            [errno_of(libc::SYS_getppid, [9, 2097, 0]), errno_of(libc::SYS_getppid, [9, 2096, 0])]
                != [700, 0],
        )
    });
    assert_eq!(status.code(), Some(0));
}
