//! **Pure.** The second half of a scheduler's loop, in the order of the product's shell: decide,
//! release, move the fence, find out, compare, call back, settle.

use common::{
    event::{Event, Kind, Policy, PolicyEvent, TaskEvent},
    id::{TaskKey, Tenant},
    lifecycle::Phase,
    subject,
    task::TaskSpec,
    time::Timestamp,
};
use scheduler::{
    orders::{self, Then},
    plan::{Decision, Entry, Place},
    policies, verdict,
};

use super::{Goal, Point, Scheduler, Stage};
use crate::{
    client::{self, Order},
    invariants::{self, Broken},
    net::Answer,
    world::World,
};

/// How long a publisher tries.
pub(super) const PUBLISH_WAIT_US: i64 = 30_000_000;
const COMPARE_EVERY_MS: u64 = 30_000;
const SUSPECT_AFTER_MS: u64 = 60_000;
const RECALL_EVERY_MS: u64 = 1_000;
/// Messages that are released before the fence is moved to behind them.
const FENCE_MOVES_AFTER: usize = 6;
const DEAF_AFTER_MS: u64 = 4_000;
const SNAPSHOT_EVERY: u64 = 40;

impl Scheduler {
    /// Decides and applies, if this process leads.
    pub(super) fn act(&mut self, world: &mut World) -> Result<(), Broken> {
        let (now, now_ms) = (self.now(world), self.now_ms(world));
        if now_ms.saturating_sub(self.acted_ms) > DEAF_AFTER_MS {
            self.planner.was_deaf(now_ms);
        }
        self.acted_ms = now_ms;
        self.planner.tick(now, now_ms);
        if self.office.caught_up(self.cursor, &mut self.planner, now, now_ms) {
            self.pauses_changed = true;
            world.note(|_| format!("{} leads, having folded up to {}", self.name(), self.cursor));
        }
        if !self.office.leads() {
            if self.is_held(world) && self.office.must_take_over() {
                self.begin(Goal::TakeOver);
            }
            return Ok(());
        }
        if !self.is_held(world) {
            return Ok(());
        }
        self.go_on(world, Point::Decide)
    }

    pub(super) fn go_on(&mut self, world: &mut World, from: Point) -> Result<(), Broken> {
        if from <= Point::Decide && self.decide(world)? {
            return Ok(());
        }
        if from <= Point::Keys {
            self.read_keys(world)?;
        }
        if from <= Point::Fire && self.fire(world)? {
            return Ok(());
        }
        if from <= Point::Release && self.compose(world)? {
            return Ok(());
        }
        let now_ms = self.now_ms(world);
        if let Some(goal) = self.goal(now_ms, from) {
            self.begin(goal);
            return Ok(());
        }
        self.doubts.settle(&mut self.planner, self.cursor);
        if std::mem::take(&mut self.pauses_changed) {
            for (queue, held) in self.planner.pauses() {
                if held.is_some() {
                    world.paused.insert(queue.to_string());
                } else {
                    world.paused.remove(queue.as_str());
                }
            }
        }
        if self.cursor >= self.stored_at + SNAPSHOT_EVERY {
            self.save(world);
        }
        self.trim(world)
    }

    /// What is to be done on the work queue.
    fn goal(&mut self, now_ms: u64, from: Point) -> Option<Goal> {
        if from <= Point::Fence && self.released >= FENCE_MOVES_AFTER {
            return Some(Goal::MoveFence);
        }
        if from <= Point::FindOut && self.doubts.must_find_out() {
            return Some(Goal::FindOut);
        }
        if from <= Point::Compare && now_ms >= self.compare_at {
            self.compare_at = now_ms + COMPARE_EVERY_MS;
            let suspects = self.planner.suspects(now_ms, SUSPECT_AFTER_MS);
            if !suspects.is_empty() {
                return Some(Goal::Compare(suspects));
            }
        }
        if from <= Point::Recall && now_ms >= self.recall_at {
            self.recall_at = now_ms + RECALL_EVERY_MS;
            let unserved = self.planner.unserved(now_ms);
            if !unserved.is_empty() {
                return Some(Goal::Recall(unserved));
            }
        }
        None
    }

