//! What the projection costs: microseconds of CPU a task, by part, without nats-server.
//!
//! `cargo run --release -p registry --example projection -- <ledger URL> [tasks] [lead]`: a bulk
//! run as the log has it, bundles of creations with the completions `lead` tasks behind them, into
//! an empty ledger. The CPU of a PostgreSQL server is that of the backends of the database, whose name begins with
//! `bench`.

#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(clippy::disallowed_methods, reason = "it measures time, and makes ids as a door does")]

use std::{fs, time::Instant};

use anyhow::Context as _;
use bus::{Cursor, Message};
use common::{
    event::{Event, Kind, TaskEvent},
    id::{TaskId, Tenant},
    limits,
    pb::{self, executor},
    subject,
    task::TaskSpec,
    time::Timestamp,
    wire,
};
use registry::{
    ledger::{self, Batch, Position},
    project::{Changes, Fold},
};
use uuid::Uuid;

const LOG: Uuid = Uuid::from_u128(7);
const BUNDLE: usize = 256;

fn created(number: usize) -> anyhow::Result<(TaskId, Vec<u8>)> {
    let id = TaskId::from_uuid(Uuid::now_v7());
    let word = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let data = format!("{word:016x}{:016x}{:016x}{word:016x}", !word, word.swap_bytes());
    let worker = pb::Worker { handler: "noop".into() };
    let spec = pb::TaskSpec {
        task_id: id.to_string(),
        queue: "bench".into(),
        task_type: "bench".into(),
        subsystem: "bench".into(),
        title: "no-op".into(),
        input: Some(pb::Json { text: format!("{{\"data\":\"{data}\",\"number\":{number}}}") }),
        executor: Some(pb::Executor { kind: Some(executor::Kind::Worker(worker)) }),
        ..pb::TaskSpec::default()
    };
    let spec = TaskSpec::parse(spec).ok().context("a spec")?;
    let actor = spec.as_pb().created_by.clone();
    let kind = Kind::Created(Box::new(spec));
    let event = TaskEvent::new(Tenant::default(), id.clone(), actor, kind);
    Ok((id, wire::encode(&Event::Task(event))))
}

fn completed(id: TaskId, number: usize) -> Vec<u8> {
    let body = pb::Completed {
        attempt: 1,
        result: Some(pb::Json { text: "{\"ok\":true}".into() }),
        duration: Some(std::time::Duration::from_micros(3 + number as u64 % 50).into()),
        started_at: Some(at(number as u64).into()),
        worker: "bench-0192f0c4".into(),
        ..pb::Completed::default()
    };
    let kind = Kind::Completed(Box::new(body));
    wire::encode(&Event::Task(TaskEvent::new(Tenant::default(), id, "bench-0192f0c4", kind)))
}

fn at(n: u64) -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000 + n as i64 * 50)
}

/// The bodies of the log's messages.
fn log(tasks: usize, lead: usize) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut ids = Vec::with_capacity(tasks);
    let (mut messages, mut done) = (Vec::new(), 0);
    while done < tasks {
        if ids.len() < tasks {
            let mut bundle = Vec::new();
            for number in ids.len()..tasks.min(ids.len() + BUNDLE) {
                let (id, event) = created(number)?;
                ids.push(id);
                bundle.push(event);
            }
            messages.push(wire::bundle(bundle));
        }
        let behind = if ids.len() == tasks { tasks } else { ids.len().saturating_sub(lead) };
        let end = behind.min(done + BUNDLE);
        if end > done {
            let ended = ids.iter().cloned().enumerate().skip(done).take(end - done);
            let bundle = ended.map(|(n, id)| completed(id, n)).collect();
            messages.push(wire::bundle(bundle));
            done = end;
        }
    }
    Ok(messages)
}

fn decode(sequence: u64, payload: Vec<u8>) -> Message {
    let items = wire::decode(wire::Received {
        subject: subject::BUNDLE,
        content_type: None,
        traceparent: None,
        payload: &payload,
        stream: LOG,
        sequence,
    });
    let subject = subject::BUNDLE.to_owned();
    let payload = payload.into();
    Message { sequence, at: at(sequence * 256), subject, payload, content_type: None, items }
}

