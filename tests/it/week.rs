//! A week of the example catalog: its jobs on their schedules, under a clock that the test moves.
//!
//! Everything is the product: nats-server, ledger, worker, jobs, and the scheduler, which runs in this
//! process so that it can be given another wall clock. Whether a worker lives and who leads goes by
//! clocks that only count on (`now_ms` in the scheduler, the age of keys in NATS), so that a jump of the
//! wall's clock takes nobody for lost. The log's times stay those of nats-server: to `unique` and to a
//! schedule that is enabled, the week is some seconds long.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

mod oracle;
mod site;

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use common::{policy::schedule::tick_id, time::Timestamp};
use jetmill_sdk::{TaskId, pb};
use serde_json::{Value, json};

use self::{
    oracle::{Fire, Oracle, at, minute},
    site::Site,
};
use crate::{
    catalog::TABLE,
    rig::{is_over, value},
};

const DAY: i64 = 24 * 60;
/// The longest period of `unique` of a job that comes more than once a week.
const SIX_HOURS: i64 = 6 * 3_600 * 1_000_000;

/// Schedules of the catalog: those that fire, and those of disabled types.
fn scheduled(enabled: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    let fits = move |row: &&(_, &str, bool, _, _)| !row.1.is_empty() && row.2 == enabled;
    TABLE.iter().filter(fits).map(|(name, cron, ..)| (*name, *cron))
}

/// A simulated week, and what is expected of it.
struct Week {
    site: Site,
    oracle: Oracle,
    now: i64,
    expected: Vec<Fire>,
}

impl Week {
    async fn begin() -> anyhow::Result<Self> {
        let site = Site::open().await?;
        let mut oracle = Oracle::default();
        for (name, cron) in scheduled(true) {
            oracle.wakes(name, cron, site.set_at(name).await?);
        }
        scheduled(false).for_each(|(name, cron)| oracle.rests(name, cron));
        let now = minute(site.hands.read());
        Ok(Self { site, oracle, now, expected: Vec::new() })
    }

    /// What the product says comes next, of each schedule; the oracle says the same.
    async fn next(&self) -> anyhow::Result<Vec<i64>> {
        let request = pb::SchedulesRequest { next: 1, ..pb::SchedulesRequest::default() };
        let states = self.site.view.client.schedules(&request).await?.schedules;
        let tick = |state: &pb::ScheduleState| state.next.first()?.tick;
        let next = states.iter().filter_map(|state| Some((state.name.as_str(), tick(state)?)));
        let next = next.map(|(name, tick)| (name, minute(Timestamp::from(tick))));
        let (next, told) = (next.collect::<Vec<_>>(), self.oracle.next(self.now));
        let told = told.into_iter().collect::<Vec<_>>();
        ensure!(next == told, "after {}: {next:?}, expected {told:?}", at(self.now));
        Ok(next.into_iter().map(|(_, tick)| tick).collect())
    }

    /// Moves the clock, and waits for the end of what that fires.
    async fn jump(&mut self, to: i64) -> anyhow::Result<Vec<(&'static str, pb::Task)>> {
        self.now = to;
        self.site.hands.turn(at(to));
        let mut ended = Vec::new();
        let mut fires = self.oracle.jump(to);
        fires.sort_unstable();
        for (tick, name) in &fires {
            let id = tick_id(name, at(*tick)).context("a tick has an id")?;
            let what = format!("over, at {}", at(to));
            let task = self.site.view.until(&id, &what, |t| is_over(t.state())).await?;
            ended.push((*name, task));
        }
        self.expected.extend(fires);
        Ok(ended)
    }

    /// What has fired, read from the log, is what should have fired: each once, nothing else.
    async fn check(&self) -> anyhow::Result<()> {
        let mut fired = self.site.fired().await?;
        fired.sort_unstable();
        let mut expected = self.expected.clone();
        expected.sort_unstable();
        let fired = fired.iter().map(|(tick, name)| (*tick, name.as_str())).collect::<Vec<_>>();
        ensure!(fired == expected, "fired {fired:?}, expected {expected:?}");
        Ok(())
    }
}

