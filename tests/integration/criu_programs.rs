//! Programs that hold state in many places when a checkpoint comes: a database under writes, and a shell that a person types into.

use std::fs;

use serde_json::json;

use crate::criu::{LONG, Volume, command, load, save, with_criu};
use crate::harness::poll;
use crate::terminal::{self, Session};

/// Two connections that commit transactions to one database, in WAL mode. `look` shows how many each has committed. When /vol/go
/// exists, it also shows whether the database is whole: every transaction is there, with all of its rows. A writer waits twice: within
/// a transaction, so that the checkpoint finds one that is not committed, and after it, so that the other writer gets its turn.
///
/// The writers are threads. Between processes SQLite relies on POSIX locks on a file that it also maps, and CRIU loses these: it
/// restores the locks and then closes the descriptor that it has used for the mapping, by which the kernel drops them.
const DATABASE: &str = "import sqlite3
counts = [0, 0]
def connect():
  db = sqlite3.connect('/vol/db', timeout=60)
  assert db.execute('pragma journal_mode = wal').fetchone() == ('wal',)
  return db
reader = connect()
reader.execute('create table t (writer, number, row, text)')
reader.commit()
def write(writer):
  db = connect()
  while True:
    with db:
      for row in range(20): db.execute('insert into t values (?, ?, ?, ?)', (writer, counts[writer] + 1, row, 'x' * 100))
      time.sleep(0.01)
    counts[writer] += 1
    time.sleep(0.01)
for writer in range(2): threading.Thread(target=write, args=(writer,), daemon=True).start()
def look():
  now = list(counts)
  if not os.path.exists('/vol/go'): return now
  state = reader.execute('pragma integrity_check').fetchone()[0]
  for writer in range(2):
    rows = reader.execute('select number, count(*) from t where writer = ? group by number order by number', (writer,)).fetchall()
    if rows != [(i + 1, 20) for i in range(len(rows))] or len(rows) < now[writer]: state += f': {rows}'
  return f'{state} {now}'";

/// A database is whole after the restore, with each transaction that was committed. Its writers go on.
#[test]
fn a_database_under_writes_is_restored() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| volume.python(c, DATABASE, "look()"));
        let counts = |text: &str| -> [u64; 2] { serde_json::from_str(text).unwrap() };
        t.start(&bundle, "c1");
        let (mut number, mut text) = volume.after(0);
        assert!(poll(LONG, || {
            (number, text) = volume.after(number);
            counts(&text).iter().all(|count| *count > 10)
        }));
        // SQLite locks its files while they are open.
        save(t, "c1", &["--file-locks"]);
        let (number, before) = volume.said().unwrap();
        fs::write(volume.dir.join("go"), "").unwrap();
        load(t, &bundle, "c1", "c2", &["--file-locks"]);
        let mut text = volume.goes_on(number);
        let more = |text: &str| {
            let now = counts(text.strip_prefix("ok ").unwrap_or_else(|| panic!("{text}")));
            now.iter().zip(counts(&before)).all(|(now, before)| *now > before)
        };
        assert!(
            poll(LONG, || {
                text = volume.goes_on(volume.stopped_at());
                more(&text)
            }),
            "{text} after {before}"
        );
        t.delete("c2");
    });
}

/// An interactive shell has its variables and jobs after the restore, and the line of which a part had been typed. `exit` ends the
/// container and `restore` with the shell's status.
#[test]
fn an_interactive_shell_is_restored() {
    with_criu(|t| {
        let bundle = terminal::bundle(t, "", |c| c["process"]["args"] = json!(["/bin/sh", "-i"]));
        let mut session = Session::new();
        session.start(&t.command(&["run", "-b", bundle.path(), "c1"]));
        // The shell prints a prompt when it reads the terminal.
        session.until("# ");
        for line in
            ["secret=$((6 * 7))\n", "tail -f /dev/null &\n", "echo \"first $secret\"\n", "echo half a"]
        {
            session.send(line);
        }
        session.until("# echo half a");
        save(t, "c1", &[]);
        assert_eq!(session.end().0, 137);
        let mut session = Session::new();
        let mut restore = command(t, &["restore", "-b", bundle.path()], "c1");
        session.start(restore.arg("c2"));
        assert!(poll(LONG, || t.corten(&["state", "c2"]).code == 0));
        session.send(" line\n");
        session.until("\nhalf a line\n");
        session.send("echo \"still $secret\"\n");
        session.until("\nstill 42\n");
        session.send("jobs\n");
        session.until("Running");
        session.send("exit 3\n");
        assert_eq!(session.end().0, 3);
    });
}
