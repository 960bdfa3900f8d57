//! What the ledger knows of an attempt while it runs, whatever comes twice, late or out of order.

use super::*;

/// The task after these events, as the API shows it.
fn shown(events: &[TaskEvent]) -> pb::Task {
    let events = [&[created(shell("t"))], events].concat();
    view::task(only(events))
}

fn snapshot(attempt: u32, cpu_seconds: f64) -> TaskEvent {
    let usage =
        pb::ResourceUsage { cpu_seconds: Some(cpu_seconds), ..pb::ResourceUsage::default() };
    event("t", Kind::Snapshot(pb::Snapshot { attempt, resource_usage: Some(usage) }))
}

fn progress(attempt: u32, fraction: f64, counters: &str) -> TaskEvent {
    let (fraction, counters) = (Some(fraction), json(counters));
    event(
        "t",
        Kind::Progress(pb::Progress { attempt, fraction, counters, ..pb::Progress::default() }),
    )
}

fn retrying(attempt: u32) -> TaskEvent {
    event("t", Kind::Retrying(Box::new(pb::Retrying { attempt, ..pb::Retrying::default() })))
}

fn cpu(task: &pb::Task) -> Option<f64> {
    task.resource_usage?.cpu_seconds
}

#[test]
fn a_running_task_has_what_it_used_so_far_however_the_snapshots_come() {
    let begun = || vec![started("t", 1), snapshot(1, 2.0)];
    let with = |more: &[TaskEvent]| shown(&[begun(), more.to_vec()].concat());
    assert_eq!(cpu(&with(&[])), Some(2.0));
    assert_eq!(
        cpu(&with(&[snapshot(1, 2.0), snapshot(1, 1.0)])),
        Some(2.0),
        "again, and an older one"
    );
    assert_eq!(cpu(&with(&[snapshot(1, 3.0)])), Some(3.0));
    assert_eq!(cpu(&with(&[snapshot(2, 9.0)])), Some(2.0), "of an attempt that is not due");
    let unknown =
        with(&[event("t", Kind::Snapshot(pb::Snapshot { attempt: 1, resource_usage: None }))]);
    assert_eq!(cpu(&unknown), Some(2.0));
    assert_eq!(unknown.resource_usage.and_then(|u| u.disk_read_mb), None, "nobody measured it");

    let usage = pb::ResourceUsage { cpu_seconds: Some(2.5), ..pb::ResourceUsage::default() };
    let end = |usage| {
        completed(
            "t",
            pb::Completed { attempt: 1, resource_usage: usage, ..pb::Completed::default() },
        )
    };
    assert_eq!(cpu(&with(&[end(Some(usage)), snapshot(1, 9.0)])), Some(2.5), "after the end");
    assert_eq!(cpu(&with(&[end(None)])), Some(2.0), "an end that does not know it");
}

#[test]
fn what_an_attempt_used_is_not_said_of_the_next_one() {
    let first = [started("t", 1), snapshot(1, 2.0), progress(1, 0.5, r#"{"rows":5}"#)];
    let with = |more: &[TaskEvent]| shown(&[&first, more].concat());
    assert_eq!(with(&[]).progress_counters, json(r#"{"rows":5}"#));
    let waits = with(&[retrying(1)]);
    assert_eq!((cpu(&waits), waits.progress, waits.progress_counters), (Some(2.0), None, None));
    let late = with(&[retrying(1), progress(1, 0.6, r#"{"rows":6}"#), snapshot(1, 9.0)]);
    assert_eq!((cpu(&late), late.progress), (Some(2.0), None), "of an attempt that is over");
    let second = with(&[retrying(1), started("t", 2)]);
    assert_eq!((cpu(&second), second.resource_usage), (None, None));
    let second = with(&[retrying(1), started("t", 2), progress(2, 0.1, r#"{"rows":1}"#)]);
    assert_eq!((second.progress, second.progress_counters), (Some(0.1), json(r#"{"rows":1}"#)));
    let short = pb::Completed { attempt: 2, ..pb::Completed::default() };
    assert_eq!(with(&[retrying(1), completed("t", short)]).resource_usage, None);
    let lost = |attempt| event("t", Kind::Lost(pb::Lost { attempt, ..pb::Lost::default() }));
    let dead = with(&[lost(1), failed("t", 1, pb::Cause::Lost)]);
    assert_eq!(cpu(&dead), Some(2.0), "what a lost attempt was last seen to have used");
}
