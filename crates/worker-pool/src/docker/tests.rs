//! What an engine can do wrong, from the answers of a real one (20.10) and what is left of them. The
//! right answers of a real engine are in `tests/it/life/containers.rs`.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::pb;
use jetmill_sdk::worker::{AttemptContext, AttemptResult, decode};
use serde_json::{Value, json};
use testkit::NatsServer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Docker, access::Engine};
use crate::{attend::limits::Limits, environment::Environment};

const PATIENCE: Duration = Duration::from_secs(20);
const ID: &str = "28dc86a6d254";

/// What the engine says to one request.
#[derive(Clone)]
enum Answer {
    Json(u16, Value),
    /// These bytes, and the end of the connection.
    Raw(Vec<u8>),
    /// The connection ends without a word.
    Nothing,
    /// Nothing is said, and the connection stays.
    Silence,
}

/// An engine that gives recorded answers, by the method and the end of the path.
struct Fake {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<(String, String)>>>,
    _server: JoinSet<()>,
}

type Answers = HashMap<&'static str, Vec<Answer>>;

/// What an engine says when all is well.
fn well() -> Answers {
    let ended = json!({ "Id": ID, "State": {
        "Status": "exited", "Running": false, "OOMKilled": false, "ExitCode": 0, "Error": "",
        "StartedAt": "2026-11-21T17:25:53.26762624Z", "FinishedAt": "2026-11-21T17:25:54.268849066Z",
    } });
    let image = json!({ "Id": "sha256:bdad", "RepoTags": ["box:1"], "Created": "2026-11-21T17:23:33Z",
        "Config": { "User": "", "Env": null, "Cmd": null, "Volumes": { "/var/lib/x": {} } } });
    let frame = [&[1, 0, 0, 0, 0, 0, 0, 3][..], b"hi\n"].concat();
    HashMap::from([
        (
            "GET /version",
            vec![Answer::Json(200, json!({ "Version": "20.10.24", "ApiVersion": "1.41" }))],
        ),
        ("GET /containers/json", vec![Answer::Json(200, json!([]))]),
        ("GET /images/box:1/json", vec![Answer::Json(200, image)]),
        ("POST /containers/create", vec![Answer::Json(201, json!({ "Id": ID, "Warnings": [] }))]),
        ("POST /attach", vec![attached(&frame)]),
        ("POST /start", vec![Answer::Raw(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())]),
        ("GET /stats", vec![Answer::Nothing]),
        ("POST /wait", vec![Answer::Json(200, json!({ "Error": null, "StatusCode": 0 }))]),
        ("GET /json", vec![Answer::Json(200, ended)]),
        ("DELETE", vec![Answer::Raw(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())]),
        ("POST /kill", vec![Answer::Raw(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())]),
    ])
}

fn attached(frames: &[u8]) -> Answer {
    let head = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    Answer::Raw([head, frames].concat())
}

fn problem(status: u16, message: &str) -> Answer {
    Answer::Json(status, json!({ "message": message }))
}

impl Fake {
    /// All is well but for this.
    fn but(changes: impl IntoIterator<Item = (&'static str, Vec<Answer>)>) -> Self {
        let mut answers = well();
        answers.extend(changes);
        let folder = tempfile::tempdir().expect("folder");
        let listener = UnixListener::bind(folder.path().join("engine.sock")).expect("socket");
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let (answers, log) = (Arc::new(Mutex::new(answers)), asked.clone());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, answers.clone(), log.clone()));
            }
        });
        Self { folder, asked, _server: server }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("engine.sock")
    }

    /// The requests of this kind: their bodies.
    fn asked(&self, what: &str) -> Vec<String> {
        let asked = self.asked.lock().expect("no panic");
        asked.iter().filter(|(kind, _)| kind == what).map(|(_, body)| body.clone()).collect()
    }
}

/// Answers one request; of several answers to the same, the last one stays.
async fn serve(
    mut stream: UnixStream,
    answers: Arc<Mutex<Answers>>,
    log: Arc<Mutex<Vec<(String, String)>>>,
) {
    let Some((line, body)) = request(&mut stream).await else { return };
    let answer = {
        let mut answers = answers.lock().expect("no panic");
        let kind = kind(&line, &answers);
        log.lock().expect("no panic").push((kind.to_owned(), body));
        let all = answers.get_mut(kind).expect("a known kind");
        if all.len() > 1 { all.remove(0) } else { all[0].clone() }
    };
    let bytes = match answer {
        Answer::Json(status, value) => {
            let text = value.to_string();
            let head = "Content-Type: application/json\r\nConnection: close";
            format!("HTTP/1.1 {status} X\r\n{head}\r\nContent-Length: {}\r\n\r\n{text}", text.len())
                .into_bytes()
        }
        Answer::Raw(bytes) => bytes,
        Answer::Nothing => return,
        Answer::Silence => return std::future::pending().await,
    };
    let _ = stream.write_all(&bytes).await;
}

