//! Files, schemas and templates: good, bad and hostile.

#![expect(clippy::needless_pass_by_value, reason = "JSON that is written where it is used")]

use common::{error::Violation, limits, pb, time::Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_790_000_000_000_000);

fn task_type(value: Value) -> pb::TaskType {
    serde_json::from_value(value).expect("fields of the right types")
}

fn compiled(value: Value) -> Compiled {
    Compiled::new(&task_type(value)).expect("a good type")
}

fn submission(value: Value) -> pb::TaskSpec {
    serde_json::from_value(value).expect("fields of the right types")
}

fn text(found: &[Violation]) -> String {
    let lines = found.iter().map(|v| format!("{} {}", v.field, v.problem));
    lines.collect::<Vec<_>>().join("\n")
}

/// What is wrong with a file, each problem on a line.
fn problems(file: &str) -> Vec<String> {
    read(file).expect_err("a bad file").iter().map(ToString::to_string).collect()
}

/// This, and only this, is wrong with a type.
fn refused(value: Value, field: &str, words: &str) {
    let found = Compiled::new(&task_type(value)).expect_err("a bad type");
    assert_eq!(found.iter().map(|v| v.field.as_str()).collect::<Vec<_>>(), [field]);
    assert!(text(&found).contains(words), "{}", text(&found));
}

fn with_argv(argv: Value) -> Value {
    json!({"name": "t", "executor": {"shell": {"argv": argv}}})
}

fn with_schema(schema: Value) -> Value {
    json!({"name": "t", "executor": {"shell": {"argv": ["true"]}}, "input_schema": schema})
}

/// What a template becomes of an input, or why it does not.
fn filled(template: &str, input: Value) -> Result<String, String> {
    let compiled = Compiled::new(&task_type(with_argv(json!(["echo", template]))));
    let compiled = compiled.map_err(|found| text(&found))?;
    let resolved = compiled.resolve(submission(json!({"input": input})), NOW);
    let executor = resolved.map_err(|found| text(&found))?.spec.executor.and_then(|e| e.kind);
    match executor {
        Some(pb::executor::Kind::Shell(mut shell)) => Ok(shell.argv.remove(1)),
        other => panic!("{other:?}"),
    }
}

fn refuses(template: &str, input: Value, words: &str) {
    let why = filled(template, input).expect_err("a refusal");
    assert!(why.contains(words), "{why}");
}

const WHOLE: &str = r#"
name: resize
subsystem: media
description: makes pictures small
executor:
  shell:
    argv: [convert, "{{ input.path }}", -resize, "{{ input.width }}"]
    env: { LEVEL: "{{ input.level | default('info') }}" }
input_schema:
  type: object
  required: [path, width]
  properties:
    path: { type: string, minLength: 1 }
    width: { type: integer, minimum: 1 }
queue: media
priority: 7
retry: { max_attempts: 2, backoff: 500ms }
timeouts: { run: 1m, total: 1h }
unique: { key: "{{ input.path }}", period: 6h }
schedule: "*/5 * * * *"
enabled: false
capabilities: [pictures]
tags: [media, small]
verification: { required: true, expression: result.exit == 0, timeout: 5m }
sla_hours: 2
"#;

#[test]
fn a_file_says_everything_about_a_type() {
    let entries = read(WHOLE).expect("a good file");
    let [entry] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(entry.line, 2);
    let expected = task_type(json!({
        "name": "resize", "subsystem": "media", "description": "makes pictures small",
        "executor": {"shell": {
            "argv": ["convert", "{{ input.path }}", "-resize", "{{ input.width }}"],
            "env": {"LEVEL": "{{ input.level | default('info') }}"}
        }},
        "input_schema": {
            "type": "object", "required": ["path", "width"],
            "properties": {
                "path": {"type": "string", "minLength": 1},
                "width": {"type": "integer", "minimum": 1}
            }
        },
        "queue": "media", "priority": 7, "retry": {"max_attempts": 2, "backoff": "0.5s"},
        "timeouts": {"run": "60s", "total": "3600s"},
        "unique": {"key": "{{ input.path }}", "period": "21600s"}, "schedule": "*/5 * * * *",
        "enabled": false, "capabilities": ["pictures"], "tags": ["media", "small"],
        "verification": {"required": true, "expression": "result.exit == 0", "timeout": "300s"},
        "sla_hours": 2
    }));
    assert_eq!(entry.task_type, expected);
}

