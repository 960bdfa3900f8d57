//! What a submission may say, and what it means when it says nothing.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn spec(value: Value) -> TaskSpec {
    TaskSpec::parse(read(value)).expect("a valid submission")
}

fn read(value: Value) -> pb::TaskSpec {
    serde_json::from_value(value).expect("fields of the right types")
}

/// The fields at fault, in order.
fn faults(value: Value) -> Vec<String> {
    faults_of(read(value))
}

fn faults_of(spec: pb::TaskSpec) -> Vec<String> {
    let violations = TaskSpec::parse(spec).expect_err("an invalid submission");
    assert!(violations.iter().all(|v| !v.problem.is_empty()));
    violations.into_iter().map(|v| v.field).collect()
}

/// This, and only this, field is at fault.
fn check(field: &str, value: Value) {
    let shown = value.to_string();
    assert_eq!(faults(value), [field], "{}", &shown[..shown.len().min(200)]);
}

#[test]
fn every_name_has_its_rules() {
    check("task_id", json!({"task_id": "a\nb"}));
    check("task_id", json!({"task_id": "a".repeat(129)}));
    check("tenant", json!({"tenant": "a.b"}));
    check("tenant", json!({"tenant": "_group"}));
    check("queue", json!({"queue": "a b"}));
    check("queue", json!({"queue": "a".repeat(65)}));
    check("idempotency_key", json!({"idempotency_key": "a\0"}));
    check("retry_of", json!({"retry_of": "\u{7}"}));
    check("parent_id", json!({"parent_id": "a".repeat(129)}));
    check("idempotency_key", json!({"idempotency_key": "k", "task_id": "other"}));
    for notify in ["a..b", "a.*", ">", "a b", "$JS.API.STREAM.DELETE.TASKS", ".a", "a."] {
        check("notify", json!({"notify": notify}));
    }
}

#[test]
fn every_text_has_its_length() {
    for (field, max) in [
        ("title", limits::TITLE_BYTES_MAX),
        ("description", limits::TEXT_BYTES_MAX),
        ("task_type", limits::TASK_ID_BYTES_MAX),
        ("subsystem", limits::TASK_ID_BYTES_MAX),
        ("created_by", limits::TASK_ID_BYTES_MAX),
        ("traceparent", limits::TASK_ID_BYTES_MAX),
    ] {
        spec(json!({field: "a".repeat(max)}));
        check(field, json!({field: "a".repeat(max + 1)}));
        check(field, json!({field: "a\0b"}));
    }
    check("tags", json!({"tags": vec!["a"; limits::TAGS_MAX + 1]}));
    check("tags", json!({"tags": [""]}));
    check("tags", json!({"tags": ["a".repeat(limits::NAME_BYTES_MAX + 1)]}));
}

#[test]
fn every_number_has_its_range() {
    for priority in [0, 11, -1, i32::MAX] {
        check("priority", json!({"priority": priority}));
    }
    for hours in [0.0, -1.0, 1e9] {
        check("sla_hours", json!({"sla_hours": hours}));
    }
    for (field, bad) in [
        ("max_attempts", json!(0)),
        ("max_attempts", json!(1_001)),
        ("factor", json!(0.5)),
        ("factor", json!(11)),
        ("jitter", json!(-0.1)),
        ("jitter", json!(1.5)),
        ("non_retryable", json!(vec!["e"; limits::TAGS_MAX + 1])),
        ("backoff", json!("367d")),
        ("backoff_max", json!("367d")),
    ] {
        check(&format!("retry.{field}"), json!({"retry": {field: bad}}));
    }
    let not_a_number = pb::Retry { factor: Some(f64::NAN), ..pb::Retry::default() };
    let spec =
        pb::TaskSpec { sla_hours: Some(f64::NAN), retry: Some(not_a_number), ..Default::default() };
    assert_eq!(faults_of(spec), ["sla_hours", "retry.factor"]);
}

