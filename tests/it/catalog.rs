//! The example catalog: each of its sixteen jobs does what it says, on Jetmill's own data.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use catalog::Entry;
use common::{error::Violation, task::TaskSpec};
use futures::StreamExt as _;
use jetmill_sdk::{TaskId, pb};
use serde_json::{Value, json};
use testkit::{Jetmill, eventually};

use crate::rig::{Rig, is_over};

/// What the originals were configured with: schedule, enabled, queue, attempts.
pub(crate) const TABLE: [(&str, &str, bool, &str, i32); 16] = [
    ("metrics_aggregation", "*/5 * * * *", true, "default", 2),
    ("feedback_analysis", "*/30 * * * *", true, "default", 2),
    ("agent_evolution", "0 * * * *", true, "default", 2),
    ("knowledge_export", "0 0 * * *", true, "default", 2),
    ("cache_cleanup", "*/15 * * * *", true, "maintenance", 1),
    ("cache_refresh", "0 * * * *", true, "maintenance", 1),
    ("cache_prewarm", "0 */6 * * *", false, "maintenance", 1),
    ("cache_maintenance", "", true, "maintenance", 1),
    ("pattern_sync", "", true, "default", 2),
    ("pattern_sync_job", "*/5 * * * *", false, "pattern_mining", 2),
    ("pattern_miner", "", true, "pattern_mining", 3),
    ("domain_vocabulary_trainer", "", true, "training", 1),
    ("embedding_finetune", "", false, "training", 1),
    ("train_t5_model", "", false, "training", 1),
    ("dead_code_daily_check", "0 9 * * *", true, "default", 2),
    ("dead_code_weekly_summary", "0 9 * * 1", true, "default", 2),
];

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/catalog")
}

/// Every type of the example catalog, by its name.
pub(crate) fn examples() -> anyhow::Result<BTreeMap<String, pb::TaskType>> {
    let mut types = BTreeMap::new();
    for file in fs::read_dir(folder())? {
        let path = file?.path();
        let entries = catalog::read(&fs::read_to_string(&path)?);
        let entries = entries.map_err(|found| anyhow::anyhow!("{}: {found:?}", path.display()))?;
        types.extend(
            entries.into_iter().map(|Entry { task_type, .. }| (task_type.name.clone(), task_type)),
        );
    }
    Ok(types)
}

#[test]
fn the_catalog_has_the_sixteen_jobs_as_they_were_configured() -> anyhow::Result<()> {
    let types = examples()?;
    assert_eq!(types.len(), TABLE.len());
    for (name, schedule, enabled, queue, attempts) in TABLE {
        let found = types.get(name).with_context(|| format!("{name} is missing"))?;
        assert_eq!(found.schedule, schedule, "{name}");
        assert_eq!(found.enabled.unwrap_or(true), enabled, "{name}");
        assert_eq!(found.queue, queue, "{name}");
        let retry = found.retry.as_ref().and_then(|retry| retry.max_attempts);
        assert_eq!(retry, Some(attempts), "{name}");
        assert!(!found.description.is_empty() && !found.capabilities.is_empty(), "{name}");
    }
    Ok(())
}

/// A platform whose worker serves every queue of the catalog and finds the program.
async fn platform() -> anyhow::Result<Rig> {
    let queues = "default=4,maintenance=3,pattern_mining=3,training=1,handlers=1";
    let program = Jetmill::program()?;
    let bin = program.parent().context("a folder")?.display();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = format!("{bin}:{}", others.to_string_lossy());
    Rig::with(Jetmill::dev().arg("--queues").arg(queues).env("PATH", path)).await
}

/// The example catalog at work, and a folder for what jobs keep.
struct Shop {
    rig: Rig,
    types: BTreeMap<String, pb::TaskType>,
    dir: tempfile::TempDir,
}

impl Shop {
    async fn open() -> anyhow::Result<Self> {
        let rig = platform().await?;
        let applied = rig.cli_json(&["types", "apply", "-f", &folder().to_string_lossy()]).await?;
        let changes = applied["changes"].as_array().context("changes")?;
        ensure!(
            changes.len() == 16 + 10 && changes.iter().all(|c| c["result"] == "created"),
            "{applied}"
        );
        Ok(Self { rig, types: examples()?, dir: tempfile::tempdir()? })
    }

