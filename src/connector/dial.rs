//! From a URL to a websocket: connect, TLS, upgrade, each under its own limit.

use super::Options;
use super::protocol::TargetData;
use super::wire::{Connection, Receiver, Sender, split};
use crate::relay::liveness;
use crate::tls::{self, Established, Fingerprint, TlsError};
use crate::websocket::{Masking, Request, UpgradeError, upgrade};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tungstenite::http::Uri;
use zeroize::Zeroizing;

/// pveproxy decodes percent-encoding and nothing else, and cuts a value at a second `=`.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Why there is no websocket.
#[derive(Debug, Error)]
pub enum DialError {
    /// The URL cannot be used. It may hold a ticket, so it is not repeated.
    #[error("cannot use the target's URL: {0}")]
    Url(&'static str),
    /// The fingerprint or the system's CAs cannot be used.
    #[error(transparent)]
    Trust(TlsError),
    /// No TCP connection.
    #[error("cannot connect to {peer}: {cause}")]
    Connect {
        /// Host and port.
        peer: String,
        /// The system's reason.
        cause: io::Error,
    },
    /// No TLS.
    #[error("{peer}: {cause}")]
    Tls {
        /// Host and port.
        peer: String,
        /// What TLS says.
        cause: TlsError,
    },
    /// No websocket.
    #[error("{peer}: {cause}")]
    Upgrade {
        /// Host and port.
        peer: String,
        /// What the server says.
        cause: UpgradeError,
    },
    /// Nothing at all.
    #[error("{peer}: no {what} within {limit:?}{hint}")]
    TimedOut {
        /// Host and port.
        peer: String,
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
        /// What that may mean.
        hint: &'static str,
    },
}

/// What protects a connection, for log and record.
#[derive(Clone, Debug)]
pub(super) struct Protection {
    pub(super) cipher: String,
    /// Of the certificate that the target presented.
    pub(super) fingerprint: Option<Fingerprint>,
    /// Our end.
    pub(super) local: Option<SocketAddr>,
}

fn peer_fingerprint(stream: &impl Established) -> Option<Fingerprint> {
    let certificates = stream.agreed().peer_certificates()?;
    certificates.first().map(Fingerprint::of)
}

/// A place to open websockets at.
pub(super) struct Target {
    data: TargetData,
    host: String,
    port: u16,
    /// None for `ws://`.
    tls: Option<tls::Client>,
}

/// What stands where an authority has its port; `http::Uri` cannot tell a wrong port from none.
fn port_text(authority: &str) -> Option<&str> {
    let (_, after) = authority.rsplit_once(':')?;
    (!after.contains(']')).then_some(after)
}

impl Target {
    /// Checks what a command says about its target.
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
            // qemu-server and pve-container write https:// for a websocket's place.
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
                .map_err(|_| DialError::Url("its port is not one"))?,
        };
        Ok(Self {
            data,
            host,
            port,
            tls,
        })
    }

    /// Host and port as in a URL.
    pub(super) fn peer(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Opens a websocket, with a ticket added to the URL where one is given.
    pub(super) async fn dial(
        &self,
        ticket: Option<&str>,
        options: &Options,
    ) -> Result<(Sender, Receiver, Protection), DialError> {
        let peer = self.peer();
        let request = self.request(ticket)?;

        let limit = options.connect_timeout;
        let tcp = timeout(limit, self.connect(limit, options.dead_peer_timeout))
            .await
            .map_err(|_| self.timed_out("TCP connection", limit, ""))?
            .map_err(|cause| DialError::Connect {
                peer: peer.clone(),
                cause,
            })?;

        let local = tcp.local_addr().ok();
        let (stream, protection, masking): (Connection, _, _) = match &self.tls {
            Some(client) => {
                let limit = options.handshake_timeout;
                let stream = timeout(limit, client.handshake(&self.host, tls::wire(tcp)))
                    .await
                    .map_err(|_| self.timed_out("answer to the TLS handshake", limit, ""))?
                    .map_err(|cause| DialError::Tls {
                        peer: peer.clone(),
                        cause,
                    })?;
                let protection = Protection {
                    cipher: tls::describe(&stream),
                    fingerprint: peer_fingerprint(&stream),
                    local,
                };
                (Box::new(stream), protection, options.mask)
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
                let hint = ": does the socket it should reach still exist on the target?";
                self.timed_out("answer to the websocket upgrade", limit, hint)
            })?
            .map_err(|cause| DialError::Upgrade {
                peer: peer.clone(),
                cause,
            })?;
        let (sender, receiver) = split(upgraded, masking, self.tls.is_some());
        Ok((sender, receiver, protection))
    }

    fn request(&self, ticket: Option<&str>) -> Result<Request, DialError> {
        let mut url = Zeroizing::new(self.data.url.reveal().to_owned());
        if let Some(ticket) = ticket {
            url.push_str("ticket=");
            url.extend(utf8_percent_encode(ticket, VALUE));
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

    /// Tries every address of the host in the resolver's order, each for its share of `limit`, so
    /// that one that does not answer leaves time for the next.
    async fn connect(&self, limit: Duration, dead_peer: Duration) -> io::Result<TcpStream> {
        let addresses: Vec<SocketAddr> = lookup_host((self.host.as_str(), self.port))
            .await?
            .collect();
        let share = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // pveproxy reads all that comes, so that a writer never has to wait for it.
                    liveness::expect_progress(&stream, dead_peer)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => {
                    let text = format!("no answer from {} within {share:?}", address.ip());
                    last = io::Error::new(io::ErrorKind::TimedOut, text);
                }
            }
        }
        Err(last)
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
