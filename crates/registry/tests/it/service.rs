//! What is published is answered.

use std::time::Duration;

use bus::Bus;
use common::{error::ErrorCode, pb, subject};
use testkit::NatsServer;

use crate::running::{Running, about, connect};

async fn publish(bus: &Bus, subject: &str, body: &str) -> u64 {
    let ack = bus.jetstream().publish(subject.to_owned(), body.to_owned().into()).await;
    ack.expect("sent").await.expect("stored").sequence
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
    let it = Running::start(&connect(&server).await, &url).await;
    publish(&it.bus, "task.created", r#"{"task_id":"t1","subsystem":"healing","priority":9}"#)
        .await;
    publish(&it.bus, "task.started", r#"{"task_id":"t1"}"#).await;
    let early = it.ask::<pb::Outcome>("result", about("t1", 2)).await.expect_err("it runs");
    assert_eq!(early.code, ErrorCode::FailedPrecondition);
    let body =
        r#"{"task_id":"t1","success":true,"verification_passed":true,"result":{"n":1},"extra":7}"#;
    let last = publish(&it.bus, "task.completed", body).await;

    let task = it.task("t1", last).await;
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
    let it = Running::start(&connect(&server).await, &url).await;
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
    let it = Running::start(&connect(&server).await, &url).await;
    publish(&it.bus, "task.created", "{broken").await;
    let submit = pb::SubmitRequest { tasks: vec![shell("poor")] };
    it.ask::<pb::SubmitResponse>("submit", submit).await.expect("submitted");
    let last = publish(&it.bus, "task.failed", r#"{"task_id":"poor","attempt":1,"cause":"CAUSE_ERROR","error":{"code":"exit_1","message":"no"}}"#)
        .await;
    let task = it.task("poor", last).await;
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
    let it = Running::start(&connect(&server).await, &url).await;
    let first = publish(&it.bus, "task.created", r#"{"task_id":"a"}"#).await;
    it.task("a", first).await;
    it.stop().await;

    let bus = connect(&server).await;
    publish(&bus, "task.created", r#"{"task_id":"b"}"#).await;
    let one = Running::start(&bus, &url).await;
    let two = Running::start(&bus, &url).await;
    let mut last = 0;
    for n in 0..40 {
        last = publish(&one.bus, "task.created", &format!(r#"{{"task_id":"n{n}"}}"#)).await;
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
    let it = Running::start(&connect(&old).await, &url).await;
    let last = publish(&it.bus, "task.created", r#"{"task_id":"a"}"#).await;
    it.task("a", last).await;
    it.stop().await;

    let new = NatsServer::start().expect("a nats-server");
    let (error, _) = Running::begin(&connect(&new).await, &url).refusal().await;
    assert!(error.contains("restore the log"), "{error}");
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
    let it = Running::start(&connect(&server).await, &url).await;
    let first = publish(&it.bus, "task.created", r#"{"task_id":"a"}"#).await;
    it.task("a", first).await;

    set(format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")).await;
    set(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
        .await;
    let last = publish(&it.bus, "task.created", r#"{"task_id":"b"}"#).await;
    testkit::eventually("not ready", Duration::from_secs(10), async || {
        (!it.health.is_ready()).then_some(())
    })
    .await
    .expect("it says so");
    let error = it.get("a", first).await.expect_err("the ledger is away");
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");

    set(format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")).await;
    let task = it.task("b", last).await;
    assert_eq!(task.sequence, last);
    assert!(it.health.is_ready());
    it.stop().await;
}
