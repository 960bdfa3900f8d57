//! Turns names into addresses, and leaves out those that a request must not reach.
//!
//! What is returned here is what is connected to: a name that means another address a moment later
//! gains nothing.

use std::{io, sync::Arc};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::access::Access;

/// The operating system's resolver behind the worker's rules.
pub(super) struct Resolver(pub(super) Arc<Access>);

/// A name that stands for nothing.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be resolved: {source}")]
pub(super) struct Unresolved {
    name: String,
    source: io::Error,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let access = self.0.clone();
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let found = found.map(Iterator::collect::<Vec<_>>);
            let found = match found {
                Ok(found) => found,
                Err(source) => return Err(Unresolved { name, source }.into()),
            };
            let (mut allowed, mut refused) = (Vec::new(), None);
            for address in found {
                match access.address(&name, address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(why) => refused = Some(why),
                }
            }
            match refused {
                Some(why) if allowed.is_empty() => Err(why.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}
