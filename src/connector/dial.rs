//! From a URL to a websocket: TCP connection, TLS, upgrade, each with a time limit of its own.

use super::Options;
use super::api_address::{AddressError, ApiAddress};
use super::happy_eyeballs::Deadline;
use super::protocol::{QUERY_VALUE, TargetData};
use super::websocket_halves::{Connection, Receiver, Sender, split};
use crate::system::keepalive;
use crate::tls::{self, Fingerprint, TlsError, TlsStream};
use crate::websocket::{Masking, Request, UpgradeError, upgrade};
use percent_encoding::utf8_percent_encode;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tungstenite::http::Uri;
use zeroize::Zeroizing;

/// How long a probe waits for the orderly end of its connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// A warning about the cipher, for the log.
    pub(super) warning: Option<String>,
    /// The address at which the target was reached.
    pub(super) remote: Option<SocketAddr>,
}

/// An established connection: TCP, and TLS where the URL has it.
struct Transport {
    stream: Connection,
    /// A second descriptor of its socket, to observe it while the stream is in use.
    socket: OwnedFd,
    protection: Protection,
}

/// An open websocket.
pub(super) struct Websocket {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    /// A second descriptor of its socket, to observe it while the websocket is in use.
    pub(super) socket: OwnedFd,
    pub(super) protection: Protection,
}

/// The endpoint of a target's API where websockets are opened.
pub(super) struct ApiEndpoint {
    data: TargetData,
    host: String,
    port: u16,
    /// Shared with the other endpoints of the tunnel.
    address: Arc<ApiAddress>,
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
    pub(super) fn new(data: TargetData, address: Arc<ApiAddress>) -> Result<Self, DialError> {
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
            address,
            tls,
        })
    }

    /// The host, IPv6 without brackets.
    pub(super) fn host(&self) -> &str {
        &self.host
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
    ) -> Result<Websocket, DialError> {
        let request = self.request(ticket)?;
        let carries_answers = ticket.is_none();
        let Transport {
            stream,
            socket,
            protection,
        } = self.establish(carries_answers, options).await?;
        let limit = options.upgrade_timeout;
        let upgraded = timeout(limit, upgrade(stream, &request))
            .await
            .map_err(|_| {
                let hint = ": check that the socket behind it still exists on the target";
                self.timed_out("answer to the websocket upgrade", limit, hint)
            })?
            .map_err(|cause| DialError::Upgrade {
                peer: self.peer(),
                cause,
            })?;
        let masking = match &self.tls {
            Some(_) => options.mask,
            None => Masking::Random,
        };
        let tls = self.tls.is_some();
        let (sender, receiver) = split(upgraded, masking, tls, options.ping_interval);
        Ok(Websocket {
            sender,
            receiver,
            socket,
            protection,
        })
    }

    /// Connects as [`dial`](Self::dial) does, up to and including the TLS handshake, and sends nothing.
    pub(super) async fn probe(&self, options: &Options) -> Result<Protection, DialError> {
        let mut transport = self.establish(false, options).await?;
        // The server has not received a request, so it loses nothing if this fails.
        let _ = timeout(CLOSE_TIMEOUT, transport.stream.shutdown()).await;
        Ok(transport.protection)
    }

    /// TCP connection and TLS handshake. The worker's answers contain tickets and the session key.
    async fn establish(
        &self,
        carries_answers: bool,
        options: &Options,
    ) -> Result<Transport, DialError> {
        let tcp = self.connect(options).await?;
        let protection = Protection {
            cipher: "UNENCRYPTED".to_owned(),
            fingerprint: None,
            local: tcp.local_addr().ok(),
            warning: None,
            remote: tcp.peer_addr().ok(),
        };
        match &self.tls {
            None => Ok(Transport {
                socket: self.second_descriptor(&tcp)?,
                stream: Box::new(tcp),
                protection,
            }),
            Some(client) => {
                self.protect(client, tcp, carries_answers, protection, options)
                    .await
            }
        }
    }

    /// TLS over a connection. A second attempt uses another one.
    async fn protect(
        &self,
        client: &tls::Client,
        tcp: TcpStream,
        carries_answers: bool,
        mut protection: Protection,
        options: &Options,
    ) -> Result<Transport, DialError> {
        let mut attempted = self.secure(client, tcp, options).await?;
        let second = attempted.as_ref().err();
        if let Some(second) = second.and_then(|cause| client.second_attempt(cause)) {
            let tcp = self.connect(options).await?;
            attempted = self.secure(&second, tcp, options).await?;
        }
        let stream = attempted.map_err(|cause| DialError::Tls {
            peer: self.peer(),
            cause,
        })?;
        protection.cipher = tls::describe(&stream);
        protection.fingerprint = stream.agreed().peer;
        protection.warning = stream.limit_warning();
        let socket = self.second_descriptor(stream.get_ref())?;
        let stream = match carries_answers {
            true => stream.wipe_after_reading(),
            false => stream,
        };
        Ok(Transport {
            stream: Box::new(stream),
            socket,
            protection,
        })
    }

    fn second_descriptor(&self, tcp: &TcpStream) -> Result<OwnedFd, DialError> {
        tcp.as_fd()
            .try_clone_to_owned()
            .map_err(|error| DialError::Connect {
                peer: self.peer(),
                cause: error.to_string(),
            })
    }

    /// One attempt of a TLS handshake, within its time limit.
    async fn secure(
        &self,
        client: &tls::Client,
        tcp: TcpStream,
        options: &Options,
    ) -> Result<Result<TlsStream<TcpStream>, TlsError>, DialError> {
        let limit = options.handshake_timeout;
        timeout(limit, client.handshake(&self.host, tcp))
            .await
            .map_err(|_| self.timed_out("answer to the TLS handshake", limit, ""))
    }

    fn request(&self, ticket: Option<&str>) -> Result<Request, DialError> {
        let mut url = Zeroizing::new(self.data.url.reveal().to_owned());
        if let Some(ticket) = ticket {
            url.push_str("ticket=");
            url.extend(utf8_percent_encode(ticket, QUERY_VALUE));
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

    async fn connect(&self, options: &Options) -> Result<TcpStream, DialError> {
        let failed = |cause: String| DialError::Connect {
            peer: self.peer(),
            cause,
        };
        let endpoint = (self.host.as_str(), self.port);
        let resolve = async {
            let found = lookup_host(endpoint).await?;
            Ok::<Vec<_>, io::Error>(found.collect())
        };
        let deadline = Deadline::within(options.connect_timeout);
        let connected = self.address.connect(endpoint, deadline, resolve).await;
        let stream = connected.map_err(|error| match error {
            AddressError::Resolver(limit) => self.timed_out("address from the resolver", limit, ""),
            AddressError::Failed(cause) => failed(cause),
        })?;
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