fn result(task: &pb::Task) -> Value {
    let result = value(task.result.as_ref());
    let stdout = result["stdout"].as_str().unwrap_or_default();
    serde_json::from_str(stdout).unwrap_or(result)
}

/// A job that comes once in a period by the log's time: the first does it, the others say who did.
fn once_in_six_hours(checks: &[pb::Task]) -> anyhow::Result<()> {
    let mut periods = BTreeSet::new();
    for check in checks {
        let created = Timestamp::from(check.created_at.context("a time")?);
        let (first, state) =
            (periods.insert(created.micros().div_euclid(SIX_HOURS)), check.state());
        let expected = if first { pb::TaskState::Completed } else { pb::TaskState::Skipped };
        ensure!(state == expected, "{state:?} {:?}", check.error);
    }
    Ok(())
}

#[tokio::test]
async fn the_jobs_of_the_catalog_come_on_their_schedules_for_a_week() -> anyhow::Result<()> {
    let mut week = Week::begin().await?;
    let site = &week.site;
    // What the jobs are to find: metrics and feedback, answers of which one is old and one too old,
    // and work that died.
    for name in ["metrics_aggregation", "feedback_analysis", "cache_prewarm"] {
        site.by_hand(name).await?;
    }
    site.age("cache/stats.json", 45)?;
    site.age("cache/dead.json", 300)?;
    site.something_dies().await?;

    let mut done = Vec::new();
    // An hour from fire to fire, by what the product says comes next.
    let hour = week.now + 60;
    loop {
        let next = week.next().await?.into_iter().min().context("something comes next")?;
        if next > hour {
            break;
        }
        done.extend(week.jump(next).await?);
    }
    // Then six days and 23 hours from one daily fire to the next. In between the clock stands
    // still for a scheduler, as in an outage: of what comes more often the last has its run.
    let end = week.now + 7 * DAY - 60;
    loop {
        let next = week.oracle.next(week.now);
        let next = next["dead_code_daily_check"].min(next["knowledge_export"]);
        if next > end {
            break;
        }
        week.next().await?;
        done.extend(week.jump(next).await?);
    }
    week.check().await.context("the week")?;
    what_they_did(&week.site, &done)?;
    disabled_ones_are_enabled(&mut week).await?;
    week.check().await.context("after the week")?;
    week.site.close().await
}

