//! Inputs and results that are too large for events: whole through every door, with a clear end when
//! they are missing, damaged or too many, and gone when nobody needs them any more.

#![expect(clippy::indexing_slicing, reason = "what JSON does not have is null; the test says so")]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_nats::jetstream::{self, object_store::ObjectStore};
use common::{error::ErrorCode, limits, subject};
use futures::TryStreamExt as _;
use gateway::client::{ObjectsClient, RegistryClient};
use jetmill_sdk::{
    HandlerContext, Task, TaskId, Tenant,
    pb::{self, Cause, read_request::Part},
};
use serde_json::{Value, json};
use testkit::{Jetmill, eventually};
use tokio::io::AsyncReadExt as _;
use tonic::Code;

use crate::{
    rig::{Gate, Guest, Rig, gate, value},
    support::{SOON, admin, grpc, nats, publish},
};

const MIB: usize = 1024 * 1024;

/// A value of so many bytes, and a little more, that is not the same everywhere.
fn large(bytes: usize) -> Value {
    let line = |n: usize| format!("line {n:>8} with \"quotes\" and ümläute");
    let lines = (0..bytes / line(0).len()).map(line).collect::<Vec<_>>();
    json!({ "lines": lines })
}

/// A worker whose handler `echo` returns its input, and whose `make` returns as much as it says, once
/// it may.
async fn worker(rig: &Rig, gate: &Gate) -> anyhow::Result<Guest> {
    let gate = gate.clone();
    let make = move |context: HandlerContext| {
        let gate = gate.clone();
        async move {
            let _held = gate.acquire().await?;
            Ok(large(context.input::<usize>()?))
        }
    };
    rig.worker("handlers", 4, |builder| {
        let echo = |context: HandlerContext| async move { context.input::<Value>() };
        builder.handler("echo", echo).handler("make", make)
    })
    .await
}

fn echo(input: &Value) -> Task {
    let input = pb::Json::from_value(input);
    Task::handler("echo").with(|spec| spec.input = Some(input))
}

async fn store(rig: &Rig) -> anyhow::Result<ObjectStore> {
    let client = nats(&rig.dev).await?;
    Ok(jetstream::new(client).get_object_store(subject::OBJECTS).await?)
}

fn id(submission: &pb::Submission) -> anyhow::Result<TaskId> {
    Ok(TaskId::parse(&submission.task_id)?)
}

#[tokio::test]
async fn large_inputs_and_results_come_back_whole_through_every_door() -> anyhow::Result<()> {
    let rig = Rig::start().await?;
    let _worker = worker(&rig, &gate()).await?;
    Box::pin(sdk(&rig)).await.context("the SDK")?;
    Box::pin(executors(&rig)).await.context("the executors")?;
    Box::pin(command_line(&rig)).await.context("the command line")?;
    Box::pin(over_grpc(&rig)).await.context("gRPC")?;
    Box::pin(plain_nats(&rig)).await.context("plain NATS")
}

async fn sdk(rig: &Rig) -> anyhow::Result<()> {
    let input = large(3 * MIB);
    let outcome = rig.client.submit_and_wait(echo(&input).build()?, SOON).await?;
    ensure!(value(outcome.result.as_ref()) == input, "what came back is not what was sent");
    let id = TaskId::parse(&outcome.task_id)?;
    let waited = rig.client.wait(&Tenant::default(), &id, SOON).await?;
    ensure!(waited.result == outcome.result && rig.result(&id).await? == input);
    // The ledger and the log have the places only.
    let task = rig.task(&id).await?;
    let place = task.input_object.context("the input's place")?;
    ensure!(task.input.is_none() && task.result.is_none() && task.result_object.is_some());
    ensure!(place.bytes as usize == input.to_string().len(), "{place:?}");

    // A repeat puts the input in again, and is the same task; another input is another body.
    let keyed = |input: &Value| echo(input).idempotency_key("once").build();
    let first = rig.client.submit(keyed(&input)?).await?;
    let again = rig.client.submit(keyed(&input)?).await?;
    ensure!(again.existing && again.task_id == first.task_id, "{again:?}");
    let other = rig.client.submit(keyed(&large(MIB))?).await.err().map(|error| error.code);
    ensure!(other == Some(ErrorCode::Conflict), "{other:?}");
    // A new task that runs an old one again has its input.
    let selection = pb::Selection { task_ids: vec![id.to_string()], ..pb::Selection::default() };
    let request = pb::RetryRequest { selection: Some(selection), ..pb::RetryRequest::default() };
    let changes = rig.client.retry(&request).await?.changes;
    let new = TaskId::parse(&changes.first().context("a change")?.new_task_id)?;
    rig.completes(&new).await?;
    ensure!(rig.result(&new).await? == input, "run again");

    let too_much = "x".repeat(limits::OBJECT_BYTES_MAX);
    let refused = echo(&json!(too_much)).build().err().map(|error| error.code);
    ensure!(refused == Some(ErrorCode::InvalidArgument), "{refused:?}");
    Ok(())
}

