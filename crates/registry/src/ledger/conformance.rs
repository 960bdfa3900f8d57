//! One suite for both databases.

mod cuts;
mod kept;
mod objects;
mod schema;

use bus::{Cursor, Message};
use common::{event::Kind, filter, pb, time::Timestamp};

use super::*;
use crate::{
    fixtures::*,
    project::{Changes, Fold},
};

const NOW: Timestamp = Timestamp::from_unix(1_800_000_100, 0);

/// Runs a test on a fresh ledger of each kind; the URL opens it again.
async fn on_both(test: impl AsyncFn(Arc<dyn Ledger>, &str)) {
    let folder = tempfile::tempdir().expect("a folder");
    let sqlite = format!("sqlite:{}", folder.path().join("a b/ledger.db").display());
    let postgres = testkit::Postgres::shared()
        .expect("PostgreSQL")
        .create_database()
        .await
        .expect("a database");
    for url in [sqlite, postgres] {
        test(open(&url).await.expect("a ledger"), &url).await;
    }
}

/// A fold that begins where the ledger is.
async fn fold(ledger: &dyn Ledger) -> Result<Fold, LedgerError> {
    let position = ledger.position().await?;
    let clock = position.map_or(Timestamp::default(), |p| p.clock);
    let fold = Fold::new(clock, ledger.newest_id().await?.as_deref(), false);
    Ok(fold.counting_from(position.map_or(0, |p| p.floor)))
}

/// Applies messages as the projector does, and returns where the ledger is then.
async fn apply_with(
    ledger: &dyn Ledger,
    fold: &mut Fold,
    messages: &[Message],
) -> Result<Position, LedgerError> {
    let from = ledger.position().await?.map(|p| p.cursor);
    fold.load(ledger.load(&fold.missing(messages)).await?);
    fold.fold(messages.to_vec());
    let sequence = messages.last().map_or(0, |m| m.sequence);
    let changes = fold.take();
    let to = Position::new(Cursor { stream: LOG, sequence }, &changes);
    ledger.record(batch(from, to, changes)).await.map(|()| to)
}

async fn apply(ledger: &dyn Ledger, messages: &[Message]) -> Result<Position, LedgerError> {
    apply_with(ledger, &mut fold(ledger).await?, messages).await
}

fn batch(from: Option<Cursor>, to: Position, changes: Changes) -> Batch {
    let Changes { tasks, entries, counts, .. } = changes;
    Batch { from, to, tasks, entries, counts }
}

async fn find(ledger: &dyn Ledger, id: &str) -> Option<Row> {
    ledger.find(&Tenant::default(), &TaskId::parse(id).expect("an id")).await.expect("an answer")
}

fn complete(id: &str, attempt: u32) -> common::event::TaskEvent {
    let body = pb::Completed {
        attempt,
        result: json("{\"n\":1}"),
        worker: "w1".into(),
        ..pb::Completed::default()
    };
    event(id, Kind::Completed(Box::new(body)))
}

#[tokio::test]
async fn a_life_is_recorded_and_found_again_in_a_reopened_ledger() {
    on_both(async |ledger, url| {
        assert_eq!(ledger.position().await.expect("an answer"), None);
        assert_eq!(find(&*ledger, "t").await, None);
        let first = [message(1, created(shell("t")))];
        apply(&*ledger, &first).await.expect("recorded");
        let started = pb::Started { attempt: 1, worker: "w1".into() };
        let rest = [message(2, event("t", Kind::Started(started))), message(3, complete("t", 1))];
        let position = apply(&*ledger, &rest).await.expect("recorded");
        let row = find(&*ledger, "t").await.expect("the task");
        assert_eq!((row.live.place.sequence, &*row.live.worker), (1, "w1"));
        assert_eq!(report(&row).result, json("{\"n\":1}"));

        let ledger = open(url).await.expect("a ledger");
        assert_eq!(ledger.position().await.expect("an answer"), Some(position));
        assert_eq!(find(&*ledger, "t").await, Some(row.clone()));
        let history = ledger.history(row.live.place, 10).await.expect("a history");
        let kinds: Vec<_> = history.iter().map(|e| (e.place.sequence, e.kind.as_ref())).collect();
        assert_eq!(kinds, [(1, "created"), (2, "started"), (3, "completed")]);
        let history = ledger.history(row.live.place, 2).await.expect("a history");
        assert_eq!(
            history.first().map(|e| e.kind.as_ref()),
            Some("started"),
            "the newest, oldest first"
        );
    })
    .await;
}

