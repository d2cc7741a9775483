//! What source and target use on direct connections, because both support it.

use super::protocol::PlaneRequest;
use crate::direct::{LANES_PROTOCOL, OLDEST_PROTOCOL};
use crate::lanes::Compression;
use std::ops::RangeInclusive;

/// What both ends use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) protocol: u16,
    pub(super) compression: Compression,
}

impl Agreed {
    /// The oldest protocol, which every target has.
    pub(super) const OLDEST: Self = Self {
        protocol: OLDEST_PROTOCOL,
        compression: Compression::None,
    };

    /// The newest protocol in common if more than one lane or a compression is requested, otherwise the
    /// oldest one. `accepts`: the target accepts the requested compression. `log` is called with what
    /// was requested and is not used.
    pub(super) fn new(
        request: &PlaneRequest,
        common: &RangeInclusive<u16>,
        accepts: bool,
        mut log: impl FnMut(&str),
    ) -> Self {
        let has_lanes = *common.end() >= LANES_PROTOCOL;
        let wants_lanes = request.lanes().lanes > 1;
        let wants_compression = request.compression != Compression::None;
        if wants_lanes && !has_lanes {
            log("the target's pve-tunnel has no lanes: each stream uses one connection");
        }
        let compresses = wants_compression && has_lanes && accepts;
        if wants_compression && !compresses {
            log("the target's pve-tunnel does not accept compressed data: it is sent as it is");
        }
        Self {
            protocol: match wants_lanes || compresses {
                true => *common.end(),
                false => *common.start(),
            },
            compression: match compresses {
                true => request.compression,
                false => Compression::None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_protocol_is_used_only_for_what_it_adds() {
        let zstd = Compression::Zstd;
        for (request, newest, accepts, protocol, compression, lines) in [
            (json!({}), 2, true, 1, Compression::None, 0),
            (json!({ "lanes": 2 }), 2, true, 2, Compression::None, 0),
            (json!({ "lanes": 2 }), 1, true, 1, Compression::None, 1),
            (json!({ "compression": "zstd" }), 2, true, 2, zstd, 0),
            (
                json!({ "compression": "zstd" }),
                2,
                false,
                1,
                Compression::None,
                1,
            ),
            (
                json!({ "compression": "zstd" }),
                1,
                true,
                1,
                Compression::None,
                1,
            ),
            (
                json!({ "compression": "none" }),
                2,
                true,
                1,
                Compression::None,
                0,
            ),
            (
                json!({ "compression": "zstd", "lanes": 4 }),
                2,
                false,
                2,
                Compression::None,
                1,
            ),
            (
                json!({ "compression": "zstd", "lanes": 4 }),
                1,
                false,
                1,
                Compression::None,
                2,
            ),
        ] {
            let parsed: PlaneRequest = serde_json::from_value(request.clone()).unwrap();
            let mut logged = 0;
            let agreed = Agreed::new(&parsed, &(1..=newest), accepts, |_| logged += 1);
            let expected = Agreed {
                protocol,
                compression,
            };
            assert_eq!((agreed, logged), (expected, lines), "{request} {newest}");
        }
    }
}