#[test]
fn every_time_has_its_range_and_is_said_once() {
    check("delay", json!({"delay": "367d"}));
    for field in ["queue", "run", "heartbeat", "total", "dependency"] {
        check(&format!("timeouts.{field}"), json!({"timeouts": {field: "367d"}}));
    }
    for field in ["run_at", "deadline"] {
        check(field, json!({field: "1969-12-31T23:59:59Z"}));
        check(field, json!({field: 300_000_000_000_i64}));
        check(field, json!({field: i64::MAX}));
    }
    check("delay", json!({"delay": "1s", "run_at": 1}));
    check("deadline", json!({"sla_hours": 1, "deadline": 1}));
    for malformed in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
        let delay = crate::wire::time::Duration { seconds: malformed.0, nanos: malformed.1 };
        assert_eq!(faults_of(pb::TaskSpec { delay: Some(delay), ..Default::default() }), ["delay"]);
    }
}

#[test]
fn every_executor_has_what_it_needs() {
    let shell = |shell: Value| json!({"executor": {"shell": shell}});
    check("executor", json!({"executor": {}}));
    check("executor.shell", shell(json!({})));
    check("executor.shell", shell(json!({"argv": ["true"], "script": "true"})));
    check("executor.shell.argv", shell(json!({"argv": ["", "a"]})));
    check("executor.shell", shell(json!({"argv": ["a\0b"]})));
    check("executor.shell", shell(json!({"script": "a", "cwd": "/\0"})));
    check("executor.shell.env", shell(json!({"script": "a", "env": {"A=B": "c"}})));
    check("executor.shell.env", shell(json!({"script": "a", "env": {"": "c"}})));
    check("executor.shell.secrets", shell(json!({"script": "a", "secrets": {"A": "hunter2"}})));
    for subject in ["", "a.>", "a b", "$SYS.REQ"] {
        check("executor.nats.subject", json!({"executor": {"nats": {"subject": subject}}}));
    }
    for handler in ["", "a b", "é", &"a".repeat(limits::NAME_BYTES_MAX + 1)] {
        check("executor.worker.handler", json!({"executor": {"worker": {"handler": handler}}}));
    }
}

#[test]
fn every_http_request_has_what_it_needs() {
    let http = |extra: Value| {
        let mut http = json!({"url": "https://example.com/"});
        for (name, value) in extra.as_object().expect("an object") {
            http[name] = value.clone();
        }
        json!({"executor": {"http": http}})
    };
    spec(http(json!({"method": "post", "secrets": {"Authorization": "Bearer env:TOKEN"}})));
    check("executor.http.method", http(json!({"method": "connect"})));
    for url in ["", "example.com", "ftp://example.com", "https://user:hunter2@example.com"] {
        check("executor.http.url", http(json!({"url": url})));
    }
    check("executor.http.headers", http(json!({"headers": {"Host": "inside"}})));
    check("executor.http.headers", http(json!({"headers": {"A": "b\r\nHost: inside"}})));
    check("executor.http.secrets", http(json!({"secrets": {"Authorization": "hunter2"}})));
    check("executor.http.secrets", http(json!({"secrets": {"Transfer-Encoding": "env:A"}})));
    check("executor.http.ok_statuses", http(json!({"ok_statuses": ["2xx", "all"]})));
    check("executor.http.retry_statuses", http(json!({"retry_statuses": ["600"]})));
    let many = (0..=limits::HTTP_HEADERS_MAX).map(|n| (format!("h{n}"), "v".into()));
    let many = Value::Object(many.collect());
    check("executor.http.headers", http(json!({"headers": many})));
}

