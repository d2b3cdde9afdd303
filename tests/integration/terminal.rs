//! Terminals that are sent to a console socket, and terminals that the runtime relays in the foreground.

use std::fs::{self, File};
use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use corten::testing::sys::tty;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::termios::{ControlFlags, InputFlags, LocalFlags, OutputFlags, tcgetattr};
use serde_json::{Value, json};

use crate::harness::{Bundle, Test, isolated, patience, poll, without_namespace};

pub const LIMIT: Duration = Duration::from_secs(20);

/// Makes a bundle whose process has a terminal and runs a shell script.
pub fn bundle(t: &Test, script: &str, edit: impl FnOnce(&mut Value)) -> Bundle {
    t.bundle(|c| {
        c["process"]["terminal"] = json!(true);
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
        edit(c);
    })
}

/// An engine's end of a console socket.
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    pub fn new(t: &Test, name: &str) -> Self {
        let path = t.dir.join(name);
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { path, listener }
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Returns the master that the runtime has sent when its command is over, as exactly one message with a
    /// name and one descriptor.
    pub fn master(&self) -> File {
        let (stream, _) = self.listener.accept().expect("nobody connected");
        let (name, mut fds) = receive(stream.as_fd());
        assert!(!name.is_empty(), "engines take an empty message for the end");
        assert_eq!(fds.len(), 1);
        assert_eq!((&stream).read(&mut [0; 16]).unwrap(), 0, "more than one message");
        assert_eq!(
            self.listener.accept().unwrap_err().kind(),
            ErrorKind::WouldBlock,
            "more than one connection"
        );
        File::from(fds.remove(0))
    }
}

#[allow(unsafe_code)]
fn receive(stream: impl AsRawFd) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut buffer = [0; 4096];
    let mut control = nix::cmsg_space!([i32; 8]);
    let mut fds = Vec::new();
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut control), flags).unwrap();
    for part in message.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: the kernel has just put these descriptors into our table; nobody else knows them.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = message.bytes;
    (buffer[..length].to_vec(), fds)
}

/// Reads a master until `done` returns true or its last slave is closed.
pub fn read_until(master: &mut File, done: impl Fn(&str) -> bool) -> String {
    fcntl(&*master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).unwrap();
    let mut seen = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\r', "");
    let mut ended = false;
    let over = poll(LIMIT, || {
        let mut buffer = [0; 65536];
        loop {
            // All outputs that tests look for are short.
            if done(&text(&seen[seen.len().saturating_sub(4096)..])) {
                return true;
            }
            match master.read(&mut buffer) {
                Ok(0) => return true,
                Ok(n) => seen.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                // The kernel can report the end of the output before its last part.
                Err(e) if e.raw_os_error() == Some(libc::EIO) && ended => return true,
                Err(e) if e.raw_os_error() == Some(libc::EIO) => ended = true,
                Err(e) => panic!("{e}"),
            }
        }
    });
    let seen = text(&seen);
    assert!(over, "the terminal stays open after {seen:?}");
    seen
}

fn all(master: &mut File) -> String {
    read_until(master, |_| false)
}

/// A script that prints every property of the process's terminal.
const ALL_OF_IT: &str = "tty; for n in 0 1 2; do [ -t $n ] && echo is a terminal; done; stty size; \
    [ $(stat -c %t:%T /dev/console) = $(stat -c %t:%T $(tty)) ] && echo console; \
    echo x >/dev/tty && echo controlling; \
    awk '{ print ($6 == $1 ? \"leader\" : \"no leader\"), ($8 == $5 ? \"foreground\" : \"background\") }' /proc/$$/stat";

/// config.md#process and runc's docs/terminals.md: the master is sent to the socket. The slave is the
/// process's controlling terminal, standard streams and /dev/console, in the requested size.
#[test]
fn the_master_is_sent_to_the_console_socket() {
    isolated(|t| {
        let socket = Socket::new(t, "console");
        let size = |c: &mut Value| c["process"]["consoleSize"] = json!({"height": 33, "width": 77});
        let bundle = bundle(t, ALL_OF_IT, size);
        t.corten(&["create", "-b", bundle.path(), "--console-socket", socket.path(), "c1"]).ok();
        let mut master = socket.master();
        assert_eq!(tty::size(master.as_fd()), Some((33, 77)));
        t.corten(&["start", "c1"]).ok();
        let expected = "/dev/pts/0\nis a terminal\nis a terminal\nis a terminal\n33 77\nconsole\nx\ncontrolling\nleader foreground\n";
        assert_eq!(all(&mut master), expected);
        t.until("c1", "stopped");
        t.delete("c1");
    });
}

