//! **Pure.** A limit: how the tasks of one queue share it.

mod key;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub use self::key::Key;
use crate::{error::Violation, id::QueueName, limits, pb};

/// The burst of a rate that names none: starts are evenly spaced.
const BURST: u32 = 1;
/// The longest wait of a debounce that names none, in quiet times.
const LONGEST: u32 = 10;

/// How the tasks of one queue share it.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Whose tasks it is for.
    pub queue: QueueName,
    /// It holds for each value of this by itself; without one for the queue as a whole.
    pub key: Option<Arc<Key>>,
    /// Tasks that may be out at once.
    pub concurrency: Option<u32>,
    /// Starts in a time.
    pub rate: Option<Rate>,
    /// Its keys share the queue fairly, by these weights; others have 1.
    pub fair: Option<BTreeMap<String, u32>>,
    /// One of a key at a time.
    pub singleton: Option<Singleton>,
    /// A burst runs once.
    pub debounce: Option<Debounce>,
    /// Longest wait of what is ready.
    pub ttl: Option<Duration>,
    /// Tasks that may wait.
    pub depth: Option<u64>,
    /// Being ready for this long counts as one priority more.
    pub ageing: Option<Duration>,
}

/// So many starts in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Starts.
    pub count: u32,
    /// In this time.
    pub per: Duration,
    /// Starts at once after a quiet time.
    pub burst: u32,
}

/// One of a key at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Singleton {
    /// At most one is out.
    Running,
    /// At most one is out, and at most one waits.
    Waiting,
}

/// A burst runs once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debounce {
    /// When no other came for this long.
    pub quiet: Duration,
    /// At the latest this long after the first came.
    pub longest: Duration,
}

impl Limit {
    /// Reads a limit, and reports everything that is wrong with it at once.
    pub fn parse(limit: &pb::Limit) -> Result<Self, Vec<Violation>> {
        let mut wrong = Wrong::default();
        let queue = wrong.take("queue", QueueName::parse(&limit.queue).map_err(|e| e.to_string()));
        let key = (!limit.key.is_empty())
            .then(|| wrong.take("key", Key::parse(&limit.key)).map(Arc::new))
            .flatten();
        let parsed = Self {
            queue: queue.unwrap_or_else(|| QueueName::parse("none").expect("invariant: a token")),
            key,
            concurrency: limit.concurrency.filter(|n| wrong.bound("concurrency", *n)),
            rate: limit.rate.as_ref().map(|rate| wrong.rate(rate)),
            fair: limit.fair.as_ref().map(|fair| wrong.fair(fair)),
            singleton: wrong.singleton(limit.singleton),
            debounce: limit.debounce.as_ref().map(|debounce| wrong.debounce(debounce)),
            ttl: limit.ttl.and_then(|ttl| wrong.duration("ttl", ttl)),
            depth: limit.depth,
            ageing: limit.ageing.and_then(|ageing| wrong.duration("ageing", ageing)),
        };
        wrong.needs_key(limit);
        if *limit
            == (pb::Limit {
                queue: limit.queue.clone(),
                key: limit.key.clone(),
                ..pb::Limit::default()
            })
        {
            wrong.say("", "limits nothing: set concurrency, rate, fair, singleton, debounce, ttl, depth or ageing");
        }
        if wrong.0.is_empty() { Ok(parsed) } else { Err(wrong.0) }
    }

    /// Tasks of one key that may be out at once.
    pub fn out_max(&self) -> Option<u32> {
        if self.singleton.is_some() { Some(1) } else { self.concurrency }
    }

    /// Whether it has something to say about each arrival.
    pub fn judges_arrivals(&self) -> bool {
        self.singleton == Some(Singleton::Waiting)
            || self.debounce.is_some()
            || self.depth.is_some()
    }

    /// The weight of a key.
    pub fn weight(&self, key: &str) -> u32 {
        self.fair.as_ref().and_then(|weights| weights.get(key)).copied().unwrap_or(1)
    }
}

/// Everything that is wrong with it; empty when nothing is.
pub(super) fn violations(limit: &pb::Limit) -> Vec<Violation> {
    Limit::parse(limit).err().unwrap_or_default()
}

#[derive(Default)]
struct Wrong(Vec<Violation>);

impl Wrong {
    fn say(&mut self, field: &str, problem: impl Into<String>) {
        let field = match field {
            "" => "limit".into(),
            field => format!("limit.{field}"),
        };
        self.0.push(Violation { field, problem: problem.into() });
    }

