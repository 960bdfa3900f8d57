//! **Pure.** What people, programs and other systems do: submissions of every kind, changes, pauses
//! and reports.

pub mod documents;

use std::time::Duration;

use common::{
    event::{Event, Kind, Pause, Policy, PolicyEvent, TaskEvent},
    id::{QueueName, TaskId, TaskKey, Tenant},
    pb,
    policy::Document,
    subject,
    task::TaskSpec,
};
use scheduler::orders::Change;

use crate::{invariants::Broken, log::Publish, net::What, world::World};

/// Queues of the world.
pub const QUEUES: [&str; 2] = ["handlers", "gpu"];

/// What clients have done so far.
#[derive(Debug, Default)]
pub struct Client {
    /// Orders that no scheduler has taken yet.
    pub orders: Vec<Order>,
    /// Ids that were used, oldest first.
    pub used: Vec<TaskId>,
    /// How many tasks were submitted without an id of the caller's.
    fresh: usize,
    /// Nothing new is submitted.
    pub quiet: bool,
}

/// What is asked of the leader.
#[derive(Clone, Debug)]
pub enum Order {
    /// Something about a task.
    Change(TaskId, Change),
    /// A pause of a queue, or of all; or its end.
    Pause(Option<QueueName>, bool),
    /// Limits, schedules and task types.
    Documents(Vec<Document>),
}

/// One thing that a client does.
pub fn step(world: &mut World) -> Result<(), Broken> {
    if world.client.quiet {
        return Ok(());
    }
    let policies = u32::from(world.setup.policies);
    match world.random.weighted(&[60, 12, 6, 22, 3 * policies, 5 * policies]) {
        0 => submit(world),
        1 => {
            let order = order(world);
            world.client.orders.push(order);
        }
        2 => pause(world),
        3 => report(world),
        4 => documents::limit(world),
        _ => documents::change(world),
    }
    Ok(())
}

/// The id of a task with this number.
pub fn id(text: &str) -> TaskId {
    TaskId::parse(text).expect("invariant: an id without control characters")
}

/// A queue of the world.
pub fn queue(name: &str) -> QueueName {
    QueueName::parse(name).expect("invariant: a token")
}

fn any_id(world: &mut World) -> TaskId {
    let own = world.random.below(world.setup.ids);
    // The latest are the most interesting.
    let recent = world.client.used.len().saturating_sub(8);
    let n = recent + world.random.below(8);
    match world.client.used.get(n) {
        Some(id) if !world.random.one_in(3) => id.clone(),
        _ => id(&format!("t{own}")),
    }
}

fn millis(ms: i64) -> common::wire::time::Duration {
    Duration::from_millis(ms as u64).into()
}

/// A submission, with the caller's own id or without.
fn submit(world: &mut World) {
    let own = world.random.one_in(3);
    let id = if own {
        let n = world.random.below(world.setup.ids);
        id(&format!("t{n}"))
    } else {
        world.client.fresh += 1;
        id(&format!("f{}", world.client.fresh))
    };
    let body = world.random.next();
    let mut events = vec![created(world, &id, body)];
    world.client.used.push(id.clone());
    let keyed = own && world.random.one_in(2);
    if !keyed && world.random.one_in(4) {
        // A graph in one message: the second waits for the first.
        world.client.fresh += 1;
        let second = self::id(&format!("f{}", world.client.fresh));
        let body = world.random.next();
        events.push(created(world, &second, body));
        world.client.used.push(second);
    }
    let mut publish = Publish::of(&events);
    if keyed {
        publish.subject = subject::created(&Tenant::default(), &id);
        publish.first_only = true;
    }
    let lane = world.fresh();
    if world.random.one_in(6) {
        // The same again: a caller that did not hear the answer.
        let lane = world.fresh();
        world.send(lane, What::Log(publish.clone()));
    }
    world.send(lane, What::Log(publish));
}

