//! **Pure.** The second half of a scheduler's loop, in the order of the product's shell: decide,
//! release, find out, compare, settle.

use common::{
    event::{Event, Kind, TaskEvent},
    id::{TaskKey, Tenant},
    lifecycle::Phase,
    subject,
    task::TaskSpec,
    time::Timestamp,
};
use scheduler::{
    office::{self, Released, Sight, Step},
    orders::{self, Then},
    outgoing::{self, Outgoing},
    plan::{Decision, Entry, Place, Release, Ticket},
    verdict,
};

use super::{Goal, Point, Scheduler, Stage};
use crate::{
    client::{self, Order},
    invariants::{self, Broken},
    world::{Answer, What, World},
};

/// How long the answer to a release may take.
const RELEASE_WAIT_US: i64 = 5_000_000;
/// How long a publisher tries.
const PUBLISH_WAIT_US: i64 = 30_000_000;
const COMPARE_EVERY_MS: u64 = 30_000;
const SUSPECT_AFTER_MS: u64 = 60_000;
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

    fn go_on(&mut self, world: &mut World, from: Point) -> Result<(), Broken> {
        if from == Point::Decide && self.decide(world)? {
            return Ok(());
        }
        if matches!(from, Point::Decide | Point::Release) && self.compose(world)? {
            return Ok(());
        }
        if matches!(from, Point::Decide | Point::Release | Point::FindOut)
            && self.doubts.must_find_out()
        {
            self.begin(Goal::FindOut);
            return Ok(());
        }
        let now_ms = self.now_ms(world);
        if from != Point::Settle && now_ms >= self.compare_at {
            self.compare_at = now_ms + COMPARE_EVERY_MS;
            let suspects = self.planner.suspects(now_ms, SUSPECT_AFTER_MS);
            if !suspects.is_empty() {
                self.begin(Goal::Compare(suspects));
                return Ok(());
            }
        }
        self.doubts.settle(&mut self.planner, self.cursor);
        if std::mem::take(&mut self.pauses_changed) {
            let (queues, _) = self.planner.pauses();
            for (queue, paused) in queues {
                if paused {
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

    /// Begins to find out where released attempts are.
    pub(super) fn begin(&mut self, goal: Goal) {
        self.stage = Stage::Steps { goal, at: 0, purged: false, sight: Sight::default() };
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
                self.go_on(world, Point::Release)
            }
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
            Stage::Composed(messages) => {
                self.send(world, messages);
                Ok(())
            }
            Stage::Releasing { sent, since_us } => self.released(world, sent, since_us),
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

    /// Takes one step on the work queue.
    fn take(
        &mut self,
        world: &mut World,
        goal: Goal,
        at: usize,
        purged: bool,
        mut sight: Sight,
    ) -> Result<(), Broken> {
        let steps: &[Step] = match goal {
            Goal::TakeOver | Goal::FindOut => &office::TAKE_OVER,
            Goal::Compare(_) => &office::COMPARE,
        };
        let Some(step) = steps.get(at) else { return self.taken(world, &goal, sight) };
        if world.fault(world.setup.refusals, 12) {
            world.note(|_| format!("{}: the work queue does not answer ({step:?})", self.name()));
            return self.not_taken(world, &goal);
        }
        match step {
            Step::Fence if !purged => {
                world.queue.purge_fence();
                self.stage = Stage::Steps { goal, at, purged: true, sight };
                return Ok(());
            }
            Step::Fence => {
                let Some(sequence) = world.queue.publish_fence() else {
                    return self.not_taken(world, &goal);
                };
                self.guard.fenced(sequence);
                world.note(|_| format!("{} puts the fence at {sequence}", self.name()));
            }
            Step::ReadBack => sight.out = world.queue.out(),
            Step::ReadEnd => sight.last = world.log.last(),
        }
        if at == 0 {
            // From the first step on nobody else may release.
            self.taken_over = match goal {
                Goal::TakeOver | Goal::FindOut => world.log.last(),
                Goal::Compare(_) => self.taken_over,
            };
        }
        self.stage = Stage::Steps { goal, at: at + 1, purged: false, sight };
        Ok(())
    }

    fn taken(&mut self, world: &mut World, goal: &Goal, sight: Sight) -> Result<(), Broken> {
        match goal {
            Goal::TakeOver => {
                self.office.took_over(sight);
                Ok(())
            }
            Goal::FindOut => {
                world.note(|_| format!("{} finds out: {:?}", self.name(), sight.out.len()));
                self.doubts.found_out(&self.planner, &sight);
                self.go_on(world, Point::Compare)
            }
            Goal::Compare(suspects) => {
                self.doubts.compared(suspects.clone(), &sight);
                self.go_on(world, Point::Settle)
            }
        }
    }

    fn not_taken(&mut self, world: &mut World, goal: &Goal) -> Result<(), Broken> {
        match goal {
            Goal::TakeOver => Ok(()),
            Goal::FindOut => self.go_on(world, Point::Compare),
            Goal::Compare(_) => self.go_on(world, Point::Settle),
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
            _ => None,
        };
        if message.is_none() && self.planner.floor() < world.log.first {
            return Ok(None);
        }
        let name = world.truth.name(entry.key);
        invariants::payloads_stay(name, spec, (entry.sequence, entry.index))?;
        let spec = spec.expect("invariant: it was just looked at");
        Ok(Some((spec.clone(), created_at)))
    }

    /// Publishes what the scheduler alone decides; says whether it waits for that.
    fn decide(&mut self, world: &mut World) -> Result<bool, Broken> {
        let (mut events, mut taken) = (Vec::new(), Vec::new());
        for (ticket, decision) in self.planner.take_decisions(256) {
            let Some(entry) = self.planner.entry(ticket) else { continue };
            let Some((spec, _)) = self.payload(world, &entry)? else {
                self.planner.put_back(ticket, decision);
                continue;
            };
            if decision == Decision::Cancel && matches!(entry.place, Place::Released(_)) {
                self.withdraw(world, &entry, &spec);
            }
            let random = world.random.unit();
            let event = verdict::event(&self.planner, (ticket, &entry), &spec, decision, random);
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

    /// Writes the next releases; says whether there are any.
    fn compose(&mut self, world: &mut World) -> Result<bool, Broken> {
        let now_ms = self.now_ms(world);
        let max = if world.random.one_in(2) { 512 } else { 2 };
        let releases = self.planner.release(now_ms, world.setup.window_max, max);
        for release in &releases {
            invariants::pauses_hold(&world.truth, release.queue.as_str(), self.cursor)?;
            for ticket in &release.tickets {
                invariants::priorities_hold(&world.truth, &self.planner, *ticket)?;
            }
        }
        if releases.is_empty() {
            return Ok(false);
        }
        if !self.is_held(world) {
            self.take_back(releases.into_iter().map(|release| release.tickets).collect());
            return Ok(false);
        }
        let mut messages = Vec::new();
        for release in releases {
            let message = self.outgoing(world, &release)?;
            messages.push((message, release.tickets));
        }
        if messages.iter().any(|(message, _)| message.is_none()) {
            self.take_back(messages.into_iter().map(|(_, tickets)| tickets).collect());
            return Ok(false);
        }
        let messages =
            messages.into_iter().filter_map(|(message, t)| Some((message?, t))).collect();
        self.stage = Stage::Composed(messages);
        Ok(true)
    }

    fn outgoing(&self, world: &World, release: &Release) -> Result<Option<Outgoing>, Broken> {
        let mut items = Vec::new();
        for ticket in &release.tickets {
            let Some(entry) = self.planner.entry(*ticket) else { continue };
            let Some((spec, created_at)) = self.payload(world, &entry)? else { return Ok(None) };
            items.push(outgoing::item(&entry, &release.queue, &spec, String::new(), created_at));
        }
        Ok(Outgoing::new(&release.queue, items, release.json))
    }

    fn take_back(&mut self, groups: Vec<Vec<Ticket>>) {
        for ticket in groups.into_iter().flatten().rev() {
            self.planner.unrelease(ticket);
        }
    }

    fn send(&mut self, world: &mut World, messages: Vec<(Outgoing, Vec<Ticket>)>) {
        let mut sent = Vec::new();
        for (message, tickets) in messages {
            let what = What::Release {
                message: (message.subject, message.body),
                expects: self.guard.fence(),
                taken_over: self.taken_over,
            };
            sent.push((world.send(self.life, what), tickets));
        }
        self.stage = Stage::Releasing { sent, since_us: world.now_us };
    }

    /// Looks at the answers to releases, once all are there or late.
    fn released(
        &mut self,
        world: &mut World,
        sent: Vec<(u64, Vec<Ticket>)>,
        since_us: i64,
    ) -> Result<(), Broken> {
        let all = sent.iter().all(|(token, _)| world.answers.contains_key(token));
        if !all && world.now_us - since_us < RELEASE_WAIT_US {
            self.stage = Stage::Releasing { sent, since_us };
            return Ok(());
        }
        let mut refused = Vec::new();
        for (token, tickets) in sent {
            let outcome = match world.answers.remove(&token) {
                Some(Answer::Stored(_) | Answer::AlreadyThere) => Released::Out,
                Some(Answer::Refused) => Released::FencedOff,
                None => Released::Unknown,
            };
            if outcome != Released::Out {
                let what = tickets.iter().filter_map(|ticket| self.planner.entry(*ticket));
                let names = what.map(|e| world.truth.name(e.key).to_owned()).collect::<Vec<_>>();
                world.note(|_| format!("{}: release of {names:?}: {outcome:?}", self.name()));
            }
            match outcome {
                Released::Out => {}
                Released::Refused => refused.push(tickets),
                Released::FencedOff => {
                    self.office.fenced_off(&mut self.planner);
                    refused.push(tickets);
                }
                Released::Unknown => self.doubts.unsure(&self.planner, tickets),
            }
        }
        if !refused.is_empty() || self.doubts.is_unsure() {
            self.take_back(refused);
            return self.go_on(world, Point::FindOut);
        }
        self.go_on(world, Point::Release)
    }

    /// Does what somebody asks for, if it decides.
    pub(super) fn obey(&mut self, world: &mut World, order: Order) -> Result<(), Broken> {
        if !self.decides(world) {
            return self.act(world);
        }
        world.note(|_| format!("{} is asked: {order:?}", self.name()));
        let (event, then) = match order {
            Order::Pause(queue, begins) => (client::policy(queue, begins), Then::Nothing),
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

    fn follow_up(&mut self, world: &mut World, then: Then, event: &Event) {
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
