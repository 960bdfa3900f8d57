//! A planner that begins at a floor knows what one knows that has read everything.

use std::collections::BTreeMap;

use common::{
    event::{Event, Kind, Pause, Policy, PolicyEvent, TaskEvent},
    id::{DocumentName, TaskId, Tenant},
    pb,
    policy::{Body, Document},
    task::TaskSpec,
};
use proptest::prelude::*;

use super::{tests::*, *};

/// What two planners must agree on.
#[derive(Debug, PartialEq)]
struct Knows {
    open: BTreeMap<TaskKey, (Entry, Vec<String>)>,
    over: BTreeMap<TaskKey, (Phase, u64, (u64, u32))>,
    pauses: Vec<String>,
}

fn knows(planner: &Planner) -> Knows {
    let open = planner.entries.iter().map(|(ticket, e)| {
        let mut waits =
            planner.edges(ticket).iter().map(|edge| format!("{edge:?}")).collect::<Vec<_>>();
        waits.sort();
        let place = match e.place {
            // When an attempt went out is the process's own memory, and so is which timers rang.
            Place::Released(_) => Place::Released(0),
            Place::Ready => Place::Waiting,
            Place::External | Place::Waiting => e.place,
        };
        // Queues and types are numbered as they come.
        (e.key, (Entry { place, queue: 0, kind: 0, ..e }, waits))
    });
    let pauses = planner.trim_at(0, 0).pauses;
    let mut pauses = pauses.iter().map(|pause| format!("{pause:?}")).collect::<Vec<_>>();
    pauses.sort();
    Knows {
        open: open.collect(),
        over: planner
            .over
            .iter()
            .map(|(key, end)| (key, (end.phase, end.ended, (end.sequence, end.index))))
            .collect(),
        pauses,
    }
}

/// Whether a rate is used up as far as for another planner, or further: one that has yet to read a key
/// takes a start for one of every key.
fn lets_no_more_start(planner: &Planner, other: &Planner) -> bool {
    let used = planner.used_rates();
    other.used_rates().iter().all(|rate| {
        used.iter().any(|u| (u.key.is_none() || u.key == rate.key) && u.next >= rate.next)
    })
}

/// Carries what a cut at `floor` needs, says so, and folds it all, as a leader does.
fn cut(world: &mut World, log: &mut Vec<Event>, floor: u64) {
    let as_of = log.len() as u64;
    let names = names(log);
    let pass = world.planner.begin_cut(floor);
    for id in pass.documents {
        let policy = world.planner.carry_document(&id, as_of).unwrap();
        push(world, log, Event::Policy(PolicyEvent { actor: "scheduler".into(), policy }));
    }
    let mut carried = Vec::new();
    for ticket in pass.open {
        let entry = world.planner.entry(ticket).unwrap();
        let spec = spec_at(log, entry.sequence);
        let body = world.planner.carry(ticket, spec, Timestamp::default(), as_of);
        carried.push((entry.key, body));
    }
    for key in pass.over {
        carried.push((key, world.planner.carry_over(key, as_of)));
    }
    for (key, body) in carried {
        let (tenant, id) = names[&key].clone();
        let kind = Kind::Carried(Box::new(body.unwrap()));
        push(world, log, Event::Task(TaskEvent::new(tenant, id, "scheduler", kind)));
    }
    let left = world.planner.look_again(floor);
    assert!(left.is_done() && world.planner.to_carry(floor).is_done(), "{left:?}");
    let policy = Policy::Trimmed(world.planner.trim_at(floor, log.len() as u64));
    push(world, log, Event::Policy(PolicyEvent { actor: "scheduler".into(), policy }));
}

fn names(log: &[Event]) -> BTreeMap<TaskKey, (Tenant, TaskId)> {
    let task = |event: &Event| match event {
        Event::Task(e) => Some((TaskKey::new(&e.tenant, &e.id), (e.tenant.clone(), e.id.clone()))),
        Event::Policy(_) => None,
    };
    log.iter().filter_map(task).collect()
}

