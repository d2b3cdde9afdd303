use std::os::unix::net::UnixDatagram;

use super::*;

#[test]
fn only_three_kinds_of_lines_are_passed_on() {
    let long = format!("STATUS={}", "x".repeat(STATUS_MAX + 1));
    let rows: [(&[u8], &str); 16] = [
        (b"READY=1", "READY=1\nMAINPID=7\n"),
        (b"READY=1\n", "READY=1\nMAINPID=7\n"),
        (b"READY=1\0", "READY=1\nMAINPID=7\n"),
        (b"MAINPID=1\nREADY=1\nFDSTORE=1", "READY=1\nMAINPID=7\n"),
        (b"STOPPING=1\nSTATUS=bye", "STOPPING=1\nSTATUS=bye\n"),
        (b"STATUS=\nSTATUS=a=b", "STATUS=a=b\n"),
        (b"STATUS=a\nSTATUS=\x1b[31m", "STATUS=a\n"),
        (b"STATUS=", "STATUS=\n"),
        ("STATUS=größer".as_bytes(), "STATUS=größer\n"),
        (b"STATUS=\xff", ""),
        (long.as_bytes(), ""),
        (b"READY=1\0\0", ""),
        (b"\0READY=1", ""),
        (b"READY=2\nREADY=\nready=1\nREADY=1 \n READY=1\nSTOPPING=0", ""),
        (b"WATCHDOG=1\nRELOADING=1\nNOTIFYACCESS=all\nBARRIER=1", ""),
        (b"", ""),
    ];
    for (message, expected) in rows {
        let mut news = News::default();
        news.add(message);
        assert_eq!(news.message(7), expected, "{:?}", String::from_utf8_lossy(message));
    }
}

#[test]
fn addresses_are_paths_or_abstract() {
    let path = Some(Address::Path("/run/systemd/notify".into()));
    for (text, expected) in [
        ("/run/systemd/notify", path),
        ("@a/b", Some(Address::Abstract(b"a/b".to_vec()))),
        ("@", None),
        ("", None),
        ("run/notify", None),
        ("vsock:2:1", None),
    ] {
        assert_eq!(address(text), expected, "{text}");
    }
}

/// Returns the container's end, the runtime's part, and the service manager's end.
fn connected() -> (UnixDatagram, Notify, UnixDatagram) {
    let (container, ours) = UnixDatagram::pair().unwrap();
    let (to_manager, manager) = UnixDatagram::pair().unwrap();
    for socket in [&to_manager, &manager] {
        socket.set_nonblocking(true).unwrap();
    }
    (container, Notify::new(ours.into(), to_manager.into(), 7), manager)
}

fn received(manager: &UnixDatagram) -> Option<String> {
    let mut buffer = [0; 8192];
    let length = manager.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn many_messages_are_passed_on_as_one_followed_by_a_pause() {
    let (container, mut notify, manager) = connected();
    for text in ["STATUS=1", "READY=1", "STATUS=2", "MAINPID=1"] {
        container.send(text.as_bytes()).unwrap();
    }
    notify.pass_on(true, false);
    assert_eq!(received(&manager).as_deref(), Some("READY=1\nMAINPID=7\nSTATUS=2\n"));
    container.send(b"STATUS=3").unwrap();
    let (poll, limit) = notify.interest();
    assert!(limit.is_some_and(|limit| limit <= PAUSE));
    let begin = Instant::now();
    task::poll(&mut [poll], limit).unwrap();
    assert!(begin.elapsed() < PAUSE * 20);
    notify.pass_on(true, false);
    assert_eq!(received(&manager).as_deref(), Some("STATUS=3\n"));
    container.send(b"STATUS=4").unwrap();
    notify.pass_on(true, false);
    assert_eq!(received(&manager), None);
    // The pause is skipped for the last messages.
    notify.pass_on(false, true);
    assert_eq!(received(&manager).as_deref(), Some("STATUS=4\n"));
}

#[test]
fn messages_are_sent_again_to_a_busy_service_manager() {
    let (container, mut notify, manager) = connected();
    while socket::send(notify.manager.as_fd(), b"x", &[]).is_ok() {}
    container.send(b"READY=1").unwrap();
    notify.pass_on(true, false);
    assert!(!notify.sent_ready && !notify.news.is_empty());
    while received(&manager).is_some() {}
    std::thread::sleep(PAUSE);
    assert_eq!(notify.interest().1, Some(Duration::ZERO));
    notify.pass_on(false, false);
    assert!(notify.sent_ready);
    assert_eq!(received(&manager).as_deref(), Some("READY=1\nMAINPID=7\n"));
}

#[test]
fn messages_to_a_service_manager_that_has_ended_are_dropped() {
    let (container, mut notify, manager) = connected();
    drop(manager);
    container.send(b"STATUS=x").unwrap();
    notify.pass_on(true, false);
    assert!(notify.broken);
    let (ours, _theirs) = UnixDatagram::pair().unwrap();
    notify.until_ready(Some(ours.as_fd())).unwrap();
}

#[test]
fn messages_from_before_the_end_are_passed_on_after_it() {
    let (container, notify, manager) = connected();
    container.send(b"READY=1").unwrap();
    let answers = std::thread::spawn(move || {
        while received(&manager).is_none_or(|text| text != "BARRIER=1") {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let begin = Instant::now();
    notify.until_ready(None).unwrap();
    answers.join().unwrap();
    assert!(begin.elapsed() < PATIENCE);
}
