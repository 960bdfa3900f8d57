//! Every state times every event, written into `docs/lifecycle.md`: as a diagram, as a table, and
//! as the meaning of the older systems' words. With `UPDATE=1` the page is rewritten.

use std::{collections::BTreeMap, fs, path::Path};

use super::*;

/// The words of a report about an external task that change its state, and one that does not.
pub(super) const STATUS_WORDS: [&str; 20] = [
    "pending",
    "open",
    "queued",
    "blocked",
    "active",
    "running",
    "started",
    "in_progress",
    "assigned",
    "observing",
    "awaiting_validation",
    "completed",
    "resolved",
    "success",
    "failed",
    "escalated",
    "timeout",
    "cancelled",
    "aborted",
    "skipped",
];

/// In the table, two attempts have ended and the third is current.
const ENDED: u32 = 2;
const ATTEMPTS: [(u32, &str); 4] =
    [(0, "no number"), (ENDED, "the last"), (ENDED + 1, "the current"), (ENDED + 2, "a later")];

const ENDS: [Phase; 9] = [
    Phase::Completed,
    Phase::Failed(Cause::Error),
    Phase::Failed(Cause::Timeout),
    Phase::Failed(Cause::Lost),
    Phase::Failed(Cause::Rejected),
    Phase::Failed(Cause::Dependency),
    Phase::Failed(Cause::Expired),
    Phase::Cancelled,
    Phase::Skipped,
];

fn states() -> Vec<(&'static str, Option<State>)> {
    let dispatched = |phase| Some(State { phase, ended: ENDED, ..State::created(false) });
    let external = |phase| Some(State { phase, ..State::created(true) });
    let stub = |phase| Some(State { phase, stub: true, ..State::created(true) });
    vec![
        ("unknown", None),
        ("pending", dispatched(Phase::Pending)),
        ("verdict", dispatched(Phase::Verdict)),
        ("running", dispatched(Phase::Running)),
        ("over", dispatched(Phase::Completed)),
        ("external, pending", external(Phase::Pending)),
        ("external, running", external(Phase::Running)),
        ("external, over", external(Phase::Completed)),
        ("stub, pending", stub(Phase::Pending)),
        ("stub, running", stub(Phase::Running)),
        ("stub, over", stub(Phase::Completed)),
    ]
}

/// Every event, as (kind, which of its kind, event).
fn events() -> Vec<(&'static str, String, Kind)> {
    let mut events = Vec::new();
    for word in crate::subject::EVENTS {
        match word {
            "created" => {
                events.push((word, "dispatched".to_owned(), created(SHELL)));
                events.push((word, "external".to_owned(), created(EXTERNAL)));
            }
            "updated" => {
                for status in STATUS_WORDS {
                    events.push((word, format!("`{status}`"), updated_to(status)));
                }
                events.push((word, "any other word".to_owned(), updated_to("on fire")));
            }
            "failed" => {
                for (cause, (attempt, which)) in
                    ATTEMPTS.into_iter().flat_map(|a| Cause::ALL.map(|cause| (cause, a)))
                {
                    let which = format!("{which}: {}", cause.as_str());
                    events.push((word, which, event(word, attempt, cause)));
                }
            }
            "skipped" | "cancel_requested" | "reprioritised" | "expedited" | "carried"
            | "resolved" => {
                events.push((word, String::new(), event(word, 0, Cause::Error)));
            }
            numbered => {
                for (attempt, which) in ATTEMPTS {
                    events.push((word, which.to_owned(), event(numbered, attempt, Cause::Error)));
                }
            }
        }
    }
    events
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Verdict => "verdict",
        Phase::Pending
        | Phase::Running
        | Phase::Completed
        | Phase::Failed(_)
        | Phase::Cancelled
        | Phase::Skipped => state_word(phase.state()),
    }
}