#[test]
fn every_script_in_lua_is_bounded() {
    let lua = |lua: Value, run: Value| json!({"executor": {"lua": lua}, "timeouts": {"run": run}});
    spec(lua(json!({"source": "x", "memory_mb": 1024}), json!("30s")));
    check("executor.lua.source", lua(json!({"source": "\n"}), json!("1s")));
    check("executor.lua.memory_mb", lua(json!({"source": "x", "memory_mb": 0}), json!("1s")));
    check("executor.lua.memory_mb", lua(json!({"source": "x", "memory_mb": 1025}), json!("1s")));
    check("timeouts.run", lua(json!({"source": "x"}), json!("31s")));
    check("timeouts.run", lua(json!({"source": "x"}), json!("0s")));
}

#[test]
fn every_container_says_what_it_may_use() {
    let docker = |extra: Value| {
        let mut docker = json!({"image": "alpine:3", "cpus": 0.5, "memory_mb": 64});
        for (name, value) in extra.as_object().expect("an object") {
            docker[name] = value.clone();
        }
        json!({"executor": {"docker": docker}})
    };
    let bad = |field: &str, extra: Value| check(&format!("executor.docker.{field}"), docker(extra));
    let mount = |source: &str, target: &str| json!([{"source": source, "target": target}]);
    spec(docker(json!({"network": "bridge", "processes": 1, "working_dir": "/tmp", "mounts": [
        {"source": "/data", "target": "/data", "writable": true}, {"target": "/work"},
    ]})));
    assert_eq!(
        faults(json!({"executor": {"docker": {"image": "a"}}})),
        ["executor.docker.cpus", "executor.docker.memory_mb"]
    );
    for cpus in [json!(0), json!(-1), json!(0.001), json!(1e9), json!("NaN")] {
        bad("cpus", json!({"cpus": cpus}));
    }
    for memory in [0, 5, u32::MAX] {
        bad("memory_mb", json!({"memory_mb": memory}));
    }
    bad("processes", json!({"processes": 0}));
    for image in ["", "-v", "a b", "/a", "a;b", &"a".repeat(256)] {
        bad("image", json!({"image": image}));
    }
    for network in ["host", "container:other", "Bridge"] {
        bad("network", json!({"network": network}));
    }
    bad("working_dir", json!({"working_dir": "tmp"}));
    bad("env", json!({"env": {"A=B": "c"}}));
    bad("secrets", json!({"secrets": {"A": "hunter2"}}));
    check("executor.docker", docker(json!({"command": ["a\0"]})));
    bad("mounts[0].source", json!({"mounts": mount("data", "/data")}));
    for target in ["", "/", "data", "/a/../..", "/a:ro", "/proc/1", "/sys", "/dev/shm"] {
        bad("mounts[0].target", json!({"mounts": mount("/data", target)}));
    }
    let twice = json!([{"target": "/a"}, {"target": "/a/"}]);
    bad("mounts[1].target", json!({"mounts": twice}));
    let many = (0..=limits::CONTAINER_MOUNTS_MAX).map(|n| json!({"target": format!("/{n}")}));
    bad("mounts", json!({"mounts": many.collect::<Vec<_>>()}));
    for run in ["601s", "0s"] {
        let mut task = docker(json!({}));
        task["timeouts"] = json!({"run": run});
        check("timeouts.run", task);
    }
}

#[test]
fn roles_and_limits_have_their_rules() {
    spec(json!({"role": "coder"}));
    check("role", json!({"role": "a b"}));
    check("role", json!({"role": "a".repeat(limits::NAME_BYTES_MAX + 1)}));
    for name in ["memory_mb", "cpu_seconds", "open_files", "processes", "file_mb"] {
        let shell =
            |n: u32| json!({"executor": {"shell": {"script": "true", "limits": {name: n}}}});
        spec(shell(1));
        check(&format!("executor.shell.limits.{name}"), shell(0));
        check(&format!("executor.shell.limits.{name}"), shell(u32::MAX));
    }
}