    fn take<T>(&mut self, field: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.say(field, problem)).ok()
    }

    fn bound(&mut self, field: &str, number: u32) -> bool {
        if number == 0 {
            self.say(field, "must be at least 1; pause the queue to hold all");
        }
        if number > limits::LIMIT_COUNT_MAX {
            self.say(field, format!("must be at most {}", limits::LIMIT_COUNT_MAX));
        }
        (1..=limits::LIMIT_COUNT_MAX).contains(&number)
    }

    fn duration(&mut self, field: &str, value: crate::wire::time::Duration) -> Option<Duration> {
        let fits = |d: &Duration| *d >= limits::LIMIT_TIME_MIN && *d <= limits::DURATION_MAX;
        let duration = value.to_std().filter(fits);
        if duration.is_none() {
            self.say(field, "must be 1 ms to 366 days");
        }
        duration
    }

    fn rate(&mut self, rate: &pb::LimitRate) -> Rate {
        self.bound("rate.count", rate.count);
        let burst = rate.burst.unwrap_or(BURST);
        self.bound("rate.burst", burst);
        let per =
            rate.per.map_or(Some(Duration::from_secs(1)), |per| self.duration("rate.per", per));
        Rate { count: rate.count.max(1), per: per.unwrap_or_default(), burst: burst.max(1) }
    }

    fn fair(&mut self, fair: &pb::LimitFair) -> BTreeMap<String, u32> {
        if fair.weights.len() > limits::LIMIT_WEIGHTS_MAX {
            self.say("fair.weights", format!("are more than {}", limits::LIMIT_WEIGHTS_MAX));
        }
        for (key, weight) in &fair.weights {
            if !(1..=1_000).contains(weight) || key.len() > limits::KEY_BYTES_MAX {
                let most = limits::KEY_BYTES_MAX;
                let problem = format!("must be 1 to 1000, for a key of at most {most} bytes");
                self.say(&format!("fair.weights.{key}"), problem);
            }
        }
        fair.weights.clone()
    }

    fn singleton(&mut self, word: i32) -> Option<Singleton> {
        match pb::LimitSingleton::try_from(word) {
            Ok(pb::LimitSingleton::Unspecified) => None,
            Ok(pb::LimitSingleton::Running) => Some(Singleton::Running),
            Ok(pb::LimitSingleton::Waiting) => Some(Singleton::Waiting),
            Err(_) => {
                self.say("singleton", "is not known: upgrade jetmill");
                None
            }
        }
    }

    fn debounce(&mut self, debounce: &pb::LimitDebounce) -> Debounce {
        let quiet = debounce.quiet.unwrap_or_default();
        let quiet = self.duration("debounce.quiet", quiet).unwrap_or_default();
        let longest = match debounce.longest {
            Some(longest) => self.duration("debounce.longest", longest).unwrap_or_default(),
            None => (quiet * LONGEST).min(limits::DURATION_MAX),
        };
        if longest < quiet {
            self.say("debounce.longest", "is shorter than debounce.quiet");
        }
        Debounce { quiet, longest }
    }

    fn needs_key(&mut self, limit: &pb::Limit) {
        if limit.key.is_empty() && limit.fair.is_some() {
            self.say("key", "is needed for fair: between what is the queue to be shared?");
        }
        if limit.concurrency.is_some() && limit.singleton != 0 {
            self.say("concurrency", "excludes singleton, which is a concurrency of 1");
        }
        if !limit.key.is_empty() && limit.ageing.is_some() {
            self.say("ageing", "is for the queue as a whole: make it a limit without a key");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(change: impl FnOnce(&mut pb::Limit)) -> pb::Limit {
        let mut limit = pb::Limit { queue: "q".into(), ..pb::Limit::default() };
        change(&mut limit);
        limit
    }

    #[test]
    fn defaults_are_filled_in() {
        let parsed = Limit::parse(&limit(|l| {
            l.key = "input.customer".into();
            l.rate = Some(pb::LimitRate { count: 3, ..pb::LimitRate::default() });
            let quiet = Some(Duration::from_secs(2).into());
            l.debounce = Some(pb::LimitDebounce { quiet, longest: None });
        }))
        .expect("a limit");
        let second = Duration::from_secs(1);
        assert_eq!(parsed.rate, Some(Rate { count: 3, per: second, burst: 1 }));
        let debounce = Debounce { quiet: 2 * second, longest: 20 * second };
        assert_eq!(parsed.debounce, Some(debounce));
        assert_eq!(parsed.weight("any"), 1);
        assert_eq!(parsed.out_max(), None);
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let wrong = limit(|l| {
            l.queue = "a b".into();
            l.key = "nobody".into();
            l.concurrency = Some(u32::MAX);
            l.rate = Some(pb::LimitRate { count: 0, burst: Some(0), ..pb::LimitRate::default() });
            l.fair = Some(pb::LimitFair { weights: [("x".to_owned(), 0)].into() });
            l.singleton = 9;
            l.debounce = Some(pb::LimitDebounce::default());
            l.ttl = Some(Duration::ZERO.into());
            l.ageing = Some(Duration::from_secs(1).into());
        });
        let fields = violations(&wrong).into_iter().map(|v| v.field).collect::<Vec<_>>();
        for field in [
            "queue",
            "key",
            "concurrency",
            "rate.count",
            "rate.burst",
            "fair.weights.x",
            "singleton",
            "debounce.quiet",
            "ttl",
            "ageing",
        ] {
            assert!(
                fields.iter().any(|f| f.strip_prefix("limit.") == Some(field)),
                "{field}: {fields:?}"
            );
        }
        let fields = |l: &pb::Limit| violations(l).into_iter().map(|v| v.field).collect::<Vec<_>>();
        assert_eq!(fields(&limit(|_| ())), ["limit"]);
        assert_eq!(fields(&limit(|l| l.fair = Some(pb::LimitFair::default()))), ["limit.key"]);
    }
}
