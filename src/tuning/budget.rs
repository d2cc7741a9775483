//! How much memory the enlarged buffers of a process may request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most bytes of buffers that one connection may request: 1 Gbit/s over 250 ms, or 10 Gbit/s over
/// 25 ms, with half of it in flight.
const MAX_OF_CONNECTION: usize = 64 << 20;

/// The most bytes that all connections of a process may request together.
const MAX_OF_PROCESS: usize = 4 * MAX_OF_CONNECTION;

/// The budget of a process.
#[derive(Debug, Default)]
pub(super) struct Budget {
    connections: AtomicUsize,
    requested: AtomicUsize,
}

/// The part of the budget that one connection uses. Dropping it returns the part.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    requested: usize,
}

impl Budget {
    /// The share of a new connection, which is empty.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Share {
            budget: self.clone(),
            requested: 0,
        }
    }
}

impl Share {
    /// The bytes that the connection's buffers may have: an equal part of the budget, as far as earlier
    /// connections have left it.
    pub(super) fn allowance(&self) -> usize {
        let connections = self.budget.connections.load(Ordering::Relaxed).max(1);
        let requested = self.budget.requested.load(Ordering::Relaxed);
        let left = MAX_OF_PROCESS.saturating_sub(requested) + self.requested;
        MAX_OF_CONNECTION
            .min(MAX_OF_PROCESS / connections)
            .min(left)
    }

    /// Records what the connection's buffers have been set to.
    pub(super) fn set(&mut self, bytes: usize) {
        let requested = &self.budget.requested;
        requested.fetch_add(bytes, Ordering::Relaxed);
        requested.fetch_sub(self.requested, Ordering::Relaxed);
        self.requested = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
        self.budget.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_share_the_budget_and_never_exceed_it() {
        let budget = Arc::new(Budget::default());
        let mut shares: Vec<Share> = (0..4).map(|_| budget.share()).collect();
        assert_eq!(shares[0].allowance(), MAX_OF_CONNECTION);
        shares.push(budget.share());
        assert_eq!(shares[0].allowance(), MAX_OF_PROCESS / 5);

        shares.truncate(1);
        assert_eq!(shares[0].allowance(), MAX_OF_CONNECTION);
        shares[0].set(MAX_OF_CONNECTION);
        // Setting it again replaces it.
        shares[0].set(MAX_OF_CONNECTION);
        assert_eq!(shares[0].allowance(), MAX_OF_CONNECTION);

        let mut total = MAX_OF_CONNECTION;
        for count in 2..200 {
            let mut share = budget.share();
            let allowance = share.allowance();
            assert!(allowance <= MAX_OF_PROCESS / count, "{count}: {allowance}");
            total += allowance;
            share.set(allowance);
            shares.push(share);
        }
        assert_eq!(total, MAX_OF_PROCESS);
        shares.clear();
        assert_eq!(budget.share().allowance(), MAX_OF_CONNECTION);
    }
}
