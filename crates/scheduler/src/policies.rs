//! **Pure.** What a request to change limits, schedules and task types comes to.

mod asked;

use std::collections::BTreeSet;

use common::{
    error::{ApiError, ErrorCode, Violation},
    limits,
    pb::{self, document::Body},
    policy::{
        Body as Says, Document, Id, Kind, Policies, schedule::Schedule, task_type as of_type,
    },
};
use prost::Message as _;

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
        let mut request = pb::Document { sequence: 0, as_of: 0, ..document };
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
    let changes = changes.collect::<Result<Vec<_>, _>>()?;
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
    for (place, document) in documents.iter().enumerate() {
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
                let body = of_type::schedule_anew(asked, own);
                fits_what_is_set(place, document, &body)?;
                Says::Schedule(Box::new(body))
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

/// What was set on the schedule of a type stays, and may not go with what the type asks for now.
fn fits_what_is_set(place: usize, of: &Document, body: &pb::Schedule) -> Result<(), ApiError> {
    let Err(violations) = Schedule::parse(body) else { return Ok(()) };
    let name = of.name.as_str();
    let set = |Violation { field, problem }| Violation {
        field: format!("documents[{place}].task_type.schedule"),
        problem: format!("does not go with what is set on schedule {name}: {field} {problem}"),
    };
    let error = ApiError::invalid(violations.into_iter().map(set).collect());
    Err(error.hint(format!("set schedule {name} anew first: `jetmill schedule ls` shows it")))
}

/// A page of the documents that a request asks for.
pub fn page(known: &Policies, request: &pb::PoliciesRequest) -> pb::PoliciesResponse {
    let place = |document: &Document| {
        (pb::DocumentKind::from(document.body.kind()) as i32, document.name.to_string())
    };
    let after = request.page_token.split_once('.').map(|(kind, name)| {
        let kind = kind.parse::<i32>().unwrap_or_default();
        (kind, name.to_owned())
    });
    let fits = |document: &&Document| {
        let kind = pb::DocumentKind::from(document.body.kind());
        [kind, pb::DocumentKind::Unspecified].contains(&request.kind())
            && (request.name.is_empty() || request.name == document.name.as_str())
            && after.as_ref().is_none_or(|after| place(document) > *after)
    };
    let mut response = pb::PoliciesResponse::default();
    let mut bytes = 0;
    let mut last = None;
    for document in known.of(None).map(|known| &known.document).filter(fits) {
        if let Some((kind, name)) = last.filter(|_| bytes > limits::ANSWER_BYTES_MAX) {
            response.next_page_token = format!("{kind}.{name}");
            break;
        }
        let one = pb::Document::from(document);
        bytes += one.encoded_len();
        response.documents.push(one);
        last = Some(place(document));
    }
    response
}

fn change(known: &Policies, document: Document) -> Result<Change, ApiError> {
    let id = document.id();
    let before = known.get(&id).map(|known| &known.document);
    let version = before.map_or(0, |known| known.version);
    if document.version != 0 && document.version != version {
        let (what, name, asked) = (id.0.word(), &id.1, document.version);
        let message = format!("{what} {name} has version {version} by now, not {asked}");
        return Err(ApiError::new(ErrorCode::Conflict, message).hint("read it, and ask again"));
    }
    let result = match (before, document.is_removed()) {
        (None, true) => "absent",
        (Some(_), true) => "removed",
        (None, false) => "created",
        (Some(before), false) if before.body == document.body => "unchanged",
        (Some(_), false) => "changed",
    };
    let changes = !matches!(result, "absent" | "unchanged");
    let version = if changes { known.next_version(&id) } else { version };
    Ok(Change {
        answer: pb::PolicyChange {
            kind: pb::DocumentKind::from(id.0).into(),
            name: id.1.to_string(),
            result: result.into(),
            version,
        },
        document: changes.then_some(Document { version, ..document }),
    })
}

#[cfg(test)]
mod tests {
    use common::id::DocumentName;
    use serde_json::json;

    use super::*;

    fn limit(name: &str, queue: &str) -> pb::Document {
        let body = pb::Limit { queue: queue.into(), concurrency: Some(1), ..pb::Limit::default() };
        pb::Document {
            name: name.into(),
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
    fn a_list_that_is_longer_than_an_answer_has_pages() {
        let mut known = Policies::default();
        let description = "x".repeat(10_000);
        for n in 0..120 {
            let executor = json!({"shell": {"argv": ["true"]}});
            let body = json!({"executor": executor, "input_schema": {"description": description}});
            let body = Some(Body::TaskType(serde_json::from_value(body).unwrap()));
            let name = format!("t{n}");
            apply(&mut known, &[pb::Document { name, body, ..pb::Document::default() }]);
        }
        apply(&mut known, &[limit("t5", "q")]);
        let mut names = std::collections::BTreeSet::new();
        let (mut pages, mut request) = (0, pb::PoliciesRequest::default());
        loop {
            let response = page(&known, &request);
            assert!(response.encoded_len() < 600 * 1024);
            pages += 1;
            for document in response.documents {
                let is_limit = matches!(document.body, Some(Body::Limit(_)));
                assert!(names.insert((is_limit, document.name)), "each once");
            }
            if response.next_page_token.is_empty() {
                break;
            }
            request.page_token = response.next_page_token;
        }
        assert_eq!((names.len(), pages), (121, 3));
        let request = pb::PoliciesRequest { name: "t5".into(), ..pb::PoliciesRequest::default() };
        assert_eq!(page(&known, &request).documents.len(), 2);
    }

    #[test]
    fn who_names_a_version_changes_no_other() {
        let mut known = Policies::default();
        apply(&mut known, &[limit("a", "q")]);
        apply(&mut known, &[limit("a", "r")]);
        let of = |version| parse(vec![pb::Document { version, ..limit("a", "s") }]).unwrap();
        let error = changes(&known, of(1)).unwrap_err();
        assert_eq!(error.code, ErrorCode::Conflict);
        assert!(error.message.contains("limit a has version 2 by now, not 1"), "{error}");
        assert_eq!(changes(&known, of(2)).unwrap()[0].answer.version, 3);
        assert_eq!(changes(&known, of(0)).unwrap()[0].answer.version, 3);
        let gone = pb::Document { version: 1, ..limit("b", "q") };
        let gone = changes(&known, parse(vec![gone]).unwrap()).unwrap_err();
        assert_eq!(gone.code, ErrorCode::Conflict, "it is not there any more");
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
    fn what_is_set_on_the_schedule_of_a_type_must_go_with_what_the_type_asks_for() {
        let mut known = Policies::default();
        let of_type = |schedule: &str| {
            let body = json!({"executor": {"shell": {"argv": ["true"]}}, "schedule": schedule});
            let body = Body::TaskType(serde_json::from_value(body).unwrap());
            pb::Document { name: "a".into(), body: Some(body), ..pb::Document::default() }
        };
        apply(&mut known, &[of_type("every 1h")]);
        let id = (Kind::Schedule, DocumentName::parse("a").unwrap());
        let Says::Schedule(own) = known.get(&id).unwrap().document.body.clone() else { panic!() };
        let jitter = Some(std::time::Duration::from_secs(600).into());
        let set = Body::Schedule(pb::Schedule { jitter, ..*own });
        apply(&mut known, &[pb::Document { body: Some(set), ..of_type("") }]);
        assert!(changes(&known, parse(vec![of_type("every 2h")]).unwrap()).is_ok());
        let documents = parse(vec![limit("l", "q"), of_type("every 5m")]).unwrap();
        let error = changes(&known, documents).unwrap_err().to_string();
        assert!(error.contains("documents[1].task_type.schedule") && error.contains("jitter"));
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