/// The first line of a request without its version, and its body.
async fn request(stream: &mut UnixStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.and_then(|n| n.trim().parse().ok()).unwrap_or(0) {
                let line = text.lines().next()?.replacen("/v1.41", "", 1);
                return Some((line, body.to_owned()));
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn kind(line: &str, known: &Answers) -> &'static str {
    let (method, path) = line.split_once(' ').expect("a request line");
    let path = path.split(['?', ' ']).next().unwrap_or_default();
    let fits = |kind: &str| match kind.split_once(' ') {
        Some((m, end)) => m == method && path.ends_with(end),
        None => kind == method,
    };
    let fitting = known.keys().copied().filter(|kind| fits(kind));
    fitting.max_by_key(|kind| kind.len()).unwrap_or_else(|| panic!("{line} was not expected"))
}

struct Bench {
    docker: Docker,
    _nats: NatsServer,
}

async fn bench(socket: &Path) -> Bench {
    let nats = NatsServer::start().expect("nats-server");
    let options = bus::ConnectOptions { url: nats.url(), name: "test".into(), credentials: None };
    let bus = bus::connect(&options).await.expect("a connection");
    bus::streams::ensure(&bus, bus::streams::StreamOptions::default()).await.expect("streams");
    let variables = [("JETMILL_SECRET_TOKEN".to_owned(), "s3cret-value".to_owned())];
    let environment = Environment::new(variables, &[], None);
    let engine = Engine { socket: socket.to_owned(), ..Engine::default() };
    let mut docker = Docker::new(engine, environment, Limits::default(), (bus, "me".into()));
    docker.patience = Duration::from_millis(400);
    Bench { docker, _nats: nats }
}

fn attempt(cancelled: &CancellationToken) -> (AttemptContext, pb::Docker) {
    let docker = json!({ "image": "box:1", "command": ["x"], "cpus": 1, "memory_mb": 64,
        "secrets": { "T": "env:TOKEN" } });
    let request = json!({ "items": [{
        "task_id": "t", "attempt": 2, "queue": "default", "spec": { "executor": { "docker": docker } },
    }] });
    let items = decode(request.to_string().as_bytes()).expect("an execution request");
    let one = items.into_iter().next().expect("one");
    (
        AttemptContext::detached(one, cancelled.clone()),
        serde_json::from_value(docker).expect("a spec"),
    )
}

async fn run_in(bench: &Bench) -> AttemptResult {
    let (attempt, spec) = attempt(&CancellationToken::new());
    let run = bench.docker.run(&attempt, &spec, None, "");
    timeout(PATIENCE, run).await.expect("it does not hang")
}

async fn run(fake: &Fake) -> AttemptResult {
    run_in(&bench(&fake.socket()).await).await
}

impl Bench {
    /// The same executor with another engine.
    fn with(&self, fake: &Fake) -> Docker {
        let mut docker = self.docker.clone();
        docker.engine.socket = fake.socket();
        docker
    }

    async fn run(&self, fake: &Fake) -> AttemptResult {
        let (attempt, spec) = attempt(&CancellationToken::new());
        let docker = self.with(fake);
        let run = docker.run(&attempt, &spec, None, "");
        timeout(PATIENCE, run).await.expect("it does not hang")
    }
}

fn code(result: &AttemptResult) -> (&str, bool) {
    result.error.as_ref().map_or(("", false), |e| (e.code.as_str(), e.retryable))
}

#[tokio::test]
async fn a_container_runs_and_is_removed() {
    let fake = Fake::but([]);
    let result = run(&fake).await;
    assert_eq!(result.error, None);
    assert_eq!(
        result.result.expect("a result").to_value(),
        json!({ "exit": 0, "stdout": "hi\n", "stderr": "", "truncated": false })
    );
    assert_eq!(result.usage, None, "nothing was told");
    let body: Value =
        serde_json::from_str(&fake.asked("POST /containers/create")[0]).expect("JSON");
    let fresh = body["HostConfig"]["Tmpfs"].as_object().expect("folders");
    assert!(fresh.contains_key("/var/lib/x"), "the image's volume is in memory: {body}");
    assert_eq!(fake.asked("DELETE").len(), 1);
}

#[tokio::test]
async fn no_engine_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().expect("folder");
    let missing = folder.path().join("none.sock");
    let result = run_in(&bench(&missing).await).await;
    assert_eq!(code(&result), ("no_engine", true));
    let told = result.error.expect("an error").message;
    assert!(told.contains("worker_pool.docker.socket") && told.contains("none.sock"), "{told}");
    // A socket that nobody listens at any more.
    drop(UnixListener::bind(&missing).expect("socket"));
    let result = run_in(&bench(&missing).await).await;
    assert_eq!(code(&result), ("no_engine", true));
    let told = result.error.expect("an error").message;
    assert!(told.contains("nobody listens"), "{told}");
}