async fn executors(rig: &Rig) -> anyhow::Result<()> {
    let input = large(2 * MIB);
    let text = input.to_string();
    let with_input = |task: Task| task.with(|s| s.input = Some(pb::Json::from_value(&input)));
    let cat = rig.client.submit(with_input(Task::shell(["cat"])).build()?).await?;
    let lua = "function main(input) return { first = input.lines[1], all = input.lines } end";
    let lua = rig.client.submit(with_input(Task::lua(lua)).build()?).await?;
    for submission in [&cat, &lua] {
        rig.completes(&id(submission)?).await?;
    }
    let printed = rig.result(&id(&cat)?).await?;
    ensure!(printed["stdout"] == text && printed["truncated"] == false);
    let returned = rig.result(&id(&lua)?).await?;
    ensure!(returned["all"] == input["lines"] && returned["first"] == input["lines"][0]);
    Ok(())
}

async fn command_line(rig: &Rig) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("input.json");
    let input = large(2 * MIB);
    std::fs::write(&file, input.to_string())?;
    let file = file.display().to_string();
    let args = ["submit", "--handler", "echo", "--id", "by-hand", "--input-file", &file, "--wait"];
    let outcome = rig.cli_json(&args).await?;
    ensure!(outcome["result"] == input, "submit --wait");
    let result = rig.cli_json(&["result", "by-hand"]).await?;
    ensure!(result["result"] == input, "result --json");
    let printed = rig.cli(&["result", "by-hand"]).await?;
    ensure!(serde_json::from_str::<Value>(&printed)? == input, "result");
    let task = rig.cli_json(&["get", "by-hand"]).await?;
    ensure!(task["result"] == input && task["input"] == input, "get --json");
    let shown = rig.cli(&["get", "by-hand"]).await?;
    ensure!(shown.contains("`jetmill result` prints it"), "{shown}");
    // Many tasks, one a line.
    let line = json!({ "executor": { "worker": { "handler": "echo" } }, "input": input });
    std::fs::write(&file, line.to_string())?;
    let told = rig.cli(&["--json", "submit", "-f", &file, "--wait"]).await?;
    let ends = told.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    ensure!(ends.iter().any(|end| end["result"] == input), "submit -f");
    Ok(())
}