    /// Goes on with what it waited for.
    pub(super) fn resume(&mut self, world: &mut World, stage: Stage) -> Result<(), Broken> {
        match stage {
            Stage::Idle => Ok(()),
            Stage::Steps { goal, at, purged, sight } => self.take(world, goal, at, purged, sight),
            Stage::Deciding { taken, token, since_us } => {
                match world.answers.remove(&token) {
                    Some(Answer::Stored(_)) => {}
                    None if world.now_us - since_us < PUBLISH_WAIT_US => {
                        self.stage = Stage::Deciding { taken, token, since_us };
                        return Ok(());
                    }
                    Some(_) | None => {
                        for (ticket, decision) in taken {
                            self.planner.put_back(ticket, decision);
                        }
                    }
                }
                self.go_on(world, Point::Keys)
            }
            Stage::Firing(firing) => self.fired(world, *firing),
            Stage::Trimming { token, says, since_us } => {
                match world.answers.remove(&token) {
                    Some(Answer::Stored(sequence)) => self.trimmer.stored(sequence, says),
                    None if world.now_us - since_us < PUBLISH_WAIT_US => {
                        self.stage = Stage::Trimming { token, says, since_us };
                    }
                    // Something came in meanwhile: it is folded, and looked at again.
                    Some(_) if says => {}
                    Some(_) | None => self.trimmer.give_up(),
                }
                Ok(())
            }
            Stage::Composed(messages) => self.send(world, messages),
            Stage::Landing(after) => self.landing(world, after),
            Stage::Recalling { sequence, rest, token, since_us } => {
                self.recalled(world, (sequence, rest), token, since_us)
            }
            Stage::Ordering { event, then, before, token, since_us } => {
                match world.answers.remove(&token) {
                    Some(Answer::Stored(_)) => self.follow_up(world, then, &event),
                    None if world.now_us - since_us < PUBLISH_WAIT_US => {
                        self.stage = Stage::Ordering { event, then, before, token, since_us };
                        return Ok(());
                    }
                    Some(_) | None => {
                        if let Then::Hold(ticket) = then {
                            self.planner.unhold(ticket, before);
                        }
                    }
                }
                self.act(world)
            }
        }
    }

    /// The submission of an open task, and when the log took it; `None` for one that stood still while
    /// another leader cut the log: what it knows is no longer there to be read.
    pub(super) fn payload(
        &self,
        world: &World,
        entry: &Entry,
    ) -> Result<Option<(TaskSpec, Timestamp)>, Broken> {
        let message = world.log.get(entry.sequence);
        let item = message.and_then(|m| m.items.get(entry.index as usize));
        let mut created_at = message.map(|m| m.at).unwrap_or_default();
        let spec = match item {
            Some(Ok(Event::Task(TaskEvent { kind: Kind::Created(spec), .. }))) => Some(&**spec),
            Some(Ok(Event::Task(TaskEvent { kind: Kind::Carried(carried), .. }))) => {
                created_at = carried.created_at;
                carried.spec.as_deref()
            }
            Some(Ok(Event::Task(TaskEvent { kind: Kind::Resolved(resolved), .. }))) => {
                created_at = resolved.created_at;
                Some(&resolved.spec)
            }
            _ => None,
        };
        if message.is_none() && self.planner.floor() < world.log.first {
            return Ok(None);
        }
        let name = world.truth.name(entry.key);
        invariants::payloads_stay(name, spec, (entry.sequence, entry.index))?;
        let spec = spec.expect("invariant: it was just looked at");
        invariants::versions_stay(&world.truth, entry, spec, self.cursor)?;
        Ok(Some((spec.clone(), created_at)))
    }