    /// Runs a job by hand to its good end: what it says.
    async fn run(&self, name: &str, mut input: Value) -> anyhow::Result<Value> {
        let of = self.types.get(name).with_context(|| format!("no type {name}"))?;
        let known = of.input_schema.as_ref().map(pb::Json::to_value).unwrap_or_default();
        let dir = self.dir.path().to_string_lossy();
        for (field, value) in [("dir", dir.as_ref()), ("nats_url", &self.rig.url)] {
            if known.pointer(&format!("/properties/{field}")).is_some()
                && let Some(input) = input.as_object_mut()
            {
                input.insert(field.to_owned(), value.into());
            }
        }
        let input = input.to_string();
        let run = ["types", "run", name, "--input", &input, "--wait"];
        let outcome = self.rig.cli_json(&run).await.with_context(|| format!("job {name}"))?;
        let result = outcome["result"].clone();
        match result["stdout"].as_str() {
            Some(text) => serde_json::from_str(text).with_context(|| format!("{name}: {result}")),
            None => Ok(result),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.path(name)).with_context(|| format!("no {name}"))
    }

    /// Work that another system did: so many good and bad runs of a type.
    async fn history(&self, name: &str, good: u32, bad: u32, metrics: Value) -> anyhow::Result<()> {
        let client = self.rig.client.bus().client().clone();
        for n in 0..good + bad {
            let id = format!("{name}-{n}");
            let body = json!({"task_id": id, "task_type": name, "title": "Answers questions"});
            client.publish("task.created", body.to_string().into()).await?;
            let why = format!("no answer after {n} s from \"peer {n}\"");
            let (kind, report) = if n < good {
                let took = if bad > 0 { "2.5s" } else { "0.5s" };
                let report = json!({"task_id": id, "duration": took, "ml_metrics": metrics});
                ("task.completed", report)
            } else {
                ("task.failed", json!({"task_id": id, "error_message": why}))
            };
            client.publish(kind, report.to_string().into()).await?;
            if n + 1 == good + bad {
                client.flush().await?;
                let id = TaskId::parse(&id)?;
                self.rig.until(&id, "over", |t| is_over(t.state())).await?;
            }
        }
        Ok(())
    }
}

fn of_type<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let types = answer["types"].as_array().expect("types");
    types.iter().find(|entry| entry["type"] == name).expect(name)
}

#[tokio::test]
async fn metrics_become_feedback_and_feedback_is_tried_and_judged() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    shop.history("agent", 3, 1, json!({"cost_cents": 8.0, "quality": 0.9})).await?;
    shop.history("sure", 100, 0, json!({"cost_cents": 1.0, "quality": 0.9})).await?;

    let metrics = shop.run("metrics_aggregation", json!({})).await?;
    let agent = of_type(&metrics, "agent");
    assert_eq!((agent["runs"].as_i64(), agent["success"].as_f64()), (Some(4), Some(0.75)));
    assert_eq!(agent["cost_cents"], 6.0, "a failed run costs nothing that was reported");
    assert_eq!(
        (agent["latency_ms"].as_f64(), of_type(&metrics, "sure")["latency_ms"].as_f64()),
        (Some(1_875.0), Some(500.0))
    );

    let feedback = shop.run("feedback_analysis", json!({})).await?;
    let agent = of_type(&feedback, "agent");
    assert_eq!(agent["health"], "critical");
    let issues = agent["issues"].as_array().context("issues")?;
    let issue = |n: usize| (issues[n]["issue"].as_str(), issues[n]["severity"].as_str());
    assert_eq!(issue(0), (Some("success"), Some("critical")));
    assert_eq!(issue(1), (Some("cost"), Some("high")));
    assert_eq!(issues[0]["confidence"], 0.4);
    assert_eq!(issues[1]["confidence"], 0.8);
    assert_eq!(of_type(&feedback, "sure")["health"], "healthy", "{metrics} {feedback}");

    let evolution = shop.run("agent_evolution", json!({})).await?;
    assert_eq!(evolution, json!({"applied": 1, "kept": 0, "rolled_back": 0, "failed": 0}));
    assert!(shop.text("tuning.tsv")?.contains("optimize_model\ttrial\t6"));
    // It became worse by far: it is taken back. A line that cannot be read stops nothing.
    let worse = shop.text("metrics.tsv")?.replace("\t0.75\t6\t", "\t0.75\t9\t");
    fs::write(shop.path("metrics.tsv"), format!("rubbish\n{worse}"))?;
    let evolution = shop.run("agent_evolution", json!({})).await?;
    assert_eq!(evolution, json!({"applied": 0, "kept": 0, "rolled_back": 1, "failed": 1}));
    assert_eq!(shop.text("tuning.tsv")?, "");
    // Tried again, and better this time: it is kept.
    shop.run("agent_evolution", json!({})).await?;
    fs::write(shop.path("metrics.tsv"), worse.replace("\t0.75\t9\t", "\t0.75\t5\t"))?;
    let evolution = shop.run("agent_evolution", json!({})).await?;
    assert_eq!(evolution["kept"], 1);
    assert!(shop.text("tuning.tsv")?.contains("optimize_model\tkept\t9"));

    let knowledge = shop.run("knowledge_export", json!({})).await?;
    let promoted = knowledge["promoted"].as_array().context("promoted")?;
    assert_eq!(promoted.len(), 1, "{knowledge}");
    assert_eq!(
        (promoted[0]["type"].as_str(), promoted[0]["uses"].as_i64()),
        (Some("sure"), Some(100))
    );
    assert_eq!(serde_json::from_str::<Value>(&shop.text("knowledge.json")?)?, knowledge);

    let words = shop.run("domain_vocabulary_trainer", json!({"words_max": 3})).await?;
    assert_eq!(words["words"], 3);
    assert!(shop.text("vocabulary.tsv")?.contains("questions\t104\n"));
    Ok(())
}

