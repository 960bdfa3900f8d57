//! Collects the evidence at rest, has it judged, and writes the report.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use common::{
    lifecycle::{Cause, Phase, state_word},
    time::Timestamp,
};
use launch::eventually;
use tokio::time::sleep;

use crate::{
    check,
    engine::{Run, Target},
    journal,
    judge::{self, Evidence, Life, Window},
    load::MARK,
    observe, submit,
};

const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Heartbeats are read for so much longer, and processes of tasks must be gone.
const QUIET_FOR: Duration = Duration::from_secs(3);
/// Faults whose traces are followed for so long.
const AFTERMATH: Duration = Duration::from_secs(15);

/// Judges the run, and puts everything into its report.
pub(crate) async fn reach(run: &mut Run, rested: anyhow::Result<()>) -> anyhow::Result<()> {
    if let Err(error) = rested {
        run.report.problems.push(format!("{error:#}"));
    }
    let own = matches!(run.options.target, Target::Own(_));
    if own {
        let mark = run.name.clone();
        let gone = eventually("the end of every command", QUIET_FOR * 3, async || {
            commands(&mark).is_empty().then_some(())
        });
        if gone.await.is_err() {
            run.report.problems.push(format!("commands still run: {:?}", commands(&mark)));
        }
    }
    sleep(QUIET_FOR).await;
    let (bus, client) = (run.actor.bus.clone(), run.actor.client.clone());
    let (lives, last) =
        check::log(&bus, run.from, &run.name).await.context("failed to read the log")?;
    let name = run.name.clone();
    let cluster = &mut run.actor.cluster;
    let rows = eventually("the ledger to agree to answer", ANSWER_WITHIN, async || {
        cluster.look_after().ok()?;
        check::ledger(&client, &name, last).await.ok()
    });
    let rows = rows.await.context("the ledger does not follow the log")?;
    let letters = check::dead(&client, &name).await?;
    let left_over = check::work_queue(&bus, own).await?;
    let (accepted, unsure) = {
        let memory = submit::memory(&run.actor.accepted);
        (memory.ids.clone(), memory.unsure.clone())
    };
    let evidence = Evidence {
        lives,
        rows,
        letters,
        accepted,
        unsure,
        left_over,
        listed: observe::look(&run.actor.sight).listed.clone(),
        windows: windows(run),
    };
    let problems = judge::judge(&run.actor.items, &evidence);
    for problem in problems {
        let story = evidence.lives.get(&problem.task).map(Life::story).unwrap_or_default();
        run.report.problems.push(format!("{}: {}\n{story}", problem.task, problem.what));
    }
    let refused = std::mem::take(&mut submit::memory(&run.actor.accepted).refused);
    run.report.problems.extend(refused);
    run.report.problems.append(&mut run.actor.broken);
    describe(run, &evidence);
    Ok(())
}

/// When the cluster was disturbed: from the beginning of a fault until it has settled.
fn windows(run: &Run) -> Vec<Window> {
    let of = |record: &crate::engine::Record| {
        let over = record.over.unwrap_or(record.begun.after(record.fault.lasts));
        (record.begun, over.after(record.fault.kind.settles_in()))
    };
    run.records.iter().map(of).collect()
}

/// The counts of the report.
fn describe(run: &mut Run, evidence: &Evidence) {
    let lives = &evidence.lives;
    run.report.accepted = lives.len();
    for life in lives.values() {
        let Some(state) = life.state else { continue };
        let word = match state.phase {
            Phase::Failed(cause) => format!("failed ({})", cause.as_str()),
            phase => state_word(phase.state()).to_owned(),
        };
        *run.report.ended.entry(word).or_default() += 1;
        run.report.dead_of_losses += u64::from(state.phase == Phase::Failed(Cause::Lost));
        for entry in life.entries.iter().filter(|entry| !entry.ignored.is_empty()) {
            *run.report.ignored.entry(entry.ignored.to_owned()).or_default() += 1;
        }
    }
    let runs = journal::read(&run.actor.cluster.journal());
    let starts = runs.values().flat_map(BTreeMap::values).map(|runs| u64::from(runs.starts));
    run.report.runs = starts.sum();
    run.report.ran_twice = journal::repeats(&runs, &check::losses(lives));
    traces(run, lives);
}

/// What each fault left in the log: attempts that were lost, and how long nothing ended.
fn traces(run: &mut Run, lives: &BTreeMap<String, Life>) {
    let mut ends: Vec<Timestamp> = lives.values().filter_map(|l| l.end().map(|e| e.at)).collect();
    ends.sort_unstable();
    let lost = lives.values().flat_map(|life| &life.entries);
    let lost: Vec<_> =
        lost.filter(|e| e.ignored.is_empty() && e.kind == "lost").map(|e| e.at).collect();
    for record in run.records.clone() {
        let over = record.over.unwrap_or(record.begun).after(AFTERMATH);
        let custom = match record.fault.kind {
            crate::Kind::Custom(n) => {
                run.options.customs.get(usize::from(n)).map(|c| c.name.clone())
            }
            _ => None,
        };
        let line = run.report.line(record.fault.kind, custom.as_deref());
        line.lost += lost.iter().filter(|at| (record.begun..over).contains(at)).count() as u64;
        let next = ends.iter().find(|at| **at > record.begun);
        let quiet = next.map_or(0.0, |at| at.since(record.begun).as_secs_f64());
        line.quiet_seconds = line.quiet_seconds.max((quiet * 10.0).round() / 10.0);
    }
}

/// The processes of tasks that live, by the mark in their environment. The cluster's own have it too,
/// and the name of a shell or of `sleep` only those of tasks.
fn commands(mark: &str) -> Vec<String> {
    let variable = format!("{MARK}={mark}");
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|process| {
            let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|pair| pair == variable.as_bytes())
        })
        .filter_map(|process| {
            let name = std::fs::read_to_string(process.path().join("comm")).ok()?;
            let name = name.trim().to_owned();
            ["sh", "sleep", "dash", "bash"].contains(&name.as_str()).then_some(name)
        })
        .collect()
}
