//! **Pure.** A change of policy that was asked for here, until the log has said what became of it.
//!
//! Versions are counted from what was folded. While one leader replaces another, both may count the
//! same one: whichever the log has first holds, and the other's changes nothing. So nobody is told
//! that a change is made before it was folded, as the first of its version.

use common::{
    error::{ApiError, ErrorCode},
    policy::{Body, Document, Id},
};

/// Documents on their way into the log.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    open: Vec<(Id, u64, Body)>,
    lost: Option<Id>,
    unreadable: Option<Id>,
}

impl Asked {
    /// These were published.
    pub fn new<'a>(documents: impl IntoIterator<Item = &'a Document>) -> Self {
        let open = documents.into_iter().map(|d| (d.id(), d.version, d.body.clone())).collect();
        Self { open, ..Self::default() }
    }

    /// The log says this. The first of a version counts: what comes again changes nothing, and what
    /// is carried over a cut was said before.
    pub fn folded(&mut self, document: &Document) {
        let id = document.id();
        let place = self.open.iter().position(|(open, version, _)| {
            document.carried.is_none() && *open == id && *version <= document.version
        });
        let Some(place) = place else { return };
        let (_, version, body) = self.open.swap_remove(place);
        if version != document.version || body != document.body {
            self.lost = Some(id);
        }
    }

    /// The log was read to where all of it is: what it did not say there cannot be read, and nobody is
    /// to wait for it.
    pub fn read(&mut self) {
        self.unreadable = self.open.drain(..).next().map(|(id, ..)| id);
    }

    /// What became of it; `None` while the log has not said that of every document.
    pub fn outcome(&self) -> Option<Result<(), ApiError>> {
        if !self.open.is_empty() {
            return None;
        }
        if let Some((kind, name)) = &self.unreadable {
            let message = format!("{} {name} was stored and cannot be read", kind.word());
            return Some(Err(ApiError::new(ErrorCode::Internal, message)
                .hint("what was before it holds; set it anew, with all that it says")));
        }
        let Some((kind, name)) = &self.lost else { return Some(Ok(())) };
        let what = kind.word();
        let message = format!("another scheduler changed {what} {name} at the same time");
        Some(Err(ApiError::new(ErrorCode::Unavailable, message).hint("ask again")))
    }
}

#[cfg(test)]
mod tests {
    use common::{
        id::DocumentName,
        pb,
        policy::{Carried, Policies},
    };

    use super::*;
    use crate::policies;

    fn limit(name: &str, concurrency: u32) -> Document {
        let body =
            pb::Limit { queue: "q".into(), concurrency: Some(concurrency), ..pb::Limit::default() };
        let (name, body) = (DocumentName::parse(name).unwrap(), Body::Limit(Box::new(body)));
        Document { name, version: 0, carried: None, body }
    }

    /// What a leader that knows this publishes.
    fn published(known: &Policies, documents: Vec<Document>) -> Vec<Document> {
        let changes = policies::changes(known, documents).unwrap();
        changes.into_iter().filter_map(|change| change.document).collect()
    }

    fn outcomes(log: &[Document], asked: &mut [Asked]) -> Vec<Option<bool>> {
        for document in log {
            for asked in asked.iter_mut() {
                asked.folded(document);
            }
        }
        asked.iter().map(|asked| asked.outcome().map(|outcome| outcome.is_ok())).collect()
    }

    #[test]
    fn of_two_leaders_that_count_the_same_version_one_is_told_that_it_holds() {
        let known = Policies::default();
        let old = published(&known, vec![limit("a", 1), limit("b", 1)]);
        let new = published(&known, vec![limit("a", 2)]);
        let mut asked = [Asked::new(&old), Asked::new(&new)];
        // The new leader's comes first into the log, the old one's is ignored by every fold.
        let log = [new.clone(), old.clone()].concat();
        assert_eq!(outcomes(&log[..1], &mut asked), [None, Some(true)]);
        assert_eq!(outcomes(&log[1..], &mut asked), [Some(false), Some(true)]);
        let mut folded = known;
        for (at, document) in (1..).zip(&log) {
            folded.fold(at, document);
        }
        assert_eq!(folded.get(&new[0].id()).unwrap().document.body, new[0].body);
        let error = asked[0].outcome().unwrap().unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert!(error.message.contains("limit a"), "{error}");

        // Asked again by who has read that, it holds.
        let again = published(&folded, vec![limit("a", 1), limit("b", 1)]);
        assert_eq!(
            again.iter().map(|d| (d.name.as_str(), d.version)).collect::<Vec<_>>(),
            [("a", 2)]
        );
        assert_eq!(outcomes(&again, &mut [Asked::new(&again)]), [Some(true)]);
    }

    #[test]
    fn a_change_that_comes_twice_or_was_asked_for_by_both_holds() {
        let change = published(&Policies::default(), vec![limit("a", 1)]);
        let log = [change.clone(), change.clone()].concat();
        let mut asked = [Asked::new(&change), Asked::new(&change)];
        assert_eq!(outcomes(&log, &mut asked), [Some(true), Some(true)]);
    }

    #[test]
    fn what_is_carried_or_older_settles_nothing() {
        let mut known = Policies::default();
        let first = published(&known, vec![limit("a", 1)]);
        known.fold(1, &first[0]);
        let second = published(&known, vec![limit("a", 2)]);
        let carried = Some(Carried { sequence: 1, as_of: 7 });
        let carried = Document { carried, ..second[0].clone() };
        let mut asked = [Asked::new(&second)];
        assert_eq!(outcomes(&[first[0].clone(), carried], &mut asked), [None]);
        assert_eq!(outcomes(&second, &mut asked), [Some(true)]);
    }

    #[test]
    fn nobody_waits_for_what_cannot_be_read() {
        let both = published(&Policies::default(), vec![limit("a", 1), limit("b", 1)]);
        let mut asked = Asked::new(&both);
        asked.folded(&both[0]);
        assert!(asked.outcome().is_none());
        asked.read();
        let error = asked.outcome().unwrap().unwrap_err();
        assert!(error.code == ErrorCode::Internal && error.message.contains("limit b"), "{error}");
    }

    #[test]
    fn a_version_that_was_passed_over_is_lost() {
        let mut newer = limit("a", 9);
        newer.version = 3;
        let mut own = limit("a", 1);
        own.version = 2;
        assert_eq!(outcomes(&[newer], &mut [Asked::new([&own])]), [Some(false)]);
    }
}