#[test]
fn what_is_written_as_json_is_read_again() {
    let types = read(WHOLE).expect("a good file");
    let json = serde_json::to_string(&types[0].task_type).expect("JSON");
    assert_eq!(read(&json).expect("JSON is YAML")[0].task_type, types[0].task_type);
}

#[test]
fn a_file_has_several_documents_and_their_names_differ() {
    let one = |name: &str| format!("name: {name}\nexecutor: {{shell: {{argv: [a]}}}}\n");
    let entries = read(&format!("---\n{}---\n{}", one("a"), one("b"))).expect("two types");
    let names = entries.iter().map(|e| (e.line, e.task_type.name.as_str())).collect::<Vec<_>>();
    assert_eq!(names, [(2, "a"), (5, "b")]);
    let twice = format!("{}---\n{}", one("a"), one("a"));
    assert_eq!(problems(&twice), ["4: name stands on line 1 already"]);
}

#[test]
fn every_problem_of_a_file_has_its_line() {
    let file = "name: a b
queue: fast lane
prioritty: 3
retry:
  max_attempts: 0
  backof: 3s
executor:
  shell:
    argv: [sleep, 5]
tags: [a, 7]
input_schema: {type: objekt}
unique: {key: \"{{ input.a\", period: 1h}
";
    let found = problems(file).join("\n");
    for expected in [
        "1: name must have only letters",
        "2: queue must have only letters",
        "3: prioritty is no field of a task type; these are: capabilities, description",
        "6: retry.backof unknown field `backof`",
        "9: executor.shell.argv[1] invalid type: integer",
        "10: tags[1] invalid type",
        "11: input_schema is no JSON Schema at /type",
        "12: unique.key has no `}}`",
    ] {
        assert!(found.contains(expected), "{expected}\n---\n{found}");
    }
    assert_eq!(found.lines().count(), 8, "{found}");
}

#[test]
fn a_file_that_is_no_yaml_says_where() {
    assert!(problems("name: a\n  queue: b\n")[0].starts_with("2: "));
    assert!(problems("name: [a\n").len() == 1);
    assert!(problems("name: a\nname: b\n")[0].starts_with("2: "));
    assert_eq!(problems("# nothing\n"), ["1: there is no task type in this file"]);
    assert!(problems("- name: a\n")[0].contains("a task type is a map of fields"));
    assert!(problems("just words\n")[0].contains("a task type is a map of fields"));
}

#[test]
fn yaml_bombs_are_refused() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let alias = format!("*a{}", n - 1);
        laughs.extend([format!("a{n}: &a{n} [{}]\n", vec![alias; 9].join(", "))]);
    }
    assert_eq!(problems(&laughs).len(), 1, "billions of laughs");
    assert_eq!(problems(&format!("name: {}1{}", "[".repeat(5_000), "]".repeat(5_000))).len(), 1);
    assert_eq!(problems(&"- ".repeat(5_000)).len(), 1);
    assert_eq!(problems(&"---\n".repeat(20_000)).len(), 1);
    let large = format!("name: a # {}", "x".repeat(limits::CATALOG_FILE_BYTES_MAX));
    assert!(problems(&large)[0].contains("split it"));
    let nested = format!("input_schema: {}1{}", "{a: ".repeat(80), "}".repeat(80));
    assert_eq!(problems(&nested).len(), 1);
}

