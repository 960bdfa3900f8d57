//! **Pure.** Policy as documents: limits, schedules and task types.
//!
//! A document has a kind and a name. The scheduler counts its versions, and whoever reads the log
//! takes one only if it is newer than what they know, so that a repeat changes nothing. Before the
//! log is cut, what holds and was said below the floor is *carried*: said again, with the place where
//! the log first said it. Who begins at the floor takes that in before anything else.

pub mod limit;
pub mod schedule;
pub mod task_type;

use std::collections::BTreeMap;

use prost::Message as _;

use crate::{
    error::Violation,
    id::DocumentName,
    limits,
    pb::{self, document},
};

/// Largest version and place in the log of a document: as much as a ledger can keep.
const NUMBER_MAX: u64 = i64::MAX.cast_unsigned();

/// What a document is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// How much of a queue may run, and how fast.
    Limit,
    /// When tasks are created by themselves.
    Schedule,
    /// What submissions of a type need not say.
    TaskType,
}

impl Kind {
    /// The word that people use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Schedule => "schedule",
            Self::TaskType => "task type",
        }
    }
}

impl From<Kind> for pb::DocumentKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Limit => Self::Limit,
            Kind::Schedule => Self::Schedule,
            Kind::TaskType => Self::TaskType,
        }
    }
}

/// Kind and name: what tells a document from the others.
pub type Id = (Kind, DocumentName);

/// A version of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its name among those of its kind.
    pub name: DocumentName,
    /// Counted by the scheduler from 1; 0 in a request.
    pub version: u64,
    /// Set when it is carried over a cut of the log.
    pub carried: Option<Carried>,
    /// What it says.
    pub body: Body,
}

/// A document is said again, so that the log can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Where the log first said this version.
    pub sequence: u64,
    /// It still held after this message of the log.
    pub as_of: u64,
}

/// What a document says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A limit.
    Limit(Box<pb::Limit>),
    /// A schedule.
    Schedule(Box<pb::Schedule>),
    /// A task type.
    TaskType(Box<pb::TaskType>),
    /// There is none of this kind any more.
    Removed(Kind),
}

impl Document {
    /// What tells it from others.
    pub fn id(&self) -> Id {
        (self.body.kind(), self.name.clone())
    }

    /// Whether it says that there is none any more.
    pub fn is_removed(&self) -> bool {
        matches!(self.body, Body::Removed(_))
    }
}

impl Body {
    /// What it is about.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Limit(_) => Kind::Limit,
            Self::Schedule(_) => Kind::Schedule,
            Self::TaskType(_) => Kind::TaskType,
            Self::Removed(kind) => *kind,
        }
    }
}

impl TryFrom<pb::Document> for Document {
    type Error = Vec<Violation>;

    /// Checks a document and reports everything that is wrong at once.
    fn try_from(document: pb::Document) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let mut wrong = |field: &str, problem: String| {
            violations.push(Violation { field: field.into(), problem });
        };
        let name = DocumentName::parse(&document.name);
        if let Err(error) = &name {
            wrong("name", error.to_string());
        }
        let bytes = document.encoded_len();
        if bytes > limits::DOCUMENT_BYTES_MAX {
            let max = limits::DOCUMENT_BYTES_MAX;
            wrong("document", format!("must have at most {max} bytes; it has {bytes}"));
        }
        for (field, number) in [
            ("version", document.version),
            ("sequence", document.sequence),
            ("as_of", document.as_of),
        ] {
            // What is counted from here must not run over.
            if number > NUMBER_MAX {
                let problem = format!("must be at most {NUMBER_MAX}");
                violations.push(Violation { field: field.into(), problem });
            }
        }
        let body = body(document.body, &mut violations);
        let (Ok(name), Some(body), true) = (name, body, violations.is_empty()) else {
            return Err(violations);
        };
        let carried = (document.sequence > 0)
            .then_some(Carried { sequence: document.sequence, as_of: document.as_of });
        Ok(Self { name, version: document.version, carried, body })
    }
}

fn body(body: Option<document::Body>, violations: &mut Vec<Violation>) -> Option<Body> {
    let mut wrong = |field: &str, problem: &str| {
        violations.push(Violation { field: field.into(), problem: problem.into() });
    };
    match body {
        None => {
            wrong("body", "must be one of limit, schedule and task_type");
            None
        }
        Some(document::Body::Removed(kind)) => match pb::DocumentKind::try_from(kind) {
            Ok(pb::DocumentKind::Limit) => Some(Body::Removed(Kind::Limit)),
            Ok(pb::DocumentKind::Schedule) => Some(Body::Removed(Kind::Schedule)),
            Ok(pb::DocumentKind::TaskType) => Some(Body::Removed(Kind::TaskType)),
            Ok(pb::DocumentKind::Unspecified) | Err(_) => {
                wrong("removed", "must be a kind of document");
                None
            }
        },
        Some(document::Body::Limit(body)) => {
            violations.extend(limit::violations(&body));
            Some(Body::Limit(Box::new(body)))
        }
        Some(document::Body::Schedule(body)) => {
            violations.extend(schedule::violations(&body));
            Some(Body::Schedule(Box::new(body)))
        }
        Some(document::Body::TaskType(body)) => {
            violations.extend(task_type::violations(&body));
            Some(Body::TaskType(Box::new(body)))
        }
    }
}