/// The submission that lies there; a report has none.
fn spec_at(log: &[Event], sequence: u64) -> Option<&TaskSpec> {
    match &log[sequence as usize - 1] {
        Event::Task(TaskEvent { kind: Kind::Created(spec), .. }) => Some(spec),
        Event::Task(TaskEvent { kind: Kind::Carried(carried), .. }) => carried.spec.as_deref(),
        Event::Task(_) | Event::Policy(_) => None,
    }
}

fn push(world: &mut World, log: &mut Vec<Event>, event: Event) {
    log.push(event);
    let sequence = log.len() as u64;
    fold(&mut world.planner, sequence, log);
}

fn fold(planner: &mut Planner, sequence: u64, log: &[Event]) {
    let at = Timestamp::from_micros(sequence as i64);
    planner.fold((sequence, 0), at, &log[sequence as usize - 1], 1);
}

/// Begins at the newest cut of a log.
fn cold(log: &[Event]) -> Planner {
    let cut = log.iter().rev().find_map(|event| match event {
        Event::Policy(PolicyEvent { policy: Policy::Trimmed(trimmed), .. }) => Some(trimmed),
        Event::Task(_) | Event::Policy(_) => None,
    });
    let cut = cut.expect("a cut");
    let mut planner = Planner::begin_at(cut);
    for (sequence, event) in (cut.floor..).zip(&log[cut.floor as usize - 1..]) {
        planner.preload((sequence, 0), event);
    }
    planner.preloaded();
    for sequence in cut.floor..=log.len() as u64 {
        fold(&mut planner, sequence, log);
    }
    planner
}

/// Something that may happen to one of a few tasks.
fn step() -> impl Strategy<Value = (u8, u8, u8)> {
    (0..14_u8, 0..6_u8, 0..6_u8)
}

