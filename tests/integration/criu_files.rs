//! What a checkpoint saves of files, mounts, standard streams and terminals, and what a restore makes of it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::criu::{LONG, Volume, call, command, load, moved, save, with_criu};
use crate::harness::{Bundle, Test, linux_since, poll, skip};
use crate::mounts::{add, host_mount};
use crate::terminal::{self, Session, Socket, read_until};

/// Returns the mounts of a process, without ids, peer groups and what differs between two tmpfs.
fn mounts(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let line = |line: &str| {
        let (first, last) = line.split_once(" - ").unwrap();
        let first: Vec<&str> = first.split(' ').collect();
        let last: Vec<&str> = last.split(' ').collect();
        // The container's cgroup has its id.
        let root = if last[0] == "cgroup2" { "" } else { first[3] };
        format!("{root} {} {} {} {}", first[4], first[5], last[0], last[2])
    };
    let mut mounts: Vec<String> = text.lines().map(line).collect();
    mounts.sort();
    mounts
}

/// Saves and restores a container, and compares what it shows and its mounts before and after.
fn stays_the_same(t: &Test, name: &str, look: &str, edit: impl FnOnce(&mut Value, &Path)) {
    println!("row: {name}");
    let volume = Volume::new(t);
    let bundle = t.bundle(|c| {
        volume.count(c, "", "true");
        edit(c, &volume.dir);
    });
    let _ = fs::remove_file(volume.dir.join("said"));
    let pid = t.start(&bundle, "c1");
    volume.after(0);
    let show = format!("cd /; ls -lan /dev /dev/pts; ({look}) 2>&1; true");
    let before = (mounts(pid), t.exec("c1", &show).ok());
    save(t, "c1", &[]);
    let number = volume.stopped_at();
    load(t, &bundle, "c1", "c2", &[]);
    volume.goes_on(number);
    let after = (mounts(t.pid("c2")), t.exec("c2", &show).ok());
    assert_eq!(before.0, after.0, "{name}");
    // Times of directories are not restored.
    let without_times = |text: &str| -> Vec<String> {
        let words = |line: &str| {
            line.split_whitespace().take(5).collect::<Vec<_>>().join(" ")
                + line.rsplit(' ').next().unwrap_or_default()
        };
        // The program is about to rename the file `new`.
        let counts = |line: &&str| !line.starts_with("total") && line.split(' ').next_back() != Some("new");
        text.lines().filter(counts).map(words).collect()
    };
    assert_eq!(without_times(&before.1), without_times(&after.1), "{name}");
    t.delete("c2");
}

const MASKS: &str =
    "ls -a /proc/acpi /sys/firmware | wc -l; cat /proc/kcore | wc -c; echo x >/proc/sys/kernel/hostname";

