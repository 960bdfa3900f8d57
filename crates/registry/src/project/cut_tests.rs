//! The ledger forgets what the scheduler forgets, and one that begins at a floor knows of open
//! tasks what one knows that has read everything.

use std::collections::{BTreeMap, BTreeSet};

use common::{
    event::{Carried, Policy, PolicyEvent, Trimmed},
    lifecycle::Phase,
    pb, subject,
};
use proptest::prelude::*;
use scheduler::plan::{Found, Planner};

use super::*;
use crate::fixtures::*;

/// A ledger with the fold that writes it.
#[derive(Default)]
struct Books {
    rows: BTreeMap<Place, Row>,
    /// The lines of the history, by task and place.
    lines: BTreeMap<(Option<Place>, Place), Entry>,
    counts: Counts,
    dead: Vec<DeadLetter>,
    cursor: u64,
    clock: Timestamp,
    floor: u64,
    cold_until: u64,
    fold: Option<Fold>,
}

/// The newest cut of a log.
fn newest_cut(log: &[Message]) -> Option<(u64, Trimmed)> {
    log.iter().rev().find_map(|message| cut_of(message).map(|cut| (message.sequence, cut)))
}

fn cut_of(message: &Message) -> Option<Trimmed> {
    match message.items.as_slice() {
        [Ok(Event::Policy(PolicyEvent { policy: Policy::Trimmed(trimmed), .. }))] => {
            Some(trimmed.clone())
        }
        _ => None,
    }
}

impl Books {
    /// An empty ledger where the log was cut, as the projector begins it.
    fn cold(log: &[Message]) -> Option<Self> {
        let (until, cut) = newest_cut(log)?;
        let cursor = cut.floor - 1;
        Some(Self { cursor, clock: cut.clock, cold_until: until, ..Self::default() })
    }

    /// The fold is lost, and a new one begins where the ledger is.
    fn lose(&mut self, log: &[Message]) {
        let newest = self.rows.values().map(|row| row.fixed.id.as_str());
        let newest = newest.filter(|id| *id < "1").max();
        let mut fold = Fold::new(self.clock, newest, false).counting_from(self.floor);
        if self.cold_until > 0 {
            let cut = cut_of(&log[self.cold_until as usize - 1]).expect("a cut");
            let mut cold = Cold::new(cut.floor, self.cold_until);
            for message in &log[self.cursor as usize..self.cold_until as usize] {
                for (index, item) in (0..).zip(&message.items) {
                    if let Ok(Event::Task(event)) = item
                        && let Kind::Carried(carried) = &event.kind
                    {
                        let key = TaskKey::new(&event.tenant, &event.id);
                        cold.remember((message.sequence, index), key, carried);
                    }
                }
            }
            fold.begin_at(cold);
        }
        self.fold = Some(fold);
    }

    /// Reads a log on to its end, so many messages at once; where `fates` say so the changes are
    /// written, and the fold is lost.
    fn read(&mut self, log: &[Message], size: usize, mut fates: impl FnMut() -> u8) {
        if self.fold.is_none() {
            self.lose(log);
        }
        let mut at = self.cursor as usize;
        while at < log.len() {
            let batch = &log[at..log.len().min(at + size)];
            at += batch.len();
            let fold = self.fold.as_mut().expect("a fold");
            let missing: BTreeSet<_> =
                fold.missing(batch).iter().map(|(t, id)| TaskKey::new(t, id)).collect();
            fold.load(self.rows.values().filter(|r| missing.contains(&r.key())).cloned().collect());
            for sequence in fold.wanted(batch) {
                fold.thaw(&log[sequence as usize - 1]);
            }
            fold.fold(batch.to_vec());
            let fate = fates();
            if fate > 0 {
                self.record(at as u64);
            }
            if fate > 1 {
                self.lose(log);
            }
        }
        self.record(at as u64);
    }

    fn record(&mut self, cursor: u64) {
        let changes = self.fold.as_mut().expect("a fold").take();
        for (subsystem, states) in changes.counts {
            for (state, by) in states {
                count(&mut self.counts, &subsystem, state, by);
            }
        }
        for change in changes.tasks {
            let old = self.rows.get(&change.live.place);
            assert_eq!(old.is_none(), change.is_new, "an update of nothing, or the reverse");
            let row = row_of(change, old.map(|row| row.fixed.clone()));
            self.rows.insert(row.live.place, row);
        }
        for entry in changes.entries {
            let twice = self.lines.insert((entry.task, entry.place), entry);
            assert_eq!(twice, None, "a line that is there twice");
        }
        for row in self.rows.values() {
            let Live { place, spec_at, .. } = row.live;
            assert!(self.lines.contains_key(&(Some(place), spec_at)), "no submission: {row:?}");
        }
        self.dead.extend(changes.dead);
        (self.cursor, self.clock) = (cursor, changes.clock);
        (self.floor, self.cold_until) = (changes.floor, changes.cold_until);
    }

