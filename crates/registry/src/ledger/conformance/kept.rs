//! A fold that is kept between batches, or lost, and ledgers that are elsewhere than it believes.

use super::*;

fn started(id: &str) -> common::event::TaskEvent {
    event(id, Kind::Started(pb::Started { attempt: 1, worker: "w1".into() }))
}

#[tokio::test]
async fn a_fold_that_is_kept_writes_only_what_changed() {
    on_both(async |ledger, _| {
        let mut kept = fold(&*ledger).await.expect("a fold");
        let spec = pb::TaskSpec { title: "kept".into(), ..shell("t") };
        let lives = [created(spec), started("t"), complete("t", 1), complete("t", 1)];
        for (sequence, event) in (1..).zip(lives) {
            apply_with(&*ledger, &mut kept, &[message(sequence, event)]).await.expect("recorded");
        }
        let row = find(&*ledger, "t").await.expect("the task");
        assert_eq!((row.fixed.spec.title.as_str(), &*row.live.worker), ("kept", "w1"));
        let history = ledger.history(row.live.place, 10).await.expect("a history");
        let ignored: Vec<_> = history.iter().map(|e| e.ignored.as_ref()).collect();
        assert_eq!(ignored, ["", "", "", "the task was over"]);
        let stats = ledger.stats().await.expect("counts");
        assert_eq!(stats.by_state, [("completed".to_owned(), 1)]);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_was_written_is_compared_and_a_failure_carries_it() {
    on_both(async |ledger, _| {
        let mut kept = fold(&*ledger).await.expect("a fold");
        let first = message(1, created(shell("t")));
        apply_with(&*ledger, &mut kept, &[first]).await.expect("recorded");
        let other = pb::TaskSpec { title: "other".into(), ..shell("t") };
        let failed = pb::Failed { attempt: 1, ..pb::Failed::default() };
        let more = [
            message(2, created(shell("t"))),
            message(3, created(other)),
            message(4, event("t", Kind::Failed(Box::new(failed)))),
        ];
        kept.load(ledger.load(&kept.missing(&more)).await.expect("rows"));
        kept.fold(more.to_vec());
        let out = kept.take();
        let ignored: Vec<_> = out.entries.iter().map(|e| e.ignored.as_ref()).collect();
        assert_eq!(ignored, ["repeat", "another body under the same id", ""]);
        let letter = out.dead.last().expect("a letter");
        assert_eq!(letter.spec.as_ref().map(|s| s.title.as_str()), Some("Untitled Task"));
    })
    .await;
}

#[tokio::test]
async fn a_fold_that_the_ledger_refused_is_dropped_and_a_new_one_goes_on() {
    on_both(async |ledger, url| {
        let other = open(url).await.expect("a second writer");
        let mut kept = fold(&*ledger).await.expect("a fold");
        let mine = [message(1, created(shell("a")))];
        kept.fold(mine.to_vec());
        let theirs = [mine[0].clone(), message(2, started("a"))];
        apply(&*other, &theirs).await.expect("recorded");
        let changes = kept.take();
        let to = Position::new(Cursor { stream: LOG, sequence: 1 }, &changes);
        let refused = ledger.record(batch(None, to, changes)).await;
        assert!(matches!(refused, Err(LedgerError::Superseded)), "{refused:?}");
        apply(&*ledger, &[message(3, complete("a", 1))]).await.expect("recorded");
        let stats = ledger.stats().await.expect("counts");
        assert_eq!(stats.by_state, [("completed".to_owned(), 1)]);
        assert_eq!(find(&*other, "a").await.map(|row| row.live.place.sequence), Some(1));
    })
    .await;
}

#[tokio::test]
async fn an_older_copy_that_is_restored_folds_to_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
    let ledger = open(&url("one.db")).await.expect("a ledger");
    let mut kept = fold(&*ledger).await.expect("a fold");
    let id = "0192f0c4-0000-7000-8000-000000000001";
    let log =
        [message(1, created(shell(id))), message(2, started(id)), message(3, complete(id, 1))];
    apply_with(&*ledger, &mut kept, &log[..1]).await.expect("recorded");
    let copy = sqlx::SqlitePool::connect(&url("one.db")).await.expect("a pool");
    let statement = format!("VACUUM INTO '{}'", folder.path().join("two.db").display());
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&copy).await.expect("a copy");
    apply_with(&*ledger, &mut kept, &log[1..]).await.expect("recorded");
    let restored = open(&url("two.db")).await.expect("the copy");
    assert_eq!(restored.position().await.expect("an answer").map(|p| p.cursor.sequence), Some(1));
    apply(&*restored, &log[1..]).await.expect("recorded");
    assert_eq!(find(&*restored, id).await, find(&*ledger, id).await);
    assert_eq!(restored.stats().await.expect("counts"), ledger.stats().await.expect("counts"),);
}
