//! One queue of a worker: takes as many messages as there are free slots, and settles each.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{AckKind, Message, consumer::PullConsumer};
use common::{id::QueueName, limits};
use futures::StreamExt as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, interval_at, sleep, timeout, timeout_at},
};

use super::{
    attempt::{Stop, lost, returned},
    delivery::{Delivery, Outcome, may_end, on_delivery},
    engine::Engine,
    execution::{self, Execution},
    executor::Executor,
    report::report,
    run,
    running::Held,
};

/// How long nats-server keeps one pull open. A worker that leaves waits for its last pull to end,
/// since a message that meets nobody would count as delivered.
const PULL_FOR: Duration = Duration::from_millis(500);
/// How much longer to wait for the end of a pull that nats-server may never have received.
const PULL_MARGIN: Duration = Duration::from_secs(2);
/// Pause after a pull that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// How long telling nats-server about a message may take.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves a queue until the worker drains; returns when all that was taken is settled.
pub(super) async fn serve<E: Executor>(engine: Arc<Engine<E>>, queue: QueueName, slots: u32) {
    let free = Arc::new(Semaphore::new(slots.clamp(1, limits::SLOTS_MAX) as usize));
    let mut messages = JoinSet::new();
    while !engine.draining.is_cancelled() {
        let broken = match bus::streams::queue_consumer(&engine.bus, &queue).await {
            Ok(consumer) => pull(&engine, &consumer, &free, &mut messages).await,
            Err(error) => Err(error),
        };
        if let Err(error) = broken {
            tracing::warn!(%queue, %error, "cannot take work; trying again");
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = engine.draining.cancelled() => {}
            }
        }
    }
    while let Some(ended) = messages.join_next().await {
        settled(ended);
    }
}

fn settled(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a message of the work queue was left unsettled");
    }
}

/// Pulls until the worker drains or a pull fails.
async fn pull<E: Executor>(
    engine: &Arc<Engine<E>>,
    consumer: &PullConsumer,
    free: &Arc<Semaphore>,
    messages: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    loop {
        // Cancel-safe: a permit that was not handed out is still free.
        let first = tokio::select! {
            permit = free.clone().acquire_owned() => permit?,
            () = engine.draining.cancelled() => return Ok(()),
        };
        let mut permits = vec![first];
        while let Ok(permit) = free.clone().try_acquire_owned() {
            permits.push(permit);
        }
        let pulled =
            consumer.batch().max_messages(permits.len()).expires(PULL_FOR).messages().await;
        let (mut batch, end) = (pulled?, Instant::now() + PULL_FOR + PULL_MARGIN);
        while let Ok(Some(message)) = timeout_at(end, batch.next()).await {
            let message = message.map_err(|e| anyhow::anyhow!(e))?;
            let Some(permit) = permits.pop() else { break };
            messages.spawn(settle(engine.clone(), message, permit));
        }
        while let Some(ended) = messages.try_join_next() {
            settled(ended);
        }
    }
}

/// Does what a message asks for, and ends it when the log knows what became of that.
async fn settle<E: Executor>(
    engine: Arc<Engine<E>>,
    message: Message,
    _slot: OwnedSemaphorePermit,
) {
    let items = match execution::decode(&message.payload) {
        Ok(items) => items.into_iter().map(Arc::new).collect::<Vec<_>>(),
        Err(error) => {
            tracing::error!(subject = %message.subject, %error, "took an unreadable message off the queue");
            acknowledge(&message, AckKind::Term).await;
            return;
        }
    };
    let deliveries = message.info().map_or(2, |info| info.delivered);
    let held = items.iter().any(|item| engine.running.holds(item));
    let draining = engine.draining.is_cancelled();
    let outcomes = match on_delivery(deliveries, items.len(), held, draining) {
        Delivery::Leave => return,
        Delivery::Run => work(&engine, &message, items).await,
        Delivery::Lost => report_lost(&engine, &items).await,
        Delivery::Return(reason) => vec![hand_back(&engine, &items, reason).await],
    };
    if may_end(&outcomes) {
        acknowledge(&message, AckKind::Ack).await;
    }
}