/// Each job ended well, as often as it came, and left what it is there for.
fn what_they_did(site: &Site, done: &[(&str, pb::Task)]) -> anyhow::Result<()> {
    let of = |name: &str| {
        let own = done.iter().filter(|(other, _)| *other == name);
        own.map(|(_, task)| task.clone()).collect::<Vec<_>>()
    };
    for (name, _) in scheduled(true) {
        let runs = of(name);
        ensure!(!runs.is_empty(), "{name} did not come");
        if name == "dead_code_daily_check" {
            once_in_six_hours(&runs)?;
            continue;
        }
        for run in runs {
            ensure!(run.state() == pb::TaskState::Completed, "{name}: {:?}", run.error);
            ensure!(run.attempts == 1 && run.created_by == "catalog", "{name}: {run:?}");
        }
    }
    let results = |name: &str| of(name).iter().map(result).collect::<Vec<_>>();
    ensure!(of("metrics_aggregation").len() >= 12 && of("cache_cleanup").len() >= 4);
    ensure!(of("knowledge_export").len() == 7 && of("dead_code_weekly_summary").len() == 1);
    // Each aggregation counts those before it, the one by hand too; the ledger may not yet have the last.
    for (n, metrics) in (1..).zip(results("metrics_aggregation")) {
        let types = metrics["types"].as_array().context("types")?;
        let own = types.iter().find(|entry| entry["type"] == "metrics_aggregation");
        let counted = own.map_or(Some(0), |own| own["runs"].as_u64()).context("runs")?;
        ensure!((n - 1..=n).contains(&counted), "{n}: {metrics}");
    }
    let feedback = results("feedback_analysis");
    let newest = feedback.last().context("feedback")?["types"].as_array().context("types")?;
    ensure!(newest.iter().any(|of| of["type"] == "cache_cleanup"), "{newest:?}");
    ensure!(results("agent_evolution").iter().all(|tried| tried["failed"] == 0));
    ensure!(results("knowledge_export").iter().all(|told| told == &json!({"promoted": []})));
    let removed = results("cache_cleanup");
    ensure!(removed[0] == json!({"removed": 1, "left": 3}), "{removed:?}");
    ensure!(removed[1..].iter().all(|cleanup| cleanup["removed"] == 0), "{removed:?}");
    let refreshed = results("cache_refresh");
    ensure!(refreshed[0] == json!({"refreshed": 1}), "{refreshed:?}");
    ensure!(refreshed[1..].iter().all(|refresh| refresh["refreshed"] == 0), "{refreshed:?}");
    let first = &results("dead_code_daily_check")[0];
    let seen = json!({"new": 1, "status": "warning", "kinds": {"undecodable": 1}});
    ensure!(*first == seen, "{first}");
    ensure!(results("dead_code_weekly_summary") == [json!({"letters": 1})]);
    for file in ["metrics.tsv", "feedback.tsv", "tuning.tsv", "knowledge.json", "dead/weekly.md"] {
        site.text(file)?;
    }
    Ok(())
}

/// Types that are disabled fire once they are enabled, and do not when they are disabled again.
async fn disabled_ones_are_enabled(week: &mut Week) -> anyhow::Result<()> {
    let view = week.site.view.clone();
    let [prewarm, sync] = ["cache_prewarm", "pattern_sync_job"];
    std::fs::remove_file(week.site.path("cache/queues.json"))?;
    for name in [prewarm, sync] {
        view.cli(&["types", "enable", name]).await?;
        let cron = scheduled(false).find(|(other, _)| *other == name).context("a schedule")?.1;
        week.oracle.wakes(name, cron, week.site.set_at(name).await?);
    }
    // To the log's clock they have missed the week: the last tick is caught up at once.
    let caught_up = week.jump(week.now).await?;
    ensure!(caught_up.len() == 2, "{caught_up:?}");
    let (_, warmed) = caught_up.iter().find(|(name, _)| *name == prewarm).context("it comes")?;
    // What was too old, and what is gone now.
    ensure!(result(warmed) == json!({"warmed": 2}), "{warmed:?}");
    week.site.text("cache/queues.json")?;
    let next = week.next().await?.into_iter().min().context("something comes next")?;
    let done = week.jump(next).await?;
    let (_, synced) = done.iter().find(|(name, _)| *name == sync).context("it comes")?;
    ensure!(result(synced) == json!({"indexed": 0, "errors": 0, "code": 0}), "{synced:?}");
    week.site.text("patterns/index.tsv")?;

    view.cli(&["types", "disable", sync]).await?;
    week.oracle.rests(sync, "*/5 * * * *");
    let listed = view.cli(&["schedule", "ls", sync]).await?;
    ensure!(listed.contains("paused: its type is disabled"), "{listed}");
    let held = view.submit(json!({"task_type": sync, "task_id": "held"})).await?;
    view.first_waits_for(&held, "type_disabled").await?;
    let after = week.next().await?.into_iter().min().context("something comes next")?;
    let done = week.jump(after).await?;
    ensure!(!done.is_empty() && done.iter().all(|(name, _)| *name != sync), "{done:?}");
    // What was held starts when the type is enabled; it is not asked to catch up what it slept through.
    view.cli(&["types", "enable", sync]).await?;
    week.oracle.wakes(sync, "*/5 * * * *", week.site.set_at(sync).await?);
    week.jump(week.now).await?;
    view.completes(&TaskId::parse("held")?).await?;
    Ok(())
}
