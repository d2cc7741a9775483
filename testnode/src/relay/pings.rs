//! Pings to the client, and validation of its pongs.

use std::collections::VecDeque;

/// Number of pings sent, and payloads of those without a pong yet.
#[derive(Default)]
pub(super) struct Pings {
    pub(super) pending: VecDeque<Vec<u8>>,
    pub(super) sent: u64,
    pub(super) answered: u64,
}

impl Pings {
    /// The payload of the next ping. It differs from the previous ones; its length is 0 to 125.
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
        self.pending.push_back(payload.clone());
        payload
    }

    /// Whether a pong is valid. Unsolicited pongs are valid. One pong may reply to several pings;
    /// it then carries the payload of the latest one (RFC 6455, section 5.5.3).
    pub(super) fn accept_pong(&mut self, payload: &[u8]) -> bool {
        if self.pending.is_empty() {
            return true;
        }
        let Some(position) = self.pending.iter().position(|pending| pending == payload) else {
            return false;
        };
        self.pending.drain(..=position);
        self.answered += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Pings;

    #[test]
    fn one_pong_may_reply_to_several_pings_but_not_with_another_payload() {
        let mut pings = Pings::default();
        assert!(pings.accept_pong(b"unsolicited"));
        let sent: Vec<_> = (0..4).map(|_| pings.next()).collect();
        assert!(!pings.accept_pong(b"another"));
        assert!(pings.accept_pong(&sent[1]));
        assert!(!pings.accept_pong(&sent[0]));
        assert!(pings.accept_pong(&sent[3]));
        assert_eq!((pings.sent, pings.answered), (4, 2));
        assert!(pings.pending.is_empty());
    }
}
