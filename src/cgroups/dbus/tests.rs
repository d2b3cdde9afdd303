use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use super::*;

/// A bus daemon of the test's own.
struct Daemon {
    process: Child,
    address: String,
    dir: PathBuf,
}

impl Daemon {
    /// None where no dbus-daemon is installed, with a word about it.
    fn start(name: &str) -> Option<Self> {
        let dir = std::env::temp_dir().join(format!("corten-dbus-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let config = dir.join("bus.conf");
        let text = format!(
            "<busconfig><type>session</type><listen>unix:path={}/bus</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\"/><allow receive_sender=\"*\"/>\
             <allow own=\"*\"/></policy></busconfig>",
            dir.display()
        );
        std::fs::write(&config, text).unwrap();
        let started = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut process) = started else {
            let _ = std::fs::remove_dir_all(&dir);
            drop(writeln!(std::io::stderr(), "skipped: cgroups::dbus::tests::{name}: no dbus-daemon"));
            return None;
        };
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Some(Self { process, address: address.trim().into(), dir })
    }

    fn connect(&self) -> Bus {
        let places: Vec<_> = addresses(&self.address).into_iter().map(|a| (a, false)).collect();
        Bus::connect(&places).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn to_daemon<'a>(member: &'a str, body: &'a [Value]) -> Call<'a> {
    let name = "org.freedesktop.DBus";
    Call { destination: Some(name), path: "/org/freedesktop/DBus", interface: name, member, body }
}

#[test]
fn a_real_bus_answers() {
    let Some(daemon) = Daemon::start("a_real_bus_answers") else { return };
    let mut bus = daemon.connect();
    let names = bus.call(&to_daemon("ListNames", &[])).unwrap();
    let [Value::Array(element, names)] = &names.body[..] else { panic!("{names:?}") };
    assert_eq!(element, "s");
    assert!(names.contains(&Value::str("org.freedesktop.DBus")) && names.contains(&Value::str(":1.0")));

    let pid = bus.call(&to_daemon("GetConnectionUnixProcessID", &[Value::str(":1.0")])).unwrap();
    assert_eq!(pid.body, [Value::U32(std::process::id())]);

    let all = bus.call(&to_daemon("GetConnectionCredentials", &[Value::str(":1.0")])).unwrap();
    let [Value::Array(_, entries)] = &all.body[..] else { panic!("{all:?}") };
    let uid = Value::U32(sys::task::euid()).variant();
    assert!(entries.contains(&Value::Entry(Box::new((Value::str("UnixUserID"), uid)))));

    let error = bus.call(&to_daemon("GetNameOwner", &[Value::str("no.such.Name")])).unwrap_err();
    assert_eq!(error_name(&error), Some("org.freedesktop.DBus.Error.NameHasNoOwner"));
    assert!(format!("{error:#}").starts_with("GetNameOwner: "), "{error:#}");
    assert!(bus.call(&to_daemon("NoSuchMethod", &[])).is_err());
    assert!(bus.call(&to_daemon("ListNames", &[Value::strings(["x".into()]).variant()])).is_err());
    bus.call(&to_daemon("ListNames", &[])).unwrap();
}

/// Someone else's signal is not the end of our job; systemd's is, also if it comes before it is waited for.
#[test]
fn jobs_end_by_the_signal_of_their_owner() {
    let Some(daemon) = Daemon::start("jobs_end_by_the_signal_of_their_owner") else { return };
    let (mut us, mut other) = (daemon.connect(), daemon.connect());
    us.tell(&to_daemon("AddMatch", &[Value::str("type='signal',member='JobRemoved'")])).unwrap();
    us.call(&to_daemon("ListNames", &[])).unwrap();
    let job = |n: u32| Value::Path(format!("/org/freedesktop/systemd1/job/{n}"));
    let mut removed = |number: u32, result: &str| {
        let body = [Value::U32(number), job(number), Value::str("x.scope"), Value::str(result)];
        let call = Call {
            destination: None,
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "JobRemoved",
            body: &body,
        };
        other.serial += 1;
        let mut bytes = call.encode(other.serial, false);
        bytes[1] = wire::SIGNAL;
        socket::write_before(other.socket.as_fd(), &bytes, Instant::now() + PATIENCE).unwrap();
        other.call(&to_daemon("ListNames", &[])).unwrap();
    };
    removed(6, "failed");
    removed(7, "done");
    us.call(&to_daemon("ListNames", &[])).unwrap();
    let answer = |n, sender: &str| Answer { body: vec![job(n)], sender: Some(sender.into()) };
    assert_eq!(us.await_job(&answer(7, ":1.1"), "x").unwrap(), "done");
    removed(8, "canceled");
    assert_eq!(us.await_job(&answer(8, ":1.1"), "x").unwrap(), "canceled");
    removed(9, "done");
    removed(9, "done");
    let forged = us.receive(Instant::now() + PATIENCE, "x").unwrap();
    us.keep(forged);
    us.removed[0].sender = Some(":1.99".into());
    assert_eq!(us.await_job(&answer(9, ":1.1"), "x").unwrap(), "done");
}

/// What a peer says to us, and the error that comes of it.
fn against(said: &'static [u8], direct: bool) -> String {
    let name = format!("corten-peer-{}-{:x}", std::process::id(), said.as_ptr() as usize);
    let path = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path).unwrap();
    let peer = std::thread::spawn(move || {
        let (mut stream, _): (UnixStream, _) = listener.accept().unwrap();
        let _ = stream.write_all(said);
        let mut all = Vec::new();
        if said.ends_with(b"!") {
            // Until the client hangs up.
            let _ = stream.read_to_end(&mut all);
        }
        let mut some = [0; 512];
        while said.ends_with(b"OK 1\r\n") && !all.windows(4).any(|word| word == b"Ping") {
            // Until it has been called.
            let read = stream.read(&mut some).unwrap();
            all.extend_from_slice(&some[..read]);
        }
    });
    let result = Bus::connect(&[(Address::Path(path.clone()), direct)]);
    let result = result.and_then(|mut bus| bus.call(&to_daemon("Ping", &[])).map(drop));
    std::fs::remove_file(&path).unwrap();
    let error = format!("{:#}", result.unwrap_err());
    peer.join().unwrap();
    error
}

#[test]
fn peers_that_speak_otherwise_are_errors() {
    for (said, direct, word) in [
        (&b""[..], false, "authentication: "),
        (b"REJECTED EXTERNAL\r\n!", false, "says \"REJECTED EXTERNAL\""),
        (b"DATA\r\nERROR no\r\n!", false, "says \"ERROR no\""),
        (b"DATA\r\nOK 1\r\n", true, "Ping"),
        (b"DATA\r\nOK 1\r\nxxxxxxxxxxxxxxxxxxxxxxxxxx!", true, "malformed D-Bus message: neither byte order"),
        (b"DATA\r\nOK 1\r\nl\x02\0\x01\xff\xff\xff\xff\x01\0\0\0\0\0\0\0!", true, "too long"),
    ] {
        let error = against(said, direct);
        assert!(error.contains(word), "{error}: not {word}");
    }
    let nobody = Bus::connect(&[(Address::Path("/nowhere/bus".into()), false)]).unwrap_err();
    assert!(nobody.to_string().contains("/nowhere/bus"), "{nobody}");
    assert!(Bus::connect(&[]).is_err());
}

#[test]
fn waits_end_and_say_for_what() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let socket = ours.into();
    let mut bus = Bus { socket, serial: 0, buffer: Vec::new(), direct: true, removed: Vec::new() };
    let begin = Instant::now();
    let error = bus.receive(begin + Duration::from_millis(30), "the job of x.scope").unwrap_err();
    assert!(begin.elapsed() >= Duration::from_millis(30));
    let text = format!("{error:#}");
    assert!(text.starts_with("the job of x.scope: no answer within"), "{text}");
}

#[test]
fn addresses_are_those_of_unix_sockets() {
    let path = |path: &str| Address::Path(path.into());
    for (list, expected) in [
        ("unix:path=/run/bus", vec![path("/run/bus")]),
        ("unix:path=/a%20b,guid=12", vec![path("/a b")]),
        ("unix:guid=1,abstract=/tmp/x", vec![Address::Abstract(b"/tmp/x".to_vec())]),
        ("tcp:host=x;unix:path=/a;unix:path=/b", vec![path("/a"), path("/b")]),
        ("unix:path=%2", vec![]),
        ("unix:path=%zz", vec![]),
        ("unix:runtime=yes", vec![]),
        ("", vec![]),
    ] {
        assert_eq!(addresses(list), expected, "{list}");
    }
}

#[test]
fn pid_namespaces_are_counted() {
    for (status, expected) in [
        ("Name:\tx\nNSpid:\t12\nNSpgid:\t12\n", 1),
        ("NSpid:\t12\t1\n", 2),
        ("Name:\tx\n", 1),
        ("NSpid:\n", 0),
    ] {
        assert_eq!(levels(status), expected, "{status:?}");
    }
}