async fn over_grpc(rig: &Rig) -> anyhow::Result<()> {
    let channel = grpc(&rig.dev).await?;
    let mut registry = RegistryClient::new(channel.clone());
    let mut objects = ObjectsClient::new(channel).max_decoding_message_size(MIB);
    // As one message.
    let input = large(3 * MIB);
    let small = echo(&json!(1)).build()?.into_pb();
    let tasks = vec![small.clone(), echo(&input).build()?.into_pb(), small];
    let answer = registry.submit(pb::SubmitRequest { tasks }).await?.into_inner();
    ensure!(answer.submissions.iter().all(|s| s.error.is_none()) && answer.submissions.len() == 3);
    let submitted = id(answer.submissions.get(1).context("three answers")?)?;
    rig.completes(&submitted).await?;
    for part in [Part::Input, Part::Result] {
        let read = read(&mut objects, &submitted, part).await?;
        ensure!(serde_json::from_slice::<Value>(&read)? == input, "{part:?}");
    }
    // In pieces, of more than one message can have.
    let input = large(6 * MIB);
    let text = input.to_string().into_bytes();
    let pieces = text.chunks(MIB).map(|data| pb::ObjectChunk { data: data.to_vec() });
    let pieces = futures::stream::iter(pieces.collect::<Vec<_>>());
    let place = objects.put(pieces).await?.into_inner();
    ensure!(place.bytes as usize == text.len());
    let spec = echo(&Value::Null).build()?.with_input_in(place).into_pb();
    let answer = registry.submit(pb::SubmitRequest { tasks: vec![spec] }).await?.into_inner();
    let submitted = id(answer.submissions.first().context("an answer")?)?;
    rig.completes(&submitted).await?;
    ensure!(read(&mut objects, &submitted, Part::Result).await? == text, "in pieces");

    let bad = futures::stream::iter([pb::ObjectChunk { data: b"{".to_vec() }]);
    ensure!(objects.put(bad).await.map_err(|s| s.code()).err() == Some(Code::InvalidArgument));
    let unknown = TaskId::parse("nobody").context("an id")?;
    let missing = read(&mut objects, &unknown, Part::Result).await.err().context("an error")?;
    let status = missing.downcast::<tonic::Status>()?;
    ensure!(status.code() == Code::NotFound, "{status}");
    Ok(())
}

type Grpc = ObjectsClient<tonic::transport::Channel>;

async fn read(client: &mut Grpc, id: &TaskId, part: Part) -> anyhow::Result<Vec<u8>> {
    let (tenant, task_id) = (String::new(), id.to_string());
    let pieces = client.read(pb::ReadRequest { tenant, task_id, part: part.into() }).await?;
    let pieces = pieces.into_inner().map_ok(|piece| piece.data);
    Ok(pieces.try_concat().await?)
}

async fn plain_nats(rig: &Rig) -> anyhow::Result<()> {
    let client = nats(&rig.dev).await?;
    let store = store(rig).await?;
    let input = large(2 * MIB);
    let text = input.to_string();
    // As `nats object put OBJECTS` does.
    let put = store.put("mine", &mut text.as_bytes()).await?;
    let place = json!({ "name": "mine", "bytes": text.len(), "digest": put.digest });
    let mut task = json!({
        "task_id": "asked", "executor": { "worker": { "handler": "echo" } }, "input_object": place,
    });
    let asked =
        admin(&client, "registry", "submit", json!({ "tasks": [task] }).to_string()).await?;
    ensure!(asked.is_ok(), "{asked:?}");
    task["task_id"] = json!("published");
    publish(&client, "task.created", task.to_string()).await?;
    for name in ["asked", "published"] {
        rig.completes(&TaskId::parse(name)?).await?;
        let request = json!({ "task_id": name }).to_string();
        let outcome = admin(&client, "registry", "result", request).await?;
        let outcome = outcome.ok().context("an outcome")?;
        let place = &outcome["result_object"];
        let name = place["name"].as_str().with_context(|| format!("no place: {outcome}"))?;
        let mut object = store.get(name).await?;
        ensure!(place["digest"] == json!(object.info.digest), "{place}");
        let mut read = String::new();
        object.read_to_string(&mut read).await?;
        ensure!(serde_json::from_str::<Value>(&read)? == input);
    }
    Ok(())
}