fn cell(before: Option<State>, event: &Kind) -> String {
    let after = match apply(before, event) {
        Ok(after) => after,
        Err(Ignored::Repeat) => return "– repeat".into(),
        Err(Ignored::Terminal) => return "– over".into(),
        Err(Ignored::StaleAttempt) => return "– attempt".into(),
        Err(Ignored::UnknownTask) => return "– unknown".into(),
        Err(Ignored::NotExternal) => return "– number".into(),
        Err(Ignored::OutOfPlace) => return "– place".into(),
    };
    let old = before.unwrap_or(State::created(after.external));
    let mut parts = Vec::new();
    if before.is_none_or(|b| b.phase != after.phase) {
        parts.push(format!("**{}**", phase_word(after.phase)));
    }
    for (changed, what) in [
        (after.ended > old.ended && !after.phase.is_terminal(), "attempt over"),
        (after.tries > old.tries, "try + 1"),
        (after.losses > old.losses, "loss + 1"),
        (after.stub && before.is_none(), "a stub"),
        (old.stub && !after.stub, "described"),
        (after.cancel_requested && !old.cancel_requested, "asked to end"),
    ] {
        if changed {
            parts.push(what.into());
        }
    }
    if parts.is_empty() { "same".into() } else { parts.join(", ") }
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// One line for the events of a kind that do the same in every state.
fn table() -> String {
    let states = states();
    let mut lines: Vec<(&str, Vec<String>, Vec<String>)> = Vec::new();
    for (word, which, event) in events() {
        let cells = states.iter().map(|(_, state)| cell(*state, &event)).collect::<Vec<_>>();
        match lines.iter_mut().find(|(w, _, c)| *w == word && *c == cells) {
            Some((_, whiches, _)) => whiches.push(which),
            None => lines.push((word, vec![which], cells)),
        }
    }
    let names = states.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let mut text = format!("| event | which | {} |\n", names.join(" | "));
    line(&mut text, &format!("|---|---|{}", "---|".repeat(names.len())));
    for (word, whiches, cells) in lines {
        line(&mut text, &format!("| `{word}` | {} | {} |", joined(&whiches), cells.join(" | ")));
    }
    text
}

/// `a: x` and `a: y` are `a: x, y`.
fn joined(whiches: &[String]) -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for which in whiches {
        let (head, detail) = which.split_once(": ").unwrap_or((which, ""));
        match groups.iter_mut().find(|(h, _)| *h == head) {
            Some((_, details)) => details.push(detail),
            None => groups.push((head, vec![detail])),
        }
    }
    let text = groups.into_iter().map(|(head, details)| match details.as_slice() {
        [""] => head.to_owned(),
        all if all.len() == Cause::ALL.len() => format!("{head}, any cause"),
        some => format!("{head}: {}", some.join(", ")),
    });
    text.collect::<Vec<_>>().join("; ")
}

/// The changes of phase of a dispatched task, with the events that make them.
fn diagram() -> String {
    let mut edges: BTreeMap<(usize, &str, &str), Vec<&str>> = BTreeMap::new();
    for (order, (_, before)) in states().into_iter().take(4).enumerate() {
        for (word, _, event) in events() {
            let Ok(after) = apply(before, &event) else { continue };
            let same = before.is_some_and(|b| b.phase == after.phase && b.ended == after.ended);
            if after.external || same {
                continue;
            }
            let from = before.map_or("[*]", |b| phase_word(b.phase));
            let words = edges.entry((order, from, phase_word(after.phase))).or_default();
            if !words.contains(&word) {
                words.push(word);
            }
        }
    }
    let mut text = String::from("```mermaid\nstateDiagram-v2\n");
    for ((_, from, to), words) in edges {
        line(&mut text, &format!("    {from} --> {to}: {}", words.join(", ")));
    }
    for end in ["completed", "failed", "cancelled", "skipped"] {
        line(&mut text, &format!("    {end} --> [*]"));
    }
    text + "```\n"
}

fn words() -> String {
    let external = State::created(true);
    let mut text = String::from("| word in `task.updated` | state here |\n|---|---|\n");
    for status in STATUS_WORDS {
        let phase = apply(Some(external), &updated_to(status)).expect("a report").phase;
        let cause = match phase {
            Phase::Failed(cause) => format!(", cause {}", cause.as_str()),
            Phase::Pending
            | Phase::Verdict
            | Phase::Running
            | Phase::Completed
            | Phase::Cancelled
            | Phase::Skipped => String::new(),
        };
        line(&mut text, &format!("| `{status}` | {}{cause} |", phase_word(phase)));
    }
    text + "| any other | stays as it is; the word is in the history |\n"
}

/// The page with its generated parts made anew.
fn page(old: &str) -> String {
    let mut page = old.to_owned();
    for (name, text) in [("diagram", diagram()), ("table", table()), ("words", words())] {
        let (begin, end) = (format!("<!-- generated: {name} -->\n"), "<!-- end -->");
        let (head, rest) = page.split_once(&begin).expect("the page marks its generated parts");
        let (_, tail) = rest.split_once(end).expect("a generated part has an end");
        page = format!("{head}{begin}\n{text}\n{end}{tail}");
    }
    page
}

#[test]
fn the_page_about_the_lifecycle_shows_this_fold() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lifecycle.md");
    let old = fs::read_to_string(&path).expect("docs/lifecycle.md");
    let new = page(&old);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, new).expect("docs/lifecycle.md is written");
    } else {
        assert!(
            old == new,
            "docs/lifecycle.md is not what the fold does; run the tests with UPDATE=1"
        );
    }
}

#[test]
fn every_end_is_equally_final() {
    let over = |phase, stub, external| State { phase, stub, ..State::created(external) };
    for (_, which, event) in events() {
        for (stub, external) in [(false, false), (false, true), (true, true)] {
            let outcome = |phase| {
                let before = over(phase, stub, external);
                apply(Some(before), &event).map(|s| (s.phase == phase, s.stub, s.external))
            };
            for end in ENDS {
                assert!(end.is_terminal());
                assert_eq!(outcome(end), outcome(Phase::Completed), "{end:?} {which}");
            }
        }
    }
}
