//! The registry as a whole, on a real nats-server: what is published is answered.

use std::{sync::Arc, time::Duration};

use bus::{Bus, ConnectOptions, endpoint};
use common::{
    error::{ApiError, ErrorCode},
    pb, subject,
};
use runtime::{Context, Health, clock::SystemClock};
use testkit::NatsServer;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A registry that runs, and the connection of who asks it.
struct Fixture {
    bus: Bus,
    health: Health,
    shutdown: CancellationToken,
    service: JoinHandle<anyhow::Result<()>>,
}

impl Fixture {
    async fn start(server: &NatsServer, ledger_url: &str) -> Self {
        let options = ConnectOptions { url: server.url(), name: "test".into(), credentials: None };
        let bus = bus::connect(&options).await.expect("a connection");
        bus::streams::ensure(&bus, bus::streams::StreamOptions::default()).await.expect("streams");
        let shutdown = CancellationToken::new();
        let ctx = Context::new(bus.clone(), Arc::new(SystemClock), shutdown.clone(), "test")
            .named("registry");
        let health = ctx.health.clone();
        let config = registry::Config { ledger_url: ledger_url.into(), ..Default::default() };
        #[expect(clippy::disallowed_methods, reason = "the test joins it")]
        let service = tokio::spawn(registry::run(ctx, config));
        tokio::time::timeout(Duration::from_secs(20), health.wait_ready())
            .await
            .expect("ready in time");
        Self { bus, health, shutdown, service }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        let ended =
            tokio::time::timeout(Duration::from_secs(5), self.service).await.expect("ends in time");
        ended.expect("no panic").expect("no error");
    }

    async fn publish(&self, subject: &str, body: &str) -> u64 {
        let ack = self.bus.jetstream().publish(subject.to_owned(), body.to_owned().into()).await;
        ack.expect("sent").await.expect("stored").sequence
    }

    async fn ask<Resp: prost::Message + Default>(
        &self,
        method: &str,
        request: impl prost::Message,
    ) -> Result<Resp, ApiError> {
        endpoint::request(&self.bus, "registry", method, &request).await
    }

    async fn get(&self, id: &str, min_sequence: u64) -> Result<pb::Task, ApiError> {
        self.ask("get", about(id, min_sequence)).await
    }
}

fn about(id: &str, min_sequence: u64) -> pb::GetRequest {
    pb::GetRequest { tenant: String::new(), task_id: id.into(), min_sequence }
}

fn shell(id: &str) -> pb::TaskSpec {
    let shell = pb::Shell { argv: vec!["true".into()], ..pb::Shell::default() };
    pb::TaskSpec {
        task_id: id.into(),
        executor: Some(pb::Executor { kind: Some(pb::executor::Kind::Shell(shell)) }),
        ..pb::TaskSpec::default()
    }
}

