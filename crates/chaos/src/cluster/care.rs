//! Starts again what ended by itself, and undoes what faults have left behind.

use launch::process;
use tokio::time::Instant;

use super::{Cluster, RESTART_AFTER};
use crate::proxy::Mode;

impl Cluster {
    /// Starts again what ended by itself a moment ago.
    pub fn look_after(&mut self) -> anyhow::Result<()> {
        if let Some(nats) = self.nats.as_mut().filter(|_| self.nats_wanted)
            && !nats.is_alive()
        {
            self.ended.push_back(format!("nats-server: {}", last_line(&nats.log_tail())));
            nats.restart()?;
        }
        if let Some(storage) = self.storage.as_mut().filter(|_| self.storage_wanted)
            && !storage.is_alive()
        {
            self.ended.push_back(format!("PostgreSQL: {}", last_line(&storage.log_tail())));
            // With a full disk it ends again at once; the next look tries again.
            let _ = storage.serve();
        }
        let mut again = Vec::new();
        for (name, member) in &mut self.members {
            if !member.wanted || member.is_alive() {
                continue;
            }
            match member.ended {
                None => {
                    member.ended = Some(Instant::now());
                    let said = last_line(&process::tail(&member.log));
                    self.ended.push_back(format!("{name}: {said}"));
                }
                Some(at) if at.elapsed() >= RESTART_AFTER => again.push(name.clone()),
                Some(_) => {}
            }
        }
        again.iter().try_for_each(|name| self.launch(name))
    }

    /// Undoes whatever a fault has left behind.
    pub fn heal(&mut self) -> anyhow::Result<()> {
        for disk in [&self.nats_disk, &self.ledger_disk].into_iter().flatten() {
            disk.free()?;
        }
        if let Some(nats) = self.nats.as_mut()
            && !nats.is_alive()
        {
            nats.restart()?;
        }
        (self.nats_wanted, self.storage_wanted) = (true, true);
        if let Some(storage) = self.storage.as_mut() {
            storage.serve()?;
        }
        let names: Vec<_> = self.members.keys().cloned().collect();
        for name in &names {
            if self.members.get(name).is_some_and(|member| member.stopped) {
                self.stop(name, false)?;
            }
            if let Some(member) = self.members.get(name) {
                member.proxy.set(Mode::Open);
            }
            self.launch(name)?;
        }
        Ok(())
    }
}

fn last_line(text: &str) -> String {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing").to_owned()
}
