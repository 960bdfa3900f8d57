//! A log with a scheduler and ledgers that read it, and cuts of it as a leader makes them.

use std::collections::{BTreeMap, BTreeSet};

use common::{
    event::{Carried, Policy, PolicyEvent, Trimmed},
    lifecycle::Phase,
    subject,
};
use scheduler::plan::{Found, Planner};

use super::super::*;
use crate::fixtures::*;

/// A ledger with the fold that writes it.
#[derive(Default)]
pub(super) struct Books {
    pub(super) rows: BTreeMap<Place, Row>,
    /// The lines of the history, by task and place.
    pub(super) lines: BTreeMap<(Option<Place>, Place), Entry>,
    pub(super) counts: Counts,
    pub(super) dead: Vec<DeadLetter>,
    pub(super) cursor: u64,
    clock: Timestamp,
    pub(super) floor: u64,
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
    pub(super) fn cold(log: &[Message]) -> Option<Self> {
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
    pub(super) fn read(&mut self, log: &[Message], size: usize, mut fates: impl FnMut() -> u8) {
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
    pub(super) fn find(&self, key: TaskKey) -> Option<&Row> {
        let newest = self.rows.values().rev().find(|row| row.key() == key)?;
        Some(newest).filter(|row| row.live.ended_at.is_none_or(|ended| ended >= self.floor))
    }

    /// What another ledger must know too: all of open tasks that outlives a cut, and that others
    /// are over.
    pub(super) fn knows(&self) -> BTreeMap<TaskKey, String> {
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

    pub(super) fn line(&self, sequence: u64) -> &str {
        let line = self.lines.values().find(|line| line.place.sequence == sequence);
        line.map_or("none", |line| &line.ignored)
    }
}

/// A log with a scheduler and a ledger that have read it all.
#[derive(Default)]
pub(super) struct World {
    pub(super) log: Vec<Message>,
    pub(super) planner: Planner,
    pub(super) warm: Books,
}

impl World {
    pub(super) fn says(&mut self, event: TaskEvent) -> u64 {
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

    pub(super) fn warm(&mut self) {
        self.warm.read(&self.log, 7, || 1);
    }

    /// Carries what a cut at `floor` needs and cuts the log, as a leader does. Not while something
    /// is being decided.
    pub(super) fn cut(&mut self, floor: u64) -> bool {
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
    pub(super) fn agrees(&mut self) {
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
