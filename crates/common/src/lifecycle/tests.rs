//! The fold by example and by property; the whole table is in [`table`].

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{limits, task::TaskSpec};

mod table;

const SHELL: &str = r#"{"executor": {"shell": {"argv": ["true"]}}}"#;
const EXTERNAL: &str = "{}";

fn created(spec: &str) -> Kind {
    let spec = serde_json::from_str(spec).expect("JSON of a submission");
    Kind::Created(Box::new(TaskSpec::parse(spec).expect("a valid submission")))
}

/// An event of this kind about this attempt, where the kind has one.
fn event(word: &str, attempt: u32, cause: Cause) -> Kind {
    let cause = cause.to_pb() as i32;
    match word {
        "started" => Kind::Started(pb::Started { attempt, ..Default::default() }),
        "progress" => Kind::Progress(pb::Progress { attempt, ..Default::default() }),
        "snapshot" => Kind::Snapshot(pb::Snapshot { attempt, ..Default::default() }),
        "completed" => Kind::Completed(Box::new(pb::Completed { attempt, ..Default::default() })),
        "failed" => Kind::Failed(Box::new(pb::Failed { attempt, cause, ..Default::default() })),
        "retrying" => Kind::Retrying(Box::new(pb::Retrying { attempt, ..Default::default() })),
        "lost" => Kind::Lost(pb::Lost { attempt, ..Default::default() }),
        "returned" => Kind::Returned(pb::Returned { attempt, ..Default::default() }),
        "cancelled" => Kind::Cancelled(Box::new(pb::Cancelled { attempt, ..Default::default() })),
        "skipped" => Kind::Skipped(pb::Skipped::default()),
        "cancel_requested" => Kind::CancelRequested(pb::CancelRequested::default()),
        "reprioritised" => Kind::Reprioritised(pb::Reprioritised { priority: 7 }),
        "expedited" => Kind::Expedited(pb::Expedited {}),
        "carried" => Kind::Carried(Box::new(carried())),
        "resolved" => Kind::Resolved(Box::new(resolved())),
        "created" => created(SHELL),
        other => unreachable!("no event {other:?}"),
    }
}

fn carried() -> crate::event::Carried {
    let Kind::Created(spec) = created(SHELL) else { unreachable!("a creation") };
    crate::event::Carried {
        place: (7, 0),
        created_at: crate::time::Timestamp::from_micros(1),
        as_of: 9,
        state: State::created(false),
        due: crate::time::Timestamp::default(),
        priority: 5,
        alone: false,
        worker: String::new(),
        waits_on: vec![0],
        spec: Some(spec),
        ended_at: 0,
    }
}

fn resolved() -> crate::event::Resolved {
    let Kind::Created(spec) = created(SHELL) else { unreachable!("a creation") };
    crate::event::Resolved {
        spec: *spec,
        version: 1,
        created_at: crate::time::Timestamp::from_micros(1),
        unique: None,
    }
}

fn updated_to(status: &str) -> Kind {
    Kind::Updated(pb::Updated { status: status.into(), ..Default::default() })
}

/// Reads `started 1`, `failed 1 timeout`, `updated active`, `created`, `created external`.
fn read(text: &str) -> Kind {
    let words = text.split(' ').collect::<Vec<_>>();
    match words.as_slice() {
        ["created", "external"] => created(EXTERNAL),
        ["updated", status] => updated_to(status),
        [word] => event(word, 0, Cause::Error),
        [word, attempt] => event(word, attempt.parse().unwrap(), Cause::Error),
        [word, attempt, cause] => {
            let cause = Cause::ALL.into_iter().find(|c| c.as_str() == *cause).unwrap();
            event(word, attempt.parse().unwrap(), cause)
        }
        _ => unreachable!("{text:?} is no event"),
    }
}

fn fold(history: &[Kind]) -> Option<State> {
    history.iter().fold(None, |state, event| apply(state, event).ok().or(state))
}

/// The last event, after the others, leads there or is ignored for that reason.
fn check(history: &[&str], expected: Result<Phase, Ignored>) {
    let events = history.iter().map(|text| read(text)).collect::<Vec<_>>();
    let (last, before) = events.split_last().unwrap();
    assert_eq!(apply(fold(before), last).map(|s| s.phase), expected, "{history:?}");
}