/// The terminal is the same in every kind of container, and with `run --detach`.
#[test]
fn every_kind_of_container_can_have_a_terminal() {
    isolated(|t| {
        let socket = Socket::new(t, "console");
        let rows: &[fn(&mut Value)] = &[
            |_| {},
            |c| c["root"]["readonly"] = json!(true),
            |c| c["process"]["noNewPrivileges"] = json!(false),
            |c| without_namespace(c, "pid"),
            |c| without_namespace(c, "mount"),
            |c| {
                let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
                (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
                c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            },
        ];
        for (row, edit) in rows.iter().enumerate() {
            let bundle = bundle(t, ALL_OF_IT, edit);
            if row == 5 {
                t.call(Command::new("chown").args(["-hR", "100000:100000"]).arg(bundle.rootfs())).ok();
            }
            // busybox does not show a size of zero.
            bundle.edit(|c| c["process"]["consoleSize"] = json!({"height": 2, "width": 3}));
            if row == 4 {
                // Without a mount namespace these files stay those of the host.
                bundle.edit(|c| {
                    c["linux"].as_object_mut().unwrap().retain(|key, _| !key.ends_with("Paths"));
                });
            }
            t.corten(&["run", "-d", "-b", bundle.path(), "--console-socket", socket.path(), "c1"]).ok();
            let output = all(&mut socket.master());
            let expected = "/dev/pts/0\nis a terminal\nis a terminal\nis a terminal\n2 3\nconsole\nx\ncontrolling\nleader foreground\n";
            assert_eq!(output, expected, "row {row}");
            t.until("c1", "stopped");
            t.delete("c1");
        }
    });
}

/// The slave belongs to the container's user, with any mode of devpts. Its group is that of devpts.
#[test]
fn the_slave_belongs_to_the_user() {
    isolated(|t| {
        let socket = Socket::new(t, "console");
        let script = "stat -c '%u:%g %a' $(tty); for f in /dev/tty /dev/console /dev/stdout /dev/stderr; do echo $f >$f; done";
        let expected = "1000:5 620\n/dev/tty\n/dev/console\n/dev/stdout\n/dev/stderr\n";
        let user = |c: &mut Value| c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        let bundle = bundle(t, script, user);
        t.corten(&["run", "-d", "-b", bundle.path(), "--console-socket", socket.path(), "c1"]).ok();
        assert_eq!(all(&mut socket.master()), expected);
        t.until("c1", "stopped");
        t.delete("c1");
    });
}

/// The terminal of exec comes from the container's devpts, with the size of the process object.
#[test]
fn exec_can_have_a_terminal() {
    isolated(|t| {
        let socket = Socket::new(t, "console");
        t.start(&t.bundle(|_| {}), "c1");
        let script = "tty; for n in 0 1 2; do [ -t $n ] && echo is a terminal; done; stty size; echo x >/dev/tty; stat -c %u $(tty)";
        // busybox prints this for a size of zero.
        let expected = |size, user| {
            format!("/dev/pts/0\nis a terminal\nis a terminal\nis a terminal\n{size}\nx\n{user}\n")
        };
        let exec = |args: &[&str]| {
            t.corten(&[&["exec", "--console-socket", socket.path()], args].concat()).ok();
            all(&mut socket.master())
        };
        assert_eq!(exec(&["-d", "-t", "c1", "/bin/sh", "-c", script]), expected("stty: standard input", 0));
        assert_eq!(
            exec(&["-d", "-t", "-u", "1000", "c1", "/bin/sh", "-c", script]),
            expected("stty: standard input", 1000)
        );
        let file = t.dir.join("process.json");
        let document = json!({
            "terminal": true, "consoleSize": {"height": 20, "width": 30}, "cwd": "/",
            "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"], "args": ["/bin/sh", "-c", script],
        });
        fs::write(&file, document.to_string()).unwrap();
        assert_eq!(exec(&["-d", "--process", file.to_str().unwrap(), "c1"]), expected("20 30", 0));
        // In the foreground the engine has the output and the caller the status. The engine holds the
        // socket's queue.
        t.corten(&["exec", "-t", "--console-socket", socket.path(), "c1", "/bin/sh", "-c", "exit 6"])
            .exits(6);
        drop(socket.master());
        t.delete("c1");
    });
}

