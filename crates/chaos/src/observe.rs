//! Watches the cluster from a connection of its own while the faults go on: how far the load is, who
//! leads, and which attempts the heartbeats list.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bus::{Bus, Cursor, Message, Reader, heartbeat, streams};
use common::{
    event::Event,
    lifecycle::{self, State},
    time::Timestamp,
};
use futures::StreamExt as _;
use tokio::time::{sleep, timeout};

use crate::load::SUBSYSTEM;

const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// Messages that may be published again.
const MESSAGES_MAX: usize = 400;
/// Heartbeats come more often, unless there is nobody.
const SILENCE_MAX: Duration = Duration::from_secs(5);
const LEASE_KEY: &str = "scheduler";

/// An attempt that a heartbeat listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// When the heartbeat was stored.
    pub at: Timestamp,
    /// Whose it is.
    pub worker: String,
    /// The task.
    pub task: String,
    /// Its attempt.
    pub attempt: u32,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// The tasks of the load, as a fold of the log has them.
    pub states: HashMap<String, State>,
    /// How many of them have ended.
    pub ended: usize,
    /// The last message that was folded.
    pub sequence: u64,
    /// Who holds the lease.
    pub leader: Option<String>,
    /// What the heartbeats listed.
    pub listed: Vec<Listed>,
    /// Messages of the log, to be published again.
    pub messages: Vec<Message>,
    ours: HashSet<String>,
}

/// The observer's memory, shared.
pub type Sight = Arc<Mutex<Seen>>;

/// Looks at it.
pub fn look(sight: &Sight) -> MutexGuard<'_, Seen> {
    sight.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Folds the log from a place on, for as long as it is polled.
pub async fn follow(bus: Bus, mut cursor: Cursor, run: String, sight: Sight) {
    loop {
        if let Ok(mut reader) = Reader::open(&bus, Some(cursor)).await {
            while let Ok(messages) = reader.next(200).await {
                cursor = reader.cursor();
                let mut seen = look(&sight);
                for message in messages {
                    seen.fold(message, &run);
                }
            }
        }
        sleep(AGAIN_AFTER).await;
    }
}

impl Seen {
    fn fold(&mut self, message: Message, run: &str) {
        self.sequence = message.sequence;
        let mut all_ours = !message.items.is_empty();
        for item in &message.items {
            let Ok(Event::Task(event)) = item else {
                all_ours = false;
                continue;
            };
            if let common::event::Kind::Created(spec) = &event.kind
                && spec.as_pb().subsystem == SUBSYSTEM
                && spec.as_pb().title.starts_with(run)
            {
                self.ours.insert(event.id.to_string());
            }
            if !self.ours.contains(event.id.as_str()) {
                all_ours = false;
                continue;
            }
            let old = self.states.get(event.id.as_str()).copied();
            if let Ok(new) = lifecycle::apply(old, &event.kind) {
                let over = |state: State| state.phase.is_terminal();
                if over(new) && !old.is_some_and(over) {
                    self.ended += 1;
                }
                self.states.insert(event.id.to_string(), new);
            }
        }
        // Only what is all ours is ever published again.
        if all_ours {
            if self.messages.len() >= MESSAGES_MAX {
                let place = (message.sequence as usize).wrapping_mul(7_919) % MESSAGES_MAX;
                self.messages.swap_remove(place);
            }
            self.messages.push(message);
        }
    }
}

/// Notes what the heartbeats list, for as long as it is polled.
pub async fn listen(bus: Bus, sight: Sight) {
    loop {
        if let Ok(bucket) = streams::workers(&bus).await
            && let Ok(mut watch) = bucket.watch_all().await
        {
            // A server that was started again has forgotten the watch.
            while let Ok(Some(Ok(entry))) = timeout(SILENCE_MAX, watch.next()).await {
                let micros = entry.created.unix_timestamp_nanos() / 1_000;
                let at = Timestamp::from_micros(i64::try_from(micros).unwrap_or_default());
                let Ok(beat) = heartbeat::decode(&entry.value) else { continue };
                let listed = beat.running.into_iter().map(|attempt| Listed {
                    at,
                    worker: beat.worker.clone(),
                    task: attempt.task_id,
                    attempt: attempt.attempt,
                });
                look(&sight).listed.extend(listed);
            }
        }
        sleep(AGAIN_AFTER).await;
    }
}

/// Notes who leads, for as long as it is polled.
pub async fn who_leads(bus: Bus, sight: Sight) {
    loop {
        if let Ok(bucket) = streams::leases(&bus).await {
            let holder = timeout(Duration::from_secs(2), bucket.get(LEASE_KEY)).await;
            if let Ok(Ok(value)) = holder {
                let leader = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                look(&sight).leader = leader;
            }
        }
        sleep(AGAIN_AFTER).await;
    }
}
