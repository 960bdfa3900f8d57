//! Does the faults to the cluster. What cannot be done now is tried again a moment later; what cannot
//! be done here at all says so, and does not count.

mod traffic;

use std::{process::Stdio, sync::Arc, time::Duration};

use anyhow::Context as _;
use bus::Bus;
use jetmill_sdk::Client;
use tokio::{process::Command, time::timeout};

use crate::{
    cluster::{Cluster, Role},
    kind::Kind,
    load::Item,
    observe::{self, Sight},
    plan::{Dice, Fault},
    proxy::{self, Mode},
    storage::Flavour,
    submit::Memory,
};

/// How long a command of the user's may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(120);
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Work that is delivered twice at once.
const TWICE: u32 = 4;

/// A fault of the user's: a name and a command for `sh`.
#[derive(Clone, Debug)]
pub struct Custom {
    /// How it is called.
    pub name: String,
    /// What does it.
    pub command: String,
}

/// What came of trying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done; what was done to whom.
    Done(String),
    /// Not now.
    Later,
    /// Never here, for this reason.
    NotHere(String),
}

/// What a fault has under way.
#[derive(Debug, Default)]
struct Open {
    killed: Vec<String>,
    stopped: Vec<String>,
    proxied: Vec<String>,
    nats: bool,
    storage: bool,
    /// Places in the work queue that should be delivered again.
    again: Vec<u64>,
    doubled: u32,
}

/// Everything that faults are done with.
pub struct Actor {
    /// The processes.
    pub cluster: Cluster,
    /// A connection past all proxies.
    pub bus: Bus,
    /// A client on it.
    pub client: Client,
    /// What the observer knows.
    pub sight: Sight,
    /// What was accepted.
    pub accepted: Memory,
    /// The load.
    pub items: Arc<Vec<Item>>,
    /// The user's faults.
    pub customs: Vec<Custom>,
    /// Promises that were broken in front of our eyes.
    pub broken: Vec<String>,
    open: std::collections::HashMap<usize, Open>,
}

impl Actor {
    /// Everything together.
    pub fn new(cluster: Cluster, bus: Bus, items: Arc<Vec<Item>>, customs: Vec<Custom>) -> Self {
        Self {
            client: Client::new(bus.clone()),
            cluster,
            bus,
            sight: Sight::default(),
            accepted: Memory::default(),
            items,
            customs,
            broken: Vec::new(),
            open: std::collections::HashMap::new(),
        }
    }

    /// The scheduler that leads and runs.
    fn leader(&mut self) -> Option<String> {
        let leader = observe::look(&self.sight).leader.clone()?;
        let member = self.cluster.members.get_mut(&leader)?;
        (member.is_alive() && !member.stopped).then_some(leader)
    }

    fn standby(&mut self) -> Option<String> {
        let leader = self.leader()?;
        let mut others = self.cluster.running(Role::Scheduler);
        if self.cluster.storage.as_ref().is_some_and(|s| s.flavour() == Flavour::Sqlite) {
            others.extend(self.cluster.running(Role::Registry));
        }
        others.into_iter().find(|name| *name != leader)
    }

    fn any(&mut self, role: Role, dice: &mut Dice) -> Option<String> {
        let mut running = self.cluster.running(role);
        // What is behind a closed proxy has a fault already.
        running.retain(|name| {
            self.cluster.members.get(name).is_some_and(|m| m.proxy.mode() == Mode::Open)
        });
        let place = dice.below(running.len() as u64) as usize;
        running.into_iter().nth(place)
    }