async fn acknowledge(message: &Message, kind: AckKind) {
    match timeout(ACK_TIMEOUT, message.ack_with(kind)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(subject = %message.subject, %error, "failed to settle a message");
        }
        Err(_) => {
            tracing::warn!(subject = %message.subject, "nats-server did not hear about a message");
        }
    }
}

async fn report_lost<E: Executor>(
    engine: &Arc<Engine<E>>,
    items: &[Arc<Execution>],
) -> Vec<Outcome> {
    let worker = engine.options.name.as_str();
    let mut outcomes = Vec::new();
    for item in items {
        tracing::warn!(task = %item.id, attempt = item.attempt, "delivered again: reported as lost");
        let lost = lost(item.attempt, worker, "delivered again");
        outcomes.push(stored(report(engine, item, lost).await));
    }
    outcomes
}

fn stored(stored: bool) -> Outcome {
    if stored { Outcome::Stored } else { Outcome::Unknown }
}

async fn hand_back<E: Executor>(
    engine: &Arc<Engine<E>>,
    items: &[Arc<Execution>],
    reason: &str,
) -> Outcome {
    let worker = engine.options.name.as_str();
    let events = items
        .iter()
        .map(|item| engine.event(item, returned(item.attempt, worker, reason)))
        .collect();
    let published = engine.publisher.publish_all(events).await;
    if let Err(error) = &published {
        tracing::error!(%error, "failed to hand work back");
    }
    stored(published.is_ok())
}

/// Runs the items of a message, and tells nats-server meanwhile that it is being worked on.
async fn work<E: Executor>(
    engine: &Arc<Engine<E>>,
    message: &Message,
    items: Vec<Arc<Execution>>,
) -> Vec<Outcome> {
    let work = run_items(engine, items);
    tokio::pin!(work);
    let every = limits::EXECUTION_PROGRESS_EVERY;
    let mut ticks = interval_at(Instant::now() + every, every);
    loop {
        tokio::select! {
            outcomes = &mut work => return outcomes,
            _ = ticks.tick() => acknowledge(message, AckKind::Progress).await,
        }
    }
}

/// Runs the items one after another: a message has one slot, and the items of a group are short.
/// Outcomes travel while the next item runs.
async fn run_items<E: Executor>(
    engine: &Arc<Engine<E>>,
    items: Vec<Arc<Execution>>,
) -> Vec<Outcome> {
    let held = items.into_iter().map(|item| (engine.running.hold(&item), item)).collect::<Vec<_>>();
    let (mut reports, mut outcomes) = (JoinSet::new(), Vec::new());
    for (held, item) in held {
        let Some(held) = held else {
            tracing::error!(task = %item.id, attempt = item.attempt, "one attempt came in two messages");
            outcomes.push(Outcome::Unknown);
            continue;
        };
        let ending = run::run(engine, &item, &held.stop).await;
        let engine = engine.clone();
        reports.spawn(async move { conclude(&engine, &item, ending, held).await });
    }
    while let Some(reported) = reports.join_next().await {
        outcomes.push(reported.unwrap_or(Outcome::Unknown));
    }
    outcomes
}

/// Reports how an attempt ended. It is held until then, so that the heartbeat still lists it.
async fn conclude<E: Executor>(
    engine: &Arc<Engine<E>>,
    item: &Execution,
    ending: Option<common::event::Kind>,
    held: Held,
) -> Outcome {
    let word = super::attempt::word(ending.as_ref());
    (engine.options.observe)(super::engine::Observed::Ended(word));
    let outcome = match ending {
        Some(kind) if held.stop.why() != Some(Stop::Stale) => {
            stored(report(engine, item, kind).await)
        }
        Some(_) | None => Outcome::Unwanted,
    };
    drop(held);
    outcome
}