/// Nanoseconds of CPU that our threads and PostgreSQL's processes took.
fn cpu() -> [u64; 2] {
    let of = |path: String| -> u64 {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let entries = |path: &str| fs::read_dir(path).into_iter().flatten().flatten();
    let own = entries("/proc/self/task").map(|e| of(format!("{}/schedstat", e.path().display())));
    let own = own.sum();
    let postgres = entries("/proc")
        .filter(|e| {
            fs::read_to_string(e.path().join("cmdline")).is_ok_and(|c| c.contains(" bench"))
        })
        .map(|e| of(format!("{}/schedstat", e.path().display())))
        .sum();
    [own, postgres]
}

#[derive(Default)]
struct Parts(Vec<(&'static str, f64, [u64; 2])>);

impl Parts {
    fn measure<T>(&mut self, name: &'static str, begun: (Instant, [u64; 2]), value: T) -> T {
        let wall = begun.0.elapsed().as_secs_f64();
        let now = cpu();
        let took = [now[0] - begun.1[0], now[1].saturating_sub(begun.1[1])];
        match self.0.iter_mut().find(|part| part.0 == name) {
            Some(part) => {
                part.1 += wall;
                part.2[0] += took[0];
                part.2[1] += took[1];
            }
            None => self.0.push((name, wall, took)),
        }
        value
    }

    fn print(&self, tasks: usize) {
        println!("{:10} {:>9} {:>9} {:>9}  us a task", "part", "wall", "own CPU", "postgres");
        let mut sum = [0.0; 3];
        for (name, wall, cpu) in &self.0 {
            let each = |n: f64| n / tasks as f64;
            let row = [each(wall * 1e6), each(cpu[0] as f64 / 1e3), each(cpu[1] as f64 / 1e3)];
            println!("{name:10} {:9.2} {:9.2} {:9.2}", row[0], row[1], row[2]);
            for (sum, n) in sum.iter_mut().zip(row) {
                *sum += n;
            }
        }
        println!("{:10} {:9.2} {:9.2} {:9.2}", "sum", sum[0], sum[1], sum[2]);
    }
}

fn now() -> (Instant, [u64; 2]) {
    let cpu = cpu();
    (Instant::now(), cpu)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let url = args.first().context("give the ledger's URL")?;
    let tasks = args.get(1).map_or(Ok(100_000), |n| n.parse())?;
    let lead = args.get(2).map_or(Ok(20_000), |n| n.parse())?;
    let messages = log(tasks, lead)?;
    let bytes: usize = messages.iter().map(Vec::len).sum();
    println!("{tasks} tasks, {} messages, {} bytes a task", messages.len(), bytes / tasks);
    let ledger = ledger::open(url).await?;
    let (mut parts, mut asked) = (Parts::default(), 0);
    let mut fold = Fold::new(Timestamp::default(), ledger.newest_id().await?.as_deref(), false);
    let mut position = ledger.position().await?;
    anyhow::ensure!(position.is_none(), "the ledger must be empty");
    let mut messages = (1..).zip(messages).peekable();
    let whole = Instant::now();
    while messages.peek().is_some() {
        let begun = now();
        let (mut batch, mut events) = (Vec::new(), 0);
        while events + BUNDLE <= limits::LEDGER_BATCH_EVENTS_MAX
            && let Some((sequence, payload)) = messages.next()
        {
            batch.push(decode(sequence, payload));
            events += batch.last().map_or(0, |m| m.items.len());
        }
        let batch = parts.measure("decode", begun, batch);
        let begun = now();
        let missing = parts.measure("missing", begun, fold.missing(&batch));
        asked += missing.len();
        if !missing.is_empty() {
            let begun = now();
            fold.load(ledger.load(&missing).await?);
            parts.measure("load", begun, ());
        }
        let begun = now();
        let sequence = batch.last().map_or(0, |m| m.sequence);
        fold.fold(batch);
        parts.measure("fold", begun, ());
        let begun = now();
        let changes = fold.take();
        let to = Position::new(Cursor { stream: LOG, sequence }, &changes);
        let Changes { tasks, entries, counts, .. } = changes;
        parts.measure("take", begun, ());
        let begun = now();
        let from = position.map(|p| p.cursor);
        ledger.record(Batch { from, to, tasks, entries, counts }).await?;
        parts.measure("record", begun, ());
        position = Some(to);
    }
    println!("{:.0} tasks/s", tasks as f64 / whole.elapsed().as_secs_f64());
    parts.print(tasks);
    println!("asked the ledger for {asked} tasks");
    if let Some(path) = url.strip_prefix("sqlite:") {
        let size = |end: &str| fs::metadata(format!("{path}{end}")).map_or(0, |m| m.len());
        println!("{} bytes a task, WAL {} KiB", size("") / tasks as u64, size("-wal") / 1024);
    }
    Ok(())
}
