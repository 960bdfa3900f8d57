//! One run: the load, the faults in their time, the rest, the verdict.

mod rest;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use bus::{ConnectOptions, Cursor, streams};
use common::{
    pb,
    time::{Clock as _, Timestamp},
};
use jetmill_sdk::{Client, SystemClock};
use launch::eventually;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    act::{Actor, Custom, Outcome},
    cluster::{self, Cluster},
    kind::Kind,
    load::{self, Own, QUEUE},
    observe,
    plan::{self, Fault, Step},
    report::{Happened, Report},
    scenario,
    storage::Flavour,
    submit, verdict,
};

const READY_WITHIN: Duration = Duration::from_secs(60);
/// What cannot be done now is tried again after this, and given up after that.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Whose cluster.
#[derive(Clone, Debug)]
pub enum Target {
    /// One of our own.
    Own(Flavour),
    /// Somebody's, at this URL.
    Theirs(String),
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose cluster.
    pub target: Target,
    /// Who we are to somebody's NATS, where that is asked.
    pub credentials: Option<PathBuf>,
    /// Decides load and faults.
    pub seed: u64,
    /// How many tasks.
    pub tasks: usize,
    /// How long submissions and faults go on.
    pub time: Duration,
    /// The kinds of fault.
    pub kinds: Vec<Kind>,
    /// How often each.
    pub rounds: u32,
    /// Faults of the user's.
    pub customs: Vec<Custom>,
    /// The program `jetmill`.
    pub program: PathBuf,
    /// The program `nats-server`.
    pub nats_server: PathBuf,
    /// The command that does it again.
    pub replay: String,
}

/// Something that was done, for the report and the judge.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) fault: Fault,
    pub(crate) begun: Timestamp,
    pub(crate) over: Option<Timestamp>,
}

/// A run under way.
pub(crate) struct Run {
    pub(crate) options: Options,
    pub(crate) name: String,
    pub(crate) actor: Actor,
    pub(crate) from: Cursor,
    pub(crate) records: Vec<Record>,
    pub(crate) report: Report,
    begun: Instant,
    helpers: JoinSet<()>,
}

/// Runs it; the report says whether everything held. An error is one of the test itself.
pub async fn run(options: Options, say: &(dyn Fn(&str) + Sync)) -> anyhow::Result<Report> {
    let mut run = Run::start(options).await?;
    say(&format!("{}: {} tasks", run.name, run.options.tasks));
    let done = run.go(say).await;
    if let Err(error) = done {
        run.report.problems.push(format!("{error:#}"));
    }
    run.helpers.shutdown().await;
    run.report.seconds = run.begun.elapsed().as_secs_f64();
    run.report.ended_by_themselves = run.actor.cluster.ended.drain(..).collect();
    if !run.report.held() {
        run.report.logs = Some(run.actor.cluster.keep_folder().display().to_string());
    }
    Ok(run.report)
}

impl Run {
    async fn start(options: Options) -> anyhow::Result<Self> {
        let now = SystemClock.now().micros() / 1_000;
        let name = format!("chaos-{}-{now}", options.seed);
        let flavour = match &options.target {
            Target::Own(flavour) => *flavour,
            Target::Theirs(_) => Flavour::Sqlite,
        };
        let plan = cluster::Plan {
            program: options.program.clone(),
            nats_server: options.nats_server.clone(),
            flavour,
            run: name.clone(),
            login: String::new(),
            credentials: options.credentials.clone(),
            tasks: options.tasks,
        };
        let (cluster, url) = match &options.target {
            Target::Own(_) => {
                let cluster = Cluster::start(plan).await?;
                let url = cluster.nats.as_ref().context("there is no nats-server")?.url();
                (cluster, url)
            }
            Target::Theirs(url) => {
                let (login, upstream) = address(url)?;
                let plan = cluster::Plan { login, ..plan };
                (Cluster::workers_of(plan, upstream).await?, url.clone())
            }
        };
        let credentials = options.credentials.clone();
        let connect = ConnectOptions { url, name: "jetmill-chaos".into(), credentials };
        let bus = bus::connect(&connect).await?;
        let shell = matches!(options.target, Target::Own(_))
            .then(|| cluster.journal().display().to_string());
        let mix = load::Mix {
            seed: options.seed,
            tasks: options.tasks,
            run: name.clone(),
            shell_journal: shell,
        };
        let items = Arc::new(load::draw(mix));
        let mut actor = Actor::new(cluster, bus.clone(), items, options.customs.clone());
        ready(&mut actor).await?;
        let stream = streams::identity(&bus).await?;
        let from = Cursor { stream, sequence: streams::last_sequence(&bus).await? };
        let report = Report {
            seed: options.seed,
            replay: options.replay.clone(),
            ledger: match &options.target {
                Target::Own(flavour) => flavour.word().into(),
                Target::Theirs(_) => "theirs".into(),
            },
            tasks: options.tasks,
            ..Report::default()
        };
        let begun = Instant::now();
        let mut helpers = JoinSet::new();
        let sight = &actor.sight;
        helpers.spawn(observe::follow(bus.clone(), from, name.clone(), sight.clone()));
        helpers.spawn(observe::listen(bus.clone(), sight.clone()));
        helpers.spawn(observe::who_leads(bus, sight.clone()));
        Ok(Self { options, name, actor, from, records: Vec::new(), report, begun, helpers })
    }

