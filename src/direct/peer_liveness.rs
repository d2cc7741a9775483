//! Whether the other node is alive, shared by all connections of a migration.

use std::sync::Arc;
use tokio::sync::watch::{self, Sender};

/// Alive until it is marked dead, once, with a reason. Clones share the state.
#[derive(Clone, Debug)]
pub(crate) struct PeerLiveness(Arc<Sender<Option<String>>>);

impl PeerLiveness {
    /// The other node is alive.
    pub(crate) fn alive() -> Self {
        Self(Arc::new(watch::channel(None).0))
    }

    /// Marks the other node dead. Only the first reason is kept.
    pub(crate) fn mark_dead(&self, reason: impl ToString) {
        self.0.send_if_modified(|dead| {
            let first = dead.is_none();
            if first {
                *dead = Some(reason.to_string());
            }
            first
        });
    }

    /// The reason, if the other node is dead.
    pub(crate) fn cause_of_death(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits until the other node is dead, and returns the reason.
    pub(crate) async fn died(&self) -> String {
        let mut receiver = self.0.subscribe();
        // The sender lives as long as this value, so waiting cannot fail.
        match receiver.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }
}
