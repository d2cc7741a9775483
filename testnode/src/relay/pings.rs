//! Pings to the client, and whether its pongs are right.

use std::collections::VecDeque;

/// Pings sent, and those whose pong is due.
#[derive(Default)]
pub(super) struct Pings {
    pub(super) due: VecDeque<Vec<u8>>,
    pub(super) sent: u64,
    pub(super) answered: u64,
}

impl Pings {
    /// A payload unlike the last ones, of any length from 0 to 125.
    pub(super) fn next(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.sent * 25 % 126).unwrap_or(0);
        let payload: Vec<u8> = self
            .sent
            .to_be_bytes()
            .iter()
            .rev()
            .copied()
            .cycle()
            .take(length)
            .collect();
        self.sent += 1;
        self.due.push_back(payload.clone());
        payload
    }

    /// Whether a pong is the right one; those nobody asked for are allowed (RFC 6455, 5.5.3).
    pub(super) fn answer(&mut self, payload: &[u8]) -> bool {
        match self.due.pop_front() {
            None => true,
            Some(due) => {
                self.answered += 1;
                due == payload
            }
        }
    }
}