    fn happened(&mut self, what: String) {
        let at = (self.begun.elapsed().as_secs_f64() * 100.0).round() / 100.0;
        self.report.timeline.push(Happened { at, what });
    }

    async fn go(&mut self, say: &(dyn Fn(&str) + Sync)) -> anyhow::Result<()> {
        let client = Client::new(self.actor.bus.clone());
        let (items, seen) = (self.actor.items.clone(), self.actor.accepted.clone());
        self.helpers.spawn(submit::run(client, items, self.options.time, seen));
        let cancels =
            cancel(self.actor.client.clone(), self.actor.items.clone(), self.options.time);
        self.helpers.spawn(cancels);
        self.faults(say).await?;
        self.actor.heal()?;
        self.happened("all faults are over".into());
        say(&format!("{}: all faults are over; coming to rest", self.name));
        let rested = self.rest(say).await;
        if rested.is_err() {
            self.actor.cluster.look_after()?;
        }
        verdict::reach(self, rested).await?;
        self.last_faults(say).await
    }

    async fn faults(&mut self, say: &(dyn Fn(&str) + Sync)) -> anyhow::Result<()> {
        let mut kinds = self.options.kinds.clone();
        kinds.extend((0..self.options.customs.len() as u16).map(Kind::Custom));
        let faults = plan::draw(self.options.seed, &kinds, self.options.rounds, self.options.time);
        let begun = Instant::now();
        let mut steps: Vec<_> = plan::steps(&faults)
            .into_iter()
            .map(|(at, step)| (begun + at, begun + at, step))
            .collect();
        let mut records: Vec<Option<Record>> = vec![None; faults.len()];
        while !steps.is_empty() {
            steps.sort_by_key(|(at, ..)| *at);
            let (at, planned, step) = steps.remove(0);
            while Instant::now() < at {
                self.actor.cluster.look_after()?;
                sleep_until(at.min(Instant::now() + LOOK_EVERY)).await;
            }
            self.actor.cluster.look_after()?;
            let n = match step {
                Step::Begin(n) | Step::End(n) => n,
            };
            let Some(fault) = faults.get(n) else { continue };
            let begins = matches!(step, Step::Begin(_));
            // What has not begun does not end.
            if !begins && steps.iter().any(|(.., other)| *other == Step::Begin(n)) {
                steps.push((Instant::now() + AGAIN_AFTER, planned, step));
                continue;
            }
            if !begins && records.get(n).is_none_or(Option::is_none) {
                continue;
            }
            let now = SystemClock.now();
            let outcome =
                if begins { self.actor.begin(n, fault).await } else { self.actor.end(n, fault) };
            let outcome = outcome.with_context(|| format!("the test failed at {}", fault.kind))?;
            match outcome {
                Outcome::Later if planned.elapsed() < GIVE_UP_AFTER => {
                    // A redelivery that did not come is begun anew; its end follows from that.
                    let again = if fault.kind == Kind::Redelivery { Step::Begin(n) } else { step };
                    steps.push((Instant::now() + AGAIN_AFTER, planned, again));
                }
                Outcome::Later => self.not_done(fault, "there was no moment for it"),
                Outcome::NotHere(why) => self.not_done(fault, &why),
                Outcome::Done(what) if begins => {
                    self.happened(format!("{}: {what}", fault.kind));
                    say(&format!("{}: {} ({what})", self.name, fault.kind));
                    if let Some(record) = records.get_mut(n) {
                        *record = Some(Record { fault: *fault, begun: now, over: None });
                    }
                    if fault.lasts.is_zero() {
                        self.done(fault, "");
                    } else {
                        // It lasts as long as planned, however late it began.
                        let end = Instant::now() + fault.lasts;
                        let patience = if fault.kind == Kind::Redelivery { planned } else { end };
                        steps.retain(|(.., other)| *other != Step::End(n));
                        steps.push((end, patience, Step::End(n)));
                    }
                }
                Outcome::Done(what) => {
                    self.happened(format!("{} is over {what}", fault.kind));
                    if let Some(Some(record)) = records.get_mut(n) {
                        record.over = Some(SystemClock.now());
                    }
                    if !fault.lasts.is_zero() {
                        self.done(fault, &what);
                    }
                }
            }
        }
        self.records = records.into_iter().flatten().collect();
        Ok(())
    }

