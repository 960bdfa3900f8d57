//! Against real processes. The attendant is this very test program, told to run one "test" that
//! serves the socket on its standard input.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
};

use super::{Order, Report, Started};

/// Arguments that make this program an attendant.
pub(crate) const SERVE: [&str; 3] =
    ["--exact", "attend::tests::serves_the_socket_it_is_given", "--nocapture"];
/// Says that it is meant.
pub(crate) const MARK: &str = "JETMILL_TEST_ATTEND";

#[test]
fn serves_the_socket_it_is_given() {
    if std::env::var_os(MARK).is_some() {
        let _ = super::main();
    }
}

struct Attendant {
    process: Child,
    socket: BufReader<UnixStream>,
}

fn order(script: &str) -> Order {
    Order {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        cwd: "/".into(),
        env: BTreeMap::from([("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())]),
        ..Order::default()
    }
}

fn start(order: &Order) -> Attendant {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let process = Command::new(std::env::current_exe().expect("this program"))
        .args(SERVE)
        .env(MARK, "1")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("an attendant");
    let mut attendant = Attendant { process, socket: BufReader::new(ours) };
    attendant.say(&serde_json::to_string(order).expect("json"));
    attendant
}

impl Attendant {
    fn say(&mut self, line: &str) {
        let mut socket = self.socket.get_ref();
        socket.write_all(format!("{line}\n").as_bytes()).expect("the attendant listens");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.socket.read_line(&mut line).expect("a line");
        line
    }

    fn started(&mut self) -> i32 {
        let line = self.line();
        serde_json::from_str::<Started>(&line).expect("a start").started
    }

    fn report(&mut self) -> Report {
        let line = self.line();
        serde_json::from_str(&line).expect("a report")
    }

    /// Reads the command's output up to this text.
    fn read_until(&mut self, text: &str) {
        let stdout = self.process.stdout.as_mut().expect("piped");
        let mut lines = BufReader::with_capacity(1, stdout).lines();
        assert!(lines.any(|line| line.expect("a line").contains(text)), "{text} was never said");
    }
}

fn run(order: &Order) -> Report {
    let mut attendant = start(order);
    attendant.started();
    let report = attendant.report();
    attendant.process.wait().expect("it ends");
    report
}

/// Whether a process is there and not a zombie.
fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")))
}

#[test]
fn exit_codes_and_signals_are_reported() {
    assert_eq!(run(&order("exit 0")).exit, Some(0));
    assert_eq!(run(&order("exit 7")).exit, Some(7));
    let report = run(&order("kill -SEGV $$"));
    assert_eq!((report.exit, report.signal), (None, Some(11)));
}

#[test]
fn what_cannot_be_started_says_why() {
    let fault = |order: &Order| start(order).report().error.expect("a fault").code;
    let missing = Order { argv: vec!["no-such-program-at-all".into()], ..order("") };
    assert_eq!(fault(&missing), "command_not_found");
    assert_eq!(fault(&Order { cwd: "/no/such/folder".into(), ..order("true") }), "cwd_not_found");
    assert_eq!(fault(&Order { argv: vec!["/etc/passwd".into()], ..order("") }), "not_executable");
}

#[test]
fn standard_input_comes_from_the_order_and_need_not_be_read() {
    let script = "read line; test \"$line\" = hello";
    assert_eq!(run(&Order { stdin: Some("hello\n".into()), ..order(script) }).exit, Some(0));
    let large = "x".repeat(1_000_000);
    assert_eq!(run(&Order { stdin: Some(large), ..order("exit 3") }).exit, Some(3));
    assert_eq!(run(&order("cat; exit 4")).exit, Some(4));
}

#[test]
fn what_the_command_used_is_counted_with_its_children() {
    let burner = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done";
    let report = run(&order(&format!("({burner}) & wait")));
    assert_eq!(report.exit, Some(0));
    assert!(report.cpu_seconds.expect("counted") > 0.005, "{report:?}");
    assert!(report.memory_peak_mb.expect("counted") > 0.1, "{report:?}");
    let idle = run(&order("true"));
    assert!(idle.cpu_seconds.expect("counted") < report.cpu_seconds.expect("counted"), "{idle:?}");
}

#[test]
fn a_closed_socket_ends_the_whole_group() {
    let Attendant { mut process, mut socket } = start(&order("sleep 600 & sleep 600"));
    let mut line = String::new();
    socket.read_line(&mut line).expect("a start");
    let pid = serde_json::from_str::<Started>(&line).expect("a start").started.to_string();
    assert!(lives(&pid));
    drop(socket);
    process.wait().expect("it ends");
    assert!(!lives(&pid));
}

#[test]
fn a_command_that_ignores_term_is_killed() {
    let mut attendant =
        start(&order("trap 'echo no' TERM; echo ready; while :; do sleep 0.01; done"));
    attendant.started();
    attendant.read_until("ready");
    attendant.say("term");
    attendant.read_until("no");
    attendant.say("kill");
    assert_eq!(attendant.report().signal, Some(9));
}

#[test]
fn nothing_outlives_the_command_not_even_in_a_session_of_its_own() {
    let folder = tempfile::tempdir().expect("folder");
    let script = format!(
        "sleep 600 & echo $! >{0}/child; setsid sh -c 'echo $$ >{0}/daemon; exec sleep 600' & \
         while [ ! -s {0}/daemon ]; do :; done",
        folder.path().display(),
    );
    assert_eq!(run(&order(&script)).exit, Some(0));
    for name in ["child", "daemon"] {
        let pid = std::fs::read_to_string(folder.path().join(name)).expect("a number");
        assert!(!lives(&pid), "{name} lives on");
    }
}