    /// Publishes what the scheduler alone decides; says whether it waits for that.
    fn decide(&mut self, world: &mut World) -> Result<bool, Broken> {
        let (mut events, mut taken) = (Vec::new(), Vec::new());
        for (ticket, decision) in self.planner.take_decisions(256) {
            let Some(entry) = self.planner.entry(ticket) else { continue };
            if entry.state.stub {
                let name = (Tenant::default(), client::id(world.truth.name(entry.key)));
                events.push(Event::Task(verdict::stub_event(name)));
                taken.push((ticket, decision));
                continue;
            }
            let Some((spec, created_at)) = self.payload(world, &entry)? else {
                self.planner.put_back(ticket, decision);
                continue;
            };
            if decision == Decision::Cancel && matches!(entry.place, Place::Released(_)) {
                self.withdraw(world, &entry, &spec);
            }
            let event = if decision == Decision::Resolve {
                let event = verdict::resolved(&mut self.planner, ticket, &spec, created_at);
                if let Some(TaskEvent { kind: Kind::Resolved(body), .. }) = &event {
                    invariants::one_for_each_key_and_period(&world.truth, body, self.cursor)?;
                }
                event
            } else {
                let random = world.random.unit();
                verdict::event(&self.planner, (ticket, &entry), &spec, decision, random)
            };
            if let Some(event) = event {
                world.note(|_| format!("{} decides: {decision:?} {}", self.name(), event.id));
                events.push(Event::Task(event));
                taken.push((ticket, decision));
            }
        }
        if events.is_empty() {
            return Ok(false);
        }
        let token = world.publish(self.life, &events);
        self.stage = Stage::Deciding { taken, token, since_us: world.now_us };
        Ok(true)
    }

    fn withdraw(&self, world: &mut World, entry: &Entry, spec: &TaskSpec) {
        let Some(id) = spec.id() else { return };
        let (queue, _) = self.planner.queue_of(entry);
        let subject = subject::execution(queue, &spec.tenant(), &id, entry.state.attempt());
        if let Some(sequence) = world.queue.find(&subject) {
            world.note(|_| format!("{} withdraws {subject}", self.name()));
            world.queue.end(sequence);
        }
    }

    /// Does what somebody asks for, if it decides.
    pub(super) fn obey(&mut self, world: &mut World, order: Order) -> Result<(), Broken> {
        if !self.decides(world) {
            return self.act(world);
        }
        world.note(|_| format!("{} is asked: {order:?}", self.name()));
        let (event, then) = match order {
            Order::Pause(queue, begins) => (client::policy(queue, begins), Then::Nothing),
            // Versions are counted from what was folded.
            Order::Documents(_) if self.cursor < world.log.last() => return self.act(world),
            Order::Documents(documents) => {
                let changes = policies::changes(self.planner.policies(), documents);
                let documents = changes.into_iter().flatten().filter_map(|change| change.document);
                let event = |document| {
                    let policy = Policy::Document(Box::new(document));
                    Event::Policy(PolicyEvent { actor: "operator".into(), policy })
                };
                let events = documents.map(event).collect::<Vec<_>>();
                // Whether the log has them is seen when they are folded.
                if !events.is_empty() {
                    world.publish(self.life, &events);
                }
                return self.act(world);
            }
            Order::Change(id, change) => {
                let tenant = Tenant::default();
                let step = orders::step(&self.planner, TaskKey::new(&tenant, &id), &change);
                let orders::Step::Publish { kind, then, .. } = step else {
                    return self.act(world);
                };
                (Event::Task(TaskEvent::new(tenant, id, "operator", kind)), then)
            }
        };
        let before = match then {
            Then::Hold(ticket) => self.planner.hold(ticket),
            Then::Nothing | Then::Stop(_) => None,
        };
        let token = world.publish(self.life, std::slice::from_ref(&event));
        let (event, since_us) = (Box::new(event), world.now_us);
        self.stage = Stage::Ordering { event, then, before, token, since_us };
        Ok(())
    }

    pub(super) fn follow_up(&mut self, world: &mut World, then: Then, event: &Event) {
        let (Then::Stop(ticket), Event::Task(event)) = (then, event) else { return };
        let Some(entry) = self.planner.entry(ticket) else { return };
        world.tell_workers(entry.key, entry.state.attempt(), false);
        if entry.state.phase != Phase::Running {
            let (queue, _) = self.planner.queue_of(&entry);
            let attempt = entry.state.attempt();
            let subject = subject::execution(queue, &event.tenant, &event.id, attempt);
            if let Some(sequence) = world.queue.find(&subject) {
                world.note(|_| format!("{} withdraws {subject}", self.name()));
                world.queue.end(sequence);
            }
        }
    }
}