/// The mounts of the configuration, with their flags: new file systems with their content, masks, read-only paths, devices.
#[test]
fn mounts_are_restored() {
    with_criu(|t| {
        stays_the_same(t, "default", MASKS, |_, _| {});
        stays_the_same(t, "a read-only root", "touch /x", |c, _| c["root"]["readonly"] = json!(true));
        stays_the_same(t, "devices", "cat /dev/my-null", |c, _| {
            c["linux"]["devices"] = json!([
                {"path": "/dev/my-null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 1000, "gid": 1000},
                {"path": "/tmp/zero", "type": "c", "major": 1, "minor": 5},
                {"path": "/dev/my-fifo", "type": "p"},
            ]);
        });
        stays_the_same(t, "a tmpfs", "cat /data/file; stat -c '%a %u %n' /data /data/*", |c, _| {
            add(
                c,
                json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1770", "size=1m", "noexec"]}),
            );
            let script = c["process"]["args"][2].as_str().unwrap();
            let script = format!(
                "echo content >/data/file; chmod 641 /data/file; ln -s file /data/link; mkdir -m 700 /data/dir; {script}"
            );
            c["process"]["args"][2] = json!(script);
        });
        stays_the_same(t, "no masks", "true", |c, _| {
            c["linux"]["maskedPaths"] = json!([]);
            c["linux"]["readonlyPaths"] = json!(["/etc", "/proc/sys"]);
        });
    });
}

/// Mounts of the host's files and directories are the new container's.
#[test]
fn bind_mounts_are_restored() {
    with_criu(|t| {
        let below = t.dir.join("vol/below");
        fs::create_dir_all(&below).unwrap();
        host_mount(t, &["-t", "tmpfs", "below", below.to_str().unwrap()]);
        fs::write(below.join("file"), "below\n").unwrap();
        let secrets = "ls -a /vol/secret | wc -l; cat /vol/key; echo x >/vol/kept/file; cat /vol/kept/file";
        stays_the_same(t, "masks and read-only paths in a volume", secrets, |c, volume| {
            for name in ["secret", "kept"] {
                fs::create_dir(volume.join(name)).unwrap();
                fs::write(volume.join(name).join("file"), "the host's\n").unwrap();
            }
            fs::write(volume.join("key"), "the host's\n").unwrap();
            c["linux"]["maskedPaths"] = json!(["/vol/secret", "/vol/key"]);
            c["linux"]["readonlyPaths"] = json!(["/vol/kept"]);
        });
        stays_the_same(t, "mounts below a volume", "cat /vol/below/file /other/below/file", |c, volume| {
            add(
                c,
                json!({"destination": "/other", "source": volume, "options": ["rbind", "ro", "nosuid", "rslave"]}),
            );
            add(c, json!({"destination": "/flat", "source": volume, "options": ["bind", "rro"]}));
        });
        t.call(Command::new("umount").arg(&below)).ok();
        stays_the_same(t, "a tmpfs on a volume", "ls /vol/below /vol/below/dir", |c, volume| {
            add(c, json!({"destination": "/vol/below", "type": "tmpfs", "source": "tmpfs"}));
            add(c, json!({"destination": "/vol/below/dir", "source": volume, "options": ["bind"]}));
        });
        let file = t.dir.join("file");
        fs::write(&file, "file\n").unwrap();
        stays_the_same(t, "files", "cat /etc/hosts /run/a/b/file", |c, _| {
            add(c, json!({"destination": "/etc/hosts", "source": file, "options": ["bind", "ro"]}));
            add(c, json!({"destination": "/run/a/b/file", "source": file, "options": ["bind"]}));
        });
    });
}

/// A link in the image as the destination of a mount is followed, at the restore too.
#[test]
fn a_link_as_destination_is_restored() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| {
            volume.count(c, "", "cat /run/vol/said >/dev/null && echo seen");
            add(c, json!({"destination": "/var/run/vol", "source": volume.dir, "options": ["bind"]}));
        });
        std::os::unix::fs::symlink("/run", bundle.rootfs().join("var/run")).unwrap();
        fs::write(volume.dir.join("said"), "0\n").unwrap();
        let [_, after] = moved(t, &volume, &bundle, &[], &[]);
        assert_eq!(after, "seen");
        t.delete("c2");
    });
}

/// config.md#mounts: an idmapped mount.
#[test]
fn id_mapped_mounts_are_restored() {
    with_criu(|t| {
        if !linux_since(5, 19) {
            skip("ids of an idmapped mount need Linux 5.19");
        }
        let source = t.dir.join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "").unwrap();
        std::os::unix::fs::chown(source.join("file"), Some(5), Some(6)).unwrap();
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 1000}]);
        stays_the_same(t, "idmap", "stat -c %u:%g /mapped/file | grep 1005:1006", |c, _| {
            add(
                c,
                json!({"destination": "/mapped", "source": source, "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map}),
            );
        });
    });
}