#[test]
fn a_task_runs_and_ends() {
    check(&["created"], Ok(Phase::Pending));
    check(&["created", "started 1"], Ok(Phase::Running));
    check(&["created", "started 1", "completed 1"], Ok(Phase::Completed));
    check(&["created", "completed 1"], Ok(Phase::Completed));
    check(&["created", "started 1", "failed 1"], Ok(Phase::Failed(Cause::Error)));
    check(&["created", "skipped"], Ok(Phase::Skipped));
}

#[test]
fn what_its_type_resolves_is_dispatched_unless_somebody_else_began_it() {
    check(&["created external", "resolved"], Ok(Phase::Pending));
    check(&["created external", "resolved", "started 1"], Ok(Phase::Running));
    check(&["created external", "resolved", "started 0"], Err(Ignored::NotExternal));
    check(&["created external", "resolved", "resolved"], Err(Ignored::Repeat));
    check(&["created", "resolved"], Err(Ignored::Repeat));
    check(&["created external", "started 0", "resolved"], Err(Ignored::OutOfPlace));
    check(&["created external", "completed 0", "resolved"], Err(Ignored::Terminal));
    check(&["updated open", "resolved"], Err(Ignored::OutOfPlace));
    check(&["resolved"], Err(Ignored::UnknownTask));
    check(&["created external", "failed 0 rejected"], Ok(Phase::Failed(Cause::Rejected)));
    check(&["created external", "skipped"], Ok(Phase::Skipped));
}

#[test]
fn a_report_about_an_attempt_that_is_over_changes_nothing() {
    check(&["created", "started 1", "retrying 1", "completed 1"], Err(Ignored::StaleAttempt));
    check(&["created", "started 1", "lost 1", "completed 1"], Err(Ignored::StaleAttempt));
    check(&["created", "started 1", "lost 1", "retrying 1", "lost 1"], Err(Ignored::StaleAttempt));
    check(&["created", "completed 2"], Err(Ignored::StaleAttempt));
    check(&["created", "returned 1", "returned 1"], Err(Ignored::StaleAttempt));
}

#[test]
fn the_first_end_wins() {
    for second in ["completed 1", "failed 1", "cancelled 1", "cancelled 0", "skipped", "lost 1"] {
        check(&["created", "completed 1", second], Err(Ignored::Terminal));
        check(&["created", "failed 0 expired", second], Err(Ignored::Terminal));
    }
    check(&["created", "completed 1", "created"], Err(Ignored::Repeat));
}

#[test]
fn only_its_worker_ends_a_running_attempt() {
    check(&["created", "started 1", "cancelled 0"], Err(Ignored::NotExternal));
    check(&["created", "started 1", "failed 0 timeout"], Err(Ignored::NotExternal));
    check(&["created", "started 1", "skipped"], Err(Ignored::OutOfPlace));
    check(&["created", "started 1", "cancel_requested"], Ok(Phase::Running));
    check(&["created", "started 1", "cancelled 1"], Ok(Phase::Cancelled));
}

#[test]
fn the_scheduler_decides_about_what_waits_and_about_what_is_lost() {
    check(&["created", "cancelled 0"], Ok(Phase::Cancelled));
    for cause in [Cause::Dependency, Cause::Expired, Cause::Rejected, Cause::Timeout] {
        let failed = format!("failed 0 {}", cause.as_str());
        check(&["created", &failed], Ok(Phase::Failed(cause)));
        check(&["created", "lost 1", &failed], Ok(Phase::Failed(cause)));
    }
    check(&["created", "failed 0 error"], Err(Ignored::NotExternal));
    check(&["created", "lost 1"], Ok(Phase::Verdict));
    check(&["created", "lost 1", "retrying 1"], Ok(Phase::Pending));
    check(&["created", "lost 1", "failed 1 lost"], Ok(Phase::Failed(Cause::Lost)));
    check(&["created", "lost 1", "cancelled 1"], Ok(Phase::Cancelled));
    check(&["created", "lost 1", "started 2"], Err(Ignored::StaleAttempt));
}

