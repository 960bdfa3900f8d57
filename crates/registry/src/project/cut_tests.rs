//! The ledger forgets what the scheduler forgets, and one that begins at a floor knows of open
//! tasks what one knows that has read everything.

mod books;

use common::pb;
use proptest::prelude::*;
use scheduler::plan::{Found, Planner};

use super::*;
use crate::fixtures::*;
use books::{Books, World};

fn completed(id: &str, attempt: u32) -> TaskEvent {
    let body = pb::Completed { attempt, result: json("7"), ..pb::Completed::default() };
    event(id, Kind::Completed(Box::new(body)))
}

#[test]
fn an_id_is_new_once_the_log_is_cut_behind_its_end_and_not_before() {
    for size in [1, 2, 20] {
        let mut world = World::default();
        world.says(created(shell("t")));
        world.says(completed("t", 1));
        world.says(created(pb::TaskSpec { title: "too early".into(), ..shell("t") }));
        world.says(created(shell("u")));
        let late = world.says(completed("u", 1));
        assert!(world.cut(4));
        let new = world.says(created(pb::TaskSpec { title: "new".into(), ..shell("t") }));
        let repeat = world.says(created(shell("u")));
        world.says(completed("t", 1));
        assert!(world.cut(4), "a second cut at the same floor forgets nothing more");
        let still = world.says(created(shell("t")));
        world.agrees();
        let mut books = Books::default();
        books.read(&world.log, size, || 0);
        assert_eq!(books.line(3), "another body under the same id", "before the cut");
        assert_eq!((books.line(new), books.line(repeat)), ("", "repeat"), "after it");
        assert_eq!(books.line(still), "another body under the same id", "the new one has ended");
        let t: Vec<_> = books.rows.values().filter(|r| r.fixed.id.as_str() == "t").collect();
        let places: Vec<_> = t.iter().map(|r| (r.live.place.sequence, r.live.ended_at)).collect();
        assert_eq!(places, [(1, Some(2)), (new, Some(new + 2))], "both generations are kept");
        assert_eq!(t[0].fixed.spec.title, "Untitled Task", "the old one is as it was");
        assert_eq!(books.rows.len(), 3);
        assert_eq!(
            books
                .find(TaskKey::new(&Tenant::default(), &TaskId::parse("u").unwrap()))
                .and_then(|row| row.live.ended_at),
            Some(late)
        );
    }
}

#[test]
fn a_cold_ledger_has_the_spec_the_place_and_the_result_that_the_log_still_has() {
    let mut world = World::default();
    world.says(created(pb::TaskSpec { title: "open".into(), ..shell("open") }));
    world.says(event("stub", Kind::Started(pb::Started::default())));
    world.says(created(shell("over")));
    world.says(created(shell("poor")));
    let again = world.says(created(pb::TaskSpec { title: "other".into(), ..shell("open") }));
    let end = world.says(completed("over", 1));
    let failed = pb::Failed { attempt: 1, ..pb::Failed::default() };
    world.says(event("poor", Kind::Failed(Box::new(failed))));
    assert!(world.cut(again));
    let repeat = world.says(created(shell("over")));
    world.agrees();
    let mut cold = Books::cold(&world.log).expect("a cut");
    cold.read(&world.log, 100, || 0);
    assert_eq!(cold.knows(), world.warm.knows());
    let of = |id: &str| cold.rows.values().find(|r| r.fixed.id.as_str() == id).expect(id);
    assert_eq!(of("open").fixed.spec.title, "open");
    assert_eq!(cold.line(again), "another body under the same id");
    assert!(of("stub").live.life.stub);
    assert_eq!(report(of("over")).result, json("7"), "its end lies behind the floor");
    assert_eq!((cold.line(end), cold.line(repeat)), ("before what was carried", "repeat"));
    assert_eq!(of("over").fixed.executor, UNKNOWN_EXECUTOR);
    let letters: Vec<_> = cold.dead.iter().map(|l| (l.task_id.as_str(), l.kind.as_str())).collect();
    assert_eq!(letters, [("open", UNDECODABLE), ("poor", TASK)], "nothing dead goes unsaid");
}