#[test]
fn every_dependency_is_another_task_and_there_are_not_too_many() {
    check("depends_on[1].task_id", json!({"depends_on": ["a", ""]}));
    check("depends_on[0]", json!({"task_id": "a", "depends_on": ["a"]}));
    check("depends_on", json!({"depends_on": vec!["a"; limits::DEPENDENCIES_MAX + 1]}));
    let unknown = pb::Dependency { task_id: "a".into(), on: 9 };
    let spec = pb::TaskSpec { depends_on: vec![unknown], ..Default::default() };
    assert_eq!(faults_of(spec), ["depends_on[0].on"]);
}

#[test]
fn every_value_has_its_size_and_depth() {
    let input =
        |text: String| pb::TaskSpec { input: Some(pb::Json { text }), ..Default::default() };
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(TaskSpec::parse(input(nested(limits::JSON_DEPTH_MAX))).is_ok());
    for bad in [
        nested(limits::JSON_DEPTH_MAX + 1),
        nested(100_000),
        "{".into(),
        String::new(),
        "a".into(),
        format!("{:?}", "a".repeat(limits::INPUT_BYTES_MAX)),
    ] {
        assert_eq!(faults_of(input(bad)), ["input"]);
    }
    // Brackets in texts are no depth.
    assert!(TaskSpec::parse(input(format!("{:?}", "[\"\\".repeat(100)))).is_ok());
    check("metadata", json!({"metadata": [1]}));
    check("metadata", json!({"metadata": {"a": "b".repeat(limits::METADATA_BYTES_MAX)}}));
    let argv = vec!["a".repeat(1024); 513];
    check("task", json!({"executor": {"shell": {"argv": argv}}}));
}

fn place(name: &str) -> Value {
    json!({"name": name, "bytes": 300_000, "digest": format!("SHA-256={}=", "a".repeat(43))})
}

#[test]
fn every_large_input_has_its_place() {
    spec(json!({"input_object": place("01a1fc43-3a9f-72b3-94f1-8a35edd4126f")}));
    check("input_object", json!({"input_object": place("a"), "input": 1}));
    for (field, bad) in [
        ("name", json!("")),
        ("name", json!("a.b")),
        ("name", json!("a".repeat(limits::NAME_BYTES_MAX + 1))),
        ("bytes", json!(0)),
        ("bytes", json!(limits::OBJECT_BYTES_MAX + 1)),
        ("digest", json!("SHA-256=abc")),
        ("digest", json!(format!("MD5={}=", "a".repeat(43)))),
        ("digest", json!(format!("SHA-256={}", " ".repeat(44)))),
    ] {
        let mut object = place("a");
        object[field] = bad;
        check("input_object", json!({"input_object": object}));
    }
}

