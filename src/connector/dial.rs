//! From a URL to a websocket: TCP connection, TLS, upgrade, each with a time limit of its own.

use super::Options;
use super::happy_eyeballs::{self, Candidate, Deadline};
use super::protocol::TargetData;
use super::websocket_halves::{Connection, Receiver, Sender, split};
use crate::relay::ByteStream;
use crate::system::keepalive;
use crate::tls::{self, Established, Fingerprint, TlsError, Wiped};
use crate::websocket::{Masking, Request, UpgradeError, upgrade};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{timeout, timeout_at};
use tungstenite::http::Uri;
use zeroize::Zeroizing;

/// Characters that are percent-encoded in a query value. pveproxy decodes percent-encoding only, and
/// truncates a value at a second `=`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Why there is no websocket.
#[derive(Debug, Error)]
pub enum DialError {
    /// The URL cannot be used. The message does not repeat it, because it may hold a ticket.
    #[error("cannot use the target's URL: {0}")]
    Url(&'static str),
    /// The fingerprint or the system's CA certificates cannot be used.
    #[error(transparent)]
    Trust(TlsError),
    /// No TCP connection.
    #[error("cannot connect to {peer}: {cause}")]
    Connect {
        /// Host and port.
        peer: String,
        /// The reason for each address.
        cause: String,
    },
    /// The TLS handshake failed.
    #[error("{peer}: {cause}")]
    Tls {
        /// Host and port.
        peer: String,
        /// Why.
        cause: TlsError,
    },
    /// The upgrade failed.
    #[error("{peer}: {cause}")]
    Upgrade {
        /// Host and port.
        peer: String,
        /// Why.
        cause: UpgradeError,
    },
    /// No answer.
    #[error("{peer}: no {what} within {limit:?}{hint}")]
    TimedOut {
        /// Host and port.
        peer: String,
        /// What was expected.
        what: &'static str,
        /// The time limit.
        limit: Duration,
        /// The likely cause, or empty.
        hint: &'static str,
    },
}

/// How a connection is protected, for log and record.
#[derive(Clone, Debug)]
pub(super) struct Protection {
    pub(super) cipher: String,
    /// The fingerprint of the certificate that the target presented.
    pub(super) fingerprint: Option<Fingerprint>,
    /// The address of this end.
    pub(super) local: Option<SocketAddr>,
}

fn peer_fingerprint(stream: &impl Established) -> Option<Fingerprint> {
    let certificates = stream.negotiated().peer_certificates()?;
    certificates.first().map(Fingerprint::of)
}

/// The endpoint of a target's API where websockets are opened.
pub(super) struct ApiEndpoint {
    data: TargetData,
    host: String,
    port: u16,
    /// None for `ws://`.
    tls: Option<tls::Client>,
}

/// The text in the place of the port. `http::Uri` does not distinguish an invalid port from none.
fn port_text(authority: &str) -> Option<&str> {
    let (_, after) = authority.rsplit_once(':')?;
    (!after.contains(']')).then_some(after)
}

impl ApiEndpoint {
    /// Checks the data of a command.
    pub(super) fn new(data: TargetData) -> Result<Self, DialError> {
        let uri: Uri = data
            .url
            .reveal()
            .parse()
            .map_err(|_| DialError::Url("it is not a URL"))?;
        let bracketed = uri.host().ok_or(DialError::Url("it has no host"))?;
        let host = bracketed
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let (default_port, secure) = match uri.scheme_str() {
            // qemu-server and pve-container use https:// in the URL of a websocket.
            Some("wss" | "https") => (443, true),
            Some("ws") => (80, false),
            _ => {
                return Err(DialError::Url(
                    "it begins with neither wss:// (or https://) nor ws://",
                ));
            }
        };
        let tls = if secure {
            let pin = data
                .fingerprint
                .as_deref()
                .map(str::parse::<Fingerprint>)
                .transpose();
            Some(tls::Client::new(pin.map_err(DialError::Trust)?).map_err(DialError::Trust)?)
        } else {
            if !host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
            {
                return Err(DialError::Url(
                    "unencrypted ws:// is for loopback addresses only",
                ));
            }
            None
        };
        let port = match uri
            .authority()
            .and_then(|authority| port_text(authority.as_str()))
        {
            None => default_port,
            Some(text) => text
                .parse()
                .map_err(|_| DialError::Url("its port is invalid"))?,
        };
        Ok(Self {
            data,
            host,
            port,
            tls,
        })
    }

