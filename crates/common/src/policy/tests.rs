use super::*;

fn limit(name: &str, version: u64, concurrency: u32) -> Document {
    let body =
        pb::Limit { queue: "q".into(), concurrency: Some(concurrency), ..pb::Limit::default() };
    Document {
        name: DocumentName::parse(name).unwrap(),
        version,
        carried: None,
        body: Body::Limit(Box::new(body)),
    }
}

fn removed(name: &str, version: u64) -> Document {
    Document { body: Body::Removed(Kind::Limit), ..limit(name, version, 1) }
}

fn id(name: &str) -> Id {
    (Kind::Limit, DocumentName::parse(name).unwrap())
}

#[test]
fn the_newest_version_holds_and_a_repeat_changes_nothing() {
    let mut policies = Policies::default();
    assert!(policies.fold(1, &limit("a", 1, 5)));
    assert!(policies.fold(2, &limit("a", 2, 6)));
    assert!(!policies.fold(3, &limit("a", 1, 5)), "it comes late");
    assert!(!policies.fold(4, &limit("a", 2, 7)), "it comes twice");
    let known = policies.get(&id("a")).unwrap();
    assert_eq!((known.document.clone(), known.sequence), (limit("a", 2, 6), 2));
    assert!(policies.fold(5, &removed("a", 3)));
    assert!(policies.get(&id("a")).is_none());
    assert_eq!(policies.next_version(&id("a")), 4, "the versions go on");
    assert!(policies.fold(6, &limit("a", 4, 8)));
    assert_eq!(policies.of(Some(Kind::Limit)).count(), 1);
    assert_eq!(policies.of(Some(Kind::Schedule)).count(), 0);
}

#[test]
fn what_is_wrong_is_said_all_at_once() {
    let body = pb::Limit { queue: "no queue".into(), concurrency: Some(0), ..pb::Limit::default() };
    let document = pb::Document {
        name: "-".into(),
        body: Some(document::Body::Limit(body)),
        ..pb::Document::default()
    };
    let fields = Document::try_from(document).unwrap_err();
    let fields = fields.iter().map(|v| v.field.as_str()).collect::<Vec<_>>();
    assert_eq!(fields, ["name", "limit.queue", "limit.concurrency"]);
    let nothing = Document::try_from(pb::Document { name: "a".into(), ..Default::default() });
    assert_eq!(nothing.unwrap_err()[0].field, "body");
    let endless = pb::Document { version: u64::MAX, ..pb::Document::from(&limit("a", 1, 5)) };
    assert_eq!(Document::try_from(endless).unwrap_err()[0].field, "version");
}

#[test]
fn a_document_is_read_as_it_was_written() {
    for document in [limit("a", 3, 4), removed("a", 4)] {
        let carried = Some(Carried { sequence: 7, as_of: 9 });
        for document in [document.clone(), Document { carried, ..document }] {
            assert_eq!(Document::try_from(pb::Document::from(&document)), Ok(document));
        }
    }
}

/// What a reader knows that begins at a floor, and reads the rest of a log.
fn cold(log: &[(u64, Document)], floor: u64) -> Policies {
    let mut policies = Policies::default();
    for (_, document) in log.iter().filter(|(at, _)| *at >= floor) {
        policies.preload(floor, document);
    }
    for (at, document) in log.iter().filter(|(at, _)| *at >= floor) {
        policies.fold(*at, document);
    }
    policies.trimmed(floor);
    policies
}

#[test]
fn who_begins_at_the_floor_knows_what_who_read_everything_knows() {
    let mut warm = Policies::default();
    let mut log = vec![
        (1, limit("kept", 1, 1)),
        (2, limit("changed", 1, 1)),
        (3, limit("gone", 1, 1)),
        (4, removed("gone", 2)),
        (5, limit("late", 1, 1)),
        (6, limit("changed", 2, 2)),
    ];
    for (at, document) in &log {
        warm.fold(*at, document);
    }
    let floor = 6;
    assert_eq!(warm.to_carry(floor), [id("kept"), id("late")]);
    // It is removed before what was composed to carry it is stored.
    let kept = warm.carry(&id("kept"), 6).unwrap();
    let late = warm.carry(&id("late"), 6).unwrap();
    log.extend([(7, removed("late", 2)), (8, kept), (9, late)]);
    for (at, document) in log.iter().skip(6) {
        warm.fold(*at, document);
    }
    assert!(warm.to_carry(floor).is_empty());
    warm.trimmed(floor);
    let cold = cold(&log, floor);
    assert_eq!(cold, warm);
    assert_eq!(cold.get(&id("kept")).unwrap().sequence, 1);
    assert!(cold.get(&id("late")).is_none());
}

#[test]
fn what_was_removed_does_not_come_back_with_a_carry_that_is_late() {
    let mut policies = Policies::default();
    policies.fold(1, &limit("a", 1, 1));
    let late = policies.carry(&id("a"), 1).unwrap();
    policies.fold(2, &removed("a", 2));
    policies.trimmed(3);
    assert!(!policies.fold(4, &late));
    assert!(policies.get(&id("a")).is_none());
    let mut cold = Policies::default();
    cold.preload(3, &late);
    assert!(cold.get(&id("a")).is_none(), "it was not known at the floor");
}