    /// Begins the fault with this place in the plan.
    pub async fn begin(&mut self, n: usize, fault: &Fault) -> anyhow::Result<Outcome> {
        let mut dice = Dice::new(fault.pick, 0);
        let mut open = Open::default();
        let outcome = match fault.kind {
            Kind::KillLeader
            | Kind::KillStandby
            | Kind::KillRegistry
            | Kind::KillWorker
            | Kind::KillWorkerPool
            | Kind::KillNats
            | Kind::KillPostgres => self.kill(fault.kind, &mut dice, &mut open)?,
            Kind::KillTogether => self.kill_together(&mut dice, &mut open)?,
            Kind::StopLeader => match self.leader() {
                Some(leader) => {
                    self.cluster.stop(&leader, true)?;
                    open.stopped.push(leader.clone());
                    Outcome::Done(leader)
                }
                None => Outcome::Later,
            },
            Kind::Zombie | Kind::Delay => self.hold(fault.kind, &mut dice, &mut open),
            Kind::DuplicateEvents => self.publish_again(&mut dice).await?,
            Kind::Redelivery => self.deliver_again(&mut open).await?,
            Kind::DuplicateDelivery => self.deliver_twice(&mut dice, &mut open),
            Kind::RepeatSubmission => self.submit_again(&mut dice).await,
            Kind::FullDiskNats => match &self.cluster.nats_disk {
                Some(disk) => {
                    disk.fill()?;
                    Outcome::Done("nats-server".into())
                }
                None => Outcome::NotHere("no disk of its own can be made on this machine".into()),
            },
            Kind::FullDiskLedger => match &self.cluster.ledger_disk {
                Some(disk) => {
                    disk.fill()?;
                    Outcome::Done("the ledger".into())
                }
                None => Outcome::NotHere("no disk of its own can be made on this machine".into()),
            },
            Kind::LedgerRestored => self.copy_ledger()?,
            Kind::Custom(n) => self.custom(n).await?,
            Kind::LedgerBehindLog | Kind::StreamRecreated => Outcome::Later,
        };
        if matches!(outcome, Outcome::Done(_)) {
            self.open.insert(n, open);
        }
        Ok(outcome)
    }

    /// Ends it. `Later`: what was begun has not happened yet.
    pub fn end(&mut self, n: usize, fault: &Fault) -> anyhow::Result<Outcome> {
        let Some(open) = self.open.remove(&n) else {
            return Ok(Outcome::NotHere("it had not begun".into()));
        };
        let mut said = String::new();
        match fault.kind {
            Kind::Redelivery => {
                let is_again = |reply: &String| {
                    proxy::delivery(reply)
                        .is_some_and(|(count, place)| count > 1 && open.again.contains(&place))
                };
                let members = self.cluster.members.values();
                let again = members.flat_map(|m| m.proxy.deliveries()).filter(is_again).count();
                if again == 0 {
                    return Ok(Outcome::Later);
                }
                said = format!("{again} messages came again");
            }
            Kind::DuplicateDelivery => {
                let doubled = self.doubled().saturating_sub(open.doubled);
                if doubled == 0 {
                    self.open.insert(n, open);
                    return Ok(Outcome::Later);
                }
                said = format!("{doubled} messages came twice");
            }
            Kind::FullDiskNats => said = self.free_nats()?,
            Kind::FullDiskLedger => {
                if let Some(disk) = &self.cluster.ledger_disk {
                    disk.free()?;
                }
            }
            Kind::LedgerRestored => {
                self.cluster.kill("registry")?;
                self.cluster.storage.as_mut().context("there is no ledger")?.restore()?;
                self.cluster.launch("registry")?;
            }
            _ => {}
        }
        if open.nats {
            self.cluster.nats_wanted = true;
            self.cluster.nats.as_mut().context("there is no nats-server")?.restart()?;
        }
        if open.storage {
            self.cluster.storage_wanted = true;
            self.cluster.storage.as_mut().context("there is no ledger")?.serve()?;
        }
        for name in open.killed {
            self.cluster.launch(&name)?;
        }
        for name in open.stopped {
            // It may have been killed meanwhile.
            if self.cluster.members.get(&name).is_some_and(|m| m.stopped) {
                self.cluster.stop(&name, false)?;
            }
        }
        for name in open.proxied {
            if let Some(member) = self.cluster.members.get(&name) {
                member.proxy.set(Mode::Open);
            }
        }
        Ok(Outcome::Done(said))
    }

    fn kill(&mut self, kind: Kind, dice: &mut Dice, open: &mut Open) -> anyhow::Result<Outcome> {
        let victim = match kind {
            Kind::KillLeader => self.leader(),
            Kind::KillStandby => self.standby(),
            Kind::KillRegistry => self.any(Role::Registry, dice),
            Kind::KillWorker => self.any(Role::Worker, dice),
            Kind::KillWorkerPool => self.any(Role::WorkerPool, dice),
            Kind::KillNats => {
                let Some(nats) = self.cluster.nats.as_mut().filter(|_| self.cluster.nats_wanted)
                else {
                    return Ok(Outcome::Later);
                };
                self.cluster.nats_wanted = false;
                nats.kill()?;
                open.nats = true;
                return Ok(Outcome::Done("nats-server".into()));
            }
            Kind::KillPostgres => return self.kill_postgres(open),
            _ => None,
        };
        let Some(victim) = victim else { return Ok(Outcome::Later) };
        self.cluster.kill(&victim)?;
        open.killed.push(victim.clone());
        Ok(Outcome::Done(victim))
    }

