//! Against real processes. The attendant is this very test program, told to run one "test" that
//! serves the socket on its standard input.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::unistd::{Pid, getpgid, getppid, setpgid};

use super::{Order, Report, Said, Used, limits::Limits};
use crate::shell;

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

    fn said(&mut self) -> Said {
        let line = self.line();
        serde_json::from_str(&line).expect("what it says")
    }

    fn started(&mut self) -> i32 {
        let Said::Started(pid) = self.said() else { panic!("it begins with a start") };
        pid
    }

    fn used(&mut self) -> Used {
        let Said::Used(used) = self.said() else { panic!("the command has ended") };
        used
    }

    fn report(&mut self) -> Report {
        loop {
            if let Said::Report(report) = self.said() {
                return *report;
            }
        }
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
    let seconds = |report: &Report| report.used.cpu_seconds.expect("counted");
    assert!(seconds(&report) > 0.005, "{report:?}");
    assert!(report.used.memory_peak_mb.expect("counted") > 0.1, "{report:?}");
    let idle = run(&order("true"));
    assert!(seconds(&idle) < seconds(&report), "{idle:?}");
}

#[test]
fn what_was_used_so_far_is_said_while_the_command_runs() {
    let argv = vec!["sleep".into(), "600".into()];
    let measured = Order { measure_every: Duration::from_millis(20), argv, ..order("") };
    let mut attendant = start(&measured);
    let pid = attendant.started();
    let (first, next) = (attendant.used(), attendant.used());
    for used in [first, next] {
        assert!(used.memory_avg_mb.expect("looked at") > 0.0, "{used:?}");
        assert!(used.memory_peak_mb >= used.memory_avg_mb, "{used:?}");
        assert!(used.cpu_seconds.is_some() && used.disk_read_mb.is_some(), "{used:?}");
    }
    assert!(next.cpu_seconds >= first.cpu_seconds && next.disk_write_mb >= first.disk_write_mb);
    assert!(lives(&pid.to_string()));
    attendant.say("kill");
    assert!(attendant.report().used.memory_avg_mb.is_some());

    let never = Order { measure_every: Duration::ZERO, ..order("exit 0") };
    let mut attendant = start(&never);
    attendant.started();
    assert!(matches!(attendant.said(), Said::Report(_)), "what is short says nothing of itself");
}

#[test]
fn the_kernel_takes_a_command_before_its_attendant() {
    let score = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a score");
        text.trim().parse::<i32>().expect("a number")
    };
    let mut attendant = start(&order("sleep 600"));
    let (command, own) = (attendant.started(), score(std::process::id().cast_signed()));
    assert_eq!(score(command), own.max(500));
    assert_eq!(score(attendant.process.id().cast_signed()), own);
    attendant.say("kill");
    attendant.report();
}

#[test]
fn memory_that_processes_have_in_common_counts_once() {
    // Each of the five has 30 MB, and they are the same 30 MB.
    let script = "$x = chr(120) x (30_000_000 + $#ARGV); \
        for (1..4) { fork or do { sleep 60; exit } } sleep 60";
    let argv = ["perl", "-e", script].map(str::to_owned).to_vec();
    let limits = Limits::parse("memory_mb=100").expect("limits");
    let folder = tempfile::tempdir().expect("folder");
    let executable = shell::tests::program(folder.path()).to_string_lossy().into_owned();
    let measure_every = Duration::from_millis(300);
    let mut attendant = start(&Order { argv, limits, executable, measure_every, ..order("") });
    attendant.started();
    let mut peak = 0.0_f64;
    for _ in 0..4 {
        peak = peak.max(attendant.used().memory_peak_mb.expect("looked at"));
    }
    assert!((30.0..100.0).contains(&peak), "{peak} MB");
    attendant.say("kill");
    assert_eq!(attendant.report().exceeded, None);
}

#[test]
fn a_closed_socket_ends_the_whole_group() {
    let mut attendant = start(&order("sleep 600 & sleep 600"));
    let pid = attendant.started().to_string();
    let Attendant { mut process, socket } = attendant;
    assert!(lives(&pid));
    drop(socket);
    process.wait().expect("it ends");
    assert!(!lives(&pid));
}

/// Says that it is meant: a command that leaves its group for its attendant's.
const LEAVES: &str = "JETMILL_TEST_LEAVES";

#[test]
fn leaves_its_group() {
    if std::env::var_os(LEAVES).is_some() {
        let other = getpgid(Some(getppid())).expect("the attendant's group");
        setpgid(Pid::from_raw(0), other).expect("a group of the same session");
        let script = "echo left; sleep 20; echo >survived";
        panic!("{}", Command::new("/bin/sh").args(["-c", script]).exec());
    }
}

#[test]
fn a_command_that_leaves_its_group_ends_like_any_other() {
    let folder = tempfile::tempdir().expect("folder");
    let exe = std::env::current_exe().expect("this program");
    let mut leaver = order("");
    leaver.argv = [&exe.to_string_lossy(), "--exact", "attend::tests::leaves_its_group"]
        .map(str::to_owned)
        .to_vec();
    leaver.argv.push("--nocapture".into());
    leaver.cwd = folder.path().to_string_lossy().into_owned();
    leaver.env.insert(LEAVES.into(), "1".into());
    let left = || {
        let mut attendant = start(&leaver);
        let pid = attendant.started().to_string();
        attendant.read_until("left");
        (attendant, pid)
    };
    let (mut attendant, _) = left();
    attendant.say("kill");
    assert_eq!(attendant.report().signal, Some(9));

    let (Attendant { mut process, socket }, pid) = left();
    drop(socket);
    process.wait().expect("it ends");
    assert!(!lives(&pid) && !folder.path().join("survived").exists(), "it went on");
}

#[test]
fn the_folder_of_an_attempt_goes_with_it_whoever_is_there_to_see_it() {
    let outer = tempfile::tempdir().expect("folder");
    let own = outer.path().join("own");
    let script = "mkdir -p a/b shut/in; touch a/b/c shut/in/d; chmod 0 shut; echo made";
    let made = |script: &str| {
        std::fs::create_dir(&own).expect("a folder");
        let own = own.to_string_lossy().into_owned();
        Order { cwd: own.clone(), folder: Some(own), ..order(script) }
    };
    assert_eq!(run(&made(script)).exit, Some(0));
    assert!(!own.exists());

    let mut attendant = start(&made(&format!("{script}; sleep 600")));
    attendant.started();
    attendant.read_until("made");
    let Attendant { mut process, socket } = attendant;
    drop(socket);
    process.wait().expect("it ends");
    assert!(!own.exists(), "the worker is gone, and the folder is not");
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