/// Wrong combinations, a missing socket, and files of an image in the place of the multiplexer.
#[test]
fn wrong_terminals_are_reported() {
    isolated(|t| {
        let socket = Socket::new(t, "console");
        let with = bundle(t, "true", |_| {});
        let without = t.bundle(|_| {});
        t.corten(&["create", "-b", with.path(), "c1"]).fails("--console-socket");
        t.corten(&["run", "-d", "-b", with.path(), "c1"]).fails("--console-socket");
        t.corten(&["create", "-b", without.path(), "--console-socket", socket.path(), "c1"])
            .fails("terminal");
        let nowhere = t.dir.join("nowhere");
        for path in [nowhere.to_str().unwrap(), with.path()] {
            t.corten(&["create", "-b", with.path(), "--console-socket", path, "c1"])
                .fails("--console-socket");
        }
        let no_devpts = bundle(t, "true", |c| {
            c["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/pts");
        });
        let create = |bundle: &Bundle| {
            t.corten(&["create", "-b", bundle.path(), "--console-socket", socket.path(), "c1"])
        };
        create(&no_devpts).fails("process.terminal");
        let forged = bundle(t, "true", |c| {
            c["mounts"]
                .as_array_mut()
                .unwrap()
                .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
            c["linux"]["devices"] = json!([{"path": "/dev/pts/ptmx", "type": "c", "major": 1, "minor": 3}]);
        });
        create(&forged).fails("process.terminal");
    });
}

/// The flags of input, output, the line and the terminal, and the 19 control characters of the kernel.
type State = (InputFlags, OutputFlags, ControlFlags, LocalFlags, Vec<u8>);

/// Returns the state of a terminal. musl's `Termios` is longer than the kernel's, and its rest is not defined.
fn state(terminal: &File) -> State {
    let all = tcgetattr(terminal).unwrap();
    let characters = all.control_chars[..19].to_vec();
    (all.input_flags, all.output_flags, all.control_flags, all.local_flags, characters)
}

/// A user's terminal with the runtime in its foreground.
pub struct Session {
    master: File,
    slave: File,
    before: State,
    child: Option<Child>,
}

impl Session {
    pub fn new() -> Self {
        let master =
            posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = PathBuf::from(ptsname_r(&master).unwrap());
        let flags = libc::O_NOCTTY;
        let slave = {
            use std::os::unix::fs::OpenOptionsExt;
            File::options().read(true).write(true).custom_flags(flags).open(&path).unwrap()
        };
        let before = state(&slave);
        let session = Self { master: File::from(OwnedFd::from(master)), slave, before, child: None };
        session.resize(30, 90);
        session
    }

    /// Sets both at once. stty would set them one by one, and the program could see the terminal in between.
    fn resize(&self, rows: u16, columns: u16) {
        tty::set_size(self.slave.as_fd(), rows, columns).unwrap();
    }

    /// Starts the runtime as the leader of the terminal's session.
    pub fn start(&mut self, runtime: &Command) {
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(runtime.get_program()).args(runtime.get_args());
        let stream = || Stdio::from(self.slave.try_clone().unwrap());
        command.stdin(stream()).stdout(stream()).stderr(stream());
        self.child = Some(command.spawn().unwrap());
    }

    pub fn until(&mut self, text: &str) -> String {
        read_until(&mut self.master, |seen| seen.contains(text))
    }

    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn local_flags(&self) -> LocalFlags {
        tcgetattr(&self.slave).unwrap().local_flags
    }

    /// Waits for the end of the runtime, and returns its status and the rest of its output. The terminal must
    /// be in its first state again.
    pub fn end(&mut self) -> (i32, String) {
        let mut child = self.child.take().unwrap();
        let started = Instant::now();
        let mut output = String::new();
        let mut ended = false;
        while !ended {
            if started.elapsed() > LIMIT * patience() {
                child.kill().unwrap();
                panic!("the runtime hangs after {output:?}: {:?}", child.wait());
            }
            ended = child.try_wait().unwrap().is_some();
            let nap = Instant::now() + Duration::from_millis(5);
            output += &read_until(&mut self.master, |_| Instant::now() > nap);
        }
        assert!(state(&self.slave) == self.before, "the terminal is not in its first state");
        (child.wait().unwrap().code().unwrap(), output)
    }

    pub fn run(&mut self, t: &Test, bundle: &Bundle) {
        self.start(&t.command(&["run", "-b", bundle.path(), "r"]));
    }
}