#[tokio::test]
async fn what_is_folded_in_memory_and_what_is_read_back_are_equal() {
    on_both(async |ledger, _| {
        let spec = pb::TaskSpec {
            tags: vec!["a\"b".into(), "ü".into()],
            deadline: Some(NOW.into()),
            priority: Some(10),
            input: json("[1]"),
            ..shell("id with spaces, Größe 3 / 🚀 %_'")
        };
        let id = spec.task_id.clone();
        let usage = pb::ResourceUsage { cpu_seconds: Some(0.5), ..pb::ResourceUsage::default() };
        let failed = pb::Failed {
            attempt: 1,
            cause: pb::Cause::Timeout.into(),
            error: Some(pb::TaskError { code: "x".into(), message: "nul \0 inside".into() }),
            result: json("not json \0"),
            resource_usage: Some(usage),
            worker: "bad\0worker".into(),
            duration: Some(std::time::Duration::from_micros(1_500).into()),
            ..pb::Failed::default()
        };
        let messages =
            [message(1, created(spec)), message(2, event(&id, Kind::Failed(Box::new(failed))))];
        let out = project(Vec::new(), Timestamp::default(), &messages);
        apply(&*ledger, &messages).await.expect("recorded");
        let row = find(&*ledger, &id).await.expect("the task");
        assert_eq!(row, out.rows[0]);
        assert_eq!(&*row.live.worker, "bad\u{fffd}worker");
        let lost = pb::Lost { attempt: 1, ..pb::Lost::default() };
        apply(
            &*ledger,
            &[message(3, created(shell("v"))), message(4, event("v", Kind::Lost(lost)))],
        )
        .await
        .expect("recorded");
        assert_eq!(
            find(&*ledger, "v").await.map(|r| r.live.life.phase),
            Some(common::lifecycle::Phase::Verdict)
        );
    })
    .await;
}

#[tokio::test]
async fn a_batch_that_is_applied_twice_changes_nothing() {
    on_both(async |ledger, _| {
        let messages = [message(1, created(shell("t"))), message(2, complete("t", 1))];
        apply(&*ledger, &messages).await.expect("recorded");
        let row = find(&*ledger, "t").await;
        let missing = fold(&*ledger).await.expect("a fold").missing(&messages);
        let rows = ledger.load(&missing).await.expect("rows");
        let again = project(rows, NOW, &messages);
        assert!(again.rows.is_empty() && again.dead.is_empty());
        assert!(again.entries.iter().all(|e| !e.ignored.is_empty()));
        assert_eq!(find(&*ledger, "t").await, row);
    })
    .await;
}

#[tokio::test]
async fn a_writer_with_an_older_cursor_is_refused_and_writes_nothing() {
    on_both(async |ledger, url| {
        let second = open(url).await.expect("a second writer");
        let write = async |ledger: &dyn Ledger, from, sequence, id: &str| {
            let mut fold = Fold::new(NOW, None, false);
            fold.fold(vec![message(sequence, created(shell(id)))]);
            let changes = fold.take();
            let to = Position::new(Cursor { stream: LOG, sequence }, &changes);
            ledger.record(batch(from, to, changes)).await.map(|()| to.cursor)
        };
        let refused = |r: Result<Cursor, LedgerError>| {
            assert!(matches!(r, Err(LedgerError::Superseded)), "{r:?}");
        };
        let one = write(&*ledger, None, 1, "a").await.expect("recorded");
        refused(write(&*second, None, 1, "b").await);
        write(&*second, Some(one), 2, "c").await.expect("recorded");
        refused(write(&*ledger, Some(one), 2, "d").await);
        let other_log = Cursor { stream: uuid::Uuid::nil(), sequence: 2 };
        refused(write(&*ledger, Some(other_log), 3, "e").await);
        assert_eq!(ledger.stats().await.expect("counts").by_state, [("pending".to_owned(), 2)]);
    })
    .await;
}