#[test]
fn doors_take_what_the_log_does_not() {
    let input = |bytes: usize| {
        let text = format!("{:?}", "a".repeat(bytes));
        pb::TaskSpec { input: Some(pb::Json { text }), ..Default::default() }
    };
    let small = TaskSpec::submitted(input(10)).expect("valid");
    assert_eq!(small.large_input(), None);
    let large = input(limits::INPUT_BYTES_MAX + 1);
    assert_eq!(faults_of(large.clone()), ["input"]);
    let large = TaskSpec::submitted(large).expect("valid at a door");
    assert!(large.large_input().is_some());
    let object: pb::Object = serde_json::from_value(place("a")).expect("a place");
    let kept = large.with_input_in(object);
    let kept = TaskSpec::parse(kept.into_pb()).expect("valid in the log");
    let whole = kept.with_input(pb::Json { text: "1".into() }).into_pb();
    assert_eq!((whole.input, whole.input_object), (Some(pb::Json { text: "1".into() }), None));
    let too_large = TaskSpec::submitted(input(limits::OBJECT_BYTES_MAX)).expect_err("too large");
    assert_eq!(too_large.first().map(|v| v.field.as_str()), Some("input"));
    let mut long = input(limits::INPUT_BYTES_MAX + 1);
    long.description = "a".repeat(limits::SPEC_BYTES_MAX);
    let fields = TaskSpec::submitted(long).expect_err("the rest is too large");
    assert_eq!(fields.last().map(|v| v.field.as_str()), Some("task"));
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let found = faults(json!({
        "tenant": "a.b",
        "title": "a".repeat(1_000),
        "priority": 99,
        "delay": "1000d",
        "executor": {"shell": {}},
        "depends_on": ["", "ok", "\n"],
        "metadata": "text",
    }));
    let expected = [
        "tenant",
        "title",
        "priority",
        "delay",
        "executor.shell",
        "depends_on[0].task_id",
        "depends_on[2].task_id",
        "metadata",
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_is_not_said_has_a_default() {
    let spec = spec(json!({}));
    let body = spec.as_pb();
    assert_eq!(
        [&body.tenant, &body.task_type, &body.subsystem, &body.title, &body.created_by],
        ["default", "unknown", "unknown", "Untitled Task", "system"],
    );
    assert_eq!((spec.id(), spec.priority()), (None, PRIORITY));
    assert!(spec.is_external());
    let retry = spec.retry();
    assert_eq!((retry.max_attempts, retry.factor, retry.jitter), (3, 2.0, 0.1));
    assert_eq!(
        (retry.backoff, retry.backoff_max),
        (Duration::from_secs(1), Duration::from_secs(300))
    );
    assert_eq!(spec.not_before(Timestamp::from_unix(1, 0)), None);
    assert_eq!(spec.deadline(Timestamp::from_unix(1, 0)), None);
}

#[test]
fn each_executor_has_its_queue_and_its_timeout() {
    let check = |executor: Value, word, queue, run: Option<u64>| {
        let spec = spec(json!({"executor": executor}));
        assert_eq!((spec.executor().word(), spec.queue().as_str()), (word, queue));
        assert_eq!(spec.timeouts().run, run.map(Duration::from_secs), "{word}");
        assert_eq!(spec.is_external(), word == "external");
    };
    check(json!({"shell": {"script": "true"}}), "shell", "default", Some(120));
    check(json!({"nats": {"subject": "a.b"}}), "nats", "default", Some(30));
    check(json!({"worker": {"handler": "media.resize"}}), "worker", "handlers", Some(300));
    let docker = json!({"docker": {"image": "a", "cpus": 1, "memory_mb": 64}});
    check(docker, "docker", "default", Some(300));
    check(json!({"external": {}}), "external", "default", None);
    assert_eq!(spec(json!({"queue": "gpu"})).queue().as_str(), "gpu");
}

#[test]
fn a_timeout_of_zero_is_none_and_one_that_is_not_said_is_the_default() {
    let shell = json!({"shell": {"script": "true"}});
    let none = json!({"queue": 0, "run": "0s", "heartbeat": 0, "total": 0, "dependency": 0});
    let timeouts = spec(json!({"executor": shell, "timeouts": none})).timeouts();
    let (queue, run, heartbeat, total, dependency) = (None, None, None, None, None);
    assert_eq!(timeouts, Timeouts { queue, run, heartbeat, total, dependency });
    let timeouts = spec(json!({"executor": shell, "timeouts": {"total": "1h30m"}})).timeouts();
    assert_eq!(timeouts.run, Some(Duration::from_secs(120)));
    assert_eq!(timeouts.total, Some(Duration::from_secs(5_400)));
    assert_eq!(timeouts.dependency, Some(Duration::from_secs(24 * 3_600)));
}

#[test]
fn a_start_and_a_due_time_count_from_the_creation_unless_they_are_points_in_time() {
    let created = Timestamp::from_unix(1_000, 0);
    let at = |seconds| Some(Timestamp::from_unix(seconds, 0));
    assert_eq!(spec(json!({"delay": "5m"})).not_before(created), at(1_300));
    assert_eq!(spec(json!({"run_at": 77})).not_before(created), at(77));
    assert_eq!(spec(json!({"sla_hours": 1})).deadline(created), at(4_600));
    assert_eq!(spec(json!({"deadline": "1970-01-01T00:01:00Z"})).deadline(created), at(60));
}

#[test]
fn edges_are_read_with_how_they_must_end() {
    let edges = spec(json!({"depends_on": [
        "a", {"task_id": "b"}, {"taskId": "c", "on": "failure"}, {"task_id": "d", "on": "ON_END"},
    ]}))
    .depends_on();
    let found = edges.iter().map(|e| (e.id.as_str(), e.on)).collect::<Vec<_>>();
    assert_eq!(found, [("a", On::Success), ("b", On::Success), ("c", On::Failure), ("d", On::End)]);
}

#[test]
fn a_key_stands_for_one_id_in_each_tenant() {
    let keyed = |tenant: &str| spec(json!({"tenant": tenant, "idempotency_key": "k"}));
    let id = keyed("").id();
    assert!(id.is_some());
    assert_eq!(keyed("default").id(), id);
    assert_ne!(keyed("acme").id(), id);
    let again = TaskSpec::parse(keyed("acme").into_pb()).expect("valid once is valid again");
    assert_eq!(again, keyed("acme"));
}

#[test]
fn the_digest_is_of_what_was_asked_for() {
    let of = |value: Value| spec(value).digest();
    // A second try puts its input in again, under another name.
    let large = |name, digest: &str| {
        let mut object = place(name);
        object["digest"] = json!(format!("SHA-256={}=", digest.repeat(43)));
        of(json!({"input_object": object}))
    };
    assert_eq!(large("a", "x"), large("b", "x"));
    assert_ne!(large("a", "x"), large("a", "y"));
    let plain = of(json!({"task_id": "a", "title": "t"}));
    for same in [
        json!({"task_id": "a", "title": "t", "notify": "_INBOX.x"}),
        json!({"task_id": "a", "title": "t", "traceparent": "00-1-2-01"}),
        json!({"task_id": "a", "title": "t", "run_at": 5, "deadline": 6}),
        json!({"taskId": "a", "title": "t", "tenant": "default", "created_by": "system"}),
    ] {
        assert_eq!(of(same.clone()), plain, "{same}");
    }
    for other in [
        json!({"task_id": "a", "title": "u"}),
        json!({"task_id": "a", "title": "t", "input": 1}),
        json!({"task_id": "a", "title": "t", "delay": "1s"}),
        json!({"task_id": "a", "title": "t", "priority": 6}),
    ] {
        assert_ne!(of(other.clone()), plain, "{other}");
    }
}

#[test]
fn only_what_can_be_a_trace_context_becomes_one() {
    let traced = |text: &str| spec(json!({})).with_trace(text).into_pb().traceparent;
    assert_eq!(traced("00-ab-cd-01"), "00-ab-cd-01");
    assert_eq!(traced(&"a".repeat(1_000)), "");
    assert_eq!(traced("a\0b"), "");
    assert_eq!(
        spec(json!({"traceparent": "own"})).with_trace("00-ab").into_pb().traceparent,
        "own"
    );
}

proptest! {
    #[test]
    fn what_was_valid_once_is_valid_and_the_same_for_ever(
        task_id in ".{0,20}",
        tenant in "[a-z_.]{0,4}",
        key in "[a-z]{0,2}",
        priority in prop::option::of(-1..12_i32),
        delay in prop::option::of(-2..100_i64),
    ) {
        let delay = delay.map(|seconds| crate::wire::time::Duration { seconds, nanos: 0 });
        let idempotency_key = if task_id.is_empty() { key } else { String::new() };
        let given = pb::TaskSpec { task_id, tenant, idempotency_key, priority, delay, ..Default::default() };
        if let Ok(spec) = TaskSpec::parse(given) {
            prop_assert_eq!(TaskSpec::parse(spec.clone().into_pb()), Ok(spec.clone()));
            spec.queue();
            prop_assert!((1..=10).contains(&spec.priority()));
        }
    }
}
