//! Waits for the ends of many tasks: hears of them as soon as they are durable, and asks for those
//! that nobody told it about.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use async_nats::Subscriber;
use common::{
    error::ErrorCode,
    id::{TaskId, Tenant},
    pb::{self, TaskState},
};
use futures::{StreamExt as _, stream};
use jetmill_sdk::Client;
use prost::Message as _;
use tokio::time::{Instant, sleep_until};

/// Silence after which it asks.
const ASK_AFTER: Duration = Duration::from_secs(2);
/// Tasks that one round asks about, and how many at once.
const ASK_MAX: usize = 1_000;
const ASK_AT_ONCE: usize = 32;

type Key = (String, String);

/// The tasks that are waited for.
pub(crate) struct Waiter {
    client: Client,
    inbox: String,
    outcomes: Subscriber,
    open: HashSet<Key>,
    /// Heard of before the submission was answered.
    early: HashMap<Key, pb::Outcome>,
    ended: VecDeque<pb::Outcome>,
    ask_at: Instant,
}

impl Waiter {
    /// Listens; the submissions must name its [`Waiter::inbox`] in `notify`.
    pub(crate) async fn new(client: &Client) -> anyhow::Result<Self> {
        let nats = client.bus().client();
        let inbox = nats.new_inbox();
        let outcomes = nats.subscribe(inbox.clone()).await?;
        Ok(Self {
            client: client.clone(),
            inbox,
            outcomes,
            open: HashSet::new(),
            early: HashMap::new(),
            ended: VecDeque::new(),
            ask_at: Instant::now() + ASK_AFTER,
        })
    }

    /// Where outcomes are to be sent.
    pub(crate) fn inbox(&self) -> &str {
        &self.inbox
    }

    /// Waits for this task as well.
    pub(crate) fn expect(&mut self, submission: &pb::Submission) {
        let key = (submission.tenant.clone(), submission.task_id.clone());
        if let Some(outcome) = self.early.remove(&key) {
            self.ended.push_back(outcome);
            return;
        }
        if submission.existing {
            // It tells whom its first submitter named, so it must be asked about.
            self.ask_at = Instant::now();
        }
        self.open.insert(key);
    }

    /// Whether every task that was expected has ended and was given out.
    pub(crate) fn is_done(&self) -> bool {
        self.open.is_empty() && self.ended.is_empty()
    }

    /// The next outcome. Cancel-safe: what was heard is kept until it is returned.
    pub(crate) async fn next(&mut self) -> pb::Outcome {
        loop {
            if let Some(outcome) = self.ended.pop_front() {
                return outcome;
            }
            // Both arms are cancel-safe.
            tokio::select! {
                Some(message) = self.outcomes.next() => self.hear(&message.payload),
                () = sleep_until(self.ask_at) => self.ask().await,
            }
        }
    }

    fn hear(&mut self, payload: &[u8]) {
        let Ok(outcome) = pb::Outcome::decode(payload) else { return };
        self.ask_at = Instant::now() + ASK_AFTER;
        let key = (outcome.tenant.clone(), outcome.task_id.clone());
        if self.open.remove(&key) {
            self.ended.push_back(outcome);
        } else {
            self.early.insert(key, outcome);
        }
    }

    async fn ask(&mut self) {
        let some = self.open.iter().take(ASK_MAX).cloned().collect::<Vec<_>>();
        let client = &self.client;
        let answers = stream::iter(some)
            .map(|key| async move {
                let names = (Tenant::parse_or_default(&key.0), TaskId::parse(&key.1));
                let (Ok(tenant), Ok(id)) = names else { return None };
                match client.outcome(&tenant, &id).await {
                    Ok(outcome) => Some((key, outcome)),
                    Err(error) if error.code == ErrorCode::FailedPrecondition => None,
                    Err(error) => {
                        tracing::warn!(task = %id, %error, hint = error.hint, "still waiting");
                        None
                    }
                }
            })
            .buffer_unordered(ASK_AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        for (key, outcome) in answers.into_iter().flatten() {
            if outcome.state() > TaskState::Running && self.open.remove(&key) {
                self.ended.push_back(outcome);
            }
        }
        self.ask_at = Instant::now() + ASK_AFTER;
    }
}