/// Open files: offsets, deleted ones, ones with another name only, pipes, shared memory.
#[test]
fn open_files_are_restored() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let first = "os.makedirs('/tmp/d', exist_ok=True)
plain = open('/tmp/d/plain', 'w+'); plain.write('plain text'); plain.flush(); plain.seek(6)
ghost = open('/tmp/d/ghost', 'w+'); ghost.write('ghost'); ghost.flush(); os.unlink('/tmp/d/ghost')
linked = open('/tmp/d/linked', 'w+'); linked.write('linked'); linked.flush(); os.link('/tmp/d/linked', '/tmp/d/other'); os.unlink('/tmp/d/linked')
r, w = os.pipe(); os.write(w, b'piped')
os.mkfifo('/tmp/d/fifo'); fifo = os.open('/tmp/d/fifo', os.O_RDWR); os.write(fifo, b'fifo')
memory = mmap.mmap(-1, 4096); memory[:6] = b'shared'
memfd = os.memfd_create('mine'); os.write(memfd, b'memfd')
event = os.eventfd(7)
left, right = socket.socketpair(); left.send(b'pair')
once = []
def look():
  if not once and os.path.exists('/vol/go'):
    ghost.seek(0); linked.seek(0)
    once.extend([plain.read(), ghost.read(), linked.read(), os.read(r, 9), os.read(fifo, 9), memory[:6], os.pread(memfd, 9, 0), os.eventfd_read(event), right.recv(9)])
  return once";
        let bundle = t.bundle(|c| volume.python(c, first, "look()"));
        t.start(&bundle, "c1");
        volume.after(0);
        save(t, "c1", &["--link-remap"]);
        let number = volume.stopped_at();
        fs::write(volume.dir.join("go"), "").unwrap();
        load(t, &bundle, "c1", "c2", &[]);
        let expected = "['text', 'ghost', 'linked', b'piped', b'fifo', b'shared', b'memfd', 7, b'pair']";
        assert_eq!(volume.goes_on(number), expected);
        t.delete("c2");
    });
}

/// `--file-locks`: without it a checkpoint of a process with locks fails. With it, the restored process has them.
#[test]
fn locks_are_restored() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let first = "whole = open('/tmp/whole', 'w'); fcntl.flock(whole, fcntl.LOCK_EX)
part = open('/tmp/part', 'w'); fcntl.lockf(part, fcntl.LOCK_EX, 10, 5)";
        let bundle = t.bundle(|c| volume.python(c, first, "1"));
        t.start(&bundle, "c1");
        volume.after(0);
        t.call(command(t, &["checkpoint"], "c1").arg("c1")).fails("file-locks");
        volume.goes_on(volume.stopped_at());
        save(t, "c1", &["--file-locks"]);
        let number = volume.stopped_at();
        load(t, &bundle, "c1", "c2", &["--file-locks"]);
        volume.goes_on(number);
        let lock = |flag: i32, name: &str| {
            let file = File::options().write(true).open(bundle.rootfs().join("tmp").join(name)).unwrap();
            match flag {
                0 => nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).is_ok(),
                _ => {
                    let range = libc::flock {
                        l_type: libc::F_WRLCK as i16,
                        l_whence: 0,
                        l_start: 5,
                        l_len: 10,
                        l_pid: 0,
                    };
                    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETLK(&range)).is_ok()
                }
            }
        };
        assert!(!lock(0, "whole") && !lock(1, "part"), "a lock is free");
        t.delete("c2");
        assert!(lock(0, "whole") && lock(1, "part"));
    });
}

/// Starts a container with these standard streams.
pub fn start_with(t: &Test, bundle: &Bundle, streams: [Stdio; 3]) {
    let [stdin, stdout, stderr] = streams;
    let mut command = t.command(&["run", "--detach", "--bundle", bundle.path(), "c1"]);
    assert!(command.stdin(stdin).stdout(stdout).stderr(stderr).status().unwrap().success());
}

fn restore_with(t: &Test, bundle: &Bundle, streams: [Stdio; 3]) {
    let [stdin, stdout, stderr] = streams;
    let mut command = command(t, &["restore", "--detach", "--bundle", bundle.path()], "c1");
    assert!(command.arg("c2").stdin(stdin).stdout(stdout).stderr(stderr).status().unwrap().success());
}

const ECHO: &str = "echo begun; echo begun >&2; while :; do read line && echo out $line && echo err $line >&2; usleep 20000; done";

