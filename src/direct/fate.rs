//! Whether the other node still lives, for every connection to hear.

use std::sync::Arc;
use tokio::sync::watch::{self, Sender};

/// Open until it is sealed, once, with the reason.
#[derive(Clone, Debug)]
pub(crate) struct Fate(Arc<Sender<Option<String>>>);

impl Fate {
    /// The other node lives.
    pub(crate) fn open() -> Self {
        Self(Arc::new(watch::channel(None).0))
    }

    /// The other node is dead; only the first reason counts.
    pub(crate) fn seal(&self, reason: impl ToString) {
        self.0.send_if_modified(|sealed| {
            let first = sealed.is_none();
            if first {
                *sealed = Some(reason.to_string());
            }
            first
        });
    }

    /// The reason, if the other node is dead.
    pub(crate) fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits until the other node is dead; the reason.
    pub(crate) async fn sealed(&self) -> String {
        let mut receiver = self.0.subscribe();
        // The channel lives as long as we do.
        match receiver.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }
}
