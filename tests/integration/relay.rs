//! The end of what a runtime in the foreground relays from a terminal: all output arrives, and none of it keeps the
//! command from ending.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::harness::{isolated, poll, without_namespace};
use crate::terminal::{LIMIT, Session, bundle};

/// A process that writes to the terminal endlessly must not keep `run` from ending.
#[test]
fn endless_output_does_not_keep_run_from_ending() {
    isolated(|t| {
        let script = "trap '' HUP; for n in 1 2 3 4; do yes & done; sleep 0.1; exit 6";
        let bundle = bundle(t, script, |c| without_namespace(c, "pid"));
        let mut session = Session::new();
        session.run(t, &bundle);
        assert_eq!(session.end().0, 6);
    });
}

/// The same, with a terminal that its session has lost: the end of the session's leader then does not hang it up for the
/// processes that still write to it.
#[test]
fn endless_output_to_a_terminal_without_a_session_does_not_keep_run_from_ending() {
    isolated(|t| {
        let script = "setsid -c sleep 1000 </dev/console & while tty -s </dev/tty; do sleep 0.05; done 2>/dev/null; for n in 1 2 3 4; do yes & done; sleep 0.1; exit 6";
        let bundle = bundle(t, script, |c| {
            without_namespace(c, "pid");
            for set in ["bounding", "effective", "permitted"] {
                c["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
            }
        });
        let mut runtime =
            t.command(&["run", "-b", bundle.path(), "r"]).stdout(Stdio::piped()).spawn().unwrap();
        // The programs write faster than their output is read.
        let mut output = runtime.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            while output.read(&mut [0; 4096]).unwrap() > 0 {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let ended = poll(LIMIT, || runtime.try_wait().unwrap().is_some());
        runtime.kill().unwrap();
        assert_eq!((ended, runtime.wait().unwrap().code()), (true, Some(6)));
        reader.join().unwrap();
    });
}

/// A program may close its terminal and open it again later, as getty does.
#[test]
fn output_arrives_after_the_terminal_was_closed_for_a_while() {
    isolated(|t| {
        let script =
            "echo early; exec <&- >&- 2>&-; sleep 0.3; exec >/dev/console; echo late; seq 1 20000; exit 5";
        let bundle = bundle(t, script, |_| {});
        let mut session = Session::new();
        session.run(t, &bundle);
        let (code, output) = session.end();
        assert_eq!((code, output.lines().count()), (5, 20_002), "{output}");
        assert!(output.starts_with("early\nlate\n1\n"), "{output}");
    });
}
