//! Waits until the cluster has come to rest.

use std::time::Duration;

use anyhow::{Context as _, bail};
use common::pb;
use launch::eventually;
use tokio::time::{Instant, sleep};

use super::{LOOK_EVERY, Run, Target};
use crate::{observe, submit};

/// How long everything may take to end after the last fault.
const REST_WITHIN: Duration = Duration::from_secs(150);

impl Run {
    /// Waits until everything has ended, and nothing is left anywhere.
    pub(super) async fn rest(&mut self, say: &(dyn Fn(&str) + Sync)) -> anyhow::Result<()> {
        let until = Instant::now() + REST_WITHIN;
        loop {
            self.actor.cluster.look_after()?;
            let (done, ids) = {
                let accepted = submit::memory(&self.actor.accepted);
                let ids = accepted.ids.values().flatten().cloned().collect::<Vec<_>>();
                (accepted.done >= self.actor.items.len(), ids)
            };
            let open: Vec<_> = {
                let seen = observe::look(&self.actor.sight);
                let over = |id: &&String| {
                    seen.states.get(*id).is_some_and(|state| state.phase.is_terminal())
                };
                let open = ids.iter().filter(|id| !over(id)).cloned();
                let unasked = seen.states.iter().filter(|(_, s)| !s.phase.is_terminal());
                open.chain(unasked.map(|(id, _)| id.clone())).collect()
            };
            if done && open.is_empty() {
                break;
            }
            if Instant::now() > until {
                let accepted = submit::memory(&self.actor.accepted).done;
                let (all, why) = (self.actor.items.len(), self.why(&open).await);
                bail!(
                    "after {REST_WITHIN:?} {accepted} of {all} tasks are accepted and {} have not ended: {why}",
                    open.len()
                );
            }
            sleep(LOOK_EVERY).await;
        }
        say(&format!("{}: every task has ended", self.name));
        self.happened("every task has ended".into());
        let own = matches!(self.options.target, Target::Own(_));
        let bus = self.actor.bus.clone();
        let mut left = Vec::new();
        let empty = eventually("an empty work queue", Duration::from_secs(75), async || {
            left = crate::check::work_queue(&bus, own).await.ok()?;
            left.is_empty().then_some(())
        });
        empty.await.with_context(|| format!("in the work queue: {left:?}"))?;
        self.happened("the work queue is empty".into());
        Ok(())
    }

    async fn why(&self, open: &[String]) -> String {
        let mut told = Vec::new();
        for id in open.iter().take(5) {
            let request = pb::WhyRequest { tenant: String::new(), task_id: id.clone() };
            let answer = self.actor.client.why(&request).await;
            told.push(match answer {
                Ok(why) => format!("{id}: {:?}", why.reasons),
                Err(error) => format!("{id}: {error}"),
            });
        }
        told.join("; ")
    }
}
