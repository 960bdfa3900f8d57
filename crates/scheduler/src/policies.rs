//! **Pure.** What a request to change limits, schedules and task types comes to.

mod asked;

use std::collections::BTreeSet;

use common::{
    error::{ApiError, ErrorCode, Violation},
    limits,
    pb::{self, document::Body},
    policy::{Body as Says, Document, Id, Kind, Policies, task_type as of_type},
};

pub use self::asked::Asked;

/// What one document of a request comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What the caller hears.
    pub answer: pb::PolicyChange,
    /// What the log is to say, if that is anything.
    pub document: Option<Document>,
}

/// Reads the documents of a request: all of them, or everything that is wrong.
pub fn parse(documents: Vec<pb::Document>) -> Result<Vec<Document>, ApiError> {
    let (mut parsed, mut violations) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for (place, document) in documents.into_iter().enumerate() {
        let mut request = pb::Document { version: 0, sequence: 0, as_of: 0, ..document };
        let of_type = task_type(&mut request);
        match Document::try_from(request) {
            Ok(_) if !of_type.is_empty() => violations.extend(at(place, of_type)),
            Ok(document) if seen.insert(document.id()) => parsed.push(document),
            Ok(document) => violations.push(Violation {
                field: format!("documents[{place}].name"),
                problem: format!("{:?} is there twice", document.name.as_str()),
            }),
            Err(wrong) => {
                let more = of_type.into_iter().filter(|v| !wrong.contains(v)).collect();
                violations.extend(at(place, wrong));
                violations.extend(at(place, more));
            }
        }
    }
    if violations.is_empty() { Ok(parsed) } else { Err(ApiError::invalid(violations)) }
}

/// The problems of one of the documents.
fn at(place: usize, violations: Vec<Violation>) -> impl Iterator<Item = Violation> {
    violations.into_iter().map(move |violation| Violation {
        field: format!("documents[{place}].{}", violation.field),
        ..violation
    })
}

/// What is wrong with a task type beyond its form: its schema, its templates, its name.
fn task_type(document: &mut pb::Document) -> Vec<Violation> {
    let Some(Body::TaskType(task_type)) = &mut document.body else { return Vec::new() };
    if task_type.name.is_empty() {
        task_type.name.clone_from(&document.name);
    }
    let mut violations = catalog::Compiled::new(task_type).err().unwrap_or_default();
    if task_type.name != document.name {
        let problem = format!("must be that of the document, {:?}", document.name);
        violations.push(Violation { field: "name".into(), problem });
    }
    let within = |v: Violation| Violation { field: format!("task_type.{}", v.field), ..v };
    violations.into_iter().map(within).collect()
}

/// What the documents change, in their order.
pub fn changes(known: &Policies, documents: Vec<Document>) -> Result<Vec<Change>, ApiError> {
    let schedules = schedules(known, &documents)?;
    let documents = documents.into_iter().chain(schedules);
    let changes = documents.map(|document| change(known, document));
    let changes = changes.collect::<Vec<_>>();
    let new = changes.iter().filter(|change| change.answer.result == "created").count();
    if known.of(None).count() + new > limits::DOCUMENTS_MAX {
        let max = limits::DOCUMENTS_MAX;
        let message = format!("there may be at most {max} limits, schedules and task types");
        return Err(ApiError::new(ErrorCode::Exhausted, message).hint("remove some first"));
    }
    Ok(changes)
}

/// What the types of a request ask of schedules: each has one of its own name, or none.
fn schedules(known: &Policies, documents: &[Document]) -> Result<Vec<Document>, ApiError> {
    let mut more = Vec::new();
    for document in documents {
        let asked = match &document.body {
            Says::TaskType(body) => of_type::schedule(body),
            Says::Removed(Kind::TaskType) => None,
            Says::Limit(_) | Says::Schedule(_) | Says::Removed(Kind::Limit | Kind::Schedule) => {
                continue;
            }
        };
        let id: Id = (Kind::Schedule, document.name.clone());
        let standing = known.get(&id).and_then(|known| match &known.document.body {
            Says::Schedule(body) => Some(&**body),
            Says::Limit(_) | Says::TaskType(_) | Says::Removed(_) => None,
        });
        let own = standing.filter(|body| of_type::is_own(body, document.name.as_str()));
        let said = documents.iter().any(|other| other.id() == id);
        let body = match (asked, standing, own) {
            // Who says it in the same request knows better.
            _ if said => continue,
            (None, _, None) => continue,
            (None, _, Some(_)) => Says::Removed(Kind::Schedule),
            (Some(asked), _, Some(own)) => {
                Says::Schedule(Box::new(of_type::schedule_anew(asked, own)))
            }
            (Some(asked), None, None) => Says::Schedule(Box::new(asked)),
            (Some(_), Some(_), None) => {
                let name = &document.name;
                let message =
                    format!("there is a schedule {name} already, and it is not the type's");
                let error = ApiError::new(ErrorCode::Conflict, message);
                return Err(error.hint("leave `schedule` out of the type, or remove the other"));
            }
        };
        more.push(Document { name: document.name.clone(), version: 0, carried: None, body });
    }
    Ok(more)
}

