//! Sockets and connections of a container that is saved, and memory that comes over the network.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::criu::{LONG, Volume, call, command, directory, load, save, with_criu};
use crate::harness::{poll, without_namespace};
use crate::mounts::add;

/// A socket that listens accepts connections again.
#[test]
fn a_listening_socket_is_restored() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let first = "s = socket.create_server(('127.0.0.1', 80))
u = socket.socket(socket.AF_UNIX); u.bind('/tmp/socket'); u.listen()
def look():
  a = socket.create_connection(('127.0.0.1', 80)); b = s.accept()[0]; a.send(b'tcp'); result = b.recv(9)
  c = socket.socket(socket.AF_UNIX); c.connect('/tmp/socket'); d = u.accept()[0]; c.send(b'unix'); result += d.recv(9)
  a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\1\\0\\0\\0\\0\\0\\0\\0'); a.close(); b.close(); c.close(); d.close()
  return result";
        // The connections exist only for a moment, which the checkpoint can meet.
        let bundle =
            t.bundle(|c| volume.python(c, first, "look() if os.path.exists('/vol/go') else 'waits'"));
        t.start(&bundle, "c1");
        volume.after(0);
        save(t, "c1", &[]);
        let number = volume.stopped_at();
        fs::write(volume.dir.join("go"), "").unwrap();
        load(t, &bundle, "c1", "c2", &[]);
        assert_eq!(volume.goes_on(number), "b'tcpunix'");
        t.delete("c2");
    });
}

const CONNECTED: &str = "s = socket.create_server(('127.0.0.1', 80)); a = socket.create_connection(('127.0.0.1', 80)); b = s.accept()[0]
a.send(b'early'); a.settimeout(5); b.settimeout(5)
seen = []
def look():
  if not seen and os.path.exists('/vol/go'):
    try:
      seen.append(b.recv(99)); b.send(b'back'); seen.append(a.recv(99))
    except OSError as e: seen.append(type(e).__name__)
  return seen";

/// `--tcp-established`: both ends of a connection in the container are restored, with what was on its way.
#[test]
fn an_established_connection_is_restored() {
    with_criu(|t| {
        let volume = Volume::new(t);
        for lock in [&[] as &[&str], &["--network-lock", "nftables"], &["--network-lock", "skip"]] {
            println!("row: {lock:?}");
            let bundle = t.bundle(|c| volume.python(c, CONNECTED, "look()"));
            for file in ["said", "go"] {
                let _ = fs::remove_file(volume.dir.join(file));
            }
            t.start(&bundle, "c1");
            volume.after(0);
            save(t, "c1", &[&["--tcp-established"], lock].concat());
            let number = volume.stopped_at();
            fs::write(volume.dir.join("go"), "").unwrap();
            load(t, &bundle, "c1", "c2", &["--tcp-established"]);
            volume.goes_on(number);
            let text = || fs::read_to_string(volume.dir.join("said")).unwrap_or_default();
            assert!(poll(LONG, || text().contains("[b'early', b'back']")), "{}", text());
            t.delete("c2");
        }
    });
}

/// `--tcp-close`: the connections are closed in the restored container.
#[test]
fn established_connections_can_be_closed() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.python(c, CONNECTED, "look()"));
        t.start(&bundle, "c1");
        volume.after(0);
        save(t, "c1", &["--tcp-established"]);
        let number = volume.stopped_at();
        load(t, &bundle, "c1", "c2", &["--tcp-close"]);
        volume.goes_on(number);
        fs::write(volume.dir.join("go"), "").unwrap();
        let text = || fs::read_to_string(volume.dir.join("said")).unwrap_or_default();
        assert!(poll(LONG, || text().lines().nth(1).is_some_and(|line| line != "[]")), "{}", text());
        assert!(!text().contains("back"), "{}", text());
        t.delete("c2");
    });
}

/// `--ext-unix-sk`: a datagram socket of the host, as of a system log.
#[test]
fn a_unix_socket_outside_is_connected_again() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let path = volume.dir.join("log");
        let outside = UnixDatagram::bind(&path).unwrap();
        outside.set_nonblocking(true).unwrap();
        let bundle = t.bundle(|c| {
            let first = format!("s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect({path:?})\ns.setblocking(False)
def look():
  try: return s.send(b'hello')
  except OSError as e: return e");
            volume.python(c, &first, "look()");
            // CRIU sees sockets of one network namespace only.
            without_namespace(c, "network");
            // The name of the socket is the host's.
            add(c, json!({"destination": volume.dir, "source": volume.dir, "options": ["bind"]}));
        });
        t.start(&bundle, "c1");
        volume.after(0);
        t.call(command(t, &["checkpoint"], "c1").arg("c1")).fails("ext-unix-sk");
        volume.goes_on(volume.stopped_at());
        save(t, "c1", &["--ext-unix-sk"]);
        let number = volume.stopped_at();
        let mut buffer = [0; 16];
        while outside.recv(&mut buffer).is_ok() {}
        load(t, &bundle, "c1", "c2", &["--ext-unix-sk"]);
        volume.goes_on(number);
        assert!(poll(LONG, || outside.recv(&mut buffer).is_ok_and(|length| buffer[..length] == *b"hello")));
        t.delete("c2");
    });
}