    /// Host and port, as in a URL.
    pub(super) fn peer(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Opens a websocket. A ticket is added to the URL.
    pub(super) async fn dial(
        &self,
        ticket: Option<&str>,
        options: &Options,
    ) -> Result<(Sender, Receiver, Protection), DialError> {
        let peer = self.peer();
        let request = self.request(ticket)?;

        let tcp = self.connect(options).await?;

        let local = tcp.local_addr().ok();
        let (stream, protection, masking): (Connection, _, _) = match &self.tls {
            Some(client) => {
                let tcp = tls::buffered(tcp);
                let (stream, protection) = match ticket {
                    Some(_) => self.protect(client, tcp, local, options).await?,
                    // The worker's answers contain tickets and the session key.
                    None => self.protect(client, Wiped(tcp), local, options).await?,
                };
                (stream, protection, options.mask)
            }
            None => {
                let protection = Protection {
                    cipher: "UNENCRYPTED".to_owned(),
                    fingerprint: None,
                    local,
                };
                (Box::new(tcp), protection, Masking::Random)
            }
        };

        let limit = options.upgrade_timeout;
        let upgraded = timeout(limit, upgrade(stream, &request))
            .await
            .map_err(|_| {
                let hint = ": check that the socket behind it still exists on the target";
                self.timed_out("answer to the websocket upgrade", limit, hint)
            })?
            .map_err(|cause| DialError::Upgrade {
                peer: peer.clone(),
                cause,
            })?;
        let (sender, receiver) = split(upgraded, masking, self.tls.is_some());
        Ok((sender, receiver, protection))
    }

    /// The TLS handshake over a TCP connection.
    async fn protect<S: ByteStream + 'static>(
        &self,
        client: &tls::Client,
        tcp: S,
        local: Option<SocketAddr>,
        options: &Options,
    ) -> Result<(Connection, Protection), DialError> {
        let limit = options.handshake_timeout;
        let stream = timeout(limit, client.handshake(&self.host, tcp))
            .await
            .map_err(|_| self.timed_out("answer to the TLS handshake", limit, ""))?
            .map_err(|cause| DialError::Tls {
                peer: self.peer(),
                cause,
            })?;
        let protection = Protection {
            cipher: tls::describe(&stream),
            fingerprint: peer_fingerprint(&stream),
            local,
        };
        Ok((Box::new(stream), protection))
    }

    fn request(&self, ticket: Option<&str>) -> Result<Request, DialError> {
        let mut url = Zeroizing::new(self.data.url.reveal().to_owned());
        if let Some(ticket) = ticket {
            url.push_str("ticket=");
            url.extend(utf8_percent_encode(ticket, ENCODED));
        }
        let headers = self
            .data
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.reveal()));
        Request::new(&url, headers).map_err(|cause| DialError::Upgrade {
            peer: self.peer(),
            cause,
        })
    }

    /// Connects to the first address of the host that answers.
    async fn connect(&self, options: &Options) -> Result<TcpStream, DialError> {
        let failed = |cause: String| DialError::Connect {
            peer: self.peer(),
            cause,
        };
        let deadline = Deadline::within(options.connect_timeout);
        let addresses = timeout_at(deadline.at, lookup_host((self.host.as_str(), self.port)))
            .await
            .map_err(|_| self.timed_out("address from the resolver", deadline.limit, ""))?
            .map_err(|error| failed(error.to_string()))?;
        let candidates = addresses.map(Candidate::any_path).collect();
        let (stream, _) = happy_eyeballs::connect(candidates, deadline)
            .await
            .map_err(|failures| failed(failures.to_string()))?;
        // pveproxy reads everything at once, so a writer never has to wait for it.
        keepalive::enable_with_user_timeout(&stream, options.dead_peer_timeout)
            .map_err(|error| failed(error.to_string()))?;
        Ok(stream)
    }

    fn timed_out(&self, what: &'static str, limit: Duration, hint: &'static str) -> DialError {
        DialError::TimedOut {
            peer: self.peer(),
            what,
            limit,
            hint,
        }
    }
}