fn echo(t: &Test) -> Bundle {
    t.bundle(|c| c["process"]["args"] = json!(["/bin/sh", "-c", ECHO]))
}

/// Pipes are those of the `restore` command.
#[test]
fn pipes_become_those_of_the_restore() {
    with_criu(|t| {
        let bundle = echo(t);
        let open = || {
            let [(stdin, a), (b, stdout), (c, stderr)] = [0; 3].map(|_| std::io::pipe().unwrap());
            ([Stdio::from(stdin), stdout.into(), stderr.into()], a, [b, c])
        };
        let expect = |readers: &mut [std::io::PipeReader; 2], texts: [&str; 2]| {
            for (reader, text) in readers.iter_mut().zip(texts) {
                let mut bytes = vec![0; text.len()];
                reader.read_exact(&mut bytes).unwrap();
                assert_eq!(String::from_utf8(bytes).unwrap(), text);
            }
        };
        let (streams, mut writer, mut readers) = open();
        start_with(t, &bundle, streams);
        writer.write_all(b"one\n").unwrap();
        expect(&mut readers, ["begun\nout one\n", "begun\nerr one\n"]);
        save(t, "c1", &[]);
        let (streams, mut writer, mut readers) = open();
        restore_with(t, &bundle, streams);
        writer.write_all(b"two\n").unwrap();
        expect(&mut readers, ["out two\n", "err two\n"]);
        t.delete("c2");
    });
}

/// Files of the host are those of the `restore` command, also if two streams are the same file. /dev/null and closed streams stay.
#[test]
fn files_become_those_of_the_restore() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let file = |name: &str| File::options().create(true).append(true).open(t.dir.join(name)).unwrap();
        let text = |name: &str| fs::read_to_string(t.dir.join(name)).unwrap_or_default();
        type Streams<'a> = &'a dyn Fn(&str) -> [Stdio; 3];
        let different: Streams =
            &|n| [Stdio::null(), file(&format!("out{n}")).into(), file(&format!("err{n}")).into()];
        let same: Streams = &|n| {
            let both = file(&format!("out{n}"));
            [Stdio::null(), both.try_clone().unwrap().into(), both.into()]
        };
        let null: Streams = &|_| [Stdio::null(), Stdio::null(), Stdio::null()];
        let mixed: Streams = &|n| [Stdio::null(), file(&format!("out{n}")).into(), Stdio::null()];
        for (name, streams) in [("different", different), ("same", same), ("null", null), ("mixed", mixed)] {
            println!("row: {name}");
            let bundle = t.bundle(|c| volume.count(c, "", "echo o >&3; echo e >&4"));
            bundle.edit(|c| {
                let script = c["process"]["args"][2].as_str().unwrap();
                c["process"]["args"][2] = json!(format!("exec 3>&1 4>&2; {script}"));
            });
            let _ = fs::remove_file(volume.dir.join("said"));
            start_with(t, &bundle, streams("1"));
            volume.after(0);
            save(t, "c1", &[]);
            let number = volume.stopped_at();
            let before = text("out1");
            restore_with(t, &bundle, streams("2"));
            volume.goes_on(number);
            t.delete("c2");
            assert_eq!(text("out1"), before, "{name}");
            let expected = match name {
                "null" => ("", ""),
                "different" => ("o\n", "e\n"),
                "same" => ("o\ne\n", ""),
                _ => ("o\n", ""),
            };
            let (out, err) = (text("out2"), text("err2"));
            assert!(out.contains(expected.0) && err.contains(expected.1), "{name}: {out} {err}");
            assert!(name != "different" || !out.contains('e'), "{out}");
            ["out1", "err1", "out2", "err2"].iter().for_each(|name| drop(fs::remove_file(t.dir.join(name))));
        }
    });
}

