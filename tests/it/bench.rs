//! The benchmark measures and counts; how fast anything is here says nothing.

use std::fs;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testkit::{Jetmill, Output};

/// It brings its own NATS and takes no notice of this one.
const NOWHERE: &str = "nats://127.0.0.1:1";

/// Runs it to a good end: what its last line says.
async fn bench(args: &[&str]) -> anyhow::Result<Value> {
    let (output, report) = run(args).await?;
    ensure!(output.status.success(), "bench {args:?}: {}{}", output.stdout, output.stderr);
    Ok(report)
}

async fn run(args: &[&str]) -> anyhow::Result<(Output, Value)> {
    let output = Jetmill::cli(NOWHERE, &[&["bench"], args].concat()).await?;
    let line = output.stdout.lines().last();
    let line = line.with_context(|| format!("bench {args:?}: {}", output.stderr))?;
    let report = serde_json::from_str(line);
    let report = report.with_context(|| format!("the last line is not JSON: {line}"))?;
    Ok((output, report))
}

fn figure<'a>(report: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    let figures = report["figures"].as_array().context("there are no figures")?;
    figures.iter().find(|figure| figure["name"] == name).with_context(|| format!("no {name:?}"))
}

/// The tasks, the rows of the ledger and the executions of each run of a row are the same number.
fn counts_agree(report: &Value, row: &str, tasks: u64, runs: usize) -> anyhow::Result<()> {
    let details = report["details"].as_array().context("there are no details")?;
    let found = details.iter().filter(|d| d["row"] == row).map(|detail| {
        let found = &detail["found"];
        found.get("run").unwrap_or(found)
    });
    let found = found.collect::<Vec<_>>();
    ensure!(found.len() == runs, "{row}: {found:?}");
    for run in found {
        for count in ["tasks", "rows", "executions"] {
            ensure!(run[count] == tasks, "{row}: {count} of {run}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_row_is_measured_and_every_count_agrees() -> anyhow::Result<()> {
    let report = bench(&[
        "--services=together",
        "--runs=2",
        "--tasks=500",
        "--single-tasks=100",
        "--idle-tasks=20",
        "--chain-tasks=5",
        "--rate=100",
        "--for=1s",
        "--diamonds=3",
        "--shell-rate=5",
        "--backlog-tasks=500",
    ])
    .await?;
    ensure!(report["not_measured"].as_array().is_some_and(Vec::is_empty), "{report}");
    counts_agree(&report, "bulk", 500, 2)?;
    counts_agree(&report, "limits", 500, 2)?;
    counts_agree(&report, "callers", 100, 2)?;
    counts_agree(&report, "3 diamonds 1-10-1", 36, 2)?;
    let shell = report["details"].as_array().into_iter().flatten().filter(|d| d["row"] == "shell");
    let shell = shell.map(|detail| &detail["found"]).collect::<Vec<_>>();
    for found in &shell {
        ensure!(found["run"]["rows"] == 100 && found["steady"]["tasks"] == 5, "{found}");
    }
    ensure!(shell.len() == 2, "{shell:?}");
    for (name, unit) in [
        ("bulk, end to end", "tasks/s"),
        ("bulk, CPU of jetmill", "µs/task"),
        ("bulk, CPU of nats-server", "µs/task"),
        ("bulk, CPU of worker", "µs/task"),
        ("bulk, CPU of client", "µs/task"),
        ("bulk, ledger's lag, most", "messages"),
        ("one submit a call, end to end", "tasks/s"),
        ("idle, submit to stored outcome, p99", "ms"),
        ("steady, p99", "ms"),
        ("chain, a step", "ms"),
        ("3 diamonds 1-10-1", "workflows/s"),
        ("bare JetStream", "tasks/s"),
        ("commands, as many as go", "tasks/s"),
        ("commands of a second each", "tasks/s"),
        ("commands of a second each, p99", "ms"),
        ("memory idle (PSS)", "MB"),
        ("memory under bulk load (PSS), peak", "MB"),
        ("scheduler, a queued task", "bytes"),
    ] {
        let found = figure(&report, name)?;
        ensure!(found["unit"] == unit && found["scenario"] == "together, sqlite", "{found}");
        let values = found["values"].as_array().context("no values")?;
        let (min, max) = (found["min"].as_f64(), found["max"].as_f64());
        let median = found["median"].as_f64();
        ensure!(values.len() == 2 && min <= median && median <= max, "{found}");
        // A short run may take less than a tick of the processor's clock, leave no lag, and fit into
        // memory that is there already.
        let may_be_none = ["messages", "µs/task", "bytes"].contains(&unit);
        ensure!(may_be_none || min > Some(0.0), "{found}");
    }
    Ok(())
}

#[tokio::test]
async fn separate_services_are_measured_on_postgresql() -> anyhow::Result<()> {
    let report =
        bench(&["--services=separate", "--tasks=500", "--single-tasks=64", "--rows=bulk,callers"])
            .await?;
    ensure!(report["not_measured"].as_array().is_some_and(Vec::is_empty), "{report}");
    counts_agree(&report, "bulk", 500, 1)?;
    counts_agree(&report, "callers", 64, 1)?;
    let parts = &report["details"][0]["found"]["idle_mb"];
    for part in ["registry", "scheduler", "nats-server", "postgres", "worker"] {
        ensure!(parts[part].as_f64() > Some(0.0), "{part} of {parts}");
    }
    Ok(())
}

#[tokio::test]
async fn a_long_run_writes_a_line_a_look_and_judges() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let csv = folder.path().join("steady.csv");
    let csv_text = csv.to_str().context("UTF-8")?;
    let args = ["steady", "--rate=50", "--for=3s", "--every=400ms", "--count-every=2"];
    // Whether a loaded machine is steady is another matter, and the exit code's.
    let (_, report) =
        run(&[&args[..], &["--log-bytes-max=256MiB", "--csv", csv_text]].concat()).await?;
    for count in ["submitted", "completed", "rows", "rows_completed", "executions"] {
        ensure!(report[count] == 150, "{count}: {report}");
    }
    ensure!(report["failed"] == 0, "{report}");
    ensure!(report["verdict"]["changes"][0]["name"] == "p50_ms", "{report}");
    let lines = fs::read_to_string(&csv)?;
    let head = lines.lines().next().context("no head")?;
    for column in ["seconds", "p99_ms", "nats_disk_mb", "ledger_rows", "pss_mb jetmill"] {
        ensure!(head.split(',').any(|name| name == column), "{column}: {head}");
    }
    ensure!(lines.lines().count() >= 5, "{lines}");
    let cells = |line: &str| line.split(',').count();
    ensure!(lines.lines().all(|line| cells(line) == cells(head)), "{lines}");
    Ok(())
}

#[tokio::test]
async fn a_backlog_survives_its_leader_and_every_start() -> anyhow::Result<()> {
    let report = bench(&["backlog", "--tasks=500"]).await?;
    for name in [
        "backlog, submitted",
        "nats-server, on disk",
        "takeover after kill -9, first release",
        "cold start, no snapshot, first release",
        "cold start, snapshot, first release",
        "first release of the backlog",
    ] {
        let found = figure(&report, name)?;
        ensure!(found["median"].as_f64() > Some(0.0), "{found}");
    }
    Ok(())
}
