//! Whether the other node is alive, shared by all connections of a migration.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch::{self, Sender};

/// Alive until it is marked dead, once, with a reason. Clones share the state.
#[derive(Clone, Debug)]
pub(crate) struct PeerLiveness {
    dead: Arc<Sender<Option<String>>>,
    dead_peer_timeout: Duration,
}

impl PeerLiveness {
    /// The other node is alive. The limit is for each sign of life that is missing.
    pub(crate) fn alive(dead_peer_timeout: Duration) -> Self {
        Self {
            dead: Arc::new(watch::channel(None).0),
            dead_peer_timeout,
        }
    }

    /// How long a sign of life may be missing.
    pub(crate) fn dead_peer_timeout(&self) -> Duration {
        self.dead_peer_timeout
    }

    /// Marks the other node dead. Only the first reason is kept.
    pub(crate) fn mark_dead(&self, reason: impl ToString) {
        self.dead.send_if_modified(|dead| {
            let first = dead.is_none();
            if first {
                *dead = Some(reason.to_string());
            }
            first
        });
    }

    /// The reason, if the other node is dead.
    pub(crate) fn cause_of_death(&self) -> Option<String> {
        self.dead.borrow().clone()
    }

    /// Waits until the other node is dead, and returns the reason.
    pub(crate) async fn died(&self) -> String {
        let mut receiver = self.dead.subscribe();
        // The sender lives as long as this value, so waiting cannot fail.
        match receiver.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }
}