#[tokio::test]
async fn what_is_missing_damaged_or_too_much_ends_with_its_reason() -> anyhow::Result<()> {
    let small = Jetmill::dev().env("JETMILL_NATS__OBJECTS_BYTES_MAX", "8MiB");
    let rig = Rig::with(small).await?;
    let gate = gate();
    gate.add_permits(1);
    let _worker = worker(&rig, &gate).await?;
    let store = store(&rig).await?;
    let text = large(MIB).to_string();
    for name in ["missing", "damaged", "other"] {
        store.put(name, &mut text.as_bytes()).await?;
    }
    let place = |name: &str, digest: &str| {
        let (name, bytes) = (name.to_owned(), text.len() as u32);
        pb::Object { name, bytes, digest: digest.to_owned() }
    };
    let digest = store.info("damaged").await?.digest.context("a digest")?;
    let another = format!("SHA-256={}=", "A".repeat(43));
    purge(&rig, "missing").await?;
    damage(&rig, &store, "damaged").await?;
    let submit = async |place: pb::Object| {
        let task = echo(&Value::Null).with(|spec| {
            spec.retry = Some(pb::Retry { max_attempts: Some(1), ..pb::Retry::default() });
        });
        let spec = task.build()?.with_input_in(place);
        id(&rig.client.submit(spec).await?)
    };
    for (place, cause, code) in [
        (place("missing", &digest), Cause::Error, "input_missing"),
        (place("damaged", &digest), Cause::Rejected, "input_damaged"),
        (place("other", &another), Cause::Rejected, "input_damaged"),
    ] {
        let failed = submit(place).await?;
        let error = rig.fails(&failed, cause, code).await?.error.context("an error")?;
        ensure!(error.message.contains("the input: "), "{error:?}");
    }

    // Results that are gone are said to be, at every door.
    let made =
        Task::handler("make").with(|spec| spec.input = Some(pb::Json { text: "600000".into() }));
    let made = id(&rig.client.submit(made.build()?).await?)?;
    let task = rig.completes(&made).await?;
    purge(&rig, &task.result_object.context("a large result")?.name).await?;
    let error = rig.client.result(&Tenant::default(), &made).await.err().context("an error")?;
    ensure!(error.code == ErrorCode::NotFound && error.message.contains("is gone"), "{error}");
    ensure!(error.hint.contains("objects_kept"), "{error:?}");
    let told = rig.dev.cli(&["result", made.as_str()]).await?;
    ensure!(!told.status.success() && told.stderr.contains("is gone"), "{}", told.stderr);
    let mut objects = ObjectsClient::new(grpc(&rig.dev).await?);
    let error = read(&mut objects, &made, Part::Result).await.err().context("an error")?;
    ensure!(error.downcast::<tonic::Status>()?.code() == Code::NotFound);
    ensure!(rig.cli_json(&["get", made.as_str()]).await?["state"] == "TASK_STATE_COMPLETED");

    too_much(&rig).await
}

/// What finds no room is refused at the doors, and fails the attempt whose result it is.
async fn too_much(rig: &Rig) -> anyhow::Result<()> {
    let refused = rig.client.submit(echo(&large(9 * MIB)).build()?).await.err();
    let refused = refused.context("it was taken")?;
    ensure!(refused.code == ErrorCode::Exhausted, "{refused}");
    ensure!(refused.hint.contains("OBJ_OBJECTS"), "{refused:?}");
    let made = Task::handler("make").with(|spec| {
        spec.input = Some(pb::Json { text: (9 * MIB).to_string() });
        spec.retry = Some(pb::Retry { max_attempts: Some(1), ..pb::Retry::default() });
    });
    let made = id(&rig.client.submit(made.build()?).await?)?;
    let failed = rig.fails(&made, Cause::Error, "result_not_stored").await?;
    ensure!(failed.error.is_some_and(|error| error.message.contains("no room")));
    let found = rig.dev.cli(&["--json", "doctor"]).await?.stdout;
    ensure!(found.contains("\"objects\""), "{found}");
    Ok(())
}

async fn stream(rig: &Rig) -> anyhow::Result<jetstream::stream::Stream> {
    let client = nats(&rig.dev).await?;
    Ok(jetstream::new(client).get_stream(subject::OBJECTS_STREAM).await?)
}

/// Takes an object away as a sweep does.
async fn purge(rig: &Rig, name: &str) -> anyhow::Result<()> {
    let all = bus::objects::sweep::list(rig.client.bus()).await?;
    let found = all.iter().find(|stored| stored.name.as_deref() == Some(name));
    bus::objects::sweep::remove(rig.client.bus(), found.context("no such object")?).await
}

/// Takes one of its pieces out of an object.
async fn damage(rig: &Rig, store: &ObjectStore, name: &str) -> anyhow::Result<()> {
    let pieces = subject::object_pieces(&store.info(name).await?.nuid);
    let stream = stream(rig).await?;
    let last = stream.get_last_raw_message_by_subject(&pieces).await?;
    stream.delete_message(last.sequence).await?;
    Ok(())
}

