//! The tasks and limits of a run.

use common::{
    event::{Event, Pause, Policy, PolicyEvent},
    id::{DocumentName, QueueName},
    pb,
    policy::{Body, Document},
    task::TaskSpec,
    time::Timestamp,
};

use super::{QUEUE, model::NAMES};
use crate::random::Random;

/// A version of a limit.
pub(super) fn document(name: &str, version: u64, body: Body) -> Event {
    let name = DocumentName::parse(name).expect("a name");
    let document = Document { name, version, carried: None, body };
    let policy = Policy::Document(Box::new(document));
    Event::Policy(PolicyEvent { actor: "sim".into(), policy })
}

/// The queue is paused until then.
pub(super) fn pause(until_us: i64) -> Event {
    let queue = QueueName::parse(QUEUE).ok();
    let until = Some(Timestamp::from_micros(until_us));
    let policy = Policy::Paused(Pause { queue, reason: String::new(), until });
    Event::Policy(PolicyEvent { actor: "sim".into(), policy })
}

/// A task of a customer.
pub(super) fn spec(id: &str, customer: &str, priority: u8) -> TaskSpec {
    let worker = pb::Worker { handler: "h".into() };
    let text = format!(r#"{{"customer": "{customer}"}}"#);
    TaskSpec::parse(pb::TaskSpec {
        task_id: id.into(),
        queue: QUEUE.into(),
        task_type: "short".into(),
        priority: Some(i32::from(priority)),
        executor: Some(pb::Executor { kind: Some(pb::executor::Kind::Worker(worker)) }),
        input: Some(pb::Json { text }),
        ..pb::TaskSpec::default()
    })
    .expect("a task")
}

/// One of the limits, with other numbers, or its end.
pub(super) fn menu(random: &mut Random) -> (&'static str, Option<pb::Limit>) {
    let ms = |ms: u64| Some(std::time::Duration::from_millis(ms).into());
    let name = NAMES[random.weighted(&[3, 1, 1, 3, 3, 2, 1, 3])];
    if random.one_in(4) {
        return (name, None);
    }
    let mut limit = pb::Limit { queue: QUEUE.into(), ..pb::Limit::default() };
    let some = random.between(1, 4) as u32;
    match name {
        "all" => limit.concurrency = Some(some * 3),
        "rate" => {
            limit.rate = Some(pb::LimitRate { count: some * 4, per: ms(1_000), burst: Some(some) });
        }
        "depth" => {
            limit.depth = Some(u64::from(some) * 10);
            limit.ttl = ms(20_000);
        }
        "old" => limit.ageing = ms(2_000),
        _ => {
            limit.key = "input.customer".into();
            match name {
                "each" => limit.concurrency = Some(some),
                "each-rate" => {
                    let burst = Some(1 + some % 2);
                    limit.rate = Some(pb::LimitRate { count: some, per: ms(2_000), burst });
                }
                "one" => limit.singleton = (1 + some as i32 % 2).min(2),
                _ => {
                    limit.debounce = Some(pb::LimitDebounce { quiet: ms(600), longest: ms(2_000) });
                }
            }
        }
    }
    (name, Some(limit))
}