fn created(world: &mut World, id: &TaskId, body: u64) -> Event {
    let random = &mut world.random;
    let worker = pb::Worker { handler: "h".into() };
    let external = random.one_in(8);
    let executor =
        (!external).then_some(pb::Executor { kind: Some(pb::executor::Kind::Worker(worker)) });
    let mut spec = pb::TaskSpec {
        task_id: id.to_string(),
        executor,
        title: format!("body {}", body % 2),
        queue: if random.one_in(3) { QUEUES[1].into() } else { String::new() },
        retry: Some(pb::Retry {
            max_attempts: Some(random.between(1, 3) as i32),
            backoff: Some(millis(random.between(50, 3_000))),
            jitter: Some(0.0),
            ..pb::Retry::default()
        }),
        ..pb::TaskSpec::default()
    };
    if world.setup.policies && random.one_in(4) {
        documents::typed(random, &mut spec);
    }
    if random.one_in(3) {
        spec.priority = Some(random.between(1, 10) as i32);
    }
    if random.one_in(6) {
        spec.delay = Some(millis(random.between(100, 20_000)));
    }
    if random.one_in(5) {
        spec.timeouts = Some(pb::Timeouts {
            queue: random.one_in(2).then(|| millis(random.between(500, 20_000))),
            total: random.one_in(2).then(|| millis(random.between(500, 40_000))),
            dependency: Some(millis(random.between(500, 60_000))),
            ..pb::Timeouts::default()
        });
    }
    let mut edges = [3, 3, 4, 8].into_iter().map(|n| random.one_in(n)).take_while(|more| *more);
    let count = edges.by_ref().count();
    for _ in 0..count {
        let on = world.random.between(0, 3) as i32;
        let task_id = any_id(world).to_string();
        if task_id == spec.task_id {
            continue;
        }
        spec.depends_on.push(pb::Dependency { task_id, on });
    }
    let spec = TaskSpec::parse(spec);
    let spec = spec.expect("invariant: what a client of the simulator submits is valid");
    let kind = Kind::Created(Box::new(spec));
    Event::Task(TaskEvent::new(Tenant::default(), id.clone(), "client", kind))
}

fn order(world: &mut World) -> Order {
    let id = any_id(world);
    let change = match world.random.below(4) {
        0 | 1 => Change::Cancel { reason: "no longer wanted".into() },
        2 => Change::Retry,
        _ => Change::Reprioritise { priority: world.random.between(1, 10) as u8 },
    };
    Order::Change(id, change)
}

fn pause(world: &mut World) {
    let queue = match world.random.below(3) {
        0 => None,
        n => Some(queue(QUEUES[n - 1])),
    };
    let begin = world.random.one_in(3);
    world.client.orders.push(Order::Pause(queue, begin));
}

/// The event of a pause or of its end.
pub fn policy(queue: Option<QueueName>, begins: bool) -> Event {
    let policy = if begins {
        Policy::Paused(Pause { queue, reason: "maintenance".into(), until: None })
    } else {
        Policy::Resumed { queue }
    };
    Event::Policy(PolicyEvent { actor: "operator".into(), policy })
}

/// Another system reports about a task: mostly one that is external, or that nobody knows.
fn report(world: &mut World) {
    let id = if world.random.one_in(4) {
        let n = world.random.below(3);
        id(&format!("e{n}"))
    } else {
        any_id(world)
    };
    let known = world.truth.tasks.get(&TaskKey::new(&Tenant::default(), &id));
    let external = known.and_then(crate::truth::Task::state).is_none_or(|state| state.external);
    let mut attempt = 0;
    if !external {
        // A stray word about a task that workers run: with a number of an attempt, old or none.
        if !world.random.one_in(6) {
            return;
        }
        let ended = known.and_then(crate::truth::Task::state).map_or(0, |state| state.ended);
        attempt = world.random.below(ended as usize + 1) as u32;
    }
    let kind = match world.random.below(5) {
        0 => Kind::Started(pb::Started { attempt, worker: "other-system".into() }),
        1 => Kind::Completed(Box::new(pb::Completed { attempt, ..pb::Completed::default() })),
        2 => Kind::Failed(Box::new(pb::Failed { attempt, ..pb::Failed::default() })),
        3 => Kind::Progress(pb::Progress { attempt, ..pb::Progress::default() }),
        _ => {
            let status = ["running", "pending", "completed", "cancelled"][world.random.below(4)];
            Kind::Updated(pb::Updated { status: status.into(), ..pb::Updated::default() })
        }
    };
    let event = Event::Task(TaskEvent::new(Tenant::default(), id.clone(), "other-system", kind));
    world.client.used.push(id);
    let lane = world.fresh();
    world.publish(lane, &[event]);
}
