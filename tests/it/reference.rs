//! The reference pages that are written by the code they are about. With `UPDATE=1` they are
//! rewritten; otherwise a page that is no longer true is a failure.

use std::{fmt::Write as _, fs, path::Path};

use common::{
    id::{QueueName, TaskId, TaskKey, Tenant},
    limits, pb, subject,
};

fn workspace(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn check(path: &str, page: &str) {
    let file = workspace(path);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(file, page).expect("the page is written");
    } else {
        let old = fs::read_to_string(file).unwrap_or_default();
        assert!(old == page, "{path} is no longer true; run the tests with UPDATE=1");
    }
}

/// A documented constant of a source file.
struct Constant<'a> {
    doc: String,
    name: &'a str,
    value: &'a str,
    /// It begins a group: an empty line stands before it.
    first: bool,
}

fn constants(source: &str) -> Vec<Constant<'_>> {
    let (mut found, mut doc, mut first) = (Vec::new(), String::new(), true);
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("///") {
            let gap = if doc.is_empty() { "" } else { " " };
            doc = format!("{doc}{gap}{}", text.trim());
        } else if let Some(constant) = line.strip_prefix("pub const ") {
            let (name, rest) = constant.split_once(": ").expect("a name");
            if let Some((_, value)) = rest.trim_end_matches(';').split_once(" = ") {
                found.push(Constant { doc: std::mem::take(&mut doc), name, value, first });
                first = false;
            }
        } else if line.is_empty() {
            first = true;
        } else {
            doc.clear();
        }
    }
    found
}

/// Sums and products of numbers.
fn number(text: &str) -> u64 {
    let product = |text: &str| {
        text.split(" * ")
            .map(|n| n.replace('_', "").parse::<u64>().expect("a number"))
            .product::<u64>()
    };
    match text.split_once(" - ") {
        Some((a, b)) => product(a) - product(b),
        None => text.split(" + ").map(product).sum(),
    }
}

fn with_unit(constant: &Constant<'_>) -> String {
    let duration = |unit: &str| {
        let text = constant.value.strip_prefix("Duration::from_")?.strip_prefix(unit)?;
        Some(number(text.strip_prefix('(')?.strip_suffix(')')?))
    };
    if let Some(millis) = duration("millis") {
        return format!("{millis} ms");
    }
    if let Some(seconds) = duration("secs") {
        return match seconds {
            n if n % 86_400 == 0 => format!("{} d", n / 86_400),
            n if n % 3_600 == 0 => format!("{} h", n / 3_600),
            n => format!("{n} s"),
        };
    }
    match number(constant.value) {
        n if !constant.name.contains("BYTES") => thousands(n),
        n if n >= 1 << 30 && n % (1 << 30) == 0 => format!("{} GiB", n >> 30),
        n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{} MiB", n >> 20),
        n if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{} KiB", n >> 10),
        n => format!("{} B", thousands(n)),
    }
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(",")
}

#[test]
fn the_page_of_limits_shows_every_limit() {
    let source = fs::read_to_string(workspace("crates/common/src/limits.rs")).expect("limits.rs");
    let mut page = String::from(
        "# Limits\n\nEvery bound of the system, written by a test from \
         [`common::limits`](../../crates/common/src/limits.rs). What goes beyond one is refused at \
         the door with the field and the limit, or waits, or is cut with a notice; nothing grows \
         without an end.\n",
    );
    let constants = constants(&source);
    assert_eq!(
        constants.len(),
        source.matches("\npub const ").count(),
        "one line for each constant"
    );
    for constant in constants {
        assert!(!constant.doc.is_empty(), "{} says nothing about itself", constant.name);
        if constant.first {
            page.push_str("\n| limit | value | name |\n|---|---|---|\n");
        }
        let Constant { doc, name, .. } = &constant;
        writeln!(page, "| {doc} | {} | `{name}` |", with_unit(&constant)).expect("a string");
    }
    check("docs/reference/limits.md", &page);
}

/// The fields of a message, each once, with underscores.
fn fields(message: &str) -> String {
    let names = pb::fields(message).iter().filter(|name| !name.contains(char::is_uppercase));
    let mut names = names.map(|name| format!("`{name}`")).collect::<Vec<_>>();
    names.dedup();
    names.join(", ")
}

/// `cancel_requested` is the subject of the message `CancelRequested`.
fn message_of(event: &str) -> String {
    if event == "created" {
        return "TaskSpec".into();
    }
    event.split('_').map(|part| part[..1].to_uppercase() + &part[1..]).collect()
}

/// A subject that was built for names in capitals, with placeholders for them.
fn placeholders(subject: &str) -> String {
    ["QUEUE", "TENANT", "ID", "KIND", "SERVICE", "METHOD"].iter().fold(
        subject.to_owned(),
        |text, name| {
            let tokens = text.split('.').map(|token| match token.strip_suffix(name) {
                Some(before) if before.is_empty() || before.ends_with('-') => {
                    format!("{before}<{}>", name.to_lowercase())
                }
                _ => token.to_owned(),
            });
            tokens.collect::<Vec<_>>().join(".")
        },
    )
}

