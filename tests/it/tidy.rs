//! The rules of the house that no compiler checks. A rule that nobody checks is decoration.
//!
//! Each test reads the files that git tracks or would track, and reports everything at once.

mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Which of our crates may use which. Build-time edges are free; the tests may use everything.
const EDGES: [(&str, &[&str]); 14] = [
    ("common", &[]),
    ("catalog", &["common"]),
    ("bus", &["common"]),
    ("runtime", &["bus", "common"]),
    ("registry", &["runtime", "bus", "common"]),
    ("scheduler", &["runtime", "bus", "common", "catalog"]),
    ("gateway", &["runtime", "bus", "common"]),
    ("jetmill-sdk", &["bus", "common"]),
    ("worker-pool", &["jetmill-sdk", "runtime", "bus", "common"]),
    (
        "jetmill",
        &[
            "registry",
            "scheduler",
            "gateway",
            "worker-pool",
            "chaos",
            "catalog",
            "jetmill-sdk",
            "runtime",
            "bus",
            "common",
            "launch",
        ],
    ),
    ("simulator", &["scheduler", "registry", "jetmill-sdk", "bus", "common"]),
    ("launch", &[]),
    ("chaos", &["jetmill-sdk", "bus", "common", "launch"]),
    ("testkit", &["launch", "common"]),
];
/// What `common` must never depend on: it is pure.
const IMPURE: [&str; 5] = ["tokio", "async-nats", "sqlx", "tonic", "config"];
const LINES_MAX: usize = 400;
/// How subjects begin. They are spelled in one file, so that they can be found and changed there.
const SUBJECTS: [&str; 7] =
    ["task.", "policy.", "execution.", "dead.", "log.", "admin.", "worker."];