    fn custom_name(&self, kind: Kind) -> Option<String> {
        match kind {
            Kind::Custom(n) => self.options.customs.get(usize::from(n)).map(|c| c.name.clone()),
            _ => None,
        }
    }

    fn done(&mut self, fault: &Fault, seen: &str) {
        let custom = self.custom_name(fault.kind);
        let line = self.report.line(fault.kind, custom.as_deref());
        line.done += 1;
        // Numbers differ; the words are what is counted.
        let words = seen.trim_start_matches(|c: char| c.is_ascii_digit()).trim();
        if !words.is_empty() {
            *line.seen.entry(words.to_owned()).or_default() += 1;
        }
    }

    fn not_done(&mut self, fault: &Fault, why: &str) {
        let custom = self.custom_name(fault.kind);
        let line = self.report.line(fault.kind, custom.as_deref());
        *line.not_done.entry(why.to_owned()).or_default() += 1;
        self.happened(format!("{} was not done: {why}", fault.kind));
    }

    /// What ends the cluster's life comes after the verdict.
    async fn last_faults(&mut self, say: &(dyn Fn(&str) + Sync)) -> anyhow::Result<()> {
        let kinds = self.options.kinds.clone();
        for kind in [Kind::StreamRecreated, Kind::LedgerBehindLog] {
            if !kinds.contains(&kind) || !matches!(self.options.target, Target::Own(_)) {
                continue;
            }
            say(&format!("{}: {kind}", self.name));
            let refused = match kind {
                Kind::StreamRecreated => {
                    Box::pin(scenario::stream_recreated(&mut self.actor)).await
                }
                _ => Box::pin(scenario::ledger_behind_log(&mut self.actor)).await,
            };
            match refused {
                Ok(seen) => {
                    self.happened(format!("{kind}: {seen}"));
                    let line = self.report.line(kind, None);
                    line.done += 1;
                    *line.seen.entry(seen).or_default() += 1;
                }
                Err(error) => {
                    // The cluster is in no state for anything else.
                    self.report.problems.push(format!("{kind}: {error:#}"));
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Waits until the services answer and the workers are known.
async fn ready(actor: &mut Actor) -> anyhow::Result<()> {
    let client = actor.client.clone();
    let cluster = &mut actor.cluster;
    let up = eventually("the cluster to be ready", READY_WITHIN, async || {
        cluster.look_after().ok()?;
        let queues = client.queues(&pb::QueuesRequest {}).await.ok()?.queues;
        client.stats(&pb::StatsRequest::default()).await.ok()?;
        queues.iter().any(|queue| queue.name == QUEUE && queue.workers > 0).then_some(())
    });
    let up = up.await;
    up.with_context(|| {
        let ended: std::collections::BTreeSet<_> = cluster.ended.iter().cloned().collect();
        ended.into_iter().collect::<Vec<_>>().join("\n")
    })
}

/// Cancels what is to be cancelled, a while after its submission.
async fn cancel(client: Client, items: Arc<Vec<load::Item>>, time: Duration) {
    let begun = Instant::now();
    let share = |n: usize| time.mul_f64(n as f64 / items.len().max(1) as f64);
    for (n, item) in items.iter().enumerate().filter(|(_, item)| item.own == Own::Cancelled) {
        sleep_until(begun + share(n) + Duration::from_secs(3)).await;
        let request = pb::CancelRequest {
            selection: Some(pb::Selection {
                task_ids: vec![item.spec.task_id.clone()],
                ..pb::Selection::default()
            }),
            reason: "chaos".into(),
            actor: "jetmill chaos".into(),
            ..pb::CancelRequest::default()
        };
        // It may come too late, or meet nobody: the task then completes.
        let _ = tokio::time::timeout(Duration::from_secs(2), client.cancel(&request)).await;
    }
}

/// Login and `host:port` of NATS's URL.
fn address(url: &str) -> anyhow::Result<(String, String)> {
    let first = url.split(',').next().unwrap_or_default().trim();
    let rest = first.split_once("://").map_or(first, |(_, rest)| rest).trim_end_matches('/');
    let (login, host) = match rest.rsplit_once('@') {
        Some((login, host)) => (format!("{login}@"), host),
        None => (String::new(), rest),
    };
    anyhow::ensure!(!host.is_empty(), "{url} names no host");
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok((login, if has_port { host.to_owned() } else { format!("{host}:4222") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let of = |url| address(url).expect("an address");
        assert_eq!(of("nats://a:1"), (String::new(), "a:1".to_owned()));
        assert_eq!(of("nats://u:p@a"), ("u:p@".to_owned(), "a:4222".to_owned()));
        assert!(address("").is_err());
    }
}
