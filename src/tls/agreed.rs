//! What a handshake has established.

use super::{Fingerprint, record};
use rustls::{CommonState, HandshakeKind, ProtocolVersion, SupportedCipherSuite};
use std::io;

/// The parameters of a connection.
#[derive(Clone, Debug)]
pub struct Agreed {
    pub(super) suite: SupportedCipherSuite,
    version: ProtocolVersion,
    /// Whether the handshake was complete, or resumed an earlier session.
    pub kind: Option<HandshakeKind>,
    /// The fingerprint of the peer's certificate.
    pub peer: Option<Fingerprint>,
}

impl Agreed {
    pub(super) fn new(state: &CommonState) -> io::Result<Self> {
        let suite = state.negotiated_cipher_suite();
        let version = state.protocol_version();
        let missing = || io::Error::other("the TLS library reports no cipher suite");
        Ok(Self {
            suite: suite.ok_or_else(missing)?,
            version: version.ok_or_else(missing)?,
            kind: state.handshake_kind(),
            peer: state
                .peer_certificates()
                .and_then(|chain| chain.first())
                .map(Fingerprint::of),
        })
    }

    /// The protocol version and the cipher suite, as in `TLSv1_3 TLS13_AES_128_GCM_SHA256`.
    pub(super) fn describe(&self) -> String {
        format!(
            "{} {}",
            self.version.as_str().unwrap_or("TLS"),
            self.suite.suite().as_str().unwrap_or("unknown cipher")
        )
    }

    /// A warning, if the cipher limits the amount of data.
    pub(super) fn limit_warning(&self) -> Option<String> {
        let amount = record::data_limit(self.suite)?;
        Some(format!(
            "{} can send {amount} at most over one connection, which then fails: {}",
            self.describe(),
            record::ADVICE
        ))
    }
}