const SUBJECTS_FILE: &str = "crates/common/src/subject.rs";
/// (file or folder, how the text begins, why it stands there)
const SUBJECTS_ELSEWHERE: [(&str, &str, &str); 2] = [
    ("crates/jetmill/src/", "log.filter", "a key of the configuration"),
    ("crates/jetmill/src/", "log.format", "a key of the configuration"),
];
/// Hosts of package registries, in two parts so that this file keeps the rule.
const HOSTS: [(&str, &str); 5] = [
    ("crates", ".io"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("npm", "js"),
    ("debian", ".org"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Runs a program in the workspace and returns what it prints.
fn output(program: &str, arguments: &[&str]) -> String {
    let result = Command::new(program).args(arguments).current_dir(root()).output();
    let output = result.expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|e| e == extension)
}

/// The text files of the repository, by their paths in it; new ones too.
fn files() -> BTreeMap<String, String> {
    let list = output("git", &["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
    let read = |path: &str| Some((path.to_owned(), fs::read_to_string(root().join(path)).ok()?));
    list.split_terminator('\0').filter_map(read).collect()
}

/// The Rust files that go into the product, by their paths: no tests, no examples.
fn product() -> BTreeMap<String, String> {
    let files = files();
    let of_tests = files.iter().flat_map(|(path, text)| {
        let stem = path.trim_end_matches(".rs");
        let folder = stem.trim_end_matches("/lib").trim_end_matches("/main").to_owned();
        source::test_modules(text).map(move |module| format!("{folder}/{module}"))
    });
    let of_tests = of_tests.collect::<BTreeSet<_>>();
    let is_product = |path: &str| {
        let in_tests = |t: &String| path.strip_prefix(t).is_some_and(|r| r.starts_with(['/', '.']));
        path.starts_with("crates/")
            && has_extension(path, "rs")
            && !path.starts_with("crates/testkit/")
            && !["/tests/", "/examples/", "/benches/"].iter().any(|folder| path.contains(folder))
            && !of_tests.iter().any(in_tests)
    };
    files.into_iter().filter(|(path, _)| is_product(path)).collect()
}

fn metadata() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let cargo = cargo.to_str().expect("UTF-8");
    let json = output(cargo, &["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_str(&json).expect("JSON");
    metadata.get("packages").and_then(Value::as_array).expect("packages").clone()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

#[track_caller]
fn check(problems: impl IntoIterator<Item = String>) {
    let problems = problems.into_iter().collect::<Vec<_>>();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// The ledger must forget exactly what the scheduler forgets: its tests ask the scheduler's planner.
const AGREE: (&str, &str) = ("registry", "scheduler");

#[test]
fn dependencies_point_in_one_direction() {
    let packages = metadata();
    let ours = packages.iter().map(|package| text(package, "name")).collect::<BTreeSet<_>>();
    let allowed = BTreeMap::from(EDGES);
    let mut problems = Vec::new();
    for package in packages.iter().filter(|package| text(package, "name") != "tests") {
        let name = text(package, "name");
        let Some(allowed) = allowed.get(name) else {
            problems.push(format!("{name}: a new crate; say in EDGES what it may use"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let (other, kind) = (text(dependency, "name"), text(dependency, "kind"));
            let fits = kind == "build"
                || allowed.contains(&other)
                || (kind == "dev" && (other == "testkit" || (name, other) == AGREE));
            if ours.contains(other) && !fits {
                problems.push(format!("{name} must not use {other}"));
            }
            if name == "common" && kind.is_empty() && IMPURE.contains(&other) {
                problems.push(format!("{name} is pure and must not use {other}"));
            }
        }
    }
    check(problems);
}

#[test]
fn every_manifest_takes_the_lints_of_the_workspace() {
    let packages = metadata();
    let manifests = packages.iter().map(|package| text(package, "manifest_path"));
    let lacks = |path: &&str| {
        !fs::read_to_string(path).expect("a manifest").contains("\n[lints]\nworkspace = true\n")
    };
    check(manifests.filter(lacks).map(|path| format!("{path}: needs `[lints] workspace = true`")));
}

#[test]
fn every_crate_says_why_it_exists() {
    let packages = metadata();
    let targets =
        packages.iter().flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let roots = targets.map(|target| text(target, "src_path"));
    let lacks = |path: &&str| !fs::read_to_string(path).expect("a source").starts_with("//! ");
    check(roots.filter(lacks).map(|path| format!("{path}: must open with `//!`")));
}

#[test]
fn pure_modules_do_nothing_but_decide() {
    let mut problems = Vec::new();
    let files = product();
    let pure = files.iter().filter(|(_, text)| text.starts_with("//! **Pure.**"));
    for (path, text) in pure {
        let code = source::read(source::product(text)).code.replace(".awaits_", "");
        for word in ["async ", ".await", "tokio", "sqlx", "async_nats"] {
            if code.contains(word) {
                problems.push(format!("{path}: is pure and must not have `{}`", word.trim()));
            }
        }
    }
    check(problems);
}

/// Where each of the words stands outside of the places that may have it.
fn words_elsewhere(words: &[&str], places: &[&str]) -> Vec<String> {
    let files = product();
    let elsewhere =
        files.iter().filter(|(path, _)| !places.iter().any(|place| path.starts_with(place)));
    elsewhere
        .flat_map(|(path, text)| {
            let code = source::read(source::product(text)).code;
            let found = words.iter().filter(move |word| code.contains(**word));
            found.map(move |word| format!("{path}: `{word}` belongs to {places:?}"))
        })
        .collect()
}

#[test]
fn only_the_ledger_speaks_sql() {
    check(words_elsewhere(&["sqlx::"], &["crates/registry/src/ledger"]));
}

#[test]
fn only_the_worker_acknowledges() {
    let words = [".ack(", ".ack_with(", ".double_ack(", ".double_ack_with(", "AckKind"];
    // The benchmark's bare pipeline is what JetStream does without us, beside which we are measured.
    check(words_elsewhere(&words, &["crates/sdk/src/worker", "crates/jetmill/src/bench/raw.rs"]));
}

#[test]
fn subjects_are_spelled_in_one_file() {
    let mut problems = Vec::new();
    let mut unused = SUBJECTS_ELSEWHERE.to_vec();
    for (path, file) in product().iter().filter(|(path, _)| *path != SUBJECTS_FILE) {
        for (line, text) in source::read(source::product(file)).texts {
            let is_subject = SUBJECTS.iter().any(|subject| {
                text.strip_prefix(subject)
                    .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(' '))
            });
            let excuse = |(file, beginning, _): &(&str, &str, &str)| {
                path.starts_with(file) && text.starts_with(beginning)
            };
            if is_subject && !SUBJECTS_ELSEWHERE.iter().any(excuse) {
                problems.push(format!("{path}:{line}: {text:?} belongs to {SUBJECTS_FILE}"));
            }
            unused.retain(|exception| !excuse(exception));
        }
    }
    let unused = unused
        .iter()
        .map(|(path, text, _)| format!("{path}: {text:?} is gone; so may its exception"));
    check(problems.into_iter().chain(unused));
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let files = product();
    let lines = files.iter().map(|(path, text)| (path, text.lines().count()));
    let long = lines.filter(|(_, lines)| *lines > LINES_MAX);
    check(long.map(|(path, lines)| format!("{path}: {lines} lines; at most {LINES_MAX}")));
}

/// The lines of all files that have one of the words.
fn lines_with(words: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files() {
        // Cargo writes this one, with the address of its registry.
        if path == "Cargo.lock" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                found.push(format!("{path}:{}: `{word}`", number + 1));
            }
        }
    }
    found
}

#[test]
fn nothing_is_left_to_do_in_a_comment() {
    check(lines_with(&[["TO", "DO"].concat(), ["FIX", "ME"].concat()]));
}

#[test]
fn no_file_names_the_host_of_a_registry() {
    check(lines_with(&HOSTS.map(|(name, rest)| format!("{name}{rest}"))));
}

#[test]
fn every_link_in_the_documentation_leads_to_a_file() {
    let mut problems = Vec::new();
    for (path, page) in files().iter().filter(|(path, _)| has_extension(path, "md")) {
        let folder = root().join(path).parent().expect("a folder").to_owned();
        for link in links(page) {
            let target = link.split('#').next().unwrap_or_default();
            if !target.is_empty() && !folder.join(target).exists() {
                problems.push(format!("{path}: {link:?} leads nowhere"));
            }
        }
    }
    check(problems);
}

/// The relative links of a page, outside of code.
fn links(page: &str) -> Vec<String> {
    let outside = page.split("\n```").step_by(2).flat_map(|part| part.split('`').step_by(2));
    let prose = outside.collect::<Vec<_>>().join("`");
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    let listed = prose.lines().filter_map(|line| {
        line.strip_prefix('[')?.split_once("]: ").map(|(_, target)| target.trim())
    });
    let relative = |link: &&str| !link.contains("://") && !link.starts_with("mailto:");
    inline.chain(listed).filter(relative).map(str::to_owned).collect()
}

#[test]
fn links_are_found_in_prose_only() {
    let page = "[a](b.md#c) `[no](code)` [d](https://e/f)\n```text\n[no](fence)\n```\n[g]: h/i.md\n![j](k.png)\n";
    assert_eq!(links(page), ["b.md#c", "k.png", "h/i.md"]);
}