fn change(known: &Policies, document: Document) -> Change {
    let id = document.id();
    let before = known.get(&id).map(|known| &known.document);
    let result = match (before, document.is_removed()) {
        (None, true) => "absent",
        (Some(_), true) => "removed",
        (None, false) => "created",
        (Some(before), false) if before.body == document.body => "unchanged",
        (Some(_), false) => "changed",
    };
    let changes = !matches!(result, "absent" | "unchanged");
    let version =
        if changes { known.next_version(&id) } else { before.map_or(0, |known| known.version) };
    Change {
        answer: pb::PolicyChange {
            kind: pb::DocumentKind::from(id.0).into(),
            name: id.1.to_string(),
            result: result.into(),
            version,
        },
        document: changes.then_some(Document { version, ..document }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limit(name: &str, queue: &str) -> pb::Document {
        let body = pb::Limit { queue: queue.into(), concurrency: Some(1), ..pb::Limit::default() };
        pb::Document {
            name: name.into(),
            version: 9,
            body: Some(pb::document::Body::Limit(body)),
            ..pb::Document::default()
        }
    }

    fn removed(name: &str) -> pb::Document {
        let body = pb::document::Body::Removed(pb::DocumentKind::Limit.into());
        pb::Document { body: Some(body), ..limit(name, "q") }
    }

    fn apply(known: &mut Policies, documents: &[pb::Document]) -> Vec<(String, u64)> {
        let changes = changes(known, parse(documents.to_vec()).unwrap()).unwrap();
        for document in changes.iter().filter_map(|change| change.document.as_ref()) {
            assert!(known.fold(1, document));
        }
        changes.into_iter().map(|change| (change.answer.result, change.answer.version)).collect()
    }

    #[test]
    fn only_what_differs_gets_a_version() {
        let mut known = Policies::default();
        let result = |word: &str, version| (word.to_owned(), version);
        let (a, b) = (limit("a", "q"), limit("b", "q"));
        let applied = apply(&mut known, &[a.clone(), removed("b")]);
        assert_eq!(applied, [result("created", 1), result("absent", 0)]);
        let applied = apply(&mut known, &[a, b]);
        assert_eq!(applied, [result("unchanged", 1), result("created", 1)]);
        assert_eq!(apply(&mut known, &[limit("a", "other")]), [result("changed", 2)]);
        assert_eq!(apply(&mut known, &[removed("a")]), [result("removed", 3)]);
        assert_eq!(apply(&mut known, &[limit("a", "q")]), [result("created", 4)]);
    }

    #[test]
    fn a_type_brings_its_schedule_and_takes_it_away() {
        let mut known = Policies::default();
        let document = |change: &str, value: serde_json::Value| {
            let mut body = json!({"executor": {"shell": {"argv": ["true"]}}});
            body[change] = value;
            let body = Body::TaskType(serde_json::from_value(body).unwrap());
            pb::Document { name: "a".into(), body: Some(body), ..pb::Document::default() }
        };
        let result = |word: &str, version| (word.to_owned(), version);
        let hourly = document("schedule", json!("@hourly"));
        let applied = apply(&mut known, std::slice::from_ref(&hourly));
        assert_eq!(applied, [result("created", 1), result("created", 1)]);
        assert_eq!(apply(&mut known, &[hourly]), [result("unchanged", 1), result("unchanged", 1)]);
        let none = document("queue", json!("other"));
        let applied = apply(&mut known, std::slice::from_ref(&none));
        assert_eq!(applied, [result("changed", 2), result("removed", 2)]);
        assert_eq!(apply(&mut known, &[none]), [result("unchanged", 2)]);
    }

    #[test]
    fn a_task_type_is_checked_as_a_whole() {
        let document = |value| {
            let body = Body::TaskType(serde_json::from_value(value).unwrap());
            pb::Document { name: "a".into(), body: Some(body), ..pb::Document::default() }
        };
        let executor = json!({"shell": {"argv": ["echo", "{{ input.a"]}});
        let bad = json!({"executor": executor, "input_schema": {"type": "x"}, "queue": "a b"});
        let text = parse(vec![document(bad)]).unwrap_err().to_string();
        for field in ["queue", "input_schema", "executor.shell.argv[1]"] {
            assert_eq!(
                text.matches(&format!("documents[0].task_type.{field}")).count(),
                1,
                "{text}"
            );
        }
        let good = json!({"executor": {"shell": {"argv": ["true"]}}});
        assert!(parse(vec![document(good.clone())]).is_ok(), "it has the document's name");
        let mut other = good;
        other["name"] = "b".into();
        assert!(parse(vec![document(other)]).unwrap_err().to_string().contains("task_type.name"));
    }

    #[test]
    fn one_that_is_wrong_or_there_twice_is_named_by_its_place() {
        let error = parse(vec![limit("a", "q"), limit("b", ""), limit("a", "r")]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("documents[1].limit.queue"), "{text}");
        assert!(text.contains("documents[2].name"), "{text}");
    }
}