    /// The newest task under a key, unless it is forgotten.
    fn find(&self, key: TaskKey) -> Option<&Row> {
        let newest = self.rows.values().rev().find(|row| row.key() == key)?;
        Some(newest).filter(|row| row.live.ended_at.is_none_or(|ended| ended >= self.floor))
    }

    /// What another ledger must know too: all of open tasks that outlives a cut, and that others
    /// are over.
    fn knows(&self) -> BTreeMap<TaskKey, String> {
        let keys: BTreeSet<_> = self.rows.values().map(Row::key).collect();
        let knows = |key: &TaskKey| {
            let Row { live, fixed } = self.find(*key)?;
            let Live { place, life, priority, subsystem, created_at, ended_at, .. } = live;
            // The scheduler knows who holds what it gives out, and how urgent that is, and carries
            // it; of the work of others it only keeps what it must.
            let given_out = (!life.external).then(|| {
                (*priority, if life.phase == Phase::Running { &*live.worker } else { "" })
            });
            Some(match ended_at {
                None => {
                    format!("{place:?} {life:?} {given_out:?} {subsystem} {created_at:?} {fixed:?}")
                }
                Some(ended) => format!("{place:?} {:?} {ended}", life.phase),
            })
        };
        keys.iter().filter_map(|key| Some((*key, knows(key)?))).collect()
    }

    fn line(&self, sequence: u64) -> &str {
        let line = self.lines.values().find(|line| line.place.sequence == sequence);
        line.map_or("none", |line| &line.ignored)
    }
}

/// A log with a scheduler and a ledger that have read it all.
#[derive(Default)]
struct World {
    log: Vec<Message>,
    planner: Planner,
    warm: Books,
}

impl World {
    fn says(&mut self, event: TaskEvent) -> u64 {
        let sequence = self.log.len() as u64 + 1;
        self.push(message(sequence, event))
    }

    fn push(&mut self, message: Message) -> u64 {
        for (index, item) in (0..).zip(&message.items) {
            let event = item.as_ref().expect("an event");
            self.planner.fold((message.sequence, index), message.at, event, 1);
        }
        self.log.push(message);
        self.log.len() as u64
    }

    fn warm(&mut self) {
        self.warm.read(&self.log, 7, || 1);
    }

    /// Carries what a cut at `floor` needs and cuts the log, as a leader does. Not while something
    /// is being decided.
    fn cut(&mut self, floor: u64) -> bool {
        self.warm();
        let as_of = self.log.len() as u64;
        let pass = self.planner.to_carry(floor);
        if pass.undecided > 0 {
            return false;
        }
        let mut carried = Vec::new();
        for ticket in pass.open {
            let entry = self.planner.entry(ticket).expect("a task");
            let row = self.warm.find(entry.key).expect("a row");
            let spec = TaskSpec::parse(row.fixed.spec.clone()).expect("valid");
            let spec = Some(spec).filter(|_| !entry.state.stub);
            let body = self.planner.carry(ticket, spec.as_ref(), row.live.created_at, as_of);
            carried.push((entry.key, body.expect("a task")));
        }
        for key in pass.over {
            carried.push((key, self.planner.carry_over(key, as_of).expect("a task")));
        }
        let bundle: Vec<_> =
            carried.into_iter().map(|(key, body)| self.carried(key, body)).collect();
        if !bundle.is_empty() {
            self.push(read(as_of + 1, subject::BUNDLE, wire::bundle(bundle)));
        }
        assert!(self.planner.to_carry(floor).is_done());
        self.say_cut(floor);
        true
    }

    fn say_cut(&mut self, floor: u64) {
        let as_of = self.log.len() as u64;
        let policy = Policy::Trimmed(self.planner.trim_at(floor, as_of));
        let event = Event::Policy(PolicyEvent { actor: "scheduler".into(), policy });
        self.push(read(as_of + 1, subject::TRIMMED, wire::encode(&event)));
        self.warm();
    }

    fn carried(&self, key: TaskKey, body: Carried) -> Vec<u8> {
        let id = self.warm.find(key).expect("a row").fixed.id.clone();
        wire::encode(&Event::Task(event(id.as_str(), Kind::Carried(Box::new(body)))))
    }

    /// The ledger takes for open, over and unknown what the scheduler takes for it.
    fn agrees(&mut self) {
        self.warm();
        let keys: BTreeSet<_> = self.warm.rows.values().map(Row::key).collect();
        for key in keys {
            let row = self.warm.find(key).map(|row| (row.live.life, row.live.ended_at));
            match self.planner.find(key) {
                None => assert_eq!(row, None),
                Some(Found::Open(_, entry)) => assert_eq!(row, Some((entry.state, None))),
                Some(Found::Over(end)) => {
                    let row = row.map(|(life, ended)| (life.phase, ended));
                    assert_eq!(row, Some((end.phase, Some(end.ended))));
                }
            }
        }
    }
}

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
