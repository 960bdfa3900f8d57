//! Releases into the work queue, guarded twice: one message a subject keeps an attempt from being
//! out twice, the expected sequence keeps a leader of yesterday from releasing at all.

use anyhow::Context as _;
use async_nats::jetstream::{
    context::{PublishAckFuture, PublishError, PublishErrorKind},
    message::PublishMessage,
    stream::DirectGetErrorKind,
};
use bus::{Bus, streams};
use common::subject;
use futures::future::join_all;

use crate::{
    office::{Guard, Out, Released, Sight, Step},
    outgoing::{self, Outgoing},
};

/// The only publisher of the work queue while its process leads.
pub(crate) struct Dispatcher {
    bus: Bus,
    guard: Guard,
}

impl Dispatcher {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus, guard: Guard::default() }
    }

    /// Takes steps towards knowing where released attempts are.
    pub(crate) async fn take(&mut self, steps: &[Step]) -> anyhow::Result<Sight> {
        let mut sight = Sight::default();
        for step in steps {
            match step {
                Step::Fence => self.fence().await?,
                Step::ReadBack => sight.out = self.read_back().await?,
                Step::ReadEnd => sight.last = streams::last_sequence(&self.bus).await?,
            }
        }
        Ok(sight)
    }

    /// Makes the work queue this leader's: releases of an older one fail from here on.
    async fn fence(&mut self) -> anyhow::Result<()> {
        let stream = streams::get(&self.bus, subject::EXECUTIONS).await?;
        // The stream takes one message a subject: the last leader's mark has to go first.
        stream.purge().filter(subject::FENCE).await.context("failed to purge fence")?;
        let ack = self.bus.jetstream().publish(subject::FENCE, "".into()).await;
        let ack = ack.context("failed to publish fence")?.await.context("failed to store fence")?;
        self.guard.ends_at(ack.sequence);
        Ok(())
    }

    /// The attempts that lie in the work queue, in flight or not.
    async fn read_back(&self) -> anyhow::Result<Vec<Out>> {
        let stream = streams::get(&self.bus, subject::EXECUTIONS).await?;
        let mut out = Vec::new();
        let mut next = stream.cached_info().state.first_sequence;
        let last = stream.cached_info().state.last_sequence;
        while next <= last {
            match stream.direct_get_next_for_subject(subject::EXECUTIONS_ALL, Some(next)).await {
                Ok(message) => {
                    next = message.sequence + 1;
                    out.extend(outgoing::attempts(&message.payload));
                }
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => break,
                Err(error) => return Err(error).context("failed to read the work queue back"),
            }
        }
        Ok(out)
    }

    /// Publishes releases in order, all under way at once; after a refusal the sequence is read
    /// again, and what came after it has been refused with it.
    pub(crate) async fn release(&mut self, messages: &[Outgoing]) -> Vec<Released> {
        let mut acks: Vec<Result<PublishAckFuture, PublishError>> =
            Vec::with_capacity(messages.len());
        for (n, message) in (0..).zip(messages) {
            let mut publish = PublishMessage::build()
                .payload(message.body.clone().into())
                .expected_last_sequence(self.guard.expects(n));
            if !message.traceparent.is_empty() {
                publish = publish.header("traceparent", message.traceparent.as_str());
            }
            acks.push(self.bus.jetstream().send_publish(message.subject.clone(), publish).await);
        }
        // One deadline for all: each ack's begins when it is waited for.
        let answers = join_all(acks.into_iter().map(|ack| async { ack?.await })).await;
        let mut outcomes = Vec::with_capacity(messages.len());
        let mut in_step = true;
        for answer in answers {
            outcomes.push(match answer {
                Ok(ack) => {
                    self.guard.ends_at(ack.sequence);
                    Released::Out
                }
                Err(error) => {
                    in_step = false;
                    refusal(&error)
                }
            });
        }
        if !in_step && let Err(error) = self.resynchronise().await {
            tracing::warn!(error = format!("{error:#}"), "the work queue does not answer");
        }
        outcomes
    }

    async fn resynchronise(&mut self) -> anyhow::Result<()> {
        let stream = streams::get(&self.bus, subject::EXECUTIONS).await?;
        self.guard.ends_at(stream.cached_info().state.last_sequence);
        Ok(())
    }

    /// Takes an attempt out of the work queue, unless a worker has it already.
    pub(crate) async fn withdraw(&self, subject: &str) -> anyhow::Result<()> {
        let stream = self.bus.jetstream().get_stream_no_info(subject::EXECUTIONS).await?;
        let sequence = match stream.direct_get_last_for_subject(subject).await {
            Ok(message) => message.sequence,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).context("failed to find a released attempt"),
        };
        stream.delete_message(sequence).await.context("failed to withdraw an attempt")?;
        Ok(())
    }
}

fn refusal(error: &PublishError) -> Released {
    let already_out = error.kind() == PublishErrorKind::Other
        && error.to_string().contains("maximum messages per subject exceeded");
    if already_out {
        return Released::Out;
    }
    tracing::debug!(%error, "a release was refused");
    match error.kind() {
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Released::Unknown,
        PublishErrorKind::StreamNotFound
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence
        | PublishErrorKind::MaxAckPending
        | PublishErrorKind::MaxPayloadExceeded
        | PublishErrorKind::Other => Released::Refused,
    }
}