fn event_of(planner: &Planner, (what, which, other): (u8, u8, u8)) -> Event {
    let id = TaskId::parse(&format!("t{which}")).unwrap();
    let key = TaskKey::new(&Tenant::default(), &id);
    let attempt = match planner.find(key) {
        Some(Found::Open(_, entry)) if !entry.state.external => entry.state.attempt(),
        _ => u32::from(other % 2),
    };
    // What waits for another task has no attempt that could begin.
    let waits = match planner.find(key) {
        Some(Found::Open(ticket, _)) => !planner.edges(ticket).is_empty(),
        _ => false,
    };
    let what = if waits && what == 4 { 12 } else { what };
    let kind = match what {
        0..=3 => {
            let on = i32::from(what % 3);
            let depends_on = if what == 0 || other == which {
                Vec::new()
            } else {
                vec![pb::Dependency { task_id: format!("t{other}"), on }]
            };
            let executor = pb::Worker { handler: "h".into() };
            let spec = pb::TaskSpec {
                task_id: id.to_string(),
                depends_on,
                input: Some(pb::Json { text: format!(r#"{{"customer": "c{which}"}}"#) }),
                executor: (other != 5)
                    .then_some(pb::Executor { kind: Some(pb::executor::Kind::Worker(executor)) }),
                ..pb::TaskSpec::default()
            };
            Kind::Created(Box::new(TaskSpec::parse(spec).unwrap()))
        }
        4 => Kind::Started(pb::Started { attempt, worker: "w".into() }),
        5 | 6 => Kind::Completed(Box::new(pb::Completed { attempt, ..pb::Completed::default() })),
        7 => Kind::Failed(Box::new(pb::Failed { attempt, ..pb::Failed::default() })),
        8 => Kind::Retrying(Box::new(pb::Retrying { attempt, ..pb::Retrying::default() })),
        9 => Kind::Returned(pb::Returned { attempt, ..pb::Returned::default() }),
        10 => Kind::CancelRequested(pb::CancelRequested::default()),
        11 => Kind::Updated(pb::Updated { status: "active".into(), ..pb::Updated::default() }),
        12 => Kind::Reprioritised(pb::Reprioritised { priority: 1 + i32::from(other) }),
        _ => {
            let queue = Some(QueueName::parse("default").unwrap()).filter(|_| other % 2 == 0);
            let policy = if which % 2 == 0 {
                // One that is over by itself is not said again.
                let until = (other % 3 == 0).then(|| Timestamp::from_unix(i64::from(other), 0));
                Policy::Paused(Pause { queue, reason: "because".into(), until })
            } else {
                Policy::Resumed { queue }
            };
            return Event::Policy(PolicyEvent { actor: "op".into(), policy });
        }
    };
    Event::Task(TaskEvent::new(Tenant::default(), id, "test", kind))
}

/// So many of a customer may start at once, and then one in a second.
fn rate(burst: u32) -> Event {
    let rate = pb::LimitRate { count: 1, burst: Some(burst), ..pb::LimitRate::default() };
    let limit = pb::Limit {
        queue: "handlers".into(),
        key: "input.customer".into(),
        rate: Some(rate),
        ..pb::Limit::default()
    };
    let (name, body) = (DocumentName::parse("slow").unwrap(), Body::Limit(Box::new(limit)));
    let policy = Policy::Document(Box::new(Document { name, version: 1, carried: None, body }));
    Event::Policy(PolicyEvent { actor: "op".into(), policy })
}

#[test]
fn what_started_before_a_cut_is_charged_to_its_rate_by_who_begins_there() {
    let (mut world, mut log) = (World::following(), Vec::new());
    let about = |id: &str, kind| {
        Event::Task(TaskEvent::new(Tenant::default(), TaskId::parse(id).unwrap(), "test", kind))
    };
    let of = |id: &str, customer: &str| {
        let executor = pb::executor::Kind::Worker(pb::Worker { handler: "h".into() });
        let spec = pb::TaskSpec {
            task_id: id.into(),
            input: Some(pb::Json { text: format!(r#"{{"customer": "{customer}"}}"#) }),
            executor: Some(pb::Executor { kind: Some(executor) }),
            ..pb::TaskSpec::default()
        };
        about(id, Kind::Created(Box::new(TaskSpec::parse(spec).unwrap())))
    };
    let started = |id| about(id, Kind::Started(pb::Started { attempt: 1, worker: "w".into() }));
    let returned = pb::Returned { attempt: 1, ..pb::Returned::default() };
    let completed = pb::Completed { attempt: 1, ..pb::Completed::default() };
    let below = [
        rate(1),
        of("over", "x"),
        of("after-over", "x"),
        of("back", "y"),
        of("running", "z"),
        of("after-running", "z"),
        of("other", "w"),
    ];
    let kept = [
        // Of these three nothing but where they stand is known to who begins at the floor.
        started("over"),
        about("over", Kind::Completed(Box::new(completed))),
        started("back"),
        about("back", Kind::Returned(returned)),
        started("running"),
    ];
    let floor = below.len() as u64 + 1;
    for event in below.into_iter().chain(kept) {
        push(&mut world, &mut log, event);
    }
    cut(&mut world, &mut log, floor);
    let mut cold = cold(&log);
    let mut released = |ms: u64| {
        let now = Timestamp::from_micros(ms as i64 * 1_000);
        cold.lead(now, ms);
        let beat = pb::Heartbeat {
            worker: "w".into(),
            queues: [("handlers".to_owned(), 9)].into(),
            running: vec![pb::Attempt {
                task_id: "running".into(),
                attempt: 1,
                ..pb::Attempt::default()
            }],
            ..pb::Heartbeat::default()
        };
        cold.heard(beat, ms);
        cold.tick(now, ms);
        let tickets = cold.release(ms, 4_096, 9).into_iter().flat_map(|r| r.tickets);
        let keys = tickets.map(|ticket| cold.entry(ticket).unwrap().key).collect::<Vec<_>>();
        let names = names(&log);
        keys.into_iter().map(|key| names[&key].1.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(released(1), ["other"]);
    assert_eq!(released(999), [""; 0]);
    assert_eq!(released(1_001), ["after-over", "back", "after-running"]);
}

#[test]
fn a_cut_says_so_many_rates_and_of_the_others_the_most_that_is_used_up() {
    let (mut world, mut log) = (World::following(), Vec::new());
    push(&mut world, &mut log, rate(1));
    let most = common::limits::CUT_RATES_MAX;
    for number in 0..most + 3 {
        let id = TaskId::parse(&format!("t{number}")).unwrap();
        let executor = pb::executor::Kind::Worker(pb::Worker { handler: "h".into() });
        let spec = pb::TaskSpec {
            task_id: id.to_string(),
            input: Some(pb::Json { text: format!(r#"{{"customer": "c{number}"}}"#) }),
            executor: Some(pb::Executor { kind: Some(executor) }),
            ..pb::TaskSpec::default()
        };
        let created = Kind::Created(Box::new(TaskSpec::parse(spec).unwrap()));
        let started = Kind::Started(pb::Started { attempt: 1, worker: "w".into() });
        for kind in [created, started] {
            let event = TaskEvent::new(Tenant::default(), id.clone(), "test", kind);
            push(&mut world, &mut log, Event::Task(event));
        }
    }
    let mut rates = world.planner.trim_at(1, log.len() as u64).rates;
    assert_eq!(rates.len(), most + 1);
    let rest = rates.pop().unwrap();
    assert_eq!((rest.key, rest.next), (None, Timestamp::from_micros(1_000_007)), "the third start");
    assert!(rates.iter().all(|rate| rate.key.is_some() && rate.next > rest.next));
    let mut other = Planner::default();
    fold(&mut other, 1, &log);
    other.rates_known(&[common::event::UsedRate { key: None, ..rates[0].clone() }]);
    assert_eq!(other.used_rates(), [common::event::UsedRate { key: None, ..rates[0].clone() }]);
}

proptest! {
    #[test]
    fn who_begins_at_the_floor_knows_what_who_has_read_everything_knows(
        parts in proptest::collection::vec(
            (proptest::collection::vec(step(), 1..25), any::<prop::sample::Index>()), 1..4),
        last in proptest::collection::vec(step(), 0..15),
    ) {
        let mut world = World::following();
        let mut log = Vec::new();
        push(&mut world, &mut log, rate(2));
        for (steps, at) in parts {
            for step in steps {
                let event = event_of(&world.planner, step);
                push(&mut world, &mut log, event);
                settle(&mut world, &mut log);
            }
            let floor = world.planner.floor().max(1) + at.index(log.len()) as u64;
            if floor <= log.len() as u64 {
                cut(&mut world, &mut log, floor);
                let cold = cold(&log);
                prop_assert_eq!(knows(&cold), knows(&world.planner));
                prop_assert!(lets_no_more_start(&cold, &world.planner));
                prop_assert!(lets_no_more_start(&world.planner, &cold));
            }
        }
        for step in last {
            let event = event_of(&world.planner, step);
            push(&mut world, &mut log, event);
            settle(&mut world, &mut log);
        }
        if log.iter().any(|e| matches!(e, Event::Policy(p) if matches!(p.policy, Policy::Trimmed(_)))) {
            let cold = cold(&log);
            prop_assert_eq!(knows(&cold), knows(&world.planner));
            prop_assert!(lets_no_more_start(&cold, &world.planner));
        }
    }
}

/// Says what the scheduler has to decide, so that nothing is undecided.
fn settle(world: &mut World, log: &mut Vec<Event>) {
    let undecided = |world: &World| {
        let mut all = world.planner.entries.iter().filter(|(_, e)| e.deciding.is_some());
        all.next()
    };
    let names = names(log);
    let bound = log.len() + 100;
    while let Some((_, entry)) = undecided(world) {
        assert!(log.len() < bound, "undecided for ever: {entry:?}");
        let (tenant, id) = names[&entry.key].clone();
        let attempt = if entry.state.phase == Phase::Verdict { entry.state.ended } else { 0 };
        let kind = match entry.deciding.unwrap() {
            Decision::Skip => Kind::Skipped(pb::Skipped::default()),
            Decision::Cancel => {
                Kind::Cancelled(Box::new(pb::Cancelled { attempt, ..pb::Cancelled::default() }))
            }
            Decision::AfterLoss => {
                Kind::Retrying(Box::new(pb::Retrying { attempt, ..pb::Retrying::default() }))
            }
            Decision::Lost
            | Decision::DependencyFailed
            | Decision::Cycle
            | Decision::Expired
            | Decision::TotalTimeout
            | Decision::DependencyMissing
            | Decision::Resolve
            | Decision::Refused(_) => Kind::Failed(Box::new(pb::Failed {
                cause: pb::Cause::Dependency.into(),
                ..pb::Failed::default()
            })),
        };
        push(world, log, Event::Task(TaskEvent::new(tenant, id, "scheduler", kind)));
    }
}