#[tokio::test]
async fn pages_follow_one_another_without_gap_or_repeat() {
    on_both(async |ledger, _| {
        let ids: Vec<_> = (0..150).map(|n| format!("t{n:03}")).collect();
        let events: Vec<_> = ids
            .iter()
            .map(|id| common::wire::encode(&common::event::Event::Task(created(shell(id)))))
            .collect();
        let bundle = common::wire::bundle(events);
        apply(&*ledger, &[read(9, common::subject::BUNDLE, bundle)]).await.expect("recorded");
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let page = ledger.list(None, before, 40).await.expect("a page");
            seen.extend(page.rows.iter().map(|r| r.fixed.id.to_string()));
            before = page.rows.last().map(|r| r.live.place);
            if !page.more {
                break;
            }
        }
        seen.reverse();
        assert_eq!(seen, ids);
        assert_eq!(ledger.count(None).await.expect("a count"), 150);
        let page = ledger.list(None, None, 150).await.expect("a page");
        assert!(!page.more);
    })
    .await;
}

async fn fill_for_filters(ledger: &dyn Ledger) {
    let run = pb::TaskSpec {
        tags: vec!["gpu".into(), "50%".into()],
        title: "Deploy Größe_1".into(),
        priority: Some(8),
        subsystem: "healing".into(),
        created_by: "ann".into(),
        deadline: Some(NOW.into()),
        parent_id: "p".into(),
        ..shell("a")
    };
    let fail = pb::TaskSpec {
        task_type: "build".into(),
        retry_of: "a".into(),
        queue: "q1".into(),
        ..shell("b")
    };
    let body = pb::Failed {
        attempt: 1,
        cause: pb::Cause::Timeout.into(),
        worker: "w9".into(),
        ..pb::Failed::default()
    };
    let other = pb::TaskSpec { tenant: "acme".into(), ..external("c") };
    let other = common::event::TaskEvent {
        tenant: Tenant::parse("acme").expect("a tenant"),
        ..created(other)
    };
    let messages = [
        message(1, created(run)),
        message(2, created(fail)),
        message(3, other),
        message(4, event("b", Kind::Failed(Box::new(body)))),
    ];
    apply(ledger, &messages).await.expect("recorded");
}

