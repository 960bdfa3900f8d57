//! Releases into the work queue, guarded twice: one message a subject keeps an attempt from being
//! out twice, the sequence of the fence keeps a leader of yesterday from releasing at all.

use anyhow::Context as _;
use async_nats::jetstream::{
    context::{PublishAckFuture, PublishError, PublishErrorKind},
    message::PublishMessage,
    stream::DirectGetErrorKind,
};
use bus::{Bus, streams};
use common::subject;
use futures::{FutureExt as _, future::join_all};

use crate::{
    office::{Guard, Out, Released, Sight, Step},
    outgoing::{self, Outgoing},
};

/// Names the subject whose last sequence is expected.
const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

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

    /// Moves the fence to the end of the work queue. It is a message like any other, and while it is
    /// the first one nats-server keeps a record of each that came and went after it.
    pub(crate) async fn move_fence(&mut self) -> anyhow::Result<()> {
        self.fence().await
    }

    /// Makes the work queue this leader's: releases of an older one fail from here on.
    async fn fence(&mut self) -> anyhow::Result<()> {
        let stream = streams::get(&self.bus, subject::EXECUTIONS).await?;
        // The stream takes one message a subject: the last leader's mark has to go first.
        stream.purge().filter(subject::FENCE).await.context("failed to purge fence")?;
        let ack = self.bus.jetstream().publish(subject::FENCE, "".into()).await;
        let ack = ack.context("failed to publish fence")?.await.context("failed to store fence")?;
        self.guard.fenced(ack.sequence);
        Ok(())
    }

    /// The attempts that lie in the work queue, in flight or not.
    async fn read_back(&self) -> anyhow::Result<Vec<Out>> {
        Ok(self.lying().await?.into_iter().flat_map(|(_, out)| out).collect())
    }

    /// The messages of the work queue, and the attempts in each.
    pub(crate) async fn lying(&self) -> anyhow::Result<Vec<(u64, Vec<Out>)>> {
        let stream = streams::get(&self.bus, subject::EXECUTIONS).await?;
        let mut out = Vec::new();
        let mut next = stream.cached_info().state.first_sequence;
        let last = stream.cached_info().state.last_sequence;
        while next <= last {
            match stream.direct_get_next_for_subject(subject::EXECUTIONS_ALL, Some(next)).await {
                Ok(message) => {
                    next = message.sequence + 1;
                    out.push((message.sequence, outgoing::attempts(&message.payload)));
                }
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => break,
                Err(error) => return Err(error).context("failed to read the work queue back"),
            }
        }
        Ok(out)
    }

    /// Publishes releases, all under way at once. What became of them comes later: each is guarded
    /// by the fence alone, so that nothing waits for the answers.
    pub(crate) async fn release(
        &self,
        messages: Vec<Outgoing>,
    ) -> impl Future<Output = Vec<Released>> + Send + use<> {
        let mut acks: Vec<Result<PublishAckFuture, PublishError>> =
            Vec::with_capacity(messages.len());
        for message in messages {
            let mut publish = PublishMessage::build()
                .payload(message.body.into())
                .expected_last_subject_sequence(self.guard.fence())
                .header(EXPECTED_SUBJECT, subject::FENCE);
            if !message.traceparent.is_empty() {
                publish = publish.header("traceparent", message.traceparent.as_str());
            }
            acks.push(self.bus.jetstream().send_publish(message.subject, publish).await);
        }
        // One deadline for all: each ack's begins when it is waited for.
        let answers = join_all(acks.into_iter().map(|ack| async { ack?.await }));
        let outcome = |answer| match answer {
            Ok(_) => Released::Out,
            Err(error) => refusal(&error),
        };
        answers.map(move |answers| answers.into_iter().map(outcome).collect())
    }

    /// Takes a message out of the work queue.
    pub(crate) async fn delete(&self, sequence: u64) -> anyhow::Result<()> {
        let stream = self.bus.jetstream().get_stream_no_info(subject::EXECUTIONS).await?;
        stream.delete_message(sequence).await.context("failed to call a message back")?;
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
        PublishErrorKind::WrongLastSequence => Released::FencedOff,
        PublishErrorKind::StreamNotFound
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::MaxAckPending
        | PublishErrorKind::MaxPayloadExceeded
        | PublishErrorKind::Other => Released::Refused,
    }
}

#[cfg(test)]
mod tests {
    use bus::{ConnectOptions, streams::StreamOptions};
    use testkit::NatsServer;

    use common::{id::QueueName, pb};

    use super::*;
    use crate::office;

    fn message(id: &str) -> Outgoing {
        let item = pb::Execution { task_id: id.into(), attempt: 1, ..pb::Execution::default() };
        let queue = QueueName::parse("q").expect("a token");
        Outgoing::new(&queue, vec![item], false).expect("it has an item")
    }

    /// Releases that were sent together expect one end of the work queue after the other, and a
    /// new leader's fence makes one of these: the second and all after it went in behind the fence.
    #[tokio::test]
    async fn a_fence_turns_away_every_release_of_a_series() {
        let server = NatsServer::start().expect("nats-server");
        let options = ConnectOptions { url: server.url(), name: "test".into(), credentials: None };
        let bus = bus::connect(&options).await.expect("a connection");
        streams::ensure(&bus, StreamOptions::default()).await.expect("streams");
        let (mut old, mut new) = (Dispatcher::new(bus.clone()), Dispatcher::new(bus));
        old.take(&office::TAKE_OVER).await.expect("the work queue");
        let first = old.release(vec![message("a"), message("a"), message("b")]).await.await;
        assert_eq!(first, [Released::Out; 3], "an attempt that lies there is out");
        let sight = new.take(&office::TAKE_OVER).await.expect("the work queue");
        assert_eq!(sight.out.len(), 2);
        let late = old.release(vec![message("c"), message("d"), message("e")]).await.await;
        assert_eq!(late, [Released::FencedOff; 3]);
        assert_eq!(new.release(vec![message("c"), message("d")]).await.await, [Released::Out; 2]);
    }
}