/// CRIU compares the size of a file that was not open for appending. The message says so.
#[test]
fn a_file_of_another_size_is_refused_with_a_hint() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.count(c, "echo text >&2", "true"));
        let file = |name: &str| File::create(t.dir.join(name)).unwrap().into();
        start_with(t, &bundle, [Stdio::null(), Stdio::null(), file("first")]);
        volume.after(0);
        save(t, "c1", &[]);
        let mut command = command(t, &["restore", "--detach", "--bundle", bundle.path(), "c2"], "c1");
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file("second"));
        assert!(!command.status().unwrap().success());
        let said = fs::read_to_string(t.dir.join("second")).unwrap();
        assert!(said.contains("hint: a file that is a standard stream"), "{said}");
    });
}

/// A container that was started without standard streams can be saved and restored, also by a caller without any.
#[test]
fn closed_streams_are_no_obstacle() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.count(c, "", "true"));
        let closed = |command: &Command| {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"])
                .arg(command.get_program())
                .args(command.get_args());
            assert!(shell.status().unwrap().success());
        };
        closed(&t.command(&["run", "-d", "-b", bundle.path(), "c1"]));
        volume.after(0);
        save(t, "c1", &[]);
        let number = volume.stopped_at();
        let mut command = command(t, &["restore", "-d", "-b", bundle.path()], "c1");
        closed(command.arg("c2"));
        volume.goes_on(number);
        t.delete("c2");
    });
}

const TALK: &str = "echo begun; tty; while :; do read line && echo \"got $line\"; done";

/// The terminal of a container is new at a restore. Its master goes to the console socket.
#[test]
fn a_terminal_goes_to_the_console_socket() {
    with_criu(|t| {
        let socket = Socket::new(t, "console");
        let bundle = terminal::bundle(t, TALK, |_| {});
        t.corten(&["run", "-d", "-b", bundle.path(), "--console-socket", socket.path(), "c1"]).ok();
        let mut master = socket.master();
        read_until(&mut master, |seen| seen.contains("/dev/pts/0\n"));
        save(t, "c1", &[]);
        drop(master);
        let mut restore = command(t, &["restore", "-d", "-b", bundle.path()], "c1");
        t.call(restore.arg("c2")).fails("--console-socket");
        load(t, &bundle, "c1", "c2", &["--console-socket", socket.path()]);
        let mut master = socket.master();
        master.write_all(b"hello\n").unwrap();
        let seen = read_until(&mut master, |seen| seen.contains("got hello\n"));
        assert!(!seen.contains("begun"), "{seen}");
        t.delete("c2");
    });
}

/// In the foreground, `restore` relays between the user's terminal and the container's.
#[test]
fn a_terminal_is_relayed_in_the_foreground() {
    with_criu(|t| {
        let mut session = Session::new();
        let script =
            "echo begun; while read line; do echo \"got $line\"; [ \"$line\" != end ] || exit 4; done";
        let bundle = terminal::bundle(t, script, |_| {});
        session.start(&t.command(&["run", "-b", bundle.path(), "c1"]));
        session.until("begun\n");
        session.send("one\n");
        session.until("got one\n");
        save(t, "c1", &[]);
        let (code, _) = session.end();
        assert_eq!(code, 137);
        let mut session = Session::new();
        let mut restore = command(t, &["restore", "-b", bundle.path()], "c1");
        session.start(restore.arg("c2"));
        assert!(poll(LONG, || t.corten(&["state", "c2"]).code == 0));
        session.send("two\n");
        session.until("got two\n");
        session.send("end\n");
        assert_eq!(session.end().0, 4);
    });
}

/// `--shell-job`: a container that has the caller's terminal can be saved. CRIU 4.1 cannot restore it, also for runc.
#[test]
fn a_shell_job_can_be_saved() {
    with_criu(|t| {
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!([
                "/bin/sh",
                "-c",
                "echo begun; while read line; do echo \"got $line\"; [ \"$line\" != end ] || exit 4; done"
            ])
        });
        let mut session = Session::new();
        session.start(&t.command(&["run", "-b", bundle.path(), "c1"]));
        session.until("begun\n");
        call(t, "c1", command(t, &["checkpoint", "--shell-job"], "c1").arg("c1")).ok();
        assert_eq!(session.end().0, 137);
        t.corten(&["state", "c1"]).fails("does not exist");
    });
}