/// `--lazy-pages`: the checkpoint serves the memory, `criu lazy-pages` fetches it, and the restored container goes on at once.
#[test]
fn memory_can_follow_a_restore() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| {
            volume.python(
                c,
                "memory = os.urandom(4 << 20)",
                "hash(memory) if os.path.exists('/vol/go') else 0",
            )
        });
        t.start(&bundle, "c1");
        volume.after(0);
        let ready = t.dir.join("ready");
        t.call(Command::new("mkfifo").arg(&ready)).ok();
        let mut dump = command(
            t,
            &["checkpoint", "--lazy-pages", "--page-server", "127.0.0.1:2727", "--status-fd", "9"],
            "c1",
        );
        dump.arg("c1");
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("exec \"$0\" \"$@\" 9<>{}", ready.display())])
            .arg(dump.get_program())
            .args(dump.get_args());
        let serving = t.spawn(shell.stdin(Stdio::null()));
        let mut byte = [1];
        // Opened for writing too, it has no end.
        let flags = libc::O_NONBLOCK;
        let mut file = fs::File::options().read(true).write(true).custom_flags(flags).open(&ready).unwrap();
        if !poll(LONG, || file.read(&mut byte).is_ok()) {
            panic!("the checkpoint is not ready: {:?}", serving.wait());
        }
        assert_eq!(byte, [0]);
        let number = volume.stopped_at();
        let work = directory(t, "c1", "work");
        let pages = Command::new("criu")
            .args([
                "lazy-pages",
                "--page-server",
                "--address",
                "127.0.0.1",
                "--port",
                "2727",
                "-vv",
                "-o",
                "lazy.log",
                "-D",
            ])
            .arg(directory(t, "c1", "images"))
            .arg("-W")
            .arg(&work)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        assert!(poll(LONG, || work.join("lazy-pages.socket").exists()));
        fs::write(volume.dir.join("go"), "").unwrap();
        load(t, &bundle, "c1", "c2", &["--lazy-pages"]);
        assert_ne!(volume.goes_on(number), "0");
        serving.wait().ok();
        assert!(pages.wait_with_output().unwrap().status.success());
        t.corten(&["state", "c1"]).fails("does not exist");
        assert_eq!(t.status("c2"), "running");
        t.delete("c2");
    });
}

/// `--page-server`: memory goes to a page server, which writes it into the images there.
#[test]
fn memory_can_go_to_a_page_server() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.python(c, "memory = os.urandom(4 << 20)", "hash(memory)"));
        t.start(&bundle, "c1");
        let (_, before) = volume.after(0);
        let images = directory(t, "c1", "images");
        fs::create_dir_all(&images).unwrap();
        let server = Command::new("criu")
            .args(["page-server", "--address", "127.0.0.1", "--port", "2728", "--auto-dedup", "-D"])
            .arg(&images)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let listens = || fs::read_to_string("/proc/net/tcp").unwrap().contains(":0AA8 00000000:0000 0A");
        assert!(poll(LONG, listens));
        save(t, "c1", &["--page-server", "127.0.0.1:2728", "--auto-dedup"]);
        assert!(server.wait_with_output().unwrap().status.success());
        let number = volume.stopped_at();
        load(t, &bundle, "c1", "c2", &[]);
        assert_eq!(volume.goes_on(number), before);
        t.delete("c2");
    });
}

/// CRIU reads the file that the annotation `org.criu.config` names.
#[test]
fn the_configuration_file_of_the_annotation_counts() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let file = t.dir.join("criu.conf");
        fs::write(&file, "tcp-established\nlog-file mine.log\n").unwrap();
        let bundle = t.bundle(|c| {
            volume.python(c, CONNECTED, "look()");
            c["annotations"] = json!({"org.criu.config": file});
        });
        assert_eq!(t.corten(&["run", "-d", "-b", bundle.path(), "c1"]).code, 0);
        volume.after(0);
        save(t, "c1", &[]);
        assert!(directory(t, "c1", "work").join("mine.log").exists());
        let number = volume.stopped_at();
        assert_eq!(
            call(t, "c1", command(t, &["restore", "-d", "-b", bundle.path()], "c1").arg("c2")).code,
            0
        );
        volume.goes_on(number);
        t.delete("c2");
    });
}

/// `--print-stats` prints CRIU's figures.
#[test]
fn statistics_are_printed() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.count(c, "", "true"));
        t.start(&bundle, "c1");
        volume.after(0);
        let dumped = call(t, "c1", command(t, &["checkpoint", "--print-stats"], "c1").arg("c1")).ok();
        let number = volume.stopped_at();
        let mut restore = command(t, &["restore", "-d", "--print-stats", "-b", bundle.path()], "c1");
        let restored = call(t, "c1", restore.arg("c2")).ok();
        volume.goes_on(number);
        for text in [dumped, restored] {
            assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_object(), "{text}");
        }
        t.delete("c2");
    });
}