/// A server and a ledger in a folder of its own.
fn server() -> (NatsServer, tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}", folder.path().join("ledger.db").display());
    (NatsServer::start().expect("a nats-server"), folder, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_messages_are_tasks_with_a_result_and_a_history() {
    let (server, _folder, url) = server();
    let it = Fixture::start(&server, &url).await;
    it.publish("task.created", r#"{"task_id":"t1","subsystem":"healing","priority":9}"#).await;
    it.publish("task.started", r#"{"task_id":"t1"}"#).await;
    let early = it.ask::<pb::Outcome>("result", about("t1", 2)).await.expect_err("it runs");
    assert_eq!(early.code, ErrorCode::FailedPrecondition);
    let body =
        r#"{"task_id":"t1","success":true,"verification_passed":true,"result":{"n":1},"extra":7}"#;
    let last = it.publish("task.completed", body).await;

    let task = it.get("t1", last).await.expect("the task");
    assert_eq!(
        (task.state(), task.priority, task.subsystem.as_str()),
        (pb::TaskState::Completed, 9, "healing")
    );
    assert_eq!((task.verification_status.as_str(), task.sequence), ("passed", 1));
    assert_eq!(task.result.map(|r| r.text).as_deref(), Some("{\"n\":1}"));
    let outcome: pb::Outcome = it.ask("result", about("t1", 0)).await.expect("the outcome");
    assert_eq!(outcome.state(), pb::TaskState::Completed);
    let history: pb::HistoryResponse =
        it.ask("history", about("t1", 0)).await.expect("the history");
    let kinds: Vec<_> = history.entries.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds, ["created", "started", "completed"]);
    assert!(history.entries.iter().all(|e| e.event.is_some() && e.ignored.is_empty()));

    let none = it.get("nobody", 0).await.expect_err("no such task");
    assert_eq!(none.code, ErrorCode::NotFound);
    let reply = it
        .bus
        .client()
        .request(subject::admin("registry", "get"), "{\"task_id\":\"t1\"}".into())
        .await;
    let reply = String::from_utf8(reply.expect("a reply").payload.to_vec()).expect("text");
    assert!(reply.starts_with('{') && reply.contains("\"healing\""), "{reply}");
    it.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submissions_are_listed_page_by_page_and_counted() {
    let (server, _folder, url) = server();
    let it = Fixture::start(&server, &url).await;
    let bad = pb::TaskSpec { priority: Some(11), ..shell("bad") };
    let tasks =
        (0..30).map(|n| shell(&format!("k{n:02}"))).chain([bad]).chain([shell("")]).collect();
    let answer: pb::SubmitResponse =
        it.ask("submit", pb::SubmitRequest { tasks }).await.expect("an answer");
    assert_eq!(answer.submissions.len(), 32);
    let error = answer.submissions[30].error.as_ref().expect("a refusal");
    assert_eq!(
        (error.code.as_str(), error.violations[0].field.as_str()),
        ("invalid_argument", "priority")
    );
    assert!(!answer.submissions[31].task_id.is_empty());
    let min_sequence = answer.submissions.iter().map(|s| s.sequence).max().unwrap_or(0);

    let mut request = pb::ListRequest {
        filter: "task_id:k AND state = pending AND age < 1h".into(),
        page_size: 13,
        min_sequence,
        count: true,
        ..pb::ListRequest::default()
    };
    let mut seen = Vec::new();
    loop {
        let page: pb::ListResponse = it.ask("list", request.clone()).await.expect("a page");
        assert_eq!(page.total, Some(30));
        seen.extend(page.tasks.into_iter().map(|t| t.task_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 30);
    for (field, request) in [
        ("filter", pb::ListRequest { filter: "colour = red".into(), ..pb::ListRequest::default() }),
        ("page_size", pb::ListRequest { page_size: 1_001, ..pb::ListRequest::default() }),
        ("page_token", pb::ListRequest { page_token: "x".into(), ..pb::ListRequest::default() }),
    ] {
        let error = it.ask::<pb::ListResponse>("list", request).await.expect_err(field);
        assert_eq!(
            (error.code, error.violations[0].field.as_str()),
            (ErrorCode::InvalidArgument, field)
        );
    }
    let stats: pb::StatsResponse =
        it.ask("stats", pb::StatsRequest { min_sequence }).await.expect("counts");
    assert_eq!((stats.total, stats.by_state.get("pending"), stats.lag), (31, Some(&31), 0));
    it.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_and_replayed_as_one_new_task() {
    let (server, _folder, url) = server();
    let it = Fixture::start(&server, &url).await;
    it.publish("task.created", "{broken").await;
    let submit = pb::SubmitRequest { tasks: vec![shell("poor")] };
    it.ask::<pb::SubmitResponse>("submit", submit).await.expect("submitted");
    let last = it
        .publish("task.failed", r#"{"task_id":"poor","attempt":1,"cause":"CAUSE_ERROR","error":{"code":"exit_1","message":"no"}}"#)
        .await;
    let task = it.get("poor", last).await.expect("the task");
    assert_eq!(task.state(), pb::TaskState::Failed, "{task:?}");

    let pages = pb::ListDeadRequest { page_size: 1, ..pb::ListDeadRequest::default() };
    let page: pb::ListDeadResponse = it.ask("list_dead", pages.clone()).await.expect("a page");
    assert_eq!((page.letters.len(), page.letters[0].kind.as_str()), (1, "task"));
    let poor = page.letters[0].id;
    let pages = pb::ListDeadRequest { page_token: page.next_page_token, ..pages };
    let page: pb::ListDeadResponse = it.ask("list_dead", pages).await.expect("a page");
    assert_eq!((page.letters.len(), page.next_page_token.as_str()), (1, ""));
    let broken = page.letters[0].id;
    let letter: pb::DeadLetter =
        it.ask("get_dead", pb::GetDeadRequest { id: broken }).await.expect("a letter");
    assert_eq!(
        (letter.kind.as_str(), letter.original.as_slice()),
        ("undecodable", &b"{broken"[..])
    );

    let all =
        pb::ReplayDeadRequest { all: true, dry_run: true, ..pb::ReplayDeadRequest::default() };
    let dry: pb::ReplayDeadResponse = it.ask("replay_dead", all).await.expect("a count");
    assert_eq!((dry.matched, dry.submissions.len()), (2, 0));
    let request =
        pb::ReplayDeadRequest { ids: vec![poor, broken, 99], ..pb::ReplayDeadRequest::default() };
    let first: pb::ReplayDeadResponse =
        it.ask("replay_dead", request.clone()).await.expect("an answer");
    let again: pb::ReplayDeadResponse = it.ask("replay_dead", request).await.expect("an answer");
    let [replayed, refused, missing] = first.submissions.as_slice() else { panic!("{first:?}") };
    assert_eq!(again.submissions[0].task_id, replayed.task_id);
    assert!(again.submissions[0].existing && !replayed.existing);
    assert_eq!(refused.error.as_ref().map(|e| e.code.as_str()), Some("failed_precondition"));
    assert_eq!(missing.error.as_ref().map(|e| e.code.as_str()), Some("not_found"));
    let task = it.get(&replayed.task_id, replayed.sequence).await.expect("the new task");
    assert_eq!((task.retry_of.as_str(), task.state()), ("poor", pb::TaskState::Pending));
    it.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_goes_on_where_its_ledger_is_and_two_of_them_agree() {
    let (server, _folder, url) = server();
    let it = Fixture::start(&server, &url).await;
    let first = it.publish("task.created", r#"{"task_id":"a"}"#).await;
    it.get("a", first).await.expect("the task");
    it.stop().await;

    let options = ConnectOptions { url: server.url(), name: "test".into(), credentials: None };
    let bus = bus::connect(&options).await.expect("a connection");
    let ack =
        bus.jetstream().publish("task.created", r#"{"task_id":"b"}"#.into()).await.expect("sent");
    ack.await.expect("stored");
    let one = Fixture::start(&server, &url).await;
    let two = Fixture::start(&server, &url).await;
    let mut last = 0;
    for n in 0..40 {
        last = one.publish("task.created", &format!(r#"{{"task_id":"n{n}"}}"#)).await;
    }
    for registry in [&one, &two] {
        let request = pb::StatsRequest { min_sequence: last };
        let stats: pb::StatsResponse = registry.ask("stats", request).await.expect("counts");
        assert_eq!((stats.total, stats.lag), (42, 0));
        let history: pb::HistoryResponse =
            registry.ask("history", about("b", 0)).await.expect("a history");
        assert_eq!(history.entries.len(), 1);
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_log_stops_the_registry_with_instructions() {
    let (old, _folder, url) = server();
    let it = Fixture::start(&old, &url).await;
    let last = it.publish("task.created", r#"{"task_id":"a"}"#).await;
    it.get("a", last).await.expect("the task");
    it.stop().await;

    let new = NatsServer::start().expect("a nats-server");
    let options = ConnectOptions { url: new.url(), name: "test".into(), credentials: None };
    let bus = bus::connect(&options).await.expect("a connection");
    bus::streams::ensure(&bus, bus::streams::StreamOptions::default()).await.expect("streams");
    let ctx = Context::new(bus, Arc::new(SystemClock), CancellationToken::new(), "test")
        .named("registry");
    let run = registry::run(ctx, registry::Config { ledger_url: url, ..Default::default() });
    let error = tokio::time::timeout(Duration::from_secs(10), run)
        .await
        .expect("it ends")
        .expect_err("it refuses");
    assert!(runtime::chain(&error).contains("restore the log"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_nothing_is_lost_and_the_registry_is_not_ready() {
    let server = NatsServer::start().expect("a nats-server");
    let postgres = testkit::Postgres::shared().expect("PostgreSQL");
    let url = postgres.create_database().await.expect("a database");
    let (_, name) = url.split_once("localhost/").expect("a URL");
    let (name, _) = name.split_once('?').expect("a URL");
    let admin = sqlx::PgPool::connect(&url.replace(name, "postgres")).await.expect("a connection");
    let set = async |statement: String| {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&admin).await.expect("done");
    };
    let it = Fixture::start(&server, &url).await;
    let first = it.publish("task.created", r#"{"task_id":"a"}"#).await;
    it.get("a", first).await.expect("the task");

    set(format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")).await;
    set(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
        .await;
    let last = it.publish("task.created", r#"{"task_id":"b"}"#).await;
    testkit::eventually("not ready", Duration::from_secs(10), async || {
        (!it.health.is_ready()).then_some(())
    })
    .await
    .expect("it says so");
    let error = it.get("a", first).await.expect_err("the ledger is away");
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");

    set(format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")).await;
    let task = it.get("b", last).await.expect("it caught up");
    assert_eq!(task.sequence, last);
    assert!(it.health.is_ready());
    it.stop().await;
}
