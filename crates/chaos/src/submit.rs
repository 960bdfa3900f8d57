//! Submits the load through its doors, again and again where nobody answers, and remembers what was
//! accepted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bus::Publisher;
use common::{
    error::ErrorCode,
    event::{Event, Kind, TaskEvent},
    task::TaskSpec,
};
use futures::{StreamExt as _, stream};
use jetmill_sdk::{Client, pb};
use tokio::time::{Instant, sleep, sleep_until};

use crate::load::{Door, Item};

/// Tasks that are submitted at once.
const WAVE: usize = 40;
const AT_ONCE: usize = 8;
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What became of the submissions.
#[derive(Debug, Default)]
pub struct Accepted {
    /// The ids under which each item was accepted.
    pub ids: HashMap<usize, Vec<String>>,
    /// Items whose first answers never came, so that the log may have them more than once.
    pub unsure: HashMap<usize, u32>,
    /// Items that are through: accepted, or given up.
    pub done: usize,
    /// Items that were refused for good, with the reason.
    pub refused: Vec<String>,
    /// Submissions that were answered with a task that was there already.
    pub existing: u64,
}

/// The submitter's memory, shared.
pub type Memory = Arc<Mutex<Accepted>>;

/// Looks at the memory.
pub fn memory(memory: &Memory) -> MutexGuard<'_, Accepted> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Submits all items, spread over the time; returns when each is accepted.
pub async fn run(client: Client, items: Arc<Vec<Item>>, time: Duration, seen: Memory) {
    let begun = Instant::now();
    let (publisher, pump) = Publisher::new(client.bus());
    let waves = items.len().div_ceil(WAVE).max(1) as u32;
    let submitting = async {
        for wave in 0..waves {
            sleep_until(begun + time * wave / waves).await;
            let first = wave as usize * WAVE;
            let places = first..(first + WAVE).min(items.len());
            submit(&client, &publisher, &items, places.collect(), &seen).await;
        }
    };
    // The pump ends only with its publishers.
    tokio::select! {
        () = submitting => {}
        () = pump => {}
    }
}

/// Submits some items, until each is accepted.
pub async fn submit(
    client: &Client,
    publisher: &Publisher,
    items: &[Item],
    places: Vec<usize>,
    seen: &Memory,
) {
    let of = |door: Door| {
        let fits = |n: &usize| items.get(*n).is_some_and(|item| item.door == door);
        places.iter().copied().filter(fits).collect::<Vec<_>>()
    };
    let each: Vec<_> = of(Door::Keyed).into_iter().map(|n| one(client, items, n, seen)).collect();
    let keyed = stream::iter(each).buffer_unordered(AT_ONCE).collect::<Vec<()>>();
    tokio::join!(
        keyed,
        fresh(client, items, of(Door::Fresh), seen),
        bundled(publisher, items, of(Door::Bundled), seen)
    );
}

fn spec(items: &[Item], n: usize) -> Option<TaskSpec> {
    TaskSpec::parse(items.get(n)?.spec.clone()).ok()
}

fn accepted(seen: &Memory, n: usize, submission: &pb::Submission) {
    let mut seen = memory(seen);
    seen.done += 1;
    seen.existing += u64::from(submission.existing);
    seen.ids.entry(n).or_default().push(submission.task_id.clone());
}

async fn one(client: &Client, items: &[Item], n: usize, seen: &Memory) {
    let Some(spec) = spec(items, n) else { return };
    loop {
        match client.submit(spec.clone()).await {
            Ok(submission) => return accepted(seen, n, &submission),
            Err(error) if matches!(error.code, ErrorCode::Unavailable | ErrorCode::Exhausted) => {
                *memory(seen).unsure.entry(n).or_default() += 1;
                sleep(AGAIN_AFTER).await;
            }
            Err(error) => {
                let mut seen = memory(seen);
                seen.done += 1;
                seen.refused.push(format!("task {n}: {error}"));
                return;
            }
        }
    }
}

/// Without an id a repeat is another task, so each has to be counted.
async fn fresh(client: &Client, items: &[Item], mut left: Vec<usize>, seen: &Memory) {
    while !left.is_empty() {
        let specs = left.iter().filter_map(|n| spec(items, *n)).collect();
        let answers = client.submit_all(specs).await;
        let mut again = Vec::new();
        for (n, answer) in left.into_iter().zip(answers) {
            if let Ok(submission) = answer {
                accepted(seen, n, &submission);
            } else {
                *memory(seen).unsure.entry(n).or_default() += 1;
                again.push(n);
            }
        }
        left = again;
        if !left.is_empty() {
            sleep(AGAIN_AFTER).await;
        }
    }
}

async fn bundled(publisher: &Publisher, items: &[Item], left: Vec<usize>, seen: &Memory) {
    if left.is_empty() {
        return;
    }
    let events: Vec<_> = left.iter().filter_map(|n| created(items, *n)).collect();
    while let Err(error) = publisher.publish_all(events.clone()).await {
        tracing::debug!(%error, "a bundle again");
        for n in &left {
            *memory(seen).unsure.entry(*n).or_default() += 1;
        }
        sleep(AGAIN_AFTER).await;
    }
    for n in left {
        let Some(item) = items.get(n) else { continue };
        let task_id = item.spec.task_id.clone();
        accepted(seen, n, &pb::Submission { task_id, ..pb::Submission::default() });
    }
}

fn created(items: &[Item], n: usize) -> Option<Event> {
    let spec = spec(items, n)?;
    let id = spec.id()?;
    let kind = Kind::Created(Box::new(spec.clone().with_id(&id)));
    Some(Event::Task(TaskEvent::new(spec.tenant(), id, "", kind)))
}
