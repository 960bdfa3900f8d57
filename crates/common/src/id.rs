//! Names: of tenants, tasks, queues and workers; and the short key that folds use instead.

use std::fmt;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::limits::{NAME_BYTES_MAX, TASK_ID_BYTES_MAX};

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It has no characters.
    #[error("must not be empty")]
    Empty,
    /// It is longer than its kind allows.
    #[error("must have at most {0} bytes")]
    TooLong(usize),
    /// It has a character that would not survive in a subject, a path or a log line.
    #[error("must have only letters, digits, `_` and `-`, and begin with none of the latter two")]
    NotAToken,
    /// It has a control character.
    #[error("must not have control characters")]
    Control,
}

/// Whether the text can stand as one token of a NATS subject.
pub fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= TASK_ID_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn check_name(text: &str) -> Result<(), InvalidName> {
    match text.as_bytes() {
        [] => Err(InvalidName::Empty),
        bytes if bytes.len() > NAME_BYTES_MAX => Err(InvalidName::TooLong(NAME_BYTES_MAX)),
        [b'_' | b'-', ..] => Err(InvalidName::NotAToken),
        _ if is_token(text) => Ok(()),
        _ => Err(InvalidName::NotAToken),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Takes a name that keeps the rules of its kind.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// Who owns a task; `default` when nothing says otherwise.
    Tenant,
    check_name
);
name!(
    /// A line of work that some workers serve.
    QueueName,
    check_name
);
name!(
    /// A limit, a schedule or a task type.
    DocumentName,
    check_name
);
name!(
    /// A worker process.
    WorkerName,
    check_name
);
name!(
    /// A task's id, unique within its tenant: any text without control characters.
    TaskId,
    check_task_id
);

fn check_task_id(text: &str) -> Result<(), InvalidName> {
    if text.is_empty() {
        Err(InvalidName::Empty)
    } else if text.len() > TASK_ID_BYTES_MAX {
        Err(InvalidName::TooLong(TASK_ID_BYTES_MAX))
    } else if text.chars().any(char::is_control) {
        Err(InvalidName::Control)
    } else {
        Ok(())
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self("default".into())
    }
}

impl Tenant {
    /// Takes the text of a message, in which an empty tenant is the default one.
    pub fn parse_or_default(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() { Ok(Self::default()) } else { Self::parse(text) }
    }
}

impl TaskId {
    /// The id of a task from its UUID.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid.to_string().into())
    }

    /// The id that an idempotency key stands for: `UUIDv5` (RFC 9562) of tenant and key.
    pub fn from_idempotency_key(tenant: &Tenant, key: &str) -> Self {
        Self::from_uuid(Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{tenant}\0{key}").as_bytes()))
    }

    /// The id of a plain message that named none: the same for every reader of the same log.
    pub fn from_place(stream: Uuid, sequence: u64, index: u32) -> Self {
        Self::from_uuid(Uuid::new_v5(&stream, format!("{sequence}.{index}").as_bytes()))
    }

    /// The token that stands for the id in a subject: itself, or its hash where it is no token.
    pub fn token(&self) -> String {
        if is_token(&self.0) {
            self.0.to_string()
        } else {
            format!("{:032x}", head(&Sha256::digest(self.0.as_bytes())))
        }
    }
}

/// A task's identity in 16 bytes: the first half of SHA-256 over tenant and id.
///
/// Folds keep millions of these; the ids themselves stay in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey(pub u128);

impl TaskKey {
    /// The key of a tenant's task.
    pub fn new(tenant: &Tenant, id: &TaskId) -> Self {
        let mut hash = Sha256::new();
        hash.update(tenant.as_str());
        hash.update([0]);
        hash.update(id.as_str());
        Self(head(&hash.finalize()))
    }
}

/// The first half of a SHA-256 digest.
fn head(digest: &[u8]) -> u128 {
    u128::from_be_bytes(*digest.first_chunk().expect("invariant: a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens_and_ids_are_any_printable_text() {
        assert!(QueueName::parse("gpu-1_a").is_ok());
        assert_eq!(QueueName::parse("a.b"), Err(InvalidName::NotAToken));
        assert_eq!(QueueName::parse("_a"), Err(InvalidName::NotAToken));
        assert_eq!(QueueName::parse(""), Err(InvalidName::Empty));
        assert_eq!(QueueName::parse(&"a".repeat(65)), Err(InvalidName::TooLong(64)));
        assert!(TaskId::parse("Größe: 3.5 / 7 *").is_ok());
        assert_eq!(TaskId::parse("a\nb"), Err(InvalidName::Control));
        assert!(is_token(&TaskId::parse("a b.>").expect("printable").token()));
    }

    #[test]
    fn tenant_and_id_do_not_run_into_each_other() {
        let key = |tenant: &str, id: &str| {
            TaskKey::new(&Tenant::parse(tenant).expect("token"), &TaskId::parse(id).expect("text"))
        };
        assert_ne!(key("ab", "c"), key("a", "bc"));
    }
}
