use super::*;
use crate::load;

const FIRST: &str = "run-0";

fn at(millis: i64) -> Timestamp {
    Timestamp::from_micros(millis * 1_000)
}

fn entry(sequence: u64, kind: &'static str, attempt: u32) -> Entry {
    let at = at(sequence as i64 * 1_000);
    Entry { place: (sequence, 0), at, kind, attempt, ignored: "", note: String::new() }
}

/// A load of one task that completed, and all evidence for it.
fn right() -> (Vec<Item>, Evidence) {
    let mix = load::Mix { seed: 1, tasks: 200, run: "run".into(), shell_journal: None };
    let items = load::draw(mix);
    let single =
        items.into_iter().find(|i| i.own == Own::Completes(0) && i.spec.depends_on.is_empty());
    let mut item = single.expect("one");
    (item.door, item.spec.task_id, item.spec.delay) = (Door::Keyed, FIRST.into(), None);
    let state = State { phase: Phase::Completed, ended: 1, ..State::created(false) };
    let entries = vec![entry(1, "created", 0), entry(2, "completed", 1)];
    let life = Life { spec: item.spec.clone(), item: Some(0), entries, state: Some(state) };
    let row =
        pb::Task { state: pb::TaskState::Completed.into(), attempts: 1, ..pb::Task::default() };
    let evidence = Evidence {
        lives: BTreeMap::from([(FIRST.into(), life)]),
        rows: HashMap::from([(FIRST.into(), row)]),
        accepted: HashMap::from([(0, vec![FIRST.into()])]),
        ..Evidence::default()
    };
    (vec![item], evidence)
}

#[track_caller]
fn finds(what: &str, change: impl FnOnce(&mut Evidence)) {
    let (items, mut evidence) = right();
    change(&mut evidence);
    let problems = judge(&items, &evidence);
    assert!(problems.iter().any(|p| p.what.contains(what)), "{what}: {problems:?}");
}

fn life(evidence: &mut Evidence) -> &mut Life {
    evidence.lives.get_mut(FIRST).expect("the task")
}

#[test]
fn what_is_right_is_no_problem() {
    let (items, evidence) = right();
    assert_eq!(judge(&items, &evidence), []);
}

#[test]
fn each_lie_is_found() {
    finds("the log does not have it", |e| e.lives.clear());
    finds("nobody submitted it", |e| life(e).item = None);
    finds("neither accepted", |e| e.accepted.clear());
    finds("2 ends", |e| life(e).entries.push(entry(3, "failed", 1)));
    finds("0 ends", |e| life(e).entries.truncate(1));
    finds("may have ended", |e| {
        let failed = Phase::Failed(Cause::Lost);
        life(e).state = life(e).state.map(|s| State { phase: failed, ..s });
    });
    finds("errors count", |e| {
        life(e).state = life(e).state.map(|s| State { tries: 1, ..s });
    });
    finds("the ledger does not have it", |e| e.rows.clear());
    finds("the log says", |e| {
        e.rows.values_mut().for_each(|row| row.attempts = 2);
    });
    finds("DEAD has 1", |e| {
        e.letters.insert(FIRST.into(), 1);
    });
    finds("in the work queue", |e| e.left_over.push("x".into()));
    finds("it ran before", |e| {
        life(e).spec.depends_on =
            vec![pb::Dependency { task_id: "other".into(), on: On::End.into() }];
    });
    finds("before its delay", |e| life(e).spec.delay = Some(Duration::from_secs(9).into()));
}

#[test]
fn what_still_runs_is_found_unless_the_cluster_was_disturbed() {
    let listed = |at| Listed { at, worker: "w".into(), task: FIRST.into(), attempt: 1 };
    finds("still ran", |e| e.listed.push(listed(at(5_000))));
    let (items, mut evidence) = right();
    evidence.listed.extend([listed(at(4_000)), listed(at(9_000))]);
    evidence.windows.push((at(1_000), at(8_000)));
    assert_eq!(judge(&items, &evidence), []);
}
