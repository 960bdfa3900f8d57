//! `jetmill services`: who answers, found through the services protocol of NATS (`$SRV`).

use std::time::Duration;

use async_nats::Client;
use comfy_table::Cell;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::{connect::Session, exit::Exit, output, table};

/// How long answers are waited for; there is no telling how many will come.
const LISTEN: Duration = Duration::from_millis(500);
/// Answers that are taken, at most.
const ANSWERS_MAX: usize = 10_000;

/// A service as it describes itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) version: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Endpoint {
    name: String,
    subject: String,
}

/// Asks everybody and takes what comes in time.
pub(crate) async fn discover(client: &Client) -> anyhow::Result<Vec<Service>> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply("$SRV.INFO", inbox, "".into()).await?;
    let end = Instant::now() + LISTEN;
    let mut found = Vec::new();
    while let Ok(Some(message)) = timeout_at(end, answers.next()).await {
        // Somebody else's idea of a service is not ours to complain about.
        found.extend(serde_json::from_slice::<Service>(&message.payload).ok());
        if found.len() >= ANSWERS_MAX {
            break;
        }
    }
    found.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    Ok(found)
}

/// Lists the services.
pub(crate) async fn run(session: &Session) -> anyhow::Result<Exit> {
    let found = discover(session.client.bus().client()).await?;
    if session.ui.json {
        for service in &found {
            output::json(service)?;
        }
        return Ok(Exit::Done);
    }
    if found.is_empty() {
        output::line("no service answers; start them with `jetmill dev` or `jetmill serve all`")?;
        return Ok(Exit::Done);
    }
    let mut rows = table::table(["SERVICE", "VERSION", "INSTANCE", "ENDPOINTS"]);
    for service in &found {
        let names = service.endpoints.iter().map(|endpoint| endpoint.name.as_str());
        rows.add_row(vec![
            Cell::new(&service.name),
            Cell::new(&service.version),
            Cell::new(&service.id),
            Cell::new(names.collect::<Vec<_>>().join(" ")),
        ]);
    }
    output::line(rows.trim_fmt())?;
    Ok(Exit::Done)
}