/// Longer than a put and its event are apart on a busy machine, shorter than a test's patience.
const KEPT: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_sweep_takes_what_nobody_needs_and_a_worker_that_dies_before_its_event_loses_nothing()
-> anyhow::Result<()> {
    let kept = format!("{}s", KEPT.as_secs());
    let rig = Rig::with(Jetmill::dev().env("JETMILL_REGISTRY__OBJECTS_KEPT", &kept)).await?;
    let gate = gate();
    let first = worker(&rig, &gate).await?;
    let input = large(MIB);

    // Open for the whole test, on a queue that nobody serves yet.
    let open = echo(&input).with(|spec| spec.queue = "later".into());
    let open = id(&rig.client.submit(open.build()?).await?)?;
    // Over, and never asked for.
    let over = id(&rig.client.submit(echo(&input).build()?).await?)?;
    let over = rig.completes(&over).await?;
    // Put in, and named by nobody: whole, and broken off after its pieces.
    let orphan = bus::objects::put(rig.client.bus(), &input.to_string()).await?;
    let loose = subject::object_pieces("broken");
    jetstream::new(nats(&rig.dev).await?).publish(loose, "piece".into()).await?.await?;

    let died = dies_before_its_event(&rig, first, &gate).await?;
    let _second = worker(&rig, &gate).await?;
    let again = rig.completes(&died.task).await?;
    ensure!(again.attempts == 2, "{again:?}");
    let outcome = rig.client.wait(&Tenant::default(), &died.task, SOON).await?;
    ensure!(value(outcome.result.as_ref()) == large(MIB), "the second attempt's result");

    let of_over = [over.input_object, over.result_object].map(|o| o.unwrap_or_default().name);
    let [input_of_over, result_of_over] = of_over;
    let gone = [orphan.name, died.object, input_of_over, result_of_over];
    let mut left = Vec::new();
    let swept = eventually("what nobody needs to be gone", 2 * SOON, async || {
        left = bus::objects::sweep::list(rig.client.bus()).await.ok()?;
        let is_gone = |name: &String| left.iter().all(|s| s.name.as_ref() != Some(name));
        let no_pieces = left.iter().all(|stored| stored.name.is_some());
        (no_pieces && gone.iter().all(is_gone)).then_some(())
    });
    swept.await.with_context(|| format!("{left:?}"))?;

    // What was open all the while has its input.
    let _later = rig
        .worker("later", 1, |builder| {
            let echo = |context: HandlerContext| async move { context.input::<Value>() };
            builder.handler("echo", echo)
        })
        .await?;
    rig.completes(&open).await?;
    let outcome = rig.client.wait(&Tenant::default(), &open, SOON).await?;
    ensure!(value(outcome.result.as_ref()) == input, "what was open");
    Ok(())
}

/// A task whose first attempt put its result into the store and said nothing of it.
struct Died {
    task: TaskId,
    object: String,
}

/// Ends a worker when its result is in the store and its event is not in the log, which is full.
async fn dies_before_its_event(rig: &Rig, worker: Guest, gate: &Gate) -> anyhow::Result<Died> {
    let before = bus::objects::sweep::list(rig.client.bus()).await?;
    let jetstream = jetstream::new(nats(&rig.dev).await?);
    let made = Task::handler("make").with(|spec| {
        spec.input = Some(pb::Json { text: MIB.to_string() });
    });
    let log = async |max_bytes: i64| {
        let config = jetstream.get_stream(subject::TASKS).await?.cached_info().config.clone();
        let was = config.max_bytes;
        jetstream.update_stream(jetstream::stream::Config { max_bytes, ..config }).await?;
        anyhow::Ok(was)
    };
    let task = id(&rig.client.submit(made.build()?).await?)?;
    rig.running(&task).await?;
    let used = jetstream.get_stream(subject::TASKS).await?.cached_info().state.bytes;
    let max_bytes = log(i64::try_from(used)?).await?;
    gate.add_permits(1);
    let mut found = None;
    let stored = eventually("the result to be stored", SOON, async || {
        let all = bus::objects::sweep::list(rig.client.bus()).await.ok()?;
        let new = all.into_iter().find(|stored| !before.contains(stored) && stored.name.is_some());
        found = new.and_then(|stored| stored.name);
        found.as_ref().map(|_| ())
    });
    stored.await?;
    drop(worker);
    log(max_bytes).await?;
    Ok(Died { task, object: found.context("an object")? })
}
