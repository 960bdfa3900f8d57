//! Puts into the log what was decided about schedules: tasks for ticks, or that ticks have none.

use std::time::Duration;

use common::{
    error::ApiError,
    event::{Event, Policy, PolicyEvent},
    id::{TaskId, Tenant},
    policy::schedule::Advanced,
    task::TaskSpec,
    time::Timestamp,
};

use super::Lead;
use crate::{
    orders::Change,
    schedule::{Order, fire},
    verdict::ACTOR,
};

/// Schedules that are decided together.
const FIRE_MAX: usize = 256;
/// Pause before a decision that the log did not take is made again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The run of a tick, on its way into the log.
struct Firing {
    name: Box<str>,
    tick: Timestamp,
    cancel: Vec<TaskId>,
}

impl Lead {
    /// Decides about ticks that are due. Each has an id of its own and goes to a subject that takes
    /// one message, so that whoever else decides about it creates no second task.
    pub(super) async fn fire(&mut self) {
        let orders = self.planner.schedule_orders(FIRE_MAX);
        if orders.is_empty() {
            return;
        }
        let (mut advanced, mut firings, mut specs) = (Vec::new(), Vec::new(), Vec::new());
        for order in orders {
            match order {
                Order::Advance(advance) => advanced.push(advance),
                Order::Create { name, tick, spec, cancel } => {
                    firings.push(Firing { name, tick, cancel });
                    specs.push(*spec);
                }
            }
        }
        advanced.extend(self.create(firings, specs).await);
        self.advance(advanced).await;
    }

    /// Creates the runs. Returns the ticks of which the log would not tell otherwise that they are
    /// decided.
    async fn create(&mut self, firings: Vec<Firing>, specs: Vec<TaskSpec>) -> Vec<Advanced> {
        let (mut ready, mut asked) = (Vec::with_capacity(specs.len()), Vec::new());
        for (firing, spec) in firings.into_iter().zip(specs) {
            match self.make_room(&spec.tenant(), &firing).await {
                Ok(()) => {
                    ready.push(firing);
                    asked.push(spec);
                }
                Err(error) => self.again(&firing.name, &error),
            }
        }
        let answers = bus::create(&self.ctx.bus, &self.publisher, asked).await;
        let mut taken = Vec::new();
        for (Firing { name, tick, .. }, answer) in ready.into_iter().zip(answers) {
            let last = self.planner.schedules().get(&name).and_then(|known| known.last);
            let told = fire::taken(&name, (tick, last), &answer);
            match answer {
                Ok(run) => {
                    let existing = run.existing;
                    tracing::info!(schedule = %name, %tick, task.id = run.task_id, existing, "a tick has its run");
                }
                Err(error) if told.is_some() => {
                    tracing::warn!(schedule = %name, %tick, %error, "a tick can have no run");
                }
                Err(error) => self.again(&name, &error),
            }
            taken.extend(told);
        }
        taken
    }

    /// Asks the runs to end that the new one replaces.
    async fn make_room(&mut self, tenant: &Tenant, firing: &Firing) -> Result<(), ApiError> {
        if firing.cancel.is_empty() {
            return Ok(());
        }
        let reason = format!("schedule {} has a newer run", firing.name);
        let change = Change::Cancel { reason };
        self.change(tenant, firing.cancel.clone(), &change, ACTOR).await.map(|_| ())
    }

    async fn advance(&mut self, advanced: Vec<Advanced>) {
        let event = |advanced: &Advanced| {
            let policy = Policy::ScheduleAdvanced(advanced.clone());
            Event::Policy(PolicyEvent { actor: ACTOR.to_owned(), policy })
        };
        for Advanced { name, through, why, .. } in &advanced {
            tracing::info!(schedule = name, %through, why, "ticks have no run");
        }
        let events = advanced.iter().map(event).collect::<Vec<_>>();
        if events.is_empty() {
            return;
        }
        if let Err(error) = self.publisher.publish_all(events).await {
            let error = ApiError::from(error);
            for advanced in advanced {
                self.again(&advanced.name, &error);
            }
        }
    }

    /// It did not get into the log, or nobody knows: it is decided again. What is there already is
    /// refused then, and read.
    fn again(&mut self, name: &str, error: &ApiError) {
        tracing::warn!(schedule = name, %error, "a tick waits");
        let again = self.planner.clock().after(AGAIN_AFTER);
        self.planner.put_back_order(name, again);
    }
}