#[test]
fn what_was_carried_before_the_task_ended_brings_nothing_back() {
    let mut world = World::default();
    world.says(created(shell("t")));
    world.warm();
    let pass = world.planner.to_carry(2);
    let [ticket] = pass.open.as_slice() else { panic!("{pass:?}") };
    let spec = TaskSpec::parse(shell("t")).expect("valid");
    let body = world.planner.carry(*ticket, Some(&spec), Timestamp::default(), 1).expect("a task");
    world.says(completed("t", 1));
    // It comes late, above the floor, and knows nothing of the end, which lies below.
    world.says(event("t", Kind::Carried(Box::new(body))));
    assert!(world.cut(3));
    world.agrees();
    let mut cold = Books::cold(&world.log).expect("a cut");
    assert_eq!(cold.cursor, 2);
    cold.read(&world.log, 3, || 0);
    assert!(cold.rows.is_empty(), "{:?}", cold.rows);
    assert_eq!(cold.line(3), "no such task");
}

fn event_of((what, which, other): (u8, u8, u8), planner: &Planner) -> TaskEvent {
    let id = [
        "a",
        "b",
        "0192f0c4-0000-7000-8000-000000000001",
        "0192f0c4-0000-7000-8000-000000000002",
        "0192f0c4-0000-7000-8000-000000000003",
    ][usize::from(which)];
    let key = TaskKey::new(&Tenant::default(), &TaskId::parse(id).expect("an id"));
    let attempt = match planner.find(key) {
        Some(Found::Open(_, entry)) if !entry.state.external => entry.state.attempt(),
        _ => u32::from(other % 2),
    };
    let kind = match what {
        0 | 1 => return created(shell(id)),
        2 => return created(external(id)),
        3 => return created(pb::TaskSpec { title: "other".into(), ..shell(id) }),
        4 => Kind::Started(pb::Started { attempt, worker: "w".into() }),
        5 | 6 => return completed(id, attempt),
        7 => Kind::Failed(Box::new(pb::Failed { attempt, ..pb::Failed::default() })),
        8 => Kind::Retrying(Box::new(pb::Retrying { attempt, ..pb::Retrying::default() })),
        9 => Kind::Returned(pb::Returned { attempt, ..pb::Returned::default() }),
        10 => Kind::Updated(pb::Updated { status: "active".into(), ..pb::Updated::default() }),
        11 => Kind::Cancelled(Box::new(pb::Cancelled { attempt, ..pb::Cancelled::default() })),
        _ => Kind::Reprioritised(pb::Reprioritised { priority: 1 + i32::from(other) }),
    };
    event(id, kind)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// However the log is cut and read, and whenever the fold is lost.
    #[test]
    fn cold_and_warm_ledgers_and_the_scheduler_agree(
        parts in prop::collection::vec(
            (prop::collection::vec((0..13_u8, 0..5_u8, 0..6_u8), 1..25), any::<prop::sample::Index>()),
            1..5,
        ),
        last in prop::collection::vec((0..13_u8, 0..5_u8, 0..6_u8), 0..15),
        size in 1..20_usize,
        fates in prop::collection::vec(0..4_u8, 1..9),
    ) {
        let mut world = World::default();
        for (steps, at) in parts {
            for step in steps {
                let event = event_of(step, &world.planner);
                world.says(event);
            }
            let floor = world.planner.floor().max(1) + at.index(world.log.len()) as u64;
            if floor <= world.log.len() as u64 && world.cut(floor) {
                world.agrees();
            }
        }
        for step in last {
            let event = event_of(step, &world.planner);
            world.says(event);
        }
        world.agrees();
        let mut fates = fates.into_iter().cycle();
        let mut fate = || fates.next().unwrap_or(0);
        let mut whole = Books::default();
        whole.read(&world.log, size, &mut fate);
        prop_assert_eq!((&whole.rows, &whole.lines), (&world.warm.rows, &world.warm.lines));
        if let Some(mut cold) = Books::cold(&world.log) {
            cold.read(&world.log, size, &mut fate);
            prop_assert_eq!(cold.knows(), world.warm.knows());
            prop_assert_eq!(cold.floor, world.warm.floor);
            let mut counts = Counts::new();
            for row in cold.rows.values() {
                count(&mut counts, &row.live.subsystem, word(&row.live), 1);
            }
            cold.counts.values_mut().for_each(|states| states.retain(|_, n| *n != 0));
            cold.counts.retain(|_, states| !states.is_empty());
            prop_assert_eq!(cold.counts, counts);
        }
    }
}