#[test]
fn reports_alone_make_a_stub_that_a_creation_describes_and_nobody_dispatches() {
    check(&["started 0"], Ok(Phase::Running));
    check(&["started 1"], Err(Ignored::UnknownTask));
    check(&["cancel_requested"], Err(Ignored::UnknownTask));
    check(&["completed 0", "created"], Ok(Phase::Completed));
    check(&["started 0", "created external", "created external"], Err(Ignored::Repeat));
    check(&["started 0", "created", "started 1"], Err(Ignored::StaleAttempt));
    let described = fold(&[read("started 0"), read("created")]).unwrap();
    assert!(described.external && !described.stub);
}

#[test]
fn an_external_task_is_reported_without_attempts_and_a_dispatched_one_with() {
    check(&["created external", "started 0", "completed 0"], Ok(Phase::Completed));
    check(&["created external", "completed 1"], Err(Ignored::StaleAttempt));
    check(&["created external", "lost 1"], Err(Ignored::StaleAttempt));
    check(&["created external", "updated blocked"], Ok(Phase::Pending));
    check(&["created", "started 0"], Err(Ignored::NotExternal));
    check(&["created", "updated running"], Err(Ignored::NotExternal));
    check(&["created", "created external"], Err(Ignored::Repeat));
    check(&["created external", "created"], Err(Ignored::OutOfPlace));
}

#[test]
fn only_errors_and_timeouts_are_tries_and_only_losses_are_losses() {
    let counts = |history: &[&str]| {
        let events = history.iter().map(|text| read(text)).collect::<Vec<_>>();
        let state = fold(&events).unwrap();
        (state.ended, state.tries, state.losses)
    };
    assert_eq!(counts(&["created", "returned 1", "returned 2"]), (2, 0, 0));
    assert_eq!(counts(&["created", "retrying 1", "lost 2", "retrying 2"]), (2, 1, 1));
    assert_eq!(counts(&["created", "retrying 1", "failed 2 timeout"]), (2, 2, 0));
    assert_eq!(counts(&["created", "failed 0 dependency"]), (0, 0, 0));
}

#[test]
fn a_loss_is_retried_until_the_budget_is_spent() {
    let retry = TaskSpec::parse(pb::TaskSpec::default()).unwrap().retry();
    for losses in 1..=limits::LOSSES_MAX {
        assert!(matches!(after_loss(&retry, losses, 0.5), After::Retry(_)), "{losses}");
    }
    assert_eq!(after_loss(&retry, limits::LOSSES_MAX + 1, 0.5), After::Fail(Cause::Lost));
}

#[test]
fn an_error_that_must_not_be_retried_ends_the_task_at_the_first_try() {
    let mut retry = TaskSpec::parse(pb::TaskSpec::default()).unwrap().retry();
    retry.non_retryable = vec!["exit_2".into()];
    let error = |code, retryable| {
        after(&retry, 0, AttemptEnd::Error { code, retryable, retry_after: None }, 0.5)
    };
    assert_eq!(error("exit_2", true), After::Fail(Cause::Rejected));
    assert_eq!(error("exit_1", false), After::Fail(Cause::Rejected));
    assert!(matches!(error("exit_1", true), After::Retry(_)));
    assert_eq!(after(&retry, 0, AttemptEnd::Success, 0.5), After::Complete);
    assert_eq!(after(&retry, 0, AttemptEnd::Cancelled, 0.5), After::Cancel);
    assert_eq!(after(&retry, 2, AttemptEnd::Timeout, 0.5), After::Fail(Cause::Timeout));
}

#[test]
fn who_asks_to_be_left_alone_is_but_not_for_ever() {
    let mut retry = TaskSpec::parse(pb::TaskSpec::default()).unwrap().retry();
    (retry.backoff, retry.backoff_max) = (Duration::from_secs(2), Duration::from_secs(4));
    retry.jitter = 0.0;
    let wait = |seconds: u64| {
        let retry_after = Some(Duration::from_secs(seconds));
        let end = AttemptEnd::Error { code: "http_429", retryable: true, retry_after };
        after(&retry, 0, end, 0.5)
    };
    assert_eq!(wait(1), After::Retry(Duration::from_secs(2)), "the policy's wait is longer");
    assert_eq!(wait(60), After::Retry(Duration::from_secs(60)), "also above backoff_max");
    assert_eq!(wait(u64::MAX), After::Retry(limits::RETRY_AFTER_MAX));
}

