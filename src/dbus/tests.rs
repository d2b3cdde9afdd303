use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use super::*;

/// A bus daemon for one test.
struct Daemon {
    process: Child,
    address: String,
    dir: PathBuf,
}

impl Daemon {
    /// Starts the daemon. Returns `None` and says so if no dbus-daemon is installed.
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
            drop(writeln!(std::io::stderr(), "skipped: dbus::tests::{name}: no dbus-daemon"));
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

/// Only systemd's signal ends our job, also if it arrives before the wait. A signal of another sender does
/// not.
#[test]
fn only_the_signal_of_systemd_ends_a_job() {
    let Some(daemon) = Daemon::start("jobs_end_by_the_signal_of_their_owner") else { return };
    let (mut us, mut other) = (daemon.connect(), daemon.connect());
    us.call_without_reply(&to_daemon("AddMatch", &[Value::str("type='signal',member='JobRemoved'")]))
        .unwrap();
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
        let mut bytes = call.encode(other.serial, Reply::Unwanted);
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
    us.note_job(forged);
    us.removed[0].sender = Some(":1.99".into());
    assert_eq!(us.await_job(&answer(9, ":1.1"), "x").unwrap(), "done");
}

/// Returns the error after a peer has sent these bytes.
fn against(sent: &'static [u8], direct: bool) -> String {
    let name = format!("corten-peer-{}-{:x}", std::process::id(), sent.as_ptr() as usize);
    let path = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path).unwrap();
    let peer = std::thread::spawn(move || {
        let (mut stream, _): (UnixStream, _) = listener.accept().unwrap();
        let _ = stream.write_all(sent);
        let mut all = Vec::new();
        if sent.ends_with(b"!") {
            // Until the client closes the connection.
            let _ = stream.read_to_end(&mut all);
        }
        let mut some = [0; 512];
        while sent.ends_with(b"OK 1\r\n") && !all.windows(4).any(|word| word == b"Ping") {
            // Until the call has arrived.
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
fn a_peer_with_another_protocol_is_an_error() {
    for (sent, direct, word) in [
        (&b""[..], false, "authentication: "),
        (b"REJECTED EXTERNAL\r\n!", false, "answered \"REJECTED EXTERNAL\""),
        (b"DATA\r\nERROR no\r\n!", false, "answered \"ERROR no\""),
        (b"DATA\r\nOK 1\r\n", true, "Ping"),
        (b"DATA\r\nOK 1\r\nxxxxxxxxxxxxxxxxxxxxxxxxxx!", true, "malformed D-Bus message: neither byte order"),
        (b"DATA\r\nOK 1\r\nl\x02\0\x01\xff\xff\xff\xff\x01\0\0\0\0\0\0\0!", true, "too long"),
    ] {
        let error = against(sent, direct);
        assert!(error.contains(word), "{error}: not {word}");
    }
    let nobody = Bus::connect(&[(Address::Path("/nowhere/bus".into()), false)]).unwrap_err();
    assert!(nobody.to_string().contains("/nowhere/bus"), "{nobody}");
    assert!(Bus::connect(&[]).is_err());
}

#[test]
fn waits_end_and_name_their_purpose() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut bus = Bus::new(ours.into(), true);
    let begin = Instant::now();
    let error = bus.receive(begin + Duration::from_millis(30), "the job of x.scope").unwrap_err();
    assert!(begin.elapsed() >= Duration::from_millis(30));
    let text = format!("{error:#}");
    assert!(text.starts_with("the job of x.scope: no answer within"), "{text}");
}

/// Returns a client whose peer is run by `peer` in another thread.
fn client_of<T: Send + 'static>(
    peer: impl FnOnce(UnixStream) -> T + Send + 'static,
) -> (Bus, std::thread::JoinHandle<T>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut bus = Bus::new(ours.into(), true);
    // Longer in an emulated machine, as in the integration tests.
    let times = std::env::var("CORTEN_TEST_PATIENCE").map_or(1, |times| times.parse().unwrap());
    bus.patience = Duration::from_millis(500) * times;
    (bus, std::thread::spawn(move || peer(theirs)))
}

/// Returns a message of a peer, which answers the call with the serial number `reply_to`, if there is one.
fn message(kind: u8, reply_to: Option<u32>, body: &[Value]) -> Vec<u8> {
    let interface = "org.freedesktop.systemd1.Manager";
    let call =
        Call { destination: None, path: "/org/freedesktop/systemd1", interface, member: "JobRemoved", body };
    let mut bytes = call.encode(7, Reply::Expected);
    bytes[1] = kind;
    if let Some(serial) = reply_to {
        // Between the header, which ends at a multiple of eight bytes, and the body.
        let fields = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        let end = (wire::FIXED + fields).next_multiple_of(8);
        let field = [&[5, 1, b'u', 0][..], &serial.to_le_bytes()].concat();
        bytes.splice(wire::FIXED + fields..end, [vec![0; end - wire::FIXED - fields], field].concat());
        bytes[12..16].copy_from_slice(&((end - wire::FIXED + 8) as u32).to_le_bytes());
    }
    bytes
}

fn removed(job: &str) -> Vec<u8> {
    let body = [Value::U32(1), Value::Path(job.into()), Value::str("x.scope"), Value::str("done")];
    message(wire::SIGNAL, None, &body)
}

fn ping(bus: &mut Bus) -> Result<Answer> {
    bus.call(&to_daemon("Ping", &[]))
}

/// Every client of a bus can send signals for ever. The deadline holds, and the kept signals do not grow.
#[test]
fn endless_signals_do_not_extend_the_deadline() {
    for job in ["/org/freedesktop/systemd1/job/1".to_string(), "/x".repeat(20_000)] {
        let (mut bus, peer) = client_of(move |mut stream| {
            let signal = removed(&job);
            let mut sent = 0;
            while stream.write_all(&signal).is_ok() {
                sent += 1;
            }
            sent
        });
        let begin = Instant::now();
        let error = format!("{:#}", ping(&mut bus).unwrap_err());
        assert!(error.starts_with("Ping: no answer within"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        let kept: usize = bus.removed.iter().map(|removed| removed.job.len()).sum();
        assert!(bus.removed.len() <= MAX_JOBS && kept <= MAX_JOBS * JOB_MAX, "{kept}");
        assert!(bus.buffer.len() <= 2 * wire::MAX);
        drop(bus);
        // This checks the test itself: the peer was still sending.
        assert!(peer.join().unwrap() > MAX_JOBS);
    }
}

/// A malformed signal may come from any client and is skipped. A malformed answer is an error.
#[test]
fn malformed_signals_are_skipped() {
    let deep = (0..20).fold(Value::Byte(1), |value, _| value.variant());
    let bad_text = || {
        let mut bytes = message(wire::SIGNAL, None, &[Value::str("text")]);
        let end = bytes.len();
        bytes[end - 2] = 0xff;
        bytes
    };
    let long = |kind: u8, length: usize| message(kind, None, &[Value::str("x".repeat(length))]);
    let mut mischief = vec![message(wire::SIGNAL, None, std::slice::from_ref(&deep)), bad_text()];
    mischief.extend([70_000, 3 << 20].map(|length| long(wire::SIGNAL, length)));
    mischief.extend([70_000].map(|length| long(wire::METHOD_CALL, length)));
    let all = mischief.concat();
    let (mut bus, peer) = client_of(move |mut stream| {
        stream.write_all(&all).unwrap();
        stream.write_all(&message(wire::METHOD_RETURN, Some(1), &[Value::str("pong")])).unwrap();
        stream
    });
    assert_eq!(ping(&mut bus).unwrap().body, [Value::str("pong")]);
    drop(peer.join().unwrap());
    let answers = [
        message(wire::METHOD_RETURN, Some(1), &[deep]),
        long(wire::ERROR, 70_000),
        long(wire::METHOD_RETURN, 70_000),
    ];
    for (answer, word) in answers.into_iter().zip(["deep", "too long", "too long"]) {
        let (mut bus, peer) = client_of(move |mut stream| {
            let _ = stream.write_all(&answer);
            stream
        });
        let error = format!("{:#}", ping(&mut bus).unwrap_err());
        assert!(error.contains(word), "{error}: not {word}");
        drop(bus);
        drop(peer.join().unwrap());
    }
}

#[test]
fn an_answer_must_have_the_serial_number_of_the_call() {
    let say = |text: &str| [Value::str(text)];
    let mut all = Vec::new();
    for (kind, reply_to) in [
        (wire::METHOD_RETURN, Some(0)),
        (wire::METHOD_RETURN, Some(2)),
        (wire::ERROR, Some(u32::MAX)),
        (wire::METHOD_RETURN, None),
        (wire::SIGNAL, Some(1)),
        (wire::METHOD_CALL, Some(1)),
        (9, Some(1)),
    ] {
        all.extend(message(kind, reply_to, &say("wrong")));
    }
    all.extend(message(wire::METHOD_RETURN, Some(1), &say("right")));
    // The second answer is sent early, and has arrived when the second call is made.
    all.extend(message(wire::METHOD_RETURN, Some(1), &say("again")));
    let (mut bus, peer) = client_of(move |mut stream| {
        stream.write_all(&all).unwrap();
        stream
    });
    assert_eq!(ping(&mut bus).unwrap().body, say("right"));
    assert!(format!("{:#}", ping(&mut bus).unwrap_err()).contains("no answer within"));
    drop(peer.join().unwrap());
}

/// Attached descriptors are closed. A peer could otherwise fill the table, or keep a file open in corten.
#[test]
fn descriptors_of_a_peer_are_dropped() {
    let (mut kept, given) = UnixStream::pair().unwrap();
    let (mut bus, peer) = client_of(move |stream| {
        let answer = message(wire::METHOD_RETURN, Some(1), &[]);
        socket::send(stream.as_fd(), &answer, &[given.as_fd()]).unwrap();
        stream
    });
    kept.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    // This checks the test itself: the descriptor is open as long as it is on its way.
    let stream = peer.join().unwrap();
    assert!(kept.read(&mut [0]).is_err());
    ping(&mut bus).unwrap();
    assert_eq!(kept.read(&mut [0]).unwrap(), 0);
    drop(stream);
}

/// systemd's signal is not lost, however many signals about jobs other clients have sent before.
#[test]
fn a_flood_of_others_jobs_does_not_hide_ours() {
    let own = "/org/freedesktop/systemd1/job/7";
    let mut all = (0..2 * MAX_JOBS).flat_map(|n| removed(&format!("/job/{n}"))).collect::<Vec<_>>();
    all.extend(removed(own));
    all.extend(message(wire::METHOD_RETURN, Some(1), &[Value::Path(own.into())]));
    let (mut bus, peer) = client_of(move |mut stream| {
        stream.write_all(&all).unwrap();
        stream
    });
    let answer = ping(&mut bus).unwrap();
    assert_eq!(bus.await_job(&answer, "x").unwrap(), "done");
    drop(peer.join().unwrap());
}

#[test]
fn a_long_error_is_cut() {
    let long = message(wire::ERROR, Some(1), &[Value::str("x".repeat(60_000))]);
    let (mut bus, peer) = client_of(move |mut stream| {
        stream.write_all(&long).unwrap();
        stream
    });
    assert!(format!("{:#}", ping(&mut bus).unwrap_err()).len() < 2 * TEXT_MAX);
    drop(peer.join().unwrap());
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