#[tokio::test]
async fn the_cache_is_filled_renewed_and_kept_small() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let age = |name: &str, minutes: u64| -> anyhow::Result<()> {
        let file = File::options().append(true).open(shop.path(&format!("cache/{name}")))?;
        file.set_modified(file.metadata()?.modified()? - Duration::from_secs(minutes * 60))?;
        Ok(())
    };
    assert_eq!(shop.run("cache_prewarm", json!({})).await?, json!({"warmed": 4}));
    assert_eq!(shop.run("cache_prewarm", json!({})).await?, json!({"warmed": 0}));
    let stats: Value = serde_json::from_str(&shop.text("cache/stats.json")?)?;
    age("stats.json", 45)?;
    assert_eq!(shop.run("cache_refresh", json!({})).await?, json!({"refreshed": 1}));
    let newer: Value = serde_json::from_str(&shop.text("cache/stats.json")?)?;
    assert_ne!(stats["sequence"], newer["sequence"], "it was asked for again");
    age("dead.json", 300)?;
    assert_eq!(shop.run("cache_cleanup", json!({})).await?, json!({"removed": 1, "left": 3}));
    fs::write(shop.path("cache/stats.4711"), "half an ans")?;
    age("stats.4711", 20)?;
    age("failed.json", 20)?;
    let kept = shop.run("cache_maintenance", json!({"max_files": 2})).await?;
    assert_eq!(kept, json!({"left_over": 1, "evicted": 1, "files": 2}));
    assert!(!shop.path("cache/failed.json").exists(), "the oldest goes first");
    Ok(())
}

#[tokio::test]
async fn patterns_are_mined_from_errors_and_code() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    shop.history("agent", 0, 3, json!({})).await?;
    let synced = shop.run("pattern_sync", json!({})).await?;
    assert_eq!(synced, json!({"patterns": 1, "errors": 3}));
    assert!(shop.text("patterns/errors.tsv")?.contains("no answer after N s from S"));

    let code = tempfile::tempdir()?;
    let body = "let total = first + second;\nlet total = first + third;\nreturn_early(\"x\");\n";
    for n in 0..4 {
        fs::write(code.path().join(format!("a{n}.rs")), body)?;
        fs::write(code.path().join(format!("a{n}.py")), body)?;
    }
    let input = json!({"codebase_path": code.path(), "similarity_threshold": 0.6});
    let mined = shop.run("pattern_miner", input).await?;
    assert_eq!(mined, json!({"files": 4, "patterns": 3, "clusters": 2}));
    let input = json!({"codebase_path": code.path(), "languages": ["rust", "python"],
        "min_quality_score": 0.9, "cluster_patterns": false});
    assert_eq!(shop.run("pattern_miner", input).await?["files"], 8);
    assert_eq!(shop.text("patterns/mined.tsv")?, "", "eight times is 0.875");
    let input = json!({"codebase_path": code.path()});
    shop.run("pattern_miner", input).await?;
    let indexed = shop.run("pattern_sync_job", json!({})).await?;
    assert_eq!(indexed, json!({"indexed": 4, "errors": 1, "code": 3}));
    Ok(())
}