fn table(head: [&str; 2], lines: impl IntoIterator<Item = (String, String)>) -> String {
    let mut text = format!("\n| {} | {} |\n|---|---|\n", head[0], head[1]);
    for (left, right) in lines {
        writeln!(text, "| {left} | {right} |").expect("a string");
    }
    text
}

fn names() -> String {
    let source = fs::read_to_string(workspace("crates/common/src/subject.rs")).expect("subject.rs");
    let all = constants(&source);
    let stores = all.iter().filter(|c| c.value == format!("{:?}", c.name));
    let stores = stores.map(|c| (format!("`{}`", c.name), c.doc.clone()));
    table(["name", "holds"], stores)
}

fn streams() -> String {
    let code = |subjects: &[String]| {
        let subjects = subjects.iter().map(|subject| format!("`{subject}`")).collect::<Vec<_>>();
        subjects.join(", ")
    };
    let kinds = subject::EVENTS.map(subject::event);
    let log =
        subject::log_subjects(true).into_iter().filter(|s| !kinds.contains(s)).collect::<Vec<_>>();
    let last = limits::LOG_BUCKETS - 1;
    let bucket = |n: u32| subject::log(TaskKey(n.into()));
    let lines = [
        (subject::TASKS, format!("every kind of event below; {}", code(&log))),
        (subject::EXECUTIONS, code(&subject::EXECUTION_SUBJECTS.map(str::to_owned))),
        (subject::LOGS, format!("`{}` to `{}`", bucket(0), bucket(last))),
        (subject::DEAD, code(&[placeholders(&subject::dead("KIND"))])),
    ];
    table(["stream", "subjects"], lines.map(|(stream, subjects)| (format!("`{stream}`"), subjects)))
}

fn built() -> String {
    let tenant = Tenant::parse("TENANT").expect("a token");
    let (id, queue) =
        (TaskId::parse("ID").expect("text"), QueueName::parse("QUEUE").expect("a token"));
    let attempt = subject::execution(&queue, &tenant, &id, 3);
    let lines = [
        (
            subject::created(&tenant, &id),
            "a submission with an id of the caller's; the log takes one message there",
        ),
        (attempt, "the third attempt of a task; the work queue takes one message there"),
        (subject::executions_of(&queue), "every attempt of a queue"),
        (
            subject::execution_group(&queue, "KIND"),
            "a group of short attempts, under a name of its own",
        ),
        (
            subject::FENCE.to_owned(),
            "a new leader's mark: releases of an older one fail from there on",
        ),
        (subject::STOP.to_owned(), "tells workers to end attempts; no stream keeps it"),
        (
            subject::DRAIN.to_owned(),
            "tells a worker to hand back what it holds and leave; no stream keeps it",
        ),
        (
            subject::admin("SERVICE", "METHOD"),
            "a method of a service's admin API, by request and reply",
        ),
    ];
    let lines = lines.map(|(s, what)| {
        (format!("`{}`", placeholders(&s).replace("<kind>", "<name>")), what.to_owned())
    });
    let consumer = placeholders(&subject::executions_consumer(&queue));
    table(["subject", "what it carries"], lines)
        + &format!(
            "\nThe workers of a queue share the durable consumer `{consumer}` of `EXECUTIONS`.\n"
        )
}

#[test]
fn the_page_of_subjects_shows_every_subject() {
    let kinds = subject::EVENTS
        .map(|kind| (format!("`{}`", subject::event(kind)), fields(&message_of(kind))));
    let policies = ["paused", "resumed"]
        .map(|kind| (format!("`{}`", subject::policy(kind)), fields(&message_of(kind))));
    let page = format!(
        "# Subjects\n\nEvery subject, stream, bucket and durable name, written by a test from \
         [`common::subject`](../../crates/common/src/subject.rs).\n\n## Streams and buckets\n{}\n## \
         Which subjects a stream takes\n{}\n## Kinds of event\n\nA body is protobuf, the message \
         `Event` of [event.proto](../../proto/jetmill/v1/event.proto), or JSON when the header says \
         `Content-Type: application/json` or the first byte is `{{`. In JSON, the fields of the kind \
         stand beside those of the envelope, {}; snake_case and camelCase are both read. A \
         submission with a field that there is not is refused and goes to `DEAD`; in a report it is \
         kept as metadata.\n{}{}\nOlder producers publish `mission.<word>`; \
         [the life of a task](../lifecycle.md) says what becomes of their words.\n\n## Built for one \
         task, queue or service\n\nAn id that is no token of a subject (letters, digits, `_`, `-`) is \
         replaced by its hash there.\n{}",
        names(),
        streams(),
        ["tenant", "task_id", "at", "actor", "traceparent"]
            .map(|field| format!("`{field}`"))
            .join(", "),
        table(["subject", "fields"], kinds),
        table(["subject", "fields"], policies),
        built(),
    );
    check("docs/reference/subjects.md", &page);
}
