//! A direct connection to the listener: what it needs, and how it is opened.

use super::Options;
use super::connect_error::ConnectError;
use super::happy_eyeballs::{Candidate, Deadline};
use crate::direct::handshake::Purpose;
use crate::direct::message::Open;
use crate::direct::{HandshakeError, Link, SessionKey};
use crate::plane::Plane;
use crate::system::keepalive;
use crate::tls::{Client, Fingerprint, Identity, Peer, TlsError, describe};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};

/// What the source needs to connect to a listener.
pub(super) struct Credentials {
    pub(super) plane: Plane,
    pub(super) protocol: u16,
    key: SessionKey,
    /// The listener sends every byte of the heartbeat back.
    pub(super) echo: bool,
    /// Only for `tls`.
    tls: Option<TlsCredentials>,
    connect_timeout: Duration,
    handshake_timeout: Duration,
}

struct TlsCredentials {
    client: Client,
    /// The fingerprint of the listener's certificate.
    pin: Fingerprint,
    /// The fingerprint of the source's certificate.
    own: Fingerprint,
}

impl Credentials {
    /// For a listener that was opened for this identity. `tcp` has none.
    pub(super) fn new(
        open: &Open,
        identity: Option<&Identity>,
        options: &Options,
    ) -> Result<Self, TlsError> {
        let tls = match identity {
            Some(identity) => {
                let announced = open.fingerprint.as_deref().unwrap_or_default();
                let pin: Fingerprint = announced.parse()?;
                Some(TlsCredentials {
                    client: Client::direct(identity, pin)?,
                    pin,
                    own: identity.fingerprint(),
                })
            }
            None => None,
        };
        Ok(Self {
            plane: open.plane,
            protocol: open.protocol,
            key: open.key.clone(),
            echo: open.echo,
            tls,
            connect_timeout: options.connect_timeout,
            handshake_timeout: options.handshake_timeout,
        })
    }

    /// The fingerprints of both ends' certificates, the listener's first. None for `tcp`.
    pub(super) fn fingerprints(&self) -> Option<(Fingerprint, Fingerprint)> {
        self.tls.as_ref().map(|tls| (tls.pin, tls.own))
    }

    /// Makes a link to a forward of a TCP connection; also returns its cipher, for the log. Without a
    /// deadline for the whole, each step has a time limit of its own.
    pub(super) async fn open_link(
        &self,
        stream: TcpStream,
        endpoint: SocketAddr,
        purpose: Purpose,
        dead_peer_timeout: Duration,
        whole: Option<Deadline>,
    ) -> Result<(Link, String), ConnectError> {
        keepalive::enable(&stream, dead_peer_timeout)?;
        let step = || whole.unwrap_or_else(|| Deadline::within(self.handshake_timeout));
        let timed_out = |what, limit| ConnectError::TimedOut { what, limit };
        let (mut link, cipher) = match &self.tls {
            Some(tls) => {
                let Deadline { at, limit } = step();
                let host = endpoint.ip().to_string();
                let stream = timeout_at(at, tls.client.handshake(&host, stream))
                    .await
                    .map_err(|_| timed_out("answer to the TLS handshake", limit))??;
                let cipher = describe(&stream);
                (Link::Tls(Box::new(stream)), cipher)
            }
            None => (Link::clear(stream)?, "UNENCRYPTED".into()),
        };
        let Deadline { at, limit } = step();
        timeout_at(at, link.respond(&self.key, purpose, self.protocol))
            .await
            .map_err(|_| timed_out("answer to the handshake", limit))?
            .map_err(from_handshake)?;
        Ok((link, cipher))
    }
}

/// With TLS 1.3, a target that refuses the source's certificate reports it only where the handshake of
/// the direct connection is expected.
fn from_handshake(cause: HandshakeError) -> ConnectError {
    if let HandshakeError::Io(error) = &cause {
        if let Some(cause) = TlsError::from_alert(Peer::Target, error) {
            return ConnectError::Tls(cause);
        }
    }
    ConnectError::Handshake(cause)
}

/// Where the listener is, and what a connection to it needs.
pub(super) struct DirectEndpoint {
    pub(super) credentials: Credentials,
    pub(super) candidate: Candidate,
    pub(super) dead_peer_timeout: Duration,
}

impl DirectEndpoint {
    pub(super) fn address(&self) -> SocketAddr {
        self.candidate.endpoint
    }

    pub(super) async fn connect(&self, purpose: Purpose) -> Result<Link, ConnectError> {
        let limit = self.credentials.connect_timeout;
        let stream = timeout(limit, self.candidate.connect())
            .await
            .map_err(|_| ConnectError::TimedOut {
                what: "TCP connection",
                limit,
            })??;
        let opened = self.credentials.open_link(
            stream,
            self.address(),
            purpose,
            self.dead_peer_timeout,
            None,
        );
        Ok(opened.await?.0)
    }
}