#[tokio::test]
async fn what_died_is_reported_once_a_day_and_summed_up_in_a_week() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let client = shop.rig.client.bus().client().clone();
    client.publish("task.created", "{not json".into()).await?;
    client.publish("task.created", "{\"tilte\": 1}".into()).await?;
    client.flush().await?;
    testkit::eventually("two dead letters", crate::support::SOON, async || {
        let letters = shop.rig.cli_json(&["dead", "ls"]).await.ok()?;
        (letters["letters"].as_array()?.len() == 2).then_some(())
    })
    .await?;
    let check = || shop.run("dead_code_daily_check", json!({}));
    let first = check().await?;
    assert_eq!(first, json!({"new": 2, "status": "warning", "kinds": {"undecodable": 2}}));
    let again = check().await.expect_err("one in six hours");
    assert!(format!("{again:#}").contains("has the place of its key and period"), "{again:#}");
    let summary = shop.run("dead_code_weekly_summary", json!({})).await?;
    assert_eq!(summary, json!({"letters": 2}));
    let page = shop.text("dead/weekly.md")?;
    assert!(page.contains("- undecodable: 2") && page.contains("- 2 new: warning"), "{page}");
    Ok(())
}

#[tokio::test]
async fn training_is_asked_of_whoever_can() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let client = shop.rig.client.bus().client().clone();
    for (name, subject) in [
        ("train_t5_model", "training.t5.train"),
        ("embedding_finetune", "training.embedding.finetune"),
    ] {
        let mut asked = client.subscribe(subject).await?;
        client.flush().await?;
        let answers = async {
            let message = asked.next().await.context("nobody asked")?;
            let asked: Value = serde_json::from_slice(&message.payload)?;
            let to = message.reply.context("a request has a reply subject")?;
            client.publish(to, json!({"loss": 0.5, "asked": asked}).to_string().into()).await?;
            client.flush().await?;
            anyhow::Ok(())
        };
        let run = shop.run(name, json!({"dataset": "s3://pairs", "epochs": 2}));
        let (answered, result) = tokio::join!(answers, run);
        answered?;
        assert_eq!(result?["loss"], 0.5);
    }
    Ok(())
}