#[test]
fn a_submission_says_what_it_wants_and_the_type_says_the_rest() {
    let whole = read(WHOLE).expect("a good file").remove(0).task_type;
    let compiled = Compiled::new(&whole).expect("a good type");
    let submission = submission(json!({
        "task_id": "mine", "task_type": "resize", "subsystem": "unknown", "title": "Untitled Task",
        "priority": 2, "tags": ["small", "own"], "retry": {"backoff": "9s"},
        "timeouts": {"run": "2s"}, "input": {"path": "a b.png", "width": 7}
    }));
    let resolved = compiled.resolve(submission, NOW).expect("it fits");
    let expected = serde_json::to_value(self::submission(json!({
        "task_id": "mine", "task_type": "resize", "subsystem": "media", "title": "resize",
        "description": "makes pictures small", "queue": "media",
        "priority": 2, "tags": ["small", "own", "media"], "sla_hours": 2,
        "retry": {"max_attempts": 2, "backoff": "9s"},
        "timeouts": {"run": "2s", "total": "3600s"},
        "input": {"path": "a b.png", "width": 7},
        "executor": {"shell": {
            "argv": ["convert", "a b.png", "-resize", "7"], "env": {"LEVEL": "info"}
        }}
    })));
    assert_eq!(serde_json::to_value(&resolved.spec).expect("JSON"), expected.expect("JSON"));
}

#[test]
fn a_type_that_reads_its_input_takes_none_that_it_cannot_see() {
    let digest = format!("SHA-256={}=", "a".repeat(43));
    let place = json!({"input_object": {"name": "n", "bytes": 300_000, "digest": digest}});
    let resolve = |of_type: Value| compiled(of_type).resolve(submission(place.clone()), NOW);
    let resolved = resolve(with_argv(json!(["cat"]))).expect("it does not look at its input");
    assert_eq!(resolved.spec.input_object, submission(place.clone()).input_object);
    let unique = json!({"key": "{{ a }}", "period": "1h"});
    let mut keyed = with_argv(json!(["cat"]));
    keyed["unique"] = unique;
    for of_type in [with_argv(json!(["echo", "{{ a }}"])), with_schema(json!({})), keyed] {
        let found = resolve(of_type).expect_err("it would not see its input");
        assert_eq!(found.first().map(|v| v.field.as_str()), Some("input"));
        assert!(text(&found).contains("300000 bytes"), "{}", text(&found));
    }
}

#[test]
fn every_problem_of_an_input_is_named_by_its_pointer() {
    let compiled = compiled(with_schema(json!({
        "type": "object", "required": ["a", "b"], "additionalProperties": false,
        "properties": {
            "a": {"type": "integer"}, "b": {"type": "string"},
            "list": {"type": "array", "items": {"type": "string", "maxLength": 3}}
        }
    })));
    let resolve = |input: Value| compiled.resolve(submission(json!({"input": input})), NOW);
    let found = resolve(json!({"a": "x", "list": ["ok", "long", 7], "c": 1}));
    let found = found.expect_err("it does not fit");
    let mut fields = found.iter().map(|v| v.field.as_str()).collect::<Vec<_>>();
    fields.sort_unstable();
    assert_eq!(fields, ["input", "input", "input/a", "input/list/1", "input/list/2"]);
    assert!(resolve(json!({"a": 1, "b": "x"})).is_ok());
    let none = compiled.resolve(submission(json!({})), NOW).expect_err("nothing is an empty input");
    assert_eq!(none.len(), 2);
    let many = resolve(json!({"a": 1, "b": "", "list": vec!["long"; 100_000 / 8]}));
    assert_eq!(many.expect_err("too long").len(), limits::INPUT_PROBLEMS_MAX + 1);
}

#[test]
fn a_problem_never_repeats_a_whole_input() {
    let compiled = compiled(with_schema(json!({"properties": {"a": {"type": "integer"}}})));
    let input = json!({"input": {"a": "x".repeat(100_000)}});
    let found = compiled.resolve(submission(input), NOW).expect_err("it does not fit");
    assert!(text(&found).len() < 1_000);
}