#[tokio::test]
async fn every_operator_of_a_filter_selects_the_same() {
    on_both(async |ledger, url| {
        fill_for_filters(&*ledger).await;
        for (text, fits) in [
            ("state = pending", "ca"),
            ("state != pending", "b"),
            ("cause = timeout", "b"),
            ("NOT cause = timeout", "ca"),
            ("tag:gpu", "a"),
            ("tag = \"50%\"", "a"),
            ("tag = gp", ""),
            ("tag != gpu", "cb"),
            ("title = \"Deploy Größe_1\"", "a"),
            ("title:deploy", "a"),
            ("title:DEPLOY", "a"),
            ("title:größe_", "a"),
            ("title:GRÖßE", ""),
            ("title:\"e%1\"", ""),
            ("priority > 5", "a"),
            ("priority >= 5", "cba"),
            ("priority < 8", "cb"),
            ("priority <= 5", "cb"),
            ("priority = 8", "a"),
            ("priority != 8", "cb"),
            ("type = build OR subsystem = healing", "ba"),
            ("type = build AND subsystem = healing", ""),
            ("created_by = ann", "a"),
            ("queue = q1", "b"),
            ("executor = external", "c"),
            ("worker = w9", "b"),
            ("worker = ''", "ca"),
            ("tenant = acme", "c"),
            ("tenant:ACM", "c"),
            ("task_id = b", "b"),
            ("parent_id = p", "a"),
            ("retry_of = a", "b"),
            ("created_at <= 2027-01-15T08:00:02Z", "ba"),
            ("created_at = 2027-01-15T08:00:03Z", "c"),
            ("finished_at > 2027-01-01", "b"),
            ("NOT finished_at > 2027-01-01", "ca"),
            ("finished_at < 2027-01-01", ""),
            ("started_at > 2027-01-01", ""),
            ("deadline >= 2027-01-15", "a"),
            ("age > 98s", "a"),
            ("age <= 98s", "cb"),
            ("title = \"x' OR '1'='1\"", ""),
            ("(state = failed OR tag:gpu) AND NOT (priority > 7)", "b"),
        ] {
            let filter = filter::parse(text, NOW).expect(text).expect(text);
            let page = ledger.list(Some(&filter), None, 10).await.expect(text);
            let found: String = page.rows.iter().map(|r| r.fixed.id.as_str()).collect();
            assert_eq!(found, fits, "{text} on {url}");
            assert_eq!(ledger.count(Some(&filter)).await.expect(text), fits.len() as u64, "{text}");
        }
        let longest = vec!["tag:a"; 455].join(" OR ");
        let filter = filter::parse(&longest, NOW).expect("valid").expect("not empty");
        assert!(ledger.list(Some(&filter), None, 10).await.expect("an answer").rows.is_empty());
    })
    .await;
}

#[tokio::test]
async fn everything_is_counted() {
    on_both(async |ledger, _| {
        assert_eq!(ledger.stats().await.expect("counts"), Stats::default());
        fill_for_filters(&*ledger).await;
        let count = |word: &str, n| (word.to_owned(), n);
        let stats = ledger.stats().await.expect("counts");
        let mut by_state = stats.by_state.clone();
        by_state.sort();
        assert_eq!(by_state, [count("failed", 1), count("pending", 2)]);
        assert_eq!(stats.by_subsystem, [count("unknown", 2), count("healing", 1)]);
    })
    .await;
}

#[tokio::test]
async fn a_stub_is_described_in_place() {
    on_both(async |ledger, _| {
        let report = event("s", Kind::Started(pb::Started::default()));
        apply(&*ledger, &[message(1, report)]).await.expect("recorded");
        assert!(find(&*ledger, "s").await.is_some_and(|r| r.live.life.stub));
        let spec = pb::TaskSpec { title: "told".into(), subsystem: "x".into(), ..external("s") };
        apply(&*ledger, &[message(2, created(spec))]).await.expect("recorded");
        let row = find(&*ledger, "s").await.expect("the task");
        assert_eq!(
            (row.live.life.stub, row.fixed.spec.title.as_str(), row.live.place.sequence),
            (false, "told", 1)
        );
        assert_eq!(ledger.count(None).await.expect("a count"), 1);
    })
    .await;
}

#[tokio::test]
async fn events_about_no_task_are_kept_too() {
    on_both(async |ledger, _| {
        let stray = event("nobody", Kind::Lost(pb::Lost { attempt: 3, ..pb::Lost::default() }));
        let policy = read(2, "policy.paused", b"{\"queue\": \"q\"}".to_vec());
        apply(&*ledger, &[message(1, stray), policy]).await.expect("recorded");
        let entries = ledger.history(Place { sequence: 0, index: 0 }, 10).await.expect("a history");
        let kinds: Vec<_> = entries.iter().map(|e| (e.kind.as_ref(), e.ignored.as_ref())).collect();
        assert_eq!(kinds, [("lost", "no such task"), ("paused", "")]);
        assert_eq!(find(&*ledger, "nobody").await, None);
    })
    .await;
}
