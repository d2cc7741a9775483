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

    /// Whether a pong is the right one; those nobody asked for are allowed, and so is one for
    /// several pings, with the payload of the latest (RFC 6455, 5.5.3).
    pub(super) fn answer(&mut self, payload: &[u8]) -> bool {
        if self.due.is_empty() {
            return true;
        }
        let Some(position) = self.due.iter().position(|due| due == payload) else {
            return false;
        };
        self.due.drain(..=position);
        self.answered += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Pings;

    #[test]
    fn one_pong_may_answer_several_pings_but_not_with_another_payload() {
        let mut pings = Pings::default();
        assert!(pings.answer(b"unasked"));
        let sent: Vec<_> = (0..4).map(|_| pings.next()).collect();
        assert!(!pings.answer(b"another"));
        assert!(pings.answer(&sent[1]));
        assert!(!pings.answer(&sent[0]));
        assert!(pings.answer(&sent[3]));
        assert_eq!((pings.sent, pings.answered), (4, 2));
        assert!(pings.due.is_empty());
    }
}
