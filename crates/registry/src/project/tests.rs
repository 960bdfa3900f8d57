use std::time::Duration;

use common::{
    lifecycle::{Cause, Phase},
    limits, pb,
};
use proptest::prelude::*;

use super::*;
use crate::{fixtures::*, row::Verification, view};

mod so_far;

/// Folds events, one a message and a second apart, and returns the rows and everything else.
fn fold(events: Vec<TaskEvent>) -> Folded {
    let messages: Vec<_> = (1..).zip(events).map(|(n, e)| message(n, e)).collect();
    project(Vec::new(), Timestamp::default(), &messages)
}

fn only(events: Vec<TaskEvent>) -> Row {
    let mut rows = fold(events).rows;
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

fn secs(n: u64) -> Timestamp {
    Timestamp::from_unix(1_800_000_000 + n as i64, 0)
}

fn started(id: &str, attempt: u32) -> TaskEvent {
    event(id, Kind::Started(pb::Started { attempt, worker: "w1".into() }))
}

fn completed(id: &str, body: pb::Completed) -> TaskEvent {
    event(id, Kind::Completed(Box::new(body)))
}

fn failed(id: &str, attempt: u32, cause: pb::Cause) -> TaskEvent {
    let error = Some(pb::TaskError { code: "exit_2".into(), message: "no".into() });
    event(
        id,
        Kind::Failed(Box::new(pb::Failed {
            attempt,
            cause: cause.into(),
            error,
            ..pb::Failed::default()
        })),
    )
}

#[test]
fn a_reported_task_is_timed_by_the_log() {
    let body = pb::Completed {
        verification_passed: Some(true),
        duration: Some(Duration::from_secs(99).into()),
        result_metadata: json(r#"{"a":1}"#),
        ..pb::Completed::default()
    };
    let mut end = completed("t", body);
    end.metadata = r#"{"extra":true}"#.into();
    let spec = pb::TaskSpec { sla_hours: Some(1.0), metadata: json(r#"{"k":0}"#), ..external("t") };
    let row = only(vec![created(spec), started("t", 0), end]);
    assert_eq!(row.live.life.phase, Phase::Completed);
    assert_eq!(
        (row.live.created_at, row.live.started_at, row.live.finished_at),
        (secs(1), Some(secs(2)), Some(secs(3)))
    );
    assert_eq!(row.fixed.deadline, Some(secs(3601)));
    assert_eq!(row.live.duration, Some(Duration::from_secs(1)), "both ends from the log's clock");
    assert_eq!(row.live.verification, Verification::Passed);
    let task = view::task(row);
    assert_eq!(task.result_metadata, json(r#"{"a":1,"extra":true}"#));
    assert_eq!(task.metadata, json(r#"{"k":0}"#));
    assert_eq!(task.executor, "external");
    assert_eq!(task.subsystem, "unknown");
}

#[test]
fn the_duration_of_dispatched_work_is_its_workers() {
    let told = Duration::from_millis(250);
    let body =
        pb::Completed { attempt: 1, duration: Some(told.into()), ..pb::Completed::default() };
    let row = only(vec![created(shell("t")), completed("t", body)]);
    assert_eq!(row.live.duration, Some(told));
    assert_eq!(row.live.started_at, Some(Timestamp::from_micros(secs(2).micros() - 250_000)));
    assert_eq!(row.live.verification, Verification::Skipped);
}

#[test]
fn an_attempt_that_is_tried_again_leaves_its_error_but_no_start() {
    let error = Some(pb::TaskError { code: "exit_1".into(), message: "again".into() });
    let retrying = pb::Retrying { attempt: 1, error: error.clone(), ..pb::Retrying::default() };
    let progress = pb::Progress { attempt: 1, fraction: Some(0.5), ..pb::Progress::default() };
    let mut events = vec![
        created(shell("t")),
        started("t", 1),
        event("t", Kind::Progress(progress)),
        event("t", Kind::Retrying(Box::new(retrying))),
    ];
    let row = only(events.clone());
    assert_eq!(
        (row.live.life.phase, row.live.life.ended, row.live.life.tries),
        (Phase::Pending, 1, 1)
    );
    assert_eq!(
        (row.live.started_at, report(&row).error.clone(), report(&row).progress),
        (None, error, None)
    );
    events.push(completed("t", pb::Completed { attempt: 2, ..pb::Completed::default() }));
    let row = only(events);
    assert_eq!((row.live.life.phase, report(&row).error), (Phase::Completed, None));
}

#[test]
fn only_dispatched_work_that_failed_by_itself_is_dead() {
    let check = |spec: pb::TaskSpec, attempt: u32, cause: pb::Cause, letters: usize| {
        let dead = fold(vec![created(spec), failed("t", attempt, cause)]).dead;
        assert_eq!(dead.len(), letters, "{cause:?}");
        dead
    };
    let dead = check(shell("t"), 1, pb::Cause::Error, 1);
    assert_eq!((dead[0].kind.as_str(), dead[0].sequence, dead[0].index), (TASK, 2, 0));
    assert_eq!((dead[0].error.as_str(), dead[0].cause()), ("exit_2: no", pb::Cause::Error));
    assert_eq!(dead[0].spec.as_ref().map(|s| s.task_id.as_str()), Some("t"));
    check(shell("t"), 1, pb::Cause::Timeout, 1);
    check(shell("t"), 1, pb::Cause::Rejected, 1);
    check(shell("t"), 0, pb::Cause::Dependency, 0);
    check(shell("t"), 0, pb::Cause::Expired, 0);
    check(external("t"), 0, pb::Cause::Error, 0);
    let lost = event(
        "t",
        Kind::Lost(pb::Lost { attempt: 1, reason: "gone".into(), ..pb::Lost::default() }),
    );
    let end = fold(vec![created(shell("t")), lost, failed("t", 1, pb::Cause::Lost)]);
    assert_eq!((end.dead.len(), end.rows[0].live.life.losses), (1, 1));
}

#[test]
fn a_second_body_under_one_id_is_a_conflict_and_the_same_a_repeat() {
    let other = pb::TaskSpec { title: "other".into(), ..shell("t") };
    let out = fold(vec![created(shell("t")), created(shell("t")), created(other)]);
    let ignored: Vec<_> = out.entries.iter().map(|e| e.ignored.as_ref()).collect();
    assert_eq!(ignored, ["", "repeat", "another body under the same id"]);
    assert_eq!(out.dead.len(), 1);
    assert_eq!((out.dead[0].kind.as_str(), out.dead[0].sequence), (UNDECODABLE, 3));
    assert!(out.dead[0].error.starts_with("conflict:"));
    assert_eq!(out.rows[0].fixed.spec.title, "Untitled Task");
}

#[test]
fn a_stub_is_described_by_a_later_creation_and_stays_external() {
    let spec = pb::TaskSpec { title: "told late".into(), priority: Some(9), ..shell("t") };
    let mut row = only(vec![started("t", 0)]);
    assert!(row.live.life.stub);
    assert_eq!(
        (row.fixed.spec.task_type.as_str(), row.fixed.executor.as_ref()),
        ("unknown", "external")
    );
    let out = project(vec![row.clone()], secs(1), &[message(2, created(spec))]);
    row = out.rows[0].clone();
    assert_eq!((row.live.place.sequence, row.live.created_at, row.live.priority), (1, secs(1), 9));
    assert_eq!(
        (row.fixed.executor.as_ref(), row.live.life.stub, row.live.life.phase),
        ("external", false, Phase::Running)
    );
    assert_eq!((out.dead.len(), row.fixed.spec.title.as_str()), (0, "told late"));
}

#[test]
fn a_stub_that_is_described_after_its_end_keeps_its_end() {
    let end = completed("t", pb::Completed::default());
    let late = pb::TaskSpec { title: "told late".into(), ..external("t") };
    let row = only(vec![started("t", 0), end, created(late)]);
    assert_eq!(
        (row.live.finished_at, row.live.duration),
        (Some(secs(2)), Some(Duration::from_secs(1)))
    );
    assert_eq!(
        (row.fixed.spec.title.as_str(), row.live.life.phase),
        ("told late", Phase::Completed)
    );
}

#[test]
fn what_cannot_be_read_is_dead_and_spoils_nothing() {
    let good = wire::encode(&Event::Task(created(shell("good"))));
    let newer =
        prost::Message::encode_to_vec(&pb::Event { actor: "x".into(), ..pb::Event::default() });
    let bundle = wire::bundle(vec![b"\xff\xff".to_vec(), good, newer]);
    let out =
        project(Vec::new(), Timestamp::default(), &[read(5, common::subject::BUNDLE, bundle)]);
    assert_eq!(out.rows.len(), 1);
    assert_eq!((out.rows[0].live.place.sequence, out.rows[0].live.place.index), (5, 1));
    assert_eq!(out.dead.len(), 1, "an informational kind of a newer version is skipped");
    assert_eq!((out.dead[0].index, out.dead[0].original.as_slice()), (0, &b"\xff\xff"[..]));

    let out =
        project(Vec::new(), Timestamp::default(), &[read(6, "task.created", b"{broken".to_vec())]);
    assert_eq!(
        (out.dead[0].subject.as_str(), out.dead[0].original.as_slice()),
        ("task.created", &b"{broken"[..])
    );
    assert!(out.rows.is_empty() && out.entries.is_empty());
}

#[test]
fn dead_letters_of_one_message_and_their_sizes_are_bounded() {
    let bundle = wire::bundle(vec![b"\xff".to_vec(); 1_000]);
    let out =
        project(Vec::new(), Timestamp::default(), &[read(5, common::subject::BUNDLE, bundle)]);
    assert_eq!(out.dead.len(), limits::DEAD_ITEMS_MAX + 1);
    assert_eq!(
        out.dead.last().map(|d| d.error.as_str()),
        Some("744 more items of this message cannot be read")
    );
    let huge = vec![b'{'; limits::DEAD_ORIGINAL_BYTES_MAX + 1];
    let out = project(Vec::new(), Timestamp::default(), &[read(6, "task.created", huge)]);
    assert_eq!(out.dead[0].original.len(), limits::DEAD_ORIGINAL_BYTES_MAX);
}

#[test]
fn the_clock_never_goes_back() {
    let mut early = message(2, started("t", 0));
    early.at = secs(0);
    let out =
        project(Vec::new(), Timestamp::default(), &[message(1, created(external("t"))), early]);
    assert_eq!((out.clock, out.rows[0].live.started_at), (secs(1), Some(secs(1))));
}

#[test]
fn messages_before_a_newer_fold_are_still_applied() {
    let newer = pb::Event { fold: 999, task_id: "t".into(), ..pb::Event::default() };
    let newer = read(2, "task.started", prost::Message::encode_to_vec(&newer));
    let messages = [message(1, created(shell("t"))), newer];
    let (prefix, version) = known(&messages);
    assert_eq!((prefix, version), (1, Some(999)));
}

#[test]
fn metadata_is_merged_while_it_is_an_object_and_fits() {
    let check = |before: Option<&str>, more: &str, after: Option<&str>| {
        let mut json = before.and_then(json);
        change::merge(&mut json, more);
        assert_eq!(json, after.and_then(crate::fixtures::json), "{more}");
    };
    check(None, "", None);
    check(None, "{\"a\":1}", Some("{\"a\":1}"));
    check(Some("{\"a\":1}"), "{\"a\":2,\"b\":\"\\u0000\"}", Some("{\"a\":2,\"b\":\"\\u0000\"}"));
    check(Some("{\"a\":1}"), "[1]", Some("{\"a\":1}"));
    check(Some("{\"a\":1}"), "{broken", Some("{\"a\":1}"));
    let large = format!("{{\"b\":\"{}\"}}", "x".repeat(limits::METADATA_BYTES_MAX));
    check(Some("{\"a\":1}"), &large, Some("{\"a\":1}"));
}

#[test]
fn older_words_of_reporters_end_a_task_too() {
    let updated = |status: &str| {
        event(
            "t",
            Kind::Updated(pb::Updated { status: status.into(), metadata: json("{\"s\":1}") }),
        )
    };
    let row = only(vec![updated("in_progress"), updated("escalated")]);
    assert_eq!(row.live.life.phase, Phase::Failed(Cause::Error));
    assert_eq!((row.live.started_at, row.live.finished_at), (Some(secs(1)), Some(secs(2))));
    assert_eq!(report(&row).metadata, json("{\"s\":1}"));
}

fn any_event() -> impl Strategy<Value = TaskEvent> {
    (0..3_usize, 0..9_u8, 0..3_u32).prop_map(|(task, kind, attempt)| {
        let id =
            ["a", "0192f0c4-0000-7000-8000-000000000001", "0192f0c4-0000-7000-8000-000000000002"]
                [task];
        match kind {
            0 => created(shell(id)),
            1 => created(external(id)),
            2 => created(pb::TaskSpec { title: "other".into(), ..shell(id) }),
            3 => started(id, attempt),
            4 => completed(id, pb::Completed { attempt, ..pb::Completed::default() }),
            5 => failed(id, attempt, pb::Cause::Error),
            6 => event(id, Kind::Lost(pb::Lost { attempt, ..pb::Lost::default() })),
            7 => event(
                id,
                Kind::Retrying(Box::new(pb::Retrying { attempt, ..pb::Retrying::default() })),
            ),
            _ => event(
                id,
                Kind::Cancelled(Box::new(pb::Cancelled { attempt, ..pb::Cancelled::default() })),
            ),
        }
    })
}

/// What a ledger would have.
#[derive(Default)]
struct Sim {
    rows: HashMap<TaskKey, Row>,
    counts: Counts,
    clock: Timestamp,
}

impl Sim {
    fn fold(&self) -> Fold {
        let ids = self.rows.values().map(|row| row.fixed.id.as_str());
        Fold::new(self.clock, ids.filter(|id| *id < "1").max(), false)
    }

    fn find(&self, tasks: &[(Tenant, TaskId)]) -> Vec<Row> {
        let keys = tasks.iter().map(|(tenant, id)| TaskKey::new(tenant, id));
        keys.filter_map(|key| self.rows.get(&key).cloned()).collect()
    }

    fn record(&mut self, changes: Changes) -> (Vec<Entry>, Vec<DeadLetter>) {
        self.clock = changes.clock;
        for (subsystem, states) in changes.counts {
            for (state, by) in states {
                count(&mut self.counts, &subsystem, state, by);
            }
        }
        for change in changes.tasks {
            let old = self.rows.values().find(|row| row.live.place == change.live.place);
            assert_eq!(
                old.is_none(),
                change.is_new,
                "an update of what is not there, or the reverse"
            );
            let row = row_of(change, old.map(|row| row.fixed.clone()));
            self.rows.insert(row.key(), row);
        }
        (changes.entries, changes.dead)
    }
}

proptest! {
    /// However the log is cut into batches, whenever the changes are taken, and however often the
    /// fold is lost, rows, counts, history and dead letters are the same.
    #[test]
    fn batches_and_lost_folds_do_not_change_the_outcome(
        events in prop::collection::vec((any_event(), 0..4_u8), 1..30),
        size in 1..8_usize,
    ) {
        let (events, fates): (Vec<_>, Vec<_>) = events.into_iter().unzip();
        let messages: Vec<_> = (1..).zip(events).map(|(n, e)| message(n, e)).collect();
        let whole = project(Vec::new(), Timestamp::default(), &messages);
        let mut sim = Sim::default();
        let mut fold = sim.fold();
        let (mut entries, mut dead) = (Vec::new(), Vec::new());
        for (batch, fate) in messages.chunks(size).zip(fates) {
            let missing = fold.missing(batch);
            fold.load(sim.find(&missing));
            fold.fold(batch.to_vec());
            if fate > 0 {
                let (lines, letters) = sim.record(fold.take());
                entries.extend(lines);
                dead.extend(letters);
            }
            if fate > 1 {
                fold = sim.fold();
            }
        }
        let (lines, letters) = sim.record(fold.take());
        entries.extend(lines);
        dead.extend(letters);
        let mut counts = Counts::new();
        for row in &whole.rows {
            count(&mut counts, &row.live.subsystem, word(&row.live), 1);
        }
        sim.counts.retain(|_, states| {
            states.retain(|_, by| *by != 0);
            !states.is_empty()
        });
        let mut rows: Vec<_> = sim.rows.into_values().collect();
        rows.sort_by_key(|row| row.live.place);
        prop_assert_eq!(sim.counts, counts);
        prop_assert_eq!((rows, entries, dead), (whole.rows.clone(), whole.entries, whole.dead));
        for row in whole.rows {
            prop_assert_eq!(row.live.life.phase.is_terminal(), row.live.finished_at.is_some());
        }
    }
}

#[test]
fn what_is_provably_new_or_open_is_not_asked_for() {
    let (old, new) =
        ("0192f0c4-0000-7000-8000-000000000001", "0192f0c4-0000-7000-8000-000000000002");
    let mut fold = Fold::new(Timestamp::default(), Some(old), false);
    let end = completed(new, pb::Completed { attempt: 1, ..pb::Completed::default() });
    let birth = [message(1, created(shell(new))), message(2, started(new, 1))];
    assert!(fold.missing(&birth).is_empty(), "newer than what the ledger has");
    assert_eq!(fold.missing(&[message(1, created(shell(old)))]).len(), 1);
    assert_eq!(fold.missing(&[message(1, created(shell("x")))]).len(), 1);
    assert_eq!(fold.missing(&[message(1, end.clone())]).len(), 1, "a report says nothing of age");
    fold.fold(birth.to_vec());
    assert!(fold.missing(&[message(3, created(shell(new)))]).is_empty(), "its body is still here");
    assert!(fold.take().tasks[0].is_new);
    assert_eq!(fold.missing(&[message(3, created(shell(new)))]).len(), 1, "its body is written");
    assert!(fold.missing(&[message(3, end.clone())]).is_empty());
    fold.fold(vec![message(3, end)]);
    let ended = fold.take();
    assert!(!ended.tasks[0].is_new && ended.tasks[0].fixed.is_none());
    assert_eq!(fold.missing(&[message(4, created(shell(new)))]).len(), 1, "forgotten, not unknown");
}
