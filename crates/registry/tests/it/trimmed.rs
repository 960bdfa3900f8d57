//! The registry on a log that is cut.

use std::collections::BTreeMap;

use bus::{Bus, Cursor, Message, Publisher, Reader, trim};
use common::{
    event::{Event, Kind, TaskEvent},
    id::{TaskId, Tenant},
    pb,
    task::TaskSpec,
    time::Timestamp,
};
use registry::{
    ledger::{self, Batch, Ledger, Position},
    row::Row,
};
use scheduler::plan::{Found, Planner};
use testkit::NatsServer;

use crate::running::{Running, connect};

/// Folds the log as a scheduler does, and cuts it as a leader does.
struct Leader {
    bus: Bus,
    planner: Planner,
    publisher: Publisher,
    reader: Reader,
    messages: BTreeMap<u64, Message>,
}

impl Leader {
    async fn new(bus: &Bus) -> Self {
        let (publisher, pump) = Publisher::new(bus);
        #[expect(clippy::disallowed_methods, reason = "it ends with its publisher")]
        tokio::spawn(pump);
        let reader = Reader::open(bus, None).await.expect("the log");
        let (planner, messages) = (Planner::default(), BTreeMap::new());
        Self { bus: bus.clone(), planner, publisher, reader, messages }
    }

    async fn say(&self, id: &str, kind: Kind) -> u64 {
        let event = Event::Task(task_event(id, kind));
        self.publisher.publish(event).await.expect("stored")
    }

    async fn submit(&self, id: &str, title: &str) -> u64 {
        let shell = pb::Shell { argv: vec!["true".into()], ..pb::Shell::default() };
        let spec = pb::TaskSpec {
            task_id: id.into(),
            title: title.into(),
            executor: Some(pb::Executor { kind: Some(pb::executor::Kind::Shell(shell)) }),
            ..pb::TaskSpec::default()
        };
        self.say(id, Kind::Created(Box::new(TaskSpec::parse(spec).expect("valid")))).await
    }

    async fn complete(&self, id: &str) -> u64 {
        let result = Some(pb::Json { text: format!("\"{id}\"") });
        let body = pb::Completed { attempt: 1, result, ..pb::Completed::default() };
        self.say(id, Kind::Completed(Box::new(body))).await
    }

    async fn catch_up(&mut self) -> u64 {
        let last = bus::streams::last_sequence(&self.bus).await.expect("a log");
        while self.reader.cursor().sequence < last {
            for message in self.reader.next(100).await.expect("messages") {
                for (index, item) in (0..).zip(&message.items) {
                    let event = item.as_ref().expect("an event");
                    self.planner.fold((message.sequence, index), message.at, event, 1);
                }
                self.messages.insert(message.sequence, message);
            }
        }
        self.reader.cursor().sequence
    }

    fn task_at(&self, sequence: u64, index: u32) -> (&TaskEvent, Timestamp) {
        let message = self.messages.get(&sequence).expect("a message");
        let Some(Ok(Event::Task(event))) = message.items.get(index as usize) else {
            unreachable!("no event about a task: {message:?}")
        };
        (event, message.at)
    }

    /// Carries and cuts, and purges what lies below.
    async fn cut(&mut self, floor: u64) -> u64 {
        let as_of = self.catch_up().await;
        let pass = self.planner.to_carry(floor);
        assert_eq!(pass.undecided, 0);
        let mut events = Vec::new();
        for ticket in pass.open {
            let entry = self.planner.entry(ticket).expect("a task");
            let (event, at) = self.task_at(entry.sequence, entry.index);
            let (spec, at) = if let Kind::Created(spec) = &event.kind {
                (Some(&**spec), at)
            } else if let Kind::Carried(carried) = &event.kind {
                (carried.spec.as_deref(), carried.created_at)
            } else {
                (None, at)
            };
            let body = self.planner.carry(ticket, spec, at, as_of).expect("a task");
            events.push(task_event(event.id.as_str(), Kind::Carried(Box::new(body))));
        }
        for key in pass.over {
            let Some(Found::Over(end)) = self.planner.find(key) else { continue };
            let body = self.planner.carry_over(key, as_of).expect("a tombstone");
            let (event, _) = self.task_at(end.sequence, end.index);
            events.push(task_event(event.id.as_str(), Kind::Carried(Box::new(body))));
        }
        let events = events.into_iter().map(Event::Task).collect();
        self.publisher.publish_all(events).await.expect("stored");
        let as_of = self.catch_up().await;
        assert!(self.planner.to_carry(floor).is_done());
        let trimmed = self.planner.trim_at(floor, as_of);
        let cut = trim::say(&self.bus, "scheduler", trimmed).await.expect("said");
        self.catch_up().await;
        trim::purge_below(&self.bus, floor).await.expect("purged");
        cut.expect("nothing came in between")
    }
}

fn task_event(id: &str, kind: Kind) -> TaskEvent {
    TaskEvent::new(Tenant::default(), TaskId::parse(id).expect("an id"), "test", kind)
}

async fn rows(ledger: &dyn Ledger) -> Vec<Row> {
    let page = ledger.list(None, None, 1_000).await.expect("a page");
    assert!(!page.more);
    page.rows
}