fn any_event() -> impl Strategy<Value = Kind> {
    let words = crate::subject::EVENTS.into_iter().filter(|w| *w != "updated").collect::<Vec<_>>();
    prop_oneof![
        20 => (prop::sample::select(words), 0_u32..6, prop::sample::select(Cause::ALL.to_vec()))
            .prop_map(|(word, attempt, cause)| event(word, attempt, cause)),
        2 => prop::sample::select(table::STATUS_WORDS.to_vec()).prop_map(updated_to),
        1 => Just(created(EXTERNAL)),
    ]
}

fn any_retry() -> impl Strategy<Value = crate::task::RetryPolicy> {
    let millis = || (0_u64..10_000_000).prop_map(Duration::from_millis);
    (1_u32..50, millis(), 1.0..10.0_f64, millis(), 0.0..1.0_f64).prop_map(
        |(max_attempts, backoff, factor, backoff_max, jitter)| crate::task::RetryPolicy {
            max_attempts,
            backoff,
            factor,
            backoff_max,
            jitter,
            non_retryable: Vec::new(),
        },
    )
}

proptest! {
    #[test]
    fn nothing_that_is_over_begins_again_and_no_count_goes_down(
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut state: Option<State> = None;
        for event in &events {
            let Ok(next) = apply(state, event) else { continue };
            if let Some(before) = state {
                prop_assert!(!before.phase.is_terminal() || before.phase == next.phase);
                prop_assert!(before.ended <= next.ended, "attempts went down");
                prop_assert!(before.tries <= next.tries && before.losses <= next.losses);
                let resolved = matches!(event, Kind::Resolved(_));
                prop_assert!(before.external == next.external || resolved && !next.external);
                prop_assert!(before.stub || !next.stub);
            }
            prop_assert!(u32::from(next.tries) + u32::from(next.losses) <= next.ended);
            state = Some(next);
        }
    }

    #[test]
    fn a_repeat_changes_nothing(events in prop::collection::vec(any_event(), 1..60)) {
        let mut state: Option<State> = None;
        for event in &events {
            let Ok(once) = apply(state, event) else { continue };
            prop_assert_eq!(apply(Some(once), event).unwrap_or(once), once);
            state = Some(once);
        }
    }

    #[test]
    fn a_task_that_always_fails_is_tried_as_often_as_its_policy_says(
        retry in any_retry(),
        random in 0.0..1.0_f64,
        timeout: bool,
    ) {
        let error = AttemptEnd::Error { code: "broken", retryable: true, retry_after: None };
        let end = if timeout { AttemptEnd::Timeout } else { error };
        let cause = if timeout { Cause::Timeout } else { Cause::Error };
        let mut tries = 0;
        loop {
            match after(&retry, tries, end, random) {
                After::Retry(delay) => {
                    prop_assert!(delay <= retry.backoff_max);
                    prop_assert!(!retry.backoff.is_zero() || delay.is_zero());
                    tries += 1;
                }
                After::Fail(reason) => {
                    prop_assert_eq!(reason, cause);
                    prop_assert_eq!(tries + 1, retry.max_attempts);
                    break;
                }
                other @ (After::Complete | After::Cancel) => prop_assert!(false, "{other:?}"),
            }
        }
    }

    #[test]
    fn without_jitter_no_wait_is_shorter_than_the_one_before(retry in any_retry(), tries in 0_u32..1_000) {
        let retry = crate::task::RetryPolicy { jitter: 0.0, max_attempts: u32::MAX, ..retry };
        let wait = |tries| match after(&retry, tries, AttemptEnd::Timeout, 0.5) {
            After::Retry(delay) => delay,
            other @ (After::Complete | After::Fail(_) | After::Cancel) => unreachable!("{other:?}"),
        };
        prop_assert!(wait(tries) <= wait(tries + 1));
    }
}
