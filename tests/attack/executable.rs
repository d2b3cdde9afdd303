//! Attacks on the runtime's own executable (CVE-2019-5736).

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Output, Test, isolated, poll};
use crate::{all_capabilities, bind_payload, found, payload};

/// Returns a copy of the runtime under test that could be written to, and its content.
fn own_runtime(t: &Test) -> (PathBuf, Vec<u8>) {
    let path = t.dir.join("my-runtime");
    fs::copy(t.command(&[]).get_program(), &path).unwrap_or_else(|_| {
        let runtime = std::env::var("CORTEN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_corten").into());
        fs::copy(runtime, &path).unwrap()
    });
    let content = fs::read(&path).unwrap();
    (path, content)
}

fn call(t: &Test, runtime: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(runtime);
    t.call(command.arg("--root").arg(t.state()).args(args))
}

/// Returns a program whose ELF interpreter is `interpreter`: a header, two program headers, and the name.
fn elf(interpreter: &str) -> Vec<u8> {
    let name = [interpreter.as_bytes(), &[0]].concat();
    let (header, entry) = (64u64, 56u64);
    let name_at = header + 2 * entry;
    let size = name_at + name.len() as u64;
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let machine: u16 = match std::env::consts::ARCH {
        "aarch64" => 183,
        "riscv64" => 243,
        _ => 62, // x86_64
    };
    [3u16, machine].iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend(1u32.to_le_bytes());
    [name_at, header, 0].iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend(0u32.to_le_bytes());
    [64u16, 56, 2, 0, 0, 0].iter().for_each(|n| out.extend(n.to_le_bytes()));
    for (kind, flags, offset, length, align) in
        [(3u32, 4u32, name_at, name.len() as u64, 1), (1, 5, 0, size, 4096)]
    {
        [kind, flags].iter().for_each(|n| out.extend(n.to_le_bytes()));
        [offset, offset, offset, length, length, align]
            .iter()
            .for_each(|n: &u64| out.extend(n.to_le_bytes()));
    }
    out.extend(name);
    out
}

/// CVE-2019-5736: the image makes the runtime execute itself in the container: as the program, by a link, and
/// as the interpreter of a script and of an ELF file. It can run there, but the file on the host is not
/// changed.
#[test]
fn the_runtime_as_the_program_stays_unchanged() {
    isolated(|t| {
        let (runtime, content) = own_runtime(t);
        let bundle = t.bundle(|c| all_capabilities(c, &[]));
        let root = bundle.rootfs();
        let executable = |name: &str, text: &[u8]| {
            fs::write(root.join(name), text).unwrap();
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        symlink("/proc/self/exe", root.join("link")).unwrap();
        executable("script", b"#!/proc/self/exe --version\n");
        executable("elf", &elf("/proc/self/exe"));
        call(t, &runtime, &["create", "-b", bundle.path(), "c1"]).ok();
        call(t, &runtime, &["start", "c1"]).ok();
        for program in ["/proc/self/exe", "/proc/thread-self/exe", "/link", "/script", "/elf"] {
            bundle.edit(|c| c["process"]["args"] = json!([program, "--version"]));
            let run = call(t, &runtime, &["run", "-b", bundle.path(), "r"]);
            let exec = call(t, &runtime, &["exec", "c1", program, "--version"]);
            // Check of the check: the runtime was executed.
            if ["/proc/self/exe", "/link"].contains(&program) {
                assert!(run.stdout.contains("corten") && exec.stdout.contains("corten"), "{run:?} {exec:?}");
            }
            assert!(fs::read(&runtime).unwrap() == content, "{program} has changed the runtime");
        }
        t.delete("c1");
    });
}

/// CVE-2019-5736: a process in the container with all capabilities tries to open the executable of every
/// process that it sees for writing. It tries at once, and later through a descriptor that it has kept, while
/// `exec` runs again and again.
#[test]
fn no_process_in_the_container_can_write_to_the_runtime() {
    payload(write_to_executables);
    isolated(|t| {
        let (runtime, content) = own_runtime(t);
        // A naive runtime: nsenter of busybox, from a file of the host that has another length than the
        // image's.
        let naive = t.dir.join("my-naive");
        let text = [fs::read(t.dir.join("busybox")).unwrap(), b"naive".to_vec()].concat();
        fs::write(&naive, &text).unwrap();
        fs::set_permissions(&naive, fs::Permissions::from_mode(0o755)).unwrap();
        let attacked = |length: usize, act: &dyn Fn(&str)| {
            let bundle = t.bundle(|c| {
                all_capabilities(c, &[]);
                bind_payload(
                    c,
                    "executable::no_process_in_the_container_can_write_to_the_runtime",
                    &[&length.to_string()],
                );
            });
            symlink("/proc/self/exe", bundle.rootfs().join("sleep")).unwrap();
            let mut command = Command::new(&runtime);
            command.arg("--root").arg(t.state()).args(["run", "-b", bundle.path(), "c1"]);
            let run = t.spawn(&mut command);
            assert!(poll(Duration::from_secs(20), || bundle.rootfs().join("ready").exists()));
            for _ in 0..15 {
                act(&t.pid("c1").to_string());
            }
            fs::write(bundle.rootfs().join("stop"), "").unwrap();
            let out = found(&run.wait().ok());
            let (seen, written) = out.split_once(' ').unwrap();
            assert_ne!(seen, "0", "the payload has not seen the executable");
            written.parse::<u32>().unwrap()
        };
        let written = attacked(content.len(), &|_| {
            call(t, &runtime, &["exec", "c1", "/bin/true"]).ok();
            call(t, &runtime, &["exec", "c1", "/proc/self/exe", "--version"]).exits(0);
        });
        assert_eq!(written, 0);
        assert!(fs::read(&runtime).unwrap() == content, "the runtime has been changed");
        // Check of the check.
        let written = attacked(text.len(), &|pid| {
            // busybox runs under this name. Once the payload has it open for writing, it cannot be executed.
            let mut command = Command::new("bash");
            command.args(["-c", "exec -a busybox \"$@\"", "bash"]).arg(&naive);
            t.call(command.args(["nsenter", "-t", pid, "-m", "-p", "/sleep", "0.1"]));
        });
        assert_ne!(written, 0, "the naive runtime's executable was not opened for writing");
    });
}

/// The payload: how often an executable of that length was seen, and opened for writing.
fn write_to_executables(arguments: &[String]) -> String {
    let length: u64 = arguments[0].parse().unwrap();
    let (mut seen, mut written) = (0, 0);
    let mut kept = Vec::new();
    let write = |path: &str| OpenOptions::new().write(true).open(path).is_ok();
    fs::write("/ready", "").unwrap();
    let end = Instant::now() + Duration::from_secs(200);
    while !Path::new("/stop").exists() && Instant::now() < end {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let exe = format!("{}/exe", entry.path().display());
            let Ok(file) = fs::File::open(&exe) else { continue };
            if file.metadata().is_ok_and(|stat| stat.len() == length) {
                seen += 1;
                written += u32::from(write(&exe));
                if kept.len() < 64 {
                    kept.push(file);
                }
            }
        }
        use std::os::fd::AsRawFd;
        written +=
            kept.iter().filter(|file| write(&format!("/proc/self/fd/{}", file.as_raw_fd()))).count() as u32;
    }
    format!("{seen} {written}")
}