/// What two ledgers must both know: open tasks, and the names and places of the others that the log
/// still counts.
async fn knows(url: &str, floor: u64) -> Vec<String> {
    let ledger = ledger::open(url).await.expect("a ledger");
    let position = ledger.position().await.expect("an answer").expect("a position");
    assert_eq!((position.floor, position.cold_until), (floor, 0));
    let rows = rows(&*ledger).await.into_iter().filter_map(|row| {
        let Row { live, fixed } = row;
        match live.ended_at {
            None => Some(format!(
                "{:?} {:?} {} {} {:?} {fixed:?}",
                live.place, live.life, live.priority, live.worker, live.created_at
            )),
            Some(ended) if ended < floor => None,
            Some(ended) => Some(format!("{} {:?} {ended}", fixed.id.as_str(), live.place)),
        }
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_ledger_on_a_log_that_was_cut_knows_the_open_tasks_of_the_old_one() {
    let server = NatsServer::start().expect("a nats-server");
    let folder = tempfile::tempdir().expect("a folder");
    let url = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
    let bus = connect(&server).await;
    let warm = Running::start(&bus, &url("warm.db")).await;
    let mut leader = Leader::new(&bus).await;
    for n in 0..40 {
        leader.submit(&format!("open{n}"), "waits").await;
    }
    leader.submit("done", "the first").await;
    leader.complete("done").await;
    leader.say("stub", Kind::Started(pb::Started::default())).await;
    leader.submit("late", "ends above the floor").await;
    let floor = leader.submit("above", "the floor").await;
    leader.complete("late").await;
    leader.say("open3", Kind::Reprioritised(pb::Reprioritised { priority: 9 })).await;
    let cut = leader.cut(floor).await;

    // The log is purged below the floor: what the ledger knows from there it has itself.
    assert_eq!(warm.task("open7", cut).await.title, "waits");
    let old = warm.task("done", cut).await;
    assert_eq!((old.title.as_str(), old.state()), ("the first", pb::TaskState::Completed));
    // Its id is new now, and that of a task that ended above the floor is not.
    let again = leader.submit("done", "the second").await;
    let repeat = leader.submit("late", "never").await;
    let new = warm.task("done", repeat).await;
    assert_eq!((new.title.as_str(), new.sequence), ("the second", again));
    assert_eq!(new.state(), pb::TaskState::Pending);
    assert_eq!(warm.task("late", repeat).await.title, "ends above the floor");
    leader.catch_up().await;
    let key = common::id::TaskKey::new(&Tenant::default(), &TaskId::parse("done").expect("an id"));
    assert!(matches!(leader.planner.find(key), Some(Found::Open(..))));
    let started = pb::Started { attempt: 1, worker: "w".into() };
    let last = leader.say("open5", Kind::Started(started)).await;
    assert_eq!(warm.task("open5", last).await.state(), pb::TaskState::Running);
    warm.stop().await;

    // An empty one, one that was killed before it came to the cut, and one in the other database.
    let killed = ledger::open(&url("killed.db")).await.expect("a ledger");
    let stream = bus::streams::identity(&bus).await.expect("a log");
    let cursor = Cursor { stream, sequence: floor - 1 };
    let to = Position { cursor, clock: Timestamp::default(), floor: 0, cold_until: cut };
    let (tasks, entries, counts) = Default::default();
    killed.record(Batch { from: None, to, tasks, entries, counts }).await.expect("recorded");
    let postgres = testkit::Postgres::shared().expect("PostgreSQL");
    let postgres = postgres.create_database().await.expect("a database");
    let all = knows(&url("warm.db"), floor).await;
    assert_eq!(all.len(), 44, "{all:#?}");
    for url in [url("cold.db"), url("killed.db"), postgres] {
        let cold = Running::start(&bus, &url).await;
        let task = cold.task("open7", last).await;
        assert_eq!((task.title.as_str(), task.sequence), ("waits", 8));
        let late = cold.task("late", last).await;
        assert_eq!(late.state(), pb::TaskState::Completed);
        assert_eq!(late.result.map(|r| r.text).as_deref(), Some("\"late\""));
        cold.stop().await;
        assert_eq!(knows(&url, floor).await, all, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_behind_the_cut_and_a_log_purged_by_hand_stop_with_instructions() {
    let server = NatsServer::start().expect("a nats-server");
    let folder = tempfile::tempdir().expect("a folder");
    let url = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
    let bus = connect(&server).await;
    let mut leader = Leader::new(&bus).await;
    for n in 0..9 {
        leader.submit(&format!("t{n}"), "waits").await;
    }
    leader.cut(6).await;
    let old = ledger::open(&url("old.db")).await.expect("a ledger");
    let stream = bus::streams::identity(&bus).await.expect("a log");
    let cursor = Cursor { stream, sequence: 3 };
    let to = Position { cursor, clock: Timestamp::default(), floor: 0, cold_until: 0 };
    let (tasks, entries, counts) = Default::default();
    old.record(Batch { from: None, to, tasks, entries, counts }).await.expect("recorded");
    let (error, readiness) = Running::begin(&bus, &url("old.db")).refusal().await;
    for said in [&error, &readiness] {
        assert!(said.contains("restore a newer copy of the ledger"), "{said}");
        assert!(said.contains("up to 5 at least"), "{said}");
        assert!(said.contains("move the ledger away"), "{said}");
    }
    // What they say helps.
    let new = Running::start(&bus, &url("new.db")).await;
    assert_eq!(new.task("t0", 9).await.title, "waits");
    new.stop().await;

    trim::purge_below(&bus, 8).await.expect("purged");
    let (error, readiness) = Running::begin(&bus, &url("newer.db")).refusal().await;
    for said in [&error, &readiness] {
        assert!(said.contains("counts from message 6, but begins at 8"), "{said}");
        assert!(said.contains("purged by hand"), "{said}");
    }
}