    fn kill_postgres(&mut self, open: &mut Open) -> anyhow::Result<Outcome> {
        match self.cluster.storage.as_mut() {
            Some(storage) if storage.flavour() == Flavour::Postgres => {
                if !self.cluster.storage_wanted || !storage.is_alive() {
                    return Ok(Outcome::Later);
                }
                self.cluster.storage_wanted = false;
                storage.kill()?;
                open.storage = true;
                Ok(Outcome::Done("PostgreSQL".into()))
            }
            _ => Ok(Outcome::NotHere("the ledger of this run is a file".into())),
        }
    }

    /// Two or three of them, one right after the other.
    fn kill_together(&mut self, dice: &mut Dice, open: &mut Open) -> anyhow::Result<Outcome> {
        let mut kinds = vec![
            Kind::KillNats,
            Kind::KillLeader,
            Kind::KillRegistry,
            Kind::KillWorker,
            Kind::KillWorkerPool,
            Kind::KillPostgres,
        ];
        dice.shuffle(&mut kinds);
        let (count, mut killed) = (dice.between(2, 3) as usize, Vec::new());
        for kind in kinds {
            if let Outcome::Done(victim) = self.kill(kind, dice, open)? {
                killed.push(victim);
            }
            if killed.len() >= count {
                break;
            }
        }
        Ok(if killed.is_empty() { Outcome::Later } else { Outcome::Done(killed.join(", ")) })
    }

    /// Takes the network away from a worker for long, or from anybody for a while.
    fn hold(&mut self, kind: Kind, dice: &mut Dice, open: &mut Open) -> Outcome {
        let roles: &[Role] = match kind {
            Kind::Zombie => &[Role::Worker, Role::Worker, Role::WorkerPool],
            _ => &[Role::Worker, Role::WorkerPool, Role::Registry, Role::Scheduler],
        };
        let role = roles.get(dice.below(roles.len() as u64) as usize).copied();
        let Some(name) = role.and_then(|role| self.any(role, dice)) else { return Outcome::Later };
        let cut = kind == Kind::Zombie && dice.percent(50);
        if let Some(member) = self.cluster.members.get(&name) {
            member.proxy.set(if cut { Mode::Cut } else { Mode::Held });
        }
        open.proxied.push(name.clone());
        Outcome::Done(format!("{name}, {}", if cut { "closed" } else { "silent" }))
    }

    /// Copies the ledger, which comes back at the end of the fault.
    fn copy_ledger(&mut self) -> anyhow::Result<Outcome> {
        let Some(storage) = self.cluster.storage.as_mut() else { return Ok(Outcome::Later) };
        if !self.cluster.storage_wanted || !storage.is_alive() {
            return Ok(Outcome::Later);
        }
        self.cluster.kill("registry")?;
        let copied = self.cluster.storage.as_mut().context("there is no ledger")?.copy();
        self.cluster.launch("registry")?;
        copied.map(|()| Outcome::Done("an older copy".into()))
    }

    /// Gives the room back. nats-server does not use it again by itself when it gave up.
    fn free_nats(&mut self) -> anyhow::Result<String> {
        if let Some(disk) = &self.cluster.nats_disk {
            disk.free()?;
        }
        // A stream that once failed to write keeps the error until nats-server is started again
        // (seen with 2.15.1), whatever room there is: a service manager with a health check does that.
        if let Some(nats) = self.cluster.nats.as_mut().filter(|_| self.cluster.nats_wanted) {
            if !nats.log_tail().contains("no space left on device") {
                return Ok("nothing was written meanwhile".into());
            }
            nats.restart()?;
        }
        Ok("nats-server was started again to store".into())
    }

    async fn custom(&mut self, n: u16) -> anyhow::Result<Outcome> {
        let custom = self.customs.get(usize::from(n)).context("there is no such fault")?;
        let mut command = Command::new("sh");
        command.args(["-c", &custom.command]).stdin(Stdio::null()).stdout(Stdio::null());
        command.kill_on_drop(true);
        let ended = timeout(COMMAND_WITHIN, command.status()).await;
        Ok(match ended {
            Ok(Ok(status)) if status.success() => Outcome::Done(custom.name.clone()),
            Ok(Ok(status)) => Outcome::NotHere(format!("{}: it ended with {status}", custom.name)),
            Ok(Err(error)) => Outcome::NotHere(format!("{}: {error}", custom.name)),
            Err(_) => Outcome::NotHere(format!("{}: not done in {COMMAND_WITHIN:?}", custom.name)),
        })
    }

    /// Everything that was begun is over.
    pub fn heal(&mut self) -> anyhow::Result<()> {
        self.open.clear();
        self.cluster.heal()
    }
}