const GREETING: &str = "name: greeting
executor:
  shell: { argv: [echo, \"{{ input.greeting | default('hello') }} {{ input.name }}\"] }
input_schema:
  required: [name]
  properties: { name: { type: string, maxLength: 20 }, greeting: { type: string } }
queue: maintenance
priority: 7
retry: { max_attempts: 1 }
";

async fn greeting(rig: &Rig, change: &str) -> anyhow::Result<Value> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("greeting.yaml");
    fs::write(&file, format!("{GREETING}{change}"))?;
    rig.cli_json(&["types", "apply", "-f", &file.to_string_lossy()]).await
}

#[tokio::test]
async fn a_plain_publication_of_a_type_is_a_submission() -> anyhow::Result<()> {
    let rig = platform().await?;
    greeting(&rig, "").await?;
    let client = rig.client.bus().client().clone();
    let publish = async |body: Value| -> anyhow::Result<TaskId> {
        client.publish("task.created", body.to_string().into()).await?;
        client.flush().await?;
        Ok(TaskId::parse(body["task_id"].as_str().context("an id")?)?)
    };
    let id =
        publish(json!({"task_id": "a", "task_type": "greeting", "input": {"name": "you"}})).await?;
    let task = rig.completes(&id).await?;
    assert_eq!(
        (task.queue.as_str(), task.priority, task.executor.as_str()),
        ("maintenance", 7, "shell")
    );
    assert_eq!(crate::rig::value(task.result.as_ref())["stdout"], "hello you\n");
    // On a slow machine even this takes long enough for a start of its own.
    let mut kinds = rig.kinds(&id).await?;
    kinds.retain(|kind| kind != "started");
    assert_eq!(kinds, ["created", "resolved", "completed"]);
    let again =
        publish(json!({"task_id": "a", "task_type": "greeting", "input": {"name": "you"}})).await?;
    assert_eq!(again, id, "a repeat");

    let id =
        publish(json!({"task_id": "b", "task_type": "greeting", "input": {"greeting": 7}})).await?;
    let task = rig.fails(&id, pb::Cause::Rejected, "does_not_fit").await?;
    let message = task.error.context("an error")?.message;
    assert!(message.contains("input/greeting") && message.contains("name"), "{message}");

    let id = publish(json!({"task_id": "c", "task_type": "unheard_of"})).await?;
    rig.waits_for(&id, &["external"]).await?;
    let letters = rig.cli_json(&["dead", "ls"]).await?;
    let about = letters.to_string();
    assert!(!about.contains("another body"), "{letters}");
    Ok(())
}

#[tokio::test]
async fn a_disabled_type_holds_its_tasks_and_runs_by_hand() -> anyhow::Result<()> {
    let rig = platform().await?;
    greeting(&rig, "").await?;
    let disabled = rig.cli_json(&["types", "disable", "greeting"]).await?;
    assert_eq!(disabled["changes"][0]["version"], "2", "{disabled}");
    let held = rig.submit(json!({"task_type": "greeting", "input": {"name": "later"}})).await?;
    rig.first_waits_for(&held, "type_disabled").await?;
    let run = ["types", "run", "greeting", "--input", r#"{"name": "now"}"#, "--wait"];
    let by_hand = rig.cli_json(&run).await?;
    assert_eq!(by_hand["result"]["stdout"], "hello now\n");
    let listed = rig.cli_json(&["types", "ls"]).await?;
    let of = &listed["types"][0];
    assert_eq!(
        (of["enabled"].as_bool(), of["tasks"]["completed"].as_u64()),
        (Some(false), Some(1))
    );
    assert_eq!(of["tasks"]["pending"], 1, "{listed}");
    rig.cli_json(&["types", "enable", "greeting"]).await?;
    rig.completes(&held).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_types_and_inputs_is_said_at_once() -> anyhow::Result<()> {
    let rig = platform().await?;
    let folder = tempfile::tempdir()?;
    fs::write(
        folder.path().join("a.yaml"),
        "name: a\nqueue: b c\nexecutor: {shell: {argv: [x]}}\n",
    )?;
    fs::write(folder.path().join("b.yml"), "name: b\nexecutor: {shell: {}}\nretri: 1\n")?;
    let path = folder.path().to_string_lossy().into_owned();
    let output = Jetmill::cli(&rig.url, &["types", "apply", "-f", &path]).await?;
    assert_eq!(output.status.code(), Some(2));
    for problem in ["a.yaml:2:", "b.yml:2:", "b.yml:3:8: retri is no field"] {
        assert!(output.stderr.contains(problem), "{problem}: {}", output.stderr);
    }
    let nothing = rig.cli_json(&["types", "ls"]).await?;
    assert_eq!(nothing, json!({"types": []}));
    assert_eq!(greeting(&rig, "").await?["changes"][0]["result"], "created");
    assert_eq!(greeting(&rig, "").await?["changes"][0]["result"], "unchanged");
    let run = ["types", "run", "greeting", "--input", r#"{"name": "far too long for a greeting"}"#];
    let output = Jetmill::cli(&rig.url, &run).await?;
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stderr.contains("input/name"), "{}", output.stderr);
    let dry = rig
        .cli_json(&["types", "run", "greeting", "--input", r#"{"name": "x"}"#, "--dry-run"])
        .await?;
    assert_eq!(dry["executor"]["shell"]["argv"], json!(["echo", "hello x"]));
    let output = Jetmill::cli(&rig.url, &["types", "show", "nothing"]).await?;
    assert_eq!(output.status.code(), Some(3));
    Ok(())
}

#[tokio::test]
async fn doors_refuse_what_does_not_fit_its_type_and_take_what_is_there() -> anyhow::Result<()> {
    let rig = platform().await?;
    greeting(&rig, "").await?;
    let misfit = pb::TaskSpec {
        task_type: "greeting".into(),
        input: Some(pb::Json { text: json!({"greeting": 7}).to_string() }),
        ..pb::TaskSpec::default()
    };
    let spec = TaskSpec::parse(misfit.clone()).map_err(|found| anyhow::anyhow!("{found:?}"))?;
    // Within a moment the doors hear that there are types.
    let asked = async || rig.client.submit(spec.clone()).await.err();
    let error = eventually("a refusal", Duration::from_secs(10), asked).await?;
    let fields = |violations: &[Violation]| {
        violations.iter().map(|found| found.field.clone()).collect::<Vec<_>>()
    };
    assert_eq!(fields(&error.violations), ["input", "input/greeting"], "{error:?}");
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), json!({"task_type": "greeting", "input": {"greeting": 7}}).to_string())?;
    let path = file.path().to_string_lossy().into_owned();
    let output = Jetmill::cli(&rig.url, &["submit", "-f", &path]).await?;
    assert!(!output.status.success() && output.stderr.contains("input/greeting"), "{output:?}");
    // Of many only the bad one; what another system runs has no type here.
    let good = pb::TaskSpec {
        input: Some(pb::Json { text: json!({"name": "you"}).to_string() }),
        ..misfit.clone()
    };
    let unheard = pb::TaskSpec { task_type: "unheard_of".into(), ..pb::TaskSpec::default() };
    let specs = [good, misfit, unheard].map(|spec| TaskSpec::parse(spec).expect("valid"));
    let answers = rig.client.submit_all(specs.into()).await;
    let taken = answers.iter().map(Result::is_ok).collect::<Vec<_>>();
    assert_eq!(taken, [true, false, true], "{answers:?}");
    Ok(())
}
