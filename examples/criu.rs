//! A CRIU that does what a test asks for: `PROGRAM swrk NUMBER`. It saves nothing, and restores a container as a shell
//! that runs a script in the container's mounts. Everything else is as with CRIU: the messages and their order, the
//! freezing, the clone as a sibling, and the undoing after an error.
//!
//! `PROGRAM.json` says where it misbehaves, and how (`Fake::send`). Each request is written to `PROGRAM.KIND`.
#![allow(clippy::unwrap_used)]

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use corten::testing::criu::message::{Features, Notify, Options, Request, Response, Restored, Type, Version};
use corten::testing::sys::task::{Forked, clone3, setsid};
use corten::testing::sys::{fs as descriptors, socket};
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use serde_json::Value;

/// A pid that no process has.
const NOBODY: i32 = i32::MAX;

/// The script of a restored container. As the first process of its pid namespace it ends by no signal that it does not handle.
const PROGRAM: &str = "trap 'exit 5' TERM; sleep 1000 & wait";

/// The files of statistics, without the numbers before the messages.
const DUMP_STATS: [u8; 16] = [10, 14, 8, 1, 16, 2, 24, 3, 32, 4, 40, 5, 48, 6, 56, 7];
const RESTORE_STATS: [u8; 12] = [18, 10, 8, 1, 16, 2, 24, 3, 32, 4, 40, 5];

struct Fake {
    script: Value,
    socket: OwnedFd,
    /// The first process that is being restored, and what lets it run.
    restored: Option<(i32, OwnedFd)>,
    /// The container was frozen by this process.
    frozen: Option<PathBuf>,
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let [program, verb, number] = &words[..] else { panic!("usage: criu swrk NUMBER") };
    assert_eq!(verb, "swrk");
    let script = fs::read(format!("{program}.json"))
        .map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
    let socket = descriptors::take_for_writing(number.parse().unwrap()).unwrap();
    let mut fake = Fake { script, socket, restored: None, frozen: None };
    fake.misbehave("start");
    while let Some(request) = fake.receive() {
        fs::write(format!("{program}.{:?}", request.kind()), request.encode_to_vec()).unwrap();
        fake.serve(request);
    }
    // After a pre-dump CRIU waits for the next one.
    std::process::exit(1);
}

/// Waits until it is killed.
fn wait() -> ! {
    loop {
        nix::unistd::pause();
    }
}

