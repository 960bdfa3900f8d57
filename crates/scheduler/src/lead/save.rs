//! Stores snapshots of the planner.

use bus::Cursor;
use tokio::task::JoinError;

use super::Lead;
use crate::snapshot;

impl Lead {
    /// Begins to store a snapshot, unless one is on its way.
    pub(super) fn save(&mut self) {
        if !self.planner.is_settled() || !self.saves.is_empty() {
            return;
        }
        let cursor = self.cursor;
        self.stored_at = cursor.sequence;
        let bytes = self.planner.store(cursor.stream.to_string(), cursor.sequence);
        self.saves.spawn(snapshot::save(self.ctx.bus.clone(), bytes, cursor));
    }

    pub(super) fn saved(&mut self, saved: Result<anyhow::Result<Cursor>, JoinError>) {
        match saved.map_err(anyhow::Error::from).flatten() {
            Ok(cursor) => self.saved_at = cursor.sequence,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "failed to store a snapshot");
            }
        }
    }

    /// Stores a snapshot of what is known now, and waits for it.
    pub(super) async fn save_now(&mut self) {
        while let Some(saved) = self.saves.join_next().await {
            self.saved(saved);
        }
        self.save();
        while let Some(saved) = self.saves.join_next().await {
            self.saved(saved);
        }
    }
}