/// Output, input, size and exit status are passed on. The user's terminal is raw in between, and restored
/// afterwards.
#[test]
fn a_foreground_terminal_is_relayed() {
    isolated(|t| {
        let mut session = Session::new();
        let script = "stty size; tty; echo ready; read line; echo \"got $line\"; exit 3";
        session.run(t, &bundle(t, script, |_| {}));
        assert_eq!(session.until("ready\n"), "30 90\n/dev/pts/0\nready\n");
        assert!(!session.local_flags().intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
        session.send("hello\n");
        let (code, output) = session.end();
        // The echo comes from the container's terminal.
        assert_eq!((code, output.as_str()), (3, "hello\ngot hello\n"));
    });
}

/// A later size of the window reaches the container, with the signal.
#[test]
fn a_resize_is_passed_on() {
    isolated(|t| {
        let mut session = Session::new();
        let script = "trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.01; done";
        session.run(t, &bundle(t, script, |_| {}));
        session.until("ready\n");
        session.resize(50, 132);
        assert_eq!(session.end(), (4, "50 132\n".into()));
    });
}

/// consoleSize applies only if the user's terminal has no size. Otherwise it would be wrong at once.
#[test]
fn the_size_of_the_users_terminal_takes_precedence() {
    isolated(|t| {
        let size = |c: &mut Value| c["process"]["consoleSize"] = json!({"height": 33, "width": 77});
        let bundle = bundle(t, "stty size", size);
        let mut session = Session::new();
        session.run(t, &bundle);
        assert_eq!(session.end(), (0, "30 90\n".into()));
        assert_eq!(t.run_bundle(&bundle).ok(), "33 77\n");
    });
}

/// Keys that send signals send them in the container. Signals to the runtime are passed on too.
#[test]
fn keys_and_signals_reach_the_payload() {
    isolated(|t| {
        let script = "trap 'echo caught; exit 9' INT QUIT TERM; echo ready; while :; do sleep 0.01; done";
        let bundle = bundle(t, script, |_| {});
        for key in ["\u{3}", "\u{1c}"] {
            let mut session = Session::new();
            session.run(t, &bundle);
            session.until("ready\n");
            session.send(key);
            let (code, output) = session.end();
            assert!(code == 9 && output.ends_with("caught\n"), "{code} {output:?}");
        }
        let mut session = Session::new();
        session.run(t, &bundle);
        session.until("ready\n");
        let pid = session.child.as_ref().unwrap().id().to_string();
        t.call(Command::new("kill").args(["-TERM", &pid])).ok();
        assert_eq!(session.end(), (9, "caught\n".into()));
    });
}

/// `run` ends with the payload, even if that is very short or others have the terminal open. The user's
/// terminal is restored, also after an error.
#[test]
fn run_ends_when_the_payload_does() {
    isolated(|t| {
        let short = bundle(t, "exit 5", |_| {});
        for _ in 0..50 {
            let mut session = Session::new();
            session.run(t, &short);
            assert_eq!(session.end(), (5, String::new()));
        }
        let holds =
            bundle(t, "trap '' HUP; sleep 1000 & echo started; exit 6", |c| without_namespace(c, "pid"));
        let mut session = Session::new();
        session.run(t, &holds);
        assert_eq!(session.end(), (6, "started\n".into()));
        let killed = bundle(t, "kill -KILL $$", |c| without_namespace(c, "pid"));
        session.run(t, &killed);
        assert_eq!(session.end().0, 137);
        let missing = bundle(t, "", |c| c["process"]["args"] = json!(["/no/such"]));
        session.run(t, &missing);
        let (code, output) = session.end();
        assert!(code != 0 && output.contains("/no/such") && output.lines().count() == 1, "{output}");
    });
}

/// Output that does not go to a terminal has no carriage returns, as with runc. What goes to the user's terminal
/// has them, because that is in raw mode. The master that an engine gets is as the kernel makes it.
#[test]
fn only_a_users_terminal_gets_carriage_returns() {
    isolated(|t| {
        let script = "stty -a 2>/dev/null | grep -o -E -e '-?onlcr'";
        let bundle = bundle(t, script, |_| {});
        assert_eq!(t.run_bundle(&bundle).ok(), "-onlcr\n");
        let mut session = Session::new();
        session.run(t, &bundle);
        assert_eq!(session.end(), (0, "onlcr\n".into()));
        let socket = Socket::new(t, "socket");
        t.corten(&["run", "-d", "--console-socket", socket.path(), "-b", bundle.path(), "c1"]).ok();
        assert_eq!(all(&mut socket.master()), "onlcr\n");
        t.delete("c1");
        t.start(&t.bundle(|_| {}), "c1");
        assert_eq!(t.corten(&["exec", "-t", "c1", "/bin/sh", "-c", script]).ok(), "-onlcr\n");
        t.delete("c1");
    });
}

/// All output arrives, also its last part, and that of a payload that exits at once.
#[test]
fn all_output_arrives() {
    isolated(|t| {
        let bundle = bundle(t, "seq 1 150000", |_| {});
        let complete = |output: &str| {
            let expected: String = (1..=150_000).map(|n| format!("{n}\n")).collect();
            assert!(output == expected, "{} bytes of {}", output.len(), expected.len());
        };
        let mut session = Session::new();
        session.run(t, &bundle);
        let (code, output) = session.end();
        assert_eq!(code, 0);
        complete(&output);
        complete(&t.run_bundle(&bundle).ok());
        // The output goes through a pipe that is read slowly.
        let runtime = t.command(&["run", "-b", bundle.path(), "r"]);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "\"$@\" | (sleep 0.3; cat)", "sh"])
            .arg(runtime.get_program())
            .args(runtime.get_args());
        complete(&t.call(&mut shell).ok());
        for _ in 0..50 {
            bundle.edit(|c| c["process"]["args"] = json!(["/bin/echo", "last words"]));
            assert_eq!(t.run_bundle(&bundle).ok(), "last words\n");
        }
    });
}