#[tokio::test]
async fn what_an_engine_refuses_is_told_in_its_words() {
    let create = "POST /containers/create";
    let bench = bench(Path::new("/none")).await;
    for (request, answer, expected, part) in [
        (
            "GET /images/box:1/json",
            problem(404, "No such image: box:1"),
            ("image_not_found", false),
            "docker pull box:1",
        ),
        (
            create,
            problem(404, "No such image: box:1"),
            ("image_not_found", false),
            "docker pull box:1",
        ),
        (create, problem(409, "the name is in use"), ("name_taken", true), "not Jetmill's"),
        (create, problem(400, "only 2 CPUs available"), ("engine_refused", false), "only 2 CPUs"),
        (
            create,
            problem(500, "no space left on device s3cret-value"),
            ("engine_failed", true),
            "device ***",
        ),
        (create, Answer::Nothing, ("no_engine", true), "engine"),
        ("POST /start", problem(500, "OCI runtime create failed"), ("engine_failed", true), "OCI"),
        ("POST /attach", problem(500, "hijack"), ("engine_failed", true), "hijack"),
        ("GET /version", Answer::Json(200, json!("what?")), ("engine_failed", true), "start"),
        ("GET /containers/json", problem(500, "busy"), ("engine_failed", true), "busy"),
    ] {
        let fake = Fake::but([(request, vec![answer])]);
        let result = bench.run(&fake).await;
        assert_eq!(code(&result), expected, "{request}");
        let told = result.error.expect("an error").message;
        assert!(told.contains(part) && !told.contains("s3cret"), "{request}: {told}");
    }
    let fake = Fake::but([(create, vec![problem(409, "the name is in use")])]);
    bench.run(&fake).await;
    assert_eq!(fake.asked("DELETE"), [""; 0], "what is another's is not touched");
}

#[tokio::test]
async fn an_engine_that_goes_away_may_come_back() {
    let wait = well().remove("POST /wait").expect("an answer").remove(0);
    let fake = Fake::but([("POST /wait", vec![Answer::Nothing, problem(500, "starting"), wait])]);
    assert_eq!(run(&fake).await.error, None);
    // An exit code is no error of the waiting, and is read from the state.
    let ended = json!({ "State": { "Running": false, "ExitCode": 7 } });
    let waited = Answer::Json(200, json!({ "StatusCode": 7 }));
    let fake =
        Fake::but([("POST /wait", vec![waited]), ("GET /json", vec![Answer::Json(200, ended)])]);
    assert_eq!(code(&run(&fake).await), ("exit_7", true));
    // The end of the waiting is not always the end of the container.
    let goes_on = Answer::Json(200, json!({ "State": { "Running": true } }));
    let over = well().remove("GET /json").expect("an answer").remove(0);
    let fake = Fake::but([("GET /json", vec![goes_on, over])]);
    assert_eq!(run(&fake).await.error, None);
    assert_eq!(fake.asked("POST /wait").len(), 2);
}

#[tokio::test]
async fn an_engine_that_stays_away_loses_its_container() {
    let fake =
        Fake::but([("POST /wait", vec![Answer::Nothing]), ("DELETE", vec![Answer::Nothing])]);
    let result = run(&fake).await;
    assert_eq!(code(&result), ("engine_lost", true));
    assert_eq!(result.result.expect("kept").to_value()["stdout"], "hi\n");
    let gone = problem(404, "No such container");
    let fake = Fake::but([("POST /wait", vec![gone])]);
    assert_eq!(code(&run(&fake).await), ("container_removed", true));
}

#[tokio::test]
async fn output_that_breaks_off_is_kept_up_to_there() {
    let broken = [&[1, 0, 0, 0, 0, 0, 0, 99][..], b"so far"].concat();
    let fake = Fake::but([("POST /attach", vec![attached(&broken)])]);
    let result = run(&fake).await;
    assert_eq!(result.error, None);
    assert_eq!(result.result.expect("kept").to_value()["stdout"], "so far");
    let both = [&[2, 0, 0, 0, 0, 0, 0, 4][..], b"s3cr", &[2, 0, 0, 0, 0, 0, 0, 8], b"et-value"];
    let fake = Fake::but([("POST /attach", vec![attached(&both.concat())])]);
    let result = run(&fake).await.result.expect("kept").to_value();
    assert_eq!(result["stderr"], "***", "a secret in two pieces");
}

