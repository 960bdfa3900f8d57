//! **Pure.** Limits, schedules and task types as people set them, and submissions that name a type.

use std::time::Duration;

use common::{
    id::DocumentName,
    pb::{self, catch_up::Mode, schedule},
    policy::{self, Body, Document},
};

use super::{Order, QUEUES, millis};
use crate::{random::Random, world::World};

/// Schedules that somebody sets.
const SCHEDULES: [&str; 2] = ["calm", "often"];
/// Task types; the second brings a schedule of its own name.
pub const TYPES: [&str; 2] = ["digest", "report"];

/// A change of a limit of the second queue: for all, or for each key.
pub(super) fn limit(world: &mut World) {
    let random = &mut world.random;
    let name = ["all", "each", "pace"][random.below(3)];
    let mut limit = pb::Limit { queue: QUEUES[1].into(), ..pb::Limit::default() };
    match name {
        "all" => limit.concurrency = Some(random.between(1, 3) as u32),
        "each" => {
            limit.key = "input.k".into();
            limit.concurrency = Some(random.between(1, 2) as u32);
        }
        _ => {
            let count = random.between(2, 8) as u32;
            limit.rate = Some(pb::LimitRate { count, per: Some(millis(2_000)), burst: None });
        }
    }
    let body = if random.one_in(3) {
        Body::Removed(policy::Kind::Limit)
    } else {
        Body::Limit(Box::new(limit))
    };
    world.client.orders.push(Order::Documents(vec![document(name, body)]));
}

/// A change of a schedule or a type.
pub(super) fn change(world: &mut World) {
    let document = match world.random.below(2) {
        0 => schedule(world),
        _ => task_type(world),
    };
    world.client.orders.push(Order::Documents(vec![document]));
}

/// A document as somebody asks for it.
pub fn document(name: &str, body: Body) -> Document {
    let name = DocumentName::parse(name).expect("invariant: a name");
    Document { name, version: 0, carried: None, body }
}

fn schedule(world: &mut World) -> Document {
    let random = &mut world.random;
    let name = SCHEDULES[random.below(SCHEDULES.len())];
    if random.one_in(8) {
        return document(name, Body::Removed(policy::Kind::Schedule));
    }
    let when = match random.below(3) {
        0 => schedule::When::Cron(["*/5 * * * * *", "*/2 * * * * *"][random.below(2)].into()),
        _ => schedule::When::Every(millis(random.between(2, 15) * 1_000)),
    };
    let catch_up = pb::CatchUp {
        mode: [Mode::None, Mode::Last, Mode::All][random.below(3)].into(),
        window: Some(Duration::from_secs(60 + 60 * random.below(2) as u64).into()),
        max: Some(1 + random.below(6) as u32),
    };
    let overlap = [
        schedule::Overlap::Skip,
        schedule::Overlap::Queue,
        schedule::Overlap::CancelOlder,
        schedule::Overlap::Allow,
    ][random.below(4)];
    let worker = pb::Worker { handler: "h".into() };
    let mut task = pb::TaskSpec {
        queue: QUEUES[usize::from(random.one_in(4))].into(),
        retry: Some(pb::Retry {
            max_attempts: Some(random.between(1, 2) as i32),
            ..pb::Retry::default()
        }),
        ..pb::TaskSpec::default()
    };
    if random.one_in(3) {
        TYPES[random.below(2)].clone_into(&mut task.task_type);
    } else {
        task.executor = Some(pb::Executor { kind: Some(pb::executor::Kind::Worker(worker)) });
    }
    let body = pb::Schedule {
        when: Some(when),
        overlap: overlap.into(),
        runs_max: random.one_in(2).then(|| random.between(1, 4) as u32),
        catch_up: random.one_in(2).then_some(catch_up),
        jitter: random.one_in(4).then(|| millis(random.between(100, 4_000))),
        paused: random.one_in(5),
        task: Some(task),
        ..pb::Schedule::default()
    };
    document(name, Body::Schedule(Box::new(body)))
}

fn task_type(world: &mut World) -> Document {
    let random = &mut world.random;
    let name = TYPES[random.below(2)];
    if random.one_in(10) {
        return document(name, Body::Removed(policy::Kind::TaskType));
    }
    let worker = pb::Worker { handler: "h".into() };
    let unique = pb::Unique {
        key: "{{ input.k | default('none') }}".into(),
        period: Some(millis(random.between(4, 30) * 1_000)),
    };
    let of_type = pb::TaskType {
        name: name.into(),
        description: format!("as of {}", random.below(1_000)),
        executor: Some(pb::Executor { kind: Some(pb::executor::Kind::Worker(worker)) }),
        queue: QUEUES[usize::from(random.one_in(4))].into(),
        priority: random.one_in(2).then(|| random.between(1, 10) as i32),
        unique: random.one_in(2).then_some(unique),
        schedule: match (name, random.below(3)) {
            ("report", 0) => "every 4s".into(),
            ("report", 1) => "*/10 * * * * *".into(),
            _ => String::new(),
        },
        enabled: Some(!random.one_in(4)),
        ..pb::TaskType::default()
    };
    document(name, Body::TaskType(Box::new(of_type)))
}

/// Makes a submission one that gets its executor from its type.
pub(super) fn typed(random: &mut Random, spec: &mut pb::TaskSpec) {
    TYPES[random.below(2)].clone_into(&mut spec.task_type);
    spec.executor = None;
    spec.by_hand = random.one_in(6);
    spec.input = Some(pb::Json { text: format!("{{\"k\": {}}}", random.below(3)) });
}

/// What lets a world come to rest: types are enabled, and no schedule fires any more.
pub fn rest(world: &World) -> Vec<Document> {
    let rest = |known: &policy::Known| {
        let body = match known.document.body.clone() {
            Body::TaskType(mut body) if body.enabled == Some(false) => {
                body.enabled = Some(true);
                Body::TaskType(body)
            }
            Body::Schedule(mut body) if !body.paused => {
                (body.paused, body.pause_reason) = (true, "the end".into());
                Body::Schedule(body)
            }
            _ => return None,
        };
        Some(document(known.document.name.as_str(), body))
    };
    world.truth.policies.of(None).filter_map(rest).collect()
}