impl From<&Document> for pb::Document {
    fn from(document: &Document) -> Self {
        let body = match document.body.clone() {
            Body::Limit(body) => document::Body::Limit(*body),
            Body::Schedule(body) => document::Body::Schedule(*body),
            Body::TaskType(body) => document::Body::TaskType(*body),
            Body::Removed(kind) => document::Body::Removed(pb::DocumentKind::from(kind).into()),
        };
        Self {
            name: document.name.to_string(),
            version: document.version,
            sequence: document.carried.map_or(0, |carried| carried.sequence),
            as_of: document.carried.map_or(0, |carried| carried.as_of),
            body: Some(body),
        }
    }
}

/// A document that the log told of.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Its newest version; `carried` is not kept.
    pub document: Document,
    /// Where the log first said that version.
    pub sequence: u64,
    /// Who reads the log from here on knows it.
    anchor: u64,
}

/// All documents, as the log tells them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    known: BTreeMap<Id, Known>,
}

impl Policies {
    /// Takes in a document of a message of the log; says whether that changes what holds.
    pub fn fold(&mut self, at: u64, document: &Document) -> bool {
        let Some(known) = self.known.get_mut(&document.id()) else {
            // What is carried was known. One that is not was removed since: it was told too late.
            let is_new = document.carried.is_none();
            if is_new {
                self.insert(at, at, document);
            }
            return is_new;
        };
        if document.version == known.document.version
            && let Some(carried) = document.carried
        {
            known.anchor = known.anchor.max(carried.as_of + 1);
        }
        let is_newer = document.version > known.document.version;
        if is_newer {
            self.insert(at, at, document);
        }
        is_newer
    }

    /// Takes in a carried document, before the log is read on from `floor`.
    pub fn preload(&mut self, floor: u64, document: &Document) {
        let Some(carried) = document.carried else { return };
        let known = self.known.get(&document.id()).map_or(0, |known| known.document.version);
        if carried.sequence < floor && carried.as_of + 1 >= floor && document.version > known {
            self.insert(carried.sequence, carried.as_of + 1, document);
        }
    }

    fn insert(&mut self, sequence: u64, anchor: u64, document: &Document) {
        let document = Document { carried: None, ..document.clone() };
        self.known.insert(document.id(), Known { document, sequence, anchor });
    }

    /// Puts back what was stored.
    pub fn restore(&mut self, document: Document, sequence: u64, anchor: u64) {
        self.known.insert(document.id(), Known { document, sequence, anchor });
    }

    /// The document, if there is one.
    pub fn get(&self, id: &Id) -> Option<&Known> {
        self.known.get(id).filter(|known| !known.document.is_removed())
    }

    /// The number of its next version.
    pub fn next_version(&self, id: &Id) -> u64 {
        self.known.get(id).map_or(0, |known| known.document.version) + 1
    }

    /// All documents of a kind, or of every kind, by kind and name.
    pub fn of(&self, kind: Option<Kind>) -> impl Iterator<Item = &Known> {
        let live = self.known.values().filter(|known| !known.document.is_removed());
        live.filter(move |known| kind.is_none_or(|kind| known.document.body.kind() == kind))
    }

    /// Everything, what was removed included, with its anchor.
    pub fn all(&self) -> impl Iterator<Item = (&Known, u64)> {
        self.known.values().map(|known| (known, known.anchor))
    }

    /// What has to be carried before the log is cut at `floor`.
    pub fn to_carry(&self, floor: u64) -> Vec<Id> {
        let below = self.of(None).filter(|known| known.anchor < floor);
        below.map(|known| known.document.id()).collect()
    }

    /// The document as it is said again after the message `as_of`.
    pub fn carry(&self, id: &Id, as_of: u64) -> Option<Document> {
        let Known { document, sequence, .. } = self.get(id)?;
        let carried = Some(Carried { sequence: *sequence, as_of });
        Some(Document { carried, ..document.clone() })
    }

    /// The log counts from `floor` on: what was removed before is forgotten.
    pub fn trimmed(&mut self, floor: u64) {
        self.known.retain(|_, known| !known.document.is_removed() || known.anchor >= floor);
    }
}

#[cfg(test)]
mod tests;