#[test]
fn a_schema_refers_to_itself_only_and_comes_to_an_end() {
    compiled(with_schema(json!({
        "$defs": {"word": {"type": "string"}, "id": {"$ref": "#/$defs/word"}},
        "properties": {"id": {"$ref": "#/$defs/id"}, "$ref": {"const": {"$ref": "data"}}}
    })));
    for (schema, words) in [
        (json!({"$ref": "https://example.com/schema.json"}), "nothing is fetched"),
        (json!({"$ref": "file:///etc/passwd"}), "nothing is fetched"),
        (json!({"$ref": "other.json#/a"}), "nothing is fetched"),
        (json!({"$ref": "#"}), "back to itself"),
        (json!({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}), "back to itself"),
        (
            json!({"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"$ref": "#/$defs/a"}}}),
            "back to itself",
        ),
        (json!({"$ref": "#/nowhere"}), "not there"),
        (
            json!({"dependencies": {"const": {"properties": {"const": {"$ref": "#"}}}}}),
            "back to itself",
        ),
        (
            json!({"$defs": {"a%25b": {}, "a%b": {"items": {"$ref": "#/$defs/a%25b"}}}}),
            "without `%`",
        ),
        (json!({"$dynamicRef": "#a"}), "must not have `$dynamicRef`"),
        (json!({"$id": "https://example.com/"}), "must not have `$id`"),
        (json!({"type": "strnig"}), "no JSON Schema at /type"),
        (json!({"pattern": "(a"}), "no JSON Schema"),
        (json!({"pattern": "(?=a)b"}), "no JSON Schema"),
        (json!({"pattern": "((a{1000}){1000}){1000}"}), "no JSON Schema"),
        (json!({"$schema": "https://example.com/own-dialect"}), "no JSON Schema"),
    ] {
        refused(with_schema(schema), "input_schema", words);
    }
}

#[test]
fn a_schema_that_blows_up_is_refused() {
    let mut defs = serde_json::Map::new();
    for n in 0..30 {
        let next = json!({"$ref": format!("#/$defs/a{}", n + 1)});
        defs.insert(format!("a{n}"), json!({"allOf": [next, next]}));
    }
    defs.insert("a30".into(), json!({"type": "string"}));
    let bomb = json!({"$defs": defs, "$ref": "#/$defs/a0"});
    refused(with_schema(bomb), "input_schema", "must not expand");
    let wide = json!({"anyOf": vec![json!({"type": "string"}); limits::SCHEMA_PARTS_MAX]});
    refused(with_schema(wide), "input_schema", "must not expand");
    let large = json!({"description": "x".repeat(limits::SCHEMA_BYTES_MAX)});
    refused(with_schema(large), "input_schema", "must have at most");
}

#[test]
fn patterns_take_linear_time() {
    let compiled = compiled(with_schema(json!({"properties": {"a": {"pattern": "^(a+)+$"}}})));
    let input = json!({"input": {"a": format!("{}!", "a".repeat(200_000))}});
    assert!(compiled.resolve(submission(input), NOW).is_err());
}

#[test]
fn templates_place_values() {
    let check = |template, input, expected: &str| {
        assert_eq!(filled(template, input).as_deref(), Ok(expected), "{template}");
    };
    check("{{ input.a }}-{{ input.b }}", json!({"a": 1, "b": "x"}), "1-x");
    check("{{ input }}", json!({"a": [1, null, "x"]}), r#"{"a":[1,null,"x"]}"#);
    check("{{ input.a }}", json!({"a": {"b": 1.5}}), r#"{"b":1.5}"#);
    check("{{ input.a | tojson }}", json!({"a": "\"<&"}), r#""\"<&""#);
    check("{{ input.a }}", json!({"a": "<b>&\"'"}), "<b>&\"'");
    check("/{{ input.a | urlencode }}", json!({"a": "é/..?x=1 &~"}), "/%C3%A9%2F..%3Fx%3D1%20%26~");
    check("{{ input.a | quote }}", json!({"a": "it's; rm -rf /"}), r"'it'\''s; rm -rf /'");
    check("{{ input.l | join(',') }}", json!({"l": ["a", 2, "c"]}), "a,2,c");
    check("{% for x in input.l %}{{ x | upper }} {% endfor %}", json!({"l": ["a", "b"]}), "A B ");
    check("{% if input.a is defined %}yes{% else %}no{% endif %}", json!({}), "no");
    check("{{ input.a | default('x') }}", json!({}), "x");
    check("{{ input.a | default('x', true) }}", json!({"a": null}), "x");
    check("{{ 'a * b ~ c' }}", json!({}), "a * b ~ c");
    check("{{ input.l | length }}", json!({"l": [1, 2]}), "2");
    check("no template, just { braces } and }}", json!({}), "no template, just { braces } and }}");
}

#[test]
fn what_is_missing_is_an_error_that_names_it() {
    refuses("{{ input.a.b }}", json!({"a": {}}), "undefined value, in `{{ input.a.b }}`");
    refuses("{{ input.nothing }}", json!({}), "executor.shell.argv[1]");
    refuses("{{ input.a }}", json!({"a": null}), "null");
    refuses("{{ config }}", json!({}), "undefined");
    refuses("{{ range(3) }}", json!({}), "range");
    refuses("{{ input.a | pprint }}", json!({"a": 1}), "pprint");
}

#[test]
fn templates_cannot_grow_without_end() {
    refuses("{{ 'a' * 100000000 }}", json!({}), "must not have `*`");
    refuses("{{ input.a ~ input.a }}", json!({"a": "x"}), "must not have `~`");
    refuses("{{ input.a + input.a }}", json!({"a": "x"}), "must not have `+`");
    let doubled = "{% for a in ['xx'] %}{%- for b in [a+a+a+a] -%}{% endfor %}{% endfor %}";
    refuses(doubled, json!({}), "must not have `+`");
    refuses("{% set x = 1 %}", json!({}), "must not have `set`");
    refuses("{%- macro m() %}{{ m() }}{% endmacro %}", json!({}), "must not have `macro`");
    refuses("{% include 'a' %}", json!({}), "must not have `include`");
    refuses("{% raw %}", json!({}), "must not have `raw`");
    refuses("{# }} #}", json!({}), "comments");
    refuses("{{ 'a", json!({}), "quote");
    refuses("{{ a", json!({}), "no `}}`");
    refuses(
        "{% for a in input.l %}{% for b in input.l %}{% for c in input.l %}{% if c > 5000 %}\
        {% endif %}{% endfor %}{% endfor %}{% endfor %}",
        json!({"l": (0..1_000).collect::<Vec<_>>()}),
        "steps",
    );
    let big = json!({"l": (0..2_000).collect::<Vec<_>>(), "s": "x".repeat(100_000)});
    refuses("{% for a in input.l %}{{ input.s }}{% endfor %}", big.clone(), "makes more than");
    refuses("{{ input.l | join(input.s) }}", big.clone(), "makes more than");
    let looks = "{% for a in input.l %}{% if input | tojson == '' %}{% endif %}{% endfor %}";
    refuses(looks, big, "makes more than");
    refuses(&"{% if 1 %}".repeat(700), json!({}), "");
    refuses(&format!("{{{{ {}1{} }}}}", "(".repeat(4_000), ")".repeat(4_000)), json!({}), "");
    refuses(&"x{{ 1 }}".repeat(1_200), json!({}), "must have at most");
}

#[test]
fn a_type_has_so_many_templates_and_is_so_large() {
    let many = vec!["{{ input.a }}"; limits::TEMPLATES_MAX + 50];
    refused(with_argv(json!(many)), "executor.shell.argv[64]", "one template too many");
    let large = vec!["x".repeat(1_000); 70];
    refused(with_argv(json!(large)), "task_type", "must have at most");
}

#[test]
fn what_all_templates_make_together_is_bounded() {
    let compiled = compiled(with_argv(json!(vec!["{{ input.s }}"; 60])));
    let input = json!({"input": {"s": "x".repeat(100_000)}});
    let found = compiled.resolve(submission(input), NOW).expect_err("too much");
    assert!(text(&found).contains("makes more than"), "{}", text(&found));
    let input = json!({"input": {"s": "x".repeat(20_000)}});
    let found = compiled.resolve(submission(input), NOW).expect_err("a task that is too large");
    assert!(text(&found).contains("task must have at most"), "{}", text(&found));
}

#[test]
fn what_a_template_makes_keeps_the_rules_of_tasks() {
    let of = |subject: &str| {
        compiled(json!({"name": "t", "executor": {"nats": {"subject": "{{ input.s }}"}}}))
            .resolve(submission(json!({"input": {"s": subject}})), NOW)
    };
    assert!(of("work.a").is_ok());
    for bad in ["task.created", "a.>", "", "$JS.API.STREAM.DELETE.TASKS"] {
        let found = of(bad).expect_err("no subject for work");
        assert_eq!(found[0].field, "executor.nats.subject");
    }
}

#[test]
fn each_key_and_period_has_one_id() {
    let hourly = compiled(json!({"name": "t", "executor": {"shell": {"argv": ["true"]}},
        "unique": {"key": "{{ input.k | default('') }}", "period": "1h"}}));
    let id = |tenant: &str, key: Value, seconds: i64| {
        let spec = submission(json!({"tenant": tenant, "input": key}));
        let at = Timestamp::from_unix(seconds, 0);
        hourly.resolve(spec, at).expect("it fits").unique.expect("an id")
    };
    let (a, b) = (json!({"k": "a"}), json!({"k": "b"}));
    let hour = 1_790_000_000 / 3_600 * 3_600;
    assert_eq!(id("", a.clone(), hour), id("default", a.clone(), hour + 3_599));
    assert_ne!(id("", a.clone(), hour), id("", a.clone(), hour + 3_600));
    assert_ne!(id("", a.clone(), hour), id("", a.clone(), hour - 1));
    assert_ne!(id("", a.clone(), hour), id("", b, hour));
    assert_ne!(id("", a.clone(), hour), id("other", a, hour));
    let other = compiled(json!({"name": "u", "executor": {"shell": {"argv": ["true"]}},
        "unique": {"period": "1h"}}));
    let spec = other.resolve(submission(json!({})), Timestamp::from_unix(hour, 0));
    assert_ne!(spec.expect("it fits").unique.expect("an id"), id("", json!({}), hour));
}

#[test]
fn a_line_shows_what_an_object_has() {
    let line = |template: &str, object: Value| Line::parse(template).and_then(|l| l.of(&object));
    let task = json!({"id": "a", "error": {"message": "b\tc"}, "cost": null, "tags": ["x", "y"]});
    let check = |template, expected: &str| {
        assert_eq!(line(template, task.clone()).as_deref(), Ok(expected), "{template}");
    };
    check("{{ id }}\t{{ error.message | tojson }}", "a\t\"b\\tc\"");
    check("{{ nothing }}{{ nothing.at.all }}{{ cost }}.", ".");
    check("{{ nothing.cost | default(0) }}", "0");
    check("{{ tags | join(' ') }}{% for tag in nothing %}-{% endfor %}", "x y");
    assert!(Line::parse("{{ id").is_err());
}

proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(text in "(?s).{0,200}") {
        let _ = read(&text);
    }

    #[test]
    fn no_template_makes_the_resolver_panic(template in r"[{}% '\\a-z.|()\[\]0-9#-]{0,60}") {
        let _ = filled(&template, json!({"a": "x", "l": [1, 2]}));
    }

    #[test]
    fn a_value_arrives_as_it_is(value in any::<String>()) {
        let made = filled("{{ input.v }}", json!({"v": value}));
        // A command has no NUL characters.
        prop_assert_eq!(made.ok(), (!value.contains('\0')).then_some(value));
    }
}
