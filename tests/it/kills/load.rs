//! 300 tasks of every kind, and the proof that each ended once and as it had to.

use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use bus::Reader;
use common::{
    event::Event,
    lifecycle::{self, State},
};
use futures::{StreamExt as _, TryStreamExt as _};
use jetmill_sdk::{TaskId, pb};
use serde_json::{Value, json};

use crate::rig::{View, spec};

pub(super) const HANDLERS: usize = 100;
const SHELLS: usize = 140;
const RETRIED: usize = 30;
const BROKEN: usize = 15;

/// What was submitted, and how each must end.
pub(super) struct Load {
    expected: HashMap<String, pb::TaskState>,
}

impl Load {
    pub(super) async fn submit(view: &View) -> anyhow::Result<Self> {
        let tasks = tasks();
        let specs =
            tasks.iter().map(|(task, _)| spec(task.clone())).collect::<Result<Vec<_>, _>>()?;
        let mut expected = HashMap::new();
        let answers = view.client.submit_all(specs).await;
        for (answer, (_, state)) in answers.into_iter().zip(tasks) {
            expected.insert(answer?.task_id, state);
        }
        ensure!(expected.len() == 300, "the load has {} tasks", expected.len());
        Ok(Self { expected })
    }

    pub(super) fn len(&self) -> u64 {
        self.expected.len() as u64
    }

    /// Compares the ledger, the histories and a fold of the log of our own.
    pub(super) async fn check(&self, view: &View) -> anyhow::Result<()> {
        let folded = fold(view).await?;
        ensure!(folded.len() == self.expected.len(), "the log has {} tasks", folded.len());
        let mut checks = futures::stream::iter(&self.expected)
            .map(|(id, state)| check(view, id, *state, folded.get(id).copied()))
            .buffer_unordered(16);
        while checks.try_next().await?.is_some() {}
        Ok(())
    }
}

async fn check(
    view: &View,
    id: &str,
    expected: pb::TaskState,
    folded: Option<State>,
) -> anyhow::Result<()> {
    let id = TaskId::parse(id)?;
    let task = view.task(&id).await.with_context(|| format!("task {id} is lost"))?;
    let state = task.state();
    ensure!(state == expected, "task {id} ended {state:?} and not {expected:?}: {:?}", task.error);
    let of_the_log = folded.with_context(|| format!("task {id} is not in the log"))?.phase;
    ensure!(of_the_log.state() == state, "the log says {of_the_log:?} about {id}: {state:?}");
    let kinds = view.kinds(&id).await?;
    let terminal = ["completed", "failed", "cancelled", "skipped"];
    let ends = kinds.iter().filter(|kind| terminal.contains(&kind.as_str())).count();
    ensure!(ends == 1, "task {id} has {ends} ends: {kinds:?}");
    Ok(())
}

/// Reads the whole log and folds it, as a stranger to all services.
async fn fold(view: &View) -> anyhow::Result<HashMap<String, State>> {
    let bus = view.client.bus();
    let last = bus::streams::last_sequence(bus).await?;
    let mut reader = Reader::open(bus, None).await?;
    let (mut states, mut sequence) = (HashMap::new(), 0);
    while sequence < last {
        for message in reader.next(1000).await? {
            sequence = message.sequence;
            for item in message.items {
                let Event::Task(event) = item? else { continue };
                let id = event.id.to_string();
                if let Ok(state) = lifecycle::apply(states.get(&id).copied(), &event.kind) {
                    states.insert(id, state);
                }
            }
        }
    }
    Ok(states)
}

fn tasks() -> Vec<(Value, pb::TaskState)> {
    let mut tasks = Vec::new();
    let mut add = |task, state| tasks.push((task, state));
    let handler = |n: usize| format!("handler-{}", n % HANDLERS);
    let shell = |id: String, script: &str, depends_on: Value| {
        json!({
            "task_id": id, "executor": { "shell": { "script": script } }, "depends_on": depends_on,
            "retry": { "max_attempts": 20, "backoff": "100ms", "non_retryable": ["exit_2"] },
        })
    };
    for n in 0..HANDLERS {
        let task = json!({
            "task_id": handler(n), "executor": { "worker": { "handler": "wait" } }, "queue": "hands",
        });
        add(task, pb::TaskState::Completed);
    }
    for n in 0..SHELLS {
        let task = shell(format!("shell-{n}"), "echo $JETMILL_TASK_ID", json!([handler(n)]));
        add(task, pb::TaskState::Completed);
    }
    for n in 0..RETRIED {
        let script = "test $JETMILL_ATTEMPT -ge 2";
        add(
            shell(format!("retried-{n}"), script, json!([handler(n * 3)])),
            pb::TaskState::Completed,
        );
    }
    for n in 0..BROKEN {
        let broken = shell(format!("broken-{n}"), "exit 2", json!([handler(n * 6)]));
        add(broken, pb::TaskState::Failed);
        let edge = json!([{ "task_id": format!("broken-{n}"), "on": "ON_FAILURE" }]);
        add(shell(format!("rescue-{n}"), "true", edge), pb::TaskState::Completed);
    }
    tasks
}
