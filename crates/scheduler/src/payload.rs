//! The submissions at the heads of the queues: kept within a byte budget, fetched from the log
//! when they are not.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use anyhow::Context as _;
use bus::{Bus, Message};
use common::{
    event::{Event, Kind, TaskEvent},
    id::{TaskId, Tenant},
    limits,
    task::TaskSpec,
    time::Timestamp,
};
use uuid::Uuid;

use crate::{plan::Ticket, why::Names};

/// Fetched messages that are kept for their other items.
const FETCHED_MAX: usize = 16;

/// A submission and when the log took it.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) created_at: Timestamp,
}

/// Whose task an event is about, and when the log took it.
pub(crate) struct Report {
    pub(crate) names: (Tenant, TaskId),
    pub(crate) at: Timestamp,
}

/// Submissions by task.
pub(crate) struct Payloads {
    bus: Bus,
    stream: Uuid,
    kept: HashMap<Ticket, (Payload, usize)>,
    bytes: usize,
    fetched: VecDeque<Arc<Message>>,
}

impl Payloads {
    pub(crate) fn new(bus: Bus, stream: Uuid) -> Self {
        Self { bus, stream, kept: HashMap::new(), bytes: 0, fetched: VecDeque::new() }
    }

    /// Keeps a new task's submission while there is room.
    pub(crate) fn keep(&mut self, ticket: Ticket, spec: &TaskSpec, created_at: Timestamp) {
        // Strings and vectors take about this much more than their encoding.
        let size = 256 + 2 * prost::Message::encoded_len(spec.as_pb());
        if self.bytes + size <= limits::PAYLOAD_CACHE_BYTES_MAX {
            let payload = Payload { spec: Arc::new(spec.clone()), created_at };
            self.bytes += size;
            self.kept.insert(ticket, (payload, size));
        }
    }

    /// The task is over, or its submission is not needed soon.
    pub(crate) fn drop(&mut self, ticket: Ticket) {
        if let Some((_, size)) = self.kept.remove(&ticket) {
            self.bytes -= size;
        }
    }

    /// The submission that lies at this place of the log.
    pub(crate) async fn get(
        &mut self,
        ticket: Ticket,
        sequence: u64,
        index: u32,
    ) -> anyhow::Result<Payload> {
        if let Some((payload, _)) = self.kept.get(&ticket) {
            return Ok(payload.clone());
        }
        let message = self.message(sequence).await?;
        payload(&message, index)
    }

    /// Whose task the event at this place of the log is about, and when the log took it.
    pub(crate) async fn report(&mut self, sequence: u64, index: u32) -> anyhow::Result<Report> {
        let message = self.message(sequence).await?;
        match message.items.get(index as usize) {
            Some(Ok(Event::Task(TaskEvent { tenant, id, .. }))) => {
                Ok(Report { names: (tenant.clone(), id.clone()), at: message.at })
            }
            _ => anyhow::bail!("item {index} of message {sequence} is about no task"),
        }
    }

    async fn message(&mut self, sequence: u64) -> anyhow::Result<Arc<Message>> {
        if let Some(message) = self.fetched.iter().find(|m| m.sequence == sequence) {
            return Ok(message.clone());
        }
        let message = fetch(&self.bus, self.stream, sequence).await?;
        if self.fetched.len() == FETCHED_MAX {
            self.fetched.pop_front();
        }
        self.fetched.push_back(message.clone());
        Ok(message)
    }
}

async fn fetch(bus: &Bus, stream: Uuid, sequence: u64) -> anyhow::Result<Arc<Message>> {
    let message = bus::fetch(bus, stream, sequence).await?;
    Ok(Arc::new(message.with_context(|| format!("the log has no message {sequence} any more"))?))
}

fn payload(message: &Message, index: u32) -> anyhow::Result<Payload> {
    match message.items.get(index as usize) {
        Some(Ok(Event::Task(TaskEvent { kind: Kind::Created(spec), .. }))) => {
            Ok(Payload { spec: Arc::new((**spec).clone()), created_at: message.at })
        }
        Some(Ok(Event::Task(TaskEvent { kind: Kind::Carried(carried), .. }))) => {
            let spec = carried.spec.as_ref().context("it was carried without a submission")?;
            Ok(Payload { spec: Arc::new((**spec).clone()), created_at: carried.created_at })
        }
        Some(Ok(Event::Task(TaskEvent { kind: Kind::Resolved(resolved), .. }))) => {
            Ok(Payload { spec: Arc::new(resolved.spec.clone()), created_at: resolved.created_at })
        }
        _ => anyhow::bail!("item {index} of message {} is no submission", message.sequence),
    }
}

/// The ids of the tasks whose submissions lie at these places. One that cannot be read is not named.
pub(crate) async fn names(bus: &Bus, places: Vec<(u64, u32)>) -> Names {
    let mut names = Names::new();
    let Ok(stream) = bus::streams::identity(bus).await else { return names };
    for (sequence, index) in places {
        if let Ok(message) = fetch(bus, stream, sequence).await
            && let Some(Ok(Event::Task(event))) = message.items.get(index as usize)
        {
            names.insert((sequence, index), event.id.to_string());
        }
    }
    names
}

/// What an event that took effect submits, and when the log took that.
pub(crate) fn submitted(kind: &Kind, at: Timestamp) -> Option<(&TaskSpec, Timestamp)> {
    if let Kind::Created(spec) = kind {
        Some((spec, at))
    } else if let Kind::Resolved(resolved) = kind {
        Some((&resolved.spec, resolved.created_at))
    } else {
        None
    }
}

/// A submission, for doors that need one now and then.
pub(crate) async fn spec_at(bus: &Bus, sequence: u64, index: u32) -> anyhow::Result<TaskSpec> {
    let message = fetch(bus, bus::streams::identity(bus).await?, sequence).await?;
    Ok((*payload(&message, index)?.spec).clone())
}