impl Fake {
    fn serve(&mut self, request: Request) {
        let kind = request.kind();
        let answer = Response { kind: kind.into(), success: true, ..Response::default() };
        match kind {
            Type::Version => {
                let number =
                    |index: usize| self.script["version"][index].as_i64().map(|number| number as i32);
                let version = match &self.script["version"] {
                    Value::Bool(_) => None,
                    Value::Null => Some(Version { major: 4, minor: 1, sublevel: Some(1) }),
                    _ => Some(Version {
                        major: number(0).unwrap(),
                        minor: number(1).unwrap(),
                        sublevel: number(2),
                    }),
                };
                self.send("version", Response { version, ..answer }, None);
            }
            Type::FeatureCheck => {
                let has = self.script["features"] != Value::Bool(false);
                let features = Some(Features { mem_track: Some(has), lazy_pages: Some(has) });
                self.send("features", Response { features, ..answer }, None);
            }
            Type::Dump | Type::PreDump | Type::Restore => self.work(kind, answer, request.options.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// Dumps or restores, and ends.
    fn work(&mut self, kind: Type, answer: Response, options: Options) {
        let work = PathBuf::from(format!("/proc/self/fd/{}", options.work_dir_fd.unwrap()));
        if let Some(text) = self.script["log"].as_str() {
            fs::write(work.join(options.log_file.as_deref().unwrap()), text).unwrap();
        }
        let stats: (&str, &[u8]) =
            if kind == Type::Restore { ("restore", &RESTORE_STATS) } else { ("dump", &DUMP_STATS) };
        let done = if kind == Type::Restore { self.restore(&options) } else { self.dump(kind, &options) };
        if done && self.script["stats"] != Value::Bool(false) {
            let head = [0x5510_5940, 0x5709_3306, stats.1.len() as u32].map(u32::to_le_bytes).concat();
            fs::write(work.join(format!("stats-{}", stats.0)), [&head, stats.1].concat()).unwrap();
        }
        let pid = self.restored.as_ref().map_or(0, |(pid, _)| *pid);
        let restore = (kind == Type::Restore).then_some(Restored { pid });
        self.send("answer", Response { success: done, restore, ..answer }, None);
        if self.script["lingers"] == Value::Bool(true) {
            wait();
        }
        if kind == Type::PreDump && done {
            return;
        }
        let status = if done { self.script["status"].as_i64().unwrap_or(0) } else { 1 };
        std::process::exit(status as i32);
    }

    fn dump(&mut self, kind: Type, options: &Options) -> bool {
        if !self.step("pre-dump", None, None) {
            return false;
        }
        self.freeze(options);
        let mut steps = vec!["network-lock", "post-dump"];
        if options.lazy_pages == Some(true) {
            steps.insert(1, "status-ready");
        }
        if !steps.into_iter().all(|name| self.step(name, None, None)) {
            return false;
        }
        if kind == Type::Dump && options.leave_running != Some(true) {
            kill(Pid::from_raw(options.pid.unwrap()), Signal::SIGKILL).unwrap();
        }
        self.thaw();
        true
    }

    fn freeze(&mut self, options: &Options) {
        let Some(cgroup) = options.freeze_cgroup.as_ref().map(PathBuf::from) else { return };
        let (file, word, frozen) = match cgroup.join("freezer.state") {
            v1 if v1.exists() => (v1, "FROZEN", "FROZEN"),
            _ => (cgroup.join("cgroup.freeze"), "1", "1"),
        };
        if fs::read_to_string(&file).unwrap().trim() != frozen {
            fs::write(&file, word).unwrap();
            self.frozen = Some(file);
        }
    }

    fn thaw(&mut self) {
        if let Some(file) = self.frozen.take().filter(|_| self.script["leaves_frozen"] != Value::Bool(true)) {
            let word = if file.ends_with("freezer.state") { "THAWED" } else { "0" };
            fs::write(file, word).unwrap();
        }
    }

    /// Reads images as users of the host, who have no other rights: the script's `reads` are pairs of a user and a name. What
    /// they read goes to `PROGRAM.reads`.
    fn read_images(&self, options: &Options) {
        let Some(rows) = self.script["reads"].as_array() else { return };
        let read = |row: &Value| {
            let path = format!("/proc/self/fd/{}/{}", options.images_dir_fd, row[1].as_str().unwrap());
            let uid = row[0].as_u64().unwrap() as u32;
            let script = "if [ -d \"$0\" ]; then ls \"$0\"; else cat \"$0\"; fi";
            let output = Command::new("sh").args(["-c", script, &path]).uid(uid).gid(uid).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_string()
        };
        let texts: Vec<String> = rows.iter().map(read).collect();
        let program = std::env::args().next().unwrap();
        fs::write(format!("{program}.reads"), serde_json::to_vec(&texts).unwrap()).unwrap();
    }

    fn restore(&mut self, options: &Options) -> bool {
        self.read_images(options);
        if !self.step("pre-restore", None, None) {
            return false;
        }
        let terminal = self.script["terminal"] == Value::Bool(true);
        let terminal = terminal.then(|| nix::pty::openpty(None, None).unwrap());
        let (starts, start) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let program = self.script["program"].as_str().unwrap_or(PROGRAM);
        let kinds = libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP;
        let pid = match clone3((kinds | libc::CLONE_PARENT) as u64, None).unwrap() {
            Forked::Child => {
                let slave = terminal.map(|terminal| terminal.slave);
                become_program(options, program, slave, &starts, self.script["stray"].is_string())
            }
            Forked::Parent { pid, .. } => pid,
        };
        self.restored = Some((pid, start));
        drop(starts);
        if let Some(list) = self.script["stray"].as_str() {
            let child = loop {
                let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
                if let Some(child) = children.split_whitespace().next() {
                    break child.to_string();
                }
            };
            fs::write(list, child).unwrap();
        }
        let done = ["setup-namespaces", "post-setup-namespaces"]
            .into_iter()
            .all(|name| self.step(name, Some(pid), None))
            && terminal
                .is_none_or(|terminal| self.step("orphan-pts-master", Some(0), Some(&terminal.master)))
            && self.step("post-restore", Some(pid), None);
        if done {
            // CRIU does not care what comes of these.
            self.notify("pre-resume", Some(pid), None);
            let (_, start) = self.restored.as_ref().unwrap();
            nix::unistd::write(start, b"x").unwrap();
            self.notify("post-resume", Some(pid), None);
        }
        done
    }

    /// Reports a step. Returns whether the work goes on; if not, it has been undone.
    fn step(&mut self, name: &str, pid: Option<i32>, fd: Option<&OwnedFd>) -> bool {
        let goes_on = self.notify(name, pid, fd);
        if !goes_on {
            self.undo();
        }
        goes_on
    }

    /// Reports a step, and returns the answer.
    fn notify(&mut self, name: &str, pid: Option<i32>, fd: Option<&OwnedFd>) -> bool {
        let notify = Some(Notify { script: Some(name.into()), pid });
        self.send(
            name,
            Response { kind: Type::Notify.into(), success: true, notify, ..Response::default() },
            fd,
        );
        match self.receive() {
            Some(reply) => reply.notify_success == Some(true),
            None => self.abandoned(),
        }
    }

    /// Ends, because the runtime has.
    fn abandoned(&mut self) -> ! {
        self.undo();
        std::process::exit(1)
    }

    fn undo(&mut self) {
        self.thaw();
        if let Some((pid, _)) = &self.restored {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
    }

    fn receive(&self) -> Option<Request> {
        let (bytes, _) = socket::receive(self.socket.as_fd()).ok()?;
        (!bytes.is_empty()).then(|| Request::decode(&bytes[..]).unwrap())
    }

    /// Sends a message. The script's object `at` has what is wrong with it.
    fn send(&mut self, point: &str, mut message: Response, fd: Option<&OwnedFd>) {
        self.misbehave(point);
        let mut times = 1;
        match self.script["at"][point].as_str().unwrap_or_default() {
            "refuse" => {
                // The work is refused, and not only a step of it.
                self.undo();
                let errno = self.script["errno"].as_i64().map(|errno| errno as i32);
                let text = self.script["message"].as_str().map(Into::into);
                message = Response { kind: Type::Empty.into(), errno, message: text, ..Response::default() };
            }
            "other type" => message.kind = Type::FeatureCheck.into(),
            "twice" => times = 2,
            "no pid" => message.notify.as_mut().unwrap().pid = None,
            "wrong pid" => message.notify.as_mut().unwrap().pid = Some(NOBODY),
            _ => {}
        }
        let bytes = match self.script["at"][point].as_str() {
            Some("half") => message.encode_to_vec()[..3].to_vec(),
            Some("garbage") => vec![0xff; 20],
            _ => message.encode_to_vec(),
        };
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        for _ in 0..times {
            if socket::send(self.socket.as_fd(), &bytes, &fds).is_err() {
                self.abandoned();
            }
        }
    }

    /// Ends instead of anything else, if the script says so.
    fn misbehave(&self, point: &str) {
        match self.script["at"][point].as_str() {
            Some("exit") => std::process::exit(self.script["status"].as_i64().unwrap_or(3) as i32),
            Some("die") => drop(kill(Pid::this(), Signal::SIGKILL)),
            Some("silence") => wait(),
            Some("close") => {
                nix::unistd::close(self.socket.as_raw_fd()).unwrap();
                wait();
            }
            _ => {}
        }
    }
}

/// The restored process: waits for the start, and runs the script. Without a start it waits for its end, as a process of
/// CRIU's does that nobody resumes. With `strays` it has a child.
fn become_program(
    options: &Options,
    program: &str,
    slave: Option<OwnedFd>,
    starts: &OwnedFd,
    strays: bool,
) -> ! {
    for number in 3..64 {
        if number != starts.as_raw_fd() && slave.as_ref().is_none_or(|slave| slave.as_raw_fd() != number) {
            let _ = nix::unistd::close(number);
        }
    }
    setsid().unwrap();
    if let Some(slave) = &slave {
        nix::unistd::dup2_stdin(slave).unwrap();
        nix::unistd::dup2_stdout(slave).unwrap();
        nix::unistd::dup2_stderr(slave).unwrap();
    }
    if strays && matches!(clone3(0, None).unwrap(), Forked::Child) {
        wait();
    }
    enter(options);
    let mut byte = [0];
    if nix::unistd::read(starts, &mut byte).unwrap() == 0 {
        wait();
    }
    let words = ["/bin/sh", "-c", program].map(|word| CString::new(word).unwrap());
    let Err(e) = nix::unistd::execve(&words[0], &words, &[c"PATH=/bin"]);
    panic!("{program}: {e}");
}

/// Enters the container's root, with the mounts that the runtime has prepared.
fn enter(options: &Options) {
    let none = None::<&str>;
    let root = Path::new(options.root.as_deref().unwrap());
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    // The container's own mounts are in the images. This CRIU makes two.
    mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), none).unwrap();
    mount(Some("/dev"), &root.join("dev"), none, MsFlags::MS_BIND, none).unwrap();
    for external in options.external_mounts.iter().filter(|external| external.key != "/dev/null") {
        let target = root.join(external.key.trim_start_matches('/'));
        if target.exists() {
            mount(Some(Path::new(&external.value)), &target, none, MsFlags::MS_BIND, none).unwrap();
        }
    }
    nix::unistd::chdir(root).unwrap();
    nix::unistd::pivot_root(".", ".").unwrap();
    umount2(".", MntFlags::MNT_DETACH).unwrap();
    nix::unistd::chdir("/").unwrap();
}
