//! **Pure.** What a request to change limits, schedules and task types comes to.

use std::collections::BTreeSet;

use common::{
    error::{ApiError, ErrorCode, Violation},
    limits, pb,
    policy::{Document, Policies},
};

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
        let request = pb::Document { version: 0, sequence: 0, as_of: 0, ..document };
        match Document::try_from(request) {
            Ok(document) if seen.insert(document.id()) => parsed.push(document),
            Ok(document) => violations.push(Violation {
                field: format!("documents[{place}].name"),
                problem: format!("{:?} is there twice", document.name.as_str()),
            }),
            Err(wrong) => violations.extend(wrong.into_iter().map(|violation| Violation {
                field: format!("documents[{place}].{}", violation.field),
                ..violation
            })),
        }
    }
    if violations.is_empty() { Ok(parsed) } else { Err(ApiError::invalid(violations)) }
}

/// What the documents change, in their order.
pub fn changes(known: &Policies, documents: Vec<Document>) -> Result<Vec<Change>, ApiError> {
    let changes = documents.into_iter().map(|document| change(known, document));
    let changes = changes.collect::<Vec<_>>();
    let new = changes.iter().filter(|change| change.answer.result == "created").count();
    if known.of(None).count() + new > limits::DOCUMENTS_MAX {
        let max = limits::DOCUMENTS_MAX;
        let message = format!("there may be at most {max} limits, schedules and task types");
        return Err(ApiError::new(ErrorCode::Exhausted, message).hint("remove some first"));
    }
    Ok(changes)
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
    fn one_that_is_wrong_or_there_twice_is_named_by_its_place() {
        let error = parse(vec![limit("a", "q"), limit("b", ""), limit("a", "r")]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("documents[1].limit.queue"), "{text}");
        assert!(text.contains("documents[2].name"), "{text}");
    }
}