/// Much input arrives, also at a payload that reads slowly.
#[test]
fn all_input_arrives() {
    isolated(|t| {
        let script = "stty -echo; echo ready; sleep 0.2; head -n 5000 | wc -c";
        let bundle = bundle(t, script, |_| {});
        let mut session = Session::new();
        session.run(t, &bundle);
        session.until("ready\n");
        let text = "a line of thirty-two characters\n".repeat(5000);
        let mut rest = text.as_bytes();
        let sent = poll(LIMIT, || {
            match session.master.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
            rest.is_empty()
        });
        assert!(sent, "{} bytes are not taken", rest.len());
        assert_eq!(session.end(), (0, format!("{}\n", text.len())));
    });
}

/// The container has a terminal even if the user has none.
#[test]
fn a_container_can_have_a_terminal_without_a_users_terminal() {
    isolated(|t| {
        let bundle = bundle(t, "[ -t 0 ] && [ -t 2 ] && tty; echo err >&2; exit 8", |_| {});
        let out = t.run_bundle(&bundle).exits(8);
        assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("/dev/pts/0\nerr\n", ""));
        // Input from a file is typed in, and its end does not end the payload.
        let bundle = self::bundle(t, "stty -echo; read a; echo got $a", |_| {});
        let input = t.dir.join("input");
        fs::write(&input, "words\n").unwrap();
        let mut command = t.command(&["run", "-b", bundle.path(), "r"]);
        let out = t.spawn(command.stdin(File::open(&input).unwrap())).wait().ok();
        assert!(out.ends_with("got words\n"), "{out:?}");
        // A closed output must not make the runtime hang.
        let mut shell = Command::new("sh");
        let runtime = t.command(&["run", "-b", bundle.path(), "r"]);
        bundle.edit(|c| c["process"]["args"] = json!(["/bin/sh", "-c", "seq 1 150000; exit 3"]));
        shell.args(["-c", "\"$@\" | true", "sh"]).arg(runtime.get_program()).args(runtime.get_args());
        drop(t.call(&mut shell));
        poll(LIMIT, || !Path::new(&t.state().join("r")).exists());
    });
}

/// `exec --tty` in the foreground is relayed like `run`.
#[test]
fn exec_with_tty_is_relayed() {
    isolated(|t| {
        t.start(&t.bundle(|_| {}), "c1");
        let mut session = Session::new();
        // stty sets the rows and the columns of the user's terminal one after the other.
        let trap = "trap 'size=$(stty size); [ \"$size\" = \"11 22\" ] && echo $size && exit 4' WINCH";
        let script =
            format!("{trap}; stty size; tty; read line; echo got $line; while :; do sleep 0.01; done");
        session.start(&t.command(&["exec", "-t", "c1", "/bin/sh", "-c", &script]));
        assert_eq!(session.until("pts/0\n"), "30 90\n/dev/pts/0\n");
        session.send("hello\n");
        assert_eq!(session.until("got hello\n"), "hello\ngot hello\n");
        session.resize(11, 22);
        assert_eq!(session.end(), (4, "11 22\n".into()));
        session.start(&t.command(&["exec", "-t", "c1", "/bin/seq", "1", "50000"]));
        let (code, output) = session.end();
        assert!(code == 0 && output.ends_with("\n50000\n") && output.lines().count() == 50000);
        session.start(&t.command(&["exec", "-t", "c1", "/no/such"]));
        let (code, output) = session.end();
        assert!(code == 255 && output.contains("/no/such"), "{code} {output}");
        t.delete("c1");
    });
}
