//! The faults that need nothing but NATS: what is sent, delivered or submitted once more.

use async_nats::HeaderMap;
use common::task::TaskSpec;
use tokio::time::timeout;

use super::{ANSWER_WITHIN, Actor, Open, Outcome, TWICE};
use crate::{cluster::Role, load::Door, observe, plan::Dice, proxy, submit};

impl Actor {
    /// Publishes messages of the log once more, as they were.
    pub(super) async fn publish_again(&mut self, dice: &mut Dice) -> anyhow::Result<Outcome> {
        let mut messages = observe::look(&self.sight).messages.clone();
        dice.shuffle(&mut messages);
        messages.truncate(dice.between(10, 40) as usize);
        if messages.is_empty() {
            return Ok(Outcome::Later);
        }
        let mut stored = 0;
        for message in messages {
            let mut headers = HeaderMap::new();
            if let Some(kind) = &message.content_type {
                headers.insert("Content-Type", kind.as_str());
            }
            let sent = async {
                let jetstream = self.bus.jetstream();
                let ack = jetstream.publish_with_headers(message.subject, headers, message.payload);
                anyhow::Ok(ack.await?.await?)
            };
            match timeout(ANSWER_WITHIN, sent).await {
                Ok(Ok(_)) => stored += 1,
                Ok(Err(_)) | Err(_) => break,
            }
        }
        Ok(if stored == 0 { Outcome::Later } else { Outcome::Done(format!("{stored} messages")) })
    }

    /// Tells nats-server that the newest deliveries failed, so that others get them.
    pub(super) async fn deliver_again(&mut self, open: &mut Open) -> anyhow::Result<Outcome> {
        let newest = |member: &crate::cluster::Member| {
            let deliveries = member.proxy.deliveries();
            deliveries.into_iter().rev().take(TWICE as usize).collect::<Vec<_>>()
        };
        let replies: Vec<_> = self.cluster.members.values().flat_map(newest).collect();
        for reply in replies {
            if let Some((_, place)) = proxy::delivery(&reply) {
                open.again.push(place);
            }
            self.bus.client().publish(reply, "-NAK".into()).await?;
        }
        if open.again.is_empty() {
            return Ok(Outcome::Later);
        }
        Ok(Outcome::Done(format!("{} messages refused", open.again.len())))
    }

    pub(super) fn doubled(&self) -> u32 {
        self.cluster.members.values().map(|member| member.proxy.doubled()).sum()
    }

    pub(super) fn deliver_twice(&mut self, dice: &mut Dice, open: &mut Open) -> Outcome {
        open.doubled = self.doubled();
        let Some(name) = self.any(Role::Worker, dice) else { return Outcome::Later };
        if let Some(member) = self.cluster.members.get(&name) {
            member.proxy.deliver_twice(TWICE);
        }
        Outcome::Done(name)
    }

    /// Submits tasks that were accepted once more: they must be the same tasks.
    pub(super) async fn submit_again(&mut self, dice: &mut Dice) -> Outcome {
        let known: Vec<usize> = submit::memory(&self.accepted).ids.keys().copied().collect();
        let is_keyed = |n: &usize| self.items.get(*n).is_some_and(|i| i.door == Door::Keyed);
        let mut known: Vec<_> = known.into_iter().filter(is_keyed).collect();
        known.sort_unstable();
        dice.shuffle(&mut known);
        known.truncate(10);
        let mut again = 0;
        for n in known {
            let Some(item) = self.items.get(n) else { continue };
            let Ok(spec) = TaskSpec::parse(item.spec.clone()) else { continue };
            match timeout(ANSWER_WITHIN, self.client.submit(spec)).await {
                Ok(Ok(answer)) if answer.existing && answer.task_id == item.spec.task_id => {
                    again += 1;
                }
                Ok(Ok(answer)) => self.broken.push(format!(
                    "submitted again, task {} became {} (existing: {})",
                    item.spec.task_id, answer.task_id, answer.existing
                )),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        if again == 0 { Outcome::Later } else { Outcome::Done(format!("{again} submissions")) }
    }
}