#[tokio::test]
async fn what_a_container_uses_is_told_while_it_runs_and_its_progress_is_no_output() {
    let reading = json!({
        "cpu_stats": { "cpu_usage": { "total_usage": 2_000_000_000_u64 } },
        "memory_stats": { "usage": 733_184, "max_usage": 4_194_304 },
        "networks": { "eth0": { "rx_bytes": 1_048_576, "tx_bytes": 0 } },
    });
    let fake = Fake::but([
        ("GET /stats", vec![Answer::Json(200, reading)]),
        ("POST /wait", vec![Answer::Silence]),
    ]);
    let bench = bench(&fake.socket()).await;
    let (attempt, spec) = attempt(&CancellationToken::new());
    let told = testkit::eventually("its use so far", PATIENCE, async || attempt.used_so_far());
    let usage = tokio::select! {
        result = bench.docker.run(&attempt, &spec, None, "") => panic!("it ended: {result:?}"),
        told = told => told.expect("told"),
    };
    assert_eq!((usage.cpu_seconds, usage.memory_peak_mb), (Some(2.0), Some(4.0)));
    assert_eq!((usage.network_rx_mb, usage.disk_read_mb), (Some(1.0), None));

    let said = b"::progress:: 50%\nhi\n";
    let frame = [&[1, 0, 0, 0, 0, 0, 0, said.len() as u8][..], said].concat();
    let fake = Fake::but([("POST /attach", vec![attached(&frame)])]);
    let result = bench.run(&fake).await.result.expect("a result").to_value();
    assert_eq!(result["stdout"], "hi\n");
}

#[tokio::test]
async fn an_earlier_attempt_ends_before_the_next_and_a_later_one_ends_this() {
    let bench = bench(Path::new("/none")).await;
    let log = bench.docker.log().await.expect("an identity");
    let listed = |attempt: u32, log: &str| {
        let labels = json!({ "jetmill.log": log, "jetmill.worker": "other", "jetmill.tenant": "default",
            "jetmill.task": "t", "jetmill.attempt": attempt.to_string() });
        let one = json!({ "Id": format!("old-{attempt}"), "Names": ["/a"], "Labels": labels });
        vec![Answer::Json(200, json!([one]))]
    };
    for (attempt, log, removed, expected) in [
        (1, log.as_str(), 2, ""),
        (2, &log, 2, ""),
        (3, &log, 0, "superseded"),
        (1, "another", 1, ""),
    ] {
        let fake = Fake::but([("GET /containers/json", listed(attempt, log))]);
        let result = bench.run(&fake).await;
        assert_eq!(code(&result).0, expected, "attempt {attempt} of {log}");
        assert_eq!(fake.asked("DELETE").len(), removed, "attempt {attempt} of {log}");
    }
}

#[tokio::test]
async fn what_is_cancelled_while_it_begins_is_left_to_the_keeper() {
    let fake = Fake::but([("POST /start", vec![Answer::Silence])]);
    let bench = bench(&fake.socket()).await;
    let log = bench.docker.log().await.expect("an identity");
    let cancelled = CancellationToken::new();
    let (context, spec) = attempt(&cancelled);
    let asked = async {
        while fake.asked("POST /start").is_empty() {
            tokio::task::yield_now().await;
        }
        cancelled.cancel();
    };
    let both = futures::future::join(bench.docker.run(&context, &spec, None, ""), asked);
    let (result, ()) = timeout(PATIENCE, both).await.expect("it does not hang");
    assert_eq!(result, AttemptResult::given_up());
    assert_eq!(fake.asked("DELETE"), [""; 0]);
    // The keeper of the same worker finds it by its labels, and leaves what is not this log's.
    let owner = |log: &str, worker: &str| {
        json!({ "jetmill.log": log, "jetmill.worker": worker, "jetmill.tenant": "default",
            "jetmill.task": "t", "jetmill.attempt": "2" })
    };
    let listed = json!([
        { "Id": ID, "Names": ["/a"], "Labels": owner(&log, "me") },
        { "Id": "b", "Names": ["/b"], "Labels": owner("another", "me") },
        { "Id": "c", "Names": ["/c"], "Labels": { "app": "c" } },
        { "Id": "d", "Names": ["/d"], "Labels": owner(&log, "lives") },
    ]);
    let fake = Fake::but([("GET /containers/json", vec![Answer::Json(200, listed)])]);
    timeout(PATIENCE, bench.with(&fake).keeper().leave()).await.expect("it does not hang");
    assert_eq!(fake.asked("DELETE").len(), 1);
}
