//! What was observed on a connection at one moment.

use crate::system::tcp_info::TcpInfo;
use crate::system::tcp_options::BufferSizes;
use std::time::{Duration, Instant};

/// The shortest round trip of a path that is tuned. Paths within a site are shorter, also through
/// several switches and a busy hypervisor. Light in a fibre needs this time for 300 km and back.
const FAR: Duration = Duration::from_millis(3);

/// What was observed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) info: TcpInfo,
    pub(crate) buffers: BufferSizes,
    /// Bytes that were received and that the program has not read.
    pub(crate) unread: usize,
}

impl Sample {
    /// Whether the path is long enough to be tuned.
    pub(super) fn is_far(&self) -> bool {
        let shortest = self.info.min_round_trip;
        shortest.is_some_and(|shortest| shortest >= FAR)
    }

    /// Whether packets wait in the queues of the path for more than half of its shortest round trip.
    pub(super) fn is_queue_long(&self) -> bool {
        let shortest = self.info.min_round_trip.unwrap_or_default();
        self.info.round_trip > shortest * 3 / 2
    }
}
